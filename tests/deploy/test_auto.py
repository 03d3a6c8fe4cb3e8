"""prune auto: stages in order, each once, cuts until the clock agrees, a verdict that is earned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from prune import checkpoint
from prune.auto import pipeline as roads
from prune.auto.journal import FORMAT, Journal, read
from prune.auto.pipeline import AutoConfig, AutoRun, run_stages
from prune.auto.result import conclusion, table, verdict
from prune.cli import main
from prune.common.size import Size
from prune.errors import InputError, OffTargetError, StageError
from prune.runtimes.compare import Compared
from prune.runtimes.timing import Ratio

DENSE_MS = 10.0


def wish_of(folder: Path, **changes: object) -> AutoConfig:
    wish = AutoConfig(
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
    return replace(wish, **changes)  # type: ignore[arg-type]  # fields of AutoConfig


class Commands:
    """Commands that answer at once, and write down what they were asked."""

    def __init__(
        self, *, uncut: float = 0.8, off: float = 1.0, failing: str = "", tuned: float = 0.5
    ) -> None:
        self.said: list[list[str]] = []
        self.uncut, self.off, self.failing, self.tuned = uncut, off, failing, tuned

    def __call__(self, *words: object, **_: object) -> dict[str, object]:
        """Answer a command."""
        said = [str(word) for word in words]
        if said[0] == self.failing:
            raise StageError(f"prune {said[0]} could not do it", 1)
        self.said.append(said)
        return getattr(self, f"_{said[0]}")(said)  # type: ignore[no-any-return]  # below

    def _val(self, said: list[str]) -> dict[str, object]:
        weights = Path(said[said.index("--weights") + 1])
        return {"map50": 0.8, "map": self.tuned if weights.name == "pruned.pt" else 0.5}

    def _export(self, said: list[str]) -> dict[str, object]:
        return {"max_rel_diff": 1e-6, "bytes": 1000}

    def _global(self, said: list[str]) -> dict[str, object]:
        Path(said[said.index("--out") + 1]).write_bytes(b"cut")
        return {key: {} for key in ("params", "macs", "latency", "recovery")} | {"blocks": [1, 2]}

    def _train(self, said: list[str]) -> dict[str, object]:
        if "--resume" in said:
            weights = Path(said[said.index("--resume") + 1]).parent
        else:
            weights = Path(said[said.index("--project") + 1]) / "train" / "weights"
            weights.mkdir(parents=True)
        for name in ("best", "last"):  # as a training leaves them that came to its end
            (weights / f"{name}.pt").write_bytes(tiny.weights(weights).read_bytes())
        return {"epochs": 1, "best_epoch": 1}

    def _quantize(self, said: list[str]) -> dict[str, object]:
        return {"out": said[said.index("--out") + 1]}

    def _bench(self, said: list[str]) -> dict[str, object]:
        return {"rows": []}

    def deployed(self, _: AutoRun, weights: Path) -> Compared:
        """Time a cut: it takes what was asked for, times `off`; the uncut network takes `uncut`."""
        asked = [_share(said) * self.off for said in self.of("global")]
        ratio = asked[-1] if weights.name == "cut.pt" else self.uncut
        return Compared(DENSE_MS, ratio * DENSE_MS, Ratio(ratio, 0.99 * ratio, 1.01 * ratio))

    def of(self, name: str) -> list[list[str]]:
        """List what one command was asked."""
        return [said for said in self.said if said[0] == name]


def _share(said: list[str]) -> float:
    return float(said[said.index("--latency") + 1])


def begun(
    folder: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> AutoRun:
    monkeypatch.setattr(roads, "prune", commands)
    monkeypatch.setattr(roads, "latencies_ms", lambda files, **_: {files[0]: DENSE_MS})
    monkeypatch.setattr(roads, "_deployed", commands.deployed)
    monkeypatch.setattr(roads, "_compared", commands.deployed)
    journal = Journal(folder / "auto.json", {}, {})
    return AutoRun(wish_of(folder, **changes), folder, journal, lambda _: None)


def test_the_cut_is_asked_for_as_a_ratio_in_the_form_that_is_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(off=1.02)
    road = begun(tmp_path, commands, monkeypatch)
    run_stages(road)
    (said,) = commands.of("global")
    assert _share(said) == 0.5
    assert "--int8" in said and said[said.index("--activation") + 1] == "relu"
    assert "--reconstruct" in said and said[said.index("--depth") + 1] == "auto"
    stage = road.journal.stages["cut"]
    assert stage["tried"] == [{"asked": 0.5, "ratio": pytest.approx(0.51)}]
    assert (stage["goal"], stage["uncut"]) == (0.5, 0.8)


@pytest.mark.parametrize("off", [1 / 7.9, 0.6, 1.6], ids=["far too deep", "too deep", "too slow"])
def test_a_cut_that_the_clock_does_not_confirm_is_not_trained(
    off: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(off=off)
    said: list[str] = []
    road = replace(begun(tmp_path, commands, monkeypatch), say=said.append)
    with pytest.raises(OffTargetError, match="nothing is trained"):
        run_stages(road)
    assert len(commands.of("global")) == roads.TRIES
    assert not commands.of("train")
    assert "cut" not in road.journal.stages, "resumed, it is cut anew"
    assert sum("too far from the goal" in line for line in said) == roads.TRIES


def test_a_cut_that_the_clock_confirms_the_second_time_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Settling(Commands):
        def _global(self, said: list[str]) -> dict[str, object]:
            self.off = 1.0 if self.of("global")[1:] else 0.2
            return super()._global(said)

    commands = Settling()
    road = begun(tmp_path, commands, monkeypatch)
    run_stages(road)
    tried = road.journal.stages["cut"]["tried"]
    assert tried == [{"asked": 0.5, "ratio": 0.1}, {"asked": 0.5, "ratio": 0.5}]
    assert commands.of("train")


@pytest.mark.parametrize(
    ("wish", "uncut", "asked"),
    [
        ({"latency": 4.0, "is_share": False}, 0.8, 0.4),
        ({"latency": 12.0, "is_share": False}, 1.5, 0.97),
        ({"latency": 0.75}, 0.774, 0.75),
    ],
    ids=["milliseconds", "a form slower than the dense network", "nearly fast enough"],
)
def test_goals_become_a_ratio_below_what_the_uncut_network_takes(
    wish: dict[str, object],
    uncut: float,
    asked: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = Commands(uncut=uncut)
    run_stages(begun(tmp_path, commands, monkeypatch, **wish))
    assert _share(commands.of("global")[0]) == pytest.approx(asked, abs=1e-3)


def test_stages_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    road = replace(begun(tmp_path, Commands(), monkeypatch), say=said.append)
    run_stages(road)
    assert [line for line in said if line.startswith("stage")] == [
        f"stage {i} of 7: {name}" for i, name in enumerate(roads.STAGES, start=1)
    ]
    run_stages(road)
    assert said[-1] == "stage 7 of 7: bench was done before"


def test_what_is_fast_enough_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    run_stages(begun(tmp_path, commands, monkeypatch, latency=0.9))
    assert not commands.of("global")
    assert (tmp_path / "cut.pt").is_file()


def test_a_run_that_failed_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(failing="train")
    road = begun(tmp_path, commands, monkeypatch)
    with pytest.raises(StageError):
        run_stages(road)
    again = replace(road, journal=read(road.journal.path))
    assert list(again.journal.stages) == ["dense", "cut"]
    before = len(commands.of("global"))
    commands.failing = ""
    run_stages(again)
    assert list(again.journal.stages) == list(roads.STAGES)
    assert len(commands.of("global")) == before
    (trained,) = commands.of("train")
    assert trained[trained.index("--activation") + 1] == "relu"


def test_a_training_that_was_broken_off_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands()
    road = begun(tmp_path, commands, monkeypatch)
    last = tmp_path / "train" / "weights" / "last.pt"
    last.parent.mkdir(parents=True)
    broken_off = checkpoint.load(tiny.weights(last.parent))
    checkpoint.save(replace(broken_off, training={"epoch": 3}), last)
    run_stages(road)
    assert commands.of("train") == [["train", "--resume", str(last)]]
    assert checkpoint.load(tmp_path / "pruned.pt").model
    assert list(road.journal.stages) == list(roads.STAGES)


def test_a_stop_while_it_is_scored_does_not_train_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Commands):
        def _val(self, said: list[str]) -> dict[str, object]:
            if self.of("train"):
                raise KeyboardInterrupt
            return super()._val(said)

    road = begun(tmp_path, Stopped(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_stages(road)
    commands = Commands(tuned=0.495)
    monkeypatch.setattr(roads, "prune", commands)
    again = replace(road, journal=read(road.journal.path))
    run_stages(again)
    assert not commands.of("train")
    assert again.fact("score", "map") == 0.495


def test_without_int8_nothing_is_quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    run_stages(begun(tmp_path, commands, monkeypatch, int8=False))
    assert not commands.of("quantize")
    (said,) = commands.of("bench")
    files = [str(tmp_path / name) for name in ("dense.onnx", "pruned.onnx")]
    assert said[1 : said.index("--data")] == files


@pytest.mark.parametrize(
    ("tuned", "drop"), [(0.496, 0.6), (0.47, roads.INT8_DROP)], ids=["some is left", "none is"]
)
def test_int8_may_take_what_the_fine_tuned_network_has_left(
    tuned: float, drop: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(tuned=tuned)
    run_stages(begun(tmp_path, commands, monkeypatch, max_drop=1.0))
    (said,) = commands.of("quantize")
    assert float(said[said.index("--max-drop") + 1]) == pytest.approx(drop)


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
    found = verdict(finished(*rows), max_drop=1.0)
    assert (found.best.file, found.fast_enough, found.good_enough) == (best, fast, good)
    assert found.held == (fast and good)
    assert conclusion(found).startswith(f"deploy {best} in onnxruntime")
    assert table(found).count("\n") == 1 + len(rows)


def test_what_was_asked_for_holds_only_of_one_pruned_file() -> None:
    """The dense file is fast elsewhere, a pruned one holds the score: neither is both."""
    rows = [("d", 0.5, 10), ("p", 0.495, 7), ("d", 0.5, 4), ("p", 0.4, 2)]
    found = verdict(finished(*rows), max_drop=1.0)
    assert (found.best.file, found.best.ms) == ("d", 4)
    assert found.good_enough and not found.fast_enough and not found.held
    assert "no pruned file that holds the score comes down to 0.5 of" in conclusion(found)


def test_a_file_far_faster_than_asked_for_is_no_success() -> None:
    """Asked for 0.4, the cut is 7.9 times as fast: far more was cut than had to be."""
    found = verdict(finished(("d", 0.5, 10), ("p", 0.495, 10 / 7.9), goal=0.4), max_drop=1.0)
    assert found.fast_enough and not found.held
    assert "more was cut than had to be" in conclusion(found)


def test_a_network_that_int8_alone_makes_fast_is_a_success() -> None:
    journal = finished(("d", 0.5, 10), ("p", 0.495, 2), goal=0.8)
    journal.stages["cut"] = {"goal": 0.8, "tried": []}
    assert verdict(journal, max_drop=1.0).held


def test_ratios_measured_for_a_busy_machine_count() -> None:
    journal = finished(("d", 0.5, 10), ("p", 0.495, 8), goal=0.5)
    assert not verdict(journal, max_drop=1.0).held
    journal.stages["bench"]["ratios"] = {"p": {"middle": 0.5, "low": 0.49, "high": 0.51}}
    assert verdict(journal, max_drop=1.0).held


def test_a_run_of_an_older_version_is_judged_by_its_milliseconds() -> None:
    journal = finished(("d", 0.5, 10), ("p", 0.495, 4.9))
    journal.stages["cut"] = {"goal_ms": 5.0}
    journal.stages["dense"] = {"ms": 10.0}
    assert verdict(journal, max_drop=1.0).goal == 0.5


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
        (["--latency", "0.5", "--train", "--epochs 3"], "--epochs is no word for --train"),
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

    monkeypatch.setattr(roads, "run_stages", stopped)
    words = ["auto", "--weights", str(tiny.weights(tmp_path)), "--data", str(tiny.data(tmp_path))]
    assert main([*words, "--latency", "0.5", "--project", str(tmp_path / "runs")]) == 130
    folder = tmp_path / "runs" / "exp"
    assert f"prune auto --resume {folder}" in capsys.readouterr().err
    wish = json.loads((folder / "auto.json").read_text())["wish"]
    assert wish["latency"] == 0.5
    assert main(["auto", "--resume", str(folder), "--latency", "0.5"]) == 130
    assert "a resumed run keeps its own --latency\n" in capsys.readouterr().err
