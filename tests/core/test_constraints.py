"""What may be taken off a group, from what a user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import nets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune.core.select.constraints import Constraints, Limit, limits, rounded
from prune.core.trace.groups import Group, trace
from prune.errors import PlanError

Layers = Mapping[str, Mapping[str, object]]
PLAIN = Constraints()


@cache
def _groups(name: str) -> tuple[Group, ...]:
    return trace(nets.net(name), nets.CASES[name].shape)


def _of(
    name: str, everywhere: Constraints = PLAIN, layers: Layers | None = None
) -> dict[str, Limit]:
    """Name the limits of a network's groups by their roots."""
    groups = _groups(name)
    found = limits(groups, everywhere, layers)
    return {group.root: limit for group, limit in zip(groups, found, strict=True)}


def test_without_wishes_all_channels_but_one_may_go() -> None:
    found = _of("chain")
    assert (found["a.0"], found["b.0"]) == (Limit(5), Limit(7))
    assert found["c"].most == 0
    assert "output" in found["c"].why


CAPS = {
    "a half": (Constraints(max_ratio=0.5), 3, 4),
    "a share rounds down": (Constraints(max_ratio=0.4), 2, 3),
    "a floor": (Constraints(min_channels=5), 1, 3),
    "the tighter one": (Constraints(max_ratio=0.5, min_channels=2), 3, 4),
    "the tighter one, again": (Constraints(max_ratio=0.9, min_channels=5), 1, 3),
}


@pytest.mark.parametrize("case", CAPS)
def test_caps(case: str) -> None:
    wish, a, b = CAPS[case]
    found = _of("chain", wish)
    assert (found["a.0"].most, found["b.0"].most) == (a, b)


WHOLE = {
    "it is excluded": Constraints(exclude=True),
    "it has 6 channels, and the limits allow none to be pruned": Constraints(min_channels=6),
    "it has 6 channels, no lower multiple of 8": Constraints(round_to=8),
    "it has 6 channels, no lower multiple of 4": Constraints(round_to=4, max_ratio=0.2),
}


@pytest.mark.parametrize("why", WHOLE)
def test_a_group_that_stays_whole_says_why(why: str) -> None:
    assert _of("chain", WHOLE[why])["a.0"] == Limit(0, why=why)


def test_a_pattern_changes_its_layers_alone() -> None:
    found = _of("chain", Constraints(max_ratio=0.5), {"b.*": {"max_ratio": 0.25}})
    assert (found["a.0"].most, found["b.0"].most) == (3, 2)


def test_the_last_pattern_wins_field_by_field() -> None:
    layers: dict[str, Mapping[str, object]] = {
        "*": {"max_ratio": 0.5, "round_to": 2},
        "b.*": {"max_ratio": 1},
    }
    found = _of("chain", layers=layers)
    assert (found["a.0"].most, found["b.0"].most) == (3, 7)
    assert found["b.0"].multiple == 2
    turned = dict(reversed(layers.items()))
    assert _of("chain", layers=turned)["b.0"].most == 4


def test_an_exception_can_let_a_layer_go_again() -> None:
    found = _of("chain", Constraints(exclude=True), {"b.0": {"exclude": False}})
    assert (found["a.0"].most, found["b.0"].most) == (0, 7)


def test_any_member_of_a_group_may_be_named() -> None:
    found = _of("residual", layers={"out2.0": {"max_ratio": 0.5}})
    assert found["stem.0"].most == 3, "stem, out1 and out2 leave together"
    assert found["in1.0"].most == 4


def test_tied_channels_count_as_outputs_of_the_first_layer() -> None:
    stem = next(group for group in _groups("grouped") if group.root == "stem.0")
    assert (stem.channels, stem.width) == (3, 6)
    assert _of("grouped")["stem.0"].most == 2
    assert _of("grouped", Constraints(min_channels=3))["stem.0"].most == 1, (
        "3 outputs are 2 channels"
    )
    assert _of("grouped", Constraints(round_to=2))["stem.0"].multiple == 1, (
        "each is 2 outputs already"
    )
    assert _of("grouped", Constraints(round_to=4))["stem.0"] == Limit(2, 2)
    assert _of("grouped", Constraints(round_to=3))["stem.0"].most == 0, (
        "no lower multiple of 6 outputs"
    )


def test_patterns_go_by_what_layers_are_called() -> None:
    groups = _groups("chain")
    layers: Layers = {"old.*": {"max_ratio": 0.5}, "gone.*": {"exclude": True}}
    found = limits(groups, PLAIN, layers, called={"a.0": "old.7"})
    assert [limit.most for limit in found] == [3, 7, 0]


WRONG: dict[str, Layers] = {
    "'z.*' names no layer that can be cut": {"z.*": {"exclude": True}},
    "'a.1' names no layer that can be cut": {"a.1": {"exclude": True}},
    "b.*: max_share: 0.5 is no limit; there are max_ratio": {"b.*": {"max_share": 0.5}},
    "b.*: max_ratio: '0.5' is no limit": {"b.*": {"max_ratio": "0.5"}},
    "b.*: max_ratio: True is no limit": {"b.*": {"max_ratio": True}},
    "b.*: max_ratio: None is no limit": {"b.*": {"max_ratio": None}},
    "b.*: round_to: 2.5 is no limit": {"b.*": {"round_to": 2.5}},
    "b.*: round_to: True is no limit": {"b.*": {"round_to": True}},
    "b.*: exclude: 1 is no limit": {"b.*": {"exclude": 1}},
    "b.*: __class__: 1 is no limit": {"b.*": {"__class__": 1}},
    "max-ratio is 1.5; it must lie in [0, 1]": {"b.*": {"max_ratio": 1.5}},
    "max-ratio is nan; it must lie in [0, 1]": {"b.*": {"max_ratio": float("nan")}},
    "min-channels is 0": {"b.*": {"min_channels": 0}},
    "round-to is 0": {"b.*": {"round_to": 0}},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_limits_are_named(message: str) -> None:
    with pytest.raises(PlanError) as error:
        _of("chain", layers=WRONG[message])
    assert message in str(error.value)


@given(st.integers(1, 40), st.integers(0, 45), st.integers(0, 39), st.integers(1, 12))
def test_rounding_leaves_the_nearest_multiple_that_is_allowed(
    channels: int, wanted: int, most: int, multiple: int
) -> None:
    most = min(most, channels - 1)
    gone = rounded(channels, wanted, Limit(most, multiple))
    allowed = [n for n in range(most + 1) if (channels - n) % multiple == 0]
    if multiple == 1 or not most:
        assert gone == min(wanted, most)
    elif not allowed:
        assert gone == 0
    else:
        target = min(wanted, most)
        assert gone == min(allowed, key=lambda n: (abs(n - target), n)), "at a tie more stay"


@given(st.integers(1, 40), st.integers(0, 39), st.integers(1, 12))
def test_who_wants_more_never_gets_less(channels: int, most: int, multiple: int) -> None:
    limit = Limit(min(most, channels - 1), multiple)
    counts = [rounded(channels, wanted, limit) for wanted in range(channels + 1)]
    assert counts == sorted(counts)
