"""Resuming: which run goes on, what its training state must be, and what a new run clears.

The training state lies inside last.pt. All of it is checked before any of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from prune import checkpoint
from prune.common.inputs import naming, printable
from prune.common.notes import Report
from prune.common.schema import Field, expect, listed, mapping, named, number, text, whole
from prune.errors import CheckpointError, InputError, first_line
from prune.models.weights import plain_weights
from prune.train.checkpointing import BEST, Position, Row, images_digest

if TYPE_CHECKING:
    from prune.train.run import Run


# What is drawn or written after the last epoch.
_DRAWN = (
    *("results.png", "pr_curve.png", "f1_curve.png", "confusion_matrix.png"),
    *("val_batch0.jpg", "profile.txt"),
)


@dataclass(frozen=True)
class Resumed:
    """An interrupted run that goes on in its folder.

    Attributes:
        folder: the run's.
        last: the weights and training state that it goes on from; None if it was interrupted
            before it saved any, and begins anew in its folder.
        given: fields of the config that were given anew, rather than read from the run's opt.yaml.
    """

    folder: Path
    last: Path | None
    given: frozenset[str] = frozenset()

    def naming_options(self, option: str = "") -> AbstractContextManager[None]:
        """Name the run's opt.yaml in errors about options that were read from it.

        Args:
            option: the one that errors are about, where it may have been given anew.
        """
        if self.last is None or option in self.given:
            return nullcontext()
        return naming(self.folder / "opt.yaml")


def find_run(path: Path) -> Path:
    """Return the last.pt of a run that is named by that file, its folder or its weights folder.

    The file may be missing if the run was killed during its first save: last.pt is written last,
    and metrics after it. Where there are metrics, or other weights, it was lost otherwise.

    Raises:
        InputError: there is no such run.
    """
    if path.is_dir():
        is_run = (path / "weights").is_dir() or (path / "opt.yaml").is_file()
        path = path / "weights" / "last.pt" if is_run else path / "last.pt"
    present = sorted(path.parent.glob("[!.]*.pt"))  # parts that a kill left are hidden
    has_metrics = (path.parent.parent / "results.csv").is_file()
    lost = present if has_metrics else set(present).difference(_weights_of(path.parent))
    if path.name != "last.pt" or (lost and not path.is_file()):
        why = "resume takes a run's last.pt" if path.exists() else "there is no such file or folder"
        found = ", ".join(file.name for file in present) or "no weights"
        raise InputError(f"cannot resume {path}: {why}, and {path.parent} contains {found}")
    unknown = path.parent.name in ("", "..")  # pathlib knows no parent of these
    return path.resolve() if unknown else path


def newest_run(project: Path, report: Report) -> Path:
    """Return the newest last.pt in a folder of runs whose run is unfinished.

    Raises:
        InputError: there is none.
    """
    found = sorted(
        project.glob("*/weights/last.pt"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    if not found:
        raise InputError(f"no run to resume in {project}; name its last.pt: --resume FILE")
    for last in found:
        try:
            if checkpoint.load(last).training:
                return last
        except CheckpointError as error:  # another program's, as a rule
            report(f"note: passed over: {error}")
    raise InputError(
        f"every run in {project} is finished; to train on, start from --weights {found[0]}"
    )


def clear(folder: Path, *, needed: Sequence[Path | None]) -> None:
    """Remove an earlier run's weights and images from a folder that a new run reuses.

    If the new run were killed before it saves, it would otherwise be resumed from the earlier
    one's weights; and images that it does not draw would be taken for its own.

    Args:
        folder: the run's.
        needed: files that the new run reads.

    Raises:
        InputError: a file that is needed is among them, or one cannot be removed.
    """
    weights = _weights_of(folder / "weights")
    for path in needed:
        if path is not None and path.resolve() in [one.resolve() for one in weights]:
            raise InputError(f"{path} lies where the new run's weights go; choose another --name")
    # What a run is resumed from goes first: a kill from here on leaves no half of a run.
    first = ("opt.yaml", "results.csv", *_DRAWN)
    for path in (*(folder / name for name in first), *weights):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove {path}: {error.strerror}") from error


def _weights_of(folder: Path) -> list[Path]:
    """List the files that a run writes into its folder of weights, present or not."""
    return [
        *(folder / f"{name}.pt" for name in ("last", *BEST)),
        *sorted(folder.glob("epoch[0-9]*.pt")),
    ]


def expect_images(state: Mapping[str, object], images: Sequence[Path]) -> None:
    """Check that a run goes on with the images that it was trained on, by their names and sizes.

    Args:
        state: the checkpoint's training state; those of early versions do not contain a digest.
        images: the training images now, at least one.

    Raises:
        InputError: they are others, or in another order.
    """
    digest = cast("dict[str, Any]", state.get("scheduler", {})).get("picture_files")
    if digest is not None and digest != images_digest(images):
        raise InputError(
            f"the run was trained on other images than the {len(images)} that the data has now; a "
            "run goes on with the data it began with"
        )


def restore(run: Run, state: Mapping[str, object], *, batches: int) -> tuple[list[Row], Position]:
    """Restore a run from the state that `checkpointing.save` wrote.

    Args:
        run: started on the network of the same checkpoint, so that the average holds its weights.
        state: the checkpoint's training state.
        batches: batches per epoch, which must be as many as before.

    Returns:
        The rows of the epochs that are done, and the position in the next one.

    Raises:
        CheckpointError: the state is incomplete, or belongs to other data or another batch size.
    """
    try:
        position = cast("dict[str, Any]", state["scheduler"])
        parts = cast("dict[str, Any]", state["optimizer"])
        generators = cast("dict[str, Any]", state["rng"])
        rows = cast("list[Row]", state["training_results"])
        updates = cast(int, state["ema_updates"])
    except KeyError as error:
        raise CheckpointError(
            f"the run is finished or its state incomplete (no {error}); start from --weights"
        ) from error
    if position["batches"] != batches:
        raise CheckpointError(
            f"the run had {position['batches']} batches per epoch and the data now gives "
            f"{batches}; resume needs the same images and batch size"
        )
    run.adapters[:] = [adapter.to(run.device) for adapter in position["adapters"]]
    with naming_part("optimizer.weights"):
        run.net.load_state_dict(parts["weights"])
    # Momentum is state; the options of the groups are set anew, under this version's names.
    groups = run.optimizer.state_dict()["param_groups"]
    own = parts.get("state") or parts["sgd"]  # its name before AdamW was added
    with naming_part("optimizer.state"):
        run.optimizer.load_state_dict({**own, "param_groups": groups})
    expect_momentum(run.optimizer)
    if parts["scaler"]:  # empty where float32 or bfloat16 scaled no loss
        with naming_part("optimizer.scaler"):
            run.scaler.load_state_dict(parts["scaler"])
    run.ema.updates = updates
    with naming_part("rng.cpu"):
        torch.set_rng_state(generators["cpu"])
    if "cuda" in generators and run.device.type == "cuda":
        with naming_part("rng.cuda"):
            torch.cuda.set_rng_state(generators["cuda"], run.device)
    done = Position(position["batch"] - len(rows) * batches, tuple(position["losses"]))
    return [dict(row) for row in rows], done


_TENSOR = Field((Tensor,), "a tensor")
_VALUE = Field((Tensor, int, float), "a tensor or a number").or_null()
_ROW = dict.fromkeys(("epoch", "train_loss", "seconds"), number())
_METRICS = dict.fromkeys(("precision", "recall", "map50", "map", "f1"), number())
_MOMENTUM = mapping({"state": mapping({})})  # its keys are numbers, see `_with_text_keys`

# The keys of the training state.
STATE: dict[str, Field] = {
    "training_results": listed(mapping(_ROW)),
    "ema_updates": whole(0),
    "optimizer": mapping(
        {
            "weights": named(_TENSOR),
            "scaler": mapping({}),
            "state": _MOMENTUM.or_missing(),
            "sgd": _MOMENTUM.or_missing(),  # its name before AdamW was added
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
        state: what a checkpoint contains beside its network.
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
            expect(row, mapping(_METRICS), where=where, key=key, error=CheckpointError)
    _expect_parts(document["optimizer"], where)
    _expect_weights(document["optimizer"]["weights"], model, where)


def _expect_parts(parts: Mapping[str, Any], where: str) -> None:
    if not parts.get("state") and "sgd" not in parts:
        raise CheckpointError(f"{where}: optimizer.state is missing; it must be a mapping")
    for kind in ("state", "sgd"):
        for index, value in parts.get(kind, {}).get("state", {}).items():
            key = f"optimizer.{kind}.state.{index}"
            expect(value, named(_VALUE), where=where, key=key, error=CheckpointError)


def _expect_weights(weights: Mapping[str, Tensor], model: Mapping[str, Tensor], where: str) -> None:
    place = "optimizer.weights"
    with checkpoint.naming(where):
        plain_weights({f"{place}.{name}": tensor for name, tensor in weights.items()})
    for name, tensor in model.items():
        weight = weights.get(name)
        if weight is None or weight.shape != tensor.shape:
            found = "missing" if weight is None else list(weight.shape)
            raise CheckpointError(
                f"{where}: {place}.{printable(name)} is {found}; it must be {list(tensor.shape)}, "
                "as in the network"
            )


def _with_text_keys(state: dict[str, object]) -> dict[str, object]:
    """Copy a state with text for the numbers of the optimizer's parameters."""
    parts = state.get("optimizer")
    if not isinstance(parts, dict):
        return state
    changed = dict(parts)
    for kind in ("state", "sgd"):
        own = parts.get(kind)
        if isinstance(own, dict) and isinstance(values := own.get("state"), dict):
            changed[kind] = {**own, "state": {str(key): value for key, value in values.items()}}
    return {**state, "optimizer": changed}


def expect_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Check that the restored state of an optimizer has the shapes of its parameters.

    Raises:
        CheckpointError: it has not.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise CheckpointError(
                    f"optimizer.state has {printable(str(name))} of {list(value.shape)} for "
                    f"weights of {list(parameter.shape)}; the run's opt.yaml must freeze the "
                    "layers that it froze before"
                )


@contextmanager
def naming_part(key: str) -> Iterator[None]:
    """Raise an error of one line with the key of the state where torch raises any."""
    try:
        yield
    except Exception as error:
        why = printable(first_line(error), 200)
        raise CheckpointError(
            f"{key} does not fit this run: {why}; was the file, or the run's opt.yaml, changed?"
        ) from error
