"""A checkpoint opened for pruning, and its cut: applied, verified, described as a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.checkpoint.convert import AS_IT_IS, Reading, open_weights
from prune.common import run_dir
from prune.core import plan
from prune.core.cost.macs import Cost, count
from prune.core.cut import apply_plan
from prune.core.plan import Plan
from prune.core.trace.groups import Group
from prune.core.verify import verify as verify_networks
from prune.errors import CheckpointError, PlanError, VerificationError
from prune.models.darknet import Darknet
from prune.models.groups import detector_groups
from prune.pruner import depth
from prune.pruner.depth import Block
from prune.pruner.result import Latency


@dataclass(frozen=True)
class Session:
    """A checkpoint opened for pruning: its network and the groups that are coupled in it.

    Attributes:
        path: the file.
        checkpoint: its content.
        net: the network, in eval mode.
        groups: all coupled groups of the network.
        digest: returns the SHA-256 of the file.
        called: where blocks were removed already, the name in the checkpoint of each layer.
    """

    path: Path
    checkpoint: Checkpoint
    net: Darknet
    groups: tuple[Group, ...]
    digest: Callable[[], str]
    called: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What is to be removed from the network of a session.

    Attributes:
        plan: channels and blocks.
        block_importance: of removed blocks, by the index of their shortcut; empty where blocks
            were not compared.
        latency: what was predicted and measured for a latency budget.
        source: the file that the plan was read from; errors of the cut name it.
    """

    plan: Plan
    block_importance: Mapping[int, float] = field(default_factory=dict)
    latency: Latency | None = None
    source: Path | None = None


@dataclass(frozen=True)
class Pruned:
    """A network after its cut, not yet verified.

    Attributes:
        net: the pruned network.
        plan: what was removed, with the network it was made for.
        before: cost of the original per image of the checkpoint's size.
        after: likewise of the pruned network.
        blocks: the blocks that were removed, with their cost in the original.
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
    # Of a large file the SHA-256 takes as long as the cut: it is computed meanwhile.
    pool = ThreadPoolExecutor(1)
    digest = pool.submit(checkpoint.digest, path).result
    pool.shutdown(wait=False)
    net = checkpoint.network(found)
    groups = detector_groups(net)
    return Session(path, found, net, groups, digest)


def convolutions(net: Darknet) -> dict[int, str]:
    """Return layer index -> name of each convolution that can be pruned: all but the heads'."""
    heads = net.head_convolutions()
    named = {
        layer.index: f"module_list.{layer.index}.Conv2d"
        for layer in net.layers
        if layer.kind == "convolutional"
    }
    return {index: name for index, name in named.items() if name not in heads}


def cut_session(session: Session, requested: Plan, *, made_by: str) -> Pruned:
    """Cut the network of a session by a plan; the session stays as it is.

    Channels are removed first, then whole blocks: a plan names both as the original does.

    Raises:
        PlanError: the plan does not fit the network, or sets what only the Python API supports.
    """
    if foreign := [name for name in plan.OF_MODULES if getattr(requested, name)]:
        raise PlanError(
            f"the plan sets {', '.join(foreign)}, which only the Python API supports (prune.cut); "
            "remove it from the plan, and from the cuts what must not be pruned"
        )
    identity = checkpoint.network_id(session.checkpoint.cfg)
    if requested.network not in ("", identity):
        raise PlanError(
            f"the plan was made for the network {requested.network[:12]}..., "
            f"but {session.path} contains {identity[:12]}..."
        )
    requested = replace(requested, network=identity, made_by=made_by)
    places = depth.places_of(session.net, requested.blocks)
    net = apply_plan(session.net, session.groups, requested, share=True)
    net = depth.without(net, places) if places else net
    size = session.checkpoint.imgsz
    shape = size.batch()
    return Pruned(
        net,
        requested,
        before=count(session.net, shape),
        after=count(net, shape),
        blocks=depth.priced(session.net, places, imgsz=size) if places else (),
    )


def verify(session: Session, pruned: Pruned, result: Checkpoint, *, seed: int = 0) -> float:
    """Verify a cut; return the largest absolute difference of any head map.

    What is compared is the network that the checkpoint's cfg text and weights build, so that one
    comparison covers both the cut and the checkpoint written of it.

    Raises:
        VerificationError: the network in the checkpoint differs from the masked original.
    """
    shape = session.net.small_image
    places = depth.places_of(session.net, pruned.plan.blocks)
    skip = depth.skip(session.net, places) if places else None

    def compare(net: Darknet) -> float:
        return verify_networks(
            session.net, net, session.groups, pruned.plan, shape=shape, skip=skip, seed=seed
        )

    try:
        return compare(checkpoint.network(result))
    except (CheckpointError, VerificationError) as error:
        compare(pruned.net)
        raise VerificationError(
            f"the cut is right, the cfg text written for it is not: {error}"
        ) from error


def as_checkpoint(session: Session, pruned: Pruned, *, seed: int) -> Checkpoint:
    """Describe a pruned network as a checkpoint.

    The training state is left out: momentum and best metrics belong to another network.
    """
    entry: dict[str, object] = {
        "command": pruned.plan.made_by,
        "plan": plan.to_dict(pruned.plan),
        "criterion": pruned.plan.criterion,
        "params": {"before": pruned.before.params, "after": pruned.after.params},
        "macs": {"before": pruned.before.macs, "after": pruned.after.macs},
        "seed": seed,
        "versions": run_dir.versions(),
        "parent": session.digest(),
    }
    return checkpoint.capture(
        pruned.net,
        names=session.checkpoint.names,
        imgsz=session.checkpoint.imgsz,
        history=[*session.checkpoint.history, entry],
    )
