"""Scores of a checkpoint's channels, those that need pictures kept in the user's cache.

Gradients over some hundred pictures take a minute; the same scores serve every budget. So they lie
in a file whose name is a hash of all they depend on.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from prune import checkpoint
from prune.common import cache_dir
from prune.common.progress import tracked
from prune.common.size import Size
from prune.core.importance import group_importance
from prune.core.importance.criteria import CRITERIA
from prune.core.importance.statistics import Evidence, gather
from prune.errors import InputError, PlanError, PruneError
from prune.pruner.session import Session

if TYPE_CHECKING:
    from prune.data.loader import Batch
    from prune.data.spec import DataSpec
    from prune.models.darknet import Darknet

Scores = tuple[Tensor | None, ...]

_LONGEST = 40  # letters of a checkpoint's name in that of its scores


@dataclass(frozen=True)
class Pictures:
    """What a criterion looks at: `images` of a data set's train split, fitted into `imgsz`."""

    spec: DataSpec
    images: int
    imgsz: Size

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"images is {self.images}; it must be at least 1, e.g. 64")


def scores(
    subject: Session,
    *,
    criterion: str = "l1",
    scope: str = "root",
    normalize: str = "none",
    seed: int = 0,
    pictures: Pictures | None = None,
    where: torch.device | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Scores:
    """Score the channels of a checkpoint's network; see `ranking.scores`.

    Args:
        subject: the checkpoint.
        criterion: a key of CRITERIA.
        scope: see `ranking.scores`.
        normalize: likewise.
        seed: of the criterion, and of which pictures are looked at.
        pictures: for criteria that need them.
        where: the device that looks at them; None for where the network is.
        say: told where scores were kept or found.

    Raises:
        PlanError: an unknown name, no pictures where they are needed, or broken weights.
        DataError: pictures that cannot be read.
        InputError: the data has another number of classes, or kept scores are damaged.
    """
    rank = partial(
        group_importance.scores,
        subject.net,
        subject.groups,
        criterion=criterion,
        scope=scope,
        normalize=normalize,
        seed=seed,
    )
    what = CRITERIA[criterion].reads if criterion in CRITERIA else ""
    if what in ("", "weight", "scale"):
        return rank(evidence=None)
    if pictures is None:
        raise PlanError(f"criterion {criterion} needs pictures; give --data")
    pictures.spec.expect_classes(subject.checkpoint.names, of=subject.path)
    kept = _place(subject, pictures, f"{criterion}-{scope}-{normalize}", seed)
    if kept.is_file():
        found = _read(kept)
        say(f"scores from {kept}")
        return found
    own = next(subject.net.parameters()).device
    # A copy on its own device would cost memory for nothing.
    looks = subject.net if where in (None, own) else copy.deepcopy(subject.net).to(where)
    found = rank(evidence=evidence(looks, pictures, what, seed=seed))
    try:
        checkpoint.write_archive(list(found), kept)
    except PruneError as error:
        say(f"{error}; the channels are scored again next time")
    else:
        say(f"scores kept in {kept}")
    return found


def _read(kept: Path) -> Scores:
    try:
        return cast(Scores, tuple(torch.load(kept, weights_only=True)))
    except Exception as error:  # whatever a damaged file makes torch raise
        raise InputError(f"{kept} is damaged; remove it to score anew") from error


def evidence(net: Darknet, pictures: Pictures, what: str, *, seed: int) -> Evidence:
    """Look at pictures as they are: letterboxed, unaugmented, drawn by the seed.

    Args:
        net: on any device.
        pictures: of whom and how many.
        what: the criterion reads, see `evidence.gather`.
        seed: of the order.

    Raises:
        DataError: pictures that cannot be read.
        PlanError: a loss that is not finite.
    """
    from prune.common.hyperparameters import SCRATCH
    from prune.data import loader  # here, so that a criterion of weights alone loads no images
    from prune.data.samples import HYP_KEYS
    from prune.models.loss import detection_loss

    plain = {**SCRATCH, **dict.fromkeys(HYP_KEYS, 0.0)}
    # A loss divides by the boxes of its batch, so only alone has a picture its own gradient.
    batch_size = 1 if what == "gate" else min(8, pictures.images)
    batches = loader.train_loader(
        pictures.spec,
        imgsz=pictures.imgsz.raised(net.stride),
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
    number = -(-pictures.images // batch_size)
    seen = tracked(_first(batches, pictures.images, where), "statistics", number)
    return gather(net, seen, loss, what=what)


def _first(
    batches: Iterable[Batch], images: int, where: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Take so many pictures, or all there are."""
    for batch in batches:
        taken = min(images, len(batch.images))
        targets = batch.targets[batch.targets[:, 0] < taken]
        yield batch.images[:taken].to(where).float() / 255, targets.to(where)
        images -= taken
        if not images:
            return


def fingerprint(net: nn.Module) -> str:
    """Hash a network's weights: in steps it is another one each time, of one and the same file."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _place(subject: Session, pictures: Pictures, name: str, seed: int) -> Path:
    """Name the file of scores by everything they depend on."""
    from prune.data.labels import label_path

    shown = pictures.spec.pictures("train")
    files = [path for image in shown for path in (image, label_path(image)) if path.is_file()]
    facts = (
        subject.net.cfg_text(),
        fingerprint(subject.net),
        name,
        seed,
        (pictures.images, pictures.imgsz.plain),
        [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files],
    )
    code = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    return cache_dir.folder("scores") / f"{subject.path.stem[:_LONGEST]}.{name}-{code}.scores"
