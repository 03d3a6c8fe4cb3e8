"""prune detect: boxes on images, folders, globs, lists, videos, cameras and streams."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading
from prune.common import streams
from prune.common.wording import counted

if TYPE_CHECKING:
    from prune.evaluate.predict import Found, Output, Search
    from prune.evaluate.runner import Runner
    from prune.evaluate.sources import Source

EXAMPLE = """\
  prune detect --source images/ --weights runs/train/exp/weights/best.pt
  prune detect --source film.mp4 --weights model.onnx --conf-thres 0.4
  prune detect --source rtsp://192.168.0.7/stream --weights model.onnx
  prune detect --source 'images/*.jpg' --classes RBC --json --nosave"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--source",
        required=True,
        metavar="SOURCE",
        help="image, video, folder, quoted glob, .txt list of these, camera number (0), or URL of "
        "an image or stream (rtsp://, http://)",
    )
    options.weights(parser)
    reading.add_arguments(parser)
    options.image_size(parser)
    options.thresholds(parser, confidence=0.25, iou=0.45)
    parser.add_argument(
        "--classes", nargs="+", metavar="C", help="only these classes: numbers or names"
    )
    parser.add_argument(
        "--max-det",
        type=options.positive,
        default=300,
        metavar="N",
        help="maximum number of boxes per image (default 300)",
    )
    options.strict(parser)
    options.device(parser)
    parser.add_argument("--save-txt", action="store_true", help="write YOLO label files too")
    parser.add_argument("--save-conf", action="store_true", help="with confidences in them")
    parser.add_argument("--nosave", action="store_true", help="write no images and no videos")
    parser.add_argument(
        "--pd", action="store_true", help="not needed any more: the checkpoint says it is pruned"
    )
    options.run_folder(parser, project="runs/detect")
    options.json_output(parser)


def run(args: argparse.Namespace) -> int:
    """Detect on every source; what cannot be read is named and counted, and the rest goes on."""
    from prune.cli import console
    from prune.evaluate import predict as detect
    from prune.evaluate import sources
    from prune.train.stopping import listening

    log = console.logger()
    if args.pd:
        log.info("note: --pd is not needed; the checkpoint itself says what was pruned")
    found = sources.find(args.source)
    stems = sources.stems([source.file for source in found])
    # Only an old folder holds files already, and may be that of the sources.
    detect.expect_other_files(found, stems, _output(args, args.project / args.name))
    runner = reading.runner(args)
    search, tally = _search(args, runner), Tally(keeps=args.json)
    with _run_folder(args, log.info) as folder, listening(log.info) as stopped:
        output = _output(args, folder)
        for source, stem in zip(found, stems, strict=True):
            _detect(runner, source, search, stem=stem, output=output, tally=tally, stopped=stopped)
            if stopped() or (args.strict and tally.failed):
                break
    if args.json and tally.read:
        console.print_json(tally.documents)
    if tally.read:
        say = log.info if args.json else console.print_text
        say(tally.text(search.confidence))
        for note in tally.notes(search.most, of=len(found)):
            log.info(note)
    if stopped():
        return 130
    return 2 if tally.failed and (args.strict or not tally.read) else 0


@dataclass
class Tally:
    """What was found in all; with `keeps` each image's document, for --json."""

    keeps: bool
    documents: list[dict[str, object]] = field(default_factory=list)
    images: int = 0
    frames: int = 0
    boxes: int = 0
    surest: float = 0.0
    fullest: int = 0
    failed: int = 0

    @property
    def read(self) -> int:
        """Count the images and frames that were looked at."""
        return self.images + self.frames

    def add(self, found: Found, names: Sequence[str]) -> None:
        """Count an image or a frame."""
        from prune.evaluate.predict import describe

        self.images += found.frame is None
        self.frames += found.frame is not None
        self.boxes += len(found.boxes)
        self.surest = max(self.surest, found.surest)
        self.fullest = max(self.fullest, len(found.boxes))
        if self.keeps:
            self.documents.append(describe(found, names))

    def text(self, confidence: float) -> str:
        """Say how many boxes there are; where there are none, how sure the surest one was."""
        looked = [
            counted(number, noun)
            for number, noun in ((self.images, "image"), (self.frames, "frame"))
            if number
        ]
        total = f"{counted(self.boxes, 'box', 'boxes')} in {' and '.join(looked)}"
        if self.boxes:
            return total
        return (
            f"{total}; the highest confidence of any box was {self.surest:.2g}, and the threshold "
            f"is {confidence:g}: lower --conf-thres, or train longer"
        )

    def notes(self, most: int, *, of: int) -> list[str]:
        """Say what was left out: sources that cannot be read, boxes for want of room."""
        notes = []
        if self.failed:
            notes.append(f"note: {self.failed} of {of} sources could not be read; see above")
        if self.fullest >= most:
            notes.append(
                f"note: an image has {most} boxes, the most that are kept; --max-det keeps more"
            )
        return notes


def _detect(  # what a run has, all by keyword
    runner: Runner,
    source: Source,
    search: Search,
    *,
    stem: str,
    output: Output,
    tally: Tally,
    stopped: Callable[[], bool],
) -> None:
    """Detect on one source and say what is there, or that it cannot be read."""
    from prune.cli import console
    from prune.errors import DataError
    from prune.evaluate.predict import detect_source, summary

    try:
        for found in detect_source(
            runner, source, search, stem=stem, output=output, stopped=stopped
        ):
            tally.add(found, runner.names)
            if not tally.keeps:
                frame = "" if found.frame is None else f" frame {found.frame}"
                console.print_text(f"{source.name}{frame}: {summary(found, runner.names)}")
                sys.stdout.flush()
    except DataError as error:
        tally.failed += 1
        streams.log(f"prune: {' '.join(str(error).split())}")


def _search(args: argparse.Namespace, runner: Runner) -> Search:
    from prune.evaluate.predict import Search

    return Search(
        imgsz=runner.image_size(args.img_size),
        confidence=args.conf_thres,
        iou=args.iou_thres,
        classes=None if args.classes is None else _classes(args.classes, runner.names),
        most=args.max_det,
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
    from prune.evaluate.predict import Output

    return Output(
        folder,
        pictures=not args.nosave,
        text=args.save_txt or args.save_conf,
        confidences=args.save_conf,
    )


@contextmanager
def _run_folder(args: argparse.Namespace, say: Callable[[str], None]) -> Iterator[Path]:
    """Make the run's folder if anything may go into it, and record the run if anything did."""
    from prune.common import run_dir

    if args.nosave and not (args.save_txt or args.save_conf):
        yield args.project / args.name
        return
    with run_dir.run_folder(args.project, args.name, exist_ok=args.exist_ok) as folder:
        try:
            yield folder
        finally:
            if any(not path.name.startswith(".") for path in folder.iterdir()):  # but its lock
                run_dir.record(folder, vars(args))
                say(f"written to {folder}")
