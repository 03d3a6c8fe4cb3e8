"""prune doctor: it names what is there, what is missing, and what that would bring."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
import torch

from prune.cli import main
from prune.report import doctor

Usage = namedtuple("Usage", "total used free")


def found(folder: Path) -> dict[tuple[str, str], doctor.Finding]:
    return {(one.area, one.name): one for one in doctor.examine(folder)}


def test_what_is_there_is_named_with_its_version(tmp_path: Path) -> None:
    report = found(tmp_path)
    assert report["software", "torch"].found == torch.__version__
    assert report["software", "onnx"].found == metadata.version("onnx")
    assert report["processor", "threads"].found == str(torch.get_num_threads())


def test_a_missing_extra_says_what_it_would_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)
    extra = found(tmp_path)["extras", "ncnn"]
    assert extra.found == "missing"
    assert extra.note.startswith("pip install 'detector-prune[ncnn]': writes")


def test_a_processor_that_lacks_an_instruction_says_what_that_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_flags", lambda: frozenset({"avx2", "asimddp"}))
    report = found(tmp_path)
    assert [report["processor", name].found for name in ("AVX2", "INT8", "bfloat16")] == [
        *("yes", "yes", "no")
    ]
    assert "slow" in report["processor", "bfloat16"].note


def test_a_full_disk_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 10, 2**30))
    assert "little is left" in found(tmp_path)["disk", "here"].note


def test_the_command_prints_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "prune-doctor/1"
    assert main(["doctor"]) == 0
    table = capsys.readouterr().out
    assert all(one["name"] in table for one in document["findings"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    from prune.cli import COMMANDS

    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "reconstruct" in script
