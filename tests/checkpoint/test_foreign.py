"""Files of other projects are read as data: what they ask for beyond that is refused by name."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from public import repickled, save_module, trained, yolor_cfg, zipped
from torch import Tensor

from prune.checkpoint.foreign.archive import read_pickle
from prune.checkpoint.foreign.contents import contents
from prune.checkpoint.foreign.parameters import tensors
from prune.checkpoint.foreign.standins import Instance, array
from prune.checkpoint.foreign.weights import read_weights, write_weights
from prune.errors import CheckpointError
from prune.models.sections import parse

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "before torch 1.6"])
def test_tensors_and_containers_are_those_that_torch_reads(
    tmp_path: Path, zip_format: bool
) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    document = {
        "types": [torch.tensor([0, 1, 1]).to(dtype) for dtype in DTYPES],
        "views": (base.t(), base[1:, ::2], base, torch.zeros(0, 3), torch.tensor(7)),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "plain": [None, True, -1, 2**40, 0.5, "text", b"bytes", (1,), {2, 3}, frozenset({4})],
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, b=[2]),
    }
    path = tmp_path / "file.pt"
    torch.save(document, path, _use_new_zipfile_serialization=zip_format)
    _assert_equal(read_pickle(path), document)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_is_read(tmp_path: Path, protocol: int) -> None:
    document = {"a": [torch.ones(3)], "b": ({1}, "x" * 300, 10**30), "c": b"y"}
    torch.save(document, tmp_path / "file.pt", pickle_protocol=protocol)
    _assert_equal(read_pickle(tmp_path / "file.pt"), document)


def _assert_equal(found: object, expected: object) -> None:
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        assert found.dtype == expected.dtype
        assert found.stride() == expected.stride()
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert isinstance(found, dict)
        assert list(found) == list(expected)
        for key in expected:
            _assert_equal(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert isinstance(found, type(expected))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_equal(one, other)
    else:
        assert found == expected


def test_numpy_numbers_become_plain_ones(tmp_path: Path) -> None:
    document = {"float": np.float64(0.25), "int": np.int32(-3), "flag": np.bool_(True)}
    torch.save(document, tmp_path / "file.pt")
    found = read_pickle(tmp_path / "file.pt")
    assert found == {"float": 0.25, "int": -3, "flag": True}
    assert isinstance(found, dict)
    assert [type(value) for value in found.values()] == [float, int, bool]


def test_numpy_arrays_can_be_rebuilt(tmp_path: Path) -> None:
    arrays = [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))]
    torch.save(arrays, tmp_path / "file.pt")
    found = read_pickle(tmp_path / "file.pt")
    assert isinstance(found, list)
    for stored, expected in zip(found, arrays, strict=True):
        assert isinstance(stored, Instance)
        np.testing.assert_array_equal(array(stored), expected)


def test_a_pickled_module_gives_its_state_dict(tmp_path: Path) -> None:
    net = trained(yolor_cfg(), decoding="torch")
    found = contents(read_pickle(save_module(net, tmp_path / "whole.pt")))
    _assert_equal(dict(sorted(found.weights.items())), dict(sorted(net.state_dict().items())))
    assert found.names == ("cat", "dog")
    assert len(found.definitions) == len(net.module_list)
    assert "models.models" not in sys.modules


class _Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda mark: _Call(os.system, f"touch {mark}"), f"{os.system.__module__}.system"),
        (lambda mark: _Call(subprocess.call, ["touch", str(mark)]), "commands.call"),
        (lambda mark: _Call(eval, f"open({str(mark)!r}, 'w')"), "eval"),
        (lambda mark: _Call(exec, f"open({str(mark)!r}, 'w')"), "exec"),
        (lambda mark: _Call(open, str(mark), "w"), "open"),
        (lambda mark: _Call(getattr, "", "join"), "getattr"),
        (lambda mark: _Call(Path.touch, mark), "getattr"),
        (lambda mark: _Call(torch.load, str(mark)), "torch.serialization.load"),
        (lambda mark: _Call(pickle.loads, b"N."), "pickle.loads"),
    ],
    ids=["system", "process", "eval", "exec", "open", "getattr", "method", "load", "pickle"],
)
def test_a_pickle_that_asks_for_more_than_data_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], object], name: str, zip_format: bool
) -> None:
    """Named as in the pickle: protocol 2 writes Python 2's names, `commands` for `subprocess`."""
    mark, path = tmp_path / "mark", tmp_path / "hostile.pt"
    torch.save({"model": make(mark)}, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(CheckpointError, match="asks for") as caught:
        read_pickle(path)
    assert name in str(caught.value)
    assert not mark.exists()


# Pickles written by hand: what no honest program makes.
BY_HAND: dict[str, tuple[bytes, str]] = {
    "global": (b"cos\nsystem\n.", "os.system"),
    "nested name": (b"\x80\x04\x8c\x02os\x8c\x09path.join\x93.", "os.path.join"),
    "method of a layer": (
        b"\x80\x04\x8c\x1atorch.nn.modules.container\x8c\x13Sequential.__init__\x93.",
        "Sequential.__init__",
    ),
    "function of a repository": (b"cmodels.models\nload_weights\n.", "models.models.load_weights"),
    "name that is no text": (b"\x80\x04K\x01K\x02\x93.", "a name is not text"),
    "old instance": (b"(imodels.models\nDarknet\n.", "opcode INST"),
    "old object": (b"(cmodels.models\nDarknet\no.", "opcode OBJ"),
    "extension": (b"\x82\x01.", "opcode EXT1"),
    "call of a value": (b"K\x01)R.", "calls a int"),
    "call of a type that is only named": (b"c__builtin__\nint\n(K\x05tR.", "builtins.int"),
    "stand-in of a tensor function": (
        b"ccopyreg\n_reconstructor\n(ctorch._utils\n_rebuild_tensor_v2\ntR.",
        "_rebuild_tensor_v2",
    ),
    "state of a number": (b"K\x01}b.", "a int is given a state"),
    "state of a function": (b"ctorch._utils\n_rebuild_parameter\n}b.", "a Name is given a state"),
    "items of a number": (b"K\x01K\x02a.", "appended to a int"),
    "entries of a list": (b"]K\x01K\x02s.", "set in a list"),
    "list as a key": (b"}]K\x01s.", "a list is used as a key"),
    "deep tuple as a key": (b"}" + b")" + b"\x85" * 5_000 + b"K\x01s.", "used as a key"),
    "deep call": (
        b")" + b"ctorch._tensor\n_rebuild_from_type_v2\n" * 3 + b"NNNNt.",
        "broken",
    ),
    "no end": (b"K\x01", "broken"),
    "empty stack": (b"0.", "stack is empty"),
    "unknown memo": (b"h\x05.", "broken"),
    "mark as a value": (b"(\x85.", "stack is empty"),
    "huge text": (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", "broken"),
    "foreign reference": (b"X\x01\x00\x00\x00aQ.", "outside itself"),
    "tensor of nothing": (b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tR.", "a storage"),
    "escape codes": (b"cos\x1b[2J\nx\n.", r"os\x1b[2J.x"),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_a_pickle_made_by_hand_is_refused(tmp_path: Path, case: str) -> None:
    pickled, expected = BY_HAND[case]
    with pytest.raises(CheckpointError) as caught:
        read_pickle(zipped(pickled, tmp_path / "hostile.pt"))
    assert expected in str(caught.value)


def test_naming_a_module_does_not_import_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "utils"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "trap.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    found = read_pickle(zipped(b"cutils.trap\nLayer\n(X\x01\x00\x00\x00atR.", tmp_path / "f.pt"))
    assert isinstance(found, Instance)
    assert found.kind == "utils.trap.Layer"
    assert not (tmp_path / "mark").exists()
    assert "utils.trap" not in sys.modules


def test_calling_a_stand_in_does_nothing(tmp_path: Path) -> None:
    pickled = b"c__main__\nDarknet\n(X\x01\x00\x00\x00atR}X\x01\x00\x00\x00bK\x01sb."
    found = read_pickle(zipped(pickled, tmp_path / "f.pt"))
    assert isinstance(found, Instance)
    assert (found.kind, found.args, found.state) == ("__main__.Darknet", (), {"b": 1})


def test_a_module_that_contains_itself_ends(tmp_path: Path) -> None:
    pickled = (
        b"cmodels.models\nDarknet\n)\x81q\x00}X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00ah\x00ssb."
    )
    found = read_pickle(zipped(pickled, tmp_path / "f.pt"))
    with pytest.raises(CheckpointError, match="more than 10,000 modules"):
        contents(found)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"K\x05\x85", b"K\x09\x85", r"size \(9,\) that ends at element 8 of a storage of 5"),
        (b"K\x05t", b"K\x09t", "9 values of torch.float32 in 20 bytes"),
        (b"FloatStorage", b"HalfStorage", "5 values of torch.float16 in 20 bytes"),
    ],
    ids=["size", "elements", "type"],
)
def test_a_tensor_beyond_its_storage_is_refused(
    tmp_path: Path, old: bytes, new: bytes, expected: str
) -> None:
    torch.save({"w": torch.ones(5)}, tmp_path / "good.pt")
    path = repickled(tmp_path / "good.pt", tmp_path / "bad.pt", old=old, new=new)
    with pytest.raises(CheckpointError, match=expected):
        read_pickle(path)


def test_weights_that_claim_more_than_is_stored_are_refused(tmp_path: Path) -> None:
    huge = torch.ones(1).expand(1 << 40)  # no bytes, a terabyte once computed with
    torch.save({"module_list.0.Conv2d.weight": huge}, tmp_path / "f.pt")
    with pytest.raises(CheckpointError, match="more than the file holds"):
        contents(read_pickle(tmp_path / "f.pt"))


def _without(path: Path, name: str) -> Path:
    with zipfile.ZipFile(path) as archive:
        kept = {i.filename: archive.read(i) for i in archive.infolist() if name not in i.filename}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in kept.items():
            archive.writestr(entry, data)
    return path


def _compressed(path: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return path


def _cut(path: Path, end: int) -> Path:
    path.write_bytes(path.read_bytes()[:end])
    return path


def _flipped(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    place = data.index(struct.pack("<3f", 1.0, 1.0, 1.0))
    data[place] ^= 1
    path.write_bytes(data)
    return path


DAMAGED: dict[str, tuple[bool, Callable[[Path], Path], str]] = {
    "missing": (True, lambda path: path.with_name("no.pt"), "cannot read"),
    "folder": (True, lambda path: path.parent, "Is a directory"),
    "empty": (True, lambda path: _cut(path, 0), "is empty"),
    "zip cut": (True, lambda path: _cut(path, -500), "a damaged archive"),
    "bit": (True, _flipped, "a damaged archive"),
    "no values": (True, lambda path: _without(path, "data/0"), "values are not in it"),
    "no pickle": (True, lambda path: _without(path, "data.pkl"), "none that torch.save writes"),
    "compressed": (True, _compressed, "is compressed"),
    "old cut in the values": (False, lambda path: _cut(path, -9), "truncated"),
    "old cut in the pickle": (False, lambda path: _cut(path, 150), "broken"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, case: str) -> None:
    zip_format, damage, expected = DAMAGED[case]
    path = tmp_path / "file.pt"
    torch.save({"w": torch.ones(50)}, path, _use_new_zipfile_serialization=zip_format)
    path = damage(path)
    with pytest.raises(CheckpointError) as caught:
        read_pickle(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


TWO_LAYERS = """
[net]
channels=1
[convolutional]
batch_normalize=1
filters=2
size=1
activation=linear
[convolutional]
filters=6
size=1
activation=linear
[yolo]
anchors=4,4
classes=1
"""


def test_weights_are_laid_out_as_darknet_lays_them_out(tmp_path: Path) -> None:
    """Header, then a layer's bias, scale, mean, variance and kernel, then the next layer's."""
    path = tmp_path / "two.weights"
    path.write_bytes(struct.pack("<iiiq28f", 0, 2, 5, 32, *range(1, 29)))
    found = read_weights(path, parse(TWO_LAYERS))
    plain = {name: tensor.flatten().tolist() for name, tensor in found.items()}
    assert plain == {
        "module_list.0.BatchNorm2d.bias": [1, 2],
        "module_list.0.BatchNorm2d.weight": [3, 4],
        "module_list.0.BatchNorm2d.running_mean": [5, 6],
        "module_list.0.BatchNorm2d.running_var": pytest.approx([7 - 9e-5, 8 - 9e-5]),
        "module_list.0.Conv2d.weight": [9, 10],
        "module_list.1.Conv2d.bias": [*range(11, 17)],
        "module_list.1.Conv2d.weight": [*range(17, 29)],
    }


def test_headers_before_version_2_count_images_in_four_bytes(tmp_path: Path) -> None:
    path = tmp_path / "old.weights"
    path.write_bytes(struct.pack("<iiii28f", 0, 1, 0, 32, *range(1, 29)))
    assert read_weights(path, parse(TWO_LAYERS))["module_list.1.Conv2d.weight"].sum() == sum(
        range(17, 29)
    )


@pytest.mark.parametrize("variance", [1.0, 1e-3, 5e-5, 0.0])
def test_darknets_epsilon_is_moved_into_the_numbers(tmp_path: Path, variance: float) -> None:
    """Darknet divides by sqrt(variance + 1e-5), we by sqrt(running_var + 1e-4)."""
    path = tmp_path / "net.weights"
    numbers = (0.0, 0.0, 3.0, 3.0, 0.0, 0.0, variance, variance, *range(20))
    path.write_bytes(struct.pack("<iiiq28f", 0, 2, 5, 0, *numbers))
    found = read_weights(path, parse(TWO_LAYERS))
    scale = found["module_list.0.BatchNorm2d.weight"].double()
    ours = found["module_list.0.BatchNorm2d.running_var"].double()
    assert ours.min() >= 0
    factor = scale / (ours + 1e-4).sqrt()
    assert factor.tolist() == pytest.approx([3.0 / (variance + 1e-5) ** 0.5] * 2, rel=1e-6)


def test_writing_and_reading_weights_are_each_others_inverse(tmp_path: Path) -> None:
    net = trained(yolor_cfg(), decoding="torch")
    write_weights(tmp_path / "net.weights", net.state_dict(), net.sections)
    found = read_weights(tmp_path / "net.weights", net.sections)
    assert list(found) == list(tensors(net.sections))
    for name, tensor in found.items():
        assert torch.allclose(tensor, net.state_dict()[name], rtol=1e-6, atol=1e-6), name


@pytest.mark.parametrize("kind", ["none", "per_feature", "per_channel"])
def test_tensors_of_a_cfg_are_those_of_the_network(kind: str) -> None:
    text = yolor_cfg().replace("[shortcut]", f"[shortcut]\nweights_type={kind}")
    net = trained(text, decoding="torch")
    built = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert tensors(net.sections) == {
        name: shape for name, shape in built.items() if not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"\x00" * 12, "no checkpoint"),
        (b"#!/bin/sh\necho this is not a network\n", "no checkpoint"),
        (struct.pack("<iiiq", 0, 2, 5, 0) + b"\x00" * 30, "truncated"),
        (
            struct.pack("<iiiq8f", 0, 2, 5, 0, *range(8)),
            r"holds 8 numbers and the cfg asks for 28; they end in module_list.0.Conv2d.weight",
        ),
        (struct.pack("<iiiq30f", 0, 2, 5, 0, *range(30)), "holds 30 numbers and the cfg asks for"),
    ],
    ids=["empty", "short", "script", "within a number", "too few", "too many"],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "bad.weights"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=expected):
        read_weights(path, parse(TWO_LAYERS))
