"""prune detect: boxes on pictures, folders, globs and videos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options

if TYPE_CHECKING:
    from prune.score.predict import Output, Search
    from prune.score.runtime import Runner

EXAMPLE = """\
  prune detect --source pictures/ --weights runs/train/exp/weights/best.pt
  prune detect --source film.mp4 --weights model.onnx --conf-thres 0.4 --save-txt
  prune detect --source 'pictures/*.jpg' --weights best.pt --classes RBC --json --nosave"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--source", required=True, metavar="PATH", help="picture, video, folder or quoted glob"
    )
    options.weights(parser)
    options.image_size(parser)
    options.thresholds(parser, confidence=0.25, iou=0.45)
    parser.add_argument(
        "--classes", nargs="+", metavar="C", help="only these classes: numbers or names"
    )
    options.device(parser)
    parser.add_argument("--save-txt", action="store_true", help="write YOLO label files too")
    parser.add_argument("--save-conf", action="store_true", help="with confidences in them")
    parser.add_argument("--nosave", action="store_true", help="write no pictures")
    parser.add_argument(
        "--pd", action="store_true", help="not needed any more: the checkpoint says it is pruned"
    )
    options.run_folder(parser, project="runs/detect")
    options.json_output(parser)


def run(args: argparse.Namespace) -> int:
    """Detect on every file; what cannot be read is named, the rest goes on, and 2 is returned."""
    from prune.cli import console
    from prune.score import sources
    from prune.score.runtime import open_weights

    log = console.logger()
    if args.pd:
        log.info("note: --pd is not needed; the checkpoint itself says what was pruned")
    paths = sources.find(args.source)
    runner = open_weights(args.weights, device_name=args.device)
    search = _search(args, runner)
    with _run_folder(args, log.info) as folder:
        output = _output(args, folder)
        stems = sources.stems(paths)
        documents = [
            _detect(runner, path, search, stem=stem, output=output, tell=not args.json)
            for path, stem in zip(paths, stems, strict=True)
        ]
    read = [document for document in documents if document is not None]
    if args.json and read:
        console.print_json(list(chain.from_iterable(read)))
    return 0 if len(read) == len(paths) else 2


def _detect(
    runner: Runner, path: Path, search: Search, *, stem: str, output: Output, tell: bool
) -> list[dict[str, object]] | None:
    """Detect on one file and say what is there; None if it cannot be read."""
    from prune.errors import DataError
    from prune.score.predict import describe, detect_file, summary

    documents = []
    try:
        for found in detect_file(runner, path, search, stem=stem, output=output):
            documents.append(describe(found, runner.names))
            if tell:
                frame = "" if found.frame is None else f" frame {found.frame}"
                print(f"{path}{frame}: {summary(found, runner.names)}")
    except DataError as error:
        sys.stderr.write(f"prune: {' '.join(str(error).split())}\n")
        return None
    return documents


def _search(args: argparse.Namespace, runner: Runner) -> Search:
    from prune.score.predict import Search

    return Search(
        imgsz=runner.picture_size(args.img_size),
        confidence=args.conf_thres,
        iou=args.iou_thres,
        classes=None if args.classes is None else _classes(args.classes, runner.names),
    )


def _classes(wanted: list[str], names: tuple[str, ...]) -> frozenset[int]:
    """Turn class numbers and names, also with commas between them, into numbers."""
    from prune.errors import InputError

    known = {**{str(i): i for i in range(len(names))}, **{name: i for i, name in enumerate(names)}}
    words = [word.strip() for entry in wanted for word in entry.split(",") if word.strip()]
    if not words:
        raise InputError(f"--classes {' '.join(wanted)!r} names no class; leave it out for all")
    for word in words:
        if word not in known:
            raise InputError(
                f"class {word!r} is unknown; the weights have 0 to {len(names) - 1}: "
                + ", ".join(names)
            )
    return frozenset(known[word] for word in words)


def _output(args: argparse.Namespace, folder: Path) -> Output:
    from prune.score.predict import Output

    return Output(
        folder,
        pictures=not args.nosave,
        text=args.save_txt or args.save_conf,
        confidences=args.save_conf,
    )


@contextmanager
def _run_folder(args: argparse.Namespace, say: Callable[[str], None]) -> Iterator[Path]:
    """Make the run's folder if anything may go into it, and record the run if anything did."""
    from prune import runs

    if args.nosave and not (args.save_txt or args.save_conf):
        yield args.project / args.name
        return
    with runs.run_folder(args.project, args.name, exist_ok=args.exist_ok) as folder:
        try:
            yield folder
        finally:
            if any(folder.iterdir()):
                runs.record(folder, vars(args))
                say(f"written to {folder}")
