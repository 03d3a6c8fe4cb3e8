"""What `prune auto` is asked for, as it is typed and as a run's journal records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prune.checkpoint import Checkpoint
from prune.checkpoint.reading import Names
from prune.common.amounts import read_latency
from prune.common.choices import ACTIVATIONS, LATENCY_RUNTIMES
from prune.common.dimensions import SIDE
from prune.common.schema import Field, expect, flag, listed, mapping, number, text, whole
from prune.common.size import Size
from prune.errors import InputError
from prune.runtimes.machine import threads_of
from prune.train.config import TrainConfig

KEEP = "keep"  # an activation that leaves every convolution its own


@dataclass(frozen=True)
class AutoConfig:
    """What a run is asked for; the options of `prune auto`.

    Attributes:
        weights: the trained detector: a checkpoint, or public weights.
        data: a data set with training and validation images.
        latency: time per image that is requested: a fraction of the detector's own, such as 0.4, or
            milliseconds, such as "20ms".
        cfg, names, decoding: how public weights are read, see `checkpoint.reading.reading_of`.
        max_drop: mAP@.5:.95 that may be lost in all, in points (hundredths), from 0.
        int8: whether the result is also quantised.
        runtime: "onnxruntime" or "openvino"; None for onnxruntime.
        threads: inference threads; None and 0 for one per core.
        img_size: height and width of images in pixels; None: the checkpoint's.
        depth: residual blocks to remove; "auto" tries numbers.
        epochs: of the fine-tuning, from 1.
        activation: activation of all convolutions; "keep" leaves their own; None: relu with `int8`,
            else keep.
        training: how the pruned model is fine-tuned, beside what the run itself decides.
        train: the same as words of the command line, for the journal.
        device: "", "cpu" or the number of a GPU.
        seed: of all that is drawn at random.
        project, name: the folder of runs, and the run's own in it.
        exist_ok: write into an existing folder instead of name2, name3, ...
    """

    weights: Path
    data: Path
    latency: float | str
    cfg: Path | None = None
    names: Names | None = None
    decoding: str | None = None
    max_drop: float = 1.0
    int8: bool = False
    runtime: str | None = None
    threads: int | None = None
    img_size: Size | None = None
    depth: int | str = "auto"
    epochs: int = 50
    activation: str | None = None
    training: TrainConfig = field(default_factory=TrainConfig)
    train: tuple[str, ...] = ()
    device: str = ""
    seed: int = 0
    project: Path = Path("runs/auto")
    name: str = "exp"
    exist_ok: bool = False


@dataclass(frozen=True)
class Request:
    """A config with every choice made, as the journal records it.

    Attributes:
        weights: the trained detector, a checkpoint of ours.
        data: its data set.
        latency: a fraction of the dense network's time, or milliseconds; see `is_share`.
        is_share: whether `latency` is a fraction.
        int8: whether the file may be in INT8.
        max_drop: mAP@.5:.95 that may be lost, in points (hundredths).
        runtime: where it is to be fast.
        threads: of a run.
        imgsz: height and width of images.
        epochs: of the fine-tuning.
        activation: activation of all convolutions; "" leaves their own.
        depth: residual blocks to remove; "auto" tries numbers.
        training: more options of `prune train`, as words.
        device: for all stages.
        seed: of everything.
        started_in: the working folder of the first start, "" where it is not known: paths in the
            data's description and in `training` may be relative to it.
    """

    weights: Path
    data: Path
    latency: float
    is_share: bool
    int8: bool
    max_drop: float
    runtime: str
    threads: int
    imgsz: Size
    epochs: int
    activation: str
    depth: str
    training: tuple[str, ...]
    device: str
    seed: int
    started_in: str = ""

    def document(self) -> dict[str, object]:
        """Return the values of the journal."""
        return {**vars(self), "imgsz": self.imgsz.plain}


def request(config: AutoConfig, found: Checkpoint) -> Request:
    """Make every choice that a config leaves open.

    Args:
        config: what is asked for.
        found: the checkpoint in its weights.

    Raises:
        InputError: a value that no run can have.
    """
    amount, is_share = read_latency(config.latency)
    if not config.max_drop >= 0:
        raise InputError(f"max-drop is {config.max_drop}; it is in mAP points, e.g. 1.0")
    activation = config.activation or ("relu" if config.int8 else KEEP)
    if activation not in (KEEP, *ACTIVATIONS):
        known = ", ".join((KEEP, *ACTIVATIONS))
        raise InputError(f"activation is {activation!r}; it can be {known}")
    size = config.img_size or found.imgsz
    return Request(
        weights=config.weights.resolve(),
        data=config.data.resolve(),
        latency=amount,
        is_share=is_share,
        int8=config.int8,
        max_drop=config.max_drop,
        runtime=config.runtime or LATENCY_RUNTIMES[0],
        threads=threads_of(config.threads or 0),
        imgsz=size,
        epochs=config.epochs,
        activation="" if activation == KEEP else activation,
        depth=str(config.depth),
        training=config.train,
        device=config.device,
        seed=config.seed,
        started_in=str(Path.cwd()),
    )


def read_request(document: Mapping[str, Any], *, where: Path) -> Request:
    """Read what a journal records, as strictly as options are read.

    Raises:
        InputError: a value that no run can have, named by its key.
    """
    expect(document, _REQUEST, where=f"{where} is damaged", key="wish")
    if (size := Size.read(document["imgsz"])) is None:
        raise InputError(f"{where}: wish.imgsz is a list of more than two numbers")
    paths = {name: Path(document[name]) for name in ("weights", "data")}
    words = {"imgsz": size, "training": tuple(document["training"])}
    return Request(**{**document, **paths, **words})


_REQUEST = mapping(
    {
        "weights": text(),
        "data": text(),
        "latency": number(0, 1e9, above=True),
        "is_share": flag(),
        "int8": flag(),
        "max_drop": number(0, 1e9),
        "runtime": text(choices=LATENCY_RUNTIMES),
        "threads": whole(1, 4096),
        "imgsz": Field((int, list), "one or two whole numbers", 1, SIDE, item=whole(1, SIDE)),
        "epochs": whole(1),
        "activation": text(choices=("", *ACTIVATIONS)),
        "depth": text(),
        "training": listed(text()),
        "device": text(),
        "seed": whole(0),
        "started_in": text().or_missing(),
    },
    closed=True,
)


def tuning(requested: Request, training: TrainConfig, *, cut: Path, folder: Path) -> TrainConfig:
    """Return how the pruned model is fine-tuned, with the uncut detector as teacher.

    Args:
        requested: the run's.
        training: what else was asked for.
        cut: the pruned model.
        folder: the folder of the fine-tuning.
    """
    return replace(
        training,
        weights=cut,
        pt=True,
        teacher=requested.weights,
        data=requested.data,
        img_size=requested.imgsz,
        epochs=requested.epochs,
        activation=requested.activation or None,
        seed=requested.seed,
        device=requested.device,
        project=folder.parent,
        name=folder.name,
        exist_ok=True,
        working_folder=Path(requested.started_in) if requested.started_in else None,
    )
