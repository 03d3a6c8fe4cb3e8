"""Processes that a command starts: where they import from, and how they end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import tiny

from prune import __version__
from prune.common import child_processes
from prune.common.notes import Report, silent
from prune.errors import InputError, RunError

# What our commands, and the processes of multiprocessing, import.
NAMES = ("torch", "cv2", "yaml", "json", "random", "socket", "multiprocessing", "prune")


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules of well-known names that leave a file when imported."""
    here = tmp_path / "here"
    here.mkdir()
    mark = f"import os\nopen({str(tmp_path / 'imported')!r}, 'a').write(__file__)\n"
    for name in NAMES[:-2]:
        (here / f"{name}.py").write_text(mark)
    for name in NAMES[-2:]:
        (here / name).mkdir()
        (here / name / "__init__.py").write_text(mark)
    monkeypatch.chdir(here)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return here


def imported(here: Path) -> str:
    """Return the file of a module that was taken from the current folder."""
    mark = here.parent / "imported"
    return mark.read_text() if mark.exists() else ""


def test_a_command_and_its_loader_import_nothing_from_the_current_folder(hostile: Path) -> None:
    data, weights = tiny.data(hostile), tiny.weights(hostile)
    words = ("--weights", str(weights), "--data", str(data), "--workers", "1", "--device", "cpu")
    done = child_processes.run("prune.cli:main", ["val", *words])
    assert done.returncode == 0
    assert "mAP" in done.stdout
    assert imported(hostile) == ""


def test_a_process_says_and_returns_what_its_function_does(hostile: Path) -> None:
    done = child_processes.run("prune.cli:main", ["--version"])
    assert (done.returncode, done.stdout) == (0, f"prune {__version__}\n")
    assert child_processes.run("prune.cli:main", ["no-command"], quiet=True).returncode == 2
    assert imported(hostile) == ""


def test_a_process_knows_that_another_of_ours_started_it() -> None:
    assert child_processes.run("prune.common.child_processes:entered", []).returncode == int(True)
    assert not child_processes.entered()


def test_processes_of_multiprocessing_start_out_of_the_current_folder_s_sight(
    hostile: Path,
) -> None:
    """As multiprocessing starts its server: Python before 3.11 knows no safe path."""
    command = (sys.executable, "-c", "import json")
    with child_processes.out_of_sight():
        subprocess.run(command, check=True)
    assert imported(hostile) == ""
    assert Path.cwd() == hostile
    child_processes.hide_current_folder()
    with child_processes.out_of_sight():
        subprocess.run(command, check=True)
    assert imported(hostile) == ""
    del os.environ["PYTHONSAFEPATH"]
    subprocess.run(command, check=True)
    assert imported(hostile)  # the trap works


def test_who_looks_into_the_current_folder_on_purpose_has_children_that_do(
    hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(hostile))
    child_processes.hide_current_folder()
    assert "PYTHONSAFEPATH" not in os.environ


def test_a_current_folder_that_is_gone_is_no_error(hostile: Path) -> None:
    lost = hostile / "lost"
    lost.mkdir()
    os.chdir(lost)
    lost.rmdir()
    child_processes.hide_current_folder()
    assert child_processes.run("prune.cli:main", ["--version"]).returncode == 0


def parent(entry: str) -> subprocess.Popen[str]:
    """Start a process that runs a function in another one, and waits for it.

    Both hold the pipe: it ends when both have.
    """
    program = (
        "from prune.common import child_processes\n"
        "try: child_processes.run(ENTRY, [])\n"
        "except KeyboardInterrupt: print('stopped', flush=True)\n"
    )
    program = program.replace("ENTRY", repr(entry))
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_child(process: subprocess.Popen[str]) -> None:
    while not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, ""), (signal.SIGINT, "stopped\n")], ids=["kill", "stop"]
)
def test_a_process_ends_with_the_one_that_started_it(number: signal.Signals, said: str) -> None:
    with parent("signal:pause") as process:
        wait_for_child(process)
        process.send_signal(number)
        assert process.communicate(timeout=30)[0] == said


def test_who_is_stopped_again_while_waiting_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training finishes its step and saves, which may take long."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    monkeypatch.setattr(child_processes, "_GRACE_S", 0.5)

    def again(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(child_processes, "_drained", again)
    process = subprocess.Popen([sys.executable, "-c", program], text=True)
    with process, pytest.raises(KeyboardInterrupt):
        child_processes._stop(process)
    assert process.returncode == -signal.SIGKILL


@dataclass(frozen=True)
class Text:
    """A config."""

    value: str


def shout(config: Text, *, report: Report = silent, mark: str = "!") -> str:
    """Return a text in capitals, or fail as it says."""
    report(f"shouting {config.value}")
    if config.value == "refuse":
        raise InputError("that is refused")
    if config.value == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.value == "stop":
        raise KeyboardInterrupt
    if config.value == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "disk")
    return config.value.upper() + mark


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes import this file."""
    here = [str(Path(__file__).parent), *(entry for entry in sys.path if entry)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(here))


@pytest.mark.usefixtures("importable")
def test_a_function_is_called_in_another_process(capfd: pytest.CaptureFixture[str]) -> None:
    ask = partial(child_processes.call, "prune.cli:answer_call")
    assert ask(shout, Text("quiet")) == "QUIET!"
    assert "shouting quiet" in capfd.readouterr().err
    assert ask(partial(shout, mark="?"), Text("quiet")) == "QUIET?"
    with pytest.raises(InputError, match=r"^that is refused$"):
        ask(shout, Text("refuse"))
    with pytest.raises(KeyboardInterrupt):
        ask(shout, Text("stop"))
    with pytest.raises(RunError, match="the process of shout was ended by SIGKILL"):
        ask(shout, Text("die"))
    capfd.readouterr()
    with pytest.raises(RunError, match="the process of shout was ended with status 1"):
        ask(shout, Text("full"))
    assert "prune: disk: No space left on device" in capfd.readouterr().err
