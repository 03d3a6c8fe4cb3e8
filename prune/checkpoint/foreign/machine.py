"""Read a pickle as data: its opcodes are walked here, so that Python's unpickler never runs.

A pickle is a program for a stack machine. This one knows the opcodes that build numbers, text and
containers; where Python would import a name it keeps a token, and where Python would call one it
asks `standins`, which has its own short table of what may come of it.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from prune.checkpoint.foreign.standins import Instance, Name, call, hashable, instance, resolve
from prune.common.inputs import printable
from prune.errors import CheckpointError, first_line

# What a persistent id (("storage", type, key, location, elements), in torch's files) stands for.
Persistent = Callable[[object], object]


# What walking a broken pickle may raise; anything else is our own mistake.
_BROKEN = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    RuntimeError,  # torch's own, and a recursion without end
)


@dataclass
class _Machine:
    persistent: Persistent
    stack: list[object] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)

    def pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("the stack is empty")
        return self.stack.pop()

    def pop_to_mark(self) -> list[object]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


def run(stream: BinaryIO, persistent: Persistent) -> object:
    """Read one pickle from `stream`, which is left right behind it.

    Raises:
        CheckpointError: the pickle is broken, or asks for something that is not data (named).
    """
    machine = _Machine(persistent)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.pop()
            if opcode.name not in OPCODES:
                raise CheckpointError(f"the pickle uses the opcode {opcode.name}, which is refused")
            OPCODES[opcode.name](machine, argument)
    except _BROKEN as error:
        raise CheckpointError(f"the pickle is broken ({printable(first_line(error))})") from error
    raise CheckpointError("the pickle is broken (it has no end)")


def _nothing(machine: _Machine, argument: object) -> None:
    """Skip an opcode that only helps a reader along."""


def _push(machine: _Machine, argument: object) -> None:
    machine.stack.append(argument)


def _pusher(make: Callable[[], object]) -> Callable[[_Machine, object], None]:
    def push(machine: _Machine, argument: object) -> None:
        machine.stack.append(make())

    return push


def _mark(machine: _Machine, argument: object) -> None:
    machine.marks.append(len(machine.stack))


def _pop(machine: _Machine, argument: object) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()  # POP on a bare mark takes the mark off
    else:
        machine.pop()


def _pop_mark(machine: _Machine, argument: object) -> None:
    machine.pop_to_mark()


def _dup(machine: _Machine, argument: object) -> None:
    machine.stack.append(machine.stack[-1])


def _put(machine: _Machine, argument: object) -> None:
    machine.memo[cast(int, argument)] = machine.stack[-1]


def _memoize(machine: _Machine, argument: object) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: _Machine, argument: object) -> None:
    machine.stack.append(machine.memo[cast(int, argument)])


def _tuple_of(count: int) -> Callable[[_Machine, object], None]:
    def build(machine: _Machine, argument: object) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(items)))

    return build


def _tuple(machine: _Machine, argument: object) -> None:
    machine.stack.append(tuple(machine.pop_to_mark()))


def _list(machine: _Machine, argument: object) -> None:
    machine.stack.append(machine.pop_to_mark())


def _dict(machine: _Machine, argument: object) -> None:
    items = machine.pop_to_mark()
    machine.stack.append({})
    _set_items(machine, items)


def _frozenset(machine: _Machine, argument: object) -> None:
    machine.stack.append(frozenset(hashable(item) for item in machine.pop_to_mark()))


def _append(machine: _Machine, argument: object) -> None:
    _extend(machine, [machine.pop()])


def _appends(machine: _Machine, argument: object) -> None:
    _extend(machine, machine.pop_to_mark())


def _extend(machine: _Machine, items: list[object]) -> None:
    target = machine.stack[-1]
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Instance):  # a class of lists is inert: what it held is dropped
        raise ValueError(f"items are appended to a {type(target).__name__}")


def _set_item(machine: _Machine, argument: object) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine, [key, value])


def _set_many(machine: _Machine, argument: object) -> None:
    _set_items(machine, machine.pop_to_mark())


def _set_items(machine: _Machine, items: list[object]) -> None:
    target = machine.stack[-1]
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[hashable(key)] = value
    elif not isinstance(target, Instance):
        raise ValueError(f"entries are set in a {type(target).__name__}")


def _add_items(machine: _Machine, argument: object) -> None:
    items, target = machine.pop_to_mark(), machine.stack[-1]
    if not isinstance(target, set):
        raise ValueError(f"items are added to a {type(target).__name__}")
    target.update(hashable(item) for item in items)


def _global(machine: _Machine, argument: object) -> None:
    module, _, name = cast(str, argument).partition(" ")
    machine.stack.append(resolve(module, name))


def _stack_global(machine: _Machine, argument: object) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a name is not text")
    machine.stack.append(resolve(module, name))


def _reduce(machine: _Machine, argument: object) -> None:
    args, function = machine.pop(), machine.pop()
    machine.stack.append(call(function, args))


def _new_object(machine: _Machine, argument: object) -> None:
    args, kind = machine.pop(), machine.pop()
    known = isinstance(kind, Name) and kind.path.startswith(("collections.", "builtins."))
    machine.stack.append(call(kind, args) if known else instance(kind))


def _new_object_with_keywords(machine: _Machine, argument: object) -> None:
    machine.pop()
    _new_object(machine, argument)


def _build(machine: _Machine, argument: object) -> None:
    state, target = machine.pop(), machine.stack[-1]
    if isinstance(target, Instance):
        target.state = state
    elif not isinstance(target, dict):  # a state dict's _metadata: versions of torch's layers
        raise ValueError(f"a {type(target).__name__} is given a state")


def _persistent(machine: _Machine, argument: object) -> None:
    machine.stack.append(machine.persistent(machine.pop()))


_PUSHES = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8"
)

# Opcode -> what it does to the machine; the argument is the pickle's, decoded. What is not here
# (INST, OBJ, EXT1, PERSID, NEXT_BUFFER, ...) is refused: torch writes none of them.
OPCODES: dict[str, Callable[[_Machine, object], None]] = {
    **{name: _push for name in _PUSHES.split()},
    "PROTO": _nothing,
    "FRAME": _nothing,
    "NONE": _pusher(lambda: None),
    "NEWTRUE": _pusher(lambda: True),
    "NEWFALSE": _pusher(lambda: False),
    "EMPTY_LIST": _pusher(list),
    "EMPTY_TUPLE": _pusher(tuple),
    "EMPTY_DICT": _pusher(dict),
    "EMPTY_SET": _pusher(set),
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": _dup,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _memoize,
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "TUPLE": _tuple,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": _list,
    "DICT": _dict,
    "FROZENSET": _frozenset,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_many,
    "ADDITEMS": _add_items,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _new_object,
    "NEWOBJ_EX": _new_object_with_keywords,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
