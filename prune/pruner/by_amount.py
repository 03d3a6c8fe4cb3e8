"""Prune layers that the user names: a fraction of their channels, or channels by number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prune.common.layer_ranges import as_ranges, read_range
from prune.common.notes import Report
from prune.core.importance.own_criteria import find
from prune.core.plan import Plan
from prune.core.select import selection
from prune.core.select.constraints import Constraints, limits
from prune.errors import PlanError
from prune.pruner.config import ImportanceConfig
from prune.pruner.importance import measure
from prune.pruner.session import Choice, Session, convolutions


@dataclass(frozen=True)
class AmountConfig(ImportanceConfig):
    """The options of commands that prune a fraction of the channels of some layers.

    Attributes:
        amount: fraction of the channels to prune, in [0, 1).
        sequential: prune layer after layer, and a coupled group again with each of its layers.
        round_to: keep a multiple of this many channels.
    """

    amount: float | None = None
    sequential: bool = False
    round_to: int = 1

    def choose_from(self, session: Session, layers: Sequence[int], report: Report) -> Choice:
        """Choose the channels of least importance of some layers, by index."""
        named = convolutions(session.net)
        names = [named[index] for index in layers]
        assert self.amount is not None, "a subclass requires it"
        criterion = self.criterion or "l1"
        constraints = Constraints(round_to=self.round_to)
        if self.sequential:
            plan, repeated = selection.one_after_another(
                session.net,
                session.groups,
                names,
                seed=self.seed,
                amount=self.amount,
                criterion=criterion,
                round_to=self.round_to,
            )
            for each in repeated:
                report(
                    f"warning: {each.root} and the layers coupled to it were cut {each.times} "
                    f"times; {each.after} of {each.before} channels are left"
                )
        else:
            plan = selection.by_amount(
                session.groups,
                measure(self, session, criterion=criterion),
                names,
                amount=self.amount,
                allowed=limits(session.groups, constraints),
                criterion=find(criterion)[0],
            )
        for group in selection.touching(session.groups, names):
            if group.protected:
                report(f"note: the channels of {group.root} are protected: {group.protected}")
        return Choice(plan)


@dataclass(frozen=True)
class ConvConfig(AmountConfig):
    """`prune conv`: single convolutions, with everything that is coupled to them.

    Attributes:
        layer: layer indices, lists or ranges, such as "22", "5,9" or "22-40".
        channels: the channels to prune, of one layer, instead of `amount`.
    """

    command: ClassVar[str] = "conv"

    out: Path = Path("model_data/conv_pruning.pt")
    layer: tuple[str | int, ...] = ()
    channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.layer:
            raise PlanError("no layer is given; name one, e.g. --layer 22 (prune show lists them)")
        if self.amount is None and self.channels is None:
            raise PlanError(
                "give the fraction to prune: --amount 0.4, or the channels: --channels 2,6,9"
            )

    def choose(self, session: Session, report: Report) -> Choice:
        """See `PruneConfig`."""
        named = convolutions(session.net)
        layers = layer_indices(map(str, self.layer), named)
        if self.channels is None:
            return self.choose_from(session, layers, report)
        if len(layers) > 1:
            raise PlanError(f"--channels names channels of one layer; --layer gives {len(layers)}")
        plan: Plan = selection.by_channels(session.groups, named[layers[0]], self.channels)
        return Choice(plan)


@dataclass(frozen=True)
class LayersConfig(AmountConfig):
    """`prune layers`: a range of layers, every coupled group once.

    Attributes:
        first: index of the first layer.
        upto: index of the last layer; None for the last of the network.
    """

    command: ClassVar[str] = "layers"

    out: Path = Path("model_data/layer_pruning.pt")
    amount: float | None = 0.5
    first: int = 0
    upto: int | None = None

    def choose(self, session: Session, report: Report) -> Choice:
        """See `PruneConfig`."""
        last = len(session.net.layers) - 1
        upto = last if self.upto is None else self.upto
        if not 0 <= self.first <= upto <= last:
            raise PlanError(
                f"the range is {self.first} to {upto}; it must go up from 0 to at most {last}"
            )
        layers = layer_indices([f"{self.first}-{upto}"], convolutions(session.net))
        return self.choose_from(session, layers, report)


def layer_indices(texts: Iterable[str], allowed: Iterable[int]) -> list[int]:
    """Read `22`, `22-40` and `5,6,9`; a range stands for the convolutions in it.

    Args:
        texts: as the user wrote them.
        allowed: indices of the convolutions that can be pruned.

    Raises:
        PlanError: a text is no number, or a layer is no convolution or belongs to a head.
    """
    known = sorted(allowed)
    chosen: set[int] = set()
    for part in (part.strip() for text in texts for part in text.split(",")):
        low, high = read_range(part)
        inside = [i for i in known if low <= i <= high]
        if not inside:
            raise PlanError(
                f"layer {part} is no convolution that can be cut (heads cannot); these can: "
                f"{as_ranges(known)}"
            )
        chosen.update(inside)
    return sorted(chosen)
