"""From the annotations of another format to a data set: classes, file names, samples, splits."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prune.data.annotation import (
    SWAPPED,
    UNREADABLE,
    Annotation,
    to_samples,
)
from prune.data.folders import identity
from prune.data.problem import BROKEN, MISSING, Problem
from prune.data.spec import SPLITS
from prune.data.split import deal, usual_shares
from prune.data.yolo import Sample
from prune.errors import DataError

# Groups of images that are not a split yet: all splits are dealt from one, train and val from the
# other.
ANY = ""
TRAINVAL = "trainval"

LISTED_TWICE = "image listed twice"
TWO_SPLITS = "image in two splits"
AMBIGUOUS = "several images of that name"
BROKEN_XML = "broken XML"
BROKEN_BOX = "broken annotation"
NOT_WANTED = "class left out"
ALIKE = "classes with almost one name"
NO_BOXES = "class without boxes"

# What leaves an annotated image or box out because something is wrong; --strict stops at these.
SPOILED = frozenset({BROKEN, BROKEN_XML, BROKEN_BOX, MISSING, UNREADABLE, SWAPPED, AMBIGUOUS})

Groups = Mapping[str, Sequence[Annotation]]  # a split, ANY or TRAINVAL -> its images


@dataclass(frozen=True)
class Options:
    """What the user may choose about a conversion.

    Args:
        names: the requested classes, in order; others are left out. Empty: all.
        shares: fractions of train, val and test; None follows what the files say.
        seed: of the split, where one is drawn.
        keep_marked: keep boxes that are marked as difficult or as a crowd.
        strict: stop where something is wrong with an annotated image instead of leaving it out.
    """

    names: Sequence[str] = ()
    shares: Sequence[float] | None = None
    seed: int = 0
    keep_marked: bool = True
    strict: bool = False


@dataclass(frozen=True)
class Converted:
    """A data set read from another format, ready to be written, and what was wrong with it."""

    names: tuple[str, ...]
    splits: Mapping[str, tuple[Sample, ...]]
    problems: tuple[Problem, ...]


def convert(
    groups: Groups,
    problems: Sequence[Problem],
    options: Options,
    *,
    classes: Sequence[str],
    source: Path,
    key: Callable[[str], str],
) -> Converted:
    """Read every image, choose classes and splits.

    Args:
        groups: the annotations.
        problems: what the reader of the format has found.
        options: what a person chose.
        classes: in the order they get without `options.names`; empty is by alphabet.
        source: what was converted, for messages.
        key: what an image's file name is dealt by.

    Raises:
        DataError: no image has a usable box; a split would get none; something is wrong, and
            `options.strict` is set.
    """
    _refuse(problems, options)  # before every image is decoded
    found: list[Problem] = []
    if options.shares is not None:  # all images are dealt out, whatever the files say
        groups = {ANY: [annotation for group in groups.values() for annotation in group]}
    groups = {name: _joined(group, found) for name, group in groups.items() if group}
    found += _shared(groups)
    groups = {name: _kept(group, options, found) for name, group in groups.items()}
    groups = _named(groups, pooled=bool({ANY, TRAINVAL} & groups.keys()))
    everything = [annotation for group in groups.values() for annotation in group]
    _refuse_fractions(everything, source)
    names, remarks = _classes(everything, options.names, classes, source)
    samples, more = to_samples(everything, names)
    problems = [*problems, *found, *remarks, *more]
    _refuse(problems, options)
    why = f"; first problem: {problems[0]}" if problems else ""
    if not any(sample is not None and len(sample.boxes) for sample in samples):
        raise DataError(f"{source}: no image with a usable box{why}")
    rest = iter(samples)
    usable = {
        name: [sample for _, sample in zip(group, rest, strict=False) if sample is not None]
        for name, group in groups.items()
    }
    try:
        splits = _splits(usable, options, key)
    except DataError as error:
        raise DataError(f"{error}{why}") from error
    return Converted(names, splits, tuple(problems))


def _refuse(problems: Iterable[Problem], options: Options) -> None:
    spoiled = [problem for problem in problems if problem.kind in SPOILED]
    if options.strict and spoiled:
        more = f"and {len(spoiled) - 1} more; " if len(spoiled) > 1 else ""
        raise DataError(f"{spoiled[0]} ({more}without --strict such files are left out)")


def _refuse_fractions(annotations: Iterable[Annotation], source: Path) -> None:
    """Refuse boxes in fractions of the image, which would become boxes of a pixel or less.

    Raises:
        DataError: every box lies in the first pixel.
    """
    boxes = [box for annotation in annotations for box in annotation.boxes]
    if boxes and all(max(box.corners) <= 1 for box in boxes):
        raise DataError(
            f"{source}: no box is larger than 1, e.g. {boxes[0]}; boxes must be in pixels, not in "
            f"fractions of the image"
        )


def _joined(group: Sequence[Annotation], problems: list[Problem]) -> list[Annotation]:
    """Make one annotation of those that have the same image file."""
    first: dict[tuple[str, str], Annotation] = {}
    for annotation in group:
        place = identity(annotation.image)
        if place in first:
            problems.append(Problem(LISTED_TWICE, annotation.path, None, str(annotation.image)))
            boxes = (*first[place].boxes, *annotation.boxes)
            first[place] = replace(first[place], boxes=boxes)
        else:
            first[place] = annotation
    return list(first.values())


def _shared(groups: Groups) -> list[Problem]:
    """Report images that are in more than one group; metrics on them are too good."""
    first: dict[tuple[str, str], str] = {}
    problems = []
    for name, group in groups.items():
        for annotation in group:
            other = first.setdefault(identity(annotation.image), name)
            if other != name:
                detail = f"{annotation.image.name} in {other} and {name}"
                problems.append(Problem(TWO_SPLITS, annotation.path, None, detail))
    return problems


def _kept(
    group: Sequence[Annotation], options: Options, problems: list[Problem]
) -> list[Annotation]:
    """Leave out marked boxes, or keep them; each is reported either way."""
    fate = "kept" if options.keep_marked else "left out"
    problems += [
        Problem(f"{box.mark} box {fate}", annotation.path, box.line, str(box))
        for annotation in group
        for box in annotation.boxes
        if box.mark
    ]
    if options.keep_marked:
        return list(group)
    return [
        replace(annotation, boxes=tuple(box for box in annotation.boxes if not box.mark))
        for annotation in group
    ]


def _named(groups: Groups, *, pooled: bool) -> dict[str, list[Annotation]]:
    """Give images of one name, suffix apart, names with their folders in front.

    Args:
        groups: the annotations.
        pooled: whether images of different groups may end up in one split.
    """
    everything = [annotation for group in groups.values() for annotation in group]
    pools = [everything] if pooled else list(groups.values())
    names: dict[int, str] = {}
    for pool in pools:
        files = _distinct([(annotation.file, annotation.image) for annotation in pool])
        names |= {id(annotation): file for annotation, file in zip(pool, files, strict=True)}
    return {
        name: [replace(annotation, file=names[id(annotation)]) for annotation in group]
        for name, group in groups.items()
    }


def _distinct(files: Sequence[tuple[str, Path]]) -> list[str]:
    """Name each of some (name, image) so that no two label files are the same."""
    names = [name for name, _ in files]
    if _are_distinct(names):
        return names
    images = [image.absolute() for _, image in files]
    top = os.path.commonpath([image.parent for image in images])
    names = ["_".join(image.relative_to(top).parts) for image in images]
    if _are_distinct(names):
        return names
    return [f"{Path(name).stem}_{i}{Path(name).suffix}" for i, name in enumerate(names, start=1)]


def _are_distinct(names: Sequence[str]) -> bool:
    return len({Path(name).stem for name in names}) == len(names)


def _classes(
    annotations: Iterable[Annotation],
    requested: Sequence[str],
    usual: Sequence[str],
    path: Path,
) -> tuple[tuple[str, ...], list[Problem]]:
    """Choose the classes: the requested ones, in that order, else the usual ones, else by alphabet.

    The alphabet, because it does not change when images are added or dealt out differently.

    Returns:
        The names; a remark for each class left out and for each one requested that has no box.

    Raises:
        DataError: there are boxes, and none of a class that is requested.
    """
    found = Counter(box.name for annotation in annotations for box in annotation.boxes)
    names = tuple(requested) or tuple(usual) or tuple(sorted(found))
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[name.casefold()].append(name)
    twins = [
        Problem(ALIKE, path, None, " and ".join(group))
        for group in alike.values()
        if len(group) > 1
    ]
    if found and found.keys().isdisjoint(names):
        raise DataError(
            f"{path}: no box is of {', '.join(names)}; the boxes are of {', '.join(sorted(found))}"
        )
    left_out = [
        Problem(NOT_WANTED, path, None, f"{name}, {count} boxes")
        for name, count in sorted(found.items())
        if name not in names
    ]
    absent = [Problem(NO_BOXES, path, None, name) for name in names if not found[name]]
    return names, left_out + absent + twins


def _splits(
    groups: Mapping[str, Sequence[Sample]], options: Options, key: Callable[[str], str]
) -> dict[str, tuple[Sample, ...]]:
    """Deal out what is no split yet."""
    splits: dict[str, list[Sample]] = defaultdict(list)
    for name, group in groups.items():
        if name not in (ANY, TRAINVAL):
            splits[name] += group
        elif group:
            by_key = {key(sample.file): sample for sample in group}
            shares = options.shares or usual_shares(len(by_key), test=name == ANY)
            for split, keys in deal(by_key, shares=shares, seed=options.seed).items():
                splits[split] += [by_key[one] for one in keys]
    return {name: tuple(splits[name]) for name in SPLITS if splits[name]}
