"""prune data: make a data set from VOC, COCO or generated shapes, or check one."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options
from prune.cli.console import logger, print_json, print_table, print_text
from prune.common.dimensions import SIDE

if TYPE_CHECKING:
    from prune.data import DataResult
    from prune.data.check import Count
    from prune.data.problem import Problem

EXAMPLES = {
    "voc": "  prune data voc VOCdevkit/VOC2007 --out data/voc.yaml",
    "coco": "  prune data coco train=a.json val=b.json --images photos --out mine.yaml",
    "shapes": "  prune data shapes --out data/shapes.yaml",
    "check": "  prune data check data/mine.yaml",
}
MOST_SHAPES = 1_000_000  # images that are drawn
_MOST = 10  # problems of one kind that are written out
EXAMPLE = "\n".join(EXAMPLES.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a parser for each kind of data set."""
    commands = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, (text, add, _) in KINDS.items():
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n{EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add(sub)
        options.json_output(sub)


def run(args: argparse.Namespace) -> None:
    """Do what the kind's handler does."""
    _, _, handler = KINDS[args.kind]
    handler(args)


def _add_voc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        metavar="DIR",
        help="folder with XML files and images, at any depth; train, val (or valid) and test "
        "folders become the splits",
    )
    for kind, what in (("annotations", "XML files"), ("images", "images")):
        parser.add_argument(
            f"--{kind}",
            type=Path,
            nargs="+",
            action="extend",
            default=[],
            metavar="DIR",
            help=f"folder of the {what}, where they are not found; may be given several times",
        )
    _add_out(parser)
    _add_conversion(parser, "as ImageSets/Main or the folders divide them, else 0.8,0.1,0.1")
    _add_marked(parser, "difficult", keep=True)


def _add_coco(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        type=_coco_source,
        nargs="+",
        metavar="[SPLIT=]JSON",
        help="COCO instances file, e.g. train=a.json val=b.json where the names do not show the "
        "split; or a folder that holds such files",
    )
    parser.add_argument(
        "--images",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="the images' folder; may be given several times",
    )
    _add_out(parser)
    _add_conversion(parser, "as the names of the files divide them, else 0.8,0.1,0.1")
    _add_marked(parser, "crowds", keep=False)


def _add_marked(parser: argparse.ArgumentParser, what: str, *, keep: bool) -> None:
    """Add the pair of options that decides about boxes of a mark."""
    group = parser.add_mutually_exclusive_group()
    for verb, keeps in (("keep", True), ("skip", False)):
        group.add_argument(
            f"--{verb}-{what}",
            dest="keep_marked",
            action="store_const",
            const=keeps,
            default=keep,
            help=f"{'keep' if keeps else 'leave out'} boxes marked as {what.rstrip('s')}"
            + (" (default)" if keeps == keep else ""),
        )


def _add_shapes(parser: argparse.ArgumentParser) -> None:
    _add_out(parser, default=Path("data/shapes.yaml"))
    parser.add_argument(
        "--images",
        type=options.up_to(MOST_SHAPES),
        default=160,
        metavar="N",
        help="number of images (default 160)",
    )
    parser.add_argument(
        "--size",
        type=options.up_to(SIDE),
        default=160,
        metavar="PX",
        help="width and height in pixels (default 160)",
    )
    parser.add_argument(
        "--split",
        type=_fractions,
        metavar="A,B,C",
        help="fractions of train, val, test (default 0.7,0.2,0.1)",
    )
    options.seed(parser, of="of the drawing")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        type=Path,
        metavar="YAML",
        help="data set: a data.yaml, a Darknet .data file, or a folder",
    )
    options.strict(parser)


def _add_out(parser: argparse.ArgumentParser, *, default: Path | None = None) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=default,
        required=default is None,
        metavar="YAML",
        help="file to write; images and labels go into the folder of that name beside it",
    )


def _add_conversion(parser: argparse.ArgumentParser, split: str) -> None:
    parser.add_argument(
        "--names",
        type=_names,
        default=(),
        metavar="A,B",
        help="classes in this order, no others (default: all found)",
    )
    parser.add_argument(
        "--split",
        type=_fractions,
        metavar="A,B,C",
        help=f"fractions of train, val, test (default: {split})",
    )
    options.seed(parser, of="of the split")
    parser.add_argument(
        "--copy", action="store_true", help="copy the images (default: relative links)"
    )
    broken = parser.add_mutually_exclusive_group()
    broken.add_argument(
        "--strict",
        action="store_true",
        help="stop at broken or missing files (default: leave them out and report them)",
    )
    broken.add_argument("--skip-broken", action="store_true", help="leave them out (default)")


def _voc(args: argparse.Namespace) -> None:
    from prune.data import VocConfig, convert_voc

    config = options.config_of(VocConfig, args)
    _print_written(convert_voc(config, report=logger().info), as_json=args.json)


def _coco(args: argparse.Namespace) -> None:
    from prune.data import CocoConfig, convert_coco

    config = options.config_of(CocoConfig, args)
    _print_written(convert_coco(config, report=logger().info), as_json=args.json)


def _shapes(args: argparse.Namespace) -> None:
    from prune.data import ShapesConfig, draw_shapes

    _print_written(draw_shapes(options.config_of(ShapesConfig, args)), as_json=args.json)


def _check(args: argparse.Namespace) -> None:
    from prune.data import check_data
    from prune.errors import DataError

    result = check_data(args.data, strict=args.strict)
    if args.json:
        print_json(result.document())
    else:
        _print(result)
    if fatal := result.fatal:
        raise DataError(f"{args.data}: training would refuse {len(fatal)} things; {fatal[0]}")


def _print_written(result: DataResult, *, as_json: bool) -> None:
    if as_json:
        print_json(result.document())
        return
    print_table(["", *result.splits], _rows(result.splits))
    if result.problems:
        print()
        for line in _first_of_each(result.problems):
            print_text(line)
    print_text(f"wrote {result.data}")


def _first_of_each(problems: Sequence[Problem]) -> list[str]:
    """Write out the first ten problems of each kind, and how many more there are."""
    kinds = dict.fromkeys(problem.kind for problem in problems)
    lines = []
    for kind in kinds:
        found = [problem for problem in problems if problem.kind == kind]
        lines += [str(problem) for problem in found[:_MOST]]
        if len(found) > _MOST:
            lines.append(f"and {len(found) - _MOST} more: {kind} (--json lists all)")
    return lines


def _print(result: DataResult) -> None:
    print_table(["", *result.splits], _rows(result.splits))
    if result.problems:
        print()
        kinds = Counter((problem.kind, problem.fatal) for problem in result.problems)
        rows = [(kind, number, fatal) for (kind, fatal), number in sorted(kinds.items())]
        print_table(("problem", "count", "stops training"), rows)
        print()
        for problem in result.problems:
            print_text(str(problem))


def _rows(counts: Mapping[str, Count]) -> list[list[object]]:
    """Make a row for images, boxes, each class and each size, a column for each split."""
    columns = list(counts.values())
    rows: list[list[object]] = [
        ["images", *(column.images for column in columns)],
        ["  broken", *(column.broken for column in columns)],
        ["  without boxes", *(column.without_boxes for column in columns)],
        ["  without label file", *(column.without_label_file for column in columns)],
        ["  with empty one", *(column.empty_label_file for column in columns)],
        ["boxes", *(sum(column.boxes.values()) for column in columns)],
    ]
    for name in columns[0].boxes:
        rows.append([f"  {name}", *(column.boxes[name] for column in columns)])
    for name in columns[0].sizes:
        rows.append([f"{name} boxes", *(column.sizes[name] for column in columns)])
    return rows


def _coco_source(text: str) -> tuple[str | None, Path]:
    """Read FILE or SPLIT=FILE; what stands before = is no split where such a file exists."""
    from prune.data.split import WORDS

    word, sign, rest = text.partition("=")
    if not sign or Path(text).exists() or "/" in word:
        return None, Path(text)
    if word.lower() not in WORDS or not rest:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a file, or train=, val= or test= and a file, e.g. train=a.json"
        )
    return WORDS[word.lower()], Path(rest)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} must be different names, e.g. cat,dog")
    return names


def _fractions(text: str) -> tuple[float, float, float]:
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        train = val = test = math.nan
    if (
        not all(math.isfinite(fraction) and fraction >= 0 for fraction in (train, val, test))
        or not train
    ):
        raise argparse.ArgumentTypeError(f"{text!r} must be three fractions, e.g. 0.8,0.1,0.1")
    return train, val, test


_Add = Callable[[argparse.ArgumentParser], None]
_Handler = Callable[[argparse.Namespace], None]

# Kind -> what it does, how its arguments are added, what carries it out.
KINDS: dict[str, tuple[str, _Add, _Handler]] = {
    "voc": ("convert a Pascal VOC folder", _add_voc, _voc),
    "coco": ("convert COCO instances files", _add_coco, _coco),
    "shapes": ("generate circles, squares and triangles", _add_shapes, _shapes),
    "check": ("count boxes and list everything that is wrong", _add_check, _check),
}
