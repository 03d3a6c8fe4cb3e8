"""Files are written whole or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prune.atomic import expect_writable, replacing, sweep, write_text
from prune.errors import InputError, WriteError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "kept.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as part:
        part.write_text("half")
        raise RuntimeError("the writer died")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_write_that_the_system_fails_leaves_the_old_file_and_tells_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "kept.txt"
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"cannot write .*kept.txt: No space left on device"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_sweep_takes_what_a_killed_write_left_and_nothing_else(tmp_path: Path) -> None:
    writer = replacing(tmp_path / "weights.pt")
    left = writer.__enter__()  # and never ended, as when the process is killed
    others = [tmp_path / name for name in ("weights.pt", ".hidden", ".my-part-of-it", "a-part-1")]
    for path in others:
        path.write_text("")
    assert left.exists()
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_good_write_replaces_and_makes_the_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file.txt"
    write_text(target, "whole")
    write_text(target, "whole again")
    assert target.read_text() == "whole again"
    assert target.stat().st_mode & 0o044, "others may read it, as they could any other new file"


def test_a_folder_as_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        write_text(tmp_path, "text")


def test_a_file_as_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "file" / "inside.txt", "text")


@pytest.mark.parametrize("check", [lambda path: write_text(path, "text"), expect_writable])
def test_what_is_no_file_stays(tmp_path: Path, check: Callable[[Path], None]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    for path in (tmp_path / "pipe", tmp_path / "null"):
        with pytest.raises(InputError, match="it is a device or a pipe; name a file"):
            check(path)
        assert path.exists()
        assert not path.is_file()
