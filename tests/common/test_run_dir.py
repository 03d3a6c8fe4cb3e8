"""Run folders are never overwritten and say what made them."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from prune.common import device
from prune.common.run_dir import new_run, record, run_folder
from prune.errors import DeviceError, InputError


def test_run_folders_are_numbered(tmp_path: Path) -> None:
    made = [new_run(tmp_path / "runs", "exp").name for _ in range(3)]
    assert made == ["exp", "exp2", "exp3"]
    assert new_run(tmp_path / "runs", "exp", exist_ok=True).name == "exp"


def test_a_run_folder_inside_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        new_run(tmp_path / "runs", "exp")


def test_a_run_folder_that_cannot_be_written_into_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)  # root may write everywhere else
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "a.txt").write_text("")
    for name in ("exp", "used"):
        with pytest.raises(InputError, match=f"{name}: Read-only file system"):
            new_run(tmp_path, name, exist_ok=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "a.txt"]


@pytest.mark.parametrize("written", [True, False], ids=["written", "empty"])
def test_a_run_folder_stays_only_if_something_is_in_it(tmp_path: Path, written: bool) -> None:
    with pytest.raises(KeyError), run_folder(tmp_path, "exp") as folder:
        if written:
            (folder / "a.txt").write_text("")
        raise KeyError
    assert folder.exists() == written


def test_a_run_records_options_and_versions(tmp_path: Path) -> None:
    record(tmp_path, {"weights": Path("w.pt"), "sizes": (320, 640), "seed": 0})
    assert yaml.safe_load((tmp_path / "opt.yaml").read_text()) == {
        "seed": 0,
        "sizes": [320, 640],
        "weights": "w.pt",
    }
    assert json.loads((tmp_path / "run.json").read_text())["versions"]["torch"] == torch.__version__


def test_the_cpu_is_always_there() -> None:
    assert device.choose("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["99", "cuda:99", "gpu"])
def test_a_missing_device_is_one_clear_error(name: str) -> None:
    with pytest.raises(DeviceError, match=name):
        device.choose(name)
