"""Read a Pascal VOC data set: one XML file per image, split lists or folders where there are any.

VOC counts pixels from 1 and a box includes its last pixel, so (1, 1, width, height) covers the
whole image. From the image's corner this is (xmin - 1, ymin - 1, xmax, ymax), as Detectron2 reads
it too.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from prune.common.inputs import exists, read_text
from prune.data.annotation import UNREADABLE, Annotation
from prune.data.convert import AMBIGUOUS, ANY, TRAINVAL, Converted, Options, convert
from prune.data.images import is_image
from prune.data.problem import MISSING, Problem
from prune.data.spec import SPLITS
from prune.data.voc_folders import File, Source, find, image_of, list_folder
from prune.data.voc_xml import Document, parse
from prune.errors import DataError

NO_XML = "image without XML"
NOT_LISTED = "in no split list"
NO_SPLIT = "in no split folder"
NO_VAL = "train divided into train and val"
UNKNOWN_ENTRY = "listed without image or XML"

_MARK = re.compile(r"\s+(-1|0|1)$")  # in a class's list: whether the image shows it

_Pairs = dict[File, tuple[Annotation, str | None]]  # XML file -> its annotation and folder's split


def read(
    folders: Sequence[Path],
    options: Options,
    *,
    annotations: Sequence[Path] = (),
    images: Sequence[Path] = (),
) -> Converted:
    """Read VOC folders and every image in them.

    Args:
        folders: where the XML files and images lie.
        options: what the user chose.
        annotations: the only folders to look for XML files in, if any.
        images: the only folders to look for images in, if any.

    Raises:
        DataError: there is no folder, no XML file, no image, or no usable box; something is broken
            and `options.strict` is set.
    """
    problems: list[Problem] = []
    groups: dict[str, list[Annotation]] = defaultdict(list)
    for source in find(folders, annotations=annotations, images=images):
        pairs, found = _paired(source)
        if options.shares is not None:
            grouped = _together(pairs)
        elif lists := _lists(source.root):
            grouped = _by_lists(pairs, lists, source.root, found)
        else:
            grouped = _by_folders(pairs, source.root, found)
        problems += found
        for name, group in grouped.items():
            groups[name] += group
    first = (*folders, *annotations, *images)[0]
    return convert(
        groups, problems, options, classes=(), source=first, key=lambda file: Path(file).stem
    )


def _paired(source: Source) -> tuple[_Pairs, list[Problem]]:
    """Read the XML files and find the image of each; report what has no counterpart."""
    problems: list[Problem] = []
    documents: dict[File, Document] = {}
    for xml in source.annotations:
        document = parse(xml.path)
        if isinstance(document, Problem):
            problems.append(document)
        else:
            documents[xml] = document
    found = {xml: image_of(xml, document.named, source) for xml, document in documents.items()}
    taken = {image.path for images in found.values() for image in images}
    for xml in [xml for xml, images in found.items() if not images]:
        others = image_of(xml, documents[xml].named, source, by_name=True)
        found[xml] = [image for image in others if image.path not in taken]
    pairs: _Pairs = {}
    for xml, images in found.items():
        if len(images) == 1:
            pairs[xml] = _pair(xml, images[0], documents[xml])
        else:
            problems.append(_without_image(xml, images, documents[xml]))
    used = {image.path for images in found.values() for image in images}
    spoiled = {problem.path.stem for problem in problems}
    lone = [
        image.path
        for image in source.images
        if image.path not in used and image.path.stem not in spoiled
    ]
    problems += [
        Problem(NO_XML, path) if is_image(path) else Problem(UNREADABLE, path, None, path.name)
        for path in lone
    ]
    return pairs, problems


def _pair(xml: File, image: File, document: Document) -> tuple[Annotation, str | None]:
    named_alike = xml.path.stem == image.path.name  # a.jpg.xml
    file = image.path.name if named_alike else xml.path.stem + image.path.suffix
    annotation = Annotation(xml.path, image.path, file, document.boxes, document.size)
    return annotation, xml.split or image.split


def _without_image(xml: File, images: Sequence[File], document: Document) -> Problem:
    if images:
        return Problem(AMBIGUOUS, xml.path, None, " and ".join(str(one.path) for one in images[:2]))
    return Problem(MISSING, xml.path, None, document.named or f"{xml.path.stem}.*")


def _together(pairs: _Pairs) -> Mapping[str, list[Annotation]]:
    return {ANY: [annotation for annotation, _ in pairs.values()]}


def _by_folders(
    pairs: _Pairs, root: Path, problems: list[Problem]
) -> Mapping[str, list[Annotation]]:
    """Group by the folders called train, val (or valid) and test, if there are such folders.

    What lies in none of them is trained on where there is no train folder, and left out otherwise.
    Where there is no val folder, train is divided.
    """
    groups: dict[str, list[Annotation]] = defaultdict(list)
    for annotation, split in pairs.values():
        groups[split or ANY].append(annotation)
    rest = groups.pop(ANY, [])
    if "train" not in groups and rest:
        groups["train"], rest = rest, []
    if "train" not in groups or len(groups) == 1:
        return _together(pairs)
    problems += [Problem(NO_SPLIT, annotation.path) for annotation in rest]
    if "val" not in groups:
        problems.append(Problem(NO_VAL, root))
        groups[TRAINVAL] = groups.pop("train")
    return groups


def _lists(root: Path) -> dict[Path, dict[str, int]]:
    """Read the lists of the splits, each as its entries and their lines; none without them.

    VOC's trainval is used when there are no train and val of their own.
    """
    place = list_folder(root)
    paths = [place / f"{name}.txt" for name in (*SPLITS, TRAINVAL)] if place else []
    lists = {path: _listed(path) for path in paths if exists(path)}
    names = {path.stem for path in lists}
    if {"train", "val"} <= names:
        return {path: listed for path, listed in lists.items() if path.stem != TRAINVAL}
    if TRAINVAL in names:
        return {path: listed for path, listed in lists.items() if path.stem in (TRAINVAL, "test")}
    return {}


def _listed(path: Path) -> dict[str, int]:
    """Read a list's entries with their lines."""
    lines = read_text(path, error=DataError).splitlines()
    return {line.strip(): i for i, line in enumerate(lines, start=1) if line.strip()}


def _by_lists(
    pairs: _Pairs, lists: Mapping[Path, Mapping[str, int]], root: Path, problems: list[Problem]
) -> Mapping[str, list[Annotation]]:
    """Group by the lists; entries without an image and images without an entry are reported."""
    known = _tails(pairs)
    spoiled = {problem.path.stem for problem in problems}
    groups: dict[str, dict[Path, Annotation]] = {}
    for path, listed in lists.items():
        group: dict[Path, Annotation] = {}
        for entry, line in listed.items():
            annotation = next((known[name] for name in _meant(entry) if name in known), None)
            if annotation is not None:
                group[annotation.path] = annotation
            elif not spoiled.intersection(_meant(entry)):
                problems.append(Problem(UNKNOWN_ENTRY, path, line, _MARK.sub("", entry)))
        groups[path.stem] = group
    if not any(groups.values()):
        raise DataError(
            f"the lists in {next(iter(lists)).parent} name no image of {root}: give --split"
        )
    listed_anywhere = {path for group in groups.values() for path in group}
    problems += [
        Problem(NOT_LISTED, annotation.path)
        for annotation, _ in pairs.values()
        if annotation.path not in listed_anywhere
    ]
    return {name: list(group.values()) for name, group in groups.items()}


def _tails(pairs: _Pairs) -> dict[str, Annotation]:
    """Name each annotation by its stem, and by its folders and stem; only what is unique counts."""
    named: dict[str, list[Annotation]] = defaultdict(list)
    for xml, (annotation, _) in pairs.items():
        parts = (*xml.folders, xml.path.stem)
        for start in range(len(parts)):
            named["/".join(parts[start:])].append(annotation)
    return {name: found[0] for name, found in named.items() if len(found) == 1}


def _meant(entry: str) -> Iterable[str]:
    """Yield what a list's entry may mean: as it stands, without VOC's mark, or a file's stem.

    PaddleDetection writes an image and its XML file in a line.
    """
    name = _MARK.sub("", entry)
    path, first = PurePosixPath(name), PurePosixPath(name.split()[0])
    return entry, name, (path.parent / path.stem).as_posix(), path.stem, first.stem
