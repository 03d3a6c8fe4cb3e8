"""Which files are timed in which runtimes; a checkpoint is exported for those that read ONNX."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prune import checkpoint
from prune.bench.rows import Pair
from prune.checkpoint.convert import AS_IT_IS, Reading
from prune.checkpoint.reading import as_our_file, open_with_note
from prune.common.size import Size
from prune.errors import InputError
from prune.export.onnx import export
from prune.runtimes.backends import READS, RUNTIMES, Setting, installed, library
from prune.runtimes.file_inputs import settle


def paired(  # what is timed on what, by keyword
    files: Sequence[Path],
    folder: Path,
    *,
    reading: Reading = AS_IT_IS,
    imgsz: Size | None = None,
    batch: int | None = None,
    threads: int = 1,
    runtimes: str | None = None,
) -> tuple[list[Pair], list[str]]:
    """Pair every file with every runtime that can run it, in the order of the files.

    Args:
        files: what to time.
        folder: where checkpoints are exported to.
        reading: how public weights are read.
        imgsz: height and width in pixels; None: what each file says.
        batch: images per run; None: what each file says, or 1.
        threads: of a run.
        runtimes: names with commas between them; None for all that read the files as they are.

    Returns:
        The pairs, and why there is none of a file or of a runtime that was requested.

    Raises:
        InputError: a file or a runtime that cannot be used, or nothing is left.
    """
    ours = _ours(files, reading, folder)
    settings = {
        path: settle(path, threads=threads, imgsz=imgsz, batch=batch, held=ours.get(path))
        for path in files
    }
    requested = _runtimes(runtimes) if runtimes else None
    exports = _Exports(folder)
    pairs, unread = [], []
    for path in files:
        for runtime in requested or installed():
            source = _source(
                ours.get(path, path), runtime, settings[path], exports if requested else None
            )
            if source:
                pairs.append(Pair(path, runtime, source, settings[path]))
            elif requested:
                unread.append((path, runtime))
    notes = _notes(unread, pairs)
    if not pairs:
        raise InputError(notes[0] if notes else f"no runtime that is installed reads {files[0]}")
    return pairs, notes


def _notes(unread: Sequence[tuple[Path, str]], pairs: Sequence[Pair]) -> list[str]:
    """Say why a file or a runtime is in no pair at all; the rest goes without saying."""
    files, runtimes = {pair.file for pair in pairs}, {pair.runtime for pair in pairs}
    return [
        f"{runtime} reads {READS[runtime]}, not {path}{_way(path, runtime)}"
        for path, runtime in unread
        if path not in files or runtime not in runtimes
    ]


def _ours(files: Sequence[Path], reading: Reading, folder: Path) -> dict[Path, Path]:
    """Write public weights as checkpoints of ours, which torch and the exporters read.

    Returns:
        By the path of the public file that of ours.
    """
    found: dict[Path, Path] = {}
    for path in files:
        if path.suffix.lower() in (".pt", ".pth", ".weights") and path.is_file():
            target = folder / f"{len(found)}.pt"
            own = as_our_file(path, open_with_note(path, reading), reading, target=target)
            if own != path:
                found[path] = own
    return found


def _runtimes(text: str) -> list[str]:
    """Read "onnxruntime,torch".

    Raises:
        InputError: one of them is unknown, or is not installed.
    """
    names = list(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    for name in names:
        if name not in RUNTIMES:
            close = difflib.get_close_matches(name, RUNTIMES, n=1)
            guess = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"unknown runtime {name!r}: it is one of {', '.join(RUNTIMES)}{guess}")
        library(name)
    return names


def _source(path: Path, runtime: str, setting: Setting, exports: _Exports | None) -> Path | None:
    """Find what a runtime reads for a file; None where it reads nothing of it."""
    if path.suffix.lower() == READS[runtime]:
        return path
    if exports and path.suffix.lower() == ".pt" and READS[runtime] == ".onnx":
        return exports.of(path, setting)
    return None


@dataclass
class _Exports:
    """Checkpoints as ONNX files, each written once."""

    folder: Path
    done: dict[Path, Path] = field(default_factory=dict)

    def of(self, path: Path, setting: Setting) -> Path:
        """Export a checkpoint for the setting; a runtime that must know all sizes reads it, too."""
        if path not in self.done:
            source = checkpoint.load(path)
            target = self.folder / f"{len(self.done)}.onnx"
            net, imgsz = checkpoint.network(source), setting.imgsz
            export(net, target, names=source.names, imgsz=imgsz, batch=setting.batch)
            self.done[path] = target
        return self.done[path]


def _way(path: Path, runtime: str) -> str:
    kind = "ncnn" if READS[runtime] == ".param" else "onnx"
    exportable = path.suffix.lower() == ".pt" and READS[runtime] != ".pt"
    return f"; write it by prune export --format {kind}" if exportable else ""
