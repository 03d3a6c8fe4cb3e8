"""prune auto: stages in order, each once, cuts until the clock agrees, a verdict that is earned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from prune import checkpoint
from prune.auto import road as roads
from prune.auto.journal import Journal, read
from prune.auto.road import Road, Wish, walk
from prune.auto.verdict import conclusion, table, verdict
from prune.cli import main
from prune.errors import InputError, StageError
from prune.size import Size

DENSE_MS = 10.0


def wish_of(folder: Path, **changes: object) -> Wish:
    wish = Wish(
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
    return replace(wish, **changes)  # type: ignore[arg-type]  # fields of a Wish


class Commands:
    """Commands that answer at once, and write down what they were asked."""

    def __init__(
        self, *, faster: float = 0.8, least: float = 0.0, failing: str = "", tuned: float = 0.5
    ) -> None:
        self.said: list[list[str]] = []
        self.faster, self.least, self.failing, self.tuned = faster, least, failing, tuned
        self.asked = DENSE_MS

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
        self.asked = DENSE_MS * float(said[said.index("--latency") + 1])
        if not self.least <= self.asked < self.faster * DENSE_MS:
            self.said.pop()
            raise StageError("nothing to remove, or out of reach", 2)
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

    def deployed_ms(self, *_: object) -> float:
        """Take a fifth less than was asked for, as long as the cut is not deep."""
        return self.faster * self.asked + 0.05 * (DENSE_MS - self.asked)

    def of(self, name: str) -> list[list[str]]:
        """List what one command was asked."""
        return [said for said in self.said if said[0] == name]


def _share(said: list[str]) -> float:
    return float(said[said.index("--latency") + 1])


def begun(
    folder: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> Road:
    monkeypatch.setattr(roads, "prune", commands)
    monkeypatch.setattr(roads, "_ms", lambda *_: DENSE_MS)
    monkeypatch.setattr(roads, "_deployed_ms", commands.deployed_ms)
    journal = Journal(folder / "auto.json", {}, {})
    return Road(wish_of(folder, **changes), folder, journal, lambda _: None)


def test_cuts_go_on_until_the_deployed_form_is_fast_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands()
    road = begun(tmp_path, commands, monkeypatch)
    walk(road)
    tried = road.journal.stages["cut"]["tried"]
    assert isinstance(tried, list)
    assert tried[0] == {"asked_ms": DENSE_MS, "came_ms": 8.0}
    assert tried[1]["asked_ms"] == 5, "the goal itself: the cut knows the form"
    assert tried[-1]["came_ms"] == pytest.approx(5, rel=roads.NEAR)
    for said in commands.of("global"):
        assert "--int8" in said and said[said.index("--activation") + 1] == "relu"
    last = commands.of("global")[-1]
    assert "--reconstruct" in last
    depths = [said[said.index("--depth") + 1] for said in commands.of("global")]
    assert set(depths[1:]) == {"2"}, "the number of blocks is chosen once"
    assert depths[0] == "auto"
    assert "--reconstruct" in commands.of("global")[0], "what may leave shows after recovery"
    assert all("--reconstruct" not in said for said in commands.of("global")[1:-1])


def test_a_cut_that_came_at_once_is_the_last_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands()
    road = begun(tmp_path, commands, monkeypatch)
    starting = iter([8.0])
    monkeypatch.setattr(roads, "_deployed_ms", lambda *_: next(starting, commands.asked))
    walk(road)
    first, final = commands.of("global")
    assert _share(first) == _share(final)
    assert final[final.index("--depth") + 1] == "2"
    assert "--reconstruct" in final


def test_no_more_is_asked_for_than_the_uncut_network_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cut comes out too fast, and a milder one is none."""
    commands = Commands()
    road = begun(tmp_path, commands, monkeypatch, latency=0.75)
    walk(road)
    asked = [_share(said) for said in commands.of("global")]
    assert asked == pytest.approx([0.75, 0.776, 0.776]), "two tries, and the final cut"
    assert list(road.journal.stages) == list(roads.STAGES)


def test_where_no_cut_is_deeper_the_last_one_has_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cuts come out slower than they were asked to be, and those below 4.9 ms cannot be made."""
    commands = Commands(faster=1.0, least=4.9)
    road = begun(tmp_path, commands, monkeypatch)
    walk(road)
    asked = [_share(said) for said in commands.of("global")]
    assert asked == pytest.approx([0.5, 0.5]), "one in between was refused"
    assert "--reconstruct" in commands.of("global")[-1]
    assert list(road.journal.stages) == list(roads.STAGES)


class Stubborn(Commands):
    """Cuts hardly become faster, whatever they are asked for."""

    def deployed_ms(self, *_: object) -> float:
        """Take by its fifth root what was asked for: 5 ms where it was 2.5."""
        return 10.0 if self.asked == DENSE_MS else 5 * (self.asked / 2.5) ** 0.2


@pytest.mark.parametrize("least", [0.0, 3.2], ids=["any cut can be made", "no deeper one"])
def test_of_cuts_that_all_miss_the_nearest_is_made(
    least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five tries the goal is not reached, and a sixth share has not been tried."""
    commands = Stubborn(faster=1.0, least=least)
    road = begun(tmp_path, commands, monkeypatch)
    walk(road)
    *tries, final = commands.of("global")
    assert len(tries) == roads.TRIES
    assert _share(final) == min(map(_share, tries)), "all are too slow"
    assert "--reconstruct" in final
    tried = road.journal.stages["cut"]["tried"]
    assert isinstance(tried, list)
    asked = [DENSE_MS * _share(said) for said in tries]
    assert [one["asked_ms"] for one in tried[1:]] == pytest.approx(asked, abs=1e-3)


def test_a_cut_that_is_fast_enough_is_nearer_than_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(faster=1.0)
    road = begun(tmp_path, commands, monkeypatch)
    came = iter([10.0, 5.3, 4.6, 5.2, 4.5, 5.25])
    monkeypatch.setattr(roads, "_deployed_ms", lambda *_: next(came))
    walk(road)
    *tries, final = commands.of("global")
    assert _share(final) == _share(tries[1])


def test_milliseconds_of_a_form_slower_than_the_dense_network_are_asked_for_as_a_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(faster=1.0)
    road = begun(tmp_path, commands, monkeypatch, latency=12.0, is_share=False)
    came = iter([15.0])
    monkeypatch.setattr(roads, "_deployed_ms", lambda *_: next(came, 1.5 * commands.asked))
    walk(road)
    shares = [_share(said) for said in commands.of("global")]
    assert 0 < min(shares) <= max(shares) < 1


def test_what_is_fast_enough_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    walk(begun(tmp_path, commands, monkeypatch, latency=0.9))
    assert not commands.of("global")
    assert (tmp_path / "cut.pt").is_file()


def test_a_run_that_failed_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(failing="train")
    road = begun(tmp_path, commands, monkeypatch)
    with pytest.raises(StageError):
        walk(road)
    again = replace(road, journal=read(road.journal.path))
    assert list(again.journal.stages) == ["dense", "cut"]
    before = len(commands.of("global"))
    commands.failing = ""
    walk(again)
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
    walk(road)
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
        walk(road)
    commands = Commands(tuned=0.495)
    monkeypatch.setattr(roads, "prune", commands)
    again = replace(road, journal=read(road.journal.path))
    walk(again)
    assert not commands.of("train")
    assert again.fact("score", "map") == 0.495


def test_without_int8_nothing_is_quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    walk(begun(tmp_path, commands, monkeypatch, int8=False))
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
    walk(begun(tmp_path, commands, monkeypatch, max_drop=1.0))
    (said,) = commands.of("quantize")
    assert float(said[said.index("--max-drop") + 1]) == pytest.approx(drop)


def finished(*rows: tuple[str, float, float], goal: float = 5.0) -> Journal:
    """Make a journal whose bench found these: file, mAP, ms."""
    found: list[Mapping[str, object]] = [
        {
            "file": file,
            "runtime": "onnxruntime",
            "precision": "float32",
            "map": map_,
            "median_ms": ms,
            "bytes": 1,
        }
        for file, map_, ms in rows
    ]
    return Journal(Path("auto.json"), {}, {"cut": {"goal_ms": goal}, "bench": {"rows": found}})


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
    assert "no pruned file that holds the score comes down to the 5.00 ms" in conclusion(found)


def test_a_damaged_journal_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "auto.json").write_text('{"format": "prune-auto/1"')
    with pytest.raises(InputError, match="damaged"):
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
    def stopped(_: Road) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(roads, "walk", stopped)
    words = ["auto", "--weights", str(tiny.weights(tmp_path)), "--data", str(tiny.data(tmp_path))]
    assert main([*words, "--latency", "0.5", "--project", str(tmp_path / "runs")]) == 130
    folder = tmp_path / "runs" / "exp"
    assert f"prune auto --resume {folder}" in capsys.readouterr().err
    wish = json.loads((folder / "auto.json").read_text())["wish"]
    assert wish["latency"] == 0.5
    assert main(["auto", "--resume", str(folder), "--latency", "0.5"]) == 130
    assert "a resumed run keeps its own --latency\n" in capsys.readouterr().err
