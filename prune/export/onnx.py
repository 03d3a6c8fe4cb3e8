"""Write a network as one ONNX file that describes itself and computes what the network computes."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxslim
from torch import Tensor, nn

from prune.common.files import replacing
from prune.common.size import Size
from prune.errors import ExportError, InputError, first_line
from prune.export import nms
from prune.export.check import (
    TOLERANCE,
    Difference,
    compare,
    compare_picked,
    outputs,
    random_images,
    telling_score,
)
from prune.export.exporters import EXPORTERS, OPSETS, Job, Shape, quiet
from prune.export.facts import facts
from prune.export.fold import folded
from prune.export.half import TOLERANCE as HALF_TOLERANCE
from prune.export.half import halve_weights
from prune.export.mish import expanded
from prune.export.structure import check_widths, name_sides, opset, shapes
from prune.models.darknet import Darknet

OPSET = 18  # every runtime of the last years reads it, and both exporters write it natively
COMPARED_IOU = 0.2  # overlap at which suppression is compared: it takes some of every few boxes
LARGEST = 2**31  # bytes; a longer file would have to be split in two


@dataclass(frozen=True)
class Exported:
    """One written file: what it takes and gives, and how far it is from torch (see `check`).

    `images` counts the real ones among those that were compared.
    """

    out: Path
    opset: int
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    max_abs_diff: float
    max_rel_diff: float
    bytes: int
    images: int


class Decoded(nn.Module):
    """A network that ends in boxes: what a file contains unless raw maps are requested."""

    def __init__(self, net: Darknet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Turn images in 0..1, [N, 3, H, W], into boxes, [N, boxes, 5 + classes]."""
        return self.net.decode(self.net(images))


def export(  # noqa: PLR0913  each is a property of the file, with an option of its own
    net: Darknet,
    target: Path,
    *,
    names: Sequence[str],
    imgsz: tuple[int, int],
    batch: int = 1,
    dynamic: bool = False,
    raw: bool = False,
    half: bool = False,
    max_detections: int | None = None,
    opset: int | None = None,
    exporter: str = "torchscript",
    source: str = "",
    about: Mapping[str, object] | None = None,
    images: Sequence[Tensor] = (),
) -> Exported:
    """Write `net` to `target` as ONNX; nothing is left there unless it agrees with torch.

    All that can be folded into convolutions is (see `fold`). The input is "images", RGB in 0..1,
    [N, 3, H, W]. The output is "output", what `Darknet.decode` gives; with `raw` "head0", "head1",
    ...: the maps of logits; with `max_detections` what `nms.output_shapes` lists.

    Args:
        net: the network, on any device; it is not changed.
        target: the file.
        names: the classes.
        imgsz: height and width, pixels; with `dynamic` the size that the metadata recommends.
        batch: images per run; without meaning with `dynamic`.
        dynamic: leave batch, height and width open.
        raw: give head maps, not boxes.
        half: store weights in half precision (see `half`).
        max_detections: have the file suppress its boxes and give at most so many an image.
        opset: version of the ONNX operators, None for OPSET.
        exporter: a key of EXPORTERS.
        source: SHA-256 of the checkpoint, for the metadata.
        about: what `facts.provenance` gave, for the metadata.
        images: real ones to compare on beside random ones, each [N, 3, H, W] in 0..1 of a shape
            that the file takes.

    Raises:
        InputError: a size, batch or opset that cannot be, raw maps without their boxes, or a target
            that cannot be written.
        ExportError: torch cannot write this network so, or the file differs from it.
    """
    expect_size(imgsz, net)
    _check_batch(batch)
    _check_suppression(max_detections, raw=raw)
    _check_opset(opset, exporter)
    own = copy.deepcopy(net).cpu().float().eval().requires_grad_(False)
    heads = tuple(f"head{i}" for i in range(len(own.heads))) if raw else ("output",)
    job = Job(
        module=expanded(_wrapped(folded(own), raw=raw)),
        shape=(1 if dynamic else batch, 3, *imgsz),
        outputs=heads,
        open_shapes=_open_shapes(own, heads) if dynamic else {},
        opset=OPSET if opset is None else opset,
        stride=own.stride,
    )
    batches = [*random_images(_compared_shapes(job)), *images]
    metadata = facts(own, job, names=names, source=source, about=about or {})
    metadata |= {"half": str(half), "nms": "False"}
    with replacing(target) as part:
        model = _written(job, part, exporter=exporter)
        check_widths(model, own)
        reference = _wrapped(own, raw=raw)
        _save(model, part, metadata)
        difference = _verify(part, reference, batches, tolerance=TOLERANCE)
        if half:
            halve_weights(model)
            _save(model, part, metadata)
            difference = _verify(part, reference, batches, tolerance=HALF_TOLERANCE)
        if max_detections is not None:
            _suppress(model, part, batches, limit=max_detections)
        size = part.stat().st_size
    return Exported(
        out=target,
        opset=job.opset,
        inputs=shapes(model.graph.input),
        outputs=shapes(model.graph.output),
        max_abs_diff=difference.absolute,
        max_rel_diff=difference.relative,
        bytes=size,
        images=sum(map(len, images)),
    )


def draft(net: Darknet, target: Path, *, imgsz: tuple[int, int]) -> Path:
    """Write a network, folded as it is to be, only to be timed: nothing is verified; return it."""
    job = Job(
        module=expanded(_wrapped(net, raw=False)).requires_grad_(False),
        shape=(1, 3, *imgsz),
        outputs=("output",),
        open_shapes={},
        opset=OPSET,
        stride=net.stride,
    )
    onnx.save(_written(job, target, exporter="torchscript"), target)
    return target


def _wrapped(net: Darknet, *, raw: bool) -> nn.Module:
    return net if raw else Decoded(net).eval()


def expect_size(imgsz: tuple[int, int], net: Darknet) -> None:
    """Refuse a height and width in pixels that a network cannot take.

    Raises:
        InputError: a side is no multiple of the network's stride.
    """
    size, stride = Size(*imgsz), net.stride
    if not size.fits(stride):
        nearest = Size(*(max(1, round(side / stride)) * stride for side in size))
        raise InputError(
            f"image size is {size}; height and width must be multiples of the network's stride, "
            f"{stride}; the nearest is {nearest}"
        )


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise InputError(f"batch is {batch}; it must be at least 1")


def _check_suppression(limit: int | None, *, raw: bool) -> None:
    if limit is not None and raw:
        raise InputError("raw head maps hold no boxes to suppress; leave out one of raw and nms")
    if limit is not None and limit < 1:
        raise InputError(f"most detections is {limit}; it must be at least 1, e.g. 300")


def _check_opset(opset: int | None, exporter: str) -> None:
    if opset is not None and opset not in OPSETS[exporter]:
        low, *_, high = OPSETS[exporter]
        raise InputError(f"opset is {opset}; the {exporter} exporter writes {low} to {high}")


def _open_shapes(net: Darknet, outputs: Sequence[str]) -> dict[str, Shape]:
    """Name the sides that `dynamic` leaves open, of the input and of each output."""
    shapes: dict[str, Shape] = {"images": ("batch", 3, "height", "width")}
    for i, (name, head) in enumerate(zip(outputs, net.heads, strict=False)):
        numbers = 5 + head.classes
        raw = ("batch", head.anchors.shape[0] * numbers, f"rows{i}", f"columns{i}")
        shapes[name] = ("batch", "boxes", numbers) if name == "output" else raw
    return shapes


def _compared_shapes(job: Job) -> list[tuple[int, int, int, int]]:
    """Choose two shapes, or three sizes and batches where they are open."""
    batch, _, height, width = job.shape
    if not job.open_shapes:
        return [job.shape, job.shape]
    step = job.stride
    other = (batch + 1, 3, height + step, max(step, width - step))
    return [job.shape, other, (batch + 2, 3, 2 * step, step)]


def _written(job: Job, part: Path, *, exporter: str) -> onnx.ModelProto:
    """Have the file written, simplify it and name its open sides."""
    weights = sum(x.numel() * x.element_size() for x in job.module.state_dict().values())
    if weights >= LARGEST:
        raise ExportError(f"the weights take {weights:,} bytes; an ONNX file holds {LARGEST:,}")
    try:
        with quiet():
            EXPORTERS[exporter](job, part)
            model: onnx.ModelProto = onnxslim.slim(onnx.load(part))
    except OSError:  # a full disk, which the caller reports with the name of the target
        raise
    except Exception as error:  # torch raises what its parts raise, without a common class
        others = " or ".join(name for name in EXPORTERS if name != exporter)
        raise ExportError(
            f"torch cannot write this network with opset {job.opset} by its {exporter} exporter "
            f"({type(error).__name__}: {first_line(error)}); try {others}, or opset {OPSET}"
        ) from error
    if opset(model) != job.opset:
        raise ExportError(f"torch wrote opset {opset(model)} where {job.opset} was requested")
    name_sides(model.graph, job.open_shapes)
    return model


def _save(model: onnx.ModelProto, part: Path, metadata: Mapping[str, str]) -> None:
    """Write a file and check it by ONNX's rules."""
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, part)
    try:
        onnx.checker.check_model(str(part), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the file is no valid ONNX: {first_line(error)}") from error


def _verify(
    part: Path, module: nn.Module, batches: Sequence[Tensor], *, tolerance: float
) -> Difference:
    difference = compare(part, module, batches)
    if not difference.relative <= tolerance:
        raise ExportError(
            f"the ONNX file differs from torch by {difference.relative:.2g} relative "
            f"({difference.absolute:.2g} absolute); at most {tolerance:g} is allowed, so nothing "
            "is left"
        )
    return difference


def _suppress(model: onnx.ModelProto, part: Path, batches: Sequence[Tensor], *, limit: int) -> None:
    """Add suppression to the boxes of a verified file, and verify it on the same boxes."""
    decoded = [found for (found,) in outputs(part, batches)]
    batch = shapes(model.graph.input)["images"][0]
    nms.append(model, batch=batch, limit=limit)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    _save(model, part, metadata | {"nms": "True", "max_det": str(limit)})
    iou, confidence = COMPARED_IOU, telling_score(decoded)
    picked = outputs(part, batches, iou_threshold=iou, score_threshold=confidence)
    compared = sum(
        compare_picked(found, boxes, iou=iou, confidence=confidence, limit=limit)
        for found, boxes in zip(picked, decoded, strict=True)
    )
    if not compared:
        raise ExportError(
            "the file's suppression cannot be compared: all boxes have the same confidence, so "
            "that none is picked; train the network first, or export without --nms"
        )
