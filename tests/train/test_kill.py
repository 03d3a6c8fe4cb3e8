"""Runs killed at random moments and taken up again end with the very files of an undisturbed one.

Two kills in `make test`; `make prove` sets PRUNE_KILLS to 20 and prints the tally.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import tiny
import yaml

from prune import checkpoint
from prune.train.run_log import COLUMNS

KILLS = int(os.environ.get("PRUNE_KILLS", "2"))
EACH = 2  # kills a test, so that several processes may take part
# When to kill: at once, or amid the writing of some file, or of weights.
MOMENTS = (None, ".*-part-*", "weights/.*-part-*")

RECIPE = (
    *("--weights", "dense.pt", "--img", "64", "--epochs", "32"),
    *("--batch", "2", "--nominal-batch", "2", "--save-period", "10", "--device", "cpu"),
    *("--sparsity", "group:1e-3"),  # at every 4th update, of 3 an epoch
)


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Count what the kills hit; print it at the end where many were asked for."""
    counts: Counter[str] = Counter()
    yield counts
    if KILLS > EACH:
        capture = request.config.pluginmanager.getplugin("capturemanager")
        assert capture is not None
        with capture.global_and_fixture_disabled():
            print("", *(f"{n:3} {what}" for what, n in counts.most_common()), sep="\n")


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed: its folder's place, how many seconds it took, what it left."""

    place: Path
    seconds: float
    files: dict[str, str]
    figures: list[list[str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    place = tmp_path_factory.mktemp("runs")
    tiny.data(place)
    tiny.weights(place)
    began = time.monotonic()
    run = begin(place, "whole", workers=0)
    assert run.wait() == 0, said(place, "whole")
    seconds = time.monotonic() - began
    return Undisturbed(place, seconds, files(place / "whole"), figures(place / "whole"))


@pytest.mark.parametrize("share", range(max(1, KILLS // EACH)))
def test_killed_runs_end_with_the_files_of_an_undisturbed_one(
    whole: Undisturbed, share: int, tally: Counter[str]
) -> None:
    random, left = Random(share), EACH
    while left:  # a run may end before its kill comes
        folder = whole.place / f"killed{share}-{tally['runs']}"
        tally["runs"] += 1
        while not finished(folder):
            run = begin(whole.place, folder.name, workers=random.choice((0, 2)))
            delay, amid = random.uniform(0, whole.seconds), random.choice(MOMENTS)
            if left and killed(run, delay, folder, amid):
                left -= 1
                tally["kills"] += 1
                tally[f"kills {hit(folder)}"] += 1
                check_readable(folder)
            elif run.wait() != 0:
                pytest.fail(said(whole.place, folder.name))
        assert files(folder) == whole.files
        assert figures(folder) == whole.figures
        assert not list(folder.rglob(".*"))
    tally[f"the last.pt of {whole.files['last.pt']}, at every end"] += 1


def begin(place: Path, name: str, *, workers: int) -> subprocess.Popen[bytes]:
    """Start a run, or take it up where there is one."""
    known = (place / name / "opt.yaml").is_file()
    last = Path(name) / "weights" / "last.pt"
    data = ("--data", str(place / "data.yaml"))  # whole, as opt.yaml has it: files tell of it
    what = ("--resume", str(last)) if known else (*RECIPE, *data, "--name", name, "--exist-ok")
    command = (sys.executable, "-m", "prune", "train", *what, "--workers", str(workers))
    with (place / f"{name}.txt").open("ab") as out:
        return subprocess.Popen(
            (*command, "--project", "."), cwd=place, stdout=subprocess.DEVNULL, stderr=out
        )


def killed(run: subprocess.Popen[bytes], delay: float, folder: Path, amid: str | None) -> bool:
    """Kill a run after some seconds, or at the first such file after that; False if it ended."""
    try:
        run.wait(delay)
    except subprocess.TimeoutExpired:
        while amid and run.poll() is None and not any(folder.glob(amid)):
            pass  # a write takes a millisecond
        run.kill()
    return run.wait() < 0


def hit(folder: Path) -> str:
    """Say where a kill struck."""
    if found := [path for pattern in MOMENTS if pattern for path in folder.glob(pattern)]:
        return f"amid the writing of a .{found[0].suffix[1:]}"
    if finished(folder):
        return "after the end"
    last = folder / "weights" / "last.pt"
    return "between two writes" if last.is_file() else "before the first save"


def finished(folder: Path) -> bool:
    last = folder / "weights" / "last.pt"
    return last.is_file() and not checkpoint.load(last).training


def check_readable(folder: Path) -> None:
    """Read every file of a run that has its own name, not a temporary one."""
    for path in folder.glob("weights/[!.]*"):
        checkpoint.network(checkpoint.load(path))
    for path in folder.glob("[!.]*.yaml"):
        assert yaml.safe_load(path.read_text())
    if (folder / "run.json").is_file():
        json.loads((folder / "run.json").read_text())
    if (folder / "results.csv").is_file():
        figures(folder)
    for path in (*folder.glob("[!.]*.png"), *folder.glob("[!.]*.jpg")):
        assert path.read_bytes()[-2:] in (b"\x60\x82", b"\xff\xd9")  # how such files end


def files(folder: Path) -> dict[str, str]:
    """Return the digest of every file of weights, whole: nothing in them tells the time."""
    return {path.name: checkpoint.digest(path) for path in folder.glob("weights/*")}


def figures(folder: Path) -> list[list[str]]:
    """Return the rows of results.csv but for how long each epoch took."""
    text = (folder / "results.csv").read_text()
    rows = [line.split(",") for line in text.splitlines()]
    assert text.endswith("\n")
    assert all(len(row) == len(COLUMNS) for row in rows)
    return [row[: COLUMNS.index("seconds")] for row in rows]


def said(place: Path, name: str) -> str:
    return (place / f"{name}.txt").read_text()
