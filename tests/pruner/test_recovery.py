"""Recovery as typed: steps in order, judged, undone where the score falls, told of in the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny
import torch

from prune import checkpoint
from prune.cli import main
from prune.core.plan import from_json
from prune.evaluate.metrics import Metrics
from prune.pruner import recovery, session
from prune.pruner.recovery import STEPS, Recovery, RecoveryOptions

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return tiny.weights(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.data(tmp_path)


def _cut(dense: Path, *more: object) -> list[str]:
    out = dense.with_name("cut.pt")
    words = ["layers", "--weights", dense, "--amount", 0.3, "--out", out, "--json"]
    return [str(word) for word in (*words, "--recover-images", 8, "--device", "cpu", *more)]


def _rows(words: Sequence[str], capsys: Capture) -> list[dict[str, object]]:
    assert main(list(words)) == 0
    rows = json.loads(capsys.readouterr().out)["recovery"]
    assert isinstance(rows, list)
    return rows


def test_every_step_is_told_in_its_order(dense: Path, data: Path, capsys: Capture) -> None:
    wishes = ["--recalibrate", data, "--reconstruct", data, "--compensate", data]
    rows = _rows(_cut(dense, *wishes, "--score", "--data", data), capsys)
    assert [row["step"] for row in rows] == ["original", "cut", *STEPS]
    assert [row["images"] for row in rows] == [0, 0, 8, 8, 8]
    assert all(row["map"] is not None for row in rows)
    told = checkpoint.load(dense.with_name("cut.pt")).history[-1]["recovery"]
    assert told == [{**row, "data": str(data) if row["images"] else None} for row in rows]


def test_recovery_changes_weights_and_no_shapes(dense: Path, data: Path, capsys: Capture) -> None:
    plain, recovered = dense.with_name("cut.pt"), dense.with_name("other.pt")
    assert _rows(_cut(dense), capsys) == []
    rows = _rows(_cut(dense, "--compensate", "--reconstruct", data, "--out", recovered), capsys)
    assert [(row["step"], row["map"], row["kept"]) for row in rows] == [
        ("compensate", None, True),
        ("reconstruct", None, True),
    ]
    before, after = checkpoint.load(plain), checkpoint.load(recovered)
    assert after.cfg == before.cfg
    assert any(not torch.equal(t, before.model[name]) for name, t in after.model.items())
    checkpoint.network(after)


def test_least_squares_make_up_for_another_activation(
    dense: Path, data: Path, capsys: Capture
) -> None:
    original = checkpoint.network(checkpoint.load(dense))
    image = torch.rand(original.small_image, generator=torch.Generator().manual_seed(1))
    away = []
    for more, steps in (
        ([], ["activation"]),
        (["--reconstruct", data], ["activation", "reconstruct"]),
    ):
        rows = _rows(_cut(dense, "--activation", "relu", *more), capsys)
        found = checkpoint.load(dense.with_name("cut.pt"))
        assert [row["step"] for row in rows] == steps
        assert "leaky" not in found.cfg and found.cfg.count("activation=relu") == 5
        assert found.history[-1]["activation"] == "relu"
        with torch.inference_mode():
            pairs = zip(checkpoint.network(found)(image), original(image), strict=True)
            away.append(sum(float((one - two).square().mean()) for one, two in pairs))
    assert away[1] < 0.5 * away[0]


def test_an_activation_that_is_there_already_is_no_step(dense: Path, capsys: Capture) -> None:
    assert main(_cut(dense, "--activation", "leaky")) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["recovery"] == []
    assert "no convolution has another activation than leaky" in printed.err
    assert "activation" not in checkpoint.load(dense.with_name("cut.pt")).history[-1]


def test_a_trial_has_the_activation_too(dense: Path, data: Path, capsys: Capture) -> None:
    plan = dense.with_name("plan.json")
    _rows([*_cut(dense), "--plan-out", str(plan)], capsys)
    wishes = RecoveryOptions(steps={"reconstruct": data}, activation="relu", images=8, device="cpu")
    found = Recovery(wishes, session.open_session(dense)).try_plan(from_json(plan.read_text()))
    assert found.cfg_text().count("activation=relu") == 5


def test_the_same_seed_gives_the_same_weights(dense: Path, data: Path, capsys: Capture) -> None:
    models = []
    for _ in range(2):
        _rows(_cut(dense, "--reconstruct", data), capsys)
        models.append(checkpoint.load(dense.with_name("cut.pt")).model)
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


def test_a_trial_ends_with_the_weights_of_a_recovery(
    dense: Path, data: Path, capsys: Capture
) -> None:
    plan = dense.with_name("plan.json")
    words = [*_cut(dense, "--compensate", "--reconstruct", data), "--plan-out", str(plan)]
    _rows(words, capsys)
    wanted = checkpoint.load(dense.with_name("cut.pt")).model
    wishes = RecoveryOptions(
        steps={"compensate": None, "reconstruct": data}, images=8, device="cpu"
    )
    subject = session.open_session(dense)
    before = {name: value.clone() for name, value in subject.net.state_dict().items()}
    found = Recovery(wishes, subject).try_plan(from_json(plan.read_text())).state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert all(value.equal(before[name]) for name, value in subject.net.state_dict().items())


def test_a_step_that_lowers_the_score_is_undone(
    dense: Path, data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _rows(_cut(dense), capsys)
    plain = checkpoint.load(dense.with_name("cut.pt"))
    falling = iter((0.5, 0.4, 0.3, 0.35))

    def evaluate(*_: object, **__: object) -> Metrics:
        value = next(falling)
        return Metrics(value, value, 0, 0, 0, (), 1)

    monkeypatch.setattr(recovery, "evaluate_network", evaluate)
    wishes = ["--compensate", "--recalibrate", data, "--score", "--data", data]
    assert main(_cut(dense, *wishes)) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)["recovery"]
    assert [row["kept"] for row in rows] == [True, True, False, False]
    assert printed.err.count("undone") == 2
    after = checkpoint.load(dense.with_name("cut.pt"))
    assert all(torch.equal(t, plain.model[name]) for name, t in after.model.items())


@pytest.mark.parametrize(
    ("maps", "steps", "note"),
    [
        ((0.5, 0.04), [], "mAP@.5:.95 0.0400, less than a tenth of the original's 0.5000"),
        ((0.5, 0.04), [], "or recover the cut by --reconstruct"),
        ((0.5, 0.04, 0.06), ["--compensate"], ""),
        ((0.5, 0.01, 0.04), ["--reconstruct"], "0.0400, less than a tenth"),
        ((0.04, 0.0), [], "the original has mAP@.5 0.0400: it has not learned yet"),
        ((0.0, 0.0), [], "has not learned yet"),
    ],
    ids=["wrecked", "advice", "recovered", "not recovered", "not learned", "nothing"],
)
def test_cut_that_leaves_less_than_a_tenth_says_so(
    dense: Path,
    data: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    maps: tuple[float, ...],
    steps: list[str],
    note: str,
) -> None:
    values = iter(maps)

    def evaluate(*_: object, **__: object) -> Metrics:
        value = next(values)
        return Metrics(value, value, 0, 0, 0, (), 1)

    monkeypatch.setattr(recovery, "evaluate_network", evaluate)
    assert main(_cut(dense, *steps, "--score", "--data", data)) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "note:" in line]
    assert len(notes) == bool(note) and all(note in line for line in notes)


@pytest.mark.parametrize("step", ["--compensate", "--reconstruct", "--recalibrate"])
def test_step_without_a_value_looks_at_the_images_of_data(
    dense: Path, data: Path, capsys: Capture, step: str
) -> None:
    (row,) = _rows(_cut(dense, step, "--data", data), capsys)
    assert (row["step"], row["images"]) == (step.removeprefix("--"), 8)


@pytest.mark.parametrize("step", ["--reconstruct", "--recalibrate"])
def test_step_that_needs_images_names_the_option(dense: Path, capsys: Capture, step: str) -> None:
    assert main(_cut(dense, step)) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and not printed.out
    assert f"{step} needs training images" in printed.err and "--data" in printed.err


def test_the_table_shows_every_step(dense: Path, data: Path, capsys: Capture) -> None:
    words = _cut(dense, "--compensate", "--score", "--data", data)
    assert main([word for word in words if word != "--json"]) == 0
    printed = capsys.readouterr().out
    assert "mAP@.5:.95" in printed
    assert all(f"\n{step}" in printed for step in ("original", "cut", "compensate"))


@pytest.mark.parametrize("wish", ["--reconstruct", "--recalibrate", "--compensate"])
@pytest.mark.parametrize("fault", ["missing", "classes", "images"])
def test_wrong_input_is_one_line_before_any_work(
    wish: str, fault: str, dense: Path, data: Path, capsys: Capture
) -> None:
    if fault == "classes":
        data.write_text(data.read_text().replace("[red, blue]", "[red, blue, green]"))
    path = dense.with_name("nowhere.yaml") if fault == "missing" else data
    more = ["--recover-images", 0] if fault == "images" else []
    assert main(_cut(dense, wish, path, *more)) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not dense.with_name("cut.pt").exists()


def test_scores_need_images(dense: Path, capsys: Capture) -> None:
    assert main(_cut(dense, "--score")) == 2
    assert "--data" in capsys.readouterr().err
