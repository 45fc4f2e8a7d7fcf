"""Tests of what keeps tests from leaving processes and files behind."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest

TESTS = Path(__file__).parent
SLEEP = [sys.executable, "-c", "import time; time.sleep(1000)"]
# Starts a process and exits, so that this one is nobody's child.
ORPHAN = f"import subprocess; subprocess.Popen({SLEEP!r})"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(processes, "EXIT", 0.2)


def test_a_process_that_is_left_is_named_and_ended():
    before = list(processes.running())
    left = subprocess.Popen(SLEEP)
    processes.wait_until(lambda: "sleep" in processes.command_line(left.pid))
    [line] = processes.left_behind(before)
    assert "time.sleep(1000)" in line
    left.wait()
    assert processes.left_behind(before) == []


def test_a_process_without_a_parent_is_found():
    before = list(processes.running())
    subprocess.run([sys.executable, "-c", ORPHAN], check=True)
    [line] = processes.left_behind(before)
    assert "time.sleep(1000)" in line
    assert processes.left_behind(before) == []


def test_what_a_fork_server_has_forked_is_found_and_the_server_is_none_of_it():
    context = multiprocessing.get_context("forkserver")
    before = list(processes.running())
    process = context.Process(target=time.sleep, args=(1000,))
    process.start()
    assert len(processes.left_behind(before)) == 1
    process.join()
    assert process.exitcode == -9
    assert processes.left_behind(before) == []


def test_a_process_that_has_exited_is_not_left():
    before = list(processes.running())
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert processes.left_behind(before) == []


def test_a_wait_ends_with_its_process():
    with processes.starting() as start:
        process = start([sys.executable, "-c", "raise SystemExit(3)"])
        with pytest.raises(AssertionError, match="exited with status 3 before"):
            processes.wait_until(lambda: False, process)


def test_what_was_started_is_ended_with_all_that_it_started(tmp_path):
    script = f"{ORPHAN}; import time; open('started', 'w'); time.sleep(1000)"
    before = list(processes.running())
    with processes.starting() as start:
        process = start([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE)
        processes.wait_until((tmp_path / "started").exists, process)
        assert len(processes.running().keys() - set(before)) == 2
    assert process.returncode == -9
    assert processes.left_behind(before) == []


@pytest.mark.parametrize("file", ["slow.txt", "full.txt"])
def test_every_test_that_is_left_out_is_there(file):
    lines = (TESTS / file).read_text().splitlines()
    for name in (line for line in lines if not line.startswith("#")):
        path, *function = name.split("[")[0].split("::")
        assert not function or f"def {function[0]}(" in (TESTS.parent / path).read_text(), name
        assert (TESTS.parent / path).is_file(), name


SUSPECTS = f"""
import subprocess
from pathlib import Path

def test_clean(tmp_path):
    (tmp_path / "mine").touch()
    subprocess.run(["true"])

def test_process():
    subprocess.Popen({SLEEP!r}).returncode = 0  # else Python complains itself

def test_file():
    Path("runs").mkdir()

def test_after(start_process):
    start_process({SLEEP!r})
"""


def test_a_test_that_leaves_a_process_or_a_file_fails(tmp_path):
    """In a repository of its own, with the fixtures of this one."""
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "slow.txt", "full.txt"):
        shutil.copy(TESTS / name, tmp_path / "tests")
    support = (TESTS / "support" / "processes.py").read_text().replace("\nEXIT = 60.0\n", "\nEXIT = 0.2\n")
    (tmp_path / "tests" / "processes.py").write_text(support)
    (tmp_path / "tests" / "test_suspects.py").write_text(SUSPECTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:jaxtyping", "-rA", "tests"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    summary = {line.split(" - ")[0] for line in ended.stdout.splitlines() if "test_suspects.py::" in line}
    assert {each for each in summary if each.startswith("ERROR tests")} == {
        "ERROR tests/test_suspects.py::test_process",
        "ERROR tests/test_suspects.py::test_file",
    }, ended.stdout
    assert "processes are left running" in ended.stdout
    assert "left in the repository: ['runs']" in ended.stdout
