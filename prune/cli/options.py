"""Options of several commands, under the names that users of YOLO are used to."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prune.common.dimensions import SIDE
from prune.common.layer_ranges import is_index
from prune.common.size import Size

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def weights(parser: argparse.ArgumentParser, *, default: str | None = "whole_model.pt") -> None:
    """Add --weights, one checkpoint."""
    parser.add_argument(
        "--weights",
        type=Path,
        default=Path(default) if default else None,
        required=default is None,
        metavar="FILE",
        help="checkpoint to read" + (f" (default ./{default})" if default else ""),
    )


IMAGE_SIZE = ("--img-size", "--imgsz", "--img")


def image_size(parser: argparse.ArgumentParser) -> None:
    """Add --img-size; None means the checkpoint's own size."""
    parser.add_argument(
        *IMAGE_SIZE,
        type=size_of,
        default=None,
        metavar="H [W]",
        help="image size in pixels: one number for a square, or height and width, each a multiple "
        "of the network's stride (default: the checkpoint's)",
    )


class TwoNumbers(Size):
    """A size of which both sides were typed."""


def size_of(text: str) -> Size:
    """Read 320 or 288x352 (height x width), as an argparse type; see also `with_sizes_joined`."""
    sides = re.split(r"[x,\s]+", text.strip("[]() ").lower())
    numbers = [int(side) if re.fullmatch("[0-9]{1,9}", side) else 0 for side in sides]
    found = Size.read(numbers)  # None: more than two
    if found is None or not all(1 <= side <= SIDE for side in found):
        raise argparse.ArgumentTypeError(
            f"{text.replace(',', ' ')!r} is no image size; write one number of pixels for a square "
            f"or height and width, up to {SIDE}, e.g. 320 or 288 352"
        )
    return found if len(sides) == 1 else TwoNumbers(*found)


def with_sizes_joined(words: Sequence[str]) -> list[str]:
    """Join the numbers behind --img-size: argparse would take what follows them, a file, as well.

    `--img-size 288 352 a.pt` becomes `--img-size 288,352 a.pt`.
    """
    joined: list[str] = []
    for word in words:
        before = "=".join(joined[-2:])  # "--img-size=288", however it was written
        if word.isdecimal() and _ENDS_IN_SIZE.search(before):
            joined[-1] = f"{joined[-1]},{word}"
        else:
            joined.append(word)
    return joined


_ENDS_IN_SIZE = re.compile(rf"(^|=)({'|'.join(IMAGE_SIZE)})=[\d,]+$", re.ASCII)


def path_or_none(text: str) -> Path | None:
    """Read a path; YOLO users write --weights '' for none."""
    return Path(text) if text else None


def as_typed(name: str) -> str:
    """Return the option that argparse keeps under this name."""
    return "--" + name.replace("_", "-")


def natural(text: str) -> int:
    """Read a whole number from 0 on, as an argparse type; up to 2**63, what generators take."""
    if not text.isdecimal() or len(text) > 19 or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 0 on")
    return int(text)


def positive(text: str) -> int:
    """Read a whole number from 1 on, as an argparse type."""
    if natural(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be at least 1")
    return int(text)


def up_to(most: int) -> Callable[[str], int]:
    """Make an argparse type that reads a whole number from 1 to `most`."""

    def read(text: str) -> int:
        if positive(text) > most:
            raise argparse.ArgumentTypeError(f"{text!r} must be at most {most:,}")
        return int(text)

    return read


def depth(text: str) -> str:
    """Read a number of residual blocks, or auto, as an argparse type."""
    if text != "auto" and not is_index(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of blocks, or auto")
    return text


def seed(parser: argparse.ArgumentParser, *, of: str = "") -> None:
    """Add --seed; `of` names what is drawn."""
    text = f"{of} (default 0)" if of else "default 0"
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help=text)


def batch_size(parser: argparse.ArgumentParser, *, default: int = 16) -> None:
    """Add --batch-size."""
    parser.add_argument(
        "--batch-size",
        "--batch",
        type=int,
        default=default,
        metavar="N",
        help=f"images per batch, from 1 (default {default})",
    )


def device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", default="", metavar="D", help="cpu or a GPU's number (default: GPU if any)"
    )


def data(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add --data, a data.yaml or what else describes a data set."""
    parser.add_argument(
        "--data",
        type=Path,
        required=required,
        metavar="YAML",
        help="data set: a data.yaml, a Darknet .data file, or a folder",
    )


def strict(parser: argparse.ArgumentParser) -> None:
    """Add --strict."""
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at a broken image (default: broken images are left out and counted)",
    )


def single_class(parser: argparse.ArgumentParser) -> None:
    """Add --single-cls."""
    parser.add_argument(
        "--single-cls", action="store_true", help="take all boxes to be of one class, 'object'"
    )


def workers(parser: argparse.ArgumentParser, *, default: int = 2) -> None:
    """Add --workers."""
    parser.add_argument(
        "--workers", type=int, default=default, metavar="N", help="loader processes (0: none)"
    )


def thresholds(parser: argparse.ArgumentParser, *, confidence: float, iou: float) -> None:
    """Add --conf-thres and --iou-thres."""
    parser.add_argument(
        "--conf-thres",
        "--conf",
        type=float,
        default=confidence,
        metavar="C",
        help=f"lowest confidence of a box (default {confidence:g})",
    )
    parser.add_argument(
        "--iou-thres",
        "--iou",
        type=float,
        default=iou,
        metavar="IOU",
        help="overlap with a more confident box of its class above which NMS removes a box "
        f"(default {iou:g})",
    )


def run_folder(parser: argparse.ArgumentParser, *, project: str) -> None:
    """Add --project, --name and --exist-ok: where a run's files go."""
    parser.add_argument("--project", type=Path, default=Path(project), help="folder of runs")
    parser.add_argument("--name", default="exp", help="this run's folder in it")
    parser.add_argument("--exist-ok", action="store_true", help="write into an existing folder")


def round_to(parser: argparse.ArgumentParser) -> None:
    """Add --round-to."""
    parser.add_argument(
        "--round-to",
        type=int,
        default=1,
        metavar="N",
        help="round the channels that stay to a multiple of N, the nearest (default 1)",
    )


def json_output(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument(
        "--json", action="store_true", help="one JSON document on stdout, nothing else"
    )


def config_of(kind: type[Config], args: argparse.Namespace, **others: object) -> Config:
    """Build the config of a command: each field takes the value of the option of its name.

    Args:
        kind: a frozen dataclass.
        args: the parsed options; lists become tuples. A field without an option keeps its default.
        others: fields that are not taken from an option.
    """
    given = {
        field.name: getattr(args, field.name)
        for field in fields(kind)
        if field.init and hasattr(args, field.name)
    }
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return kind(**{**values, **others})
