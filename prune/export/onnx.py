"""Write a network as one ONNX file that says what it is and computes what the network computes."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from torch import Tensor, nn

from prune import __version__
from prune.atomic import replacing
from prune.count import count
from prune.errors import ExportError, InputError
from prune.export.check import TOLERANCE, Difference, compare
from prune.export.exporters import EXPORTERS, Job, Shape, quiet
from prune.models.darknet import Darknet

FORMAT = "prune-onnx/1"
OPSET = 18  # every runtime of the last years reads it, and both exporters write it natively
LARGEST = 2**31  # bytes; a longer file would have to be split in two


@dataclass(frozen=True)
class Exported:
    """One written file: what it takes and gives, and how far it is from torch (see `check`)."""

    out: Path
    opset: int
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    max_abs_diff: float
    max_rel_diff: float
    bytes: int


class Decoded(nn.Module):
    """A network that ends in boxes: what a file holds unless raw maps are wanted."""

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
    opset: int | None = None,
    source: str = "",
    exporter: str = "torchscript",
) -> Exported:
    """Write `net` to `target` as ONNX; nothing is left there unless it agrees with torch.

    The input is "images", RGB in 0..1, [N, 3, H, W]. The output is "output", what `Darknet.decode`
    gives, or with `raw` "head0", "head1", ...: the maps of logits.

    Args:
        net: the network, on any device; it is not changed.
        target: the file.
        names: the classes.
        imgsz: height and width, pixels; with `dynamic` the size that the metadata recommends.
        batch: pictures a run; without meaning with `dynamic`.
        dynamic: leave batch, height and width open.
        raw: give head maps, not boxes.
        opset: version of the ONNX operators, None for OPSET.
        source: SHA-256 of the checkpoint, for the metadata.
        exporter: a key of EXPORTERS.

    Raises:
        InputError: a size or batch that cannot be, or a target that cannot be written.
        ExportError: torch cannot write this network so, or the file differs from it.
    """
    _check_wish(net, imgsz, batch)
    own = copy.deepcopy(net).cpu().float().requires_grad_(False)
    outputs = tuple(f"head{i}" for i in range(len(own.heads))) if raw else ("output",)
    job = Job(
        module=(own if raw else Decoded(own)).eval(),
        shape=(1 if dynamic else batch, 3, *imgsz),
        outputs=outputs,
        open_shapes=_open_shapes(own, outputs) if dynamic else {},
        opset=OPSET if opset is None else opset,
        stride=own.stride,
    )
    facts = _facts(own, job) | {"names": str(dict(enumerate(names))), "source_sha256": source}
    with replacing(target) as part:
        model = _written(job, part, facts, exporter=exporter)
        difference = _proved(job, part)
        size = part.stat().st_size
    return Exported(
        out=target,
        opset=_opset(model),
        inputs={value.name: _shape(value) for value in model.graph.input},
        outputs={value.name: _shape(value) for value in model.graph.output},
        max_abs_diff=difference.absolute,
        max_rel_diff=difference.relative,
        bytes=size,
    )


def _check_wish(net: Darknet, imgsz: tuple[int, int], batch: int) -> None:
    stride = net.stride
    if any(side < stride or side % stride for side in imgsz):
        nearest = " x ".join(str(max(1, round(side / stride)) * stride) for side in imgsz)
        raise InputError(
            f"picture size is {imgsz[0]} x {imgsz[1]}; both must be multiples of the network's "
            f"stride, {stride}; the nearest is {nearest}"
        )
    if batch < 1:
        raise InputError(f"batch is {batch}; it must be at least 1")


def _open_shapes(net: Darknet, outputs: Sequence[str]) -> dict[str, Shape]:
    """Name the sides that `dynamic` leaves open, of the input and of each output."""
    shapes: dict[str, Shape] = {"images": ("batch", 3, "height", "width")}
    for i, (name, head) in enumerate(zip(outputs, net.heads, strict=False)):
        numbers = 5 + head.classes
        raw = ("batch", head.anchors.shape[0] * numbers, f"rows{i}", f"columns{i}")
        shapes[name] = ("batch", "boxes", numbers) if name == "output" else raw
    return shapes


def _facts(net: Darknet, job: Job) -> dict[str, str]:
    """Say what the file holds, under the keys and in the spelling that YOLO tools look for."""
    batch, _, height, width = job.shape
    cost = count(net, (1, 3, height, width))
    return {
        "format": FORMAT,
        "version": __version__,
        "task": "detect",
        "stride": str(net.stride),
        "imgsz": str([height, width]),
        "batch": str(batch),
        "channels": "3",
        "dynamic": str(bool(job.open_shapes)),
        "decoded": str(job.outputs == ("output",)),
        "params": str(cost.params),
        "macs": str(cost.macs),
    }


def _written(job: Job, part: Path, facts: dict[str, str], *, exporter: str) -> onnx.ModelProto:
    """Have the file written, name its open sides, add the facts; return what it says."""
    weights = sum(x.numel() * x.element_size() for x in job.module.state_dict().values())
    if weights >= LARGEST:
        raise ExportError(f"the weights take {weights:,} bytes; an ONNX file holds {LARGEST:,}")
    try:
        with quiet():
            EXPORTERS[exporter](job, part)
    except Exception as error:  # torch raises what its parts raise, without a common class
        others = " or ".join(name for name in EXPORTERS if name != exporter)
        raise ExportError(
            f"torch cannot write this network with opset {job.opset} by its {exporter} exporter "
            f"({type(error).__name__}: {_first_line(error)}); try {others}, or opset {OPSET}"
        ) from error
    model = onnx.load(part)
    if _opset(model) != job.opset:
        raise ExportError(f"torch wrote opset {_opset(model)} where {job.opset} was asked for")
    _name_sides(model.graph, job.open_shapes)
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, part)
    return model


def _name_sides(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
    """Call open sides what a user calls them, not what the exporter computed (`63*s18*s30`)."""
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        for dim, side in zip(dims, shapes.get(value.name, ()), strict=False):
            if isinstance(side, str):
                dim.dim_param = side
            else:
                dim.dim_value = side
    if shapes:
        del graph.value_info[:]  # inner sides are spelled in the exporter's own symbols


def _proved(job: Job, part: Path) -> Difference:
    """Check the file by ONNX's rules, and against torch on two random inputs."""
    try:
        onnx.checker.check_model(str(part), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the file is no valid ONNX: {_first_line(error)}") from error
    batch, _, height, width = job.shape
    other = (batch, 3, height, width)
    if job.open_shapes:
        other = (batch + 1, 3, height + job.stride, max(job.stride, width - job.stride))
    difference = compare(part, job.module, (job.shape, other))
    if not difference.relative <= TOLERANCE:
        raise ExportError(
            f"the ONNX file differs from torch by {difference.relative:.2g} relative "
            f"({difference.absolute:.2g} absolute); at most {TOLERANCE:g} is allowed, so nothing "
            "is left"
        )
    return difference


def _opset(model: onnx.ModelProto) -> int:
    return next(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))


def _shape(value: onnx.ValueInfoProto) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_param or int(dim.dim_value) for dim in dims)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
