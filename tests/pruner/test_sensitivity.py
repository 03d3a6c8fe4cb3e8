"""prune sensitivity: values are those of networks really cut, and runs go on where they stop."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import tiny
import torch
from torch import Tensor

from prune import checkpoint
from prune.cli import main
from prune.common.eval_mode import evaluating
from prune.common.hyperparameters import SCRATCH
from prune.common.size import Size
from prune.core.cost.macs import count
from prune.core.cut import apply_plan
from prune.core.masking import masked
from prune.core.plan import Plan, cut_of, from_json, removed
from prune.core.trace.groups import Group
from prune.data.loader import evaluation_loader
from prune.data.spec import load
from prune.errors import InputError, PlanError
from prune.evaluate.collect import evaluate_network
from prune.evaluate.nms import detections
from prune.models.darknet import Darknet, build
from prune.models.loss import detection_loss
from prune.pruner import session
from prune.pruner.sensitivity import effect, run
from prune.pruner.sensitivity.curves import known
from prune.pruner.sensitivity.masked_evaluation import WHOLE, Setup, Task, evaluate_cuts, open_setup
from prune.pruner.sensitivity.rows import FORMAT, SensitivityResult, by_price, price, read, to_json
from prune.pruner.sensitivity.run import SensitivityConfig

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """Make a network whose own best detections are the truth, so that its mAP is not zero."""
    weights, data = tiny.weights(tmp_path), tiny.data(tmp_path)
    made = Setup(weights=weights, data=data, imgsz=Size.of(tiny.SIZE))
    bench = open_setup(made)
    with evaluating(bench.session.net):
        for batch in bench.loader:
            maps = bench.session.net(batch.images.float() / 255)
            found = detections(
                bench.session.net.decode(maps), confidence=0, iou=0.3, max_detections=6
            )
            for boxes, path in zip(found, batch.paths, strict=True):
                label = Path(str(path).replace("images", "labels")).with_suffix(".txt")
                label.write_text("\n".join(map(_label, boxes)) + "\n")
    open_setup.cache_clear()
    return replace(made, confidence=0.0)


def _label(box: Tensor) -> str:
    x1, y1, x2, y2, _, label = box.tolist()
    low, high = (max(x1, 0), max(y1, 0)), (min(x2, tiny.SIZE), min(y2, tiny.SIZE))
    centre = [(a + b) / 2 / tiny.SIZE for a, b in zip(low, high, strict=True)]
    sides = [(b - a) / tiny.SIZE for a, b in zip(low, high, strict=True)]
    return " ".join(map(str, (int(label), *centre, *sides)))


def sensitivity(
    setup: Setup,
    ratios: tuple[float, ...],
    out: Path,
    *,
    jobs: int = 1,
    progress: run.Progress | None = None,
) -> SensitivityResult:
    """Measure with the options of a setup."""
    config = SensitivityConfig(
        weights=setup.weights,
        data=setup.data,
        ratios=ratios,
        metric=setup.metric,
        images=setup.images,
        img_size=setup.imgsz,
        batch_size=setup.batch_size,
        conf_thres=setup.confidence,
        iou_thres=setup.iou,
        jobs=jobs,
        out=out,
    )
    return run.measure(config, progress=progress)


def halves(groups: Sequence[Group]) -> list[Task]:
    """Cut every second channel of every group that may be cut."""
    free = [(number, group) for number, group in enumerate(groups) if not group.protected]
    return [Task(number, tuple(range(0, group.channels, 2))) for number, group in free]


def plan_of(groups: Sequence[Group], task: Task) -> Plan:
    return Plan("", "given", (cut_of(groups[task.group], task.channels),))


def score_of(net: Darknet, setup: Setup) -> tuple[float, float]:
    """Return mAP and loss as `prune val` and training compute them."""
    spec = load(setup.data, splits=["val"])
    loader = evaluation_loader(
        spec,
        split="val",
        imgsz=setup.imgsz,
        batch_size=setup.batch_size,
        stride=net.stride,
        workers=0,
    )

    def loss(maps: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        return detection_loss(maps, net.heads, targets, hyp=SCRATCH)[1]

    found = evaluate_network(
        net, loader, spec.names, device=torch.device("cpu"), confidence=setup.confidence, loss=loss
    )
    return found.map, found.losses[3]


def test_a_masked_group_scores_what_the_cut_network_scores(setup: Setup) -> None:
    subject = session.open_session(setup.weights)
    tasks = [WHOLE, *halves(subject.groups)]
    nets = [subject.net] + [
        apply_plan(subject.net, subject.groups, plan_of(subject.groups, task)) for task in tasks[1:]
    ]
    expected = [score_of(net, setup) for net in nets]
    assert len({value for value, _ in expected}) > 3, "the cuts must matter"
    by_map = evaluate_cuts(setup, tasks)
    by_loss = evaluate_cuts(replace(setup, metric="loss"), tasks)
    assert by_map == pytest.approx([value for value, _ in expected], abs=1e-5)
    assert by_loss == pytest.approx([loss for _, loss in expected], abs=1e-5)


def test_maps_from_shared_outputs_are_those_of_a_whole_masked_run(setup: Setup) -> None:
    subject = session.open_session(setup.weights)
    net, images = subject.net, torch.rand(subject.net.small_image)
    for task in halves(subject.groups):
        mask = effect.mask(net, subject.groups[task.group], task.channels)
        with evaluating(net):
            with masked(net, removed(subject.groups, plan_of(subject.groups, task))):
                whole = net(images)
            shared = effect.maps(net, effect.outputs(net, images, mask.needs), mask)
        assert all(torch.equal(a, b) for a, b in zip(whole, shared, strict=True))


def test_what_a_group_does_not_reach_is_not_computed_again(setup: Setup) -> None:
    subject = session.open_session(setup.weights)
    net = subject.net
    branch = next(
        g for g in reversed(subject.groups) if not g.protected
    )  # feeds the last head alone
    mask = effect.mask(net, branch, [0])
    first, last = net.map_layers
    assert last in mask.layers
    assert first not in mask.layers
    with evaluating(net):
        kept = effect.outputs(net, torch.rand(net.small_image), mask.needs)
        maps = effect.maps(net, kept, mask)
    assert maps[0] is kept[first]
    assert set(kept) == mask.needs


def test_rows_are_of_the_lowest_channels_and_count_what_the_cut_saves(
    setup: Setup, tmp_path: Path
) -> None:
    found = sensitivity(setup, (0.01, 0.5), tmp_path / "s.json")
    subject = session.open_session(setup.weights)
    shape = (1, 3, tiny.SIZE, tiny.SIZE)
    before = count(subject.net, shape)
    assert [row.group for row in found.rows[::2]] == [
        g.root for g in subject.groups if not g.protected
    ]
    for row in found.rows:
        group = subject.groups[row.index]
        assert (row.channels, row.removed) == (group.channels, int(row.ratio * group.channels))
        assert row.drop == pytest.approx(found.baseline - row.value)
        if not row.removed:
            assert (row.macs, row.params, row.drop) == (0, 0, 0)
            continue
        plan = plan_of(subject.groups, Task(row.index, tuple(range(row.removed))))
        after = count(apply_plan(subject.net, subject.groups, plan), shape)
        assert (row.macs, row.params) == (before.macs - after.macs, before.params - after.params)


def test_the_cheapest_group_per_multiply_add_comes_first(setup: Setup, tmp_path: Path) -> None:
    found = sensitivity(replace(setup, metric="loss"), (0.25, 0.5), tmp_path / "s.json")
    prices = [price(rows) for rows in by_price(found.rows)]
    assert prices == sorted(prices)
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    costs = [float(row["drop"]) / float(row["macs"]) for row in rows]
    assert costs == sorted(costs)
    assert len(rows) == len(found.rows)


UNREAD = """
[convolutional]
batch_normalize=1
filters=8
size=1
stride=1
pad=1
activation=leaky

[route]
layers=-2
"""


def test_a_convolution_that_no_layer_reads_is_left_out(
    setup: Setup, tmp_path: Path, capsys: Capture
) -> None:
    shortcut = "[shortcut]\nfrom=-2\nactivation=linear\n"
    net = build(tiny.CFG.format(width=32).replace(shortcut, shortcut + UNREAD))
    weights = tmp_path / "unread.pt"
    checkpoint.save(checkpoint.capture(net, names=tiny.NAMES, imgsz=tiny.SIZE), weights)
    words = ["--weights", str(weights), "--data", str(setup.data), "--ratios", "0.5"]
    out = tmp_path / "s.json"
    assert main(["sensitivity", *words, "--out", str(out)]) == 0
    assert "module_list.5.Conv2d is left out: no layer reads it" in capsys.readouterr().err
    assert "module_list.5.Conv2d" not in {row.group for row in read(out).rows}
    assert (
        main(["global", *words[:2], "--sensitivity", str(out), "--macs", "0.8", "--dry-run"]) == 0
    )


def test_a_stopped_run_goes_on_and_gives_the_same_file(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole.json", tmp_path / "stopped.json"
    ratios = (0.25, 0.5)
    sensitivity(setup, ratios, whole)
    judged: list[Task] = []

    def until(most: int) -> Callable[..., tuple[float, ...]]:
        def judge(own: Setup, tasks: Sequence[Task], *rest: object) -> tuple[float, ...]:
            if len(judged) + len(tasks) > most:
                raise KeyboardInterrupt
            judged.extend(tasks)
            return evaluate_cuts(own, tasks)

        return judge

    monkeypatch.setattr(run, "BLOCK", 1)
    monkeypatch.setattr(run, "evaluate_cuts", until(5))  # the baseline and two groups
    with pytest.raises(KeyboardInterrupt):
        sensitivity(setup, ratios, stopped)
    kept = read(stopped)
    assert not kept.complete
    assert len(kept.rows) == 4
    with pytest.raises(PlanError, match="not finished"):
        known(stopped, session.open_session(setup.weights))
    monkeypatch.setattr(run, "evaluate_cuts", until(1000))
    sensitivity(setup, ratios, stopped)
    assert stopped.read_bytes() == whole.read_bytes()
    assert len(set(judged)) == len(judged) == 1 + len(read(whole).rows), "nothing twice"


def test_another_ratio_is_added_to_what_is_there(setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    first = sensitivity(setup, (0.5,), out)
    both = sensitivity(setup, (0.25,), out)
    assert set(first.rows) < set(both.rows)
    assert {row.ratio for row in both.rows} == {0.25, 0.5}


def test_processes_give_the_same_file(setup: Setup, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    sensitivity(setup, (0.5,), one)
    calls: list[tuple[float, int]] = []
    sensitivity(
        setup,
        (0.5,),
        two,
        jobs=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert two.read_bytes() == one.read_bytes()
    assert calls[-1][0] == calls[-1][1] == len(read(one).rows)


@pytest.fixture
def words(setup: Setup, tmp_path: Path) -> list[str]:
    out = tmp_path / "out" / "s.json"
    return [
        *("sensitivity", "--weights", str(setup.weights), "--data", str(setup.data)),
        *("--ratios", "0.5", "--out", str(out)),
    ]


def test_the_command_prints_a_table_and_writes_three_files(
    words: list[str], tmp_path: Path, capsys: Capture
) -> None:
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "drop at 0.5" in printed
    assert "mAP" in printed or "map" in printed
    for suffix in (".json", ".csv", ".png"):
        assert (tmp_path / "out" / "s").with_suffix(suffix).stat().st_size


def test_json_is_what_the_file_holds(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert main([*words, "--metric", "loss", "--images", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "out" / "s.json").read_text())
    assert (told["metric"], told["images"], told["complete"]) == ("loss", 3, True)


def test_curves_are_the_rows_of_each_group_in_trace_order(setup: Setup, tmp_path: Path) -> None:
    found = sensitivity(setup, (0.25, 0.5), tmp_path / "s.json")
    subject = session.open_session(setup.weights)
    read_back = known(tmp_path / "s.json", subject).curves
    assert [not curve for curve in read_back] == [bool(group.protected) for group in subject.groups]
    pairs = [pair for curve in read_back for pair in curve]
    assert pairs == [(row.removed / row.channels, row.drop) for row in found.rows]


@pytest.fixture
def measured(words: list[str], tmp_path: Path, capsys: Capture) -> Path:
    """Return a finished run's file; it says that the second group is free and the others dear."""
    assert main(words) == 0
    capsys.readouterr()
    out = tmp_path / "out" / "s.json"
    found = read(out)
    free = sorted({row.index for row in found.rows})[1]
    rows = tuple(replace(row, drop=float(row.index != free)) for row in found.rows)
    out.write_text(to_json(replace(found, rows=rows)))
    return out


def test_global_takes_first_what_the_file_says_is_free(
    measured: Path, setup: Setup, tmp_path: Path
) -> None:
    words = ["global", "--weights", str(setup.weights), "--sensitivity", str(measured)]
    out, plan = tmp_path / "cut.pt", tmp_path / "plan.json"
    files = ["--out", str(out), "--plan-out", str(plan)]
    assert main([*words, "--macs", "0.6", "--max-ratio", "1", *files]) == 0
    shape = (1, 3, tiny.SIZE, tiny.SIZE)
    before, after = (count(session.open_session(p).net, shape) for p in (setup.weights, out))
    assert 0.55 < after.macs / before.macs <= 0.6
    shares = {cut.layer: len(cut.remove) / cut.channels for cut in from_json(plan.read_text()).cuts}
    free = next(row.group for row in read(measured).rows if not row.drop)
    assert shares.pop(free) > 0.8
    assert max(shares.values()) < 0.2


def test_global_refuses_the_file_of_another_network(
    measured: Path, tmp_path: Path, capsys: Capture
) -> None:
    other = tiny.weights(tmp_path, pruned=True)
    words = ["global", "--weights", str(other), "--sensitivity", str(measured), "--macs", "0.6"]
    assert main([*words, "--out", str(tmp_path / "cut.pt")]) == 2
    printed = capsys.readouterr().err
    assert "was measured on another network" in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "cut.pt").exists()


def test_global_refuses_the_file_of_other_weights(
    measured: Path, setup: Setup, tmp_path: Path, capsys: Capture
) -> None:
    trained = checkpoint.load(setup.weights)
    moved = {name: tensor + 1 for name, tensor in trained.model.items()}
    checkpoint.save(replace(trained, model=moved), tmp_path / "trained.pt")
    words = ["global", "--weights", str(tmp_path / "trained.pt"), "--sensitivity", str(measured)]
    assert main([*words, "--macs", "0.6", "--out", str(tmp_path / "cut.pt")]) == 2
    printed = capsys.readouterr().err
    assert "was measured on other weights" in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "cut.pt").exists()


def test_global_cuts_the_channels_that_were_measured(
    words: list[str], setup: Setup, tmp_path: Path, capsys: Capture
) -> None:
    assert main([*words, "--criterion", "l2"]) == 0
    out, plan = tmp_path / "out" / "s.json", tmp_path / "plan.json"
    cut = ["global", "--weights", str(setup.weights), "--macs", "0.6", "--max-ratio", "1"]
    cut += ["--sensitivity", str(out), "--dry-run", "--plan-out", str(plan)]
    assert main(cut) == 0
    assert from_json(plan.read_text()).criterion == "l2"
    assert "were measured" not in capsys.readouterr().err
    assert main([*cut, "--criterion", "l1"]) == 0
    assert from_json(plan.read_text()).criterion == "l1"
    assert (
        "drops were measured with l2 and scope group, but channels are chosen by l1"
        in capsys.readouterr().err
    )


def test_global_warns_of_a_group_that_the_last_of_the_budget_takes_over_a_cliff(
    measured: Path, setup: Setup, tmp_path: Path, capsys: Capture
) -> None:
    found = read(measured)
    steep = {row.index for row in found.rows if row.drop}
    rows = [replace(row, drop=0.0) for row in found.rows]
    rows += [
        replace(row, ratio=0.75, removed=row.channels * 3 // 4, drop=100.0 * (row.index in steep))
        for row in found.rows
    ]
    measured.write_text(to_json(replace(found, baseline=0.5, rows=tuple(rows))))
    words = ["global", "--weights", str(setup.weights), "--sensitivity", str(measured)]
    words += ["--allocation", "uniform", "--max-ratio", "1", "--dry-run"]
    assert main([*words, "--macs", "0.9"]) == 0
    assert "measured drop rises" not in capsys.readouterr().err
    assert main([*words, "--macs", "0.25"]) == 0
    assert "measured drop rises from 0.000 to " in capsys.readouterr().err


def test_global_with_depth_refuses_a_file_of_the_whole_network(
    measured: Path, setup: Setup, capsys: Capture
) -> None:
    words = ["global", "--weights", str(setup.weights), "--sensitivity", str(measured)]
    assert main([*words, "--macs", "0.6", "--depth", "auto", "--dry-run"]) == 2
    assert "goes without --depth" in capsys.readouterr().err


def test_the_same_weights_in_another_file_are_the_same(measured: Path, setup: Setup) -> None:
    again = setup.weights.with_name("again.pt")
    checkpoint.save(replace(checkpoint.load(setup.weights), history=[{"command": "copied"}]), again)
    words = ["global", "--weights", str(again), "--sensitivity", str(measured)]
    assert main([*words, "--macs", "0.6", "--max-ratio", "1", "--dry-run"]) == 0


def test_what_was_measured_with_images_asks_for_them(
    measured: Path, setup: Setup, capsys: Capture
) -> None:
    found = read(measured)
    fisher = replace(found, about={**found.about, "criterion": "fisher"})
    measured.write_text(to_json(fisher))
    words = ["global", "--weights", str(setup.weights), "--sensitivity", str(measured)]
    assert main([*words, "--macs", "0.6", "--dry-run"]) == 2
    assert "was measured with fisher, which needs images" in capsys.readouterr().err


SPOILT: dict[str, dict[str, object]] = {
    "rows[0].channels is 0": {"channels": 0, "removed": 0},
    "rows[0].removed is 99 of ": {"removed": 99},
    "NaN is not a number": {"drop": float("nan")},
    "rows of groups that": {"index": 999},
}


# What a message says -> what is changed in a file of one row.
DAMAGED: dict[str, dict[str, object]] = {
    '"format" must be': {"format": "prune-sensitivity/2"},
    "baseline is '1'; it must be a number": {"baseline": "1"},
    "rows is {}; it must be a list": {"rows": {}},
    "rows[0] is 1; it must be a mapping": {"rows": [1]},
    "rows[0].group is missing": {"rows": [{}]},
    "complete is 1; it must be true or false": {"complete": 1},
    "weights is 3; it must be text": {"weights": 3},
}


@pytest.mark.parametrize("message", DAMAGED)
def test_a_damaged_file_is_refused_by_its_key(message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    sound = {"format": FORMAT, "baseline": 0.5, "rows": [], "complete": True}
    path.write_text(json.dumps(sound | DAMAGED[message]))
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("message", SPOILT)
def test_rows_that_cannot_be_are_one_line(
    message: str, measured: Path, setup: Setup, capsys: Capture
) -> None:
    found = read(measured)
    rows = (replace(found.rows[0], **SPOILT[message]), *found.rows[1:])  # type: ignore[arg-type]  # spoilt
    measured.write_text(to_json(replace(found, rows=rows)))
    words = ["global", "--weights", str(setup.weights), "--sensitivity", str(measured)]
    assert main([*words, "--macs", "0.6", "--dry-run"]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def another_criterion(out: Path) -> list[str]:
    about = {"format": "prune-sensitivity/1", "criterion": "l2"}
    out.write_text(json.dumps({**about, "baseline": 0, "complete": True, "rows": []}))
    return []


def damaged(out: Path) -> list[str]:
    row = {"group": "a", "index": "no number"}
    about = {"format": "prune-sensitivity/1", "baseline": 0, "complete": True}
    out.write_text(json.dumps({**about, "rows": [row]}))
    return []


def foreign(out: Path) -> list[str]:
    out.write_text("[]")
    return []


def wrong_classes(out: Path) -> list[str]:
    data = out.parents[1] / "data.yaml"
    data.write_text("val: images/val\nnames: [a, b, c]\n")
    return []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (another_criterion, "contains a run with another"),
        (damaged, "is damaged"),
        (foreign, "is no sensitivity file"),
        (wrong_classes, "they must agree"),
        (lambda _: ["--ratios", "0.5,1.5"], "ratio is 1.5"),
        (lambda _: ["--ratios", "nan"], "ratio is nan"),
        (lambda _: ["--images", "0"], "images is 0"),
        (lambda _: ["--jobs", "0"], "jobs is 0"),
        (lambda _: ["--out", "s.csv"], "must end in .json"),
        (lambda _: ["--split", "test"], "no split 'test'"),
        (lambda _: ["--img-size", "60"], "image size is 60"),
        (lambda _: ["--conf-thres", "2"], "confidence threshold is 2"),
        (lambda _: ["--weights", "none.pt"], "none.pt"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str], tmp_path: Path, capsys: Capture, spoil: object, message: str
) -> None:
    out = tmp_path / "out" / "s.json"
    out.parent.mkdir()
    more = cast("Callable[[Path], list[str]]", spoil)(out)
    before = out.read_bytes() if out.exists() else None
    assert main([*words, *more]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out
    assert (out.read_bytes() if out.exists() else None) == before


def test_ratios_that_are_no_numbers_are_refused(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--ratios", "half"])
    assert stopped.value.code == 2
    assert "'half' is no list such as 0.25,0.5,0.75" in capsys.readouterr().err
