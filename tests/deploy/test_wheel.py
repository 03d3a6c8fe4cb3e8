"""The package as a stranger installs it: a wheel, used in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("README.md", "pyproject.toml", "setup.cfg")


def run(*words: object, cwd: Path, installed: Path | None = None) -> str:
    """Run Python, with what was installed before all else; return what it prints."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed or ""), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, in which no earlier build left anything."""
    pytest.importorskip("setuptools")
    copy = tmp_path_factory.mktemp("copy")
    for name in ("prune", "models", "cfg"):
        shutil.copytree(
            ROOT / name,
            copy / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    out = tmp_path_factory.mktemp("wheel")
    pip = ("-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps")
    run(*pip, "--no-build-isolation", "--wheel-dir", out, ".", cwd=copy)
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_every_module_and_the_networks_and_recipes(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        *(f"prune/models/{path.name}" for path in (ROOT / "models").glob("*.py")),
        *(str(path.relative_to(ROOT)) for path in (ROOT / "prune").rglob("*.py")),
    }
    shipped = {f"prune/{path.relative_to(ROOT)}" for path in (ROOT / "cfg").rglob("*.[cy]*")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert shipped
    assert shipped | {"prune/py.typed"} <= names


def test_an_installed_wheel_works_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)

    def prune(*words: object) -> str:
        return run("-P", "-m", "prune", *words, cwd=empty, installed=installed)

    where = "import prune; print(prune.__file__)"
    assert str(installed) in run("-P", "-c", where, cwd=empty, installed=installed)
    prune("data", "shapes", "--out", "d.yaml", "--images", 8, "--size", 64)
    words = ["--cfg", "yolor_csp_n", "--hyp", "finetune", "--data", "d.yaml", "--epochs", 1]
    words += ["--img-size", 64, "--batch-size", 4, "--workers", 0, "--no-plots"]
    prune("train", *words)
    best = "runs/train/exp/weights/best.pt"
    prune("conv", "--weights", best, "--layer", 22, "--amount", 0.4, "--out", "cut.pt")
    assert "params" in prune("show", "cut.pt")
