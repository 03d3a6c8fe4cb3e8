"""The metadata of an exported file: what YOLO tools look for, and our own."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from prune import __version__
from prune.checkpoint import Checkpoint, network_id
from prune.core.cost.macs import count
from prune.data.frames import GREY
from prune.errors import InputError
from prune.export.exporters import Job
from prune.models.darknet import Darknet

FORMAT = "prune-onnx/1"
RECORDED = (
    "command",
    "criterion",
    "activation",
    "macs",
    "params",
)  # of a history entry; plans are long
PREPROCESSING: dict[str, object] = {
    "letterbox": True,  # scaled by one factor, centred
    "pad": GREY,  # of 255, in all three channels
    "scale": 1 / 255,
    "colours": "RGB",
    "layout": "NCHW",
}


def provenance(source: Checkpoint) -> dict[str, object]:
    """Return where a network comes from: what was done to it, in short, and its metrics, if known.

    Returns:
        `history`, a list, and `map`: the metrics by name that training gave these weights on its
        validation split; None where something was done to them since.
    """
    history = [{key: entry[key] for key in RECORDED if entry.get(key)} for entry in source.history]
    metrics = source.history[-1].get("scores") if source.history else None
    return {"history": history, "map": metrics or None}


def facts(
    net: Darknet, job: Job, *, names: Sequence[str], source: str, about: Mapping[str, object]
) -> dict[str, str]:
    """Describe a file, under the keys and in the spelling that YOLO tools look for.

    There is no license among them: the owner of the weights decides it.

    Args:
        net: what is exported, with nothing folded.
        job: how.
        names: the classes.
        source: SHA-256 of the checkpoint.
        about: what `provenance` gave.
    """
    batch, _, height, width = job.shape
    cost = count(net, (1, 3, height, width))
    own = {"cfg_sha256": network_id(net.cfg_text()), "preprocessing": PREPROCESSING, **about}
    return {
        "format": FORMAT,
        "version": __version__,
        "description": f"detector of {len(names)} classes, a {_family(net)} network",
        "author": "detector-prune",
        **_date(),
        "task": "detect",
        "names": str(dict(enumerate(names))),
        "stride": str(net.stride),
        "imgsz": str([height, width]),
        "batch": str(batch),
        "channels": "3",
        "dynamic": str(bool(job.open_shapes)),
        "decoded": str(job.outputs == ("output",)),
        "params": str(cost.params),
        "macs": str(cost.macs),
        "source_sha256": source,
        "prune": json.dumps(own),
    }


def _family(net: Darknet) -> str:
    implicit = any(section.kind.startswith("implicit") for section in net.sections)
    return "YOLOR" if implicit else "Darknet"


def _date() -> dict[str, str]:
    """Return the date that SOURCE_DATE_EPOCH sets; without it a file has none.

    Equal networks give equal files then (https://reproducible-builds.org/specs/source-date-epoch).

    Raises:
        InputError: it is no number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return {}
    try:
        date = datetime.fromtimestamp(int(epoch), timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"SOURCE_DATE_EPOCH is {epoch!r}; it must be seconds since 1970, e.g. 1767225600"
        ) from None
    return {"date": date.isoformat(timespec="seconds")}
