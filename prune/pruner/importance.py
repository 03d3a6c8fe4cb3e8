"""Importance of a checkpoint's channels; what needs images is saved in the user's cache.

Gradients over some hundred images take a minute, and the same importance serves every budget. So it
is saved in a file whose name is a hash of all that it depends on.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from prune import checkpoint
from prune.common import cache_dir, device, notes
from prune.common.notes import Report, silent
from prune.common.progress import tracked
from prune.common.size import Size
from prune.core.importance import group_importance
from prune.core.importance.criteria import CRITERIA
from prune.core.importance.own_criteria import CriterionLike, find
from prune.core.importance.statistics import Statistics, gather
from prune.errors import InputError, PlanError, PruneError
from prune.pruner.session import Session

if TYPE_CHECKING:
    from prune.data.loader import Batch
    from prune.data.spec import DataSpec
    from prune.models.darknet import Darknet
    from prune.pruner.config import ImportanceConfig

Importance = tuple[Tensor | None, ...]
"""One entry per group, [channels]; None where the group is protected or cannot be compared."""

_LONGEST = 40  # letters of a checkpoint's name in the name of its file


@dataclass(frozen=True)
class TrainImages:
    """The images that a criterion looks at: `images` of the train split, fitted into `imgsz`."""

    spec: DataSpec
    images: int
    imgsz: Size

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"images is {self.images}; it must be at least 1, e.g. 64")


def measure(
    config: ImportanceConfig, session: Session, *, criterion: CriterionLike | None = None
) -> Importance:
    """Compute the importance of a session's channels as a config says, or by another criterion.

    Raises:
        PruneError: see `importance_of`.
    """
    criterion = criterion or config.criterion
    assert criterion is not None, "the caller has chosen one"
    images = None
    if config.data is not None:
        from prune.data import spec

        data = spec.load(config.data, splits=("train",))
        images = TrainImages(data, config.images, session.checkpoint.imgsz)
    return importance_of(
        session,
        criterion=criterion,
        scope=config.scope,
        normalize=config.normalize,
        seed=config.seed,
        images=images,
        where=device.choose(config.device) if images else None,
        report=notes.note,  # once, however many cuts are tried
    )


def importance_of(
    session: Session,
    *,
    criterion: CriterionLike = "l1",
    scope: str = "root",
    normalize: str = "none",
    seed: int = 0,
    images: TrainImages | None = None,
    where: torch.device | None = None,
    report: Report = silent,
) -> Importance:
    """Compute the importance of the channels of a checkpoint, or read it from the cache.

    Args:
        session: the checkpoint.
        criterion: see `own_criteria.find`.
        scope: see `group_importance.channel_importance`.
        normalize: likewise.
        seed: of the criterion, and of the choice of images.
        images: for criteria that need them.
        where: the device that looks at them; None for the network's own.
        report: receives where the importance was saved or found.

    Raises:
        PlanError: an unknown name, no images where they are needed, or broken weights.
        DataError: images that cannot be read.
        InputError: the data has another number of classes, or the saved file is damaged.
    """
    compute = partial(
        group_importance.channel_importance,
        session.net,
        session.groups,
        criterion=criterion,
        scope=scope,
        normalize=normalize,
        seed=seed,
    )
    name, chosen = find(criterion)
    if not chosen.needs_images:
        return compute(statistics=None)
    if images is None:
        raise PlanError(f"criterion {name} needs images; give --data")
    images.spec.expect_classes(session.checkpoint.names, of=session.path)
    # The code of another criterion may change, so that its importance is not saved.
    saved = (
        _file(session, images, f"{name}-{scope}-{normalize}", seed) if name in CRITERIA else None
    )
    if saved is not None and saved.is_file():
        found = _read(saved)
        report(f"importance of channels read from {saved}")
        return found
    own = next(session.net.parameters()).device
    # A copy on its own device would cost memory for nothing.
    net = session.net if where in (None, own) else copy.deepcopy(session.net).to(where)
    found = compute(statistics=gather_statistics(net, images, chosen.reads, seed=seed))
    if saved is None:
        return found
    try:
        checkpoint.write_archive(list(found), saved)
    except PruneError as error:
        report(f"{error}; the importance of channels is computed again next time")
    else:
        report(f"importance of channels saved in {saved}")
    return found


def _read(saved: Path) -> Importance:
    try:
        return cast(Importance, tuple(torch.load(saved, weights_only=True)))
    except Exception as error:  # whatever a damaged file makes torch raise
        raise InputError(f"{saved} is damaged; remove it to compute it anew") from error


def gather_statistics(net: Darknet, images: TrainImages, what: str, *, seed: int) -> Statistics:
    """Gather statistics of images as they are: letterboxed, without augmentation, drawn at random.

    Args:
        net: on any device.
        images: the data set, and how many.
        what: the criterion reads, see `statistics.gather`.
        seed: of the order.

    Raises:
        DataError: images that cannot be read.
        PlanError: a loss that is not finite.
    """
    from prune.common.hyperparameters import SCRATCH
    from prune.data import loader  # here, so that criteria of weights alone load no images
    from prune.data.samples import HYP_KEYS
    from prune.models.loss import detection_loss

    plain = {**SCRATCH, **dict.fromkeys(HYP_KEYS, 0.0)}
    # A loss is divided by the boxes of its batch: only in a batch of one is the gradient exact.
    batch_size = 1 if what == "gate" else min(8, images.images)
    batches = loader.train_loader(
        images.spec,
        imgsz=images.imgsz.raised(net.stride),
        batch_size=batch_size,
        stride=net.stride,
        hyp=plain,
        workers=0,
        seed=seed,
    )

    def loss(maps: object, targets: object) -> Tensor:
        found = cast("tuple[Tensor, ...]", maps)
        return detection_loss(found, net.heads, cast(Tensor, targets), hyp=SCRATCH)[0]

    where = next(net.parameters()).device
    number = -(-images.images // batch_size)
    seen = tracked(_first(batches, images.images, where), "statistics", number)
    return gather(net, seen, loss, what=what)


def _first(
    batches: Iterable[Batch], images: int, where: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield so many images, or all there are."""
    for batch in batches:
        taken = min(images, len(batch.images))
        targets = batch.targets[batch.targets[:, 0] < taken]
        yield batch.images[:taken].to(where).float() / 255, targets.to(where)
        images -= taken
        if not images:
            return


def fingerprint(net: nn.Module) -> str:
    """Hash the weights of a network: in steps they differ each time, the file does not."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _file(session: Session, images: TrainImages, name: str, seed: int) -> Path:
    """Name the file by everything that the importance depends on."""
    from prune.data.labels import label_path

    shown = images.spec.images("train")
    files = [path for image in shown for path in (image, label_path(image)) if path.is_file()]
    facts = (
        session.net.cfg_text(),
        fingerprint(session.net),
        name,
        seed,
        (images.images, images.imgsz.plain),
        [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files],
    )
    code = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    return cache_dir.folder("scores") / f"{session.path.stem[:_LONGEST]}.{name}-{code}.scores"
