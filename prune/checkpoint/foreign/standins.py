"""What a name in a pickle becomes: a tensor, a container, an inert stand-in, or a refusal.

No name is ever imported. Two tables and one pattern decide: CALLS rebuilds tensors and containers
with functions of this file, DATA holds names that are only handed around, INERT matches the classes
of networks, whose objects become an `Instance` that remembers its state and can do nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prune.common.inputs import printable, shown
from prune.errors import CheckpointError, first_line


@dataclass(frozen=True)
class Name:
    """A name that a pickle mentions, such as torch._utils._rebuild_tensor_v2; never imported."""

    path: str


@dataclass(eq=False)
class Instance:
    """An object of a class that is not run: the class's name, and the state the pickle gave it.

    Not frozen: a pickle makes an object first and gives its state later, perhaps after having
    referred to it.
    """

    kind: str
    args: tuple[object, ...] = field(default=(), repr=False)
    state: object = field(default=None, repr=False)  # a module's would print every weight below it


_INERT = re.compile(
    r"(torch\.nn\.(modules|parallel)(\.\w+)*|(models|utils|pytorchyolo|mish_cuda)(\.\w+)*|__main__)"
    r"\._?[A-Z]\w*"
    r"|torch\.device|argparse\.Namespace|datetime\.\w+|pathlib\.\w*Path"
)

_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}

STORAGES: dict[str, torch.dtype] = {
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.cuda.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": torch.uint8,
}

DTYPES: dict[str, torch.dtype] = {str(dtype): dtype for dtype in _STORAGES.values()}

# Names that are passed to a function or stored, and cannot be called.
DATA = frozenset(
    {
        "builtins.object",
        "builtins.int",
        "builtins.float",
        "builtins.str",
        "builtins.bool",
        "numpy.ndarray",
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
    }
)

_RENAMED = (
    (re.compile(r"^__builtin__\."), "builtins."),  # pickles of protocol 2 use Python 2's names
    (re.compile(r"^copy_reg\."), "copyreg."),
    (re.compile(r"^numpy\.core\."), "numpy._core."),  # numpy 2 moved it
)


def resolve(module: object, name: object) -> Name:
    """Turn a name that a pickle asks for into a token that is safe to hold.

    Raises:
        CheckpointError: the name is none that a network's weights need.
    """
    path = f"{module}.{name}"
    for pattern, replacement in _RENAMED:
        path = pattern.sub(replacement, path)
    known = path in CALLS or path in DATA or path in STORAGES or path in DTYPES
    if known or _INERT.fullmatch(path):
        return Name(path)
    what = printable(f"{module}.{name}", 80)  # a hostile name may hold terminal codes
    raise CheckpointError(
        f"the pickle asks for {what}; only tensors, plain containers and the classes of networks "
        "are read, and nothing was run"
    )


def hashable(value: object) -> object:
    """Return `value` if it may be a dictionary's key or a set's item.

    Hashing a tuple recurses in C without a limit: one nested a million deep would end the process.

    Raises:
        ValueError: it is neither a plain value nor a flat tuple of them.
    """
    parts = value if isinstance(value, tuple) else (value,)
    if all(isinstance(part, (str, bytes, int, float, type(None), Name)) for part in parts):
        return value
    raise ValueError(f"a {type(value).__name__} is used as a key")


def call(function: object, args: object) -> object:
    """Return what a pickle means by calling `function`, which can only be a `Name`.

    Raises:
        CheckpointError: the thing is not callable here, or its arguments are not what it takes.
    """
    if not isinstance(function, Name) or not isinstance(args, tuple):
        raise CheckpointError(f"the pickle calls a {type(function).__name__}")
    if function.path in CALLS:
        return CALLS[function.path](*args)
    return instance(function)  # its arguments are dropped: an inert class has no constructor


def instance(kind: object, *_: object) -> Instance:
    """Make the stand-in of a class that is not run; constructor arguments mean nothing to it.

    Raises:
        CheckpointError: `kind` is no name of a class that may be stood in for.
    """
    if isinstance(kind, Name) and _INERT.fullmatch(kind.path):
        return Instance(kind.path)
    what = kind.path if isinstance(kind, Name) else type(kind).__name__
    raise CheckpointError(f"the pickle calls {what}, which is no class of a network")


def array(stored: Instance) -> NDArray[np.generic]:
    """Rebuild the numpy array that a pickle describes.

    Raises:
        CheckpointError: its description is not one of a plain numeric array.
    """
    try:
        _, shape, dtype, fortran, data = cast(
            "tuple[object, tuple[int, ...], Instance, bool, bytes]", stored.state
        )
        flat = np.frombuffer(data, dtype=_numpy_dtype(dtype))
        return flat.reshape(shape, order="F" if fortran else "C")
    except (TypeError, ValueError, OverflowError) as error:
        why = printable(first_line(error))
        raise CheckpointError(f"the pickle holds a broken numpy array ({why})") from error


def _numpy_dtype(stored: object) -> np.dtype[np.generic]:
    if not isinstance(stored, Instance) or stored.kind != "numpy.dtype":
        raise CheckpointError("the pickle holds a numpy value without a dtype")
    code = str(stored.args[0]) if stored.args else ""
    if not re.fullmatch(r"b1|[iuf][1248]|c(8|16)|[SU]\d{1,4}", code):
        raise CheckpointError(
            f"the pickle holds a numpy value of type {shown(code)}; numbers are read"
        )
    order = stored.state[1] if isinstance(stored.state, tuple) and len(stored.state) > 1 else "|"
    return np.dtype(f"{order if order in ('<', '>') else '='}{code}")


def _numpy_scalar(dtype: object, data: object) -> object:
    if not isinstance(data, bytes):
        raise CheckpointError("the pickle holds a numpy value without its bytes")
    kind = _numpy_dtype(dtype)
    if len(data) != kind.itemsize:
        raise CheckpointError(f"the pickle holds a numpy value of {len(data)} bytes as {kind}")
    return np.frombuffer(data, dtype=kind)[0].item()


def _view(storage: object, offset: object, size: object, stride: object, *_: object) -> Tensor:
    """Lay a tensor over a flat storage; `size` and `stride` count elements."""
    if not isinstance(storage, Tensor) or not isinstance(offset, int):
        raise CheckpointError("the pickle holds a tensor without a storage")
    shape, steps = _whole_numbers(size), _whole_numbers(stride)
    if len(shape) != len(steps) or offset < 0:
        raise CheckpointError(
            f"the pickle holds a tensor of size {shown(shape)} and stride {shown(steps)}"
        )
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if 0 not in shape and last >= storage.numel():
        raise CheckpointError(
            f"the pickle holds a tensor of size {shown(shape)} that ends at element {shown(last)} "
            f"of a storage of {storage.numel()}"
        )
    return storage.as_strided(shape, steps, offset)


def _typed_view(
    storage: object, offset: object, size: object, stride: object, *rest: object
) -> Tensor:
    """Do as `_view` for an untyped storage; the third thing after the stride is the dtype."""
    dtype = DTYPES.get(rest[2].path) if len(rest) > 2 and isinstance(rest[2], Name) else None
    if dtype is None or not isinstance(storage, Tensor):
        raise CheckpointError("the pickle holds a tensor of an unknown type")
    return _view(storage.view(dtype), offset, size, stride)


def _whole_numbers(values: object) -> tuple[int, ...]:
    if isinstance(values, tuple) and all(isinstance(n, int) and n >= 0 for n in values):
        return values
    raise CheckpointError("the pickle holds a tensor whose size or stride is no list of numbers")


def _parameter(tensor: object, *_: object) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise CheckpointError("the pickle holds a parameter that is no tensor")
    return tensor


def _from_type(function: object, _kind: object, args: object, _state: object) -> object:
    return call(function, args)


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise CheckpointError(f"the pickle encodes a {type(text).__name__} as {shown(encoding)}")
    return text.encode("latin1")


def _dictionary(*args: object) -> dict[object, object]:
    pairs = args[0] if args and not isinstance(args[0], Name) else ()  # a Name: the default's type
    if isinstance(pairs, dict):
        return dict(pairs)
    return {hashable(key): value for key, value in cast("list[tuple[object, object]]", pairs)}


def _items(*args: object) -> list[object]:
    if not args:
        return []
    if isinstance(args[0], (list, tuple, set, frozenset)):
        return list(args[0])
    raise CheckpointError(f"the pickle makes a container of a {type(args[0]).__name__}")


# Path of a function or class, as pickles name it -> what is done instead. Each takes the pickle's
# arguments, trusts none of them, and raises CheckpointError (or TypeError or ValueError, which the
# machine turns into one).
CALLS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_tensor_v3": _typed_view,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": lambda *args: tuple(_items(*args)),
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": _dictionary,
    "builtins.dict": _dictionary,
    "builtins.set": lambda *args: set(map(hashable, _items(*args))),
    "builtins.frozenset": lambda *args: frozenset(map(hashable, _items(*args))),
    "builtins.list": _items,
    "builtins.tuple": lambda *args: tuple(_items(*args)),
    "copyreg._reconstructor": instance,
    "_codecs.encode": _encode,
    "numpy.dtype": lambda *args: Instance("numpy.dtype", args),
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray._reconstruct": lambda *_: Instance("numpy.ndarray"),
}
