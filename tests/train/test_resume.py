"""Which run --resume takes up, with what of its options, and what it refuses to go on with."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import tiny
import torch
import yaml

from prune import checkpoint
from prune.cli import main
from prune.common.hyperparameters import SCRATCH
from prune.common.size import Size
from prune.models.darknet import build
from prune.train import checkpointing, fit, run, setup
from prune.train.config import TrainConfig
from prune.train.resume import restore
from prune.train.run_log import Log
from prune.train.settings import Settings

Train = Callable[..., int]
WEIGHTS = Path("runs/exp/weights")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Run `prune train` for two epochs in a folder of its own, without curves."""
    monkeypatch.setattr(fit, "draw_results", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    tiny.data(tmp_path / "squares")
    tiny.weights(tmp_path)
    fixed = ("--data", "squares/data.yaml", "--weights", "dense.pt", "--epochs", "2")

    def start(*words: str) -> int:
        return main(["train", *fixed, "--workers", "0", "--project", "runs", *words])

    return start


@pytest.fixture
def broken(train: Train) -> Path:
    """A run that was broken off after its first epoch; its last.pt."""
    return _broken(train, "exp")


def _broken(train: Train, name: str) -> Path:
    tell = Log.epoch

    def stop(log: Log, rows: list[dict[str, float]], epochs: int) -> None:
        tell(log, rows, epochs)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "epoch", stop)
        assert train("--name", name) == 130
    return Path("runs") / name / "weights" / "last.pt"


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def _times() -> dict[Path, int]:
    """Tell when each file of the runs was written last; a folder's lock comes and goes."""
    return {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*") if path.is_file()}


def _refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Resume a run in vain; return the one line that is printed."""
    before = _times()
    capsys.readouterr()
    assert main(["train", "--resume", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert _times() == before
    return line


def _epochs(folder: Path) -> list[str]:
    return [line.split(",")[0] for line in (folder / "results.csv").read_text().splitlines()[1:]]


@pytest.mark.parametrize(
    ("name", "why"),
    [("lats.pt", "there is no such file or folder"), ("best.pt", "resume takes a run's last.pt")],
)
def test_only_last_is_taken_up(
    broken: Path, capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    line = _refusal(capsys, str(broken.with_name(name)))
    assert line.startswith(f"prune: cannot resume {broken.with_name(name)}: {why}, and ")
    assert "contains best.pt, best_ap.pt" in line


def test_a_run_whose_last_is_gone_is_not_begun_anew_over_its_best(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken.unlink()
    assert "contains best.pt" in _refusal(capsys, str(broken))


@pytest.mark.parametrize("left", ["best.pt", "epoch001.pt", ".last-part-abcdefgh.pt"])
def test_a_run_killed_amid_its_first_save_begins_anew(
    broken: Path, capsys: pytest.CaptureFixture[str], left: str
) -> None:
    for path in (*broken.parent.iterdir(), Path("runs/exp/results.csv")):
        path.unlink()  # as they are before last.pt: a kill of that moment cannot be hit at will
    broken.with_name(left).write_bytes(b"half a file, or a whole one: it is not read")
    assert main(["train", "--resume", str(broken)]) == 0
    assert "has no weights yet; the run begins anew" in capsys.readouterr().err
    assert len(Path("runs/exp/results.csv").read_text().splitlines()) == 3
    assert not broken.with_name(".last-part-abcdefgh.pt").exists()


@pytest.mark.parametrize(
    ("inside", "named"),
    [
        (".", "runs/exp"),
        (".", "runs/exp/weights"),
        (".", "runs/exp/weights/last.pt"),
        ("runs/exp", "."),
        ("runs/exp/weights", "."),
        ("runs/exp/weights", "last.pt"),
        ("runs/exp/weights", ".."),
        ("runs", "exp"),
    ],
)
def test_a_run_is_named_by_its_folder_or_file_from_anywhere(
    broken: Path, monkeypatch: pytest.MonkeyPatch, inside: str, named: str
) -> None:
    folder = broken.parent.parent.absolute()
    monkeypatch.chdir(inside)
    assert main(["train", "--resume", named]) == 0
    assert _epochs(folder) == ["1", "2"]


def test_newest_unfinished_run_is_resumed_when_none_is_named(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("oldest", "older"):
        _broken(train, name)
    assert train("--name", "done") == 0
    foreign = Path("runs/foreign/weights/last.pt")
    foreign.parent.mkdir(parents=True)
    foreign.write_text("of another program")
    for at, name in enumerate(("oldest", "older", "done", "foreign")):
        os.utime(Path("runs") / name / "weights" / "last.pt", (at, at))
    capsys.readouterr()
    assert main(["train", "--resume", "--project", "runs"]) == 0
    said = capsys.readouterr().err
    assert "files in runs/older" in said
    assert "note: passed over: runs/foreign/weights/last.pt is not a checkpoint" in said
    assert "keeps its own" not in said
    assert _epochs(Path("runs/older")) == ["1", "2"]


def test_finished_runs_are_not_resumed(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == 0
    assert f"{WEIGHTS / 'last.pt'} is finished" in _refusal(capsys, str(WEIGHTS))
    line = _refusal(capsys, "--project", "runs")
    assert "every run in runs is finished; to train on, start from --weights" in line


def test_what_a_resumed_run_keeps_is_named_as_typed(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--batch-size", "2", "--epochs", "100", "--project=x")  # 100 is what is meant unsaid
    assert main(["train", "--resume", str(broken), *words]) == 0
    assert (
        "a resumed run keeps its own --batch-size, --epochs, --project" in capsys.readouterr().err
    )


def test_loaders_may_be_said_anew_even_as_many_as_are_meant_unsaid(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant = []

    def stop(config: TrainConfig, **_: object) -> None:
        meant.append(config.workers)
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "prepare", stop)
    assert main(["train", "--resume", str(broken)]) == 130
    assert main(["train", "--resume", str(broken), "--workers", "2"]) == 130
    assert meant == [0, 2]


def test_images_of_an_earlier_run_do_not_stay_in_its_folder(train: Train) -> None:
    drawn = [Path("runs/exp") / name for name in ("results.png", "pr_curve.png", "profile.txt")]
    own = Path("runs/exp/notes.txt")
    assert train() == 0
    for path in (*drawn, own):
        path.write_text("of the first run")
    assert train("--exist-ok", "--no-plots") == 0
    assert own.exists() and not any(path.exists() for path in drawn)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "opt.yaml:1: broken YAML: expected the node content"),
        (b"\xff\xfe\xfa", "opt.yaml: it is UTF-16 text; save it as UTF-8"),
        (b"", "opt.yaml contains no options"),
        (b"log: evil", "opt.yaml: log is 'evil'; it must be wandb or mlflow, as --log takes it"),
        (b"data: [1]", "opt.yaml: data is [1]; it must be one word or number"),
    ],
    ids=["no yaml", "no text", "empty", "log", "data"],
)
def test_broken_options_are_told_and_nothing_is_imported(
    broken: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    Path("evil.py").write_text("open('marker', 'w')")
    (broken.parent.parent / "opt.yaml").write_bytes(content)
    assert message in _refusal(capsys, str(broken))
    assert not Path("marker").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lr_factor: ['1']", "factor is '1'"),
        ("prune_to: x", "--prune-to is 'x'"),
        ("freeze: ['99999']", "layers 99999"),
        ("nominal_batch: 0", "--nominal-batch is 0; it must be 1 or more"),
        ("workers: -1", "workers is -1; it must be at least 0"),
        ("device: x", "device is 'x'; it must be cpu or one GPU's number"),
        ("log: wandb", "--log wandb needs a package"),
    ],
)
def test_an_option_that_the_network_refuses_names_the_file_it_was_read_from(
    broken: Path, capsys: pytest.CaptureFixture[str], *, line: str, message: str
) -> None:
    options = broken.parent.parent / "opt.yaml"
    key = line.partition(":")[0]
    kept = [old for old in options.read_text().splitlines() if not old.startswith(f"{key}:")]
    options.write_text("\n".join([*kept, line]))
    assert f"{options}: {message}" in _refusal(capsys, str(broken))


def test_a_run_goes_on_where_its_data_has_moved(broken: Path) -> None:
    moved = Path("squares").rename("elsewhere") / "data.yaml"
    free = ("--cache", "--eager", "--no-plots", "--profile", "--workers", "0")
    assert main(["train", "--resume", str(broken), "--data", str(moved), *free]) == 0
    history = checkpoint.load(broken).history
    assert history[-1]["data"] == str(moved)


def test_a_run_whose_data_is_gone_asks_where_it_is(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("squares").rename("elsewhere")
    said = _refusal(capsys, str(broken))
    assert "data.yaml is not there any more; say where it is now by --data" in said


def test_where_the_data_has_moved_is_said_once(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = broken.parent.parent / "opt.yaml"
    before = yaml.safe_load(options.read_text())
    moved = Path("squares").rename("elsewhere") / "data.yaml"
    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save", _killed)
        assert main(["train", "--resume", str(broken), "--data", str(moved)]) == 130
    assert yaml.safe_load(options.read_text()) == {**before, "data": str(moved.resolve())}
    assert main(["train", "--resume", str(broken)]) == 0


def _more_classes() -> None:
    data = Path("squares/data.yaml")
    data.write_text(data.read_text().replace("[red, blue]", "[red, blue, green]"))
    Path("squares/labels/train/0.txt").write_text("2 0.5 0.5 0.2 0.2\n")


def _other_order() -> None:
    data = Path("squares/data.yaml")
    data.write_text(data.read_text().replace("[red, blue]", "[blue, red]"))


def _one_less() -> None:
    Path("squares/images/train/3.png").unlink()


def _renamed() -> None:
    Path("squares/images/train/3.png").rename("squares/images/train/33.png")


def _replaced() -> None:
    with Path("squares/images/train/3.png").open("ab") as image:
        image.write(b"more")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_more_classes, "classes red, blue and the data now has red, blue, green;"),
        (_other_order, "classes red, blue and the data now has blue, red;"),
        (_one_less, "was trained on other images than the 5 that the data has now"),
        (_renamed, "was trained on other images than the 6 that the data has now"),
        (_replaced, "was trained on other images than the 6 that the data has now"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(
    broken: Path, capsys: pytest.CaptureFixture[str], change: Callable[[], None], message: str
) -> None:
    change()
    assert message in _refusal(capsys, str(broken))


def test_state_of_an_early_version_tells_no_images(broken: Path) -> None:
    found = checkpoint.load(broken)
    position = cast("dict[str, object]", found.training["scheduler"])
    del position["picture_files"]
    checkpoint.save(found, broken)
    _renamed()
    assert main(["train", "--resume", str(broken)]) == 0


def test_images_are_listed_by_names_below_their_common_folder_and_sizes(tmp_path: Path) -> None:
    def listing(*files: str, size: int = 7) -> str:
        images = [tmp_path / file for file in files]
        for image in images:
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(b"x" * size)
        return checkpointing.images_digest(images)

    one = listing("a/x/1.png", "a/y/2.png")
    assert one == listing("b/c/x/1.png", "b/c/y/2.png")
    assert one != listing("a/y/2.png", "a/x/1.png")
    assert one != listing("a/x/1.png", "a/z/2.png")
    assert one != listing("a/x/1.png", "a/y/2.png", size=8)
    assert one != checkpointing.images_digest(
        [tmp_path / "gone/x/1.png", tmp_path / "gone/y/2.png"]
    )


def test_a_killed_run_is_not_mixed_with_the_one_before_it_in_its_folder(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--save-period", "1") == 0
    own = WEIGHTS / "mine.pt"
    own.write_bytes((WEIGHTS / "best.pt").read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save", _killed)
        assert train("--exist-ok", "--seed", "1") == 130
    assert list(WEIGHTS.iterdir()) == [own]
    assert not Path("runs/exp/results.csv").exists()
    assert "contains mine.pt" in _refusal(capsys, str(WEIGHTS))
    own.unlink()
    assert main(["train", "--resume", str(WEIGHTS)]) == 0
    assert checkpoint.load(WEIGHTS / "last.pt").history[-1]["seed"] == 1


@pytest.mark.parametrize("option", ["--weights", "--teacher"])
def test_a_run_does_not_clear_away_what_it_starts_from(
    train: Train, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert train() == 0
    before = sorted(path.name for path in WEIGHTS.iterdir())
    assert train("--exist-ok", option, str(WEIGHTS / "best.pt")) == 2
    assert "lies where the new run's weights go; choose another --name" in capsys.readouterr().err
    assert sorted(path.name for path in WEIGHTS.iterdir()) == before


def test_a_run_that_scaled_no_loss_goes_on_with_one_that_does(tmp_path: Path) -> None:
    def begin() -> run.Run:
        net = build(tiny.CFG.format(width=8))
        settings = Settings(epochs=2, imgsz=Size.of(tiny.SIZE))
        return run.start(net, 3, settings=settings, hyp=SCRATCH, device=torch.device("cpu"))

    origin = checkpointing.Origin(names=tiny.NAMES, data="data.yaml")
    checkpointing.save(begin(), [{"epoch": 1.0}], origin=origin, folder=tmp_path)
    state = checkpoint.load(tmp_path / "last.pt").training
    scaling = replace(begin(), scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    rows, _ = restore(scaling, state, batches=3)
    assert [row["epoch"] for row in rows] == [1.0]
    assert scaling.scaler.get_scale() == 8.0
