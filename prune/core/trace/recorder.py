"""One run of a network on shapes: which layers ran on what, and what autograd forgets of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prune.core.trace.meta import Inputs, Shape, on_meta, run, specs, tensors_in
from prune.errors import PlanError

Function = Any  # autograd's, which has no types: .name(), .next_functions, ._saved_...
Source = Any  # a Function, or a leaf: a parameter or an input of the network

KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "convolution": (nn.modules.conv._ConvNd,),
    "linear": (nn.Linear,),
    "norm": (nn.modules.batchnorm._BatchNorm,),
    "prelu": (nn.PReLU,),
}


@dataclass(frozen=True)
class Edge:
    """A tensor as whoever reads it sees it.

    Attributes:
        source: what made it.
        number: which of the results of its source it is.
        shape: its own.
    """

    source: Source
    number: int
    shape: Shape


@dataclass(frozen=True)
class Call:
    """One run of a layer; no edge where the tensor does not come from what can be learned."""

    module: nn.Module
    taken: Edge | None
    made: Edge


@dataclass(frozen=True)
class Record:
    """What one forward pass left behind.

    Attributes:
        net: the network it was, on the meta device.
        inputs: the tensors it took.
        calls: of the layers whose kind is known, in order.
        outputs: the tensors it returned.
        kept: name of a module -> the tensors it returned.
        order: module -> when it first ran.
        chunks: functions of torch.chunk, which splits evenly at any width.
        leading: slices whose ends are where channels of another layer end, and move with them.
        constants: (function, shape of a tensor nobody learns that went into it).
        escaped: what was read behind autograd's back and used again.
        labels: function -> class of the torch.nn module that it is a part of.
        odd: layer -> why what it does is not known; it counts as operations, not as a layer.
    """

    net: nn.Module
    inputs: tuple[Tensor, ...]
    calls: list[Call] = field(default_factory=list)
    outputs: list[Edge] = field(default_factory=list)
    kept: dict[str, list[Edge]] = field(default_factory=dict)
    order: dict[nn.Module, int] = field(default_factory=dict)
    chunks: set[Function] = field(default_factory=set)
    leading: set[Function] = field(default_factory=set)
    constants: list[tuple[Function, Shape]] = field(default_factory=list)
    escaped: set[Source] = field(default_factory=set)
    labels: dict[Function, str] = field(default_factory=dict)
    odd: dict[nn.Module, str] = field(default_factory=dict)


def recorded(net: nn.Module, inputs: Inputs, *, keep: Collection[str] = ()) -> Record:
    """Run a network on shapes alone; `net` is not touched.

    Args:
        net: any module that returns tensors in lists, tuples, dicts or dataclasses.
        inputs: what it takes.
        keep: names of modules whose results are wanted too.

    Raises:
        PlanError: it cannot be copied or run on shapes, or a kept module does not run.
    """
    copy = on_meta(net).eval().requires_grad_(True)
    taken = tuple(spec.on_meta() for spec in specs(inputs))
    found = Record(copy, taken)
    found.odd.update({m: reason for m in copy.modules() if (reason := _oddity(m))})
    watch = _Watch(found)
    with _hooks(found, keep), watch, torch.enable_grad():
        results = tensors_in(run(copy, taken))
    found.outputs.extend(each for each in map(edge, results) if each)
    found.calls[:] = [call for call in found.calls if call.module not in found.odd]
    found.escaped.update(*(watch.behind.get(id(t), ()) for t in results))
    if missing := [name for name in keep if name not in found.kept]:
        raise PlanError(f"{missing[0]} cannot be kept: the trace never reached it")
    return found


def kind(module: nn.Module) -> str:
    """Return the kind of a layer that can be cut, "" for any other module."""
    for name, classes in KINDS.items():
        if isinstance(module, classes):
            several = 1 < getattr(module, "groups", 1) == getattr(module, "out_channels", 0)
            return "depthwise" if several else name
    return ""


def shared_weights(net: nn.Module) -> dict[str, str]:
    """Find parameters that two modules own: each of them would have to be cut in both.

    Returns:
        Name of such a module or parameter -> what to say of it.
    """
    owners: dict[int, dict[nn.Module, str]] = defaultdict(dict)
    names: dict[int, str] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        owner = name.rpartition(".")[0]
        owners[id(parameter)].setdefault(net.get_submodule(owner), owner)
        names.setdefault(id(parameter), name)
    shared: dict[str, str] = {}
    for key, modules in owners.items():
        if len(modules) > 1:
            reason = f"its weights are shared by {' and '.join(modules.values())}"
            shared |= dict.fromkeys((*modules.values(), names[key]), reason)
    return shared


def edge(tensor: Tensor) -> Edge | None:
    """Describe a tensor; None where nothing that can be learned or fed is behind it."""
    if not tensor.requires_grad:
        return None
    source = tensor if tensor.grad_fn is None else tensor.grad_fn
    return Edge(source, tensor.output_nr, tuple(tensor.shape))


def leaf_or(function: Function) -> Source:
    """Return the leaf that a function stands for, or the function itself."""
    return getattr(function, "variable", function)


def _oddity(module: nn.Module) -> str:
    """Return why a layer may do something else than its class in torch; "" where it does not."""
    if not kind(module):
        return ""
    if "weight" not in module._parameters:
        return "its weight is computed from other values each time (weight norm, a mask)"
    for name in ("forward", "_conv_forward"):
        method = getattr(type(module), name, None)
        if name in vars(module) or not getattr(method, "__module__", "torch.").startswith("torch."):
            return f"{type(module).__name__} has its own {name}()"
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has forward hooks"
    return ""


@contextmanager
def _hooks(found: Record, keep: Collection[str]) -> Iterator[None]:
    """Note what runs, inside the `with` block."""
    wanted = {found.net.get_submodule(name): name for name in keep if _has(found.net, name)}

    def note(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        found.order.setdefault(module, len(found.order))
        with torch._C.DisableTorchFunction():  # looking at a tensor is no step of the network
            if module in wanted:
                made = [each for each in map(edge, tensors_in(output)) if each]
                found.kept.setdefault(wanted[module], []).extend(made)
            result = edge(output) if isinstance(output, Tensor) else None
            if result is None:
                return
            if getattr(type(module), "slices_follow_widths", False):
                found.leading.update(_between(result.source, args))
            if module._modules:
                return
            if kind(module) and module not in found.odd:
                _remember(found, module, args, result)
            elif label := _name_of_kind(module):
                _label(found.labels, result.source, args, label)

    hooks = [module.register_forward_hook(note) for module in found.net.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _remember(found: Record, module: nn.Module, args: tuple[object, ...], result: Edge) -> None:
    """Note the call of a layer, or why it is called in a way that nobody follows."""
    taken = [value for value in args if isinstance(value, Tensor)]
    rank = len(getattr(module, "kernel_size", result.shape[2:])) + 2
    if len(taken) != 1:
        found.odd[module] = "it is not called with one tensor"
    elif len(result.shape) != rank:
        found.odd[module] = "it runs without a batch axis"
    else:
        found.calls.append(Call(module, edge(taken[0]), result))


def _name_of_kind(module: nn.Module) -> str:
    """Return what to call a module that is no layer in a message; "" where its steps say more."""
    plain = type(module).__module__.startswith("torch.nn")
    return str(getattr(type(module), "traced_as", type(module).__name__ if plain else ""))


def _label(labels: dict[Function, str], last: Function, args: tuple[object, ...], to: str) -> None:
    """Name every function between a module's arguments and its result."""
    labels.setdefault(last, to)
    for function in _between(last, args):
        labels.setdefault(function, to)


def _between(last: Function, args: tuple[object, ...]) -> Iterator[Function]:
    """Yield the functions between a module's arguments and its result."""
    seen = {each.source for each in map(edge, _tensors(args)) if each}
    waiting = [] if last in seen else [last]  # in place, the argument is the result
    while waiting:
        function = waiting.pop()
        if function not in seen and hasattr(function, "next_functions"):
            yield function
            waiting += [f for f, _ in function.next_functions if f]
        seen.add(function)


def _has(net: nn.Module, name: str) -> bool:
    return any(name == known for known, _ in net.named_modules())


class _Watch(TorchFunctionMode):
    """Note which splits were chunks, which operands were constants, and what left autograd."""

    def __init__(self, found: Record) -> None:
        super().__init__()
        self.found = found
        self.behind: dict[int, set[Source]] = {}  # id of a tensor without gradient -> its makers
        self._alive: list[Tensor] = []  # so that no id is given twice

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made = list(_tensors(result))
        if not made:
            return result
        if func in (torch.chunk, Tensor.chunk):
            self.found.chunks.add(made[0].grad_fn)
        taken = [*_tensors(args), *_tensors((kwargs or {}).values())]
        fixed = [t for t in taken if not t.requires_grad]
        lost = {source for t in fixed for source in self.behind.get(id(t), ())}
        for tensor in made:
            if tensor.requires_grad:
                self.found.constants.extend((tensor.grad_fn, tuple(t.shape)) for t in fixed)
                self.found.escaped.update(lost)
            else:
                self._alive.append(tensor)
                makers = {each.source for each in map(edge, taken) if each}
                self.behind[id(tensor)] = lost | makers
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes, torch.Size)):
        for item in value:
            yield from _tensors(item)
