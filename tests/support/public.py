"""What other projects leave behind, made small: cfgs as published, their trainers' files."""

from __future__ import annotations

import sys
import types
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from prune.checkpoint.foreign.contents import Contents
from prune.checkpoint.foreign.decoding import SIGMOID, decode_as_trained
from prune.models.darknet import Darknet
from prune.models.layers import Convolution, Implicit
from prune.models.sections import Section, parse, with_darknet_decoding

_CONVOLUTION = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize={}\nstride={}\npad=1\n"
_HEAD = "[convolutional]\nfilters={}\nsize=1\nstride=1\npad=1\nactivation=linear\n"
_YOLO = (
    "[yolo]\nmask={}\nanchors=4,6, 9,8, 12,20, 24,16, 30,40, 50,44\nclasses={}\nnum=6\n"
    "scale_x_y=1.05\njitter=.3\nignore_thresh=.7\n"
)


def _convolution(filters: int, size: int, stride: int, activation: str) -> str:
    return _CONVOLUTION.format(filters, size, stride) + f"activation={activation}\n"


def yolor_cfg(*, classes: int = 2, width: int = 8) -> str:
    """Every kind of layer that a YOLOR cfg has, as published: nothing in it tells the decoding.

    Layers 2 and 3 are a bottleneck, whose inner channels can be pruned without any other layer.
    """
    outputs = 3 * (5 + classes)
    return "\n".join(
        [
            "[net]\nwidth=64\nheight=64\nchannels=3\n",
            _convolution(width, 3, 2, "silu"),
            _convolution(2 * width, 3, 2, "silu"),
            _convolution(width, 1, 1, "silu"),
            _convolution(2 * width, 3, 1, "mish"),
            "[shortcut]\nfrom=-3\nactivation=linear\n",
            _convolution(2 * width, 3, 2, "leaky"),
            "[maxpool]\nsize=5\nstride=1\n",
            "[route]\nlayers=-1,-2\n",
            f"[implicit_add]\nfilters={4 * width}\n",
            f"[implicit_mul]\nfilters={outputs}\n",
            "[route]\nlayers=7\n",
            "[shift_channels]\nfrom=8\n",
            _HEAD.format(outputs),
            "[control_channels]\nfrom=9\n",
            _YOLO.format("3,4,5", classes),
            "[route]\nlayers=4\n",
            _HEAD.format(outputs),
            _YOLO.format("0,1,2", classes),
        ]
    )


def yolov3_tiny_cfg(*, classes: int = 2) -> str:
    """YOLOv3-tiny's make at small width: strided pooling, an upsampled second head, exp() boxes."""
    outputs = 3 * (5 + classes)
    pool = "[maxpool]\nsize=2\nstride=2\n"
    return "\n".join(
        [
            "[net]\nwidth=64\nheight=64\nchannels=3\n",
            _convolution(8, 3, 1, "leaky"),
            pool,
            _convolution(8, 3, 1, "leaky"),
            pool,
            _convolution(16, 3, 1, "leaky"),
            pool,
            _convolution(16, 3, 1, "leaky"),
            pool,
            _convolution(16, 1, 1, "leaky"),
            _HEAD.format(outputs),
            _YOLO.format("3,4,5", classes).replace("scale_x_y=1.05\n", ""),
            "[route]\nlayers=-3\n",
            _convolution(8, 1, 1, "leaky"),
            "[upsample]\nstride=2\n",
            "[route]\nlayers=-1,6\n",
            _HEAD.format(outputs),
            _YOLO.format("0,1,2", classes).replace("scale_x_y=1.05\n", ""),
        ]
    )


def with_torch_decoding(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Spell out what YOLOR's code computes: sigmoid, weights of sums, the order of [reorg]."""
    return decode_as_trained(sections, Contents({}, ""), requested=SIGMOID).sections


# Whose code trained a network -> its cfg as that code means it.
SPELLED = {"torch": with_torch_decoding, "darknet": with_darknet_decoding}


@torch.no_grad()
def trained(text: str, *, decoding: str, seed: int = 0) -> Darknet:
    """Build a network whose every number differs from the one beside it, as after training."""
    torch.manual_seed(seed)
    net = Darknet(SPELLED[decoding](parse(text)))
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("running_mean") or name.endswith("bias"):
            tensor.normal_(0.0, 0.1)
        elif name.endswith("BatchNorm2d.weight"):
            tensor.uniform_(0.5, 1.5)
    return net.eval()


def draw_image(seed: int = 0, *, size: int = 64) -> Tensor:
    """A random image, [1, 3, size, size] in 0..1."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def difference(first: Darknet, second: Darknet) -> float:
    """The largest difference of two networks' boxes (pixels, probabilities) on one image."""
    image = draw_image()
    one, other = first.decode(first(image)), second.decode(second(image))
    return float((one - other).abs().max())


def save_state_dict(net: Darknet, path: Path, *, prefix: str = "", half: bool = False) -> Path:
    """Save as public trainers do: weights under `model`, among the state of the training."""
    state = {
        f"{prefix}{name}": tensor.half() if half and tensor.is_floating_point() else tensor
        for name, tensor in net.state_dict().items()
    }
    torch.save(
        {
            "epoch": 7,
            "best_fitness": np.array([0.5]),
            "best_fitness_p": np.float64(0.25),
            "training_results": "     0/9     1.2G   0.08\n",
            "model": state,
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []},
            "wandb_id": None,
        },
        path,
    )
    return path


@contextmanager
def their_code(name: str = "models.models") -> Iterator[types.ModuleType]:
    """Pretend that a public repository is importable, as it was where the pickle was made."""
    before = {name: sys.modules.get(name) for name in ("models", "models.models")}
    module = types.ModuleType(name)
    sys.modules.update({"models": types.ModuleType("models"), "models.models": module})
    sys.modules[name] = module
    try:
        yield module
    finally:
        for name, old in before.items():
            del sys.modules[name]
            if old is not None:
                sys.modules[name] = old


def save_module(
    net: Darknet,
    path: Path,
    *,
    definitions: bool = True,
    module: str = "models.models",
    parallel: bool = False,
    alone: bool = False,
) -> Path:
    """Pickle the network as a module of classes that do not exist where it is read."""
    with their_code(module) as code:
        for name in ("Darknet", "ImplicitA", "FeatureConcat"):
            setattr(code, name, type(name, (nn.Module,), {"__module__": code.__name__}))
        whole = code.Darknet()
        whole.module_list = nn.ModuleList(_theirs(code, module) for module in net.module_list)
        whole.names = ["cat", "dog"]
        if definitions:
            whole.module_defs = [_definition(s.kind, dict(s.options)) for s in net.sections[1:]]
        saved = nn.DataParallel(whole) if parallel else whole
        torch.save(saved if alone else {"epoch": 3, "model": saved}, path)
    return path


def _theirs(code: types.ModuleType, module: nn.Module) -> nn.Module:
    if isinstance(module, Convolution):
        parts = nn.Sequential()
        for name, part in module.named_children():
            if not isinstance(part, nn.Identity):
                parts.add_module(name, part)
        return parts
    made: nn.Module = code.ImplicitA() if isinstance(module, Implicit) else code.FeatureConcat()
    if isinstance(module, Implicit):
        made.implicit = module.implicit
    return made


def _definition(kind: str, options: dict[str, str]) -> dict[str, object]:
    """Parse values as the public code does: numbers, lists, and an array of anchors."""
    found: dict[str, object] = {"type": kind}
    for key, text in options.items():
        if key in ("new_coords", "weights_normalization"):
            continue
        if key == "anchors":
            found[key] = np.array([float(x) for x in text.split(",")]).reshape(-1, 2)
        elif key in ("from", "layers", "mask"):
            found[key] = [int(x) for x in text.split(",")]
        else:
            found[key] = int(text) if text.isdigit() else text
    if kind == "yolo":
        found["scale_x_y"] = "1.05"
    if found.get("activation") == "logistic":
        found["activation"] = "linear"
    return found


def zipped(pickled: bytes, path: Path) -> Path:
    """Put a pickle into an archive of the kind that `torch.save` writes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3\n")
    return path


def repickled(source: Path, path: Path, *, old: bytes, new: bytes) -> Path:
    """Copy a file of `torch.save` with some bytes of its pickle exchanged."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(path, "w") as changed:
        for info in archive.infolist():
            data = archive.read(info)
            if info.filename.endswith("data.pkl"):
                assert old in data
                data = data.replace(old, new)
            changed.writestr(info.filename, data)
    return path
