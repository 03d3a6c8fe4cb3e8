"""Write a data set in YOLO's layout, whole or not at all: NAME.yaml and, beside it, NAME/.

NAME/images/<split> holds the images, NAME/labels/<split> a label file for each. NAME/written.json
records every file, so that a later run replaces exactly what an earlier one wrote and refuses to
touch anything else.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml
from loguru import logger

from prune.common.files import together
from prune.common.inputs import exists, open_input, read_bytes
from prune.common.notes import note
from prune.common.plain_json import read_json_file
from prune.common.schema import expect, mapping, named, text
from prune.data.folders import RECORD
from prune.data.images import Image
from prune.data.labels import label_path, to_text
from prune.errors import DataError, InputError

_FORMAT = "prune-data/1"
_WRITTEN = mapping({"format": text(choices=(_FORMAT,)), "files": named(text())})
_MARK = "# Written by prune data"


@dataclass(frozen=True)
class Sample:
    """An image with its boxes, ready to be written.

    `image` is a file to link or copy, or pixels [h, w, 3] BGR to encode by the suffix of `file`.
    """

    file: str
    image: Path | Image
    boxes: npt.NDArray[np.float32]  # [n, 5]: class, cx, cy, w, h as fractions of the image


def write(
    target: Path,
    *,
    names: Sequence[str],
    splits: Mapping[str, Iterable[Sample]],
    made_by: str,
    copy: bool = False,
) -> None:
    """Write `target`, a .yaml, and the folder of the same name beside it.

    Images are linked, relative to the link: a project that holds images and links can be moved
    or mounted elsewhere as a whole, which absolute links would not survive. With `copy` the folder
    stands alone. The folder and the yaml are replaced together, so that a run which is cut short
    leaves the data set that was there before.

    Raises:
        InputError: the target cannot be written, or it holds files that an earlier run did not
            write or that were changed since; two images have the same name.
    """
    if target.suffix not in (".yaml", ".yml"):
        raise InputError(f"cannot write {target}: the name must end in .yaml")
    folder = target.with_suffix("")
    _refuse_foreign(target, folder)
    if target.exists():
        logger.info(f"note: {target}, made earlier, is replaced")
    with together(target, folder=folder) as (stage, document):
        filled = [name for name, samples in splits.items() if _fill(stage, name, samples, copy)]
        _record(stage, made_by)
        document.write_text(_document(folder.name, filled, names, made_by), encoding="utf-8")


def _document(folder: str, splits: Sequence[str], names: Sequence[str], made_by: str) -> str:
    head = f"# Written by {made_by}\n# A later run replaces this file and the folder {folder}.\n"
    content = {
        **{split: f"{folder}/images/{split}" for split in splits},
        "nc": len(names),
        "names": list(names),
    }
    return head + yaml.safe_dump(
        content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100
    )


def _fill(stage: Path, split: str, samples: Iterable[Sample], copy: bool) -> int:
    """Write a split's images and labels; return how many there are."""
    count = 0
    for count, sample in enumerate(samples, start=1):  # noqa: B007 - the last one is the answer
        image = stage / "images" / split / sample.file
        label = label_path(image)
        if label.exists():
            raise DataError(f"two images of {split} are called {image.stem}; rename one")
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        _place(sample.image, image, copy)
        label.write_text(to_text(sample.boxes), encoding="utf-8")
    return count


def _place(source: Path | Image, path: Path, copy: bool) -> None:
    if not isinstance(source, Path):
        path.write_bytes(cv2.imencode(path.suffix, source)[1].tobytes())
    elif copy or not _linked(source, path):
        shutil.copyfile(source, path)


def _linked(source: Path, path: Path) -> bool:
    """Link an image; False where the system makes no links, as Windows does not for everyone."""
    try:
        # The stage lies as deep as the folder it becomes, so what is relative to it stays right.
        path.symlink_to(os.path.relpath(source.resolve(), path.parent.resolve()))
    except (OSError, ValueError) as error:  # ValueError: on another drive of Windows
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        note("links cannot be made here, so the images are copied")
        return False
    return True


def _record(stage: Path, made_by: str) -> None:
    files = {path: _fingerprint(stage / path) for path in _files(stage)}
    record = {"format": _FORMAT, "made_by": made_by, "files": files}
    (stage / RECORD).write_text(json.dumps(record, indent=0), encoding="utf-8")


def _refuse_foreign(target: Path, folder: Path) -> None:
    """Make sure that replacing `target` and `folder` destroys nothing but an earlier run's output.

    Raises:
        InputError: something there is not ours, or was changed since.
    """
    advice = "move it away or choose another --out"
    if target.exists() and not _is_ours(target):
        raise InputError(f"{target} was not written by prune data; {advice}")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is no plain folder; {advice}")
    if not folder.exists():
        return
    known = _known(folder / RECORD)
    for path in _files(folder):
        if path not in known and path != RECORD:
            raise InputError(f"{folder / path} was not written by prune data; {advice}")
        if path != RECORD and _fingerprint(folder / path) != known[path]:
            raise InputError(f"{folder / path} was changed since prune data wrote it; {advice}")


def _is_ours(target: Path) -> bool:
    with open_input(target, "yaml") as file:
        return file.read(len(_MARK)) == _MARK.encode()


def _known(record: Path) -> Mapping[str, str]:
    if not exists(record):
        return {}
    document: Any = read_json_file(record, file_names=True, called="the record of an earlier run,")
    expect(document, _WRITTEN, where=f"{record} is no record of prune data; move it away")
    files: Mapping[str, str] = document["files"]
    return files


def _files(folder: Path) -> list[str]:
    """List everything below a folder but folders, links not followed, as sorted relative paths."""
    return sorted(
        (Path(place) / name).relative_to(folder).as_posix()
        for place, folders, files in os.walk(folder)
        for name in files + [f for f in folders if (Path(place) / f).is_symlink()]
    )


def _fingerprint(path: Path) -> str:
    """Say what a file holds: a link's target, or the digest of its bytes."""
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return hashlib.sha256(read_bytes(path, "image")).hexdigest()
