"""Residual blocks of a cfg: found, and taken out with every reference set right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import stacks
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.errors import CfgError
from prune.models.blocks import Residual, as_text, blocks_of, renumbered, residuals, without
from prune.models.keys import integers
from prune.models.layout import layout
from prune.models.sections import Section, parse, references, write

CFGS = sorted((Path(__file__).parents[2] / "cfg").glob("*.cfg"))
STACK = parse(stacks.CFG)
FOUND = tuple(Residual(*pair) for pair in stacks.BLOCKS)


def test_the_blocks_that_can_go_are_found_and_no_others() -> None:
    assert residuals(STACK) == FOUND


@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_every_shortcut_of_the_shipped_networks_closes_a_block(path: Path) -> None:
    """Counted in the text: all their shortcuts are plain, over two convolutions."""
    text = path.read_text()
    sections = parse(text)
    found = residuals(sections)
    assert len(found) == text.count("[shortcut]")
    assert {sections[layer + 1].kind for b in found for layer in b.branch} == {"convolutional"}
    assert {len(block.branch) for block in found} == {2}
    layout(without(sections, found))


BROKEN = {
    "its branch is read by somebody else": ("11, 5,-8\n", "11, 5,4\n"),
    "its sum is bent": ("from=-2\nactivation=linear\n[conv", "from=-2\nactivation=leaky\n[conv"),
    "it adds three": ("from=-3\n", "from=-3,-3\n"),
    "its branch is wider": ("filters=8\nsize=3\nstride=1", "filters=9\nsize=3\nstride=1"),
    "nothing lies between": ("from=-3\n", "from=-1\n"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_block_is_none_where(change: tuple[str, str]) -> None:
    assert change[0] in stacks.CFG
    found = residuals(parse(stacks.CFG.replace(*change, 1)))
    assert 0 < len(found) < len(FOUND)
    assert set(found) < set(FOUND)


def test_a_branch_that_holds_a_head_is_no_block() -> None:
    before = "[shortcut]\nfrom=-3\n"
    head = stacks.CFG[stacks.CFG.index("[convolutional]\nfilters=18") :] + "[route]\nlayers=2\n"
    text = stacks.CFG.replace(before, head + "[shortcut]\nfrom=0\n", 1).replace(
        "layers=13", "layers=16"
    )
    text = text.replace("from=14", "from=17").replace("from=5", "from=8").replace("11, 5", "14, 8")
    layout(parse(text))
    assert Residual(0, 6) not in residuals(parse(text))


def _target(layer: int, blocks: Sequence[Residual]) -> int:
    """Follow a layer through removed shortcuts to the one whose output it stands for."""
    sources = {block.shortcut: block.source for block in blocks}
    while layer in sources:
        layer = sources[layer]
    return layer


def _check_references(sections: Sequence[Section], blocks: Sequence[Residual]) -> None:
    left, moved = without(sections, blocks), renumbered(sections, blocks)
    assert len(left) == len(moved) + 1
    layout(left)
    for old, new in moved.items():
        before, after = sections[old + 1], left[new + 1]
        wanted = [_target(layer, blocks) for layer in references(sections, old)]
        assert references(left, new) == tuple(moved.get(layer, layer) for layer in wanted)
        assert before.kind == after.kind
        for key in ("layers", "from"):
            signs = [
                [number < 0 for number in integers(section.options.get(key, "0"))]
                for section in (before, after)
            ]
            assert signs[0] == signs[1], "relative stays relative"
        assert {**before.options, "layers": 0, "from": 0} == {
            **after.options,
            "layers": 0,
            "from": 0,
        }


@given(st.sets(st.sampled_from(FOUND)))
def test_whoever_read_a_block_reads_what_it_read(chosen: set[Residual]) -> None:
    _check_references(STACK, sorted(chosen, key=lambda block: block.shortcut))


@settings(max_examples=4)
@given(st.data())
@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_the_references_of_shipped_networks_are_right(path: Path, data: st.DataObject) -> None:
    sections = parse(path.read_text())
    chosen = data.draw(st.sets(st.sampled_from(residuals(sections))))
    _check_references(sections, sorted(chosen, key=lambda block: block.shortcut))


def test_one_after_another_gives_what_all_at_once_gives() -> None:
    sections = parse((CFGS[0].parent / "yolor_csp_s.cfg").read_text())
    at_once = without(sections, residuals(sections))
    while found := residuals(sections):
        sections = without(sections, found[:1])
    assert sections == at_once


def test_no_block_removed_leaves_the_text_as_it_is() -> None:
    assert write(without(STACK, ())) == write(STACK)


def test_absolute_and_relative_references_by_hand() -> None:
    left = without(STACK, FOUND[:2])  # layers 1-3 and 4-5 go: 5 is 0 now, and 10 is 5
    assert left[6].options["from"] == "0"
    assert left[9].options["layers"] == "-1, 6, 0,-8"


def test_remarks_stay() -> None:
    left = without(STACK, FOUND[:2])
    assert left[0] == STACK[0]
    assert left[2].comments == ("Residual", "How the sum is made")


def test_layers_are_read_as_whole_blocks() -> None:
    assert blocks_of(STACK, [5, 4, 1, 2, 3]) == FOUND[:2]
    assert blocks_of(STACK, range(6, 11)) == FOUND[2:], "a block with the one inside it"
    assert blocks_of(STACK, ()) == ()
    with pytest.raises(
        CfgError, match=r"layer 4 is not part .* the blocks are 1-3, 4-5, 7-8, 6-10"
    ):
        blocks_of(STACK, [1, 2, 3, 4])


def test_a_block_of_another_network_is_refused() -> None:
    with pytest.raises(CfgError, match="layers 2-4 are no residual block"):
        without(STACK, [Residual(1, 4)])
    assert as_text(()) == "none"
