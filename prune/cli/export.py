"""prune export: a checkpoint as ONNX or for ncnn, checked against torch, or as Darknet files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading

if TYPE_CHECKING:
    from torch import Tensor

    from prune.checkpoint import Checkpoint
    from prune.common.size import Size
    from prune.export.onnx import Exported
    from prune.models.darknet import Darknet

EXAMPLE = """\
  prune export --weights runs/train/exp/weights/best.pt --out mine.onnx
  prune export --weights best.pt --out mine.onnx --img-size 384 640 --dynamic
  prune export --weights best.pt --out mine.onnx --nms --half --data mine.yaml
  prune export --weights best.pt --bundle mine-detector
  prune export --weights best.pt --format ncnn --out mine.param
  prune export --weights best.pt --format darknet --out mine.cfg"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.weights(parser)
    reading.add_arguments(parser)
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: onnx")
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: beside the weights)"
    )
    place.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="new folder for the ONNX file, labels, preprocessing, a script that detects with "
        "onnxruntime, numpy and Pillow alone, and a README with figures",
    )
    options.image_size(parser)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--batch-size", "--batch", type=int, default=1, metavar="N", help="pictures a run"
    )
    size.add_argument("--dynamic", action="store_true", help="leave batch, height and width open")
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument(
        "--raw", action="store_true", help="give the heads' maps of logits, not boxes"
    )
    ends.add_argument(
        "--nms",
        action="store_true",
        help="have the file suppress its boxes: boxes, scores, classes, counts come out; optional "
        "inputs are iou_threshold (0.45) and score_threshold (0.25)",
    )
    parser.add_argument(
        "--max-det", type=int, default=300, metavar="K", help="most boxes with --nms (default 300)"
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="weights in half precision: half the file; inputs, outputs and sums stay float32",
    )
    options.data(parser, required=False)
    parser.add_argument(
        "--opset", type=int, metavar="N", help="version of the ONNX operators (default 18)"
    )
    parser.add_argument(
        "--legacy",
        action="store_true",
        help="for old runtimes: opset 13, or 11 to 17 by --opset, from the torchscript exporter",
    )
    parser.add_argument(
        "--exporter",
        choices=("torchscript", "dynamo"),
        default="torchscript",
        help="which of torch's two exporters writes; dynamo is the newer and slower one",
    )
    options.json_output(parser)


def run(args: argparse.Namespace) -> None:
    """Read the checkpoint, write the format that is asked for, say what was written.

    Raises:
        InputError: a bundle of another format, an option that the format has no use for, or a name
            that ends otherwise than ONNX files do, by which other commands know them.
    """
    from prune.cli import console
    from prune.errors import InputError

    if args.bundle and args.format != "onnx":
        raise InputError(f"--bundle holds an ONNX file; leave out --format {args.format}")
    for option, without in SENSELESS.get(args.format, {}).items():
        if getattr(args, option) != without:
            words = option.replace("_", "-")
            raise InputError(f"--{words} is for ONNX; leave it out with --format {args.format}")
    if "max_det" in args.typed and not args.nms:
        raise InputError("--max-det is for --nms; leave it out, or add --nms")
    if args.format == "onnx" and args.out and args.out.suffix.lower() != ".onnx":
        raise InputError(f"{args.out} is no name for an ONNX file; it must end in .onnx")
    document, text = FORMATS[args.format](args, reading.opened(args))
    if args.json:
        console.print_json(document)
    else:
        print(text)


Written = tuple[dict[str, object], str]
"""What --json prints, and what a person reads."""


def _onnx(args: argparse.Namespace, source: Checkpoint) -> Written:
    if args.bundle:
        return _bundle(args, source)
    return _one_file(args, source, _target(args, source, args.weights.with_suffix(".onnx")))


def _one_file(args: argparse.Namespace, source: Checkpoint, target: Path) -> Written:
    from prune import checkpoint
    from prune.export.facts import provenance
    from prune.export.onnx import export

    net = checkpoint.network(source)
    imgsz = options.size(args, source.imgsz)
    done = export(
        net,
        target,
        names=source.names,
        imgsz=imgsz,
        batch=args.batch_size,
        dynamic=args.dynamic,
        raw=args.raw,
        half=args.half,
        max_detections=args.max_det if args.nms else None,
        opset=_opset(args),
        exporter=args.exporter,
        source=checkpoint.digest(args.weights),
        about=provenance(source),
        pictures=_pictures(args, net, imgsz),
    )
    return vars(done), _described(done)


def _bundle(args: argparse.Namespace, source: Checkpoint) -> Written:
    """Export into a new folder with all that detecting takes.

    Raises:
        InputError: a file that the folder's script could not use, or a folder that is there.
    """
    from prune.common.files import new_folder
    from prune.errors import InputError
    from prune.export import bundle

    if args.raw or args.nms or args.batch_size != 1:
        raise InputError(
            "--bundle's script takes all boxes of one picture; leave out --raw, --nms, --batch-size"
        )
    with new_folder(args.bundle) as folder:
        document, text = _one_file(args, source, folder / bundle.MODEL)
        bundle.complete(folder)
    return {**document, "out": args.bundle / bundle.MODEL}, text.replace(
        str(folder), str(args.bundle)
    )


LEGACY = range(11, 18)


def _opset(args: argparse.Namespace) -> int | None:
    """Settle the opset; None for the usual one.

    Raises:
        InputError: --legacy with a new opset, or with the exporter that writes no old ones.
    """
    from prune.errors import InputError

    wanted: int | None = args.opset
    if not args.legacy:
        return wanted
    if args.exporter == "dynamo":
        raise InputError("--legacy is for the torchscript exporter; leave out --exporter dynamo")
    if wanted is not None and wanted not in LEGACY:
        raise InputError(
            f"opset is {wanted}; with --legacy it must lie in {LEGACY[0]} to {LEGACY[-1]}"
        )
    return 13 if wanted is None else wanted


def _pictures(args: argparse.Namespace, net: Darknet, imgsz: Size) -> list[Tensor]:
    """Load the real pictures to compare on, if there is --data."""
    if args.data is None:
        return []
    from prune.data import spec
    from prune.data.sift import sound
    from prune.export import sample_images

    paths = spec.load(args.data, splits=("val",)).pictures("val")[: 4 * sample_images.COUNT]
    paths = sound(paths, where=f"{args.data}: val")
    if args.dynamic:
        return sample_images.least(paths, room=imgsz, stride=net.stride)
    return sample_images.fixed(paths, shape=imgsz, batch=args.batch_size)


def _darknet(args: argparse.Namespace, source: Checkpoint) -> Written:
    from prune import checkpoint
    from prune.export.darknet import write_darknet

    target = _target(args, source, args.weights.with_suffix(".cfg"), ".weights")
    net = checkpoint.network(source)
    done = write_darknet(net, target, imgsz=_cfg_size(args, source, net))
    document, text = _listed((done.cfg, done.weights))
    reader, difference = done.check.reader, done.check.difference
    agreement = f"read back by {reader}: agrees with torch to {difference:.2g} relative"
    if done.check.lacking:
        agreement += f"; OpenCV does not read {done.check.lacking}"
    facts = {"read_back_by": reader, "max_rel_diff": difference}
    return {**document, **facts}, f"{text}\n  {agreement}"


def _yolor(args: argparse.Namespace, source: Checkpoint) -> Written:
    from prune import checkpoint
    from prune.export.darknet import write_yolor

    target = _target(args, source, args.weights.with_name(f"{args.weights.stem}_yolor.cfg"), ".pt")
    net = checkpoint.network(source)
    return _listed(write_yolor(net, target, source.names, imgsz=_cfg_size(args, source, net)))


def _cfg_size(args: argparse.Namespace, source: Checkpoint, net: Darknet) -> Size:
    """Return the size that a written cfg names: --img-size, or the checkpoint's.

    Raises:
        InputError: --img-size is not a multiple of the network's stride.
    """
    from prune.errors import InputError

    size = options.size(args, source.imgsz)
    if args.img_size is not None and not size.fits(net.stride):
        raise InputError(
            f"image size is {size}; it must be a multiple of {net.stride}, "
            f"e.g. {size.raised(net.stride)}"
        )
    return size


def _ncnn(args: argparse.Namespace, source: Checkpoint) -> Written:
    from prune import checkpoint
    from prune.export.ncnn import export

    done = export(
        checkpoint.network(source),
        _target(args, source, args.weights.with_suffix(".param"), ".bin"),
        names=source.names,
        imgsz=options.size(args, source.imgsz),
    )
    document, text = _listed(done.out)
    agreement = f"agrees with torch to {done.max_abs_diff:.2g} ({done.max_rel_diff:.2g} relative)"
    differences = {"max_abs_diff": done.max_abs_diff, "max_rel_diff": done.max_rel_diff}
    return {**document, **differences}, f"{text}\n  {agreement}"


def _target(
    args: argparse.Namespace, source: Checkpoint, usual: Path, second: str | None = None
) -> Path:
    """Settle where to write; `second` is the suffix of a file that is written beside it.

    Raises:
        InputError: the weights, or the cfg they were read with, would be written over.
    """
    from prune.errors import InputError

    target: Path = args.out or usual
    read = {path.resolve() for path in (args.weights, *reading.cfgs(args, source))}
    for path in (target, target.with_suffix(second or target.suffix)):
        if path.resolve() in read:
            raise InputError(f"{path} is the file to read; choose another name by --out")
    return target


def _listed(files: tuple[Path, ...]) -> Written:
    sizes = {str(path): path.stat().st_size for path in files}
    text = "\n".join(f"{name}  {size:,} bytes" for name, size in sizes.items())
    return {"out": list(sizes), "bytes": list(sizes.values())}, text


def _described(done: Exported) -> str:
    sides = [
        f"  {kind:6} {name}: {' x '.join(map(str, shape)) or 'a number'}"
        for kind, tensors in (("input", done.inputs), ("output", done.outputs))
        for name, shape in tensors.items()
    ]
    head = f"{done.out}  opset {done.opset}, {done.bytes:,} bytes"
    real = f" and {done.pictures} pictures" if done.pictures else ""
    agreement = (
        f"  agrees with torch to {done.max_abs_diff:.2g} ({done.max_rel_diff:.2g} relative) "
        f"on random inputs{real}"
    )
    return "\n".join((head, *sides, agreement))


Format = Callable[[argparse.Namespace, "Checkpoint"], Written]
"""Write the checkpoint as the options say."""

FORMATS: dict[str, Format] = {"onnx": _onnx, "ncnn": _ncnn, "darknet": _darknet, "yolor": _yolor}

# What says something of ONNX files alone, with the value that says nothing.
_ONNX_ONLY: dict[str, object] = {
    **dict.fromkeys(("nms", "half", "dynamic", "legacy"), False),
    **dict.fromkeys(("opset", "data"), None),
    "batch_size": 1,
}
_DARKNET: dict[str, object] = {**_ONNX_ONLY, "raw": False}
SENSELESS = {"ncnn": _ONNX_ONLY, "darknet": _DARKNET, "yolor": _DARKNET}
