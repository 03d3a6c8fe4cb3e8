"""What the values of a file must be, as a table: their kind, their range, their choices.

    HEAD = {"format": text(choices=("x/1",)), "rows": listed(mapping(ROW)), "seed": whole(0)}
    expect(document, mapping(HEAD), where="a.json")

What does not fit is one line with the file, the key, what was given and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from prune.common.inputs import shown
from prune.errors import InputError, PruneError

DEEPEST = 50  # containers in containers; our own files have up to 6
MOST_VALUES = 10_000_000  # of a pickle in all; an epoch's row has about 15
LARGEST = 2**63 - 1  # of whole numbers, unless a table says less: what others' integers hold


@dataclass(frozen=True)
class Field:
    """What one value must be.

    Attributes:
        kind: the Python types that it may have.
        said: how a message calls it, without its range.
        low: the least number; for a list the least length.
        high: the greatest.
        above: whether `low` itself is not allowed.
        choices: the only texts that are allowed, if any.
        item: what every entry of a list, or every value of a mapping, must be.
        fields: what the values of a mapping must be, by their keys.
        parts: what the entries of a list must be, one by one.
        closed: whether a mapping may have no other keys.
        optional: whether a mapping may lack it.
        null: whether null is allowed.
    """

    kind: tuple[type, ...]
    said: str
    low: float = -inf
    high: float = inf
    above: bool = False
    choices: tuple[str, ...] = ()
    item: Field | None = None
    fields: Mapping[str, Field] | None = None
    parts: tuple[Field, ...] = ()
    closed: bool = False
    optional: bool = False
    null: bool = False

    @property
    def allowed(self) -> str:
        """What a message says of it: "a whole number from 1 to 9"."""
        said = " or ".join(self.choices) or self.said
        if not {int, float}.isdisjoint(self.kind):
            low, high = self.low > -LARGEST, self.high < LARGEST
            start = f" {'above' if self.above else 'from'} {_number(self.low)}" * low
            said += (
                start
                + f" {'to' if low and not self.above else 'up to'} {_number(self.high)}" * high
            )
            said += " on" * (low and not high and not self.above)
        return said + " or null" * self.null

    def or_missing(self) -> Field:
        """Return the same for a key that need not be there."""
        return replace(self, optional=True)

    def or_null(self) -> Field:
        """Return the same, and null."""
        return replace(self, null=True)


def text(*, choices: Sequence[str] = ()) -> Field:
    """Allow text."""
    return Field((str,), "text", choices=tuple(choices))


def flag() -> Field:
    """Allow true and false."""
    return Field((bool,), "true or false")


def whole(low: int = -LARGEST, high: int = LARGEST) -> Field:
    """Allow whole numbers in a range."""
    return Field((int,), "a whole number", low, high)


def number(low: float = -inf, high: float = inf, *, above: bool = False) -> Field:
    """Allow finite numbers in a range; `above` leaves `low` itself out."""
    return Field((int, float), "a number", low, high, above)


def listed(item: Field, *, low: int = 0) -> Field:
    """Allow a list of at least `low` entries."""
    return Field((list,), "a list", low, item=item)


def parts(*fields: Field) -> Field:
    """Allow a list of so many entries, each of its own kind."""
    return Field((list,), f"a list of {len(fields)}", parts=fields)


def mapping(fields: Mapping[str, Field], *, closed: bool = False) -> Field:
    """Allow a mapping with these keys; others as well unless it is closed."""
    return Field((dict,), "a mapping", fields=fields, closed=closed)


def named(item: Field) -> Field:
    """Allow a mapping from any text to values of one kind."""
    return Field((dict,), "a mapping", item=item)


def expect(
    value: object,
    field: Field,
    *,
    where: str,
    key: str = "",
    error: type[PruneError] = InputError,
) -> None:
    """Check a value and all in it.

    Args:
        value: what a reader found.
        field: what it must be.
        where: the file, for the message.
        key: the value's place in the file: "cuts[3].layer".
        error: what is raised.

    Raises:
        InputError: it is something else; of the kind that `error` names.
    """
    if value is None and field.null:
        return
    if not _fits(value, field):
        what = f"{where}: {key} is" if key else f"{where} holds"
        raise error(f"{what} {shown(value)}; it must be {field.allowed}")
    if isinstance(value, list) and (field.item or field.parts):
        items = field.parts or [field.item] * len(value)
        for place, (entry, own) in enumerate(zip(value, items, strict=True)):
            if own is not None:
                expect(entry, own, where=where, key=f"{key}[{place}]", error=error)
    if isinstance(value, dict):
        _expect_entries(value, field, where, key, error)


def _expect_entries(
    value: dict[object, object], field: Field, where: str, key: str, error: type[PruneError]
) -> None:
    fields = field.fields or {}
    for needed, its in fields.items():
        if needed not in value and not its.optional:
            raise error(f"{where}: {_inside(key, needed)} is missing; it must be {its.allowed}")
    for name, entry in value.items():
        own = fields.get(name) if isinstance(name, str) else None
        if own is None and (field.closed or not isinstance(name, str)):
            known = f"; the known ones: {', '.join(fields)}" if fields else "; it must be text"
            raise error(f"{where}: {_inside(key, shown(name))} is an unknown key{known}")
        if (own := own or field.item) is not None:
            expect(entry, own, where=where, key=_inside(key, str(name)), error=error)


def _inside(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _fits(value: object, field: Field) -> bool:
    if isinstance(value, bool) and bool not in field.kind:
        return False
    if not isinstance(value, field.kind):
        return False
    if isinstance(value, str):
        return value in field.choices if field.choices else _is_unicode(value)
    if isinstance(value, (list, dict)):
        return len(value) == len(field.parts) if field.parts else len(value) >= field.low
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Whole numbers that no float holds compare; NaN does with nothing.
        above = value > field.low if field.above else value >= field.low
        return above and value <= field.high and -inf < value < inf
    return True


def _is_unicode(value: str) -> bool:
    """Tell whether text can be written: UTF-8 has no lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def expect_bounded(value: object, *, where: str, key: str, error: type[PruneError]) -> None:
    """Check that containers end: none contains itself, or stands in a million places.

    A list of two lists of two lists ... has more items than a machine has memory, from a file of a
    few bytes. JSON has no such thing; pickles have.

    Raises:
        InputError: they are nested too deeply or hold too many values; of the kind that `error`
            names.
    """
    left, todo = MOST_VALUES, [(value, 0)]
    while todo:
        here, depth = todo.pop()
        if isinstance(here, Mapping):
            here = [*here, *here.values()]
        if not isinstance(here, (list, tuple, set, frozenset)):
            continue
        left -= len(here)
        if depth > DEEPEST or left < 0:
            most = (
                f"nested more than {DEEPEST} deep" if left >= 0 else f"over {MOST_VALUES:,} values"
            )
            raise error(f"{where}: {key} is {most}")
        todo += [(item, depth + 1) for item in here]


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e5 else f"{value:,.0f}"
