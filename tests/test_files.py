"""Tests of `micro_lit.files`: whole or not at all, whatever happens to the writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from full_disk import full_disk

from micro_lit import files


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    files.write_text(path, "old")
    with full_disk("a.json"), pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new" * 10_000)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.json"}


def test_a_writer_that_raises_half_way_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_text(path, "old")

    def write(partial: Path) -> None:
        partial.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_whole(path, write)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.json"}


KILLED = """
import os, signal, sys
from pathlib import Path
from micro_lit import files

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
