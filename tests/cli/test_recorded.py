"""A run's opt.yaml is read as strictly as a command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prune.cli import read
from prune.cli.recorded import read as recorded
from prune.common.run_dir import record
from prune.common.size import Size
from prune.errors import InputError

WORDS = ["--data", "d.yaml", "--weights", "w.pt", "--img-size", "64", "96", "--sparsity", "bn:1e-3"]
WORDS += ["--freeze", "0-2", "5", "--log", "wandb", "--save-period", "--deterministic"]


def test_what_was_typed_is_read_back_as_it_was(tmp_path: Path) -> None:
    typed = vars(read("train", WORDS))
    record(tmp_path, typed)
    assert recorded(tmp_path / "opt.yaml", "train") == typed
    assert type(recorded(tmp_path / "opt.yaml", "train")["img_size"]) is Size


WRONG = {
    "log: evilmod": "log is 'evilmod'; it must be wandb or mlflow, as --log takes it",
    "log: [1]": "log is [1]; it must be one word or number, as --log takes it",
    "batch_size: x": "batch_size: 'x' must be a number or auto",
    "epochs: x": "epochs is 'x'; it must be one int, as --epochs takes it",
    "epochs: 1.5": "epochs is 1.5; it must be one int",
    "epochs: null": "epochs is None; it must be one word or number",
    "epochs: 2020-10-10": "epochs is datetime.date(2020, 10, 10); it must be one word or number",
    "epochs: yes": "epochs is True",
    "cfg: [1]": "cfg is [1]",
    "device: [1]": "device is [1]",
    "distill: [1]": "distill is [1]",
    "distill: all": "distill is 'all'; it must be output or feature or both",
    "freeze: [[1]]": "freeze is [1]",
    "freeze: 5": "freeze is 5; it must be a list",
    "img_size: x": "img_size: 'x' is no image size",
    "img_size: [1, 2, 3]": "img_size: '1 2 3' is no image size",
    "img_size: [{a: 1}]": "img_size is [{'a': 1}]",
    "lr_factor: null": "lr_factor is None; it must be a list",
    "deterministic: x": "deterministic is 'x'; it must be true or false",
    "autoanchor: [1]": "autoanchor is [1]",
    "patience: -1": "patience: '-1' must be a whole number from 0 on",
    "seed: .inf": "seed: 'inf' must be a whole number",
    "sparsity: [bn, x]": "sparsity: 'bn:x' is no kind and strength",
    "working_folder: [1]": "working_folder is [1]; it must be a folder or null",
    "5: 1": "5 is not an option of prune train",
    "[1]: 1": "found unhashable key",
    "[epochs]": "contains no options",
    "a: &a [*a]": "a value contains itself",
    "epochs: 2020-13-45": "'2020-13-45' is no valid timestamp; put text in quotes",
    "project: " + "a" * 5000: "--project 'aaa",
}


@pytest.mark.parametrize(("content", "said"), WRONG.items(), ids=[key[:20] for key in WRONG])
def test_a_value_that_could_not_have_been_typed_is_refused(
    content: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "opt.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        recorded(path, "train")
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)


def test_options_of_another_version_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("prune.cli.recorded.note", notes.append)
    path = tmp_path / "opt.yaml"
    path.write_text(yaml.safe_dump({"adam": True, "epochs": 3}))
    assert recorded(path, "train") == {"epochs": 3}
    assert notes == [f"{path}: ignored adam, which is not an option of prune train"]
