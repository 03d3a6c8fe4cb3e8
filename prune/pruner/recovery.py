"""Recovery of a pruned checkpoint without training: steps in order, each of them evaluated.

A step that lowers the mAP is undone. In a first trial elsewhere, recalibration on letterboxed
images took a network that was trained on mosaics from an mAP of 0.2 to 0.08: so the images are
mosaics, as in training.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.common import device
from prune.common.hyperparameters import SCRATCH
from prune.common.notes import Report
from prune.common.progress import tracked
from prune.core.plan import Plan
from prune.core.recover.compensate import compensate, means_from_images, means_from_norms
from prune.core.recover.recalibrate import recalibrate
from prune.core.recover.reconstruct import Settings, reconstruct
from prune.core.recover.restate import restate
from prune.data import spec
from prune.data.loader import Loader, TrainLoader, evaluation_loader, train_loader
from prune.data.spec import DataSpec
from prune.errors import InputError
from prune.evaluate.collect import evaluate_network
from prune.evaluate.metrics import LEARNED, Metrics
from prune.models.darknet import Darknet, reactivated
from prune.pruner import depth, session
from prune.pruner.result import RecoveryStep
from prune.pruner.session import Pruned, Session

if TYPE_CHECKING:
    from prune.pruner.config import PruneConfig

BATCH = 16  # images; what training takes by default
WRECKED = 0.1  # fraction of the original's mAP below which a cut has destroyed the network
_TRIAL_IMAGES = 48  # enough to tell one cut from another


@dataclass(frozen=True)
class RecoveryOptions:
    """What to do after a cut.

    Attributes:
        steps: key of STEPS -> data.yaml of the training images it looks at; None for no images.
        evaluate: data.yaml whose validation split evaluates every step; None for no evaluation.
        activation: a key of `models.layers.ACTIVATIONS` that replaces every nonlinear activation;
            "" for none. It is exchanged before the steps, so that they compensate for it, too.
        images: number of training images.
        memory: GiB that a reconstruction may take, at least 0.25; see `reconstruct.Settings`.
        seed: of the order and augmentation of the images.
        device: see `device.choose`.
    """

    steps: Mapping[str, Path | None]
    evaluate: Path | None = None
    activation: str = ""
    images: int = 200
    memory: float = 4.0
    seed: int = 0
    device: str = ""


def prepare(config: PruneConfig, opened: Session) -> Recovery | None:
    """Check what a config requests and open its data; None where it requests no recovery.

    Raises:
        PruneError: see `Recovery`; or an evaluation or a step without data.
    """
    if config.score and config.data is None:
        raise InputError("--score needs images to evaluate on; add --data, e.g. data/mine.yaml")
    options = _options_of(config)
    if not options.steps and not config.score and not options.activation:
        return None
    return Recovery(options, opened)


def trial(config: PruneConfig, opened: Session) -> Callable[[Plan], Darknet] | None:
    """Return what carries a plan out and recovers the result with few images; None for no recovery.

    Raises:
        PruneError: see `prepare`.
    """
    options = _options_of(config)
    if not options.steps and not options.activation:
        return None
    few = min(options.images, _TRIAL_IMAGES)
    return Recovery(replace(options, evaluate=None, images=few), opened).try_plan


def _options_of(config: PruneConfig) -> RecoveryOptions:
    steps: dict[str, Path | None] = {}
    for name in STEPS:
        data: Path | bool = getattr(config, name)
        if data is False:
            continue
        steps[name] = config.data if data is True else data
        if steps[name] is None and name != "compensate":
            raise InputError(
                f"--{name} needs training images; name their data.yaml by --data or right behind "
                f"it, e.g. --{name} data/mine.yaml"
            )
    return RecoveryOptions(
        steps=steps,
        evaluate=config.data if config.score else None,
        activation=config.activation or "",
        images=config.recover_images,
        memory=config.recover_memory,
        seed=config.seed,
        device=config.device,
    )


@dataclass(frozen=True)
class _Case:
    """What a step works on; it changes `net` in place and returns how many layers it changed.

    `exchanged` tells that its activations are no longer the original's.
    """

    opened: Session
    pruned: Pruned
    original: Darknet
    net: Darknet
    names: Mapping[str, str] | None
    settings: Settings
    exchanged: bool = False


Step = Callable[[_Case, Sequence[Tensor]], int | None]


def _compensate(case: _Case, images: Sequence[Tensor]) -> int:
    original, shape = case.original, case.opened.net.small_image
    means = means_from_images(original, images) if images else means_from_norms(original, shape)
    done = compensate(
        original,
        case.net,
        case.opened.groups,
        case.pruned.plan,
        means=means,
        image=torch.zeros(shape).to(next(original.parameters())),
        names=case.names,
    )
    return len(done.layers)


def _reconstruct(case: _Case, images: Sequence[Tensor]) -> int:
    groups, plan = case.opened.groups, case.pruned.plan
    solved = reconstruct(
        case.original,
        case.net,
        groups,
        plan,
        images,
        names=case.names,
        whole=case.exchanged,
        settings=case.settings,
    )
    restate(case.net, images)  # or training would begin with other numbers than these
    return sum(layer.after < layer.before for layer in solved)


def _recalibrate(case: _Case, images: Sequence[Tensor]) -> None:
    recalibrate(case.net, images)


# In their order: constants first, so that least squares starts nearer; statistics last, since they
# are those of the final weights.
STEPS: dict[str, Step] = {
    "compensate": _compensate,
    "reconstruct": _reconstruct,
    "recalibrate": _recalibrate,
}


class Recovery:
    """RecoveryOptions whose data was opened and checked; nothing has been computed yet."""

    def __init__(self, options: RecoveryOptions, opened: Session) -> None:
        """Open the data that the options name.

        Raises:
            InputError: a number out of range, or data with another number of classes.
            DataError: a data set that cannot be used.
            DeviceError: no such device.
        """
        if options.images < 1:
            raise InputError(
                f"recovery images is {options.images}; it must be at least 1, e.g. 200"
            )
        if not isfinite(options.memory):
            raise InputError(
                f"recovery memory is {options.memory}; it must be a number of GiB, e.g. 4"
            )
        if options.memory < 0.25:
            raise InputError("recovery memory must be at least 0.25 GiB, e.g. 4")
        self.options, self.opened = options, opened
        self.device = device.choose(options.device)
        paths = {path for path in options.steps.values() if path is not None}
        self._loaders = {path: _train_loader(path, opened, options.seed) for path in sorted(paths)}
        self._evaluate = None if options.evaluate is None else _evaluator(options.evaluate, opened)

    def run(
        self, pruned: Pruned, result: Checkpoint, report: Report
    ) -> tuple[Checkpoint, list[RecoveryStep]]:
        """Recover a pruned checkpoint.

        Args:
            pruned: the cut.
            result: the checkpoint made of it; stays as it is.
            report: receives a line per step, and on one that was undone.

        Returns:
            The checkpoint with its new weights and the steps in its history, and one row per step.
        """
        case = self._case(pruned, checkpoint.network(result))
        rows = [self._row("original", case.original)] if self._evaluate else []
        rows += [self._row("cut", case.net)] if self._evaluate else []
        case = self._exchanged(case)
        if case.exchanged:
            rows.append(self._row("activation", case.net))
        elif self.options.activation:
            report(f"no convolution has another activation than {self.options.activation}")
        images = {path: self._images(path) for path in self._loaders}
        for name in (name for name in STEPS if name in self.options.steps):
            path = self.options.steps[name]
            seen: Sequence[Tensor] = () if path is None else images[path]
            rows.append(self._step(name, case, seen, best=_best(rows)))
            report(_describe(rows[-1]))
        for note in _doubts(rows):
            report(note)
        return self._with_history(case, result, rows), rows

    def try_plan(self, plan: Plan) -> Darknet:
        """Carry a plan out and recover the result, with nothing evaluated, reported or written.

        Raises:
            PlanError: the plan does not fit the network.
        """
        pruned = session.cut_session(self.opened, plan, made_by="trial")
        case = self._exchanged(self._case(pruned, pruned.net))
        for name in (name for name in STEPS if name in self.options.steps):
            path = self.options.steps[name]
            STEPS[name](case, () if path is None else self._images(path))
        return case.net

    def _case(self, pruned: Pruned, net: Darknet) -> _Case:
        places = depth.places_of(self.opened.net, pruned.plan.blocks)
        return _Case(
            opened=self.opened,
            pruned=pruned,
            original=_on(self.device, self.opened.net),
            net=copy.deepcopy(net).to(self.device),  # it may share weights with what stays
            names=depth.skip(self.opened.net, places).names if places else None,
            settings=Settings(memory=int(self.options.memory * 2**30), seed=self.options.seed),
        )

    def _exchanged(self, case: _Case) -> _Case:
        """Exchange activations as requested; return the case itself where none changes."""
        if not self.options.activation:
            return case
        net = reactivated(case.net, self.options.activation)
        return case if net.sections == case.net.sections else replace(case, net=net, exchanged=True)

    def _step(
        self, name: str, case: _Case, images: Sequence[Tensor], *, best: float | None
    ) -> RecoveryStep:
        before = copy.deepcopy(case.net.state_dict())
        started = time.perf_counter()
        layers = STEPS[name](case, images)
        seconds = time.perf_counter() - started
        row = replace(self._row(name, case.net), seconds=round(seconds, 1), layers=layers)
        row = replace(row, images=sum(map(len, images)))
        if row.map is None or best is None or row.map >= best:
            return row
        case.net.load_state_dict(before)
        return replace(row, kept=False)

    def _row(self, step: str, net: Darknet) -> RecoveryStep:
        if self._evaluate is None:
            return RecoveryStep(step)
        metrics = self._evaluate(net, where=self.device, name=f"evaluating: {step}")
        return RecoveryStep(step, map50=metrics.map50, map=metrics.map)

    def _images(self, path: Path) -> Images:
        number = -(-self.options.images // BATCH)
        return Images(list(tracked(self._batches(path), "images", number)), self.device)

    def _batches(self, path: Path) -> Iterator[Tensor]:
        missing = self.options.images
        epoch = 0
        while missing > 0:  # a small data set is read again, with other mosaics
            self._loaders[path].set_epoch(epoch)
            for batch in self._loaders[path]:
                yield batch.images[:missing]
                missing -= len(batch.images)
                if missing <= 0:
                    break
            epoch += 1

    def _with_history(
        self, case: _Case, result: Checkpoint, rows: Sequence[RecoveryStep]
    ) -> Checkpoint:
        *earlier, own = result.history
        data = {name: str(path) for name, path in self.options.steps.items() if path is not None}
        steps = [{**asdict(row), "data": data.get(row.step)} for row in rows]
        own = {**own, "recovery": steps}
        if case.exchanged:
            own["activation"] = self.options.activation
        return checkpoint.capture(
            case.net,
            names=result.names,
            imgsz=result.imgsz,
            history=[*earlier, own],
        )


class Images(Sequence[Tensor]):
    """Batches that are stored as bytes and read as float [N, 3, H, W] in 0..1."""

    def __init__(self, batches: Sequence[Tensor], where: torch.device) -> None:
        self._batches, self._where = batches, where

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]  # no slices
        return self._batches[index].to(self._where).float() / 255


def _on(where: torch.device, net: Darknet) -> Darknet:
    """Return a network on a device: itself where it is there already."""
    there = next(net.parameters()).device.type == where.type
    return net if there else copy.deepcopy(net).to(where)


def _best(rows: Sequence[RecoveryStep]) -> float | None:
    """Return the mAP@.5:.95 that the next step starts from: that of the last one kept."""
    return next((row.map for row in reversed(rows) if row.kept), None)


def _doubts(rows: Sequence[RecoveryStep]) -> list[str]:
    """Describe what is wrong where the pruned model, or the original already, has a low mAP."""
    first, left = rows[0] if rows else None, _best(rows)
    if first is None or first.map50 is None or first.map is None or left is None:
        return []  # nothing was evaluated
    if first.map50 < LEARNED:
        return [
            f"note: the original has mAP@.5 {first.map50:.4f}: it has not learned yet, and its "
            "channels say little of what can go; train it longer before the cut"
        ]
    if left >= WRECKED * first.map:
        return []
    done = {row.step for row in rows}
    advice = "" if "reconstruct" in done else ", or recover the cut by --reconstruct"
    return [
        f"note: the pruned model has mAP@.5:.95 {left:.4f}, less than a tenth of the original's "
        f"{first.map:.4f}; prune less{advice}"
    ]


def _train_loader(path: Path, opened: Session, seed: int) -> TrainLoader:
    return train_loader(
        _open_data(path, opened, "train"),
        imgsz=opened.checkpoint.imgsz.raised(opened.net.stride),
        batch_size=BATCH,
        stride=opened.net.stride,
        hyp=SCRATCH,
        workers=0,
        seed=seed,
        labelled=False,
    )


def _evaluator(path: Path, opened: Session) -> Callable[..., Metrics]:
    data = _open_data(path, opened, "val")
    loader: Loader = evaluation_loader(
        data,
        split="val",
        imgsz=opened.checkpoint.imgsz,
        batch_size=BATCH,
        stride=opened.net.stride,
        workers=0,
    )

    def evaluate(net: Darknet, *, where: torch.device, name: str) -> Metrics:
        batches = tracked(loader, name, len(loader))
        return evaluate_network(net, batches, data.names, device=where)

    return evaluate


def _open_data(path: Path, opened: Session, split: str) -> DataSpec:
    data = spec.load(path, splits=[split])
    data.expect_classes(opened.checkpoint.names, of=opened.path)
    return data


def _describe(row: RecoveryStep) -> str:
    what = f"{row.step} took {row.seconds:.1f} s"
    if row.images:
        what += f" on {row.images} images"
    if row.map is not None:
        what += f": mAP@.5 {row.map50:.4f}, mAP@.5:.95 {row.map:.4f}"
    return what if row.kept else f"{what}; that is lower, so the step was undone"
