"""What a checkpoint's network is made of and what each layer costs, as plain rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from prune.checkpoint.convert import fresh
from prune.checkpoint.file import Checkpoint, network
from prune.checkpoint.reading import Names, find_cfg, open_with_note, reading_of
from prune.common.size import Size
from prune.core.cost.macs import Cost, per_layer
from prune.core.trace.groups import Group
from prune.errors import InputError
from prune.models.darknet import Darknet
from prune.models.groups import detector_groups

WEIGHTS = Path("whole_model.pt")  # read where no file is given


@dataclass(frozen=True)
class ShowConfig:
    """What is summarised; the options of `prune show`.

    Attributes:
        file: a checkpoint, public weights, a .cfg, or the name of one in ./cfg.
        weights: the same, under another name; None for both: WEIGHTS, or `cfg` alone.
        cfg, names, decoding: how public weights are read, see `reading_of`.
        img_size: height and width in pixels that costs are for; None: the checkpoint's.
    """

    file: Path | None = None
    weights: Path | None = None
    cfg: Path | None = None
    names: Names | None = None
    decoding: str | None = None
    img_size: Size | None = None


@dataclass(frozen=True)
class Layer:
    """One layer of a network: channels, cost of one image, output size in cells.

    `activation` is a key of `models.layers.ACTIVATIONS`, None for a layer that has none to name.
    """

    index: int
    type: str
    activation: str | None
    inputs: tuple[int, ...]
    in_channels: int
    out_channels: int
    params: int
    macs: int
    height: int
    width: int


@dataclass(frozen=True)
class Inventory:
    """The layers of a network for one image size, and what is coupled in it.

    Attributes:
        imgsz: height and width in pixels.
        params: parameters in all.
        macs: MACs of one image.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    imgsz: Size
    params: int
    macs: int


@dataclass(frozen=True)
class ShowResult:
    """What is in a checkpoint.

    Attributes:
        params, macs: in all; MACs are for one image of `imgsz`.
        imgsz: height and width in pixels.
        names: the classes.
        layers: in order.
        groups: layers whose output channels are coupled.
        history: the commands that made it.
    """

    params: int
    macs: int
    imgsz: Size
    names: tuple[str, ...]
    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    history: tuple[object, ...]

    def document(self) -> dict[str, object]:
        """Return the result as plain values, as `prune show --json` prints it."""
        layers = [
            {
                "index": layer.index,
                "type": layer.type,
                "in": layer.in_channels,
                "out": layer.out_channels,
                "params": layer.params,
                "macs": layer.macs,
                "output": [layer.height, layer.width],
            }
            for layer in self.layers
        ]
        groups = [
            {
                "root": group.root,
                "channels": group.channels,
                "members": list(group.producers),
                "kept": group.protected,
            }
            for group in self.groups
        ]
        return {**vars(self), "imgsz": self.imgsz.plain, "layers": layers, "groups": groups}


def show(config: ShowConfig) -> ShowResult:
    """Summarise a checkpoint, public weights, or the network of a cfg.

    Raises:
        InputError: two files are named.
        CheckpointError: the file cannot be used.
        CfgError: the cfg cannot be used.
        PlanError: the network cannot take an image of the size.
    """
    found = _open(config)
    inventory = take(found, imgsz=config.img_size)
    return ShowResult(
        params=inventory.params,
        macs=inventory.macs,
        imgsz=inventory.imgsz,
        names=tuple(found.names),
        layers=inventory.layers,
        groups=inventory.groups,
        history=tuple(entry.get("command") for entry in found.history),
    )


def _open(config: ShowConfig) -> Checkpoint:
    """Open what is named: weights, with the cfg beside them, or a cfg alone."""
    if config.file and config.weights:
        raise InputError(f"{config.file} and --weights {config.weights} are two files; name one")
    file = find_cfg(config.file or config.weights or (None if config.cfg else WEIGHTS))
    reading = reading_of(config.cfg, config.names, config.decoding)
    if file is not None and file.suffix.lower() != ".cfg":
        found = open_with_note(file, reading)
        return replace(found, history=[]) if found.foreign else found
    if file is not None and reading.cfg is not None:
        raise InputError(f"{file} and --cfg {reading.cfg} are two cfgs; name one")
    cfg = file or reading.cfg
    assert cfg is not None
    return replace(fresh(cfg, names=reading.names, decoding=reading.decoding), history=[])


def take(found: Checkpoint, *, imgsz: Size | None = None) -> Inventory:
    """List the layers and couplings of a checkpoint.

    Args:
        found: the checkpoint.
        imgsz: size of the image; the checkpoint's own without it.

    Raises:
        CheckpointError: the weights do not fit the cfg.
        PlanError: the network cannot take an image of that size.
    """
    net = network(found)
    size = imgsz or found.imgsz
    costs = per_layer(net, size.batch())
    return Inventory(
        layers=_layers(net, costs),
        groups=detector_groups(net),
        imgsz=size,
        params=sum(parameter.numel() for parameter in net.parameters()),
        macs=sum(cost.macs for cost in costs.values()),
    )


def _layers(net: Darknet, costs: dict[str, Cost]) -> tuple[Layer, ...]:
    return tuple(
        Layer(
            info.index,
            info.kind,
            section.options.get("activation"),
            info.inputs,
            info.in_channels,
            info.out_channels,
            *_sums(costs, f"module_list.{info.index}"),
        )
        for info, section in zip(net.layers, net.sections[1:], strict=True)
    )


def _sums(costs: dict[str, Cost], name: str) -> tuple[int, int, int, int]:
    """Add up a layer's parts: parameters, MACs; and take its output's height and width."""
    parts = [cost for path, cost in costs.items() if path == name or path.startswith(f"{name}.")]
    output = costs[name].output
    height, width = output[2:] if len(output) == 4 else (1, 1)
    return sum(p.params for p in parts), sum(p.macs for p in parts), height, width
