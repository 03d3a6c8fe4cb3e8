"""Our file format: a dict of plain values, and the one place that builds networks from files.

A checkpoint carries the cfg text that describes exactly its network, so nothing pickled is ever
run and no code has to be stored beside it. `torch.load(path, weights_only=True)` reads it anywhere.
"""

import hashlib
import pickle
import shlex
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prune.checkpoint.foreign.archive import expect_stored
from prune.common.files import replacing
from prune.common.inputs import open_input, printable, reading, shown
from prune.common.schema import (
    Field,
    expect,
    expect_bounded,
    listed,
    mapping,
    named,
    number,
    text,
    whole,
)
from prune.common.size import Sides, Size
from prune.common.visible import visible
from prune.common.wording import counted, few
from prune.errors import CheckpointError, ForeignError, first_line
from prune.models.darknet import Darknet
from prune.models.sections import Section, expect_rgb, parse
from prune.models.weights import expect_values, plain_weights

FORMAT = "prune/1"

# What training adds to a file, top level beside the rest; None in finished files.
TRAINING_KEYS = (
    "epoch",
    "best_fitness",
    "best_fitness_p",
    "best_fitness_r",
    "best_fitness_ap50",
    "best_fitness_ap",
    "best_fitness_f",
    "training_results",
    "ema_updates",
    "optimizer",
    "scheduler",
    "rng",
)


@dataclass(frozen=True)
class Checkpoint:
    """One network with its weights, and where it comes from.

    `cfg` is Darknet text with the present widths, `model` the state dict in float32 on the CPU,
    `imgsz` is the size it is made for, `history` holds one plain dict per command that made or
    changed the network, `training` the TRAINING_KEYS that have a value. `foreign`, `remarks` and
    `source` are not saved: whether the file is of another project, how it was read, and its name
    for messages, "" for what was never a file.
    """

    cfg: str
    model: dict[str, Tensor]
    names: list[str]
    imgsz: Size
    history: list[dict[str, object]] = field(default_factory=list)
    training: dict[str, object] = field(default_factory=dict)
    foreign: bool = False
    remarks: tuple[str, ...] = ()
    source: str = ""

    @property
    def cfg_source(self) -> str:
        """What messages call the cfg text."""
        return f"the cfg in {self.source}" if self.source else "the checkpoint's cfg"

    @property
    def pruned(self) -> bool:
        """Return whether a plan was ever carried out on this network."""
        return any(entry.get("plan") for entry in self.history)


def capture(
    net: Darknet,
    *,
    names: Sequence[str],
    imgsz: Sides,
    history: Iterable[Mapping[str, object]] = (),
) -> Checkpoint:
    """Describe `net` as a checkpoint; a network on the CPU shares its tensors with it.

    `imgsz` is the side of a square, or height and width, in pixels.

    Raises:
        CheckpointError: the number of names is not the number of classes.
    """
    _check_names(net, names)
    weights = {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}
    return Checkpoint(
        cfg=net.cfg_text(),
        model=weights,
        names=list(names),
        imgsz=Size.of(imgsz),
        history=[dict(entry) for entry in history],
    )


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write `checkpoint` to `path`, whole or not at all.

    Raises:
        InputError: the path cannot be written.
        WriteError: the disk is full, or its folder vanished.
        TypeError: a value in it is not plain (our own mistake: the file could not be read back).
    """
    with replacing(path) as part:
        save_into(checkpoint, part)


def save_into(checkpoint: Checkpoint, part: Path) -> None:
    """Write `checkpoint` to a temporary file, as `atomic.together` gives several at once."""
    document = {
        "format": FORMAT,
        "cfg": checkpoint.cfg,
        "model": checkpoint.model,
        "names": checkpoint.names,
        "imgsz": checkpoint.imgsz.plain,
        "history": checkpoint.history,
        **{key: checkpoint.training.get(key) for key in TRAINING_KEYS},
    }
    fill({key: _plain(value, key) for key, value in document.items()}, part)


def write_archive(value: object, path: Path) -> None:
    """Write tensors in plain containers as torch does, whole or not at all.

    Raises:
        InputError: the path cannot be written.
        WriteError: the disk is full, or its folder vanished.
    """
    with replacing(path) as part:
        fill(value, part)


def fill(value: object, part: Path) -> None:
    """Write tensors in plain containers to a temporary file.

    Raises:
        OSError: the disk is full.
        CheckpointError: whatever else torch cannot write.
    """
    try:
        # An open file, not a path: the archive's inner name would be the temporary file's, and
        # equal networks would give files of different digests.
        with part.open("wb") as handle:
            torch.save(value, handle)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # what torch's archive stumbled over
            raise error.__context__ from error
        raise CheckpointError(f"cannot write the weights: {first_line(error)}") from error


def load(path: Path) -> Checkpoint:
    """Read a file that `save` wrote; its tensors are mapped from the file, not copied.

    Raises:
        ForeignError: it is not one of our checkpoints (`whole.open_weights` reads others, too).
        CheckpointError: no such file, empty, truncated or damaged.
    """
    document = _read(path)
    if not isinstance(document, dict) or "format" not in document:
        raise ForeignError(_not_ours(path))
    if document["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {shown(document['format'])} and this version reads {FORMAT!r}; "
            "update detector-prune"
        )
    where = str(path)
    for key, value in document.items():
        expect_bounded(value, where=where, key=shown(key), error=CheckpointError)
    expect(document, mapping(DOCUMENT), where=where, error=CheckpointError)
    with naming(path):
        weights = plain_weights(document["model"])
    return Checkpoint(
        cfg=document["cfg"],
        model=weights,
        names=document["names"],
        imgsz=_image_size(document.get("imgsz"), path),
        history=document["history"],
        training={key: document[key] for key in TRAINING_KEYS if document.get(key) is not None},
        source=where,
    )


def network(checkpoint: Checkpoint) -> Darknet:
    """Build the checkpoint's network with its weights in, in eval mode on the CPU.

    The network takes the checkpoint's tensors as its own: training it changes `checkpoint.model`
    (never the file).

    Raises:
        CfgError: the cfg text describes no network, or one that takes no RGB images.
        CheckpointError: weights that do not fit the cfg (names the layer and both shapes), that are
            not finite, or another number of names than of classes.
    """
    with naming(checkpoint.source):
        net = assemble(parse(checkpoint.cfg, source=checkpoint.cfg_source), checkpoint.model)
        _check_names(net, checkpoint.names)
    return net


@contextmanager
def naming(file: Path | str) -> Iterator[None]:
    """Put a file's name before what is wrong with its content; an empty name adds nothing."""
    try:
        yield
    except CheckpointError as error:
        if not file or str(file) in str(error):
            raise
        raise type(error)(f"{printable(str(file))}: {error}") from error


def assemble(sections: Sequence[Section], weights: Mapping[str, Tensor]) -> Darknet:
    """Build a network around weights, in eval mode; they become its own, nothing is copied.

    A missing BatchNorm counter (`num_batches_tracked`) is no fault: Darknet files have none.

    Raises:
        CfgError: the sections describe no network, or one that takes no RGB images.
        CheckpointError: weights that do not fit (layer and both shapes named) or are not finite.
    """
    expect_rgb(sections)
    with _Undrawn():
        net = Darknet(sections)
    expected = net.state_dict()
    counters = {
        name: torch.zeros((), dtype=torch.long)
        for name in expected
        if name.endswith("num_batches_tracked")
    }
    given = {**counters, **weights}
    _check_fit(expected, given)
    expect_values(given)
    net.load_state_dict(given, assign=True)
    return net.eval()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        CheckpointError: the file cannot be read.
    """
    total = hashlib.sha256()
    with (
        open_input(path, "checkpoint", error=CheckpointError) as handle,
        reading(path, error=CheckpointError),
    ):
        while block := handle.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def network_id(cfg_text: str) -> str:
    """Return the SHA-256 of a cfg text, in hexadecimal: what a plan names its network by."""
    return hashlib.sha256(cfg_text.encode()).hexdigest()


_DRAWING = (
    torch.nn.init.kaiming_uniform_,
    torch.nn.init.uniform_,
    torch.nn.init.normal_,
    Tensor.uniform_,
    Tensor.normal_,
)


class _Undrawn(TorchFunctionMode):
    """Leave fresh weights undrawn: the file's take their place, and memory not touched is not used.

    (Building on the meta device does the same, and imports sympy on the way: 1.6 seconds.)
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = kwargs or {}
        if func in _DRAWING:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _read(path: Path) -> object:
    with open_input(path, "checkpoint", error=CheckpointError) as handle:
        head = handle.read(4)
        if not head:
            raise CheckpointError(f"{path} is empty")
        with reading(path, error=CheckpointError):  # of an archive in parts it raises
            is_archive = zipfile.is_zipfile(handle)
        if not is_archive:
            whole = not head.startswith(b"PK")
            raise (
                ForeignError(_not_ours(path)) if whole else CheckpointError(f"{path} is truncated")
            )
        with reading(path, error=CheckpointError):
            expect_stored(handle)
    try:
        with reading(path, error=CheckpointError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that are refused in a moment
            if visible(str(path)) == str(path):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            # torch takes no name that is not UTF-8 for a map, but any open file.
            with path.open("rb") as handle:
                return torch.load(handle, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        if isinstance(error.__cause__, pickle.UnpicklingError):
            raise ForeignError(_not_ours(path)) from error
        raise


def _not_ours(path: Path) -> str:
    return (
        f"{path} is not a checkpoint of this project; "
        f"`prune whole --weights {shlex.quote(str(path))}` makes one "
        "from a .pt of YOLOR or YOLOv4 or from Darknet .weights"
    )


def _image_size(value: object, path: Path) -> Size:
    size = Size.read(value)
    if size is None:
        allowed = "a number of pixels, or [height, width]"
        raise CheckpointError(f"{path}: imgsz is {shown(value)}; it must be {allowed}")
    if min(size) <= 0:
        raise CheckpointError(f"{path}: imgsz is {size}; it must be positive")
    if excess := size.excess():
        raise CheckpointError(f"{path}: imgsz is {size}; {excess}")
    return size


# What commands wrote down about themselves, where others read it; params and macs are numbers, or
# what a cut made of them.
_ENTRY: dict[str, Field] = {
    "command": text().or_null(),
    "plan": mapping({"blocks": listed(whole(0)).or_missing()}).or_null(),
    "epoch": whole(0).or_null(),
    "parent": text().or_null(),
    "teacher": text().or_null(),
    "read": text(),
    "notes": listed(text()),
    "scores": named(number()).or_null(),
}
# A file but for its weights and its image size, and for what `prune.train.resume_state` checks.
DOCUMENT: dict[str, Field] = {
    "cfg": text(),
    "model": mapping({}),
    "names": listed(text()),
    "history": listed(mapping({key: each.or_missing() for key, each in _ENTRY.items()})),
}


def _check_names(net: Darknet, names: Sequence[str]) -> None:
    for head in net.heads:
        if head.classes != len(names):
            given = counted(len(names), "class name was", "class names were")
            raise CheckpointError(
                f"the network predicts {head.classes} classes, but {given} given "
                f"({few(names)}); for other classes run prune train --weights FILE --data YAML, "
                "which takes over what fits"
            )


def _check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    for name, tensor in expected.items():
        shape = list(tensor.shape)
        if name not in given:
            raise CheckpointError(
                f"the cfg does not fit the weights: {name} is missing in the file and the cfg "
                f"says {shape}"
            )
        if list(given[name].shape) != shape:
            raise CheckpointError(
                f"the cfg does not fit the weights: {name} is {list(given[name].shape)} in the "
                f"file but the cfg says {shape}"
            )
    for name in given:
        if name not in expected:
            raise CheckpointError(
                f"the cfg does not fit the weights: {name} is {list(given[name].shape)} in the "
                "file but the cfg has no such layer"
            )


def _plain(value: object, where: str) -> object:
    """Copy containers as plain ones, and tensors so that a file holds only what they show."""
    if isinstance(value, Tensor):
        return _compact(value.detach().cpu())
    if isinstance(value, Mapping):
        return {_plain(k, where): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    # Exact types again: a numpy float64 is a float to isinstance, and unreadable to weights_only.
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds plain values only")


def _compact(tensor: Tensor) -> Tensor:
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
