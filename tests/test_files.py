"""Tests of `micro_lit.host.files`: what is on the disk, in which order, and what an error or a second writer leaves."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from full_disk import full_disk

from micro_lit.host import files


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


def removes_its_file(partial: Path) -> None:
    partial.unlink()
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (fails_first, OSError),
        (removes_its_file, ZeroDivisionError),
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
    command = [
        sys.executable,
        "-c",
        f"import os, sys\nfrom pathlib import Path\nfrom micro_lit.host import files\n{script}",
    ]
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


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    files.write_text(path, "old")
    with full_disk("a.json"), pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new" * 10_000)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.json"}


KILLED = """
import os, signal, sys
from pathlib import Path
from micro_lit.host import files

def write(partial):
    partial.write_text("half")
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.read()
    partial.write_text("whole")

files.write_whole(Path(sys.argv[1]), write)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_and_that_of_a_live_one_stays(tmp_path):
    path = tmp_path / "a.json"
    killed = subprocess.run([sys.executable, "-c", KILLED, path, "die"], check=False)
    assert killed.returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    assert left.read_text() == "half"
    command = [sys.executable, "-c", KILLED, path, "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as live:
        assert live.stdout.readline() == "writing\n"
        at_work = names(tmp_path) - {left.name}
        files.write_text(path, "ours")
        assert names(tmp_path) == at_work | {"a.json"}
        assert path.read_text() == "ours"
        live.communicate()
    assert live.returncode == 0
    assert path.read_text() == "whole"
    assert names(tmp_path) == {"a.json"}


def test_partials_of_other_names_and_other_files_stay(tmp_path):
    for name in ("b.json.0a1b2c.partial", "a.json.0a1b2c.partial", "a.jsonl", "partial"):
        (tmp_path / name).touch()
    files.write_text(tmp_path / "a.json", "x")
    assert names(tmp_path) == {"b.json.0a1b2c.partial", "a.json", "a.jsonl", "partial"}
    files.remove_partials(tmp_path)
    assert names(tmp_path) == {"a.json", "a.jsonl", "partial"}


def test_a_name_is_no_pattern(tmp_path):
    path, other = tmp_path / "[ab].json", tmp_path / f"a.json.{'0' * 12}.partial"
    left = tmp_path / f"{path.name}.{'0' * 12}.partial"
    for each in (left, other):
        each.touch()
    files.write_text(path, "new")
    assert names(tmp_path) == {path.name, other.name}


def refused(*_) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_is_whole_and_never_takes_the_place_of_another(links, tmp_path, monkeypatch):
    """links: whether the file system has hard links and locks."""
    path, fsync, synced = tmp_path / "new.json", os.fsync, []

    def seen_fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    if not links:
        monkeypatch.setattr(os, "link", refused)
        monkeypatch.setattr(files.fcntl, "flock", refused)
    before = descriptors()
    files.write_new(path, lambda partial: partial.write_text("first"))
    assert path.read_text() == "first"
    assert synced[0].endswith(".partial")
    assert synced[1:] == [*([] if links else ["new.json"]), tmp_path.name]
    with pytest.raises(FileExistsError):
        files.write_new(path, lambda partial: partial.write_text("second"))
    assert path.read_text() == "first"
    assert names(tmp_path) == {"new.json"}
    assert descriptors() == before


def test_a_partial_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Another process cleans the folder between the two."""
    real, removed = files.fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            [partial] = tmp_path.glob("*.partial")
            partial.unlink()
            removed.append(partial)
        real(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "flock", flock)
    files.write_text(tmp_path / "a.json", "x")
    assert (tmp_path / "a.json").read_text() == "x"
    assert names(tmp_path) == {"a.json"}


def test_new_files_have_the_rights_of_any_other(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a.json", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_torn_last_line_is_cut(tmp_path):
    path = tmp_path / "a.csv"
    for content, kept in ((b"a\nb\nc", b"a\nb\n"), (b"a\n", b"a\n"), (b"a", b""), (b"", b"")):
        path.write_bytes(content)
        files.cut_torn_line(path)
        assert path.read_bytes() == kept
