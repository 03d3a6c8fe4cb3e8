"""Which files a data set consists of, so that no command writes over one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from prune.common import notes
from prune.common.inputs import is_dir, is_file
from prune.data import bases, spec
from prune.data.document import read_document
from prune.data.images import is_image
from prune.data.label_files import label_path
from prune.errors import PruneError


@dataclass(frozen=True)
class Parts:
    """The files and folders of a data set, as real paths.

    Attributes:
        files: images, their label files, lists of images, the file of names.
        folders: that hold images.
    """

    files: frozenset[str]
    folders: frozenset[str]

    def holds(self, path: Path) -> bool:
        """Return whether a file is one of the data set's, or would be taken for one."""
        real = os.path.realpath(path)
        return real in self.files or (is_image(path) and str(Path(real).parent) in self.folders)

    def is_folder(self, path: Path) -> bool:
        """Return whether a folder is one of images."""
        return os.path.realpath(path) in self.folders


def parts_of(description: Path, *, images: bool) -> Parts:
    """Look up what a data set consists of; one that cannot be read has nothing to lose.

    Args:
        description: a data.yaml, a .data file or a folder.
        images: whether to list images and labels as well, which takes a moment where they are many.
    """
    with notes.without_notes():
        try:
            named = [] if is_dir(description) else _named(description)
            listed = spec.load(description).splits.values() if images else ()
        except PruneError:  # the command itself reports it
            named, listed = [], ()
    pictures = [path for split in listed for path in split]
    labels = map(label_path, pictures)
    files = [*(path for path in named if is_file(path)), *pictures, *labels]
    folders = [*(path for path in named if is_dir(path)), *{path.parent for path in pictures}]
    return Parts(frozenset(map(os.path.realpath, files)), frozenset(map(os.path.realpath, folders)))


def _named(description: Path) -> list[Path]:
    """List the lists, images, folders and the file of names that a description names."""
    working = Path.cwd()
    document = read_document(description, working)
    found = [
        place
        for base in bases.of_description(document, working)
        for entries in document.entries.values()
        for entry in entries
        if (place := base.find(entry)) is not None
    ]
    return found if document.names_file is None else [*found, document.names_file]
