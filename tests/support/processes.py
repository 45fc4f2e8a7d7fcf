"""Processes of tests: found by the kernel's own account, waited for by what they do, ended when their test ends.

Linux only; elsewhere nothing is found, and nothing is checked.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

# Seconds after which a wait gives up: far more than anything takes on a machine with other work.
LAST_RESORT = 600.0
# Seconds that a process may still need to exit once its test has ended.
EXIT = 60.0

PR_SET_CHILD_SUBREAPER = 36

# Of Python's own: they serve the whole session, and end with it. What a fork server has forked is no such helper.
HELPERS = ("multiprocessing.forkserver import main", "resource_tracker import main")


def adopt_orphans() -> None:
    """Makes processes whose parent has exited children of this one, where `left_behind` finds them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def children(pid: int) -> list[int]:
    """Numbers of the children of all threads of a process; of one that has exited, none."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs, the older generation first."""
    found = children(pid)
    return found + [each for child in found for each in descendants(child)]


def command_line(pid: int) -> str:
    """Of a process that runs; of one that has exited, the empty text."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def running() -> dict[int, str]:
    """Number and command line of every descendant of this process that is no helper of Python's."""
    own = children(os.getpid())
    inner = [each for child in own for each in descendants(child)]
    lines = {pid: command_line(pid) for pid in own if not any(helper in command_line(pid) for helper in HELPERS)}
    return lines | {pid: command_line(pid) for pid in inner}


def end(pids: Iterable[int]) -> None:
    """Kills processes, by number."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def left_behind(before: Iterable[int]) -> list[str]:
    """Ends the descendants that there were not before, and gives their command lines.

    Those that are about to exit get the time to, and are none of them.
    """
    until = time.monotonic() + EXIT
    while left := running().keys() - set(before):
        # Of an orphan there is nobody else to take note.
        for pid in list(left):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        lines = {pid: line for pid in left if (line := command_line(pid))}
        if not lines:
            return []
        if time.monotonic() > until:
            end(left)
            return list(lines.values())
        time.sleep(0.01)
    return []


def wait_until(condition: Callable[[], bool], process: subprocess.Popen | BaseProcess | None = None) -> None:
    """Polls until something is true. Fails when the process that is to bring it about exits without."""
    until = time.monotonic() + LAST_RESORT
    while not condition():
        if process is not None:
            over = process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
            assert over is None or condition(), f"exited with status {over} before"
        assert time.monotonic() < until, "the last resort: nothing has happened for too long"
        time.sleep(0.005)


@contextlib.contextmanager
def starting() -> Iterator[Callable[..., subprocess.Popen]]:
    """Gives what starts a process as `subprocess.Popen` does; leaving it, none of them runs, nor what they started."""
    started: list[subprocess.Popen] = []

    def start(*arguments, **options) -> subprocess.Popen:
        started.append(subprocess.Popen(*arguments, **options))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                end([*descendants(process.pid), process.pid])
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@contextlib.contextmanager
def forking(context: BaseContext) -> Iterator[Callable[..., BaseProcess]]:
    """Gives what starts a process that calls a function; leaving it, none of them runs."""
    started: list[BaseProcess] = []

    def fork(target: Callable[..., None], *arguments, **named) -> BaseProcess:
        started.append(context.Process(target=target, args=arguments, kwargs=named))
        started[-1].start()
        return started[-1]

    try:
        yield fork
    finally:
        for process in started:
            process.kill()
            process.join()
