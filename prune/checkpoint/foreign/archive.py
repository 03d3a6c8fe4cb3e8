"""The files that `torch.save` writes: one pickle and the bytes of its tensors.

Since torch 1.6 they are zip archives: `<name>/data.pkl`, and `<name>/data/<key>` for each storage.
Before, they were five pickles one after another (magic number, version, system, object, keys),
then the storages in the order of the keys.
"""

import struct
import zipfile
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from prune.checkpoint.foreign.machine import run
from prune.checkpoint.foreign.standins import STORAGES, Name
from prune.common.inputs import open_input, reading, shown
from prune.errors import CheckpointError

_ZIP_START = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def is_torch_file(path: Path) -> bool:
    """Return whether a file begins as those of `torch.save` do.

    Raises:
        CheckpointError: there is no such file, or it is empty.
    """
    with open_input(path, "checkpoint", error=CheckpointError) as handle:
        start = handle.read(4)
    if not start:
        raise CheckpointError(f"{path} is empty")
    return start == _ZIP_START or start.startswith(b"\x80")


def read_pickle(path: Path) -> object:
    """Read a file of `torch.save` as plain containers, CPU tensors and `Instance` stand-ins.

    No code of the file's is run and nothing it names is imported.

    Raises:
        CheckpointError: no such file, empty, truncated, damaged, or asking for more than data.
    """
    if not is_torch_file(path):
        raise CheckpointError(f"{path} is no file that torch.save writes")
    with (
        open_input(path, "checkpoint", error=CheckpointError) as stream,
        reading(path, error=CheckpointError),
    ):
        zipped = stream.read(4) == _ZIP_START
        stream.seek(0)
        return _read_zip(stream) if zipped else _read_legacy(stream)


def expect_stored(stream: BinaryIO) -> None:
    """Check that an archive has the entries that its list gives, byte for byte, as torch writes it.

    A small file whose entries are compressed, or lie over one another, could claim that they are
    terabytes.

    Raises:
        CheckpointError: they are, or are larger than the file.
    """
    with zipfile.ZipFile(stream) as archive:
        _entries(archive, stream)


def _entries(archive: zipfile.ZipFile, stream: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    entries = {info.filename: info for info in archive.infolist()}
    for name, info in entries.items():
        if info.compress_type != zipfile.ZIP_STORED:
            what = f"its entry {shown(name)} is compressed"
            raise CheckpointError(f"{what}; torch.save does not do so")
    if sum(info.file_size for info in entries.values()) > stream.seek(0, 2):
        raise CheckpointError("its entries are larger than the file; it is truncated or damaged")
    return entries


def _read_zip(stream: BinaryIO) -> object:
    with zipfile.ZipFile(stream) as archive:
        entries = _entries(archive, stream)
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise CheckpointError("it is a zip archive, but none that torch.save writes")
        root = pickles[0].removesuffix("data.pkl")
        order = entries.get(f"{root}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise CheckpointError("it was written on a big-endian machine")
        flat: dict[str, Tensor] = {}

        def storage(identifier: object) -> object:
            dtype, key, elements = _storage_id(identifier)
            if key not in flat:
                flat[key] = _read_entry(archive, entries.get(f"{root}data/{key}"))
            return _typed(flat[key], dtype, elements)

        with archive.open(entries[pickles[0]]) as pickled:
            return run(cast(BinaryIO, pickled), storage)


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> Tensor:
    """Read one storage as bytes, uint8 [n]."""
    if info is None:
        raise CheckpointError("it names a tensor whose values are not in it")
    data = torch.empty(info.file_size, dtype=torch.uint8)
    with archive.open(info) as entry:
        _fill(data, cast(BinaryIO, entry))
    return data


def _read_legacy(stream: BinaryIO) -> object:
    size = stream.seek(0, 2)
    stream.seek(0)
    flat: dict[str, Tensor] = {}
    missing: dict[str, int] = {}

    def storage(identifier: object) -> object:
        if isinstance(identifier, tuple) and len(identifier) == 4 and identifier[0] == "module":
            return identifier[1]  # a class with its source text, which is of no use here
        dtype, key, elements = _storage_id(identifier)
        if key not in flat:
            missing[key] = elements
            flat[key] = _reserve(elements * dtype.itemsize, size, flat)
        return _typed(flat[key], dtype, elements)

    if run(stream, storage) != _LEGACY_MAGIC:
        raise CheckpointError("it is a pickle, but none that torch.save writes")
    run(stream, storage)  # version of the format: there was only one
    system = run(stream, storage)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("it was written on a big-endian machine")
    document = run(stream, storage)
    keys = run(stream, storage)
    for key in keys if isinstance(keys, list) else []:
        _fill_legacy(stream, flat.get(key), missing.pop(key, None))
    if missing:
        raise CheckpointError("it names tensors whose values are not in it")
    return document


def _reserve(size: int, file_size: int, flat: dict[str, Tensor]) -> Tensor:
    taken = sum(data.numel() for data in flat.values())
    if size < 0 or taken + size > file_size:
        raise CheckpointError("it names more values than its size can hold; it is truncated")
    return torch.empty(size, dtype=torch.uint8)


def _fill_legacy(stream: BinaryIO, data: Tensor | None, elements: int | None) -> None:
    (stored,) = struct.unpack("<q", stream.read(8))
    if data is None or elements != stored:
        raise CheckpointError("its tensors and their values do not belong together")
    _fill(data, stream)


def _fill(data: Tensor, stream: BinaryIO) -> None:
    """Read bytes right into a tensor, uint8 [n], without a second copy of them."""
    view = memoryview(data.numpy().data)
    while len(view):
        count = stream.readinto(view[: 1 << 24])  # type: ignore[attr-defined]  # BinaryIO lacks it
        if not count:
            raise CheckpointError("it is truncated: its tensors end early")
        view = view[count:]


def _storage_id(identifier: object) -> tuple[torch.dtype, str, int]:
    """Take apart ("storage", type, key, device, elements[, view])."""
    parts = identifier if isinstance(identifier, tuple) else ()
    if len(parts) not in (5, 6) or parts[0] != "storage" or (len(parts) == 6 and parts[5]):
        raise CheckpointError("the pickle refers to something outside itself that is no tensor")
    _, kind, key, _, elements = parts[:5]
    dtype = STORAGES.get(kind.path) if isinstance(kind, Name) else None
    if dtype is None or not isinstance(key, str) or not isinstance(elements, int):
        what = kind.path if isinstance(kind, Name) else type(kind).__name__
        raise CheckpointError(f"the pickle holds a tensor of the type {what}, which is not read")
    return dtype, key, elements


def _typed(data: Tensor, dtype: torch.dtype, elements: int) -> Tensor:
    """See bytes, uint8 [n], as numbers; [elements]."""
    if data.numel() != elements * dtype.itemsize:
        raise CheckpointError(
            f"the pickle holds a tensor of {shown(elements)} values of {dtype} "
            f"in {data.numel()} bytes"
        )
    return data.view(dtype)
