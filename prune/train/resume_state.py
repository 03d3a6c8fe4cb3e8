"""What the training state inside last.pt must be, checked before any of it is taken up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prune.checkpoint import naming
from prune.common.inputs import printable
from prune.common.schema import Field, expect, listed, mapping, named, number, text, whole
from prune.errors import CheckpointError, first_line
from prune.models.weights import plain_weights

_TENSOR = Field((Tensor,), "a tensor")
_VALUE = Field((Tensor, int, float), "a tensor or a number").or_null()
_ROW = dict.fromkeys(("epoch", "train_loss", "seconds"), number())
_SCORES = dict.fromkeys(("precision", "recall", "map50", "map", "f1"), number())
_MOMENTUM = mapping({"state": mapping({})})  # its keys are numbers, see `_expect_momentum`

# What goes on from: the keys of the checkpoint beside its network.
STATE: dict[str, Field] = {
    "training_results": listed(mapping(_ROW)),
    "ema_updates": whole(0),
    "optimizer": mapping(
        {
            "weights": named(_TENSOR),
            "scaler": mapping({}),
            "state": _MOMENTUM.or_missing(),
            "sgd": _MOMENTUM.or_missing(),  # as runs before AdamW called it
        }
    ),
    "scheduler": mapping(
        {
            "batch": whole(0),
            "batches": whole(1),
            "picture_files": text().or_null().or_missing(),
            "losses": listed(number()),
            "adapters": listed(_TENSOR),
        }
    ),
    "rng": mapping({"cpu": _TENSOR, "cuda": _TENSOR.or_missing()}),
}


def expect_state(state: Mapping[str, object], model: Mapping[str, Tensor], *, where: str) -> None:
    """Check a training state: every value's kind and range, and that weights are the network's.

    Args:
        state: what a checkpoint holds beside its network.
        model: the network's weights, the average of those under training.
        where: the file, for messages.

    Raises:
        CheckpointError: what does not fit, with the file and the key.
    """
    document: dict[str, Any] = _with_text_keys(dict(state))
    expect(document, mapping(STATE), where=where, error=CheckpointError)
    for place, row in enumerate(document["training_results"]):
        if "map" in row:
            key = f"training_results[{place}]"
            expect(row, mapping(_SCORES), where=where, key=key, error=CheckpointError)
    _expect_parts(document["optimizer"], where)
    _expect_weights(document["optimizer"]["weights"], model, where)


def _expect_parts(parts: Mapping[str, Any], where: str) -> None:
    if not parts.get("state") and "sgd" not in parts:
        raise CheckpointError(f"{where}: optimizer.state is missing; it must be a mapping")
    for kind in ("state", "sgd"):
        for index, held in parts.get(kind, {}).get("state", {}).items():
            key = f"optimizer.{kind}.state.{index}"
            expect(held, named(_VALUE), where=where, key=key, error=CheckpointError)


def _expect_weights(weights: Mapping[str, Tensor], model: Mapping[str, Tensor], where: str) -> None:
    place = "optimizer.weights"
    with naming(where):
        plain_weights({f"{place}.{name}": tensor for name, tensor in weights.items()})
    for name, tensor in model.items():
        its = weights.get(name)
        if its is None or its.shape != tensor.shape:
            found = "missing" if its is None else list(its.shape)
            raise CheckpointError(
                f"{where}: {place}.{printable(name)} is {found}; it must be {list(tensor.shape)}, "
                "as in the network"
            )


def _with_text_keys(state: dict[str, object]) -> dict[str, object]:
    """Copy a state with text for the numbers by which an optimizer calls its parameters."""
    parts = state.get("optimizer")
    if not isinstance(parts, dict):
        return state
    changed = dict(parts)
    for kind in ("state", "sgd"):
        own = parts.get(kind)
        if isinstance(own, dict) and isinstance(held := own.get("state"), dict):
            changed[kind] = {**own, "state": {str(key): value for key, value in held.items()}}
    return {**state, "optimizer": changed}


def expect_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Check that what an optimizer took up has the shapes of the parameters it is of.

    Raises:
        CheckpointError: it does not.
    """
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise CheckpointError(
                    f"optimizer.state has {printable(str(name))} of {list(value.shape)} for "
                    f"weights of {list(parameter.shape)}; the run's opt.yaml must freeze the "
                    "layers that it froze before"
                )


@contextmanager
def taking_up(key: str) -> Iterator[None]:
    """Turn whatever torch raises at a part of the state into one line with its key."""
    try:
        yield
    except Exception as error:
        why = printable(first_line(error), 200)
        raise CheckpointError(
            f"{key} does not fit this run: {why}; was the file, or the run's opt.yaml, changed?"
        ) from error
