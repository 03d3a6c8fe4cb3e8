"""What is read of a public checkpoint: weights by state-dict name, and its own description."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from prune.checkpoint.foreign.epsilon import EPS, TORCH_EPS, with_our_eps
from prune.checkpoint.foreign.names import Named, by_our_names, stranger
from prune.checkpoint.foreign.standins import Instance
from prune.errors import CheckpointError
from prune.models.weights import expect_values, plain_weights

# Where trainers put the weights, best first: they evaluate and publish the average of training.
_PLACES = (*("ema", "ema_state_dict", "model", "state_dict", "model_state_dict", "net", "weights"),)
_LARGEST_NETWORK = 10_000  # modules; a pickle may describe a module that contains itself


@dataclass(frozen=True)
class Contents:
    """Weights and their description.

    Attributes:
        weights: float32 (counters: int64) tensors under our names, for BatchNorms with our epsilon.
        found: where they were, for people.
        notes: what was changed or left out, for people.
        definitions: the cfg's sections as a pickled module keeps them (`module_defs`), if it does.
        names: class names, if the file has them.
        kind: class of a pickled module, e.g. models.models.Darknet; "" for a state dict.
        keys: what else the file holds beside them.
        renamed: whether its layers hold other names than Conv2d and BatchNorm2d.
        honours_scale: whether the code it comes from heeds scale_x_y.
    """

    weights: dict[str, Tensor]
    found: str
    notes: tuple[str, ...] = ()
    definitions: tuple[Mapping[object, object], ...] = ()
    names: tuple[str, ...] = ()
    kind: str = ""
    keys: frozenset[str] = frozenset()
    renamed: bool = False
    honours_scale: bool = False


def contents(document: object) -> Contents:
    """Find the weights in what `read_pickle` gave.

    Raises:
        CheckpointError: there are none that belong to a Darknet network.
    """
    seen: Mapping[str, Tensor] = {}
    for place, holder in _places(document):
        stored, eps = _tensors(holder)
        named = by_our_names(stored)
        if named.names:
            return _contents(document, place, holder, named, stored, eps)
        seen = seen or stored
    what = f"tensors such as {next(iter(seen))}" if seen else "no tensors"
    whose = stranger(seen)
    raise CheckpointError(
        f"it holds no Darknet network: {what}{f', of {whose}' if whose else ''}; what is read has "
        "names such as module_list.0.Conv2d.weight or module_list.0.conv_0.weight"
    )


def _contents(
    document: object,
    place: str,
    holder: object,
    named: Named,
    stored: Mapping[str, Tensor],
    eps: Mapping[str, float],
) -> Contents:
    weights = plain_weights({ours: stored[theirs] for theirs, ours in named.names.items()})
    expect_values(weights)  # before a variance meets an epsilon
    usual = TORCH_EPS if named.renamed else EPS
    theirs = {
        ours: eps.get(name, usual)
        for name, ours in named.names.items()
        if ours.endswith("running_var")
    }
    notes = []
    if other := sorted(set(theirs.values()) - {EPS}):
        epsilons = ", ".join(f"{value:g}" for value in other)
        notes.append(f"BatchNorm's epsilon of {epsilons} went into the variances; ours is {EPS:g}")
    if named.dropped:
        count = len(named.dropped)
        notes.append(f"{count} tensors of heads left out (e.g. {named.dropped[0]}): the cfg counts")
    kind = "whole-model pickle" if isinstance(holder, Instance) else "state dict"
    return Contents(
        with_our_eps(weights, theirs),
        f"{kind}{place}",
        tuple(notes),
        definitions=_definitions(holder),
        names=_names(document) or _names(_attributes(holder)),
        kind=_inner(holder).kind if isinstance(holder, Instance) else "",
        keys=frozenset(key for key in document if isinstance(key, str))
        if isinstance(document, dict)
        else frozenset(),
        renamed=named.renamed,
        honours_scale=named.port,
    )


def _places(document: object) -> Iterator[tuple[str, object]]:
    if isinstance(document, dict):
        for key in _PLACES:
            value = document.get(key)
            # Some trainers keep (average, number of updates).
            yield f" under '{key}'", value[0] if isinstance(value, tuple) and value else value
    yield "", document


def _tensors(holder: object) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Find named tensors; of a pickled module also BatchNorm's epsilon by its variance's name."""
    if isinstance(holder, Instance):
        return _module_tensors(holder)
    entries = holder.items() if isinstance(holder, dict) else ()
    return {name: t for name, t in entries if isinstance(name, str) and isinstance(t, Tensor)}, {}


def _module_tensors(root: Instance) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Collect what torch's `state_dict()` would from the stand-in of a pickled module."""
    found: dict[str, Tensor] = {}
    eps: dict[str, float] = {}
    todo = [("", root)]
    for _ in range(_LARGEST_NETWORK):
        if not todo:
            return found, eps
        prefix, module = todo.pop()
        state = _attributes(module)
        if isinstance(value := state.get("eps"), float):
            eps[f"{prefix}running_var"] = value
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


def _definitions(holder: object) -> tuple[Mapping[object, object], ...]:
    inner = _inner(holder) if isinstance(holder, Instance) else None
    stored = _attributes(inner).get("module_defs")
    if isinstance(stored, list) and stored and all(isinstance(item, dict) for item in stored):
        return tuple(stored)
    return ()


def _inner(holder: Instance) -> Instance:
    """Return the pickled module that DataParallel wraps, or the module itself."""
    inside = _mapping(_attributes(holder), "_modules").get("module")
    return inside if isinstance(inside, Instance) else holder


def _names(document: object) -> tuple[str, ...]:
    stored = document.get("names") if isinstance(document, Mapping) else None
    if isinstance(stored, dict) and list(stored) == list(range(len(stored))):
        stored = list(stored.values())  # YOLOv5's way: number -> name
    if isinstance(stored, (list, tuple)) and all(isinstance(name, str) for name in stored):
        return tuple(stored)
    return ()
