"""Tests of `micro_lit.files`: what is on the disk, in which order, and what an error or a second writer leaves."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from micro_lit import files


@pytest.fixture
def path(tmp_path) -> Path:
    """A file that exists, alone in its folder."""
    found = tmp_path / "results.json"
    files.write_text(found, "old")
    return found


def descriptors() -> set[str]:
    """Numbers of the open files of this process, without the one that lists them."""
    with os.scandir("/proc/self/fd") as entries:
        return {entry.name for entry in entries if Path(f"/proc/self/fd/{entry.name}").exists()}


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_when_it_returns(path, monkeypatch):
    calls: list[tuple[str, ...]] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        calls.append(("fsync", name) if os.path.isdir(name) else ("fsync", name, Path(name).read_text()))
        fsync(descriptor)

    def seen_replace(source: Path, target: Path) -> None:
        calls.append(("replace", str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    files.write_text(path, "new")
    partial = calls[0][1]
    assert calls == [("fsync", partial, "new"), ("replace", partial, str(path)), ("fsync", str(path.parent))]
    assert Path(partial).parent == path.parent
    assert partial.endswith(".partial")


def test_who_has_the_old_file_open_reads_it_to_its_end(path):
    files.write_text(path, "the old content")
    with path.open() as reader:
        assert reader.read(3) == "the"
        files.write_text(path, "new")
        assert reader.read() == " old content"
    assert path.read_text() == "new"


def fails_first(partial: Path) -> None:
    raise OSError("no space")


def fails_half_way(partial: Path) -> None:
    partial.write_text("ne")
    raise ZeroDivisionError


def is_interrupted(partial: Path) -> None:
    partial.write_text("ne")
    raise KeyboardInterrupt


def is_ended(partial: Path) -> None:
    partial.write_text("ne")
    raise SystemExit(75)


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (fails_first, OSError),
        (fails_half_way, ZeroDivisionError),
        (is_interrupted, KeyboardInterrupt),
        (is_ended, SystemExit),
    ],
)
def test_an_error_is_raised_and_leaves_everything_as_it_was(write: Callable[[Path], None], error, path):
    before = descriptors()
    with pytest.raises(error):
        files.write_whole(path, write)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    assert descriptors() == before


def test_a_disk_that_fails_to_sync_leaves_everything_as_it_was(path, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    before = descriptors()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    assert descriptors() == before


def test_a_name_that_cannot_be_taken_leaves_everything_as_it_was(tmp_path):
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        files.write_text(tmp_path / "taken", "new")
    assert [each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*")] == ["taken", "taken/inside"]


def test_writing_leaves_no_descriptor_open(path):
    before = descriptors()
    files.write_text(path, "new")
    assert descriptors() == before


def test_two_writers_of_one_process_do_not_meet(path):
    """As threads do: one writes from its beginning to its end while the other is in the middle."""

    def write_around(partial: Path) -> None:
        partial.write_text("outer")
        files.write_text(path, "inner")
        assert path.read_text() == "inner"
        assert partial.read_text() == "outer"

    files.write_whole(path, write_around)
    assert path.read_text() == "outer"
    assert list(path.parent.iterdir()) == [path]


def python(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", f"import os, sys\nfrom pathlib import Path\nfrom micro_lit import files\n{script}"]
    return subprocess.run([*command, *arguments], env=os.environ | environment, capture_output=True, check=False)


WRITE = "files.write_text(Path(sys.argv[1]), sys.argv[2])"


def test_two_processes_that_write_one_path_do_not_meet(path):
    def write_around(partial: Path) -> None:
        partial.write_text("outer")
        assert python(WRITE, str(path), "inner").returncode == 0
        assert path.read_text() == "inner"
        assert partial.read_text() == "outer"

    files.write_whole(path, write_around)
    assert path.read_text() == "outer"
    assert list(path.parent.iterdir()) == [path]


def test_a_writer_that_is_killed_leaves_the_old_content(path):
    script = """
def write(partial):
    partial.write_text("ne")
    os.kill(os.getpid(), 9)

files.write_whole(Path(sys.argv[1]), write)
"""
    assert python(script, str(path)).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new"


def test_text_is_utf_8_whatever_the_locale(path):
    ended = python(
        "files.write_text(Path(sys.argv[1]), chr(960))", str(path), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert ended.returncode == 0, ended.stderr
    assert path.read_bytes() == b"\xcf\x80"
