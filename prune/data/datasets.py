"""Make a data set from VOC, COCO or drawn shapes, or check one: the commands of `prune data`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prune.common.notes import Report, silent
from prune.data import coco, shapes, voc, yolo
from prune.data.check import Count, check, count
from prune.data.convert import Converted, Options
from prune.data.notes import notes
from prune.data.problem import Problem
from prune.errors import InputError

Fractions = tuple[float, float, float]
"""Of train, val and test; they need not add up to 1."""


@dataclass(frozen=True)
class ConvertConfig:
    """What is written of an annotated data set.

    Attributes:
        out: a .yaml; images and labels go into the folder of that name beside it.
        names: the classes in this order, no others; (): all that are found.
        split: fractions of train, val and test; None follows what the files say.
        seed: of the split, where one is drawn.
        copy: copy the images instead of linking them.
        strict: stop at broken or missing files instead of leaving them out.
    """

    out: Path
    names: tuple[str, ...] = ()
    split: Fractions | None = None
    seed: int = 0
    copy: bool = False
    strict: bool = False


@dataclass(frozen=True)
class VocConfig(ConvertConfig):
    """What is read of Pascal VOC, and written; the options of `prune data voc`.

    Attributes:
        folders: with XML files and images, at any depth.
        annotations: the only folders to look for XML files in, if any.
        images: the only folders to look for images in, if any.
        keep_marked: keep boxes that are marked as difficult.
    """

    folders: tuple[Path, ...] = ()
    annotations: tuple[Path, ...] = ()
    images: tuple[Path, ...] = ()
    keep_marked: bool = True


@dataclass(frozen=True)
class CocoConfig(ConvertConfig):
    """What is read of COCO, and written; the options of `prune data coco`.

    Attributes:
        files: instances files, or folders of them, each with its split or None.
        images: the folders of the images; () looks in the usual places around each file.
        keep_marked: keep boxes that are marked as a crowd.
    """

    files: tuple[tuple[str | None, Path], ...] = ()
    images: tuple[Path, ...] = ()
    keep_marked: bool = False


@dataclass(frozen=True)
class ShapesConfig:
    """What is drawn; the options of `prune data shapes`.

    Attributes:
        out: a .yaml; images and labels go into the folder of that name beside it.
        images: in all splits together.
        size: width in pixels.
        split: fractions of train, val and test; None: 0.7, 0.2, 0.1.
        seed: of the drawing.
    """

    out: Path = Path("data/shapes.yaml")
    images: int = 160
    size: int = 160
    split: Fractions | None = None
    seed: int = 0


@dataclass(frozen=True)
class DataResult:
    """What is in a data set, and what is or was wrong with it.

    Attributes:
        data: its description.
        splits: what each split holds.
        problems: all of them.
    """

    data: Path
    splits: Mapping[str, Count]
    problems: tuple[Problem, ...]

    @property
    def fatal(self) -> tuple[Problem, ...]:
        """Return the problems that training would refuse."""
        return tuple(problem for problem in self.problems if problem.fatal)

    def document(self) -> dict[str, object]:
        """Return plain values, as `prune data KIND --json` prints them."""
        return {
            "data": str(self.data),
            "names": list(next(iter(self.splits.values())).boxes),
            "splits": {
                name: {
                    "pictures": found.images,
                    "without_boxes": found.without_boxes,
                    "without_label_file": found.without_label_file,
                    "empty_label_file": found.empty_label_file,
                    "broken": found.broken,
                    "boxes": dict(found.boxes),
                    "sizes": dict(found.sizes),
                }
                for name, found in self.splits.items()
            },
            "problems": [
                {
                    "kind": problem.kind,
                    "file": str(problem.path),
                    "line": problem.line,
                    "detail": problem.detail,
                    "fatal": problem.fatal,
                }
                for problem in self.problems
            ],
        }


def convert_voc(config: VocConfig, *, report: Report = silent) -> DataResult:
    """Make a data set of Pascal VOC files.

    Raises:
        InputError: no folder is given, or the target lies in one or cannot be written.
        DataError: nothing usable is found, or something is broken and `strict` is set.
    """
    given = (*config.folders, *config.annotations, *config.images)
    if not given:
        raise InputError(
            "prune data voc needs a folder, e.g. prune data voc mine --out data/mine.yaml, or "
            "--annotations DIR --images DIR"
        )
    for folder in given:
        if folder.resolve() in config.out.resolve().parents:
            raise InputError(
                f"--out {config.out} lies in {folder}, and nothing is written there; choose "
                f"another place, e.g. --out {folder.resolve().parent / config.out.name}"
            )
    options = _options(config, keep_marked=config.keep_marked)
    found = voc.read(config.folders, options, annotations=config.annotations, images=config.images)
    return _write(config, found, "prune data voc", report)


def convert_coco(config: CocoConfig, *, report: Report = silent) -> DataResult:
    """Make a data set of COCO instances files.

    Raises:
        InputError: the target cannot be written.
        DataError: nothing usable is found, or something is broken and `strict` is set.
    """
    sources = [coco.Source(path, split) for split, path in config.files]
    options = _options(config, keep_marked=config.keep_marked)
    return _write(
        config, coco.read(sources, options, images=config.images), "prune data coco", report
    )


def draw_shapes(config: ShapesConfig) -> DataResult:
    """Make a data set of drawn circles, squares and triangles.

    Raises:
        InputError: the target cannot be written.
        DataError: the images are too small or too few.
    """
    shapes.make_shapes(
        config.out,
        images=config.images,
        size=config.size,
        seed=config.seed,
        shares=config.split or shapes.SHARES,
    )
    return DataResult(config.out, count(config.out), ())


def check_data(data: Path, *, strict: bool = False) -> DataResult:
    """Read every image and label of a data set; with `strict` broken images are fatal problems.

    Raises:
        DataError: its description cannot be used.
    """
    found = check(data, strict=strict)
    return DataResult(data, found.counts, found.problems)


def _options(config: ConvertConfig, *, keep_marked: bool) -> Options:
    return Options(config.names, config.split, config.seed, keep_marked, config.strict)


def _write(config: ConvertConfig, converted: Converted, made_by: str, report: Report) -> DataResult:
    """Write what was read, and read it back, which shows that it can be read."""
    yolo.write(
        config.out,
        names=converted.names,
        splits=converted.splits,
        made_by=made_by,
        copy=config.copy,
    )
    for note in notes(converted.problems):
        report(note)
    if "val" not in converted.splits and not config.split:
        report(
            "note: there is no val split, which prune train needs; "
            "--split 0.8,0.1,0.1 divides all images"
        )
    return DataResult(config.out, count(config.out), converted.problems)
