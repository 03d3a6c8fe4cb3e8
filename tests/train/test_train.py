"""Training from end to end on a tiny set: what it learns, keeps, resumes and refuses."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import tiny
from torch import Tensor

from prune import checkpoint
from prune.cli import main
from prune.common import hyperparameters
from prune.common.schema import mapping
from prune.common.size import Size
from prune.evaluate import metrics
from prune.train import checkpointing, distillation, fit
from prune.train.run import Run
from prune.train.run_log import METRICS, Log
from prune.train.settings import Settings

Train = Callable[..., int]

PICTURES = (
    *("train_batch0.jpg", "results.png"),
    *("pr_curve.png", "f1_curve.png", "confusion_matrix.png"),
)

# No augmentation and large steps: for learning six images by heart.
BY_HEART = (
    "lr0: 0.1\nmomentum: 0.9\n"
    "mosaic: 0\ntranslate: 0\nscale: 0\nhsv_h: 0\nhsv_s: 0\nhsv_v: 0\nfliplr: 0\n"
)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Run `prune train` on the tiny set, on the CPU, in this process; returns the exit status.

    Without curves, which take longer than the rest of such a run.
    """
    monkeypatch.setattr(fit, "draw_results", lambda *_: None)
    data = tiny.data(tmp_path)

    def run(*words: object, batch: int = 3) -> int:
        fixed = ("--data", data, "--project", tmp_path / "runs", "--batch", batch, "--workers", 0)
        return main(["train", *map(str, words), *map(str, fixed), "--device", "cpu"])

    return run


def test_six_images_are_learnt_by_heart(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hyp.yaml").write_text(BY_HEART)
    recipe = ("--hyp", tmp_path / "hyp.yaml", "--nominal-batch", 3, "--val-every", 30)
    assert train("--cfg", tiny.cfg(tmp_path), "--img", 64, "--epochs", 60, *recipe) == 0
    told = capsys.readouterr().out
    assert "mAP@.5" in told
    lines = (tmp_path / "runs" / "exp" / "results.csv").read_text().splitlines()
    columns = lines[0].split(",")
    first, halfway, last = (
        dict(zip(columns, lines[i].split(","), strict=True)) for i in (1, 30, 60)
    )
    assert float(last["train_loss"]) < 0.5 * float(first["train_loss"])
    assert float(last["map50"]) > 0.8
    assert re.search(r"^next +prune global .* --macs 0\.5 --data .* --reconstruct ", told, re.M)
    assert float(last["map50"]) >= float(halfway["map50"])
    assert first["map50"] == ""


def test_run_leaves_all_its_files(tmp_path: Path) -> None:
    recipe = ("--img", "64", "--epochs", "2", "--save-period", "2", "--name", "kept")
    where = ("--data", tiny.data(tmp_path), "--project", tmp_path / "runs", "--workers", "0")
    assert main(["train", "--cfg", str(tiny.cfg(tmp_path)), *recipe, *map(str, where)]) == 0
    folder = tmp_path / "runs" / "kept"
    found = {path.stem for path in (folder / "weights").iterdir()}
    assert found == {*checkpointing.BEST, "last", "epoch002"}
    for name in ("opt.yaml", "hyp.yaml", "run.json", "results.csv", *PICTURES):
        assert (folder / name).stat().st_size > 0
    assert list(folder.glob("events.out.tfevents.*"))
    assert not list(folder.rglob(".*"))  # no temporary file stays
    for path in (folder / "weights").iterdir():
        kept = checkpoint.load(path)
        assert kept.training == {}
        assert (kept.names, kept.imgsz) == (list(tiny.NAMES), Size.of(64))
        assert kept.history[-1]["command"] == "train"
        checkpoint.network(kept)


@pytest.mark.parametrize("taught", [False, True], ids=["alone", "with a teacher"])
def test_resumed_run_ends_with_the_same_weights_to_the_bit(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taught: bool
) -> None:
    teacher = ("--teacher", tiny.weights(tmp_path)) if taught else ()
    start = ("--weights", tiny.weights(tmp_path, pruned=taught), "--epochs", 3, *teacher)
    assert train(*start, "--name", "whole") == 0
    tell = Log.epoch

    def stop_after_the_first(log: Log, rows: list[dict[str, float]], epochs: int) -> None:
        tell(log, rows, epochs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Log, "epoch", stop_after_the_first)
        assert train(*start, "--name", "broken") == 130
    last = tmp_path / "runs" / "broken" / "weights" / "last.pt"
    assert set(checkpoint.load(last).training) == set(checkpoint.TRAINING_KEYS)
    assert main(["train", "--resume", str(last)]) == 0
    for name in ("last", "best", "best_p"):
        whole, broken = (
            checkpoint.load(tmp_path / "runs" / run / "weights" / f"{name}.pt")
            for run in ("whole", "broken")
        )
        assert broken.history == whole.history
        assert all(broken.model[key].equal(value) for key, value in whole.model.items())
    lines = (tmp_path / "runs" / "broken" / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3"]


def test_pruned_checkpoint_is_fine_tuned_in_its_own_structure(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tiny.weights(tmp_path, pruned=True)
    assert train("--weights", start, "--pt", "--epochs", 1) == 0
    assert "note:" not in capsys.readouterr().err
    before = checkpoint.load(start)
    after = checkpoint.load(tmp_path / "runs" / "exp" / "weights" / "best.pt")
    assert after.pruned
    assert after.cfg == before.cfg
    assert [entry["command"] for entry in after.history] == ["layers", "train"]
    assert after.history[-1]["parent"] == checkpoint.digest(start)
    kernel = "module_list.0.Conv2d.weight"
    assert not after.model[kernel].equal(before.model[kernel])


def test_kept_weights_tell_the_scores_of_their_own_epoch(train: Train, tmp_path: Path) -> None:
    assert train("--cfg", tiny.cfg(tmp_path), "--epochs", 2) == 0
    folder = tmp_path / "runs" / "exp"
    columns, *lines = (folder / "results.csv").read_text().splitlines()
    rows = [dict(zip(columns.split(","), line.split(","), strict=True)) for line in lines]
    for path in (folder / "weights").iterdir():
        entry = cast("dict[str, Any]", checkpoint.load(path).history[-1])
        row = rows[entry["epoch"] - 1]
        assert set(entry["scores"]) == set(METRICS)
        for name, value in entry["scores"].items():
            assert value == pytest.approx(float(row[name]), abs=1e-4)


def test_a_run_with_a_teacher_says_so_in_its_files(train: Train, tmp_path: Path) -> None:
    teacher, pruned = tiny.weights(tmp_path), tiny.weights(tmp_path, pruned=True)
    assert train("--weights", pruned, "--pt", "--epochs", 2, "--teacher", teacher) == 0
    folder = tmp_path / "runs" / "exp"
    columns, *lines = (folder / "results.csv").read_text().splitlines()
    rows = [dict(zip(columns.split(","), line.split(","), strict=True)) for line in lines]
    assert all(float(row["train_distill"]) > 0 for row in rows)
    entry = checkpoint.load(folder / "weights" / "last.pt").history[-1]
    assert entry["teacher"] == checkpoint.digest(teacher)
    assert train("--weights", pruned, "--pt", "--epochs", 1, "--name", "alone") == 0
    alone = checkpoint.load(tmp_path / "runs" / "alone" / "weights" / "last.pt")
    assert "teacher" not in alone.history[-1]


@pytest.mark.parametrize("what", ["output", "feature", "both"])
def test_features_are_imitated_across_widths(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    teacher, pruned = tiny.weights(tmp_path), tiny.weights(tmp_path, pruned=True)
    words = ("--weights", pruned, "--pt", "--epochs", 2, "--noval", "--teacher", teacher)
    solve, adapters = distillation.fit_adapter, []

    def noting(*level: Tensor, **more: Any) -> Tensor:
        adapters.append(solve(*level, **more))
        return adapters[-1]

    monkeypatch.setattr(distillation, "fit_adapter", noting)
    assert train(*words, "--distill", what) == 0
    # Two heads', anew in each of the two epochs of two batches.
    assert len(adapters) == (0 if what == "output" else 4)
    lines = (tmp_path / "runs" / "exp" / "results.csv").read_text().splitlines()
    row = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    assert float(row["train_distill"]) > 0
    after = checkpoint.load(tmp_path / "runs" / "exp" / "weights" / "last.pt")
    assert after.model.keys() == checkpoint.load(pruned).model.keys()  # no adapter is left in it


def test_distill_needs_a_teacher(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--weights", tiny.weights(tmp_path), "--distill") == 2
    assert "--distill needs a --teacher" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["bn", "group"])
def test_sparse_training_makes_scales_smaller(
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(metrics, "LEARNED", 0.0)  # so strong a penalty leaves nothing in six epochs
    weights = tiny.weights(tmp_path)
    recipe = ("--weights", weights, "--epochs", 6, "--noval", "--nominal-batch", 2)
    assert train(*recipe, "--name", "plain", batch=2) == 0
    said = capsys.readouterr()
    assert "faded" not in said.err
    assert "\nnext          prune global --weights " in said.out
    assert train(*recipe, "--name", "sparse", "--sparsity", f"{kind}:3", batch=2) == 0
    said = capsys.readouterr()
    best = tmp_path / "runs" / "sparse" / "weights" / "best.pt"
    data = tmp_path / "data.yaml"
    cut = f"prune global --weights {best} --macs 0.5 --data {data} --reconstruct --out half.pt"
    assert f"\nnext          {cut}\n" in said.out
    (note,) = (line for line in said.err.splitlines() if "faded" in line)
    assert "the detector itself has a low mAP" in note
    assert f"{cut}; then prune train --weights half.pt --pt --teacher {best} --data" in note
    plain, sparse = (
        checkpoint.load(tmp_path / "runs" / name / "weights" / "last.pt").model
        for name in ("plain", "sparse")
    )
    scales = [name for name in plain if name.endswith("BatchNorm2d.weight")]
    assert sum(sparse[n].abs().sum() for n in scales) < sum(plain[n].abs().sum() for n in scales)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("bn", "write KIND:STRENGTH, e.g. bn:1e-3"),
        ("bn:nan", "sparsity is nan"),
        ("l7:1e-3", "must be one of bn, group"),
        ("bn:much", "is no kind and strength"),
    ],
)
def test_unusable_sparsity_is_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, wish: str, message: str
) -> None:
    try:
        assert train("--weights", tiny.weights(tmp_path), "--sparsity", wish) == 2
    except SystemExit as end:  # argparse found it
        assert end.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("teacher", [False, True], ids=["alone", "with a teacher"])
def test_a_run_that_is_asked_to_stop_goes_on_to_the_same_weights(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    teacher: bool,
) -> None:
    weights = tiny.weights(tmp_path)
    start: tuple[object, ...] = ("--weights", weights, "--epochs", 2, "--nominal-batch", 2)
    start += ("--teacher", weights, "--distill") if teacher else ()
    assert train(*start, "--name", "whole", batch=2) == 0
    step, seen = Log.step, []

    def ask(log: Log, *args: Any) -> None:
        step(log, *args)
        seen.append(args)
        # Within an epoch, again after it was taken up, and when nothing is left to stop.
        if len(seen) in (1, 4, 6):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "step", ask)
        assert train(*start, "--name", "broken", batch=2) == 130
        last = tmp_path / "runs" / "broken" / "weights" / "last.pt"
        assert f"prune train --resume {last}" in capsys.readouterr().err
        assert main(["train", "--resume", str(last)]) == 130
        assert main(["train", "--resume", str(last)]) == 0
    assert len(seen) == 6
    for name in ("last", "best"):
        whole, broken = (
            checkpoint.load(tmp_path / "runs" / run / "weights" / f"{name}.pt")
            for run in ("whole", "broken")
        )
        assert all(broken.model[key].equal(value) for key, value in whole.model.items())


def test_a_run_that_has_saved_nothing_yet_begins_anew(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save", killed)
        assert train("--weights", tiny.weights(tmp_path), "--epochs", 1) == 130
    folder = tmp_path / "runs" / "exp"
    assert main(["train", "--resume", str(folder / "weights" / "last.pt")]) == 0
    assert "begins anew" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["exp"]


def test_a_teacher_with_other_heads_is_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, other = tiny.weights(tmp_path), tmp_path / "other.pt"
    found = checkpoint.load(weights)
    checkpoint.save(replace(found, cfg=found.cfg.replace("40,40", "40,44")), other)
    assert train("--weights", weights, "--epochs", 1, "--teacher", other) == 2
    assert "the teacher's heads have anchors" in capsys.readouterr().err
    checkpoint.save(replace(found, cfg=found.cfg.replace("scale_x_y=2.0", "scale_x_y=1.05")), other)
    assert train("--weights", weights, "--epochs", 1, "--teacher", other) == 2
    assert "the teacher's heads have scale_x_y" in capsys.readouterr().err
    checkpoint.save(replace(found, names=found.names[::-1]), other)
    assert train("--weights", weights, "--epochs", 1, "--teacher", other) == 2
    assert "must number them alike" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_goes_on_with_its_own_teacher_alone(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher = tiny.weights(tmp_path, pruned=True)
    tell = Log.epoch

    def stop(log: Log, rows: list[dict[str, float]], epochs: int) -> None:
        tell(log, rows, epochs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Log, "epoch", stop)
    weights = tiny.weights(tmp_path)
    assert train("--weights", weights, "--epochs", 3, "--teacher", teacher) == 130
    checkpoint.save(replace(checkpoint.load(teacher), history=[]), teacher)
    assert train("--resume", tmp_path / "runs" / "exp" / "weights" / "last.pt") == 2
    assert "is not the teacher that this run began with" in capsys.readouterr().err


def test_weights_of_a_run_are_no_start_of_its_optimiser(train: Train, tmp_path: Path) -> None:
    train("--weights", tiny.weights(tmp_path), "--epochs", 2, "--name", "dense")
    best = tmp_path / "runs" / "dense" / "weights" / "best.pt"
    assert train("--weights", best, "--epochs", 1, "--name", "again") == 0
    lines = (tmp_path / "runs" / "again" / "results.csv").read_text().splitlines()
    assert lines[1].startswith("1,")
    history = checkpoint.load(tmp_path / "runs" / "again" / "weights" / "last.pt").history
    assert [entry["epochs"] for entry in history] == [2, 1]


@pytest.mark.parametrize(
    ("pruned", "words", "note"),
    [
        (True, (), "is pruned; its structure is kept, as with --pt"),
        (False, ("--pt",), "is not pruned"),
        (False, ("--cfg", "tiny20.cfg"), "2 of 7 layers with weights, "),
        (True, ("--pt", "--cfg", "tiny32.cfg"), "is another network than"),
        (False, ("--img", "60"), "image size 60 is raised to 64"),
        (False, ("--sync-bn",), "--sync-bn does nothing in one process"),
    ],
    ids=[
        "pt left out",
        "pt on dense",
        "other cfg",
        "cfg of before a cut",
        "odd size",
        "one process",
    ],
)
def test_what_looks_wrong_but_is_not_fatal_is_noted(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    pruned: bool,
    words: tuple[str, ...],
    note: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for width in (20, 32):
        tiny.cfg(tmp_path, width=width)
    start = tiny.weights(tmp_path, pruned=pruned)
    assert train("--weights", start, "--epochs", 1, *words) == 0
    captured = capsys.readouterr()
    assert captured.err.count("note:") == 1
    assert note in captured.err


def test_same_cfg_beside_the_weights_is_no_news(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--cfg", tiny.cfg(tmp_path), "--epochs", 1, "--noval")
    assert train("--weights", tiny.weights(tmp_path), *words) == 0
    assert "note:" not in capsys.readouterr().err


@pytest.fixture
def any_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take learning rates and gains that no run should have."""
    monkeypatch.setattr(hyperparameters, "_FILE", mapping({}))


@pytest.mark.usefixtures("any_rate")
def test_loss_that_is_not_finite_stops_with_the_images(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hyp.yaml").write_text("lr0: 1e30\nwarmup_epochs: 0\nclip: 0\n")
    recipe = ("--hyp", tmp_path / "hyp.yaml", "--nominal-batch", 2, "--epochs", 2)
    assert train("--weights", tiny.weights(tmp_path), *recipe, batch=2) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("prune: the loss is ")
    assert "images/train/" in errors[-1]
    assert not list((tmp_path / "runs" / "exp" / "weights").iterdir())


@pytest.mark.usefixtures("any_rate")
def test_weights_that_are_not_finite_are_not_kept(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hyp.yaml").write_text("lr0: 1e38\nobj: 1e10\nwarmup_epochs: 0\nclip: 0\n")
    recipe = ("--hyp", tmp_path / "hyp.yaml", "--epochs", 2)  # the only update ends the epoch
    assert train("--weights", tiny.weights(tmp_path), *recipe) == 1
    assert "weights are no longer finite after epoch 1" in capsys.readouterr().err
    assert not list((tmp_path / "runs" / "exp" / "weights").iterdir())


@pytest.mark.parametrize("more", [(), ("--pt",), ("--sparsity", "bn:1e-4")], ids=str)
def test_network_that_has_not_learned_is_sent_back_to_training(
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
) -> None:
    """Whatever would come next else. On six images even fresh weights have mAP@.5 0.2, by luck."""
    monkeypatch.setattr(metrics, "LEARNED", 0.9)
    assert train("--weights", tiny.weights(tmp_path), "--epochs", 1, *more) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^next +prune train --weights .*best\.pt.* --epochs 3$", out, re.M)
    assert "the network has not learned yet" in err
    assert "prune global" not in out + err and "prune export" not in out + err


def test_json_is_all_there_is_on_stdout(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--weights", tiny.weights(tmp_path), "--epochs", 1, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["epochs"], result["best_epoch"]) == (1, 1)
    assert Path(result["best"]).is_file()
    assert 0 <= result["map"] <= result["map50"] <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to train; give --weights"),
        (("--weights", "none.pt"), "cannot read none.pt"),
        (("--cfg", "none.cfg"), "cannot read none.cfg"),
        (("--cfg", "grey.cfg"), "grey.cfg, line 1, [net] channels: is 1; images are RGB"),
        (("--weights", "dense.pt", "--data", "none.yaml"), "none.yaml"),
        (("--weights", "dense.pt", "--keep-classes", "--data", "three.yaml"), "--keep-classes: "),
        (("--cfg", "grey.cfg", "--keep-classes"), "--keep-classes needs --weights"),
        (("--weights", "dense.pt", "--hyp", "typo.yaml"), "'lr' is an unknown key"),
        (("--weights", "dense.pt", "--epochs", "0"), "--epochs is 0; it must be 1 or more"),
        (("--weights", "dense.pt", "--epochs", "9" * 20), "it must be 1,000,000 or less"),
        (
            ("--weights", "dense.pt", "--nominal-batch", "9" * 400),
            "it must be 1,000,000,000 or less",
        ),
        (("--weights", "dense.pt", "--batch-size", "0"), "--batch-size is 0"),
        (("--weights", "dense.pt", "--val-every", "-1"), "--val-every is -1; it must be 0 or more"),
        (("--weights", "dense.pt", "--prune-every", "2"), "--prune-every needs --prune-to"),
        (("--weights", "dense.pt", "--multi-scale", "--img-size", "16"), "--multi-scale has one"),
        (("--weights", "dense.pt", "--prune-criterion", "l1"), "--prune-criterion needs --prune"),
        (("--weights", "dense.pt", "--device", "99"), "device is '99'"),
        (("--resume", "none.pt"), "cannot resume none.pt"),
        (("--resume",), "no run to resume"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else "",
)
def test_wrong_input_is_one_line_and_nothing_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.data(tmp_path)
    tiny.weights(tmp_path)
    splits = "train: images/train\nval: images/val\n"
    (tmp_path / "three.yaml").write_text(f"{splits}names: [a, b, c]\n")
    (tmp_path / "typo.yaml").write_text("lr: 0.1\n")
    grey = tiny.CFG.format(width=8).replace("channels=3", "channels=1")
    (tmp_path / "grey.cfg").write_text(grey)
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", "--data", "data.yaml", "--workers", "0", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prune: ")
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


def test_batch_size_is_a_number_or_auto(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--batch-size", "foo"])
    assert "'foo' must be a number or auto" in capsys.readouterr().err


def test_data_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--weights", "any.pt"]) == 2
    assert "give --data" in capsys.readouterr().err


@pytest.mark.parametrize(("val_every", "scored"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (0, [4])])
def test_epochs_that_are_scored(val_every: int, scored: list[int]) -> None:
    settings = Settings(epochs=5, imgsz=Size.of(64), val_every=val_every)
    assert [epoch for epoch in range(5) if settings.evaluates(epoch)] == scored


def test_records_are_strictly_better_than_all_before() -> None:
    figures = ("precision", "recall", "map50", "map", "f1")
    rows = [dict.fromkeys(figures, 0.5), {}, {**dict.fromkeys(figures, 0.5), "recall": 0.6}]
    assert checkpointing.improved_measures(rows[:1]) == list(checkpointing.BEST)
    assert checkpointing.improved_measures(rows[:2]) == []
    assert checkpointing.improved_measures(rows) == ["best_r"]


@pytest.mark.parametrize(
    ("batch", "nominal", "updates"),
    [(2, 64, 1), (2, 6, 1), (2, 4, 2), (2, 2, 3), (6, 2, 1)],
    ids=["set below nominal", "all", "a rest is used too", "none gathered", "batch above nominal"],
)
def test_updates_of_an_epoch_of_six_images(
    train: Train, tmp_path: Path, *, batch: int, nominal: int, updates: int
) -> None:
    (tmp_path / "hyp.yaml").write_text("warmup_epochs: 0\n")
    seen: list[int] = []

    def keep_count(run: Run, *_: object, **__: object) -> None:
        seen.append(run.ema.updates)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointing, "save", keep_count)
        recipe = ("--hyp", tmp_path / "hyp.yaml", "--nominal-batch", nominal, "--val-every", 9)
        assert train("--weights", tiny.weights(tmp_path), *recipe, batch=batch) == 130
    assert seen == [updates]
