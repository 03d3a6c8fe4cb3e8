"""What to remove, as frozen data that can be printed, saved, edited and replayed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, cast

from prune.common import schema
from prune.common.inputs import printable
from prune.common.plain_json import BrokenJsonError, read_json
from prune.common.schema import expect, listed, mapping, named, whole
from prune.core.trace.groups import Group
from prune.core.trace.meta import Shape, Spec, dtype_name
from prune.errors import PlanError

FORMAT = "prune-plan/1"
_CUT = mapping(
    {
        "layer": schema.text(),
        "channels": whole(1),
        "remove": listed(whole(0)),
        "members": listed(schema.text()),
    }
)
_FILE = mapping(
    {
        "format": schema.text(choices=(FORMAT,)),
        "network": schema.text(),
        "criterion": schema.text(),
        "cuts": listed(_CUT),
        "blocks": listed(whole(0)),
        "made_by": schema.text(),
        "inputs": listed(mapping({"shape": listed(whole(1)), "dtype": schema.text()})).or_missing(),
        "keep": listed(schema.text()).or_missing(),
        "shapes": named(listed(whole(0))).or_missing(),
    }
)
OF_MODULES = ("inputs", "keep", "shapes")  # plans for checkpoints have none of these


@dataclass(frozen=True)
class Cut:
    """Channels to remove from one coupled group, counted as outputs of its first layer.

    Attributes:
        layer: the group's first layer.
        channels: how many outputs of that layer the group has.
        remove: the outputs of the layer to remove; sorted and unique.
        members: all layers that lose outputs with it, the first one included.
    """

    layer: str
    channels: int
    remove: tuple[int, ...]
    members: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A decision about one network.

    Attributes:
        network: SHA-256 of the cfg text it was made for; "" for a network that has none.
        criterion: name of the criterion of importance; "given" where the user named the channels.
        cuts: one entry per coupled group.
        blocks: indices of layers to remove.
        made_by: the command that made it.
        inputs: the inputs of the network, where it has no cfg text.
        keep: names of modules whose outputs are protected.
        shapes: of every weight of the network it was made for, by name.
    """

    network: str
    criterion: str
    cuts: tuple[Cut, ...]
    blocks: tuple[int, ...] = ()
    made_by: str = ""
    inputs: tuple[Spec, ...] = ()
    keep: tuple[str, ...] = ()
    shapes: tuple[tuple[str, Shape], ...] = ()


Removed = dict[tuple[str, str], tuple[int, ...]]


def to_dict(plan: Plan) -> dict[str, object]:
    """Return a plan as plain values, as in files."""
    document = {"format": FORMAT, **json.loads(json.dumps(asdict(plan)))}
    document["shapes"] = dict(document["shapes"])
    return {key: value for key, value in document.items() if value or key not in OF_MODULES}


def to_json(plan: Plan) -> str:
    """Write a plan as JSON, one line per cut."""
    document = to_dict(plan)
    cuts = ",\n  ".join(json.dumps(cut) for cut in cast("list[object]", document.pop("cuts")))
    rest = json.dumps(document)
    return rest[:-1] + (f', "cuts": [\n  {cuts}\n]}}\n' if cuts else ', "cuts": []}\n')


def from_json(text: str, *, where: str = "the plan") -> Plan:
    """Read a plan back.

    Args:
        text: what `to_json` wrote.
        where: the file that it was read from, for messages.

    Raises:
        PlanError: not JSON, not a plan, or a field of another type.
    """
    try:
        document: Any = read_json(text, file_names=True)
    except BrokenJsonError as error:
        raise PlanError(f"{where} is not JSON: {error}") from error
    expect(document, _FILE, where=where, error=PlanError)
    inputs = document.get("inputs", [])
    shapes = document.get("shapes", {})
    return Plan(
        network=document["network"],
        criterion=document["criterion"],
        cuts=tuple(_cut(entry) for entry in document["cuts"]),
        blocks=tuple(document["blocks"]),
        made_by=document["made_by"],
        inputs=tuple(Spec(tuple(e["shape"]), dtype_name(e["dtype"])) for e in inputs),
        keep=tuple(document.get("keep", [])),
        shapes=tuple((name, tuple(shape)) for name, shape in shapes.items()),
    )


def _cut(entry: Mapping[str, Any]) -> Cut:
    return Cut(
        layer=entry["layer"],
        channels=entry["channels"],
        remove=tuple(sorted(set(entry["remove"]))),
        members=tuple(entry["members"]),
    )


def cut_of(group: Group, channels: Iterable[int]) -> Cut:
    """Return the cut that removes some of a group's channels."""
    index = group.slot(group.root).index
    remove = sorted(position for channel in channels for position in index[channel])
    return Cut(group.root, group.width, tuple(remove), group.producers)


def removed(groups: Iterable[Group], plan: Plan) -> Removed:
    """Return the positions that a plan removes from each side of each module or parameter.

    Everything that is coupled to a channel is removed with it, whatever part the plan names.

    Raises:
        PlanError: a cut fits no group, touches a protected one, or would empty a layer.
    """
    groups = tuple(groups)
    gone: dict[tuple[str, str], set[int]] = defaultdict(set)
    for cut in plan.cuts:
        for group, channels in _claimed(groups, cut):
            for slot in group.slots:
                leaving = map(slot.index.__getitem__, channels)
                gone[slot.name, slot.side].update(chain.from_iterable(leaving))
    _check_not_emptied(groups, gone)
    return {place: tuple(sorted(positions)) for place, positions in gone.items() if positions}


def joined(groups: Sequence[Group], first: Plan, second: Plan) -> Plan:
    """Make one plan of two: `second` was made for the network that `first` leaves behind.

    Args:
        groups: of the network `first` was made for.
        first: the plan that is carried out first.
        second: the plan that is carried out then; its positions refer to the remaining channels.

    Raises:
        PlanError: `first` does not fit the groups, or `second` not what `first` leaves.
    """
    gone = removed(groups, first)
    leaving: dict[Group, set[int]] = defaultdict(set)
    for cut in first.cuts:
        for group, position in _homes(groups, cut.layer, cut.remove):
            leaving[group].add(position)
    for cut in second.cuts:
        lost = set(gone.get((cut.layer, "out"), ()))
        left = [p for p in range(_outputs(groups, cut.layer)) if p not in lost]
        if cut.remove and cut.remove[-1] >= len(left):
            raise PlanError(
                f"the second plan removes output {cut.remove[-1]} of {cut.layer}, "
                f"but the first leaves {len(left)} outputs"
            )
        for group, position in _homes(groups, cut.layer, [left[i] for i in cut.remove]):
            leaving[group].add(position)
    cuts = (
        Cut(group.root, group.width, tuple(sorted(leaving[group])), group.producers)
        for group in groups
        if group in leaving
    )
    return replace(second, network=first.network, cuts=tuple(cuts), blocks=first.blocks)


def _outputs(groups: Sequence[Group], layer: str) -> int:
    slots = (slot for group in groups for slot in group.slots)
    mine = (slot.index for slot in slots if (slot.name, slot.side) == (layer, "out"))
    places = [position for index in mine for place in index for position in place]
    return 1 + max(places, default=-1)


def _homes(
    groups: Sequence[Group], layer: str, positions: Iterable[int]
) -> Iterable[tuple[Group, int]]:
    """Find the group that each output of a root layer belongs to."""
    home = {
        position: group
        for group in groups
        if group.root == layer
        for place in group.slot(layer).index
        for position in place
    }
    return ((home[position], position) for position in positions)


def _claimed(groups: Sequence[Group], cut: Cut) -> list[tuple[Group, set[int]]]:
    """Find the channels of each group that a cut removes."""
    homes = [group for group in groups if group.root == cut.layer]
    place = {
        position: (number, channel)
        for number, group in enumerate(homes)
        for channel, positions in enumerate(group.slot(group.root).index)
        for position in positions
    }
    if not homes:
        raise PlanError(
            f"{printable(cut.layer)} is the first layer of no coupled group; see "
            "`prune show --groups`"
        )
    if unknown := sorted(set(cut.remove) - place.keys()):
        raise PlanError(f"{cut.layer} has outputs 0 to {max(place)}, not {unknown[0]}")
    claimed: dict[int, set[int]] = defaultdict(set)
    for position in cut.remove:
        number, channel = place[position]
        claimed[number].add(channel)
    for group in (homes[number] for number in claimed):
        if group.protected:
            raise PlanError(f"the channels of {cut.layer} are protected: {group.protected}")
        if group.width != cut.channels:
            raise PlanError(
                f"{cut.layer} has {group.width} channels here, but {cut.channels} in the plan"
            )
    return [(homes[number], channels) for number, channels in claimed.items()]


def _check_not_emptied(groups: Iterable[Group], gone: dict[tuple[str, str], set[int]]) -> None:
    held: dict[tuple[str, str], set[int]] = defaultdict(set)
    for group in groups:
        for slot in group.slots:
            if slot.side == "out" and (slot.name, slot.side) in gone:
                held[slot.name, slot.side].update(chain.from_iterable(slot.index))
    for place, positions in held.items():
        if positions <= gone[place]:
            raise PlanError(
                f"{place[0]} would be left without channels: {len(positions)} of {len(positions)} "
                "would be removed; leave at least one"
            )
