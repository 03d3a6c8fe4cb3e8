"""Read a Pascal VOC folder: an XML file a picture, split lists where there are any.

VOC counts pixels from 1 and a box includes its last pixel, so (1, 1, width, height) covers the
whole picture. From the picture's corner this is (xmin - 1, ymin - 1, xmax, ymax), as Detectron2
reads it too.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from prune.data.annotation import (
    Annotation,
    Converted,
    class_names,
    refuse_broken,
    require_boxes,
    to_samples,
)
from prune.data.pictures import is_picture
from prune.data.problem import Problem
from prune.data.spec import SPLITS
from prune.data.split import SHARES, deal
from prune.data.vocxml import parse
from prune.errors import DataError

# Where tools put things; the first folder that holds any counts. "." is the folder itself.
_ANNOTATIONS = ("Annotations", "annotations", ".")
_PICTURES = ("JPEGImages", "images", "Images", ".")
_LISTS = (*SPLITS, "trainval")
_MARK = re.compile(r"\s+(-1|0|1)$")  # in a class's list: whether the picture shows it


def read(
    folder: Path,
    *,
    names: Sequence[str] = (),
    shares: Sequence[float] | None = None,
    seed: int = 0,
    skip_difficult: bool = False,
    skip_broken: bool = False,
) -> Converted:
    """Read a VOC folder and every picture in it.

    Args:
        folder: holds Annotations, JPEGImages (or images) and perhaps ImageSets/Main.
        names: the classes in the order wanted; others are left out. Empty: all, by alphabet.
        shares: parts of train, val and test; None follows ImageSets/Main where it has lists.
        seed: of the split, where one is drawn.
        skip_difficult: leave out boxes marked difficult.
        skip_broken: leave out broken XML files and pictures instead of stopping.

    Raises:
        DataError: no folder, no XML, no picture, or something broken (without `skip_broken`).
    """
    pictures = _pictures(folder)
    parsed = [parse(path, pictures, skip_difficult=skip_difficult) for path in _xml_files(folder)]
    annotations = [result for result in parsed if isinstance(result, Annotation)]
    problems = [result for result in parsed if isinstance(result, Problem)]
    if not skip_broken:
        refuse_broken(problems)  # before every picture is decoded
    classes, remarks = class_names(annotations, names, folder)
    samples, more = to_samples(annotations, classes)
    if not skip_broken:
        refuse_broken(more)
    require_boxes({"all": samples}, [*problems, *more], folder)
    stems = {Path(sample.file).stem: sample for sample in samples}
    dealt, unlisted = _splits(folder, list(stems), shares, seed)
    lone = _without_xml(pictures, annotations, problems)
    return Converted(
        names=classes,
        splits={name: tuple(stems[stem] for stem in dealt[name]) for name in dealt},
        problems=(*problems, *remarks, *more, *unlisted, *lone),
    )


def _xml_files(folder: Path) -> list[Path]:
    for name in _ANNOTATIONS:
        files = sorted((folder / name).glob("*.xml"))
        if files:
            return files
    raise DataError(f"no XML files in {folder / _ANNOTATIONS[0]} or {folder}")


def _pictures(folder: Path) -> dict[str, Path]:
    """List the picture files, each under its name and under its stem."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one that holds Annotations and JPEGImages")
    for name in _PICTURES:
        found = sorted(path for path in (folder / name).glob("*") if is_picture(path))
        if found:
            return {path.stem: path for path in found} | {path.name: path for path in found}
    raise DataError(f"no pictures in {folder / _PICTURES[0]}, {folder / _PICTURES[1]} or {folder}")


def _splits(
    folder: Path, stems: Sequence[str], shares: Sequence[float] | None, seed: int
) -> tuple[dict[str, list[str]], list[Problem]]:
    """Take the splits from ImageSets/Main, or draw what is not there.

    VOC's trainval is drawn from when it has no train and val of its own. Pictures that no list
    names, and names without a picture, are remarks.
    """
    place = folder / "ImageSets" / "Main"
    paths = {name: place / f"{name}.txt" for name in _LISTS}
    lists = {name: _listed(path) for name, path in paths.items() if path.is_file()}
    if shares is not None or not ({"train", "val"} <= lists.keys() or "trainval" in lists):
        return deal(stems, shares=shares or SHARES, seed=seed), []
    if {"train", "val"} <= lists.keys():
        lists.pop("trainval", None)
    known = set(stems)
    lists = {
        name: {_stem(entry, known): line for entry, line in listed.items()}
        for name, listed in lists.items()
    }
    problems = [
        Problem("listed without picture or XML", paths[name], line, stem)
        for name, listed in lists.items()
        for stem, line in listed.items()
        if stem not in known
    ]
    chosen = {name: [stem for stem in listed if stem in known] for name, listed in lists.items()}
    if not any(chosen.values()):
        raise DataError(f"the lists in {place} name no picture of {folder}: give --split")
    if "trainval" in chosen:
        halves = deal(chosen["trainval"], shares=(*SHARES[:2], 0), seed=seed)
        chosen |= {name: halves[name] for name in ("train", "val")}
    missing = known.difference(*chosen.values())
    problems += [Problem("in no split list", place, None, stem) for stem in sorted(missing)]
    return {name: chosen[name] for name in SPLITS if chosen.get(name)}, problems


def _listed(path: Path) -> dict[str, int]:
    """Read a list's entries with their lines."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the list: {error}") from error
    return {line.strip(): i for i, line in enumerate(lines, start=1) if line.strip()}


def _stem(entry: str, known: Collection[str]) -> str:
    """Return the stem that a list's entry means: as it stands, without VOC's mark, or a file's."""
    name = _MARK.sub("", entry)
    meant = (one for one in (entry, name, Path(name).stem) if one in known)
    return next(meant, name)


def _without_xml(
    pictures: Mapping[str, Path], annotations: Sequence[Annotation], problems: Sequence[Problem]
) -> list[Problem]:
    used = {annotation.image for annotation in annotations}
    broken = {problem.path.stem for problem in problems}
    lone = {path for path in pictures.values() if path not in used and path.stem not in broken}
    return [Problem("picture without XML", path) for path in sorted(lone)]
