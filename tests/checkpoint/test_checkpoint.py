"""Checkpoints: what is saved comes back, and nothing else is taken for one."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from public import difference, trained, yolor_cfg

from prune import checkpoint
from prune.checkpoint import TRAINING_KEYS, Checkpoint
from prune.common.size import Size
from prune.errors import CfgError, CheckpointError, InputError

HISTORY = [{"command": "conv", "plan": {"cuts": []}, "params": 12, "parent": "ab" * 32}]


@pytest.fixture
def tiny() -> Checkpoint:
    net = trained(yolor_cfg(), decoding="torch")
    return checkpoint.capture(net, names=["cat", "dog"], imgsz=64)


@pytest.fixture
def saved(tiny: Checkpoint, tmp_path: Path) -> Path:
    checkpoint.save(tiny, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def test_a_network_comes_back_as_it_was(tmp_path: Path) -> None:
    net = trained(yolor_cfg(), decoding="torch")
    taken = checkpoint.capture(net, names=["cat", "dog"], imgsz=64, history=HISTORY)
    checkpoint.save(taken, tmp_path / "a.pt")
    back = checkpoint.load(tmp_path / "a.pt")
    assert (back.cfg, back.names, back.imgsz) == (net.cfg_text(), ["cat", "dog"], Size.of(64))
    assert back.history == HISTORY
    assert difference(checkpoint.network(back), net) == 0.0


def test_a_name_that_is_no_utf8_is_read_too(saved: Path, tmp_path: Path) -> None:
    named = saved.rename(tmp_path / os.fsdecode(b"w\xff.pt"))
    assert checkpoint.load(named).names == ["cat", "dog"]


def test_loaded_network_is_ready_for_use(saved: Path) -> None:
    net = checkpoint.network(checkpoint.load(saved))
    assert not net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(not tensor.is_meta for tensor in (*net.parameters(), *net.buffers()))


def test_building_a_network_draws_no_random_numbers(tiny: Checkpoint) -> None:
    before = torch.get_rng_state()
    checkpoint.network(tiny)
    assert torch.equal(torch.get_rng_state(), before)


def test_file_holds_plain_values_that_torch_alone_can_read(saved: Path) -> None:
    document = torch.load(saved, weights_only=True)
    assert set(document) == {
        *("format", "cfg", "model", "names", "imgsz", "history"),
        *TRAINING_KEYS,
    }
    assert document["format"] == "prune/1"
    assert all(document[key] is None for key in TRAINING_KEYS)


def test_training_state_lies_beside_the_weights(tiny: Checkpoint, tmp_path: Path) -> None:
    state = {"epoch": 3, "best_fitness": 0.5, "optimizer": {"state": {0: torch.ones(2)}}}
    checkpoint.save(replace(tiny, training=state), tmp_path / "last.pt")
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 3
    back = checkpoint.load(tmp_path / "last.pt").training
    assert set(back) == {"epoch", "best_fitness", "optimizer"}, "what is None is left out"


def test_equal_networks_make_equal_files(tiny: Checkpoint, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        checkpoint.save(tiny, tmp_path / name)
    assert checkpoint.digest(tmp_path / "a.pt") == checkpoint.digest(tmp_path / "b.pt")


def test_a_view_is_saved_without_what_it_is_a_view_of(tiny: Checkpoint, tmp_path: Path) -> None:
    name = "module_list.0.Conv2d.weight"
    inside = torch.zeros(10_000, *tiny.model[name].shape)
    inside[0] = tiny.model[name]
    checkpoint.save(replace(tiny, model={**tiny.model, name: inside[0]}), tmp_path / "view.pt")
    checkpoint.save(tiny, tmp_path / "plain.pt")
    assert (tmp_path / "view.pt").stat().st_size == (tmp_path / "plain.pt").stat().st_size


def test_half_precision_is_read_as_float32(tiny: Checkpoint, tmp_path: Path) -> None:
    half = {k: t.half() if t.is_floating_point() else t for k, t in tiny.model.items()}
    checkpoint.save(replace(tiny, model=half), tmp_path / "half.pt")
    back = checkpoint.load(tmp_path / "half.pt")
    name = "module_list.0.Conv2d.weight"
    assert torch.equal(back.model[name], half[name].float())


@pytest.mark.parametrize(
    ("history", "pruned"),
    [([], False), ([{"command": "whole", "plan": None}], False), (HISTORY, True)],
    ids=["new", "imported", "cut"],
)
def test_pruned_means_that_a_plan_was_carried_out(
    tiny: Checkpoint, history: list[dict[str, object]], pruned: bool
) -> None:
    assert replace(tiny, history=history).pruned is pruned


def test_network_id_is_of_the_cfg_text_alone(tiny: Checkpoint) -> None:
    assert checkpoint.network_id(tiny.cfg) == checkpoint.network_id(str(tiny.cfg))
    assert checkpoint.network_id(tiny.cfg) != checkpoint.network_id(tiny.cfg + "\n")


def test_a_failed_save_leaves_the_old_file(tiny: Checkpoint, saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(TypeError, match=r"history\[0\].path is a PosixPath"):
        checkpoint.save(replace(tiny, history=[{"path": saved}]), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_target_that_cannot_be_written_is_named(tiny: Checkpoint, saved: Path) -> None:
    with pytest.raises(InputError, match=r"tiny\.pt"):
        checkpoint.save(tiny, saved / "inside.pt")


# Each makes a broken file out of a good one.
BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda path: path.with_name("no.pt"), "cannot read"),
    "folder": (lambda path: path.parent, "Is a directory"),
    "empty": (lambda path: _written(path, b""), "is empty"),
    "truncated": (lambda path: _written(path, path.read_bytes()[:-2000]), "is truncated"),
    "half": (lambda path: _written(path, path.read_bytes()[:5000]), "is truncated"),
    "text": (lambda path: _written(path, b"not a checkpoint"), "prune whole --weights"),
    "public": (lambda path: _torch(path, {"model": {}, "epoch": 1}), "prune whole --weights"),
    "pickle": (lambda path: _torch(path, {"model": Path("x")}), "prune whole --weights"),
    "newer": (lambda path: _changed(path, format="prune/9"), "prune/9"),
    "cfg": (lambda path: _changed(path, cfg=None), "cfg is None; it must be text"),
    "names": (lambda path: _changed(path, names="cat"), "names is 'cat'; it must be a list"),
    "numbered names": (lambda path: _changed(path, names=[1]), "names[0] is 1; it must be text"),
    "half a letter": (lambda path: _changed(path, names=["\ud800"]), "names[0] is"),
    "size": (lambda path: _changed(path, imgsz=0), "imgsz is 0; it must be positive"),
    "size beyond machines": (lambda path: _changed(path, imgsz=2**40), "at most 16384 pixels"),
    "area beyond machines": (lambda path: _changed(path, imgsz=16384), "at most 268,435,456"),
    "history": (lambda path: _changed(path, history=["conv"]), "history[0] is 'conv'"),
    "notes": (lambda path: _changed(path, history=[{"notes": 5}]), "history[0].notes is 5"),
    "laughs": (
        lambda path: _changed(path, history=[{"x": _doubled(40)}]),
        "over 10,000,000 values",
    ),
    "endless": (lambda path: _changed(path, history=[{"x": _nested(99)}]), "nested more than 50"),
    "model": (lambda path: _changed(path, model={"a": 1}), "'a' is no named tensor"),
    "compressed": (lambda path: _compressed(path), "is compressed"),
    "attribute": (lambda path: _opcode(path, b"X", b"a"), "cannot read"),
}


def _doubled(times: int) -> list[object]:
    """Make a list whose items are twice the list below it: 2^times in all."""
    found: list[object] = []
    for _ in range(times):
        found = [found, found]
    return found


def _nested(times: int) -> list[object]:
    found: list[object] = []
    for _ in range(times):
        found = [found]
    return found


def _compressed(path: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def _opcode(path: Path, before: bytes, after: bytes) -> Path:
    """Change the kind of the pickle's first text."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            damaged = data.replace(before, after, 1) if name.endswith("data.pkl") else data
            archive.writestr(name, damaged)
    return path


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _torch(path: Path, document: object) -> Path:
    torch.save(document, path)
    return path


def _changed(path: Path, **changes: object) -> Path:
    return _torch(path, {**torch.load(path, weights_only=True), **changes})


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_checkpoint_is_refused(saved: Path, case: str) -> None:
    make, expected = BROKEN[case]
    path = make(saved)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cfg": "[net]\n[crnn]\n"}, r"the cfg in .*tiny\.pt needs .* \[crnn\] \(line 2\)"),
        ({"names": ["cat"]}, r"tiny\.pt: the network predicts"),
        ({"model": {}}, r"tiny\.pt: the cfg does not fit the weights"),
    ],
    ids=["cfg", "names", "weights"],
)
def test_what_is_wrong_with_a_network_names_its_file(
    saved: Path, change: dict[str, object], said: str
) -> None:
    loaded = checkpoint.load(_changed(saved, **change))
    with pytest.raises(InputError, match=said):
        checkpoint.network(loaded)


KERNEL = "module_list.2.Conv2d.weight"  # [8, 16, 1, 1] in the cfg

MISFITS: dict[str, tuple[dict[str, torch.Tensor | None], str]] = {
    "width": (
        {KERNEL: torch.zeros(7, 16, 1, 1)},
        f"{KERNEL} is [7, 16, 1, 1] in the file but the cfg says [8, 16, 1, 1]",
    ),
    "missing": ({KERNEL: None}, f"{KERNEL} is missing in the file and the cfg says [8, 16, 1, 1]"),
    "too many": ({"module_list.99.w": torch.zeros(3)}, "module_list.99.w is [3] in the file but"),
    "not a number": ({KERNEL: torch.full((8, 16, 1, 1), torch.nan)}, f"{KERNEL} holds 128 values"),
    "infinite": ({"module_list.8.implicit": torch.full((1, 32, 1, 1), torch.inf)}, "infinite"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_weights_that_do_not_fit_are_named_with_both_shapes(tiny: Checkpoint, case: str) -> None:
    changes, expected = MISFITS[case]
    model = {k: t for k, t in {**tiny.model, **changes}.items() if t is not None}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.network(replace(tiny, model=model))
    assert expected in str(caught.value)


def test_large_finite_weights_are_no_fault(tiny: Checkpoint) -> None:
    huge = {**tiny.model, KERNEL: torch.full((8, 16, 1, 1), 3e38)}
    checkpoint.network(replace(tiny, model=huge))


def test_names_are_as_many_as_classes(tiny: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"2 classes, but 1 class name was given \(cat\)"):
        checkpoint.network(replace(tiny, names=["cat"]))


def test_networks_for_other_images_than_rgb_are_refused(tiny: Checkpoint) -> None:
    grey = tiny.cfg.replace("channels=3", "channels=1")
    with pytest.raises(CfgError, match=r"line 1, \[net\] channels: is 1; images are RGB"):
        checkpoint.network(replace(tiny, cfg=grey))


def test_an_archive_in_several_parts_is_refused_by_name(tmp_path: Path) -> None:
    """Python's own zipfile raises where it only asks whether a file is an archive."""
    path = tmp_path / "w.pt"
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 5)  # of an archive of five disks
    path.write_bytes(b"PK\3\4" + bytes(60) + locator + b"PK\5\6" + bytes(18))
    with pytest.raises(CheckpointError, match=r"cannot read .*w\.pt: it is a damaged archive"):
        checkpoint.load(path)
