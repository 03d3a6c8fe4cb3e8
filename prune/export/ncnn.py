"""Write a network as ncnn's pair of files, its head maps as outputs, and check it in ncnn.

A .param lists layers in order, `type name inputs outputs names key=value`, the .bin their weights
in the same order. pnnx, ncnn's own converter, makes the same of plain networks, but has nothing for
YOLOR's reorg and Darknet's lopsided pooling.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prune.common.files import together
from prune.errors import ExportError, InputError
from prune.export.check import Difference, difference, random_images
from prune.export.facts import PREPROCESSING
from prune.export.fold import folded
from prune.export.ncnn_layers import INPUT, Array, Op, translated
from prune.models.darknet import Darknet
from prune.runtimes.ncnn_param import MAGIC

TOLERANCE = 1e-3  # relative; ncnn's fast convolutions differ by 1e-6 to 1e-4


@dataclass(frozen=True)
class Written:
    """The files .param, .bin and .json, and how far ncnn's maps are from torch's."""

    out: tuple[Path, ...]
    max_abs_diff: float
    max_rel_diff: float


def export(net: Darknet, target: Path, *, names: Sequence[str], imgsz: tuple[int, int]) -> Written:
    """Write `net` as .param, .bin and .json; nothing is left unless ncnn computes what torch does.

    The input is "images", RGB in 0..1, the outputs "head0", "head1", ...: maps of logits, whose
    decoding the .json describes. ncnn takes images of any size that the network takes.

    Args:
        net: the network, on any device; it is not changed.
        target: a path whose suffix, if it is one of these, is replaced.
        names: the classes.
        imgsz: height and width that the .json recommends, pixels.

    Raises:
        InputError: ncnn is not installed or has not the network's activation, or a target cannot be
            written.
        ExportError: ncnn computes something else, or cannot load the files.
    """
    _expect_ncnn()
    plain = folded(net)
    ops = _with_splits(translated(plain))
    files = _beside(target)
    with together(*files) as (param, weights, described):
        param.write_text(_listed(ops), encoding="utf-8")
        weights.write_bytes(b"".join(array.tobytes() for op in ops for array in op.weights))
        described.write_text(_description(plain, names, imgsz), encoding="utf-8")
        found = _verify(net, param, weights)
    return Written(
        out=files,
        max_abs_diff=found.absolute,
        max_rel_diff=found.relative,
    )


def _beside(target: Path) -> tuple[Path, ...]:
    suffixes = (".param", ".bin", ".json")
    stem = target.with_suffix("") if target.suffix in suffixes else target
    return tuple(stem.with_name(stem.name + suffix) for suffix in suffixes)


def _expect_ncnn() -> None:
    try:
        import ncnn  # noqa: F401  is it there
    except ImportError as error:
        raise InputError(
            "ncnn files are checked in ncnn, which is not installed; "
            "pip install detector-prune[ncnn]"
        ) from error


def _description(net: Darknet, names: Sequence[str], imgsz: tuple[int, int]) -> str:
    heads = [
        {
            "output": f"head{index}",
            "stride": head.stride,
            "anchors": head.anchors.tolist(),
            "new_coords": head.new_coords,
            "scale_x_y": head.scale_x_y,
            "softmax": head.softmax,
        }
        for index, head in enumerate(net.heads)
    ]
    document = {"names": list(names), "imgsz": list(imgsz), "stride": net.stride, "heads": heads}
    return json.dumps({**document, "preprocessing": PREPROCESSING}, indent=2)


def _listed(ops: Sequence[Op]) -> str:
    blobs = sum(len(op.outputs) for op in ops)
    return "\n".join([MAGIC, f"{len(ops)} {blobs}", *(op.line for op in ops)]) + "\n"


def _with_splits(ops: Sequence[Op]) -> list[Op]:
    """Let every blob be read once, as ncnn wants it: a Split hands out copies of the others."""
    uses = Counter(name for op in ops for name in op.inputs)
    handed: Counter[str] = Counter()
    found = []
    for op in ops:
        inputs = []
        for name in op.inputs:
            inputs.append(f"{name}_{handed[name]}" if uses[name] > 1 else name)
            handed[name] += 1
        found.append(replace(op, inputs=tuple(inputs)))
        for name in op.outputs:
            if uses[name] > 1:
                copies = tuple(f"{name}_{copy}" for copy in range(uses[name]))
                found.append(Op("Split", f"split_{name}", (name,), copies))
    return found


@torch.no_grad()
def _verify(net: Darknet, param: Path, weights: Path) -> Difference:
    """Compare ncnn's head maps with those of the network, unfolded, on two random images."""
    reference = copy.deepcopy(net).cpu().float().eval()
    rows, columns = net.small_image[2:]
    found = Difference(0.0, 0.0)
    for image in random_images([(1, 3, rows, columns), (1, 3, rows, columns + net.stride)]):
        own = run(param, weights, image, heads=len(net.heads))
        expected = reference(image)
        for one, other in zip(own, expected, strict=True):
            here = difference(one[None], other.numpy())
            found = max(found, here, key=lambda either: either.relative)
    if not found.relative <= TOLERANCE:
        raise ExportError(
            f"ncnn's maps differ from torch's by {found.relative:.2g} relative; at most "
            f"{TOLERANCE:g} is allowed, so nothing is left"
        )
    return found


def run(param: Path, weights: Path, image: Tensor, *, heads: int) -> list[Array]:
    """Compute the head maps of one image in ncnn, in float32.

    Args:
        param: the layers.
        weights: the .bin.
        image: [1, 3, H, W] in 0..1.
        heads: how many.

    Returns:
        Maps [A*(5+classes), ny, nx].

    Raises:
        ExportError: ncnn cannot load or run the files.
    """
    import ncnn

    net = ncnn.Net()
    for option in _HALF:
        setattr(net.opt, option, False)
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise ExportError("ncnn cannot load the files that were written")
    extractor = net.create_extractor()
    extractor.input(INPUT, ncnn.Mat(np.ascontiguousarray(image[0].numpy())))
    maps = []
    for index in range(heads):
        failed, found = extractor.extract(f"head{index}")
        if failed:
            raise ExportError(f"ncnn cannot compute head{index} of the files that were written")
        maps.append(np.array(found))
    return maps


_HALF = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_packed",
    "use_bf16_storage",
)
