"""Data sets without a description of their own: a folder whose parts are found by their names.

Label Studio writes classes.txt, notes.json, images/ and labels/; Roboflow's Darknet export writes
train/ and valid/ with _darknet.labels in each; labelImg leaves classes.txt among the label files.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from prune.common.notes import note
from prune.data.classes import names_of_file
from prune.data.document import KEYS, Document, read_document
from prune.data.label_files import IMAGE_FOLDERS
from prune.data.listing import listing, no_images
from prune.data.split import deal
from prune.errors import DataError

SHARES = (0.8, 0.2, 0.0)  # of train, val and test, where a folder has no splits

_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
_DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "obj.data")


def read_folder(folder: Path, working: Path) -> Document:
    """Read the description in a folder, or make one of what lies there.

    Args:
        folder: what was named in place of a data.yaml.
        working: see `bases.of_description`.

    Raises:
        DataError: there is no description, and the classes or the images are not found either.
    """
    if described := _description(folder):
        note(f"{folder} is a folder; {described} is read")
        return read_document(described, working)
    here = folder.absolute()
    named = _names_file(here)
    if named is None:
        if next(here.glob("*.xml"), None) or next(here.glob("*/*.xml"), None):
            out = f"data/{here.resolve().name}.yaml"
            convert = shlex.join(["prune", "data", "voc", str(folder), "--out", out])
            raise DataError(
                f"{folder} contains VOC annotations (.xml) and no data.yaml; convert them with "
                f"{convert}, then give {out}"
            )
        raise DataError(
            f"{folder} holds no data.yaml, and no classes.txt that names the classes; write "
            f"{folder / 'data.yaml'} with train: images/train, val: images/val and "
            "names: [cat, dog]"
        )
    found = {split: next(_places(here, keys), None) for split, keys in KEYS.items()}
    entries: dict[str, tuple[str, ...]] = {
        split: (str(place),) for split, place in found.items() if place is not None
    }
    if entries:
        places = ", ".join(f"{split} from {place[0]}" for split, place in entries.items())
        note(f"{folder} holds no data.yaml; the classes are read from {named}, {places}")
    else:
        entries = _dealt(here)
        note(
            f"{folder} holds no data.yaml; the classes are read from {named}, and of the images "
            f"{len(entries['train'])} are taken for train and {len(entries['val'])} for val, "
            "always the same; write a data.yaml to choose them"
        )
    return Document(folder, here, tuple(names_of_file(named)), entries)


def _description(folder: Path) -> Path | None:
    """Return the description in a folder: under a usual name, or the only one of its kind."""
    for name in _DESCRIPTIONS:
        if (folder / name).is_file():
            return folder / name
    for suffix in (".yaml", ".yml", ".data"):
        found = sorted(path for path in folder.glob(f"[!.]*{suffix}") if path.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"{folder} holds {len(found)} data set descriptions; name one of them, e.g. "
                f"{found[0]}"
            )
    return None


def _names_file(folder: Path) -> Path | None:
    """Return the file that names the classes: a text file, or else Label Studio's notes."""
    places = [folder, *(folder / name for name in ("labels", "train", "valid", "images"))]
    for place in places:
        usual = [place / name for name in _NAME_FILES]
        for path in (*usual, *sorted(place.glob("[!.]*.names"))):
            if path.is_file():
                return path
    notes = folder / "notes.json"
    return notes if notes.is_file() else None


def _places(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """Yield the folders and lists where the images of a split lie."""
    for name in names:
        for inner in ("images", "JPEGImages"):
            yield from _there(folder / inner / name, folder / name / inner)
        yield from _there(folder / name, folder / f"obj_{name}_data")
        if (folder / f"{name}.txt").is_file():
            yield folder / f"{name}.txt"


def _there(*folders: Path) -> Iterator[Path]:
    return (folder for folder in folders if folder.is_dir())


def _dealt(folder: Path) -> dict[str, tuple[str, ...]]:
    """Divide the images of a folder without splits, by their names alone.

    Raises:
        DataError: there are none, or too few.
    """
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and p.name.lower() in IMAGE_FOLDERS)
    at = inside[0] if inside else folder
    images = listing(at, ()).images
    if not images:
        raise DataError(f"{folder}: {no_images(at, ())}")
    by_name = {str(path.relative_to(at)): str(path) for path in images}
    dealt = deal(by_name, shares=SHARES, seed=0)
    return {
        split: tuple(by_name[name] for name in names) for split, names in dealt.items() if names
    }
