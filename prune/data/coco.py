"""Read COCO annotation files: JSON with images, categories, and boxes as x, y, w, h in pixels."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prune.common.inputs import is_dir, printable, resolved, shown
from prune.data.annotation import Annotation, Box
from prune.data.coco_files import locate, plain
from prune.data.coco_json import Entry, entries, identity, load, number, own_id, text
from prune.data.convert import ANY, BROKEN_BOX, LISTED_TWICE, Converted, Options, convert
from prune.data.folders import files_below
from prune.data.images import is_image
from prune.data.orientation import Corners, Size
from prune.data.problem import Problem
from prune.data.split import split_in
from prune.errors import DataError

UNKNOWN_IMAGE = "annotation of an unknown image"
UNKNOWN_CATEGORY = "annotation of an unknown category"
FROM_OUTLINE = "box taken around an outline"
RENUMBERED = "categories matched by name"
GROUP = "category of categories left out"

_EXAMPLE = "train=a.json val=b.json"

_Id = int | str
_Categories = dict[_Id, str]


@dataclass(frozen=True)
class Source:
    """A COCO file and the split that the user gave it, if any."""

    path: Path
    split: str | None = None


def read(sources: Sequence[Source], options: Options, *, images: Sequence[Path] = ()) -> Converted:
    """Read annotation files and every image they name.

    A file becomes the split that the user gave, or that its name or its folder's name contains; a
    single file without one is divided among the splits. Categories become classes 0, 1, ... in the
    order of their ids.

    Args:
        sources: the JSON files, or folders in which every COCO file counts.
        options: what the user chose.
        images: the images' folders; empty looks in the usual places around each file.

    Raises:
        DataError: a file is missing, broken or not a COCO file; files disagree; two images have one
            id; no image is usable; something is broken and `options.strict` is set.
    """
    sources = [file for source in sources for file in _files(source)]
    splits = _splits(sources, dealt=options.shares is not None)
    documents = {source.path: load(source.path) for source in sources}
    problems: list[Problem] = []
    categories = _categories(documents, problems)
    groups: dict[str, list[Annotation]] = defaultdict(list)
    for path, document in documents.items():
        found, remarks = _parse(path, document, categories[path], images)
        groups[splits[path]] += found
        problems += remarks
    first = sources[0].path
    classes = _classes(documents, categories, options.names, problems)
    return convert(groups, problems, options, classes=classes, source=first, key=str)


def _files(source: Source) -> list[Source]:
    """Return the file, or every COCO file in the folder.

    Raises:
        DataError: the folder has none.
    """
    if not is_dir(source.path):
        return [source]
    found = [path for path in files_below(source.path) if path.suffix.lower() == ".json"]
    named = [path for path in found if path.name.startswith(("instances_", "_annotations.coco"))]
    if not named:
        named = [path for path in found if _is_coco(path)]
    if not named:
        raise DataError(f"{source.path}: no COCO file in it; give the files, e.g. {_EXAMPLE}")
    return [Source(path, source.split) for path in named]


def _is_coco(path: Path) -> bool:
    try:
        return {"images", "annotations", "categories"} <= load(path).keys()
    except DataError:
        return False


def _splits(sources: Sequence[Source], *, dealt: bool) -> dict[Path, str]:
    """Assign a split to each file; ANY where the images are dealt out.

    Raises:
        DataError: a file is given twice; one of several does not name its split.
    """
    twice = [path for path, n in Counter(source.path for source in sources).items() if n > 1]
    if twice:
        raise DataError(f"{twice[0]} is given twice; give each file once, e.g. {_EXAMPLE}")
    splits = {source.path: source.split or _hint(source.path) for source in sources}
    silent = [path for path, split in splits.items() if split is None]
    if dealt or (silent and len(splits) == 1):
        return dict.fromkeys(splits, ANY)
    if silent:
        raise DataError(
            f"{silent[0]}: the name does not contain its split, as instances_train.json does"
            f"; write it in front, e.g. {_EXAMPLE}"
        )
    return {path: split for path, split in splits.items() if split}


def _hint(path: Path) -> str | None:
    """Read the split from the file's name or else its folder's."""
    return split_in(path.stem) or split_in(resolved(path).parent.name)


def _categories(
    documents: Mapping[Path, Entry], problems: list[Problem]
) -> dict[Path, _Categories]:
    """Read each file's categories.

    Files that number the same names differently are fine, and a file may lack some of the names: a
    box is of its own file's category.

    Raises:
        DataError: an id has two names, and each of the files has names that the other lacks.
    """
    read: dict[Path, _Categories] = {path: {} for path in documents}
    for path, document in documents.items():
        for entry in entries(document, "categories", path):
            key, name = own_id(entry, path), text(entry, "name", path)
            if read[path].setdefault(key, name) != name:
                raise DataError(
                    f"{path}: category {shown(key)} is {shown(name)} and {shown(read[path][key])}"
                )
    first, *others = read.items()
    for path, categories in others:
        differ = [
            key for key in categories if first[1].get(key, categories[key]) != categories[key]
        ]
        these, those = set(categories.values()), set(first[1].values())
        if differ and (these <= those or those <= these):
            problems.append(Problem(RENUMBERED, path, None, f"{first[0]} numbers them differently"))
        elif differ:
            raise DataError(
                f"{path}: category {shown(differ[0])} is {shown(categories[differ[0]])} here, "
                f"{shown(first[1][differ[0]])} in {first[0]}"
            )
    return read


def _classes(
    documents: Mapping[Path, Entry],
    categories: Mapping[Path, _Categories],
    requested: Sequence[str],
    problems: list[Problem],
) -> tuple[str, ...]:
    """List the categories' names in the order of the first file's ids, without Roboflow's group.

    Roboflow puts a category with id 0 in front that no box has; the others have it as their
    supercategory.
    """
    path, first = next(iter(documents.items()))
    parents = [
        entry.get("supercategory")
        for entry in entries(first, "categories", path)
        if identity(entry.get("id")) != 0
    ]
    used = {
        categories[place].get(key)
        for place, document in documents.items()
        for entry in entries(document, "annotations", place)
        if (key := identity(entry.get("category_id"))) is not None
    }
    group = categories[path].get(0)
    if group is not None and group in parents and group not in used and group not in requested:
        problems.append(Problem(GROUP, path, None, f"{group}, id 0, which no box has"))
        return tuple(name for name in _ordered(categories.values()) if name != group)
    return tuple(_ordered(categories.values()))


def _ordered(categories: Iterable[_Categories]) -> Iterable[str]:
    """Order all names by their ids; a name whose id an earlier file gives to another comes last."""
    by_id: _Categories = {}
    last: dict[str, None] = {}
    for found in categories:
        for key, name in found.items():
            if name not in by_id.values() and by_id.setdefault(key, name) != name:
                last[name] = None
    ordered = sorted(by_id, key=lambda key: (len(str(key)), str(key)))
    return dict.fromkeys([*(by_id[key] for key in ordered), *last])


def _parse(
    path: Path, document: Entry, categories: _Categories, images: Sequence[Path]
) -> tuple[list[Annotation], list[Problem]]:
    """Turn a file's content into annotations, one per image."""
    problems: list[Problem] = []
    pictures = _images(document, path, problems)
    boxes = _boxes(path, document, pictures, categories, problems)
    keys = sorted(pictures, key=lambda key: _name(pictures[key], path))
    names = [_name(pictures[key], path) for key in keys]
    if not names:
        raise DataError(f"{path}: images: is empty")
    found, remarks = locate(path, names, images)
    annotations = [
        Annotation(path, image, _file(name, image), tuple(boxes[key]), _size(pictures[key]))
        for key, name, image in zip(keys, names, found, strict=True)
        if image is not None
    ]
    return annotations, [*problems, *remarks]


def _file(name: str, image: Path) -> str:
    """Return what an image is called in the data set: by its entry, if that ends as images do."""
    own = plain(name).rpartition("/")[2]
    return own if is_image(Path(own)) else image.name


def _images(document: Entry, path: Path, problems: list[Problem]) -> dict[_Id, Entry]:
    """Read the images by their ids.

    Raises:
        DataError: two images have one id.
    """
    found: dict[_Id, Entry] = {}
    for entry in entries(document, "images", path):
        key, name = own_id(entry, path), _name(entry, path)
        if key not in found:
            found[key] = entry
            continue
        problems.append(Problem(LISTED_TWICE, path, None, name))
        other = _name(found[key], path)
        if other != name:
            raise DataError(
                f"{path}: two images have id {shown(key)}: {printable(other)} and "
                f"{printable(name)}; their boxes cannot be distinguished, so the images must be "
                "numbered anew before they are joined in one file"
            )
    return found


def _name(entry: Entry, path: Path) -> str:
    """Take an image's file_name; LVIS has a URL instead."""
    has_url = "file_name" not in entry and "coco_url" in entry
    return text(entry, "coco_url" if has_url else "file_name", path)


def _boxes(
    path: Path,
    document: Entry,
    images: Mapping[_Id, Entry],
    categories: _Categories,
    problems: list[Problem],
) -> dict[_Id, list[Box]]:
    """Collect the boxes of each image; what cannot be used is a problem."""
    boxes: dict[_Id, list[Box]] = defaultdict(list)
    for entry in entries(document, "annotations", path):
        own = entry.get("id", "?")
        label = f"annotation {shown(own, 40)}"
        image, category = identity(entry.get("image_id")), identity(entry.get("category_id"))
        corners, around = _corners(entry), _around(entry)
        if image is None or image not in images:
            detail = f"{label}: image_id {shown(entry.get('image_id'))}"
            problems.append(Problem(UNKNOWN_IMAGE, path, None, detail))
        elif category is None or category not in categories:
            detail = f"{label}: category_id {shown(entry.get('category_id'))}"
            problems.append(Problem(UNKNOWN_CATEGORY, path, None, detail))
        elif corners is None and around is None:
            detail = f"{label}: bbox is {shown(entry.get('bbox'))}, not 4 numbers"
            problems.append(Problem(BROKEN_BOX, path, None, detail))
        elif placed := corners or around:
            if corners is None:
                problems.append(Problem(FROM_OUTLINE, path, None, label))
            mark = "crowd" if _is_crowd(entry) else ""
            boxes[image].append(Box(categories[category], placed, None, label, mark))
    return boxes


def _corners(entry: Entry) -> Corners | None:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        return None
    x, y, w, h = (number(value) for value in box)
    if x is None or y is None or w is None or h is None:
        return None
    return x, y, x + w, y + h


def _around(entry: Entry) -> Corners | None:
    """Return the box around the polygons of an annotation without a box, None without polygons."""
    polygons = entry.get("segmentation")
    if entry.get("bbox") or not isinstance(polygons, list):
        return None
    values = [number(v) for polygon in polygons if isinstance(polygon, list) for v in polygon]
    points = [value for value in values if value is not None]
    if len(points) < 6 or len(points) % 2 or len(points) < len(values):
        return None
    xs, ys = points[::2], points[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _is_crowd(entry: Entry) -> bool:
    """Read iscrowd, which tools write as 1, true and "1"."""
    value = entry.get("iscrowd")
    return value is True or str(value).lower() == "true" or bool(number(value))


def _size(entry: Entry) -> Size | None:
    width, height = number(entry.get("width")), number(entry.get("height"))
    if width is None or height is None or min(width, height) < 1:
        return None
    return int(width), int(height)
