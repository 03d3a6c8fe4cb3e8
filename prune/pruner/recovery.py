"""Recovery of a pruned checkpoint: pictures as training made them, steps in order, each judged.

A step that lowers the score is undone. A first trial elsewhere saw recalibration on letterboxed
pictures take a network trained on mosaics from 0.2 to 0.08 mAP: so pictures are mosaics, and
nothing is taken on trust.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.common import device
from prune.common.hyperparameters import SCRATCH
from prune.common.progress import tracked
from prune.common.size import Size
from prune.core.plan import Plan
from prune.core.recover.compensate import compensate, means_from_norms, means_from_pictures
from prune.core.recover.recalibrate import recalibrate
from prune.core.recover.reconstruct import Settings, reconstruct
from prune.core.recover.restate import restate
from prune.data import spec
from prune.data.loader import Loader, TrainLoader, score_loader, train_loader
from prune.data.spec import DataSpec
from prune.errors import InputError
from prune.evaluate.collect import score
from prune.evaluate.metrics import LEARNED, Metrics
from prune.models.darknet import Darknet, reactivated
from prune.pruner import depth, session
from prune.pruner.session import Pruned, Session

BATCH = 16  # pictures; what training takes by default
WRECKED = 0.1  # fraction of the original's mAP below which a cut has destroyed the network


@dataclass(frozen=True)
class RecoveryOptions:
    """What to do after a cut.

    Attributes:
        steps: key of STEPS -> data.yaml whose training pictures it looks at; None for none.
        judge: data.yaml whose validation split scores every step; None to score nothing.
        activation: what convolutions have from now on, a key of `models.layers.ACTIVATIONS`; "" for
            what they had. It comes before the steps, so that these make up for it, too.
        images: how many training pictures.
        memory: bytes that a reconstruction may hold; see `reconstruct.Settings`.
        seed: of their order and augmentation.
        device: see `device.choose`.
    """

    steps: Mapping[str, Path | None]
    judge: Path | None = None
    activation: str = ""
    images: int = 200
    memory: int = 4 << 30
    seed: int = 0
    device: str = ""


@dataclass(frozen=True)
class RecoveryStep:
    """One step and what it did.

    Attributes:
        step: "original" and "cut", "activation" where that changes, then keys of STEPS.
        kept: whether its result was kept.
        images: pictures it looked at.
        seconds: what it took.
        layers: how many it changed; None where that is not counted.
        map50: score after it; None where nothing was scored.
        map: likewise.
    """

    step: str
    kept: bool = True
    images: int = 0
    seconds: float = 0.0
    layers: int | None = None
    map50: float | None = None
    map: float | None = None


@dataclass(frozen=True)
class _Case:
    """What a step works on; it changes `net` in place and says how many layers it changed.

    `exchanged` says that its activations are no longer the original's.
    """

    subject: Session
    pruned: Pruned
    original: Darknet
    net: Darknet
    names: Mapping[str, str] | None
    settings: Settings
    exchanged: bool = False


Step = Callable[[_Case, "Sequence[Tensor]"], "int | None"]


def _compensate(case: _Case, pictures: Sequence[Tensor]) -> int:
    original, shape = case.original, case.subject.net.small_picture
    if pictures:
        means = means_from_pictures(original, pictures)
    else:
        means = means_from_norms(original, shape)
    done = compensate(
        original,
        case.net,
        case.subject.groups,
        case.pruned.plan,
        means=means,
        picture=torch.zeros(shape).to(next(original.parameters())),
        names=case.names,
    )
    return len(done.layers)


def _reconstruct(case: _Case, pictures: Sequence[Tensor]) -> int:
    groups, plan = case.subject.groups, case.pruned.plan
    solved = reconstruct(
        case.original,
        case.net,
        groups,
        plan,
        pictures,
        names=case.names,
        whole=case.exchanged,
        settings=case.settings,
    )
    restate(case.net, pictures)  # or training would begin with other numbers than these
    return sum(layer.after < layer.before for layer in solved)


def _recalibrate(case: _Case, pictures: Sequence[Tensor]) -> None:
    recalibrate(case.net, pictures)


# In the order they are done: constants first, so that least squares starts nearer; statistics last,
# since they are those of the final weights.
STEPS: dict[str, Step] = {
    "compensate": _compensate,
    "reconstruct": _reconstruct,
    "recalibrate": _recalibrate,
}


class Prepared:
    """RecoveryOptions whose data was opened and checked; nothing has been computed yet."""

    def __init__(self, wishes: RecoveryOptions, subject: Session) -> None:
        """Open what the wishes name.

        Raises:
            InputError: a number out of range, or data with another number of classes.
            DataError: a data set that cannot be used.
            DeviceError: no such device.
        """
        if wishes.images < 1:
            raise InputError(f"recovery images is {wishes.images}; it must be at least 1, e.g. 200")
        if wishes.memory < 1 << 28:
            raise InputError("recovery memory must be at least 0.25 GiB, e.g. 4")
        self.wishes, self.subject = wishes, subject
        self.device = device.choose(wishes.device)
        paths = {path for path in wishes.steps.values() if path is not None}
        self._loaders = {path: _training(path, subject, wishes.seed) for path in sorted(paths)}
        self._judge = None if wishes.judge is None else _judging(wishes.judge, subject)

    def run(
        self, pruned: Pruned, result: Checkpoint, say: Callable[[str], None]
    ) -> tuple[Checkpoint, list[RecoveryStep]]:
        """Recover a pruned checkpoint.

        Args:
            pruned: the cut.
            result: the checkpoint made of it; stays as it is.
            say: told of every step, and of one that was undone.

        Returns:
            The checkpoint with its new weights, told of in its history, and a row a step.
        """
        case = self._case(pruned, checkpoint.network(result))
        rows = [self._row("original", case.original)] if self._judge else []
        rows += [self._row("cut", case.net)] if self._judge else []
        case = self._exchanged(case)
        if case.exchanged:
            rows.append(self._row("activation", case.net))
        elif self.wishes.activation:
            say(f"no convolution has another activation than {self.wishes.activation}")
        pictures = {path: self._pictures(path) for path in self._loaders}
        for name in (name for name in STEPS if name in self.wishes.steps):
            path = self.wishes.steps[name]
            seen: Sequence[Tensor] = () if path is None else pictures[path]
            rows.append(self._step(name, case, seen, best=_best(rows)))
            say(_told(rows[-1]))
        for note in _doubts(rows):
            say(note)
        return self._told_of(case, result, rows), rows

    def tried(self, plan: Plan) -> Darknet:
        """Carry a plan out and recover what it leaves, with nothing scored, said or written.

        Raises:
            PlanError: the plan does not fit the network.
        """
        pruned = session.cut_session(self.subject, plan, made_by="trial")
        case = self._exchanged(self._case(pruned, pruned.net))
        for name in (name for name in STEPS if name in self.wishes.steps):
            path = self.wishes.steps[name]
            STEPS[name](case, () if path is None else self._pictures(path))
        return case.net

    def _case(self, pruned: Pruned, net: Darknet) -> _Case:
        places = depth.places_of(self.subject.net, pruned.plan.blocks)
        return _Case(
            subject=self.subject,
            pruned=pruned,
            original=_on(self.device, self.subject.net),
            net=copy.deepcopy(net).to(self.device),  # it may share weights with what stays
            names=depth.skip(self.subject.net, places).names if places else None,
            settings=Settings(memory=self.wishes.memory, seed=self.wishes.seed),
        )

    def _exchanged(self, case: _Case) -> _Case:
        """Exchange activations as wished; the case itself where none is another."""
        if not self.wishes.activation:
            return case
        net = reactivated(case.net, self.wishes.activation)
        return case if net.sections == case.net.sections else replace(case, net=net, exchanged=True)

    def _step(
        self, name: str, case: _Case, pictures: Sequence[Tensor], *, best: float | None
    ) -> RecoveryStep:
        before = copy.deepcopy(case.net.state_dict())
        started = time.perf_counter()
        layers = STEPS[name](case, pictures)
        seconds = time.perf_counter() - started
        row = replace(self._row(name, case.net), seconds=round(seconds, 1), layers=layers)
        row = replace(row, images=sum(map(len, pictures)))
        if row.map is None or best is None or row.map >= best:
            return row
        case.net.load_state_dict(before)
        return replace(row, kept=False)

    def _row(self, step: str, net: Darknet) -> RecoveryStep:
        if self._judge is None:
            return RecoveryStep(step)
        scores = self._judge(net, where=self.device, name=f"scoring: {step}")
        return RecoveryStep(step, map50=scores.map50, map=scores.map)

    def _pictures(self, path: Path) -> Pictures:
        number = -(-self.wishes.images // BATCH)
        return Pictures(list(tracked(self._batches(path), "images", number)), self.device)

    def _batches(self, path: Path) -> Iterator[Tensor]:
        missing = self.wishes.images
        epoch = 0
        while missing > 0:  # a small data set is gone through again, with other mosaics
            self._loaders[path].set_epoch(epoch)
            for batch in self._loaders[path]:
                yield batch.images[:missing]
                missing -= len(batch.images)
                if missing <= 0:
                    break
            epoch += 1

    def _told_of(self, case: _Case, result: Checkpoint, rows: Sequence[RecoveryStep]) -> Checkpoint:
        *earlier, own = result.history
        data = {name: str(path) for name, path in self.wishes.steps.items() if path is not None}
        told = [{**asdict(row), "data": data.get(row.step)} for row in rows]
        own = {**own, "recovery": told}
        if case.exchanged:
            own["activation"] = self.wishes.activation
        return checkpoint.capture(
            case.net,
            names=result.names,
            imgsz=result.imgsz,
            history=[*earlier, own],
        )


class Pictures(Sequence[Tensor]):
    """Batches kept as bytes, float [N, 3, H, W] in 0..1 when looked at."""

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
    """Return the score that the next step starts from: that of the last one kept."""
    return next((row.map for row in reversed(rows) if row.kept), None)


def _doubts(rows: Sequence[RecoveryStep]) -> list[str]:
    """Say what is wrong with a cut that has hardly anything left, or with what was cut."""
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
    asked = {row.step for row in rows}
    advice = "" if "reconstruct" in asked else ", or recover the cut by --reconstruct"
    return [
        f"note: the pruned model has mAP@.5:.95 {left:.4f}, less than a tenth of the original's "
        f"{first.map:.4f}; prune less{advice}"
    ]


def _size(subject: Session) -> Size:
    """Return the size of pictures: the checkpoint's, rounded up to what the network takes."""
    return subject.checkpoint.imgsz.raised(subject.net.stride)


def _training(path: Path, subject: Session, seed: int) -> TrainLoader:
    return train_loader(
        _opened(path, subject, "train"),
        imgsz=_size(subject),
        batch_size=BATCH,
        stride=subject.net.stride,
        hyp=SCRATCH,
        workers=0,
        seed=seed,
        labelled=False,
    )


def _judging(path: Path, subject: Session) -> Callable[..., Metrics]:
    data = _opened(path, subject, "val")
    loader: Loader = score_loader(
        data,
        split="val",
        imgsz=subject.checkpoint.imgsz,
        batch_size=BATCH,
        stride=subject.net.stride,
        workers=0,
    )

    def judge(net: Darknet, *, where: torch.device, name: str) -> Metrics:
        batches = tracked(loader, name, len(loader))
        return score(net, batches, data.names, device=where)

    return judge


def _opened(path: Path, subject: Session, split: str) -> DataSpec:
    data = spec.load(path, splits=[split])
    data.expect_classes(subject.checkpoint.names, of=subject.path)
    return data


def _told(row: RecoveryStep) -> str:
    what = f"{row.step} took {row.seconds:.1f} s"
    if row.images:
        what += f" on {row.images} pictures"
    if row.map is not None:
        what += f": mAP@.5 {row.map50:.4f}, mAP@.5:.95 {row.map:.4f}"
    return what if row.kept else f"{what}; that is lower, so it was undone"
