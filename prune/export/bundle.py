"""A folder that detects on its own: the model, what it expects, a script, and figures about it."""

from __future__ import annotations

import ast
import json
import platform
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime

from prune.common.visible import markdown, visible
from prune.export import bundle_detect
from prune.export.facts import PREPROCESSING
from prune.runtimes.compare import latencies_ms

MODEL = "model.onnx"
ROUNDS = 10  # timed runs; a large network takes half a second for each
DETECTION: dict[str, object] = {"confidence": 0.25, "iou": 0.45, "max_detections": 300}


def complete(folder: Path, *, rounds: int = ROUNDS) -> None:
    """Write what belongs beside the model in `folder`, from the model's own metadata.

    Args:
        folder: holds MODEL, exported for one image a run, with decoded boxes.
        rounds: timed runs.

    Raises:
        InputError: the model cannot be timed here.
    """
    facts = {
        entry.key: entry.value
        for entry in onnx.load(folder / MODEL, load_external_data=False).metadata_props
    }
    names: list[str] = list(ast.literal_eval(facts["names"]).values())
    milliseconds = latencies_ms([folder / MODEL], rounds=rounds)[folder / MODEL]
    size = (folder / MODEL).stat().st_size
    texts = {
        "labels.txt": "".join(f"{visible(' '.join(name.split()))}\n" for name in names),
        "preprocess.json": json.dumps(_preprocessing(facts), indent=2) + "\n",
        "detect.py": Path(bundle_detect.__file__).read_text(encoding="utf-8"),
        "README.md": _readme(facts, names=names, size=size, milliseconds=milliseconds),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _preprocessing(facts: Mapping[str, str]) -> dict[str, object]:
    return {
        "size": ast.literal_eval(facts["imgsz"]),  # height, width
        "any_size": facts["dynamic"] == "True",
        "stride": int(facts["stride"]),
        **PREPROCESSING,
        **DETECTION,
    }


_README = """\
# Detector of {classes}

    pip install onnxruntime numpy pillow
    python detect.py photo.jpg --out boxed.jpg

prints one JSON line per box: corners in pixels, class, name, confidence. `--conf` and `--iou` set
the thresholds.

| | |
|---|---|
| file | {size:,} bytes{half} |
| parameters | {params:,} |
| MACs | {macs:,} at {height} x {width} |
| latency | {milliseconds:.1f} ms per image, median of {rounds} runs |
| measured on | {machine} |
| accuracy | {accuracy} |

`model.onnx` takes `images`, {shape}, RGB in 0..1, and gives `output`, one row per box:
centre x, centre y, width, height in pixels of the padded image, objectness, class probabilities.
`preprocess.json` says how an image becomes `images`; `labels.txt` names the classes by line.
Made by detector-prune {version}{date}.
"""


def _readme(facts: Mapping[str, str], *, names: list[str], size: int, milliseconds: float) -> str:
    height, width = ast.literal_eval(facts["imgsz"])
    any_size = facts["dynamic"] == "True"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return _README.format(
        classes=", ".join(map(markdown, names[:5])) + more,
        size=size,
        half=", weights in half precision" if facts["half"] == "True" else "",
        params=int(facts["params"]),
        macs=int(facts["macs"]),
        height=height,
        width=width,
        milliseconds=milliseconds,
        rounds=ROUNDS,
        machine=_machine(),
        accuracy=_accuracy(json.loads(facts["prune"])["map"]),
        shape="[batch, 3, height, width]" if any_size else f"[1, 3, {height}, {width}]",
        version=facts["version"],
        date=f", {facts['date']}" if "date" in facts else "",
    )


def _machine() -> str:
    return f"{platform.machine()} {platform.system()}, ONNX Runtime {onnxruntime.__version__}"


def _accuracy(metrics: Mapping[str, float] | None) -> str:
    if not metrics:
        return "unknown here: the checkpoint has no metrics; `prune val` measures them"
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()) + " (validation)"
