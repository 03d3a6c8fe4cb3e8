"""prune auto: stages in order, each once, cuts until the clock agrees, a verdict that is earned."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest
import tiny

from prune import checkpoint
from prune.auto import pipeline
from prune.auto.config import Request
from prune.auto.journal import FORMAT, Journal, read
from prune.auto.pipeline import AutoRun, finish, run_stages
from prune.auto.result import conclude, conclusion, table
from prune.bench.side_by_side import BenchConfig
from prune.cli import main
from prune.common.size import Size
from prune.errors import InputError, OffTargetError, RunError
from prune.evaluate import EvaluateConfig
from prune.export import ExportConfig
from prune.latency.by_latency import LatencyConfig
from prune.quantize.run import QuantizeConfig
from prune.runtimes.compare import Compared
from prune.runtimes.timing import Ratio
from prune.train.config import TrainConfig
from prune.train.resume import Resumed

Kind = TypeVar("Kind")
R = TypeVar("R")
Config = EvaluateConfig | ExportConfig | LatencyConfig | TrainConfig | QuantizeConfig | BenchConfig

DENSE_MS = 10.0


def request_of(folder: Path, **changes: object) -> Request:
    found = Request(
        weights=tiny.weights(folder),
        data=tiny.data(folder),
        latency=0.5,
        is_share=True,
        int8=True,
        max_drop=1.0,
        runtime="onnxruntime",
        threads=1,
        imgsz=Size.of(64),
        epochs=1,
        activation="relu",
        depth="auto",
        training=(),
        device="cpu",
        seed=0,
    )
    return replace(found, **changes)  # type: ignore[arg-type]  # fields of Request


class Stages:
    """Stands for the functions of the stages: they answer at once, and their configs are kept.

    A network that was fine-tuned has a mAP of `tuned`, every other one of 0.5. A cut runs in what
    was requested times `off`, the uncut network in `uncut` of the dense network's time.
    """

    def __init__(
        self, *, uncut: float = 0.8, off: float = 1.0, failing: str = "", tuned: float = 0.5
    ) -> None:
        self.configs: list[Config] = []
        self.resumed: Resumed | None = None
        self.uncut, self.off, self.failing, self.tuned = uncut, off, failing, tuned

    def evaluate(self, config: EvaluateConfig, **_: object) -> SimpleNamespace:
        """Return metrics."""
        self._note(config)
        tuned = config.weights.name == "pruned.pt"
        return SimpleNamespace(map50=0.8, map=self.tuned if tuned else 0.5)

    def export(self, config: ExportConfig, **_: object) -> SimpleNamespace:
        """Write nothing."""
        self._note(config)
        return SimpleNamespace(max_rel_diff=1e-6, bytes=1000)

    def prune(self, config: LatencyConfig, **_: object) -> SimpleNamespace:
        """Write a file that is no network."""
        self._note(config)
        config.out.write_bytes(b"cut")
        facts: dict[str, object] = {
            key: {} for key in ("params", "macs", "latency", "recovery")
        } | {"blocks": [1, 2]}
        return SimpleNamespace(document=lambda: facts)

    def fit(
        self, config: TrainConfig, *, resume: Resumed | None = None, **_: object
    ) -> SimpleNamespace:
        """Leave the files of a training that came to its end."""
        self._note(config)
        self.resumed = resume
        weights = config.project / config.name / "weights"
        weights.mkdir(parents=True, exist_ok=True)
        for name in ("best", "last"):
            (weights / f"{name}.pt").write_bytes(tiny.weights(weights).read_bytes())
        best = weights / "best.pt"
        return SimpleNamespace(epochs=1, best_epoch=1, test_map=None, best=best, stopped=False)

    def quantize(self, config: QuantizeConfig, **_: object) -> SimpleNamespace:
        """Write nothing."""
        self._note(config)
        return SimpleNamespace(out=config.out, document=dict)

    def compare(self, config: BenchConfig, **_: object) -> SimpleNamespace:
        """Time nothing."""
        self._note(config)
        return SimpleNamespace(document=lambda: {"rows": []})

    def deployed(self, _: AutoRun, weights: Path) -> Compared:
        """Time a network."""
        requested = [float(config.latency) * self.off for config in self.of(LatencyConfig)]
        ratio = requested[-1] if weights.name == "cut.pt" else self.uncut
        return Compared(DENSE_MS, ratio * DENSE_MS, Ratio(ratio, 0.99 * ratio, 1.01 * ratio))

    def of(self, kind: type[Kind]) -> list[Kind]:
        """List the configs of one stage."""
        return [config for config in self.configs if isinstance(config, kind)]

    def _note(self, config: Config) -> None:
        if type(config).__name__ == self.failing:
            raise RunError("the stage failed")
        self.configs.append(config)


def begun(
    folder: Path, stages: Stages, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> AutoRun:
    use(stages, monkeypatch)
    journal = Journal(folder / "auto.json", {}, {})
    return AutoRun(request_of(folder, **changes), folder, journal)


def use(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("evaluate", "export", "prune", "fit", "quantize", "compare"):
        monkeypatch.setattr(pipeline, name, getattr(stages, name))
    monkeypatch.setattr(pipeline, "latencies_ms", lambda files, **_: {files[0]: DENSE_MS})
    monkeypatch.setattr(pipeline, "_deployed", stages.deployed)
    monkeypatch.setattr(pipeline, "_compared", stages.deployed)


def test_the_cut_is_requested_as_a_ratio_in_the_form_that_is_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages(off=1.02)
    run = begun(tmp_path, stages, monkeypatch)
    run_stages(run)
    (config,) = stages.of(LatencyConfig)
    assert (config.latency, config.int8, config.activation) == (0.5, True, "relu")
    assert (config.compensate, config.reconstruct, config.depth) == (True, True, "auto")
    stage = run.journal.stages["cut"]
    assert stage["tried"] == [{"asked": 0.5, "ratio": pytest.approx(0.51)}]
    assert (stage["goal"], stage["uncut"]) == (0.5, 0.8)


@pytest.mark.parametrize("off", [1 / 7.9, 0.6, 1.6], ids=["far too deep", "too deep", "too slow"])
def test_a_cut_that_the_measured_time_does_not_confirm_is_not_trained(
    off: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages(off=off)
    lines: list[str] = []
    run = replace(begun(tmp_path, stages, monkeypatch), report=lines.append)
    with pytest.raises(OffTargetError, match="nothing is trained"):
        run_stages(run)
    assert len(stages.of(LatencyConfig)) == pipeline.TRIES
    assert not stages.of(TrainConfig)
    assert "cut" not in run.journal.stages, "resumed, it is cut anew"
    assert sum("too far from the request" in line for line in lines) == pipeline.TRIES


def test_a_cut_that_is_confirmed_the_second_time_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Settling(Stages):
        def prune(self, config: LatencyConfig, **_: object) -> SimpleNamespace:
            self.off = 1.0 if self.of(LatencyConfig) else 0.2
            return super().prune(config)

    stages = Settling()
    run = begun(tmp_path, stages, monkeypatch)
    run_stages(run)
    tried = run.journal.stages["cut"]["tried"]
    assert tried == [{"asked": 0.5, "ratio": 0.1}, {"asked": 0.5, "ratio": 0.5}]
    assert stages.of(TrainConfig)


@pytest.mark.parametrize(
    ("changes", "uncut", "requested"),
    [
        ({"latency": 4.0, "is_share": False}, 0.8, 0.4),
        ({"latency": 12.0, "is_share": False}, 1.5, 0.97),
        ({"latency": 0.75}, 0.774, 0.75),
    ],
    ids=["milliseconds", "a form slower than the dense network", "nearly fast enough"],
)
def test_goals_become_a_ratio_below_that_of_the_uncut_network(
    changes: dict[str, object],
    uncut: float,
    requested: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = Stages(uncut=uncut)
    run_stages(begun(tmp_path, stages, monkeypatch, **changes))
    assert stages.of(LatencyConfig)[0].latency == pytest.approx(requested, abs=1e-3)


def test_stages_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    run = replace(begun(tmp_path, Stages(), monkeypatch), report=lines.append)
    run_stages(run)
    assert [line for line in lines if line.startswith("stage")] == [
        f"stage {i} of 7: {name}" for i, name in enumerate(pipeline.STAGES, start=1)
    ]
    run_stages(run)
    assert lines[-1] == "stage 7 of 7: bench was done before"


def test_what_is_fast_enough_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages()
    run_stages(begun(tmp_path, stages, monkeypatch, latency=0.9))
    assert not stages.of(LatencyConfig)
    assert (tmp_path / "cut.pt").is_file()


def test_a_run_that_failed_goes_on_after_its_last_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages(failing="TrainConfig")
    run = begun(tmp_path, stages, monkeypatch)
    with pytest.raises(RunError, match=f"^the stage failed; to resume: .* --resume {tmp_path}$"):
        finish(run)
    again = replace(run, journal=read(run.journal.path))
    assert list(again.journal.stages) == ["dense", "cut"]
    before = len(stages.of(LatencyConfig))
    stages.failing = ""
    run_stages(again)
    assert list(again.journal.stages) == list(pipeline.STAGES)
    assert len(stages.of(LatencyConfig)) == before
    (config,) = stages.of(TrainConfig)
    assert (config.activation, config.pt) == ("relu", True)
    assert config.teacher == run.request.weights


def test_a_fine_tuning_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages()
    run = begun(tmp_path, stages, monkeypatch)
    last = tmp_path / "train" / "weights" / "last.pt"
    last.parent.mkdir(parents=True)
    interrupted = checkpoint.load(tiny.weights(last.parent))
    checkpoint.save(replace(interrupted, training={"epoch": 3}), last)
    run_stages(run)
    assert stages.resumed == Resumed(tmp_path / "train", last)
    assert checkpoint.load(tmp_path / "pruned.pt").model
    assert list(run.journal.stages) == list(pipeline.STAGES)


def test_a_stop_while_it_is_evaluated_does_not_train_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Stages):
        def evaluate(self, config: EvaluateConfig, **_: object) -> SimpleNamespace:
            if self.of(TrainConfig):
                raise KeyboardInterrupt
            return super().evaluate(config)

    run = begun(tmp_path, Stopped(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_stages(run)
    stages = Stages(tuned=0.495)
    use(stages, monkeypatch)
    again = replace(run, journal=read(run.journal.path))
    run_stages(again)
    assert not stages.of(TrainConfig)
    assert again.fact("score", "map") == 0.495


def test_the_stages_that_take_most_memory_can_have_a_process_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart: list[object] = []

    def isolate(function: Callable[..., R], config: object) -> R:
        apart.append(config)
        return function(config)

    run_stages(replace(begun(tmp_path, Stages(), monkeypatch), isolate=isolate))
    assert [type(config) for config in apart] == [LatencyConfig, TrainConfig]


def test_without_int8_nothing_is_quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages()
    run_stages(begun(tmp_path, stages, monkeypatch, int8=False))
    assert not stages.of(QuantizeConfig)
    (config,) = stages.of(BenchConfig)
    assert config.files == (tmp_path / "dense.onnx", tmp_path / "pruned.onnx")


@pytest.mark.parametrize(
    ("tuned", "drop"), [(0.496, 0.6), (0.47, pipeline.INT8_DROP)], ids=["some is left", "none is"]
)
def test_int8_may_lose_what_the_fine_tuned_network_has_left(
    tuned: float, drop: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages(tuned=tuned)
    run_stages(begun(tmp_path, stages, monkeypatch, max_drop=1.0))
    (config,) = stages.of(QuantizeConfig)
    assert config.max_drop == pytest.approx(drop)


def finished(*rows: tuple[str, float, float], goal: float = 0.5) -> Journal:
    """Make a journal whose bench found these: file, mAP, ms."""
    found: list[Mapping[str, object]] = [
        {
            "file": file,
            "runtime": "onnxruntime",
            "precision": "float32",
            "map": map_,
            "median_ms": ms,
            "ratio_to_first": ms / rows[0][2],
            "ratio_low": 0.99 * ms / rows[0][2],
            "ratio_high": 1.01 * ms / rows[0][2],
            "bytes": 1,
        }
        for file, map_, ms in rows
    ]
    cut: dict[str, object] = {"goal": goal, "macs": {}}
    return Journal(Path("auto.json"), {}, {"cut": cut, "bench": {"rows": found}})


@pytest.mark.parametrize(
    ("rows", "best", "fast", "good"),
    [
        ([("d", 0.5, 10), ("p", 0.495, 6), ("q", 0.492, 4)], "q", True, True),
        ([("d", 0.5, 10), ("p", 0.495, 6), ("q", 0.48, 4)], "p", False, True),
        ([("d", 0.5, 10), ("p", 0.47, 6), ("q", 0.46, 4)], "d", False, False),
    ],
    ids=["all holds", "too slow", "too bad"],
)
def test_the_fastest_that_holds_the_score_is_recommended(
    rows: list[tuple[str, float, float]], best: str, fast: bool, good: bool
) -> None:
    found = conclude(finished(*rows), max_drop=1.0, folder=Path())
    assert (found.best.file, found.fast_enough, found.good_enough) == (best, fast, good)
    assert found.held == (fast and good)
    assert conclusion(found).startswith(f"deploy {best} in onnxruntime")
    assert table(found).count("\n") == 1 + len(rows)


def test_what_was_asked_for_holds_only_of_one_pruned_file() -> None:
    """The dense file is fast elsewhere, a pruned one holds the score: neither is both."""
    rows = [("d", 0.5, 10), ("p", 0.495, 7), ("d", 0.5, 4), ("p", 0.4, 2)]
    found = conclude(finished(*rows), max_drop=1.0, folder=Path())
    assert (found.best.file, found.best.ms) == ("d", 4)
    assert found.good_enough and not found.fast_enough and not found.held
    assert "no pruned file that holds the score comes down to 0.5 of" in conclusion(found)


def test_a_file_far_faster_than_asked_for_is_no_success() -> None:
    """Asked for 0.4, the cut is 7.9 times as fast: far more was cut than had to be."""
    found = conclude(
        finished(("d", 0.5, 10), ("p", 0.495, 10 / 7.9), goal=0.4), max_drop=1.0, folder=Path()
    )
    assert found.fast_enough and not found.held
    assert "more was cut than had to be" in conclusion(found)


def test_a_network_that_int8_alone_makes_fast_is_a_success() -> None:
    journal = finished(("d", 0.5, 10), ("p", 0.495, 2), goal=0.8)
    journal.stages["cut"] = {"goal": 0.8, "tried": []}
    assert conclude(journal, max_drop=1.0, folder=Path()).held


def test_ratios_measured_for_a_busy_machine_count() -> None:
    journal = finished(("d", 0.5, 10), ("p", 0.495, 8), goal=0.5)
    assert not conclude(journal, max_drop=1.0, folder=Path()).held
    journal.stages["bench"]["ratios"] = {"p": {"middle": 0.5, "low": 0.49, "high": 0.51}}
    assert conclude(journal, max_drop=1.0, folder=Path()).held


def test_a_run_of_an_older_version_is_judged_by_its_milliseconds() -> None:
    journal = finished(("d", 0.5, 10), ("p", 0.495, 4.9))
    journal.stages["cut"] = {"goal_ms": 5.0}
    journal.stages["dense"] = {"ms": 10.0}
    assert conclude(journal, max_drop=1.0, folder=Path()).goal == 0.5


DENSE = {"map": 0.5, "ms": 10.0, "file": "d.onnx"}
# What a message says -> the journal's stages.
SPOILT: dict[str, object] = {
    "stages is []; it must be a mapping": [],
    "stages.dense is 3; it must be a mapping": {"dense": 3},
    "stages.dense.ms is 0; it must be a number above 0": {"dense": {**DENSE, "ms": 0}},
    "stages.dense.map is 1.5; it must be a number from 0 to 1": {"dense": {**DENSE, "map": 1.5}},
    "stages.dense.map is True; it must be a number": {"dense": {**DENSE, "map": True}},
    "stages.dense.file is ['d']; it must be text": {"dense": {**DENSE, "file": ["d"]}},
    "stages.cut.goal is 'half'; it must be a number": {"cut": {"goal": "half"}},
    "stages.score.map is missing": {"score": {}},
    "stages.quantize.file is None; it must be text": {"quantize": {"file": None}},
    "stages.bench.rows is []; it must be a list": {"bench": {"rows": []}},
    "stages.bench.rows[0].file is missing": {"bench": {"rows": [{}]}},
    "NaN is not a number": {"dense": {**DENSE, "ms": float("nan")}},
    "nested more than 100": {"dense": json.loads("[" * 101 + "]" * 101)},
}


@pytest.mark.parametrize("message", SPOILT)
def test_a_damaged_journal_is_refused_by_its_key(message: str, tmp_path: Path) -> None:
    path = tmp_path / "auto.json"
    path.write_text(json.dumps({"format": FORMAT, "wish": {}, "stages": SPOILT[message]}))
    with pytest.raises(InputError) as caught:
        read(path)
    assert "auto.json" in str(caught.value)
    assert message in str(caught.value)


def test_a_damaged_journal_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "auto.json").write_text('{"format": "prune-auto/1"')
    with pytest.raises(InputError, match=r"auto\.json:1: broken JSON"):
        read(tmp_path / "auto.json")
    assert main(["auto", "--resume", str(tmp_path)]) == 2
    assert main(["auto", "--resume", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--latency", "fast"], "fast"),
        (["--latency", "0.5", "--activation", "tanhh"], "tanhh"),
        (["--latency", "0.5", "--max-drop", "-1"], "max-drop"),
        ([], "latency"),
        (["--latency", "0.5", "--train", "--epochs 3"], "--epochs cannot be in --train"),
        (["--latency", "0.5", "--train", "--batch-size -4"], "--batch-size is -4"),
        (["--latency", "0.5", "--train", "--teach x"], "unknown argument '--teach'"),
        (["--latency", "0.5", "--train", "'"], '--train "\'": No closing quotation'),
        (["--latency", "0.5", "--depth", "-2"], "'-2' must be a number of blocks, or auto"),
    ],
    ids=lambda value: " ".join(value[2:]) or "nothing" if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    words = ["auto", "--weights", str(tiny.weights(tmp_path)), "--data", str(tiny.data(tmp_path))]
    assert _status([*words, "--project", str(tmp_path / "runs"), *more]) == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert "\n" not in said
    assert not (tmp_path / "runs").exists()


def _status(words: list[str]) -> int | str | None:
    """Return what the process would end with."""
    try:
        return main(words)
    except SystemExit as ended:
        return ended.code


def test_a_stopped_run_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: AutoRun) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_stages", stopped)
    words = ["auto", "--weights", str(tiny.weights(tmp_path)), "--data", str(tiny.data(tmp_path))]
    assert main([*words, "--latency", "0.5", "--project", str(tmp_path / "runs")]) == 130
    folder = tmp_path / "runs" / "exp"
    assert f"prune auto --resume {folder}" in capsys.readouterr().err
    wish = json.loads((folder / "auto.json").read_text())["wish"]
    assert wish["latency"] == 0.5
    assert main(["auto", "--resume", str(folder), "--latency", "0.5"]) == 130
    assert "a resumed run keeps its own --latency\n" in capsys.readouterr().err
