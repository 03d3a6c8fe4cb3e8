"""Turn any public checkpoint into one of ours, on request with its ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.checkpoint.convert import fresh, import_foreign
from prune.checkpoint.reading import Names, class_names, find_cfg
from prune.common.files import together
from prune.common.notes import note
from prune.common.size import Size
from prune.data.spec import load_names
from prune.errors import InputError
from prune.export import onnx
from prune.export.facts import provenance
from prune.models.darknet import Darknet


@dataclass(frozen=True)
class WholeConfig:
    """What is read and where it is written; the options of `prune whole`.

    Attributes:
        weights: a .pt of YOLOR, YOLOv4 or YOLOv3, Darknet .weights, or a checkpoint of ours; None
            with `random`.
        cfg: the cfg of the network; None: see `import_foreign`.
        decoding: "exp" or "sigmoid"; None: what the cfg and the file say.
        random: draw the weights of the network of `cfg`.
        seed: of `random`.
        data: a data set, whose class names are taken.
        names: class names, see `class_names`; None: those of the data set, or of the file.
        img_size: height and width in pixels, multiples of the stride; None: the cfg's.
        onnx: also write an ONNX file beside `out`.
        out: checkpoint to write.
    """

    weights: Path | None = None
    cfg: Path | None = None
    decoding: str | None = None
    random: bool = False
    seed: int = 0
    data: Path | None = None
    names: Names | None = None
    img_size: Size | None = None
    onnx: bool = False
    out: Path = Path("whole_model.pt")


@dataclass(frozen=True)
class WholeResult:
    """What was read and what was written.

    Attributes:
        read: what kind of file.
        notes: on how it was read.
        layers, params, macs: of the network; MACs are for one image of `imgsz`.
        names: the classes.
        imgsz: height and width in pixels.
        out: the checkpoint.
        onnx: the ONNX file; None without one.
    """

    read: str
    notes: tuple[str, ...]
    layers: int
    params: int
    macs: int
    names: tuple[str, ...]
    imgsz: Size
    out: Path
    onnx: Path | None

    def document(self) -> dict[str, object]:
        """Return the result as plain values, as `prune whole --json` prints it."""
        onnx = None if self.onnx is None else str(self.onnx)
        return {**vars(self), "imgsz": self.imgsz.plain, "out": str(self.out), "onnx": onnx}


def to_checkpoint(config: WholeConfig) -> WholeResult:
    """Write a public checkpoint, or fresh weights, as a checkpoint of ours.

    Raises:
        InputError: no weights or no cfg is given, or a size or a file that cannot be used.
        CheckpointError: the weights cannot be read.
        CfgError: the cfg cannot be read.
        ExportError: the ONNX file cannot be written; then neither file is.
    """
    found = _read(config)
    net = checkpoint.network(found)
    target = config.out.with_suffix(".onnx") if config.onnx else None
    if target is None:
        checkpoint.save(found, config.out)
    else:
        _save_both(net, found, config.out, target)
    numbers = [str(number) for number in range(len(found.names))]
    if found.names == numbers and not (config.names or config.data):
        note(
            f"{config.weights or config.cfg} has no class names: they are numbers, from 0 to "
            f"{len(numbers) - 1}; --names FILE or --data FILE names them"
        )
    entry = found.history[-1]
    return WholeResult(
        read=str(entry["read"]),
        notes=tuple(map(str, entry["notes"])),  # type: ignore[call-overload]  # a list of texts
        layers=len(net.module_list),
        params=entry["params"],  # type: ignore[arg-type]  # numbers, as they were just counted
        macs=entry["macs"],  # type: ignore[arg-type]
        names=tuple(found.names),
        imgsz=found.imgsz,
        out=config.out,
        onnx=target,
    )


def _read(config: WholeConfig) -> Checkpoint:
    if config.random and (config.weights or not config.cfg):
        raise InputError("--random draws the weights of a cfg's network; give --cfg alone")
    if not config.random and config.weights is None:
        raise InputError("no weights; give --weights FILE, or --cfg FILE --random for fresh ones")
    names = class_names(config.names) if config.data is None else load_names(config.data)
    cfg, imgsz, decoding = find_cfg(config.cfg), config.img_size, config.decoding
    if config.weights is None:
        assert cfg is not None
        return fresh(cfg, names=names, imgsz=imgsz, decoding=decoding, seed=config.seed)
    return import_foreign(config.weights, cfg=cfg, names=names, imgsz=imgsz, decoding=decoding)


def _save_both(net: Darknet, found: Checkpoint, out: Path, target: Path) -> None:
    """Write the checkpoint and its ONNX file, or neither."""
    with together(target, out) as (exported, saved):
        checkpoint.save_into(found, saved)
        onnx.export(
            net,
            exported,
            names=found.names,
            imgsz=found.imgsz,
            source=checkpoint.digest(saved),
            about=provenance(found),
        )
