"""Files are written whole or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prune.common import files as atomic
from prune.common import run_dir, temporary
from prune.common.files import expect_writable, new_folder, replacing, sweep, together, write_text
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


def test_a_file_that_fails_inside_a_new_folder_is_named_as_the_user_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    bundle = tmp_path / "bundle"
    with pytest.raises(WriteError) as caught, new_folder(bundle) as folder:
        monkeypatch.setattr(os, "fsync", full)
        write_text(folder / "model.onnx", "half")
    assert str(caught.value) == f"cannot write {bundle / 'model.onnx'}: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_takes_the_folders_that_it_made_with_it(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for target in (old / "new" / "newer" / "a.txt", tmp_path / "runs" / "b.txt"):
        with pytest.raises(RuntimeError), together(target.with_suffix(".c"), target):
            raise RuntimeError("the writer died")
    with pytest.raises(RuntimeError), run_dir.run_folder(tmp_path / "runs" / "val", "exp"):
        raise RuntimeError("the scorer died")
    assert list(tmp_path.rglob("*")) == [old]
    write_text(old / "new" / "a.txt", "all of it")
    assert (old / "new" / "a.txt").read_text() == "all of it"


def left_by_a_killed_writer(target: Path) -> Path:
    """Make what a killed process leaves."""
    left = target.with_name(f".{target.stem}-part-abcd1234{target.suffix}")
    left.write_text("half")
    return left


def test_the_next_write_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "[weights].pt"
    left_by_a_killed_writer(target)
    names = (".hidden", ".[weights]-part-of-it.pt", ".w-part-12345678.pt", "a-part-1")
    others = [tmp_path / name for name in names]
    for path in others:
        path.write_text("")
    write_text(target, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([target, *others])


def test_the_temporary_file_of_a_writer_at_work_stays(tmp_path: Path) -> None:
    target = tmp_path / "weights.pt"
    with replacing(target) as part:
        part.write_text("of the first")
        write_text(target, "of the second")
        sweep(tmp_path)
        assert part.exists()
    assert target.read_text() == "of the first"
    assert list(tmp_path.iterdir()) == [target]


def test_without_locks_only_an_old_temporary_file_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary, "lock", lambda _: None)
    left = left_by_a_killed_writer(tmp_path / "a.txt")
    write_text(tmp_path / "a.txt", "text")
    assert left.exists()
    os.utime(left, (0, 0))
    write_text(tmp_path / "a.txt", "text")
    assert not left.exists()


def test_sweep_takes_what_killed_writers_of_a_folder_left(tmp_path: Path) -> None:
    for name in ("last.pt", "results.csv"):
        left_by_a_killed_writer(tmp_path / name)
    others = [tmp_path / name for name in ("weights.pt", ".hidden", ".my-part-of-it", "a-part-1")]
    for path in others:
        path.write_text("")
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("there", [True, False], ids=["file", "dangling"])
def test_a_link_is_written_through(tmp_path: Path, there: bool) -> None:
    real, link = tmp_path / "real" / "a.txt", tmp_path / "link.txt"
    real.parent.mkdir()
    if there:
        real.write_text("old")
    link.symlink_to(Path("real") / "a.txt")
    expect_writable(link)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert [path.name for path in real.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("check", [lambda path: write_text(path, "text"), expect_writable])
def test_a_loop_of_links_is_refused(tmp_path: Path, check: Callable[[Path], None]) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InputError, match="Too many levels of symbolic links"):
        check(tmp_path / "a")
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("name", ["n" * 255, "n" * 251 + ".txt", "n." + "s" * 253, "图" * 85])
def test_every_name_that_the_system_takes_can_be_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_umask_is_honoured(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "text")
        with new_folder(tmp_path / "new"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o750


def between_renames(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Fail the last rename, when all others are done."""

    def fail(_: Path, target: Path) -> Path:
        raise error

    monkeypatch.setattr(Path, "replace", fail)


@pytest.mark.parametrize("at_once", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("old", [True, False], ids=["old files", "no files"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()], ids=repr)
def test_what_belongs_together_is_all_old_or_all_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, old: bool, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr(atomic, "_exchanged_at_once", lambda *_: False)
    folder, cfg, weights = (tmp_path / name for name in ("d", "a.cfg", "a.weights"))

    def write(text: str) -> None:
        with together(cfg, weights, folder=folder) as (stage, first, second):
            for path in (stage / "inside.txt", first, second):
                path.write_text(text)

    def found() -> dict[str, str]:
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return {str(path.relative_to(tmp_path)): path.read_text() for path in files}

    if old:
        write("old")
    before = found()
    with monkeypatch.context() as patch:
        between_renames(patch, error)
        with pytest.raises((WriteError, KeyboardInterrupt)):
            write("new")
    assert found() == before
    assert folder.exists() == old
    write("new")
    assert set(found().values()) == {"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.cfg", "a.weights", "d"]


def test_a_signal_right_after_the_last_rename_undoes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def late(path: Path, target: Path) -> Path:
        replace(path, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", late)
    with (
        pytest.raises(KeyboardInterrupt),
        together(tmp_path / "a", tmp_path / "b") as parts,
    ):
        for part in parts:
            part.write_text("new")
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["new", "new"]


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
