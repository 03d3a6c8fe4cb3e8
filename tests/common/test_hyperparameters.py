"""Hyper-parameters: the files in cfg/hyp, and what a user's file may hold."""

from pathlib import Path

import pytest

from prune.common import hyperparameters
from prune.data.samples import HYP_KEYS
from prune.errors import InputError
from prune.train.config import TrainConfig
from prune.train.setup import read_hyperparameters

FILES = Path(__file__).parents[2] / "cfg" / "hyp"


@pytest.mark.parametrize(
    ("name", "values"),
    [("scratch", hyperparameters.SCRATCH), ("finetune", hyperparameters.FINETUNE)],
)
def test_shipped_file_says_what_the_default_is(name: str, values: dict[str, float]) -> None:
    assert hyperparameters.load(FILES / f"{name}.yaml") == values


def test_augmentation_finds_all_it_needs() -> None:
    assert set(HYP_KEYS) <= set(hyperparameters.SCRATCH)


def test_what_a_file_leaves_out_keeps_the_published_value(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("lr0: 1e-4\nmosaic: 0\n")  # YAML reads 1e-4 as text
    assert hyperparameters.load(path) == {**hyperparameters.SCRATCH, "lr0": 1e-4, "mosaic": 0.0}


def test_what_a_file_leaves_out_of_a_fine_tuning_stays_fine_tuning(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("clip: 3\n")
    assert hyperparameters.load(path, base=hyperparameters.FINETUNE) == {
        **hyperparameters.FINETUNE,
        "clip": 3.0,
    }


def test_a_run_older_than_a_hyper_parameter_goes_on_without_it(tmp_path: Path) -> None:
    own = {key: value for key, value in hyperparameters.FINETUNE.items() if key != "close_norms"}
    hyperparameters.save(own, tmp_path / "hyp.yaml")
    config = TrainConfig(hyp=tmp_path / "hyp.yaml", weights=tmp_path / "start.pt")
    assert read_hyperparameters(config, resumed=False) == hyperparameters.FINETUNE
    assert read_hyperparameters(config, resumed=True) == {
        **hyperparameters.FINETUNE,
        "close_norms": 0.0,
    }


def test_adamw_has_steps_of_its_own_where_the_file_names_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("optimizer: AdamW\nmomentum: 0.8\n")
    adamw = hyperparameters.load(path)
    assert hyperparameters.choice_name("optimizer", adamw) == "adamw"
    assert adamw == {
        **hyperparameters.SCRATCH,
        **hyperparameters.ADAMW,
        "optimizer": 1,
        "momentum": 0.8,
    }


@pytest.mark.parametrize("optimizer", hyperparameters.CHOICES["optimizer"])
def test_saved_file_reads_back_unchanged(tmp_path: Path, optimizer: str) -> None:
    number = hyperparameters.CHOICES["optimizer"].index(optimizer)
    values = {**hyperparameters.SCRATCH, "lr0": 1 / 3, "optimizer": number}
    hyperparameters.save(values, tmp_path / "hyp.yaml")
    assert hyperparameters.load(tmp_path / "hyp.yaml") == values
    assert f"optimizer: {optimizer}\n" in (tmp_path / "hyp.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 0.1", "'learning_rate' is an unknown key; the known ones: optimizer, lr0"),
        ("5: 1", "5 is an unknown key"),
        ("lr0: fast", "lr0 is 'fast'; it must be a number from 1e-09 to 10"),
        ("lr0: yes", "lr0 is True"),
        ("lr0: [1]", "lr0 is [1]"),
        ("lr0: .nan", "lr0 is nan"),
        ("lr0: .inf", "lr0 is inf"),
        ("lr0: 1e999", "lr0 is inf"),
        ("lr0: 1e-300", "lr0 is 1e-300"),
        ("optimizer: adam", "optimizer is 'adam'; it must be sgd or adamw"),
        ("optimizer: [sgd]", "optimizer is ['sgd']; it must be sgd or adamw"),
        ("lr0: 0", "lr0 is 0; it must be a number from 1e-09 to 10"),
        ("momentum: 1", "momentum is 1; it must be a number from 0 to 0.9999"),
        ("degrees: -3", "degrees is -3; it must be a number from 0 to 180"),
        ("clip: -1", "clip is -1; it must be a number from 0 to 1,000,000,000"),
        (
            "warmup_epochs: 1.0e+308",
            "warmup_epochs is 1e+308; it must be a number from 0",
        ),
        ("box: 1e5", "box is 100000.0; it must be a number from 0 to 10000"),
        ("lr0: " + "1" * 250, "lr0 is a whole number of about 250 digits; it must be"),
        ("lr0: " + "1" * 5000, ":1: broken YAML: a value of 5000 letters"),
        ("lr0: [", ":1: broken YAML: expected the node content"),
        ("lr0: 0.1\nlr0: 0.2", ":2: broken YAML: lr0: is given twice; keep one"),
        ("0.01", "must contain lines"),
    ],
    ids=lambda value: value[:14],
)
def test_unusable_file_is_named_with_its_fault(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"mine\.yaml") as caught:
        hyperparameters.load(path)
    assert message in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        hyperparameters.load(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["finetune", "finetune.yaml", "cfg/hyp/finetune.yaml"])
def test_recipes_that_come_with_prune_are_found_by_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hyperparameters.load(Path(name)) == hyperparameters.FINETUNE
    with pytest.raises(InputError, match=r"No such file"):
        hyperparameters.load(Path("elsewhere") / name)
