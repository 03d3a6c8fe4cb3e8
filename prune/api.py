"""Structured pruning of any module, in Python: trace, select, cut, verify.

    graph = trace(model, (x,))                # which channels are coupled
    plan = select(graph, amount=0.25)         # what to remove: frozen data, saved as JSON
    smaller = cut(model, plan)                # a new module
    verify(model, smaller, plan, (x,))        # raises where the two disagree
    recover(model, smaller, plan, images)     # fits the weights behind the cut, without training

These functions, `count`, `to_json`, `from_json` and what they take, return and raise are names of
`prune`, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TypeVar

from torch import Tensor, nn

from prune.common.eval_mode import evaluating
from prune.core import dry_run
from prune.core.cost.cost_model import cost_model
from prune.core.cost.macs import Cost
from prune.core.cost.macs import count as count_costs
from prune.core.cut import apply_in_place, apply_plan
from prune.core.importance import statistics
from prune.core.importance.criteria import Criterion
from prune.core.importance.group_importance import channel_importance
from prune.core.importance.own_criteria import CriterionLike, find
from prune.core.importance.statistics import Loss, Statistics
from prune.core.plan import Plan, from_json, to_json
from prune.core.recover.compensate import compensate, means_from_images
from prune.core.recover.recalibrate import recalibrate
from prune.core.recover.reconstruct import Settings, reconstruct
from prune.core.recover.restate import restate
from prune.core.select.allocation import Budget, Evaluation
from prune.core.select.constraints import Constraints, limits
from prune.core.select.selection import by_amount, by_budget
from prune.core.trace.coupling import Traced, record_coupling
from prune.core.trace.groups import Group, groups_of, structures
from prune.core.trace.meta import Shape, Spec, spec
from prune.core.verify import verify_on
from prune.errors import InputError, PlanError, PruneError

__all__ = [
    "Graph",
    "Plan",
    "PruneError",
    "count",
    "cut",
    "from_json",
    "prove",
    "recover",
    "select",
    "to_json",
    "trace",
    "verify",
]

Module = TypeVar("Module", bound=nn.Module)
Keep = Collection[nn.Module | str]


@dataclass(frozen=True)
class Graph:
    """A module and what is coupled in it.

    Attributes:
        model: the module; the weights are read from it when channels are chosen.
        inputs: what it takes.
        keep: names of modules whose outputs are protected.
        groups: channels that can only leave together, in network order.
        shapes: of the tensors that the module had then.
    """

    model: nn.Module
    inputs: tuple[Spec, ...]
    keep: tuple[str, ...]
    groups: tuple[Group, ...]
    shapes: tuple[tuple[str, Shape], ...]

    @property
    def protected(self) -> dict[str, str]:
        """Return for each group that cannot be cut its first layer -> the reason."""
        return {group.root: group.protected for group in self.groups if group.protected}

    @property
    def kept(self) -> dict[str, str]:
        """Return `protected`, under its name until 0.2."""
        return self.protected


def trace(
    model: nn.Module, inputs: Sequence[Tensor], *, keep: Keep = (), unused: Keep = ()
) -> Graph:
    """Find which channels of a module can only leave together.

    The module is run once, on shapes alone: no values, no weights, and it is not touched.

    Example:
        >>> import torch, prune
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 4, 1))
        >>> graph = prune.trace(model, (torch.rand(1, 3, 16, 16),))
        >>> [(group.root, group.channels, group.protected) for group in graph.groups]
        [('0', 8, None), ('1', 4, "it reaches the network's output")]

    Args:
        model: any module that takes tensors and returns tensors in lists, tuples, dicts or
            dataclasses.
        inputs: example tensors; their values do not matter.
        keep: modules, or names, whose outputs are protected, too. The model's outputs always are.
        unused: modules, or names, that do not have to run, such as a head for training
            alone; their layers are not cut, and may not fit any more.

    Raises:
        PlanError: the module cannot be run on shapes, has no convolution or linear layer that could
            be cut, or has one that never ran.
    """
    if isinstance(inputs, Tensor) or not all(isinstance(each, Tensor) for each in inputs):
        raise PlanError("inputs must be a tuple of example tensors, e.g. (x,)")
    names = _names(model, keep)
    given = tuple(spec(tensor) for tensor in inputs)
    run = record_coupling(model, given, keep=names)
    _check_reached(run, _names(model, unused))
    groups = dry_run.protect_failing(model, groups_of(run), given)
    if all(group.protected for group in groups):
        raise PlanError(f"nothing in the network can be cut: {_reasons(groups, run)}")
    return Graph(model, given, names, groups, _shapes(model))


def select(  # noqa: PLR0913  the options are the interface
    graph: Graph,
    *,
    amount: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    criterion: CriterionLike = "l1",
    scope: str = "root",
    normalize: str = "none",
    allocation: str = "uniform",
    max_ratio: float = 1.0,
    min_channels: int = 1,
    round_to: int = 1,
    exclude: Keep = (),
    layers: Mapping[str, Mapping[str, object]] | None = None,
    data: Iterable[tuple[Tensor, object]] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> Plan:
    """Choose the channels to remove. Exactly one of `amount`, `macs` and `params` sets how many.

    Example:
        >>> import torch, prune
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 4, 1))
        >>> graph = prune.trace(model, (torch.rand(1, 3, 16, 16),))
        >>> len(prune.select(graph, amount=0.25).cuts[0].remove)
        2
        >>> len(prune.select(graph, macs=0.5).cuts[0].remove)
        4

    Args:
        graph: see `trace`.
        amount: fraction of every group's channels to prune, in [0, 1).
        macs: MACs that may be left: a fraction of the original's in (0, 1), or a number.
        params: parameters that may be left, likewise.
        criterion: "l1", "l2", "bn", ..., see `criteria.CRITERIA`; or a function of your own,
            (rows, generator) -> importance per row, where the rows are the weights of each channel;
            or a `Criterion`, which says what the rows are.
        scope: "root", importance by the first layer of a group, or "group", by all its layers.
        normalize: "none", "mean", "max" or "sum": what the importance is divided by per group.
        allocation: for `macs` and `params`: "uniform", "global", "per-cost" or "isomorphic".
        max_ratio: maximum fraction of a group's channels to prune.
        min_channels: outputs that a group's first layer keeps at least.
        round_to: the number of outputs left is a multiple of this; a narrower group is protected.
        exclude: modules, or names or patterns of layers, whose outputs are protected.
        layers: constraints that differ, by a pattern of layer names:
            {"features.*": {"max_ratio": 0.3}}.
        data: batches (input of the model, targets), for criteria that need images.
        loss: (output of the model, targets) -> a number; for "taylor" and "fisher".
        seed: for criteria that draw numbers.

    Raises:
        PlanError: nothing would be removed, the budget cannot be met, a value is out of range, or
            the model was cut in place since it was traced.
    """
    _expect_shapes(graph.model, graph.shapes, "the model changed; trace it again")
    targets = {"amount": amount, "macs": macs, "params": params}
    given = {name: target for name, target in targets.items() if target is not None}
    if len(given) != 1:
        raise PlanError("give exactly one of amount, macs and params, e.g. amount=0.25")
    everywhere = Constraints(max_ratio, min_channels, round_to)
    excluded = {pattern: {"exclude": True} for pattern in _patterns(graph, exclude)}
    allowed = limits(graph.groups, everywhere, {**(layers or {}), **excluded})
    name, known = find(criterion)
    importance = channel_importance(
        graph.model,
        graph.groups,
        criterion=criterion,
        scope=scope,
        normalize=normalize,
        seed=seed,
        statistics=_statistics(graph.model, (name, known), data, loss),
    )
    if amount is not None:
        plan = by_amount(graph.groups, importance, amount=amount, criterion=name, allowed=allowed)
    else:
        ((metric, target),) = given.items()
        costs = cost_model(graph.model, graph.groups, graph.inputs)
        plan = by_budget(
            graph.groups,
            Evaluation(importance, costs, metric, structures(graph.model, graph.groups)),
            allowed,
            budget=_budget(metric, target, total=costs.total(metric)),
            allocation=allocation,
            criterion=name,
        ).plan
    return replace(plan, inputs=graph.inputs, keep=graph.keep, shapes=graph.shapes)


def _budget(metric: str, target: float, *, total: int) -> Budget:
    if not 0 < target < inf:
        raise PlanError(f"{metric} is {target}; it must be a fraction in (0, 1) or a number")
    return Budget(metric, int(target * total if target <= 1 else target))


def cut(model: Module, plan: Plan, *, in_place: bool = False) -> Module:
    """Carry a plan out on the module it was made for, or on a freshly built one of its class.

    With trained weights of the pruned network at hand (a state dict), the way back is
    `smaller = cut(Net(), plan); smaller.load_state_dict(weights)`: no pickled module is needed.

    Example:
        >>> import torch, prune
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 4, 1))
        >>> plan = prune.select(prune.trace(model, (torch.rand(1, 3, 16, 16),)), amount=0.25)
        >>> prune.cut(model, prune.from_json(prune.to_json(plan)))
        Sequential(
          (0): Conv2d(3, 6, kernel_size=(1, 1), stride=(1, 1))
          (1): Conv2d(6, 4, kernel_size=(1, 1), stride=(1, 1))
        )

    Args:
        model: unpruned.
        plan: see `select`.
        in_place: change and return `model` itself, which saves a copy; an optimizer of its
            parameters must be made anew.

    Returns:
        The pruned module, in the mode (train or eval) and on the device of `model`.

    Raises:
        PlanError: the plan was made for another module; the message names the layer.
    """
    groups = _groups(model, plan)
    pruned = apply_plan(model, groups, plan, share=in_place)
    after, before = (dry_run.shapes_of(net, plan.inputs) for net in (pruned, model))
    if after != before:
        raise PlanError(f"the outputs would have shapes {after}, not {before}")
    if not in_place:
        return pruned
    apply_in_place(model, groups, plan)
    return model


def verify(
    model: nn.Module,
    smaller: nn.Module,
    plan: Plan,
    inputs: Sequence[Tensor],
    *,
    tolerance: float = 1e-4,
) -> float:
    """Verify that a pruned module computes what the original does without the removed channels.

    Both run in eval mode; every convolution and linear layer is compared, not the outputs alone.

    Args:
        model: unpruned, with the weights the plan was carried out on.
        smaller: what `cut` made of it.
        plan: the cut.
        inputs: to compare them on.
        tolerance: largest absolute difference of the outputs; see `core.verify.verify`.

    Returns:
        The largest absolute difference of any output.

    Raises:
        PruneError: they differ; the message names the first layer that does.
    """
    groups = _groups(model, plan)
    with evaluating(model), evaluating(smaller):
        return verify_on(model, smaller, groups, plan, inputs=inputs, tolerance=tolerance)


def recover(
    model: nn.Module,
    smaller: nn.Module,
    plan: Plan,
    images: Sequence[Tensor],
    *,
    steps: Collection[str] = ("compensate", "reconstruct"),
    memory: float = 4.0,
    seed: int = 0,
) -> None:
    """Recover what a pruned module lost, without training: its weights change, its shapes do not.

    Example:
        >>> import torch, prune
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 4, 1)).eval()
        >>> plan = prune.select(prune.trace(model, (torch.rand(1, 3, 16, 16),)), amount=0.25)
        >>> smaller = prune.cut(model, plan)
        >>> prune.recover(model, smaller, plan, [torch.rand(8, 3, 16, 16)])

    Args:
        model: unpruned, with the weights the plan was carried out on; it does not change.
        smaller: what `cut` made of it; changed in place.
        plan: the cut.
        images: batches of inputs as in training, each [N, C, H, W], all of one height and width.
        steps: in this order: "compensate" adds the mean output of pruned channels to the next
            layer; "reconstruct" fits all weights behind the cut to the outputs of `model` by least
            squares; "recalibrate" computes BatchNorm statistics anew.
        memory: GiB that "reconstruct" may take.
        seed: of the outputs that it is fitted on.

    Raises:
        PlanError: an unknown step, or the plan was made for another module.
        InputError: no images.
    """
    if unknown := sorted(set(steps) - set(_RECOVERY)):
        raise PlanError(f"step is {unknown[0]!r}; it must be one of {', '.join(_RECOVERY)}")
    if not images:
        raise InputError("there are no images to recover with; give batches, e.g. [images]")
    groups = _groups(model, plan)
    with evaluating(model), evaluating(smaller):
        if "compensate" in steps:
            means = means_from_images(model, images)
            compensate(model, smaller, groups, plan, means=means, image=images[0][:1])
        if "reconstruct" in steps:
            settings = Settings(memory=int(memory * 2**30), seed=seed)
            reconstruct(model, smaller, groups, plan, images, settings=settings)
            restate(smaller, images)
        if "recalibrate" in steps:
            recalibrate(smaller, images)


_RECOVERY = ("compensate", "reconstruct", "recalibrate")


def count(model: nn.Module, inputs: Sequence[Tensor]) -> Cost:
    """Count the parameters and MACs of a module, on shapes alone.

    Example:
        >>> import torch, prune
        >>> cost = prune.count(torch.nn.Conv2d(3, 8, 1), (torch.rand(1, 3, 16, 16),))
        >>> (cost.params, cost.macs)
        (32, 6144)

    Args:
        model: any module, see `trace`.
        inputs: example tensors; MACs are counted for their shapes.

    Raises:
        PlanError: the module cannot be run on shapes.
    """
    return count_costs(model, tuple(spec(tensor) for tensor in inputs))


def prove(
    model: nn.Module,
    smaller: nn.Module,
    plan: Plan,
    inputs: Sequence[Tensor],
    *,
    tolerance: float = 1e-4,
) -> float:
    """Call `verify`, under its name until 0.2."""
    warnings.warn("prune.prove is called prune.verify now", DeprecationWarning, stacklevel=2)
    return verify(model, smaller, plan, inputs, tolerance=tolerance)


def _groups(model: nn.Module, plan: Plan) -> tuple[Group, ...]:
    """Trace a module the way it was traced when the plan was made.

    Raises:
        PlanError: it is another module.
    """
    if not plan.inputs:
        raise PlanError(
            "the plan does not contain the inputs of the network: it was made for a checkpoint; "
            "see prune apply"
        )
    _expect_shapes(model, plan.shapes, "the plan was made for another network")
    return groups_of(record_coupling(model, plan.inputs, keep=plan.keep))


def _expect_shapes(model: nn.Module, shapes: Sequence[tuple[str, Shape]], problem: str) -> None:
    here, there = dict(_shapes(model)), dict(shapes)
    for name in {**there, **here}:
        if here.get(name) != there.get(name):
            found, wanted = (
                f"of shape {list(shapes[name])}" if name in shapes else "missing"
                for shapes in (here, there)
            )
            raise PlanError(f"{problem}: {name} is {wanted} there, {found} here")


def _statistics(
    model: nn.Module,
    named: tuple[str, Criterion],
    data: Iterable[tuple[Tensor, object]] | None,
    loss: Loss | None,
) -> Statistics | None:
    """Gather the statistics that a criterion needs; None where it needs none or has no data."""
    name, criterion = named
    if not criterion.needs_images or data is None:
        return None
    if loss is None and criterion.reads != "activity":
        raise PlanError(f"criterion {name} needs a loss beside data: loss(outputs, targets)")
    return statistics.gather(model, data, loss or _no_loss, what=criterion.reads)


def _no_loss(_: object, __: object) -> Tensor:
    raise AssertionError("activity needs no loss")


def _names(model: nn.Module, modules: Keep) -> tuple[str, ...]:
    """Name modules by their first path in the model.

    Raises:
        PlanError: one is not in it.
    """
    known = {module: name for name, module in model.named_modules()}
    paths = set(known.values())
    names = []
    for each in modules:
        name = known.get(each) if isinstance(each, nn.Module) else each if each in paths else None
        if name is None:
            label = each if isinstance(each, str) else type(each).__name__
            raise PlanError(f"{label} is no module of the {type(model).__name__}")
        names.append(name)
    return tuple(names)


def _patterns(graph: Graph, exclude: Keep) -> Iterator[str]:
    """Turn modules into the names of the layers inside them whose outputs can be cut."""
    producers = [name for group in graph.groups for name in group.producers]
    for each in exclude:
        if isinstance(each, str):
            yield each
            continue
        (name,) = _names(graph.model, [each])
        inside = [n for n in producers if n == name or n.startswith(f"{name}.") or not name]
        if not inside:
            raise PlanError(f"{name} cannot be excluded: it has no layer that could be cut")
        yield from inside


def _check_reached(run: Traced, unused: Sequence[str]) -> None:
    missed = [
        name
        for name in run.unreached
        if not any(name == path or name.startswith(f"{path}.") for path in unused)
    ]
    if missed:
        raise PlanError(
            f"{missed[0]} never ran on these inputs, so what it reads is not known; "
            f"if it is not needed any more, say so: unused=[{missed[0]!r}]"
        )


def _reasons(groups: Sequence[Group], run: Traced) -> str:
    kept = {group.root: group.protected for group in groups} | run.odd
    return "; ".join(f"{name}: {reason}" for name, reason in kept.items()) or (
        "no convolution or linear layer ran in it"
    )


def _shapes(model: nn.Module) -> tuple[tuple[str, Shape], ...]:
    return tuple((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())
