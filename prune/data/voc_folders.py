"""Find a Pascal VOC data set's XML files and images, whatever its folders are called."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from os.path import commonpath
from pathlib import Path, PurePosixPath

from prune.common.inputs import open_input
from prune.data.folders import as_key, files_below, files_in, identity
from prune.data.images import UNREAD, is_image
from prune.data.split import split_of
from prune.errors import DataError, InputError

# VOC's own layout, and what was made after it: XML files and images right in these folders.
_ANNOTATIONS = ("Annotations", "annotations")
_IMAGES = ("JPEGImages", "images", "Images", ".")
LISTS = (Path("ImageSets") / "Main", Path("ImageSets"))

# Folders of images that show an answer instead of a scene.
_MASKS = frozenset(
    {"segmentationclass", "segmentationobject", "trimaps", "masks", "mask", "pedmasks"}
)

ADVICE = "name the folders: --annotations DIR --images DIR"


@dataclass(frozen=True)
class File:
    """A file and the names of its folders below the one that was given."""

    path: Path
    folders: tuple[str, ...]

    @property
    def split(self) -> str | None:
        """The split by the names of the folders; None where none names one."""
        return split_of(self.folders)


@dataclass(frozen=True)
class Source:
    """One VOC data set: its folder, its XML files and its images."""

    root: Path
    annotations: tuple[File, ...]
    images: tuple[File, ...]
    by_key: dict[str, list[File]] = field(init=False, repr=False)  # stem and name -> images

    def __post_init__(self) -> None:
        """Note each image under its name and its stem."""
        keys: dict[str, list[File]] = defaultdict(list)
        for image in self.images:
            for key in {as_key(image.path.stem), as_key(image.path.name)}:
                keys[key].append(image)
        object.__setattr__(self, "by_key", keys)


def find(
    folders: Sequence[Path], *, annotations: Sequence[Path] = (), images: Sequence[Path] = ()
) -> list[Source]:
    """Find the data sets in some folders.

    A folder in VOC's own layout is taken as it is, and so is each such folder below one (VOCdevkit
    has two). Elsewhere every XML file and image counts, at any depth.

    Args:
        folders: where to look.
        annotations: the only folders to look for XML files in, if any.
        images: the only folders to look for images in, if any.

    Raises:
        DataError: a folder does not exist; there is no XML file, or no image.
    """
    for folder in (*folders, *annotations, *images):
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; give one that holds XML files and images")
    if annotations or images:
        xml = _xml(annotations or folders or images)
        found = _files(images or folders or annotations, _is_image)
        return [_source((*folders, *annotations, *images)[0], xml, found)]
    if len(folders) == 1 or any(_lists_below(folder) for folder in folders):
        return [source for folder in folders for source in _expanded(folder)]
    # Several folders without lists may be splits: their own names count as folders of the files.
    return [_source(folders[0], _xml(folders), _files(folders, _is_image))]


def _expanded(folder: Path) -> list[Source]:
    """Return the folder itself if it has VOC's own layout, else what lies at any depth below.

    Folders below that have VOC's layout and lists stay data sets of their own: VOC2007 and VOC2012
    in VOCdevkit.
    """
    own = _kit(folder)
    if own:
        return [own]
    kits = [kit for place in _lists_below(folder) if (kit := _kit(place))]
    roots = {kit.root for kit in kits}
    xml, images = (
        [file for file in files if roots.isdisjoint(file.path.parents)]
        for files in (_xml([folder]), _files([folder], _is_image))
    )
    return [*kits, _source(folder, xml, images)] if xml or not kits else kits


def _lists_below(folder: Path) -> list[Path]:
    """List the folders at any depth that hold ImageSets with lists."""
    return sorted({path.parent for path in folder.glob("**/ImageSets") if list_folder(path.parent)})


def list_folder(root: Path) -> Path | None:
    """Return the folder in which a data set's lists of splits lie, if there is one."""
    places = (root / place for place in LISTS)
    return next((place for place in places if any(place.glob("*.txt"))), None)


def _kit(folder: Path) -> Source | None:
    for name in _ANNOTATIONS:
        xml = [path for path in files_in(folder / name) if _is_xml(path)]
        for place in _IMAGES if xml else ():
            images = [path for path in files_in(folder / place) if _is_image(path)]
            if any(is_image(path) for path in images):
                return _source(folder, _without_folders(xml), _without_folders(images))
    return None


def _files(bases: Sequence[Path], accept: Callable[[Path], bool]) -> list[File]:
    """List the files below some folders, each once."""
    top = Path(commonpath([base.absolute() for base in bases])) if len(bases) > 1 else None
    found: dict[tuple[str, str], File] = {}
    for base in bases:
        for path in files_below(base):
            if accept(path):
                folders = path.absolute().parent.relative_to(top or base.absolute()).parts
                found.setdefault(identity(path), File(path, folders))
    return list(found.values())


def _xml(folders: Sequence[Path]) -> list[File]:
    """List the XML files, or, where none is called so, annotations without a suffix."""
    return _files(folders, _is_xml) or _files(folders, _is_annotation)


def _is_xml(path: Path) -> bool:
    return path.suffix.lower() == ".xml"


def _is_annotation(path: Path) -> bool:
    """Return whether a file without a suffix is an annotation: Stanford Dogs has such files."""
    if path.suffix:
        return False
    try:
        with open_input(path, "xml") as file:
            return b"<annotation>" in file.read(200)
    except (OSError, InputError):
        return False


def _is_image(path: Path) -> bool:
    """Return whether a file is an image of a scene, readable or not."""
    is_mask = path.parent.name.lower() in _MASKS
    return not is_mask and (is_image(path) or path.suffix.lower() in UNREAD)


def _without_folders(paths: Iterable[Path]) -> list[File]:
    return [File(path, ()) for path in paths]


def _source(root: Path, xml: Sequence[File], images: Sequence[File]) -> Source:
    if not xml:
        raise DataError(f"{root}: no XML files in it or below; {_other_format(root) or ADVICE}")
    if not any(is_image(image.path) for image in images):
        raise DataError(f"{root}: no images in it or below; {ADVICE}")
    return Source(root, tuple(xml), tuple(images))


def _other_format(root: Path) -> str:
    """Say what to do with a folder that holds annotations of another format, if it does."""
    suffixes = Counter(path.suffix.lower() for path in files_below(root))
    if suffixes[".yaml"] or suffixes[".yml"]:
        return "there is a yaml file; a data.yaml of YOLO is used as it is: prune data check FILE"
    if suffixes[".json"]:
        command = shlex.join(["prune", "data", "coco", str(root), "--out", "mine.yaml"])
        return f"there are JSON files; if they are COCO's: {command}"
    return ""


def image_of(xml: File, named: str, source: Source, *, by_name: bool = False) -> list[File]:
    """Find the image that an XML file belongs to.

    It has the XML file's stem, as VOC's lists have it, or else the name that <filename> gives:
    people rename files, and seldom the entry in them. Of several with that stem the one that
    <filename> names counts, then the one of the same split, then the one with most folders in
    common.

    Args:
        xml: the XML file.
        named: its <filename>.
        source: where to look.
        by_name: look for the name that <filename> gives instead of the stem.

    Returns:
        The best match; nothing where there is none, several where they are equally good.
    """
    name = PurePosixPath(named.replace("\\", "/")).name
    stem = name if by_name else xml.path.stem
    found = source.by_key.get(as_key(stem), [])
    rated = [(_likeness(xml, image, name, stem), image) for image in found]
    best = max((rating for rating, _ in rated), default=None)
    return [image for rating, image in rated if rating == best]


def _likeness(xml: File, image: File, name: str, stem: str) -> tuple[bool, bool, bool, bool, int]:
    common = Counter(xml.folders) & Counter(image.folders)
    return (
        is_image(image.path),
        as_key(image.path.name) == as_key(name),
        stem in (image.path.stem, image.path.name),  # else it differs in upper and lower case
        image.split == xml.split,
        common.total(),
    )
