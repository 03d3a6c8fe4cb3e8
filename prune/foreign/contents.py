"""What a public checkpoint holds for us: weights by state-dict name, and what it says of itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from prune.errors import CheckpointError
from prune.foreign.standins import Instance

# Where trainers put the weights, best first: the average of training is what they score and ship.
_PLACES = ("ema", "model", "state_dict")
_LARGEST_NETWORK = 10_000  # modules; a pickle may describe a module that contains itself


@dataclass(frozen=True)
class Contents:
    """Weights and their description.

    Attributes:
        weights: float32 (counters: int64) tensors under names that begin with "module_list.".
        found: where they were, for people.
        definitions: the cfg's sections as a pickled module keeps them (`module_defs`), if it does.
        names: class names, if the file has them.
    """

    weights: dict[str, Tensor]
    found: str
    definitions: tuple[Mapping[object, object], ...] = ()
    names: tuple[str, ...] = ()


def contents(document: object) -> Contents:
    """Find the weights in what `read_pickle` gave.

    Raises:
        CheckpointError: there are none that belong to a Darknet network.
    """
    seen = "nothing"
    for place, holder in _places(document):
        stored = _tensors(holder)
        weights = {_plain_name(name): tensor for name, tensor in stored.items()}
        weights = {name: _checked(name, t) for name, t in weights.items() if _is_layer(name)}
        if weights:
            kind = "whole-model pickle" if isinstance(holder, Instance) else "state dict"
            names = _names(document) or _names(_attributes(holder))
            return Contents(weights, f"{kind}{place}", _definitions(holder), names)
        seen = f"tensors such as {next(iter(stored))}" if stored else seen
    raise CheckpointError(
        f"it holds no Darknet network: {seen}, and nothing like module_list.0.Conv2d.weight"
    )


def _places(document: object) -> Iterator[tuple[str, object]]:
    if isinstance(document, dict):
        for key in _PLACES:
            value = document.get(key)
            # Some trainers keep (average, number of updates).
            yield f" under '{key}'", value[0] if isinstance(value, tuple) and value else value
    yield "", document


def _tensors(holder: object) -> dict[str, Tensor]:
    if isinstance(holder, Instance):
        return _module_tensors(holder)
    entries = holder.items() if isinstance(holder, dict) else ()
    return {name: t for name, t in entries if isinstance(name, str) and isinstance(t, Tensor)}


def _module_tensors(root: Instance) -> dict[str, Tensor]:
    """Collect what torch's `state_dict()` would from the stand-in of a pickled module."""
    found: dict[str, Tensor] = {}
    todo = [("", root)]
    for _ in range(_LARGEST_NETWORK):
        if not todo:
            return found
        prefix, module = todo.pop()
        state = _attributes(module)
        hidden = state.get("_non_persistent_buffers_set")
        for name, tensor in (_mapping(state, "_parameters") | _mapping(state, "_buffers")).items():
            skipped = isinstance(hidden, set) and name in hidden
            if isinstance(tensor, Tensor) and not skipped:
                found[f"{prefix}{name}"] = tensor
        children = _mapping(state, "_modules").items()
        todo += [(f"{prefix}{name}.", m) for name, m in children if isinstance(m, Instance)]
    raise CheckpointError(f"it describes a network of more than {_LARGEST_NETWORK:,} modules")


def _attributes(holder: object) -> Mapping[object, object]:
    state = holder.state if isinstance(holder, Instance) else None
    return state if isinstance(state, dict) else {}


def _mapping(state: Mapping[object, object], key: str) -> dict[object, object]:
    value = state.get(key)
    return value if isinstance(value, dict) else {}


def _plain_name(name: str) -> str:
    while name.startswith("module."):  # what DataParallel puts in front
        name = name.removeprefix("module.")
    return name


def _is_layer(name: str) -> bool:
    return name.startswith("module_list.")


def _checked(name: str, tensor: Tensor) -> Tensor:
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{name} is {list(tensor.shape)}, more than the file holds of it")
    return tensor.float() if tensor.is_floating_point() else tensor


def _definitions(holder: object) -> tuple[Mapping[object, object], ...]:
    stored = _of_module(holder, "module_defs")
    if isinstance(stored, list) and stored and all(isinstance(item, dict) for item in stored):
        return tuple(stored)
    return ()


def _of_module(holder: object, attribute: str) -> object:
    """Look up an attribute of a pickled module, or of the one that DataParallel wraps."""
    state = _attributes(holder)
    if attribute in state:
        return state[attribute]
    return _attributes(_mapping(state, "_modules").get("module")).get(attribute)


def _names(document: object) -> tuple[str, ...]:
    stored = document.get("names") if isinstance(document, Mapping) else None
    if isinstance(stored, (list, tuple)) and all(isinstance(name, str) for name in stored):
        return tuple(stored)
    return ()
