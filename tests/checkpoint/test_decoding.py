"""Weights do not tell how they decode: what the cfg spells out counts, then what the file shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from public import difference, save_module, save_state_dict, trained, yolor_cfg, yolov3_tiny_cfg
from torch import Tensor

from prune import checkpoint
from prune.checkpoint.convert import Reading, import_foreign, open_weights
from prune.checkpoint.foreign.decoding import RULES
from prune.cli import main
from prune.errors import CheckpointError
from prune.models.darknet import Darknet
from prune.models.head import Yolo

# The cfg of YOLOv4-CSP: no implicit layer, scale_x_y=1.05, nothing of new_coords.
CSP = """
[net]
width=32
height=32
[convolutional]
batch_normalize=1
filters=4
size=3
stride=8
pad=1
activation=mish
[convolutional]
filters=18
size=1
activation=linear
[yolo]
mask=0,1,2
anchors=5,6, 9,12, 20,16
classes=1
num=3
scale_x_y=1.05
"""
V3 = CSP.replace("scale_x_y=1.05\n", "")
YOLOR_KEYS: dict[str, object] = {
    "epoch": 3,
    "best_fitness": 0.1,
    "best_fitness_p": 0.2,
    "wandb_id": None,
}
V3_KEYS: dict[str, object] = {
    "epoch": -1,
    "best_fitness": None,
    "training_results": None,
    "optimizer": None,
}


def state(text: str, *, seed: int = 0) -> dict[str, Tensor]:
    return trained(text, decoding="darknet", seed=seed).state_dict()


def write(folder: Path, text: str, document: object) -> tuple[Path, Path]:
    (folder / "net.cfg").write_text(text)
    torch.save(document, folder / "net.pt")
    return folder / "net.pt", folder / "net.cfg"


def head(path: Path, cfg: Path, decoding: str | None = None) -> tuple[Yolo, str]:
    found = import_foreign(path, cfg=cfg, decoding=decoding)
    notes = found.history[-1]["notes"]
    assert isinstance(notes, list)
    return checkpoint.network(found).heads[0], notes[-1]


# cfg, what the file holds beside the weights -> decoding, scale, a word of the reason.
CASES: dict[str, tuple[str, dict[str, object], bool, float, str]] = {
    "YOLOR's trainer": (CSP, YOLOR_KEYS, True, 2.0, "keys of YOLOR's trainer"),
    "YOLOR's trainer, a YOLOv3 cfg": (V3, YOLOR_KEYS, True, 2.0, "keys of YOLOR's trainer"),
    "YOLOv4-CSP, nothing known": (CSP, {}, True, 2.0, "neither cfg nor file says so"),
    "YOLOv3": (V3, V3_KEYS, False, 1.0, "no scale_x_y but 1"),
    "YOLOv3, nothing known": (V3, {}, False, 1.0, "no scale_x_y but 1"),
    "Yolo-Fastest": (f"{V3}scale_x_y=1.00\n", {}, False, 1.0, "no scale_x_y but 1"),
    "new_coords=0": (f"{CSP}new_coords=0\n", YOLOR_KEYS, False, 1.05, "cfg has new_coords=0"),
    "new_coords=0 alone": (f"{V3}new_coords=0\n", {}, False, 1.0, "cfg has new_coords=0"),
    "new_coords=1": (f"{V3}new_coords=1\n", V3_KEYS, True, 2.0, "cfg has new_coords=1"),
    "new_coords=1 and scale": (f"{CSP}new_coords=1\n", {}, True, 1.05, "cfg has new_coords=1"),
}


@pytest.mark.parametrize("case", CASES)
def test_decoding_is_what_cfg_or_file_say(tmp_path: Path, case: str) -> None:
    text, beside, sigmoid, scale, reason = CASES[case]
    path, cfg = write(tmp_path, text, {**beside, "model": state(V3)})
    found, note = head(path, cfg)
    assert (found.new_coords, found.scale_x_y) == (sigmoid, scale)
    assert reason in note
    assert f"--decoding {'exp' if sigmoid else 'sigmoid'}" in note


@pytest.mark.parametrize("text", [CSP, V3, f"{CSP}new_coords=1\n", f"{CSP}new_coords=0\n"])
@pytest.mark.parametrize("decoding", ["exp", "sigmoid"])
def test_the_option_overrides_all(tmp_path: Path, text: str, decoding: str) -> None:
    path, cfg = write(tmp_path, text, {**YOLOR_KEYS, "model": state(V3)})
    found, note = head(path, cfg, decoding)
    keeps = decoding == "exp" and "scale_x_y" in text and "new_coords=1" not in text
    scale = 1.05 if keeps else {"exp": 1.0, "sigmoid": 2.0}[decoding]
    assert (found.new_coords, found.scale_x_y) == (decoding == "sigmoid", scale)
    said = " with scale_x_y=1.05" if keeps else ""
    assert note == f"boxes decode by {decoding}{said}, as --decoding says"


def test_one_known_cell_gives_the_box_it_was_trained_to_give(tmp_path: Path) -> None:
    """A width logit of 1 is 2.718 anchors by exp, and 2.138 by (2 sigmoid)^2."""
    path, cfg = write(tmp_path, f"{CSP}new_coords=0\n", {"model": state(V3)})
    raw = torch.zeros(1, 18, 1, 1)
    raw[:, 2:4] = 1.0
    box = head(path, cfg)[0].decode(raw)[0, 0]
    assert box[2:4].tolist() == pytest.approx([5 * 2.71828, 6 * 2.71828], rel=1e-4)


def test_implicit_layers_are_those_of_yolor(tmp_path: Path) -> None:
    net = trained(yolor_cfg(), decoding="torch")
    text = yolor_cfg().replace("scale_x_y=1.05\n", "")
    path, cfg = write(tmp_path, text, net.state_dict())
    found, note = head(path, cfg)
    assert (found.new_coords, found.scale_x_y) == (True, 2.0)
    assert "implicit layers" in note


@pytest.mark.parametrize(("module", "sigmoid"), [("models.models", True), ("models", False)])
def test_a_pickled_module_decodes_as_its_class_does(
    tmp_path: Path, module: str, sigmoid: bool
) -> None:
    """YOLOR has its class in models/models.py, YOLOv3 in models.py."""
    net = trained(yolov3_tiny_cfg(), decoding="darknet")
    path = save_module(net, tmp_path / "net.pt", module=module)
    found = import_foreign(path)
    assert {head.new_coords for head in checkpoint.network(found).heads} == {sigmoid}


@pytest.mark.parametrize("decoding", [None, "sigmoid"])
def test_darknet_weights_decode_as_darknet_does_or_as_the_option_says(
    tmp_path: Path, decoding: str | None
) -> None:
    from prune.checkpoint.foreign.weights import write_weights

    net = trained(CSP, decoding="darknet")
    write_weights(tmp_path / "net.weights", net.state_dict(), net.sections)
    (tmp_path / "net.cfg").write_text(CSP)
    found, note = head(tmp_path / "net.weights", tmp_path / "net.cfg", decoding)
    assert (found.new_coords, found.scale_x_y) == ((True, 2.0) if decoding else (False, 1.05))
    assert (decoding or "exp") in note


def test_every_rule_has_a_reason_and_the_last_always_holds() -> None:
    assert all(reason.startswith("as ") for _, _, reason in RULES)
    assert RULES[-1][0]([], None)  # type: ignore[arg-type]  # it looks at nothing
    assert len({reason for _, _, reason in RULES}) == len(RULES)


# Tensor names of other projects.


def renamed(
    weights: dict[str, Tensor], conv: str, norm: str, *, root: str = "module_list"
) -> object:
    """Name tensors otherwise; {} in a name is the layer's number."""
    found = {}
    for name, tensor in weights.items():
        layer = name.split(".")[1]
        name = name.replace("Conv2d", conv.format(layer)).replace("BatchNorm2d", norm.format(layer))
        found[name.replace("module_list", root)] = tensor
    return found


NAMINGS = {
    "eriklindernoren": ("conv_{}", "batch_norm_{}", "module_list"),
    "numbered": ("0", "1", "module_list"),
    "Tianxiaomo's Darknet": ("conv{}", "bn{}", "models"),
    "wrapped": ("conv_{}", "batch_norm_{}", "module.net.module_list"),
}


@pytest.mark.parametrize("case", NAMINGS)
def test_other_names_are_read_with_their_epsilon_and_exp(tmp_path: Path, case: str) -> None:
    """Their BatchNorms have torch's epsilon of 1e-5; ours has 1e-4, so that the numbers differ."""
    conv, norm, root = NAMINGS[case]
    theirs = trained(V3, decoding="darknet")
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-5
            module.running_var.fill_(1e-3)  # type: ignore[union-attr]  # where it shows
    document = renamed(theirs.state_dict(), conv, norm, root=root)
    path, cfg = write(tmp_path, V3, document)
    net = checkpoint.network(import_foreign(path, cfg=cfg))
    assert difference(net, theirs) < 1e-3
    assert not any(head.new_coords for head in net.heads)
    notes = str(import_foreign(path, cfg=cfg).history[-1]["notes"])
    assert "epsilon of 1e-05 went into the variances" in notes


def test_a_port_that_heeds_scale_x_y_keeps_it(tmp_path: Path) -> None:
    path, cfg = write(tmp_path, CSP, renamed(state(V3), "conv{}", "bn{}", root="models"))
    found, _ = head(path, cfg)
    assert (found.new_coords, found.scale_x_y) == (False, 1.05)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_a_pickled_modules_own_epsilon_counts(tmp_path: Path, eps: float) -> None:
    net = trained(yolov3_tiny_cfg(), decoding="darknet")
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in norms:
        module.eps = eps
    norms[0].running_var.fill_(1e-3)  # type: ignore[union-attr]  # where it shows
    path = save_module(net, tmp_path / "net.pt", module="models")
    found = import_foreign(path)
    assert difference(checkpoint.network(found), net) < 2e-3
    assert f"epsilon of {eps:g}" in str(found.history[-1]["notes"])


def test_anchors_among_the_tensors_are_left_out_with_a_note(tmp_path: Path) -> None:
    document = {**state(V3), "module_list.2.yolo_2.anchors": torch.ones(3, 2)}
    path, cfg = write(tmp_path, V3, document)
    found = import_foreign(path, cfg=cfg)
    assert "1 tensors of heads left out" in str(found.history[-1]["notes"])


STRANGERS: dict[str, tuple[Callable[[], object], str]] = {
    "Tianxiaomo": (
        lambda: {"down1.conv1.conv.0.weight": torch.ones(1)},
        "Tianxiaomo's pytorch-YOLOv4",
    ),
    "YOLOv7": (lambda: {"model": {"model.0.conv.weight": torch.ones(1)}}, "described by YAML"),
    "YOLOX": (lambda: {"model": {"backbone.stem.weight": torch.ones(1)}}, "YOLOX"),
    "two networks": (
        lambda: {f"{a}.module_list.0.Conv2d.weight": torch.ones(1, 1, 1, 1) for a in "ab"},
        "it holds 2 networks",
    ),
    "two convolutions in a layer": (
        lambda: {f"module_list.0.{a}.weight": torch.ones(1, 1, 1, 1) for a in "ab"},
        "several convolutions",
    ),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_other_networks_are_refused_for_what_they_are(tmp_path: Path, case: str) -> None:
    document, expected = STRANGERS[case]
    path, cfg = write(tmp_path, V3, document())
    with pytest.raises(CheckpointError, match=expected):
        import_foreign(path, cfg=cfg)


def test_safetensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes((60).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}}')
    with pytest.raises(CheckpointError, match="a safetensors file, which is not read"):
        open_weights(path)


# Where weights are opened.


def test_our_own_checkpoint_is_opened_without_a_word(tmp_path: Path) -> None:
    net = trained(V3, decoding="darknet")
    checkpoint.save(checkpoint.capture(net, names=["a"], imgsz=32), tmp_path / "own.pt")
    found = open_weights(tmp_path / "own.pt")
    assert found.remarks == ()
    assert found.names == ["a"]
    again = open_weights(tmp_path / "own.pt", Reading(names=("b",), decoding="sigmoid"))
    assert (again.names, checkpoint.network(again).heads[0].new_coords) == (["b"], True)


@pytest.mark.parametrize("name", ["net.weights", "net_best.weights", "net_4000.weights"])
@pytest.mark.parametrize("where", [".", "cfg"])
def test_a_cfg_of_the_same_name_is_found(
    tmp_path: Path, name: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prune.checkpoint.foreign.weights import write_weights

    monkeypatch.chdir(tmp_path)
    net: Darknet = trained(V3, decoding="darknet")
    write_weights(Path(name), net.state_dict(), net.sections)
    Path(where).mkdir(exist_ok=True)
    (Path(where) / "net.cfg").write_text(V3)
    found = open_weights(Path(name))
    assert found.remarks[0] == "Darknet weights"
    assert f"structure from {Path(where) / 'net.cfg'}" in found.remarks[1]
    assert difference(checkpoint.network(found), net) < 1e-3


def test_names_that_look_like_a_file_are_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_state_dict(trained(V3, decoding="darknet"), tmp_path / "net.pt")
    (tmp_path / "net.cfg").write_text(V3)
    words = ["whole", "--weights", str(path), "--out", str(tmp_path / "w.pt")]
    for name in ("boddy.names", "boddy.txt", "labels/body"):
        assert main([*words, "--names", name]) == 2
        said = capsys.readouterr().err
        assert f"cannot read the class names in {name}: No such file" in said
        assert said.count("\n") == 1
    assert main([*words, "--names", "a" * 300]) == 0  # an odd name, and no file
    assert not (tmp_path / "w.pt").is_dir()


def test_an_epsilon_that_a_state_dict_leaves_open_is_told_where_it_shows(tmp_path: Path) -> None:
    """With a variance of 1e-3, 1e-4 for 1e-5 changes a channel by sqrt(1.1 / 1.01) - 1 = 4 %."""
    weights = state(V3)
    for name, tensor in weights.items():
        if name.endswith("running_var"):
            tensor.fill_(1e-3)
    path, cfg = write(tmp_path, V3, weights)
    assert "would differ by up to 4%" in str(import_foreign(path, cfg=cfg).history[-1]["notes"])
    path, cfg = write(tmp_path, V3, state(V3))
    assert "BatchNorm's" not in str(import_foreign(path, cfg=cfg).history[-1]["notes"])


def test_names_by_number_are_names(tmp_path: Path) -> None:
    path, cfg = write(tmp_path, V3, {"model": state(V3), "names": {0: "cat"}})
    assert import_foreign(path, cfg=cfg).names == ["cat"]


def test_the_first_layers_of_a_network_are_said_to_be_that(tmp_path: Path) -> None:
    path = tmp_path / "yolov4.conv.137"
    path.write_bytes(bytes(400))
    with pytest.raises(CheckpointError, match="the first layers of a network"):
        open_weights(path)


@pytest.mark.parametrize("whole", [True, False], ids=["under model", "alone"])
def test_a_pickle_that_data_parallel_wraps_keeps_its_class(tmp_path: Path, whole: bool) -> None:
    net = trained(yolov3_tiny_cfg(), decoding="darknet")
    path = save_module(net, tmp_path / "net.pt", module="models", parallel=True, alone=not whole)
    found = import_foreign(path)
    assert difference(checkpoint.network(found), net) == 0.0
    assert "class models.Darknet" in str(found.history[-1]["notes"])
