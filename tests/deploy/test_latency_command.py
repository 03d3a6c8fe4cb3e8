"""prune global --latency, as typed, on a machine whose clock is known."""

from __future__ import annotations

import itertools
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
from clocks import SyntheticMachine

from prune import checkpoint
from prune.cli import main
from prune.core.cost.cost_model import is_depthwise
from prune.latency import approach, measure, table
from prune.latency.form import Form
from prune.runtimes import backends

Capture = pytest.CaptureFixture[str]
Words = Sequence[object]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that knows the layers of the tiny network."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patched:
        _settle(folder, patched)
        words = ["global", "--weights", tiny.weights(folder), "--latency", 0.5, "--dry-run"]
        assert main([str(word) for word in [*words, "--threads", 1, "--max-ratio", 0.9]]) == 0
    return folder / "cache"


def _settle(
    folder: Path, patched: pytest.MonkeyPatch, *, slower: float = 1.0, block: int = 4
) -> SyntheticMachine:
    """Keep all files in a folder, and put the synthetic machine in the runtime's place."""
    (folder / "temporary").mkdir(exist_ok=True)
    patched.setattr(tempfile, "tempdir", str(folder / "temporary"))
    patched.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    patched.setattr(measure, "NETWORKS", measure.LEAST)
    machine = SyntheticMachine(slower=slower, block=block)
    machine.install(patched)
    return machine


@pytest.fixture
def known(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SyntheticMachine:
    """The machine, with the layers in the cache."""
    machine = _settle(tmp_path, monkeypatch)
    (tmp_path / "cache").symlink_to(measured)
    return machine


@pytest.fixture
def dense(tmp_path: Path) -> Iterator[Path]:
    """The network; whatever a command does, no temporary file is left."""
    yield tiny.weights(tmp_path)
    assert not list((tmp_path / "temporary").glob("*"))


def _global(dense: Path, *words: object) -> list[str]:
    fixed = ("--threads", 1, "--out", dense.with_name("out.pt"))
    return [str(word) for word in ("global", "--weights", dense, *fixed, *words)]


def _latency(words: Words, capsys: Capture) -> dict[str, float]:
    """Run a command that succeeds; return what it says of milliseconds."""
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["latency"]
    assert isinstance(found, dict)
    return found


def _ms(
    machine: SyntheticMachine,
    weights: Path,
    folder: Path,
    *,
    imgsz: tuple[int, int] = (64, 64),
    form: Form = Form("onnxruntime"),  # noqa: B008  # frozen
) -> float:
    """Ask the machine itself what a checkpoint takes."""
    net = form.network(checkpoint.network(checkpoint.load(weights)))
    file = form.write(net, folder / "net.onnx", imgsz=imgsz)
    return sum(machine.layers(file).values())


def test_the_written_network_takes_what_was_predicted(
    known: SyntheticMachine, dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    share = 0.5
    found = _latency(_global(dense, "--latency", share), capsys)
    before, after = (_ms(known, path, tmp_path) for path in (dense, tmp_path / "out.pt"))
    assert found["before_ms"] == pytest.approx(before)
    assert found["after_ms"] == pytest.approx(after)
    assert found["ratio"] == pytest.approx(after / before)
    assert found["limit_ms"] == pytest.approx(share * before)
    assert found["ratio"] <= (1 + approach.NEAR) * share
    assert found["after_ms"] == pytest.approx(found["predicted_ms"], rel=0.1)
    assert found["predicted_ms"] > 0.8 * found["limit_ms"], "no more goes than has to"
    assert found["threads"] == 1
    assert known.profiles == 0, "all of it was in the table"


def test_widths_stay_whole_blocks(known: SyntheticMachine, dense: Path, tmp_path: Path) -> None:
    assert main(_global(dense, "--latency", 0.6)) == 0
    net = checkpoint.network(checkpoint.load(tmp_path / "out.pt"))
    wide = [layer.out_channels for layer in net.layers if layer.kind == "convolutional"]
    assert all(width % known.block == 0 or width == 21 for width in wide)
    assert wide != [8, 16, 32, 32, 21, 32, 21]


def test_no_group_loses_more_than_the_limit_takes_and_a_quarter(
    known: SyntheticMachine, dense: Path, tmp_path: Path
) -> None:
    assert main(_global(dense, "--latency", 0.8)) == 0
    nets = [checkpoint.network(checkpoint.load(path)) for path in (dense, tmp_path / "out.pt")]
    for before, after in zip(nets[0].layers, nets[1].layers, strict=True):
        assert after.out_channels >= 0.55 * before.out_channels


def test_groups_lose_more_where_the_usual_limit_does_not_reach(
    known: SyntheticMachine, dense: Path, capsys: Capture
) -> None:
    """Two layers that stay whole leave the others a half of the time to lose."""
    words = _global(dense, "--latency", 0.8, "--exclude", "2-3", "--dry-run")
    found = _latency(words, capsys)
    assert found["after_ms"] == pytest.approx(found["predicted_ms"], rel=0.1)
    assert main([*words, "--max-ratio", "0.45"]) == 2
    assert "within the limits" in capsys.readouterr().err


def test_milliseconds_are_a_budget_too(
    known: SyntheticMachine, dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    share = _latency(_global(dense, "--latency", 0.7, "--dry-run"), capsys)
    limit = f"{share['limit_ms']:.9f}ms"
    found = _latency(_global(dense, "--latency", limit, "--dry-run"), capsys)
    assert found == pytest.approx({**share, "limit_ms": float(limit[:-2])})


def test_the_report_says_both_times(known: SyntheticMachine, dense: Path, capsys: Capture) -> None:
    assert main(_global(dense, "--latency", 0.7, "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("latency"))
    number = r"(\d+\.\d+)"
    found = re.fullmatch(
        rf"latency  {number} -> {number} ms measured, ratio {number} \({number} to {number}\)"
        rf"         {number} predicted, 0.7 requested; onnxruntime, 1 thread",
        lines[first] + lines[first + 1],
    )
    assert found is not None
    before, after, ratio, low, high, predicted = map(float, found.groups())
    assert after == pytest.approx(ratio * before, abs=0.02)
    assert low <= ratio <= high
    assert ratio == pytest.approx(predicted, rel=0.15)
    assert all(len(line) <= 80 for line in lines[first : first + 2])


def test_a_budget_is_met_in_the_form_that_is_deployed(
    known: SyntheticMachine, dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    machine = known
    found = _latency(_global(dense, "--latency", 0.3, "--int8", "--activation", "relu"), capsys)
    assert machine.profiles == measure.LEAST, "in INT8 all layers are others"
    assert found["int8"] is True and found["activation"] == "relu"
    assert found["before_ms"] == pytest.approx(_ms(machine, dense, tmp_path)), "float, as it is"
    deployed = Form("onnxruntime", "relu", int8=True)
    after = _ms(machine, tmp_path / "out.pt", tmp_path, form=deployed)
    assert found["after_ms"] == pytest.approx(after)
    assert after <= 1.1 * found["limit_ms"] == pytest.approx(0.3 * found["before_ms"] * 1.1)
    assert "activation=leaky" not in checkpoint.load(tmp_path / "out.pt").cfg


def test_blocks_may_leave_as_well(known: SyntheticMachine, dense: Path, capsys: Capture) -> None:
    found = _latency(_global(dense, "--latency", 0.6, "--depth", 1, "--dry-run"), capsys)
    assert found["after_ms"] == pytest.approx(found["predicted_ms"], rel=0.1)
    assert found["after_ms"] <= 1.1 * found["limit_ms"]


def test_a_grouped_convolution_may_come_down_to_one_channel_a_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    _settle(tmp_path, monkeypatch)
    dense = tiny.grouped(tmp_path, groups=4)
    words = _global(dense, "--latency", 0.25, "--max-ratio", 0.9, "--min-channels", 4)
    found = _latency(words, capsys)
    net = checkpoint.network(checkpoint.load(tmp_path / "out.pt"))
    assert is_depthwise(net.get_submodule("module_list.3.Conv2d"))
    assert found["after_ms"] == pytest.approx(found["predicted_ms"], rel=0.1)


def test_what_the_clock_does_not_confirm_is_not_written(
    known: SyntheticMachine, dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Layers take twenty times as long as the table knows; so cuts miss, whatever is measured."""
    known.lie = 20.0
    (tmp_path / "cache").unlink()
    assert main(_global(dense, "--latency", 0.4)) == 1
    err = capsys.readouterr().err
    assert "far from its prediction again" in err
    assert not (tmp_path / "out.pt").exists()


def _spikes(machine: SyntheticMachine) -> Callable[[], float]:
    """Have every fifth run wait for nine times what it computes."""
    turns = itertools.count()
    return lambda: 10.0 if not next(turns) % 5 else 1.0


def _drift(machine: SyntheticMachine) -> Callable[[], float]:
    """Slow down by a half each time that the clock has doubled, ten times what a table was told."""
    return lambda: 10 * (1 + 0.5 * math.log2(1 + machine.now))


def _waiting(machine: SyntheticMachine) -> Callable[[], float]:
    """Wait in three of five runs, up to eight times what is computed."""
    random = np.random.default_rng(0)
    return lambda: 1 + 7 * random.random() * (random.random() < 0.6)


@pytest.mark.parametrize(
    ("wait", "others", "from_cache"),
    [(_spikes, 0.0, True), (_drift, 2.0, True), (_waiting, 2.0, False)],
    ids=["spikes", "ten times as slow as the table", "a table of a busy machine"],
)
def test_what_the_machine_does_meanwhile_does_not_reach_the_cut(
    wait: Callable[[SyntheticMachine], Callable[[], float]],
    others: float,
    from_cache: bool,
    known: SyntheticMachine,
    dense: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    if not from_cache:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    known.wait, known.others = wait(known), others
    found = _latency(_global(dense, "--latency", 0.5), capsys)
    before, after = (_ms(known, path, tmp_path) for path in (dense, tmp_path / "out.pt"))
    assert after / before == pytest.approx(0.5, rel=0.15), "measured idle"
    assert found["ratio"] == pytest.approx(after / before, rel=0.03)
    assert found["busy"] is (others > 0)
    assert (known.profiles == 0) is from_cache


def test_milliseconds_on_a_busy_machine_are_said_as_a_ratio(
    known: SyntheticMachine, dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    known.others = 2.0
    limit = 0.6 * _ms(known, dense, tmp_path)
    assert main(_global(dense, "--latency", f"{limit:.6f}ms", "--dry-run")) == 0
    err = capsys.readouterr().err
    assert "the machine is busy: other processes take 2.0 of 2 core(s)" in err
    assert re.search(r"ms are 0\.60 of the .* ms that the network takes on this busy machine", err)


def test_layers_are_measured_once_for_each_image_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense: Path, capsys: Capture
) -> None:
    machine = _settle(tmp_path, monkeypatch)
    words = _global(dense, "--latency", 0.6, "--img-size", 96, 64, "--dry-run")
    first = _latency(words, capsys)
    after_one = machine.profiles
    assert after_one
    assert _latency(words, capsys) == pytest.approx(first)
    assert machine.profiles == after_one
    assert first["before_ms"] == pytest.approx(_ms(machine, dense, tmp_path, imgsz=(96, 64)))
    [path] = (tmp_path / "cache" / "prune" / "latency").iterdir()
    whole = table.load(path)
    assert whole is not None and whole.step == machine.block
    slow = _settle(tmp_path, monkeypatch, slower=2.0)
    found = _latency(words, capsys)
    assert slow.profiles == after_one, "the machine has become another"
    assert found["after_ms"] == pytest.approx(found["predicted_ms"], rel=0.1)
    again = table.load(path)
    assert again is not None
    sizes = [{kind: len(own) for kind, own in one.samples.items()} for one in (whole, again)]
    assert sizes[0] == sizes[1], "nothing is kept of what it was"


def test_a_machine_that_has_become_another_is_asked_for_its_block_again(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _settle(tmp_path, monkeypatch)
    words = _global(dense, "--latency", 0.6, "--dry-run", "--max-ratio", 0.9)
    assert main(words) == 0
    _settle(tmp_path, monkeypatch, slower=3.0, block=8)
    assert main(words) == 0
    found = table.load(table.place(Form("onnxruntime"), threads=1))
    assert found is not None and found.step == 8


def test_without_a_place_for_the_table_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense: Path, capsys: Capture
) -> None:
    _settle(tmp_path, monkeypatch)
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert main(_global(dense, "--latency", 0.7, "--dry-run")) == 0
    notes = capsys.readouterr().err
    assert "cannot write" in notes
    assert "the layers are measured again next time" in notes


WRONG: dict[str, tuple[Words, str]] = {
    "zero": (("--latency", 0), "--latency is '0'; write a fraction below 1, e.g. 0.5, or 20ms"),
    "five of what": (("--latency", 5), "--latency is '5'"),
    "more than all": (("--latency", 1.5), "--latency is '1.5'"),
    "no number": (("--latency", "fast"), "--latency is 'fast'"),
    "no time": (("--latency", "0ms"), "--latency is '0ms'"),
    "seconds": (("--latency", "1s"), "--latency is '1s'"),
    "steps": (("--latency", 0.5, "--steps", 2), "has an allocation of its own"),
    "allocation": (("--latency", 0.5, "--allocation", "global"), "remove --allocation"),
    "sensitivity": (("--latency", 0.5, "--sensitivity", "none.json"), "--sensitivity"),
    "not installed": (
        ("--latency", 0.5, "--runtime", "openvino"),
        "openvino is not installed; pip install 'detector-prune[openvino]' brings it",
    ),
    "size": (("--latency", 0.5, "--img-size", 100), "multiples of the network's stride, 16"),
    "no size": (("--latency", 0.5, "--img-size", 0), "'0' is no image size"),
    "met": (("--latency", "9000ms"), "nothing to remove: the network takes"),
    "too fast": (("--latency", "0.001ms"), "within the limits"),
    "whole groups": (("--latency", 0.5, "--exclude", "0-8"), "is the least; allow more"),
    "runtime of MACs": (("--macs", 0.5, "--runtime", "onnxruntime"), "are of --latency"),
    "INT8 of MACs": (("--macs", 0.5, "--int8"), "are of --latency"),
    "two budgets": (("--macs", 0.5, "--latency", 0.5), "not allowed with argument"),
    "unknown": (("--latency", 0.5, "--runtime", "ncnn"), "invalid choice: 'ncnn'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_use_is_one_line(
    wrong: str,
    known: SyntheticMachine,
    dense: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    words, message = WRONG[wrong]
    monkeypatch.setitem(backends.MODULES, "openvino", "a_module_that_nobody_has")
    before = sorted(tmp_path.rglob("*"))
    try:
        status = main(_global(dense, *words))
    except SystemExit as stopped:  # argparse
        status = int(str(stopped.code))
    out, err = capsys.readouterr()
    assert status == 2
    assert message in err and err.count("\n") == 1
    assert not out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_table_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense: Path, capsys: Capture
) -> None:
    _settle(tmp_path, monkeypatch)
    path = table.place(Form("onnxruntime"), threads=1)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert main(_global(dense, "--latency", 0.5)) == 2
    err = capsys.readouterr().err
    assert "is damaged" in err and "remove it to measure anew" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.pt").exists()
