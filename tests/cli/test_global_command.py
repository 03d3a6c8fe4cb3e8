"""global and apply, as typed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny
import torch

from prune import checkpoint
from prune.cli import main
from prune.common import cache_dir, choices
from prune.core.cost.macs import count
from prune.core.importance.group_importance import NORMALIZERS, SCOPES
from prune.core.plan import from_json
from prune.core.select.allocation import ALLOCATIONS
from prune.pruner.sensitivity.metrics import METRICS

Capture = pytest.CaptureFixture[str]
Words = Sequence[object]
SHAPE = (1, 3, tiny.SIZE, tiny.SIZE)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return tiny.weights(tmp_path)


def _json(words: Words, capsys: Capture) -> dict[str, object]:
    """Run a command that succeeds; everything on stdout must be one JSON document."""
    assert main([str(word) for word in (*words, "--json")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def _refused(words: Words, capsys: Capture) -> str:
    """Run a command that must end with one line on stderr and exit 2; return the line."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    return printed.err


def _widths(path: Path) -> dict[int, int]:
    """Read the width of every convolution off a checkpoint's weights."""
    model = checkpoint.load(path).model
    return {
        int(name.split(".")[1]): len(tensor)
        for name, tensor in model.items()
        if name.endswith("Conv2d.weight")
    }


def test_the_command_line_offers_what_there_is() -> None:
    assert tuple(ALLOCATIONS) == choices.ALLOCATIONS
    assert SCOPES == choices.SCOPES
    assert tuple(NORMALIZERS) == choices.NORMALIZERS
    assert tuple(METRICS) == choices.SENSITIVITY_METRICS


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_the_written_network_is_within_its_budget(
    kind: str, share: float, dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out.pt"
    told = _json(["global", "--weights", dense, f"--{kind}", share, "--out", out], capsys)
    before, after = (count(checkpoint.network(checkpoint.load(p)), SHAPE) for p in (dense, out))
    assert told[kind] == {"before": getattr(before, kind), "after": getattr(after, kind)}
    whole = getattr(before, kind)
    assert (share - 0.1) * whole <= getattr(after, kind) <= share * whole


def test_a_number_is_a_budget_too(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    whole = count(checkpoint.network(checkpoint.load(dense)), SHAPE).params
    found = []
    for budget in (0.5, whole // 2, f"{whole / 2000}k"):
        out = tmp_path / "out.pt"
        _json(["global", "--weights", dense, "--params", budget, "--out", out], capsys)
        found.append(_widths(out))
    assert found[0] == found[1] == found[2]


def test_a_dry_run_writes_nothing(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    before = sorted(tmp_path.iterdir())
    words = ["global", "--weights", dense, "--macs", 0.5, "--out", tmp_path / "x" / "out.pt"]
    assert _json([*words, "--dry-run"], capsys)["out"] is None
    assert sorted(tmp_path.iterdir()) == before


WISHES: dict[str, list[str]] = {
    "plain": [],
    "steps": ["--steps", "3"],
    "limits": ["--round-to", "4", "--exclude", "0-1", "--min-channels", "6"],
    "global rank": ["--allocation", "global", "--normalize", "mean", "--criterion", "l2"],
}


@pytest.mark.parametrize("wish", WISHES)
def test_a_saved_plan_gives_the_same_network_bit_for_bit(
    wish: str, dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    plan, first, second = (tmp_path / name for name in ("plan.json", "a.pt", "b.pt"))
    words = ["global", "--weights", dense, "--macs", 0.6, *WISHES[wish]]
    _json([*words, "--plan-out", plan, "--out", first], capsys)
    _json(["apply", "--weights", dense, "--plan", plan, "--out", second], capsys)
    a, b = checkpoint.load(first), checkpoint.load(second)
    assert a.cfg == b.cfg
    assert list(a.model) == list(b.model)
    assert all(torch.equal(a.model[name], b.model[name]) for name in a.model)
    dry = tmp_path / "dry.json"
    _json([*words, "--plan-out", dry, "--dry-run"], capsys)
    assert from_json(dry.read_text()).cuts == from_json(plan.read_text()).cuts


def test_a_plan_edited_by_hand_is_carried_out(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out.pt"
    words = ["global", "--weights", dense, "--macs", 0.6, "--dry-run", "--plan-out", plan]
    _json(words, capsys)
    document = json.loads(plan.read_text())
    document["cuts"] = [{**document["cuts"][0], "remove": [1, 3]}]
    plan.write_text(json.dumps(document))
    _json(["apply", "--weights", dense, "--plan", plan, "--out", out], capsys)
    assert _widths(out) == {**_widths(dense), 0: 6}


def _plan(dense: Path, tmp_path: Path, capsys: Capture) -> dict[str, object]:
    path = tmp_path / "plan.json"
    _json(["global", "--weights", dense, "--macs", 0.6, "--dry-run", "--plan-out", path], capsys)
    document = json.loads(path.read_text())
    assert isinstance(document, dict)
    return document


def test_a_plan_for_another_network_is_refused(
    dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    _plan(dense, tmp_path, capsys)
    other, out = tiny.weights(tmp_path, pruned=True), tmp_path / "out.pt"
    words = ["apply", "--weights", other, "--plan", tmp_path / "plan.json", "--out", out]
    assert "the plan was made for the network" in _refused(words, capsys)
    assert not out.exists()


@pytest.mark.parametrize("change", [{"cuts": []}, {"cuts": "empty ones"}])
def test_a_plan_that_removes_nothing_is_refused(
    change: dict[str, object], dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    document = _plan(dense, tmp_path, capsys)
    cuts = document["cuts"]
    assert isinstance(cuts, list)
    empty = [{**cut, "remove": []} for cut in cuts] if change["cuts"] else []
    (tmp_path / "plan.json").write_text(json.dumps({**document, "cuts": empty}))
    words = ["apply", "--weights", dense, "--plan", tmp_path / "plan.json"]
    assert "nothing to remove" in _refused([*words, "--out", tmp_path / "out.pt"], capsys)
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    "said",
    [
        {"keep": ["module_list.0.Conv2d"]},
        {"shapes": {"module_list.0.Conv2d.weight": [1, 1, 1, 1]}},
        {"inputs": [{"shape": [1, 3, 32, 32], "dtype": "float32"}]},
    ],
    ids=lambda said: str(*said),
)
def test_what_a_plan_says_for_modules_is_refused_rather_than_ignored(
    said: dict[str, object], dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    document = _plan(dense, tmp_path, capsys)
    (tmp_path / "plan.json").write_text(json.dumps({**document, **said}))
    words = ["apply", "--weights", dense, "--plan", tmp_path / "plan.json"]
    line = _refused([*words, "--out", tmp_path / "out.pt"], capsys)
    assert f"the plan sets {', '.join(said)}, which only the Python API supports" in line
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read"),
        (b"\xff\xfe", "cannot read"),
        (b"{", "not JSON"),
        (b"{}", "prune-plan/1"),
        (b'{"format": "prune-plan/1"}', "plan.json: network is missing; it must be text"),
    ],
    ids=["missing", "no text", "broken", "no plan", "empty plan"],
)
def test_a_plan_that_cannot_be_read_is_one_line(
    text: bytes | None, message: str, dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    plan = tmp_path / "plan.json"
    if text is not None:
        plan.write_bytes(text)
    assert message in _refused(["apply", "--weights", dense, "--plan", plan], capsys)


def test_limits_on_the_command_line_hold(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.pt"
    words = ["global", "--weights", dense, "--macs", 0.6, "--out", out]
    words += ["--max-ratio", 0.8, "--min-channels", 4, "--round-to", 4, "--exclude", "0-1"]
    _json(words, capsys)
    widths, full = _widths(out), _widths(dense)
    assert (widths[0], widths[1]) == (8, 16)
    assert widths != full
    for index, width in widths.items():
        assert width == full[index] or (width % 4 == 0 and width >= 4)
        assert width >= 0.2 * full[index]


def test_what_stays_whole_is_told_with_its_reason(dense: Path, capsys: Capture) -> None:
    words = ["global", "--weights", str(dense), "--macs", "0.9", "--dry-run", "--exclude", "0", "3"]
    assert main([*words, "--max-ratio", "1"]) == 0
    notes = [n for n in capsys.readouterr().err.splitlines() if n.startswith("prune: note: ")]
    assert notes == ["prune: note: groups 0, 2 are not pruned: it is excluded"], "3 is coupled to 2"


LIMITS = """\
max_ratio: 0.9
round_to: 2
exclude: [1]
layers:
  2-8: {max_ratio: 0.25}
  '*.8.*': {exclude: true}
  3: {max_ratio: 0.5}
"""


def test_limits_in_a_file_hold_and_the_later_ones_win(
    dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    limits, out = tmp_path / "limits.yaml", tmp_path / "out.pt"
    limits.write_text(LIMITS)
    words = ["global", "--weights", dense, "--macs", 0.4, "--out", out, "--limits", limits]
    _json(words, capsys)
    widths = _widths(out)
    assert (widths[1], widths[8]) == (16, 32)
    assert 16 <= widths[2] < 24, "the 0.5 of 3, which is coupled, came after the 0.25"
    assert widths[2] == widths[3]
    assert widths[0] % 2 == widths[2] % 2 == 0
    words[words.index(0.4)] = 0.9
    _json([*words, "--exclude", "2"], capsys)
    assert _widths(out)[2] == 32, "the command line comes last"


def test_a_range_takes_the_convolutions_in_it(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    """Layers 4 to 7 are a shortcut, a head's convolution, the head and a route."""
    out = tmp_path / "out.pt"
    words = ["global", "--weights", dense, "--macs", 0.8, "--out", out, "--exclude", "2-8"]
    _json([*words, "--max-ratio", 1], capsys)
    assert [_widths(out)[i] for i in (2, 3, 8)] == [32, 32, 32]


BAD_LIMITS = {
    "max_share: 0.5": "limits.yaml: 'max_share' is an unknown key; the known ones: max_ratio",
    "max_ratio: half": "limits.yaml: max_ratio is 'half'; it must be a number from 0 to 1",
    "max_ratio: 2": "limits.yaml: max_ratio is 2; it must be a number from 0 to 1",
    "5: 3": "limits.yaml: 5 is an unknown key",
    "exclude: true": "exclude is True; it must be a list or null",
    "exclude: [99]": "limits.yaml: layer 99 is no convolution that can be cut",
    "exclude: ['x*']": "'x*' names no layer",
    "layers: [3]": "layers is [3]; it must be a mapping or null",
    "layers: {3: 0.5}": "layers.3 is 0.5; it must be a mapping",
    "layers: {3: {max_share: 0.5}}": "layers.3.'max_share' is an unknown key",
    "layers: {3: {5: 0.5}}": "layers.3.5 is an unknown key",
    "layers: {x: {max_ratio: 0.5}}": "'x' names no layer",
    "- 3": "contains no limits",
    "": "contains no limits",
    "{": "limits.yaml:1: broken YAML",
    "round_to: 1e30": "round_to is '1e30'; it must be a whole number",
    "min_channels: .nan": "min_channels is nan",
    "max_ratio: 2020-13-45": "no valid timestamp",
}


@pytest.mark.parametrize("text", BAD_LIMITS)
def test_wrong_limits_are_one_line(text: str, dense: Path, tmp_path: Path, capsys: Capture) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text(text)
    words = ["global", "--weights", dense, "--macs", 0.5, "--dry-run", "--limits", limits]
    assert BAD_LIMITS[text] in _refused(words, capsys)


BAD: dict[str, list[str]] = {
    "--macs is '0'; write a fraction below 1": ["--macs", "0"],
    "--macs is '1'": ["--macs", "1"],
    "--macs is '-3'": ["--macs=-3"],
    "--macs is '50%'": ["--macs", "50%"],
    "--params is 'many'": ["--params", "many"],
    "--macs is '1.5'; write a fraction below 1": ["--macs", "1.5"],
    "within the budget of 30,000,000,000": ["--macs", "30G"],
    "nothing to remove: the network has": ["--params", "13M"],
    "cannot be met: within the limits": ["--macs", "0.1", "--max-ratio", "0.2"],
    "allow more": ["--macs", "0.5", "--exclude", "*"],
    "max-ratio is 1.2": ["--macs", "0.5", "--max-ratio", "1.2"],
    "min-channels is 0": ["--macs", "0.5", "--min-channels", "0"],
    "round-to is 0": ["--macs", "0.5", "--round-to", "0"],
    "names no layer": ["--macs", "0.5", "--exclude", "nothing.*"],
    "layer 4 is no convolution": ["--macs", "0.5", "--exclude", "4"],
    "layer is '3x'": ["--macs", "0.5", "--exclude", "3x"],
    "steps is 0": ["--macs", "0.5", "--steps", "0"],
    "needs images; give --data": ["--macs", "0.5", "--criterion", "taylor"],
    "needs measured drops": ["--macs", "0.5", "--allocation", "sensitivity"],
    "'²' names no layer": ["--macs", "0.5", "--exclude", "²"],
    "write a number or a range": ["--macs", "0.5", "--exclude", "9" * 5000],
    "--macs is '99": ["--macs", "9" * 400],
    "--round-to": ["--macs", "0.5", "--round-to", "1000"],
    "recovery memory is nan": [
        *("--macs", "0.5", "--recover-memory", "nan", "--reconstruct", "no-data.yaml")
    ],
    "no-limits.yaml": ["--macs", "0.5", "--limits", "no-limits.yaml"],
    "no-data.yaml": ["--macs", "0.5", "--data", "no-data.yaml"],
    "no-drops.json": ["--macs", "0.5", "--sensitivity", "no-drops.json"],
}


@pytest.mark.parametrize("message", BAD)
def test_a_wish_that_cannot_be_met_is_one_line(message: str, dense: Path, capsys: Capture) -> None:
    words = ["global", "--weights", dense, "--dry-run", *BAD[message]]
    assert message in _refused(words, capsys)


@pytest.mark.parametrize("words", [["global", "--macs", "0.5", "--limits"], ["apply", "--plan"]])
def test_a_folder_in_place_of_a_file_is_told_in_words(
    words: list[str], dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    said = _refused([*words, tmp_path, "--weights", dense, "--out", tmp_path / "x.pt"], capsys)
    assert said == f"prune: cannot read {tmp_path}: Is a directory\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--macs"),
        (["--macs", "0.5", "--params", "0.5"], "--macs"),
        (["--macs", "0.5", "--depth", "some"], "'some' must be a number of blocks, or auto"),
        (["--macs", "0.5", "--depth", "²"], "'²' must be a number of blocks, or auto"),
    ],
    ids=["no budget", "two", "depth", "no digit"],
)
def test_options_that_cannot_be_read_are_told(
    words: list[str], says: str, dense: Path, capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["global", "--weights", str(dense), *words])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_images_rank_by_fisher_and_are_looked_at_once(
    dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    data, plans = tiny.data(tmp_path / "data"), [tmp_path / "1.json", tmp_path / "2.json"]
    for plan in plans:
        words = ["global", "--weights", dense, "--macs", 0.5, "--data", data, "--images", 4]
        assert main([str(w) for w in (*words, "--dry-run", "--plan-out", plan)]) == 0
        told = capsys.readouterr().err
        assert ("read from" if plan == plans[1] else "saved in") in told
    assert plans[0].read_text() == plans[1].read_text()
    assert from_json(plans[0].read_text()).criterion == "fisher"


def test_steps_look_at_images_each_time(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    data, out = tiny.data(tmp_path / "data"), tmp_path / "out.pt"
    words = ["global", "--weights", dense, "--macs", 0.5, "--data", data, "--images", 2]
    told = _json([*words, "--criterion", "taylor", "--steps", 2, "--out", out], capsys)
    assert len(list(cache_dir.folder("scores").iterdir())) == 2 and not list(
        tmp_path.glob("*.scores")
    )
    proof = told["proof"]
    assert isinstance(proof, dict)
    assert proof["max_abs_diff"] < 1e-4
