"""A folder has one writer: the second is refused, and no kill leaves it locked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from prune.cli import main
from prune.common import lock, temporary
from prune.errors import InputError

Command = Callable[[Path], list[str]]


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match=f"{tmp_path}.*process {os.getpid()} on ")
    with lock.held(tmp_path), refused:
        lock.held(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []
    with lock.held(tmp_path), lock.held(make(tmp_path / "another")):
        pass


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_lock_of_a_killed_process_is_nobody_s(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from prune.common import lock\n"
        "with lock.held(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    command = (sys.executable, "-c", program, str(tmp_path))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        with pytest.raises(InputError, match=f"process {other.pid} on "):
            lock.held(tmp_path).__enter__()
        other.kill()
    with lock.held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_its_writer_has_just_removed_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = temporary.lock, []

    def late(handle: int) -> bool | None:
        opened.append(handle)
        if len(opened) == 1:
            (tmp_path / ".lock").unlink()
        return real(handle)

    monkeypatch.setattr(temporary, "lock", late)
    with lock.held(tmp_path):
        assert len(opened) == 2
        with pytest.raises(InputError):
            lock.held(tmp_path).__enter__()


def test_who_has_the_lock_is_said_whatever_stood_there_before(tmp_path: Path) -> None:
    place = tmp_path / ".lock"
    place.write_text("process 1 on another\n" * 10)
    with lock.held(tmp_path):
        with pytest.raises(InputError, match=rf"\(process {os.getpid()} on [\w.-]*\)"):
            lock.held(tmp_path).__enter__()
        place.write_text("\x1b[31m")
        with pytest.raises(InputError, match=r"\(its process is not known\)"):
            lock.held(tmp_path).__enter__()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "text"])
def test_what_lies_in_the_place_of_the_lock_is_not_harmed(tmp_path: Path, kind: str) -> None:
    precious, place = tmp_path / "precious", tmp_path / ".lock"
    precious.write_text("data")
    put: dict[str, Callable[[], object]] = {
        "link": lambda: place.symlink_to(precious),
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
        "text": lambda: place.write_text("\x1b[31m" * 1000),
    }
    put[kind]()
    if kind == "text":  # of a killed run, or of anybody
        with lock.held(tmp_path):
            pass
    else:
        with pytest.raises(InputError, match="cannot write into the folder"):
            lock.held(tmp_path).__enter__()
    assert precious.read_text() == "data"


def test_where_there_are_no_locks_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(temporary, "lock", lambda _: None)
    monkeypatch.setattr(lock, "note", said.append)
    with lock.held(tmp_path), lock.held(tmp_path):
        pass
    assert len(said) == 2
    assert "there are no locks here" in said[0]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        lock.held(tmp_path / "missing").__enter__()


def _train(place: Path) -> list[str]:
    words = ["train", "--weights", str(tiny.weights(place)), "--data", str(tiny.data(place))]
    return [*words, "--workers", "0", "--device", "cpu"]


def _val(place: Path) -> list[str]:
    return ["val", *_train(place)[1:]]


def _auto(place: Path) -> list[str]:
    return ["auto", *_train(place)[1:5], "--latency", "0.5"]


@pytest.mark.parametrize("command", [_train, _val, _auto], ids=["train", "val", "auto"])
def test_a_command_leaves_the_folder_of_another_run_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Command
) -> None:
    folder = tmp_path / "runs" / "exp"
    folder.mkdir(parents=True)
    (folder / "results.csv").write_text("of the other")
    words = [*command(tmp_path), "--project", str(tmp_path / "runs"), "--exist-ok"]
    with lock.held(folder):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert main(words) == 2
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("prune:")]
    assert f"{folder}: another run is writing into this folder (process {os.getpid()}" in line


def test_auto_leaves_a_fine_tuning_alone_that_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuning = tmp_path / "runs" / "exp" / "train"
    (tuning / "weights").mkdir(parents=True)
    last = tuning / "weights" / "last.pt"
    last.write_text("of the other")
    words = [*_auto(tmp_path), "--project", str(tmp_path / "runs"), "--exist-ok"]
    with lock.held(tuning):
        assert main(words) == 2
    assert last.read_text() == "of the other"
    assert f"{tuning}: another run is writing into this folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "auto"])
def test_a_run_that_goes_on_elsewhere_is_not_taken_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    folder = tmp_path / "exp"
    (folder / "weights").mkdir(parents=True)
    (folder / "opt.yaml").write_text(f"img_size: 64\ndata: {tiny.data(tmp_path)}\nresume: null\n")
    with lock.held(folder):
        assert main([command, "--resume", str(folder)]) == 2
    assert "another run is writing into this folder" in capsys.readouterr().err
