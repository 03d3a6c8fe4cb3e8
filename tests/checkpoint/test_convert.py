"""prune whole: every kind of public checkpoint computes here what it computed there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from public import (
    difference,
    draw_image,
    save_module,
    save_state_dict,
    trained,
    yolor_cfg,
    yolov3_tiny_cfg,
)

from prune import checkpoint
from prune.checkpoint.convert import import_foreign
from prune.checkpoint.foreign.structure import from_definitions
from prune.cli import main
from prune.common.size import Size
from prune.core.cost.macs import count
from prune.errors import CheckpointError, ExportError, InputError
from prune.export import WholeConfig, onnx, to_checkpoint
from prune.export.darknet import write_darknet
from prune.models.darknet import Darknet
from prune.models.sections import parse

LEGACY = Path(__file__).parents[3] / "shared" / "reference" / "legacy"


@pytest.fixture(scope="module")
def net() -> Darknet:
    """The network as its trainer had it; what every reading of a file of it must equal."""
    return trained(yolor_cfg(), decoding="torch")


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    """The cfg as published: it does not tell its decoding."""
    path = tmp_path / "net.cfg"
    path.write_text(yolor_cfg())
    return path


def read(path: Path, cfg: Path | None = None) -> Darknet:
    return checkpoint.network(import_foreign(path, cfg=cfg))


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_a_trainers_state_dict_is_read(net: Darknet, cfg: Path, prefix: str) -> None:
    path = save_state_dict(net, cfg.with_name("net.pt"), prefix=prefix)
    assert difference(read(path, cfg), net) == 0.0


def test_half_precision_weights_are_read(net: Darknet, cfg: Path) -> None:
    path = save_state_dict(net, cfg.with_name("net.pt"), half=True)
    found = import_foreign(path, cfg=cfg)
    assert all(t.dtype == torch.float32 for t in found.model.values() if t.is_floating_point())
    assert 0 < difference(checkpoint.network(found), net) < 0.2  # pixels


def test_a_bare_state_dict_is_read(net: Darknet, cfg: Path) -> None:
    torch.save(net.state_dict(), cfg.with_name("net.pt"))
    assert difference(read(cfg.with_name("net.pt"), cfg), net) == 0.0


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: (state, 12)])
def test_the_average_is_taken_before_the_last_weights(
    net: Darknet, cfg: Path, wrap: Callable[[object], object]
) -> None:
    last = trained(yolor_cfg(), decoding="torch", seed=1).state_dict()
    torch.save({"model": last, "ema": wrap(net.state_dict())}, cfg.with_name("net.pt"))
    assert difference(read(cfg.with_name("net.pt"), cfg), net) == 0.0


def test_an_empty_average_is_passed_over(net: Darknet, cfg: Path) -> None:
    torch.save({"model": net.state_dict(), "ema": None}, cfg.with_name("net.pt"))
    assert difference(read(cfg.with_name("net.pt"), cfg), net) == 0.0


def test_files_of_old_torch_are_read(net: Darknet, cfg: Path) -> None:
    path = cfg.with_name("old.pt")
    torch.save({"model": net.state_dict()}, path, _use_new_zipfile_serialization=False)
    assert difference(read(path, cfg), net) == 0.0


@pytest.mark.parametrize("own_cfg", [True, False], ids=["module_defs", "--cfg"])
def test_a_pickled_module_is_read(net: Darknet, cfg: Path, own_cfg: bool) -> None:
    path = save_module(net, cfg.with_name("whole.pt"), definitions=own_cfg)
    found = import_foreign(path, cfg=None if own_cfg else cfg)
    assert difference(checkpoint.network(found), net) == 0.0
    assert found.names == ["cat", "dog"], "the pickled module knew them"


@torch.no_grad()
def pruned(net: Darknet, *, silenced: bool) -> Darknet:
    """Take channels 1 and 5 out of the bottleneck in layer 2, or only silence them there."""
    kept = torch.tensor([0, 2, 3, 4, 6, 7])
    copy = trained(yolor_cfg(), decoding="torch")
    copy.load_state_dict(net.state_dict())
    inner, outer = copy.module_list[2], copy.module_list[3].Conv2d
    assert isinstance(outer, torch.nn.Conv2d)
    tensors = {**dict(inner.named_parameters()), **dict(inner.named_buffers())}
    for name, tensor in tensors.items():
        if silenced and name in ("BatchNorm2d.weight", "BatchNorm2d.bias"):
            tensor[[1, 5]] = 0  # silu(0) is 0: the layer behind gets nothing from them
        elif not silenced and tensor.dim():
            tensor.data = tensor.data[kept]
    if not silenced:
        outer.weight.data = outer.weight.data[:, kept]
    return copy


@pytest.mark.parametrize("structure", ["module_defs", "--cfg", "match"])
def test_an_already_pruned_module_gets_the_cfg_that_fits(
    net: Darknet, cfg: Path, structure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cfg, wherever from, is that of the network before the cut; the tensors know better."""
    narrow = pruned(net, silenced=False)
    path = save_module(narrow, cfg.with_name("pruned.pt"), definitions=structure == "module_defs")
    if structure == "match":
        folder(cfg.parent / "cfg", yolor=yolor_cfg(), other=yolov3_tiny_cfg())
        monkeypatch.chdir(cfg.parent)
    found = import_foreign(path, cfg=cfg if structure == "--cfg" else None)
    assert parse(found.cfg)[3].options["filters"] == "6"
    assert difference(checkpoint.network(found), pruned(net, silenced=True)) < 1e-4


def folder(path: Path, **texts: str) -> Path:
    path.mkdir()
    for name, text in texts.items():
        (path / f"{name}.cfg").write_text(text)
    return path


def test_a_state_dict_without_cfg_is_matched_by_its_layers(
    net: Darknet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"wide": yolor_cfg(classes=80, width=16), "broken": "[nonsense]\n"}
    folder(tmp_path / "cfg", yolov3=yolov3_tiny_cfg(), **texts)
    monkeypatch.chdir(tmp_path)
    found = import_foreign(save_state_dict(net, tmp_path / "net.pt"))
    assert difference(checkpoint.network(found), net) == 0.0
    assert found.names == ["0", "1"], "classes are counted from the heads"
    notes = found.history[-1]["notes"]
    assert notes == [
        f"structure from {Path('cfg/wide.cfg')}, whose layers match",
        "widths from the weights: 9 layers differ from the cfg",
        "boxes decode by sigmoid, as the implicit layers are those of YOLOR; if that is wrong, "
        "give --decoding exp",
    ]


def test_cfgs_that_would_differ_are_not_guessed_between(
    net: Darknet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "cfg", one=yolor_cfg(), two=yolor_cfg().replace("silu", "mish"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"one\.cfg, two\.cfg all have these layers"):
        import_foreign(save_state_dict(net, tmp_path / "net.pt"))


@pytest.mark.parametrize("make", [yolor_cfg, yolov3_tiny_cfg], ids=["yolor", "yolov3"])
def test_darknet_weights_are_read_with_darknets_decoding(
    tmp_path: Path, make: Callable[[], str]
) -> None:
    there = trained(make(), decoding="darknet")
    cfg, weights, _ = write_darknet(there, tmp_path / "net.cfg")
    back = read(weights, cfg)
    assert difference(back, there) < 1e-4
    assert not any(head.new_coords for head in back.heads)


def test_public_code_decodes_its_own_way_whatever_the_cfg_says(net: Darknet, cfg: Path) -> None:
    """Reference: xy = (2p - 0.5 + cell) stride, wh = (2p)^2 anchor; the cfg has scale_x_y=1.05."""
    back = read(save_state_dict(net, cfg.with_name("net.pt")), cfg)
    raw = torch.full((1, 21, 1, 1), 0.3)
    p = torch.tensor(0.3).sigmoid()
    box = back.heads[0].decode(raw)[0, 0]  # anchor 24 x 16, stride 8
    expected = torch.stack([(2 * p - 0.5) * 8, (2 * p - 0.5) * 8, (2 * p) ** 2 * 24])
    assert torch.allclose(box[:3], expected)


def test_our_own_checkpoint_comes_back_with_new_names(net: Darknet, tmp_path: Path) -> None:
    own = checkpoint.capture(net, names=["a", "b"], imgsz=64, history=[{"command": "train"}])
    checkpoint.save(own, tmp_path / "own.pt")
    again = import_foreign(tmp_path / "own.pt", names=["c", "d"], imgsz=128)
    assert (again.names, again.imgsz, again.cfg) == (["c", "d"], Size.of(128), own.cfg)
    assert [entry["command"] for entry in again.history] == ["train", "whole"]


def test_history_tells_where_the_network_is_from(net: Darknet, cfg: Path) -> None:
    path = save_state_dict(net, cfg.with_name("net.pt"))
    (entry,) = import_foreign(path, cfg=cfg).history
    assert entry["read"] == "state dict under 'model'"
    assert entry["parent"] == checkpoint.digest(path)
    assert entry["params"] == sum(p.numel() for p in net.parameters())
    assert entry["macs"] == count(net, (1, 3, 64, 64)).macs
    assert entry["plan"] is None, "what was cut elsewhere is no plan of ours"


@pytest.mark.parametrize("name", ["whole_model.pt", "state_dict.pt"])
def test_files_of_the_public_code_give_its_outputs(name: str) -> None:
    if not LEGACY.is_dir():
        pytest.skip("the public code's own files are not here")
    expected = np.load(LEGACY / "expected.npz")
    back = read(LEGACY / name, None if name == "whole_model.pt" else LEGACY / "eighth.cfg")
    with torch.no_grad():
        maps = back(torch.from_numpy(expected["image"]))
        decoded = back.decode(maps).numpy()
    for index, (head, found) in enumerate(zip(back.heads, maps, strict=True)):
        assert np.abs(head.split(found).numpy() - expected[f"raw{index}"]).max() < 1e-5
    assert np.abs(decoded - expected["decoded"]).max() < 1e-5


# The command line.


def test_command_writes_a_checkpoint_and_says_what_it_read(
    net: Darknet, cfg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = save_state_dict(net, cfg.with_name("net.pt")), cfg.with_name("whole.pt")
    words = ["--weights", str(path), "--cfg", str(cfg), "--names", "cat,dog", "--out", str(out)]
    assert main(["whole", *words]) == 0
    printed = capsys.readouterr().out
    for expected in ("state dict under 'model'", str(cfg), "18 layers", "2: cat, dog", "64 pixels"):
        assert expected in printed
    found = checkpoint.load(out)
    assert found.names == ["cat", "dog"]
    assert difference(checkpoint.network(found), net) == 0.0


@pytest.mark.parametrize("named", [True, False])
def test_weights_without_class_names_are_noted(
    net: Darknet, cfg: Path, capsys: pytest.CaptureFixture[str], named: bool
) -> None:
    path, out = save_state_dict(net, cfg.with_name("net.pt")), cfg.with_name("whole.pt")
    words = ["--weights", str(path), "--cfg", str(cfg), "--out", str(out)]
    assert main(["whole", *words, *(["--names", "0,1"] if named else [])]) == 0
    said = "has no class names: they are numbers, from 0 to 1; --names FILE"
    assert (said in capsys.readouterr().err) != named


def test_json_is_one_document(net: Darknet, cfg: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = save_module(net, cfg.with_name("net.pt")), cfg.with_name("whole.pt")
    words = ["--weights", str(path), "--img-size", "96", "--out", str(out), "--json"]
    assert main(["whole", *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["names"] == ["cat", "dog"]
    assert (document["imgsz"], document["out"], document["onnx"]) == (96, str(out), None)


@pytest.mark.parametrize("source", ["file", "data"])
def test_names_come_from_a_file_or_a_data_set(net: Darknet, cfg: Path, source: str) -> None:
    folder = cfg.parent
    (folder / "classes.names").write_text("red blood cell\n\nplatelet\n")
    (folder / "data.yaml").write_text(
        "train: images that are elsewhere\nnames: [red blood cell, platelet]\n"
    )
    given = {
        "file": ["--names", str(folder / "classes.names")],
        "data": ["--data", str(folder / "data.yaml")],
    }
    path, out = save_module(net, folder / "net.pt"), folder / "whole.pt"
    assert main(["whole", "--weights", str(path), "--out", str(out), *given[source]]) == 0
    assert checkpoint.load(out).names == ["red blood cell", "platelet"]


def test_onnx_is_of_the_network_that_was_read(net: Darknet, cfg: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path, out = save_state_dict(net, cfg.with_name("net.pt")), cfg.with_name("whole.pt")
    words = ["--weights", str(path), "--cfg", str(cfg), "--out", str(out), "--onnx"]
    assert main(["whole", *words]) == 0
    session = onnxruntime.InferenceSession(str(out.with_suffix(".onnx")))
    (found,) = session.run(None, {"images": draw_image().numpy()})
    with torch.no_grad():
        expected = net.decode(net(draw_image())).numpy()
    assert np.abs(found - expected).max() < 1e-3


def test_without_its_onnx_file_no_checkpoint_is_written_either(
    net: Darknet, cfg: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise ExportError("torch cannot write it")

    monkeypatch.setattr(onnx, "export", failing)
    path, out = save_state_dict(net, cfg.with_name("net.pt")), cfg.parent / "new" / "whole.pt"
    words = ["--weights", str(path), "--cfg", str(cfg), "--out", str(out), "--onnx"]
    assert main(["whole", *words]) == ExportError.exit_code
    assert "torch cannot write it" in capsys.readouterr().err
    assert not out.parent.exists()


class Hostile:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _torch(path: Path, document: object) -> Path:
    torch.save(document, path)
    return path


def _with(path: Path, name: str, tensor: torch.Tensor) -> Path:
    document = torch.load(path, weights_only=False)
    document["model"][name] = tensor
    return _torch(path, document)


KERNEL = "module_list.3.Conv2d.weight"

# What happens to a good file and which options come with it -> what is said.
WRONG: dict[str, tuple[Callable[[Path], Path], list[str], str]] = {
    "missing": (lambda path: path.with_name("no.pt"), [], "cannot read"),
    "folder": (lambda path: path.parent, [], "Is a directory"),
    "empty": (lambda path: _bytes(path, b""), [], "is empty"),
    "truncated": (lambda path: _bytes(path, path.read_bytes()[:9000]), [], "a damaged archive"),
    "text": (lambda path: _bytes(path, b"hello"), [], "no checkpoint"),
    "another network": (
        lambda path: _torch(path, {"model": {"conv1.weight": torch.ones(1)}}),
        [],
        "tensors such as conv1.weight",
    ),
    "nothing": (lambda path: _torch(path, [1, 2]), [], "no Darknet network: no tensors"),
    "hostile": (
        lambda path: _torch(path, {"model": Hostile(path.with_name("mark"))}),
        [],
        f"asks for {os.system.__module__}.system",
    ),
    "misfit": (
        lambda path: _with(path, KERNEL, torch.zeros(16, 5, 3, 3)),
        [],
        f"{KERNEL} is [16, 5, 3, 3] in the file but the cfg says [16, 8, 3, 3]",
    ),
    "unknown layer": (
        lambda path: _with(path, "module_list.4.Conv2d.weight", torch.zeros(1)),
        [],
        "module_list.4.Conv2d.weight is [1] in the file but the cfg has no such layer",
    ),
    "no class count": (
        lambda path: _with(path, "module_list.12.Conv2d.weight", torch.zeros(20, 32, 1, 1)),
        [],
        "20 is not 3 anchors x (5 + classes)",
    ),
    "two class counts": (
        lambda path: _with(path, "module_list.12.Conv2d.weight", torch.zeros(24, 32, 1, 1)),
        [],
        "different numbers of classes",
    ),
    "not a number": (
        lambda path: _with(path, "module_list.8.implicit", torch.full((1, 32, 1, 1), torch.nan)),
        [],
        "module_list.8.implicit holds 32 values that are NaN or infinite",
    ),
    "names": (
        lambda path: path,
        ["--names", "cat"],
        "2 classes, but 1 class name was given (cat); ",
    ),
    "no names": (lambda path: path, ["--names", " , "], "names no class"),
    "size": (lambda path: path, ["--img-size", "100"], "multiple of the network's stride, 8"),
    "missing cfg": (lambda path: path, ["--cfg", "no.cfg"], "cannot read no.cfg"),
    "missing data": (lambda path: path, ["--data", "no.yaml"], "no.yaml"),
    "itself": (lambda path: path, ["--out", "net.pt"], "is also --weights"),
    "out": (lambda path: path, ["--out", "net.pt/in.pt"], "cannot write"),
    "weights without cfg": (
        lambda path: _bytes(path.with_name("other.weights"), b"\0" * 40),
        ["--cfg", ""],
        "a Darknet file holds numbers only; name its cfg, e.g. --cfg other.cfg",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_exit_2_and_nothing_written(
    net: Darknet,
    cfg: Path,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(cfg.parent)
    damage, options, expected = WRONG[case]
    path = damage(save_state_dict(net, Path("net.pt").absolute()))
    before = {file: file.stat().st_mtime_ns for file in cfg.parent.iterdir()}
    words = ["--weights", str(path), "--cfg", cfg.name, *options]
    if "" in words:
        words = [word for word in words if word not in ("--cfg", cfg.name, "")]
    assert main(["whole", *words]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.startswith("prune: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert {file: file.stat().st_mtime_ns for file in cfg.parent.iterdir()} == before


def test_library_raises_what_the_command_prints(net: Darknet, cfg: Path) -> None:
    path = save_state_dict(net, cfg.with_name("net.pt"))
    with pytest.raises(InputError, match=r"size is -8; .* stride, 8"):
        import_foreign(path, cfg=cfg, imgsz=-8)
    with pytest.raises(CheckpointError, match="2 classes, but 3 class names were given"):
        import_foreign(path, cfg=cfg, names=["a", "b", "c"])


@pytest.mark.parametrize(
    "value",
    [[[0] * 9], 10**5000, "x" * 20_000, {"a": 1}, None],
    ids=["nested", "endless number", "endless text", "mapping", "nothing"],
)
def test_a_pickles_own_cfg_holds_words_and_numbers_only(value: object) -> None:
    definitions: list[dict[object, object]] = [{"type": "convolutional", "filters": value}]
    with pytest.raises(
        CheckpointError, match=r"the pickle's module_defs hold .* words and numbers"
    ):
        from_definitions(definitions, imgsz=Size.of(64))


@pytest.mark.parametrize("random", [False, True])
def test_the_function_returns_what_the_command_prints(
    net: Darknet, cfg: Path, capsys: pytest.CaptureFixture[str], random: bool
) -> None:
    path, out = save_state_dict(net, cfg.with_name("net.pt")), cfg.with_name("whole.pt")
    words = ["--random"] if random else ["--weights", str(path)]
    assert main(["whole", *words, "--cfg", str(cfg), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = checkpoint.load(out)
    weights = None if random else path
    result = to_checkpoint(WholeConfig(weights=weights, cfg=cfg, random=random, out=out))
    assert json.loads(json.dumps(result.document())) == printed
    assert result.names == tuple(written.names)
    assert all(
        torch.equal(checkpoint.load(out).model[name], written.model[name]) for name in written.model
    )
    assert capsys.readouterr().out == ""
