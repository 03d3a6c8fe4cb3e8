"""Export a checkpoint: as ONNX or for ncnn, compared with torch, or as Darknet or YOLOR files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.checkpoint.reading import Names, cfgs_read, open_with_note, reading_of
from prune.common.files import new_folder
from prune.common.size import Size
from prune.data import spec
from prune.data.sift import sound
from prune.errors import InputError
from prune.export import bundle, darknet, ncnn, onnx, sample_images
from prune.export.exporters import Shape
from prune.export.facts import provenance
from prune.models.darknet import Darknet


@dataclass(frozen=True)
class ExportConfig:
    """What is exported, and how; the options of `prune export`.

    Attributes:
        weights: a checkpoint, or public weights.
        cfg, names, decoding: how public weights are read, see `reading_of`.
        format: a key of FORMATS.
        out: file to write, .onnx for ONNX; None: beside the weights.
        bundle: a new folder for an ONNX file and all that detecting with it takes, instead of out.
        img_size: height and width in pixels, multiples of the stride; None: the checkpoint's.
        batch_size: images per run, from 1; without meaning with `dynamic`.
        dynamic: leave batch, height and width open.
        raw: give the maps of logits of the heads, not boxes.
        nms: have the file suppress its boxes.
        max_det: maximum number of boxes per image with `nms`, from 1.
        half: store the weights in half precision; inputs, outputs and sums stay float32.
        data: a data set whose validation images the file is compared with torch on.
        opset: version of the ONNX operators; None: 18, or 13 with `legacy`.
        legacy: for old runtimes, an opset from 11 to 17.
        exporter: which of torch's two exporters writes, "torchscript" or "dynamo".
    """

    weights: Path = Path("whole_model.pt")
    cfg: Path | None = None
    names: Names | None = None
    decoding: str | None = None
    format: str = "onnx"
    out: Path | None = None
    bundle: Path | None = None
    img_size: Size | None = None
    batch_size: int = 1
    dynamic: bool = False
    raw: bool = False
    nms: bool = False
    max_det: int = 300
    half: bool = False
    data: Path | None = None
    opset: int | None = None
    legacy: bool = False
    exporter: str = "torchscript"


@dataclass(frozen=True)
class ExportResult:
    """What was written, and how it compares with torch; None is what a format does not have.

    Attributes:
        out: the file, or the files of a format that has several.
        bytes: their sizes.
        opset: version of the ONNX operators.
        inputs, outputs: shapes by name; open sides are names.
        max_abs_diff, max_rel_diff: the largest difference from torch, and relative to the largest
            value of its output.
        images: real images among those that were compared.
        read_back_by: what read Darknet files back to compare them.
        not_in_opencv: what OpenCV does not read in them; "" where it reads all.
    """

    out: Path | tuple[Path, ...]
    bytes: int | tuple[int, ...]
    opset: int | None = None
    inputs: dict[str, Shape] | None = None
    outputs: dict[str, Shape] | None = None
    max_abs_diff: float | None = None
    max_rel_diff: float | None = None
    images: int | None = None
    read_back_by: str | None = None
    not_in_opencv: str = ""

    def document(self) -> dict[str, object]:
        """Return what there is as plain values, as `prune export --json` prints it."""
        out = str(self.out) if isinstance(self.out, Path) else [str(path) for path in self.out]
        names = {"images": "pictures"}  # as version 0.1 called it
        facts = {
            names.get(key, key): value for key, value in vars(self).items() if value is not None
        }
        del facts["not_in_opencv"]
        return {**facts, "out": out}


def export(config: ExportConfig) -> ExportResult:
    """Export a checkpoint in the format of the config.

    Raises:
        InputError: options that do not go together, a size or opset that cannot be, a target that
            cannot be written or is the file to read.
        CheckpointError: the weights cannot be used.
        ExportError: the network cannot be written so, or what was written differs from torch.
    """
    if config.bundle and config.format != "onnx":
        raise InputError(f"--bundle holds an ONNX file; leave out --format {config.format}")
    for option, usual in ONLY_FOR_ONNX.items():
        senseless = config.format != "onnx" and not (option == "raw" and config.format == "ncnn")
        if senseless and getattr(config, option) != usual:
            words = option.replace("_", "-")
            raise InputError(f"--{words} is for ONNX; leave it out with --format {config.format}")
    if config.format == "onnx" and config.out and config.out.suffix.lower() != ".onnx":
        raise InputError(f"{config.out} is no name for an ONNX file; it must end in .onnx")
    reading = reading_of(config.cfg, config.names, config.decoding)
    return FORMATS[config.format](config, open_with_note(config.weights, reading))


def to_onnx(config: ExportConfig) -> ExportResult:
    """Export a checkpoint as ONNX, whatever format the config names; errors as of `export`."""
    return export(replace(config, format="onnx"))


def _onnx(config: ExportConfig, source: Checkpoint) -> ExportResult:
    """Write one ONNX file, or a new folder with all that detecting takes."""
    if not config.bundle:
        target = _target(config, source, config.weights.with_suffix(".onnx"))
        return _onnx_file(config, source, target)
    if config.raw or config.nms or config.batch_size != 1:
        raise InputError(
            "--bundle's script takes all boxes of one image; leave out --raw, --nms, --batch-size"
        )
    with new_folder(config.bundle) as folder:
        result = _onnx_file(config, source, folder / bundle.MODEL)
        bundle.complete(folder)
    return replace(result, out=config.bundle / bundle.MODEL)


def _onnx_file(config: ExportConfig, source: Checkpoint, target: Path) -> ExportResult:
    net = checkpoint.network(source)
    imgsz = config.img_size or source.imgsz
    done = onnx.export(
        net,
        target,
        names=source.names,
        imgsz=imgsz,
        batch=config.batch_size,
        dynamic=config.dynamic,
        raw=config.raw,
        half=config.half,
        max_detections=config.max_det if config.nms else None,
        opset=_opset(config),
        exporter=config.exporter,
        source=checkpoint.digest(config.weights),
        about=provenance(source),
        images=_images(config, net, imgsz),
    )
    return ExportResult(**vars(done))


LEGACY = range(11, 18)


def _opset(config: ExportConfig) -> int | None:
    """Return the opset that is requested; None for the usual one.

    Raises:
        InputError: `legacy` with a new opset, or with the exporter that writes no old ones.
    """
    opset = config.opset
    if not config.legacy:
        return opset
    if config.exporter == "dynamo":
        raise InputError("--legacy is for the torchscript exporter; leave out --exporter dynamo")
    if opset is not None and opset not in LEGACY:
        raise InputError(
            f"opset is {opset}; with --legacy it must lie in {LEGACY[0]} to {LEGACY[-1]}"
        )
    return 13 if opset is None else opset


def _images(config: ExportConfig, net: Darknet, imgsz: Size) -> list[Tensor]:
    """Load real images to compare on, if there is a data set."""
    if config.data is None:
        return []
    paths = spec.load(config.data, splits=("val",)).images("val")[: 4 * sample_images.COUNT]
    paths = sound(paths, where=f"{config.data}: val")
    if config.dynamic:
        return sample_images.least(paths, room=imgsz, stride=net.stride)
    return sample_images.fixed(paths, shape=imgsz, batch=config.batch_size)


def _ncnn(config: ExportConfig, source: Checkpoint) -> ExportResult:
    done = ncnn.export(
        checkpoint.network(source),
        _target(config, source, config.weights.with_suffix(".param"), ".bin"),
        names=source.names,
        imgsz=config.img_size or source.imgsz,
    )
    return ExportResult(
        done.out,
        _sizes(done.out),
        max_abs_diff=done.max_abs_diff,
        max_rel_diff=done.max_rel_diff,
    )


def _darknet(config: ExportConfig, source: Checkpoint) -> ExportResult:
    target = _target(config, source, config.weights.with_suffix(".cfg"), ".weights")
    net = checkpoint.network(source)
    done = darknet.write_darknet(net, target, imgsz=_cfg_size(config, source, net))
    files = (done.cfg, done.weights)
    return ExportResult(
        files,
        _sizes(files),
        max_rel_diff=done.check.difference,
        read_back_by=done.check.reader,
        not_in_opencv=done.check.lacking,
    )


def _yolor(config: ExportConfig, source: Checkpoint) -> ExportResult:
    usual = config.weights.with_name(f"{config.weights.stem}_yolor.cfg")
    target = _target(config, source, usual, ".pt")
    net = checkpoint.network(source)
    imgsz = _cfg_size(config, source, net)
    files = darknet.write_yolor(net, target, source.names, imgsz=imgsz)
    return ExportResult(files, _sizes(files))


def _cfg_size(config: ExportConfig, source: Checkpoint, net: Darknet) -> Size:
    """Return the size that a written cfg names: the requested one, or the checkpoint's.

    Raises:
        InputError: the requested size is not a multiple of the network's stride.
    """
    size = config.img_size or source.imgsz
    if config.img_size is not None and not size.fits(net.stride):
        raise InputError(
            f"image size is {size}; it must be a multiple of {net.stride}, "
            f"e.g. {size.raised(net.stride)}"
        )
    return size


def _target(
    config: ExportConfig, source: Checkpoint, usual: Path, second: str | None = None
) -> Path:
    """Return where to write; `second` is the suffix of a file that is written beside it.

    Raises:
        InputError: the weights, or the cfg they were read with, would be overwritten.
    """
    target = config.out or usual
    cfgs = cfgs_read(config.weights, config.cfg, source)
    read = {path.resolve() for path in (config.weights, *cfgs)}
    for path in (target, target.with_suffix(second or target.suffix)):
        if path.resolve() in read:
            raise InputError(f"{path} is the file to read; choose another name by --out")
    return target


def _sizes(files: tuple[Path, ...]) -> tuple[int, ...]:
    return tuple(path.stat().st_size for path in files)


Format = Callable[[ExportConfig, Checkpoint], ExportResult]
"""Write the checkpoint as the config says."""

FORMATS: dict[str, Format] = {"onnx": _onnx, "ncnn": _ncnn, "darknet": _darknet, "yolor": _yolor}

# Options with a meaning for ONNX files alone (raw maps for ncnn, too), with their defaults.
ONLY_FOR_ONNX: dict[str, object] = {
    **dict.fromkeys(("nms", "half", "dynamic", "legacy"), False),
    **dict.fromkeys(("opset", "data"), None),
    "batch_size": 1,
    "raw": False,
}
