"""Prune a checkpoint: a plan carried out, proved, and written as the text that rebuilds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.checkpoint.convert import AS_IT_IS, Reading, open_weights
from prune.common import run_dir
from prune.core import plan, verify
from prune.core.cost.macs import Cost, count
from prune.core.cut import apply_plan
from prune.core.plan import Plan
from prune.core.trace.groups import Group
from prune.errors import CheckpointError, PlanError, VerificationError
from prune.models.darknet import Darknet
from prune.models.groups import detector_groups
from prune.pruner import depth
from prune.pruner.depth import Block


@dataclass(frozen=True)
class Session:
    """A checkpoint opened for pruning: its network and the groups that are coupled in it.

    Where blocks left the network already, `called` says what its layers are in the checkpoint.
    `digest` returns the SHA-256 of the file.
    """

    path: Path
    checkpoint: Checkpoint
    net: Darknet
    groups: tuple[Group, ...]
    digest: Callable[[], str]
    called: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruned:
    """A network after its cut, not yet proved.

    Attributes:
        net: the pruned network.
        plan: what was removed, with the network it was made for.
        before: cost of one picture at the checkpoint's size.
        after: likewise.
        blocks: what left whole, with what it cost in the original.
    """

    net: Darknet
    plan: Plan
    before: Cost
    after: Cost
    blocks: tuple[Block, ...] = ()


def open_session(path: Path, reading: Reading = AS_IT_IS) -> Session:
    """Read weights, ours or public ones, and find what is coupled in their network.

    Raises:
        CheckpointError: the file cannot be used, or its weights do not fit its cfg.
    """
    found = open_weights(path, reading)
    digest = _hashing(path)
    net = checkpoint.network(found)
    groups = detector_groups(net)
    return Session(path, found, net, groups, digest)


def _hashing(path: Path) -> Callable[[], str]:
    """Hash a file while other work goes on: of a large one it takes as long as the cut."""
    pool = ThreadPoolExecutor(1)
    result = pool.submit(checkpoint.digest, path)
    pool.shutdown(wait=False)
    return result.result


def convolutions(net: Darknet) -> dict[int, str]:
    """Name the convolutions a cut may start from by their layer index: all but the heads'."""
    heads = net.head_convolutions()
    named = {
        layer.index: f"module_list.{layer.index}.Conv2d"
        for layer in net.layers
        if layer.kind == "convolutional"
    }
    return {index: name for index, name in named.items() if name not in heads}


def cut_session(subject: Session, wanted: Plan, *, made_by: str) -> Pruned:
    """Cut the subject's network by a plan; the subject stays as it is.

    Channels go first, then whole blocks: a plan names both as the original has them.

    Raises:
        PlanError: the plan does not fit the network, or says what only a module's plan does.
    """
    if foreign := [name for name in plan.OF_MODULES if getattr(wanted, name)]:
        raise PlanError(
            f"the plan says {', '.join(foreign)}, which is for Python modules (prune.cut) and not "
            "heeded here; take it out of the plan, and what is to stay out of the cuts"
        )
    identity = checkpoint.network_id(subject.checkpoint.cfg)
    if wanted.network not in ("", identity):
        raise PlanError(
            f"the plan was made for the network {wanted.network[:12]}..., "
            f"and {subject.path} holds {identity[:12]}..."
        )
    wanted = replace(wanted, network=identity, made_by=made_by)
    places = depth.places_of(subject.net, wanted.blocks)
    net = apply_plan(subject.net, subject.groups, wanted, share=True)
    net = depth.without(net, places) if places else net
    size = subject.checkpoint.imgsz
    shape = size.batch()
    return Pruned(
        net,
        wanted,
        before=count(subject.net, shape),
        after=count(net, shape),
        blocks=depth.priced(subject.net, places, imgsz=size) if places else (),
    )


def prove(subject: Session, pruned: Pruned, result: Checkpoint, *, seed: int = 0) -> float:
    """Prove a cut; return the largest absolute difference of any head map.

    It is the network which the checkpoint's text and weights build that is compared, so that one
    proof covers the cut and what is written of it.

    Raises:
        VerificationError: the network in the checkpoint differs from the masked original.
    """
    shape = subject.net.small_picture
    places = depth.places_of(subject.net, pruned.plan.blocks)
    skip = depth.skip(subject.net, places) if places else None

    def proved(net: Darknet) -> float:
        return verify.verify(
            subject.net, net, subject.groups, pruned.plan, shape=shape, skip=skip, seed=seed
        )

    try:
        return proved(checkpoint.network(result))
    except (CheckpointError, VerificationError) as error:
        proved(pruned.net)
        raise VerificationError(
            f"the cut is right, the cfg text written for it is not: {error}"
        ) from error


def as_checkpoint(subject: Session, pruned: Pruned, *, seed: int) -> Checkpoint:
    """Describe a pruned network as a checkpoint.

    The training state is left behind: momentum and best scores were another network's.
    """
    entry: dict[str, object] = {
        "command": pruned.plan.made_by,
        "plan": plan.to_dict(pruned.plan),
        "criterion": pruned.plan.criterion,
        "params": {"before": pruned.before.params, "after": pruned.after.params},
        "macs": {"before": pruned.before.macs, "after": pruned.after.macs},
        "seed": seed,
        "versions": run_dir.versions(),
        "parent": subject.digest(),
    }
    return checkpoint.capture(
        pruned.net,
        names=subject.checkpoint.names,
        imgsz=subject.checkpoint.imgsz,
        history=[*subject.checkpoint.history, entry],
    )


def touched(wanted: Plan) -> list[dict[str, object]]:
    """List the groups a plan cuts: root, width before and after, and members, as plain values."""
    return [
        {
            "root": cut.layer,
            "before": cut.channels,
            "after": cut.channels - len(cut.remove),
            "members": list(cut.members),
        }
        for cut in wanted.cuts
    ]
