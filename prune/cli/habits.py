"""What an unknown word means: a slip of the fingers, or the word of another tool."""

from __future__ import annotations

import difflib
from collections.abc import Collection

# Below this similarity a suggestion is more often wrong than right, and none is made.
_SIMILAR = 0.8

# Commands of other tools, and ours. What is meant is certain, whatever the spelling is close to.
COMMANDS = {
    "benchmark": "bench",
    "compare": "diff",
    "completions": "completion",
    "convert": "whole",
    "eval": "val",
    "evaluate": "val",
    "finetune": "train",
    "fine-tune": "train",
    "fit": "train",
    "infer": "detect",
    "info": "show",
    "inspect": "show",
    "onnx": "export",
    "predict": "detect",
    "summary": "show",
    "test": "val",
    "validate": "val",
}

_IMAGES_ARE_WRITTEN = "images are written into the run's folder, not shown"
_NO_AUGMENTED_TEST = "test-time augmentation is not supported"
_PROJECT = "the folder is --project, and --name the run's own folder in it"

# "OPTION" for every command that lacks it, or "COMMAND OPTION" for one.
_OPTIONS = {
    "--adam": "the optimizer is set in the file of --hyp, e.g. optimizer: adamw",
    "--augment": _NO_AUGMENTED_TEST,
    "--cache-images": "write --cache",
    "--cos-lr": "the learning rate follows a cosine unless --schedule says otherwise",
    "--end2end": "write prune export --nms",
    "--evolve": "hyper-parameters are not searched; they are set in the file of --hyp",
    "--grid": "boxes are decoded inside the file unless --raw is given",
    "--include": "write --format, e.g. --format onnx",
    "--local-rank": "torchrun passes it on through the environment",
    "--logdir": _PROJECT,
    "--model": "write --weights",
    "--noautoanchor": "anchors stay as they are unless --autoanchor is given",
    "--notest": "write --noval",
    "--rect": "rectangles are what prune val uses; training fits images into --img-size",
    "--save-dir": _PROJECT,
    "--save-json": "write --json",
    "--simplify": "every ONNX file is simplified",
    "--topk-all": "write --max-det",
    "--view-img": _IMAGES_ARE_WRITTEN,
    "--show": _IMAGES_ARE_WRITTEN,
    "detect --output": _PROJECT,
    "export --int8": "export the model, then run prune quantize on the file",
    "export --iou-thres": "the thresholds are inputs of a file that is exported with --nms",
    "export --conf-thres": "the thresholds are inputs of a file that is exported with --nms",
    "global --flops": "write --macs; one MAC is two FLOPs",
    "global --amount": "write --macs or --params, the fraction to keep, e.g. --macs 0.5",
}


def answer(command: str, option: str) -> str:
    """Say where the thing is that an unknown option of a command means, or nothing."""
    own = _hyper_parameter(option) if command in ("train", "auto") else ""
    return own or table_answer(command, option)


def table_answer(command: str, option: str) -> str:
    """Say what stands in the table of other tools' options, or nothing."""
    return _OPTIONS.get(f"{command} {option}") or _OPTIONS.get(option) or ""


def suggestion(word: str, known: Collection[str]) -> str:
    """Return the one name that a mistyped word can only mean, or nothing."""
    begun = [name for name in known if len(word) > 4 and name.startswith(word)]
    if len(begun) == 1:
        return begun[0]
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=_SIMILAR)), "")


def _hyper_parameter(option: str) -> str:
    from prune.common.hyperparameters import CHOICES, SCRATCH

    key = option.removeprefix("--").replace("-", "_")
    if key not in SCRATCH:
        return ""
    value = CHOICES[key][-1] if key in CHOICES else f"{SCRATCH[key]:g}"
    return f"it is set in the file of --hyp, e.g. {key}: {value}"
