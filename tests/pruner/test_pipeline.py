"""The functions behind the commands: a config in, a result out that is what the command prints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
import stacks
import tiny
import torch

from prune import checkpoint, cli
from prune.cli import main
from prune.cli.options import config_of
from prune.core.plan import to_json
from prune.errors import InputError, PlanError
from prune.latency.by_latency import LatencyConfig
from prune.pruner.by_amount import ConvConfig, LayersConfig
from prune.pruner.by_budget import GlobalConfig
from prune.pruner.by_depth import DepthConfig
from prune.pruner.by_plan import ApplyConfig
from prune.pruner.config import PruneConfig
from prune.pruner.pipeline import prune
from prune.pruner.result import CutResult
from prune.pruner.sensitivity.run import SensitivityConfig, measure
from prune.pruner.session import open_session

Capture = pytest.CaptureFixture[str]

# A config -> the same as typed; both beside --weights and --out.
SAME: dict[str, tuple[PruneConfig, Sequence[str]]] = {
    "conv": (ConvConfig(layer=(3, "7-8"), amount=0.5), ["--layer", "3,7-8", "--amount", "0.5"]),
    "channels": (
        ConvConfig(layer=("1",), channels=(2, 6)),
        ["--layer", "1", "--channels", "2,6"],
    ),
    "layers": (
        LayersConfig(first=1, sequential=True, criterion="l2", round_to=4),
        ["--from", "1", "--sequential", "--criterion", "l2", "--round-to", "4"],
    ),
    "global": (GlobalConfig(macs=0.5, exclude=("0-1",)), ["--macs", "0.5", "--exclude", "0-1"]),
    "blocks": (GlobalConfig(params=0.6, depth=1), ["--params", "0.6", "--depth", "1"]),
    "depth": (DepthConfig(macs=0.8), ["--macs", "0.8"]),
    "recovered": (
        LayersConfig(compensate=True, activation="relu"),
        ["--compensate", "--activation", "relu"],
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_the_function_returns_what_the_command_prints(
    case: str, tmp_path: Path, capsys: Capture
) -> None:
    config, words = SAME[case]
    dense = stacks.weights(tmp_path) if config.command == "depth" else tiny.weights(tmp_path)
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    files = ["--weights", str(dense), "--out", str(second), "--json"]
    assert main([config.command, *words, *files]) == 0
    printed = json.loads(capsys.readouterr().out)
    cuts: list[CutResult] = []
    result = prune(replace(config, weights=dense, out=first), show=cuts.append)
    document = json.loads(json.dumps(result.document()))
    for steps in (document["recovery"], printed["recovery"]):
        for step in steps:
            step["seconds"] = 0.0
    assert document == {**printed, "out": str(first)}
    assert list(document) == [
        *("params", "macs", "groups", "blocks", "proof", "out", "recovery"),
    ]
    assert capsys.readouterr().out == "", "a function prints nothing"
    (cut,) = cuts
    assert (cut.params, cut.groups) == (result.params, result.groups)
    one, two = checkpoint.load(first), checkpoint.load(second)
    assert one.cfg == two.cfg
    assert all(torch.equal(one.model[name], tensor) for name, tensor in two.model.items())


# The words that a command requires; they are fields of its config as well.
Config = PruneConfig | SensitivityConfig
REQUIRED: dict[type[Config], tuple[str, list[str]]] = {
    ConvConfig: ("conv", ["--layer", "1", "--amount", "0.5"]),
    LayersConfig: ("layers", []),
    GlobalConfig: ("global", ["--macs", "0.5"]),
    LatencyConfig: ("global", ["--latency", "0.5"]),
    DepthConfig: ("depth", ["--blocks", "1"]),
    ApplyConfig: ("apply", ["--plan", "plan.json"]),
    SensitivityConfig: ("sensitivity", ["--data", "data.yaml"]),
}
# What the command line reads from options of other names, or leaves as text.
OTHERWISE = {"layer", "amount", "channels", "macs", "blocks", "latency", "depth"}


@pytest.mark.parametrize("kind", REQUIRED, ids=lambda kind: kind.__name__)
def test_every_option_is_a_field_with_the_same_default(kind: type[Config]) -> None:
    name, words = REQUIRED[kind]
    args = cli.read(name, words)
    config = config_of(kind, args)
    defaults = {field.name: field.default for field in fields(kind)}
    names = set(defaults) - OTHERWISE
    assert {name: getattr(config, name) for name in names} == {n: defaults[n] for n in names}
    unread = {"json", "config", "typed"}
    ours = set(vars(args)) - unread
    if kind in (GlobalConfig, LatencyConfig):  # one command has the options of both
        ours &= {field.name for one in (GlobalConfig, LatencyConfig) for field in fields(one)}
        both = {field.name for one in (GlobalConfig, LatencyConfig) for field in fields(one)}
        assert set(vars(args)) - unread <= both
    else:
        assert ours <= set(defaults)


WRONG: dict[str, Callable[[], Config]] = {
    "no layer is given": lambda: ConvConfig(amount=0.5),
    "give the fraction to prune": lambda: ConvConfig(layer=(1,)),
    "exactly one of macs and params": lambda: GlobalConfig(macs=0.5, params=0.5),
    "exactly one of blocks and macs": lambda: DepthConfig(),
    "images is 0": lambda: DepthConfig(blocks=1, images=0),
    "it goes without --depth": lambda: GlobalConfig(macs=0.5, depth=1, sensitivity=Path("s")),
    "ratio is 1": lambda: SensitivityConfig(ratios=(1.0,)),
    "jobs is 0": lambda: SensitivityConfig(jobs=0),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_config_that_makes_no_sense_is_refused_at_once(message: str) -> None:
    with pytest.raises((PlanError, InputError), match=message):
        WRONG[message]()


def test_remarks_go_to_the_caller(tmp_path: Path, capsys: Capture) -> None:
    lines: list[str] = []
    config = GlobalConfig(
        weights=tiny.weights(tmp_path), macs=0.9, max_ratio=1.0, exclude=(0, 3), dry_run=True
    )
    result = prune(config, report=lines.append)
    assert lines == ["note: groups 0, 2 are not pruned: it is excluded"], "3 is coupled to 2"
    assert result.out is None
    assert capsys.readouterr() == ("", "")


def test_an_error_of_a_plan_names_its_file(tmp_path: Path) -> None:
    dense, file = tiny.weights(tmp_path), tmp_path / "plan.json"
    session = open_session(dense)
    plan = GlobalConfig(weights=dense, macs=0.5).choose(session, lambda _: None).plan
    cut = replace(plan.cuts[0], layer="module_list.99.Conv2d")
    file.write_text(to_json(replace(plan, cuts=(cut,))))
    with pytest.raises(PlanError, match=r"^.*plan\.json: module_list\.99\.Conv2d is the first"):
        prune(ApplyConfig(weights=dense, plan=file, out=tmp_path / "out.pt"))
    assert not (tmp_path / "out.pt").exists()


def test_sensitivity_returns_what_the_file_contains(tmp_path: Path, capsys: Capture) -> None:
    config = SensitivityConfig(
        weights=tiny.weights(tmp_path),
        data=tiny.data(tmp_path / "data"),
        ratios=(0.5,),
        metric="loss",
        images=2,
        out=tmp_path / "s.json",
    )
    result = measure(config)
    assert result.document() == json.loads(config.out.read_text())
    assert result.ratios == [0.5]
    assert config.out.with_suffix(".csv").is_file()
    assert capsys.readouterr().out == ""


def test_a_budget_of_macs_imports_nothing_that_reads_images(tmp_path: Path) -> None:
    """It would take longer than the cut."""
    code = f"""
import sys
from prune.cli import main
words = ["--weights", {str(tiny.weights(tmp_path))!r}, "--macs", "0.5", "--dry-run"]
assert main(["global", *words]) == 0
found = {{"cv2", "prune.data.loader", "prune.evaluate.metrics", "onnx"}} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
