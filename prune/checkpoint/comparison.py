"""Two checkpoints side by side, layer by layer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from prune.checkpoint.convert import Reading, open_weights
from prune.checkpoint.file import Checkpoint
from prune.checkpoint.reading import find_cfg, note_reading
from prune.checkpoint.summary import Inventory, Layer, take
from prune.common.size import Size
from prune.errors import InputError

# A layer's field -> its key in --json.
COMPARED = {
    "type": "type",
    "activation": "activation",
    "in_channels": "in",
    "out_channels": "out",
    "params": "params",
    "macs": "macs",
}


@dataclass(frozen=True)
class DiffConfig:
    """What is compared; the options of `prune diff`.

    Attributes:
        first, second: checkpoints or public weights, before and after.
        cfg: the cfg of public weights for both, or one for each; None: see `open_weights`.
        decoding: "exp" or "sigmoid", of public weights; None: what the cfg and the file say.
        img_size: height and width in pixels that costs are for; None: the first file's.
    """

    first: Path
    second: Path
    cfg: tuple[Path, ...] | None = None
    decoding: str | None = None
    img_size: Size | None = None


@dataclass(frozen=True)
class LayerChange:
    """A layer before and after; None where it was added or left with a block."""

    before: Layer | None
    after: Layer | None

    @property
    def index(self) -> int:
        """Return its place in the first network, or else in the second."""
        layer = self.before or self.after
        assert layer is not None
        return layer.index


@dataclass(frozen=True)
class DiffResult:
    """How two checkpoints differ.

    Attributes:
        params, macs: before and after; MACs are for one image of `imgsz`.
        names_differ: whether the class names do.
        layers: those that differ.
        counts: layers of both networks.
        imgsz: height and width in pixels.
    """

    params: tuple[int, int]
    macs: tuple[int, int]
    names_differ: bool
    layers: tuple[LayerChange, ...]
    counts: tuple[int, int]
    imgsz: Size

    def document(self) -> dict[str, object]:
        """Return the result as plain values, as `prune diff --json` prints it."""
        totals = {"params": self.params, "macs": self.macs}
        return {
            **{name: {"before": a, "after": b} for name, (a, b) in totals.items()},
            "names_differ": self.names_differ,
            "layers": [
                {
                    "index": change.index,
                    "before": _plain(change.before),
                    "after": _plain(change.after),
                }
                for change in self.layers
            ],
        }


def diff(config: DiffConfig) -> DiffResult:
    """Compare two checkpoints, layer by layer.

    Raises:
        InputError: more than two cfgs.
        CheckpointError: a file that cannot be used.
        PlanError: a network cannot take an image of the size.
    """
    files = _open_both(config)
    size = config.img_size or files[0].imgsz
    before, after = (take(found, imgsz=size) for found in files)
    gone = _removed(*files, layers=len(before.layers))
    return DiffResult(
        params=(before.params, after.params),
        macs=(before.macs, after.macs),
        names_differ=files[0].names != files[1].names,
        layers=_changes(before, after, gone),
        counts=(len(before.layers), len(after.layers)),
        imgsz=size,
    )


def _open_both(config: DiffConfig) -> list[Checkpoint]:
    """Open both files; a single cfg is for each of them that is not ours."""
    cfgs = [find_cfg(cfg) for cfg in config.cfg or [None]]
    if len(cfgs) > 2:
        raise InputError(f"--cfg names {len(cfgs)} files; one is for both, two are for A and B")
    readings = [Reading(cfg, decoding=config.decoding) for cfg in (cfgs[0], cfgs[-1])]
    paths = (config.first, config.second)
    found = [open_weights(path, how) for path, how in zip(paths, readings, strict=True)]
    foreign = any(one.foreign for one in found)
    for path, how, one in zip(paths, readings, found, strict=True):
        # One cfg beside one public file is meant for that, and nothing needs to be noted of ours.
        only = foreign and not one.foreign and len(cfgs) == 1
        note_reading(path, one, Reading() if only else how)
    return found


def _removed(first: Checkpoint, second: Checkpoint, *, layers: int) -> frozenset[int]:
    """Find which layers of the first left with whole blocks, where the second was made of it.

    Each plan names layers as its own network had them.
    """
    own = len(first.history)
    if first.history != second.history[:own]:
        return frozenset()
    left = list(range(layers))
    for entry in second.history[own:]:
        plan = entry.get("plan")
        blocks = set(plan.get("blocks", ())) if isinstance(plan, dict) else set()
        left = [layer for place, layer in enumerate(left) if place not in blocks]
    return frozenset(range(layers)) - set(left)


def _changes(
    before: Inventory, after: Inventory, removed: Collection[int]
) -> tuple[LayerChange, ...]:
    """Pair the layers that stayed, in order; return the pairs that differ."""
    rest = iter(after.layers)
    pairs = [
        LayerChange(layer, None if layer.index in removed else next(rest, None))
        for layer in before.layers
    ]
    pairs += [LayerChange(None, layer) for layer in rest]
    return tuple(pair for pair in pairs if _plain(pair.before) != _plain(pair.after))


def _plain(layer: Layer | None) -> dict[str, object] | None:
    if layer is None:
        return None
    return {key: getattr(layer, name) for name, key in COMPARED.items()}
