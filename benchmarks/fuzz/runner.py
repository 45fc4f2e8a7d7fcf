"""Runs cases, each in a forked child process."""

import contextlib
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.fuzz.cases import FOLDER, Case, Outcome
from micro_lit.config import failures

# Timeout of a case, far more than any case needs.
SECONDS = 120.0


def run(case: Case, folder: Path) -> Outcome:
    """Creates the folder and runs the case there, in a child process with that working directory.

    The child leads a process group, which is killed when the child exits.
    """
    folder.mkdir(parents=True)
    output, errors = folder.with_suffix(".out"), folder.with_suffix(".err")
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os._exit(_in_child(case, folder, output, errors))
    status = _wait(child)
    with contextlib.suppress(ProcessLookupError):  # the group has no processes left
        os.killpg(child, signal.SIGKILL)
    return Outcome(status, output.read_text(errors="replace"), errors.read_text(errors="replace"))


def call(case: Case, folder: Path) -> None:
    """Runs a case in this process. Raises `SystemExit` like its command."""
    if case.prepare is not None:
        case.prepare(folder)
    if case.act is not None:
        with _one_line():
            case.act(folder)
        return
    module = importlib.import_module(f"micro_lit.{case.command}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.__main__")
    sys.argv = [f"micro_lit.{case.command}", *(each.replace(FOLDER, str(folder)) for each in case.arguments)]
    module.main()


def _in_child(case: Case, folder: Path, output: Path, errors: Path) -> int:
    os.setsid()
    for path, stream in ((output, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.chdir(folder)
    try:
        return _status(lambda: call(case, folder))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _status(act: Callable[[], None]) -> int:
    """Calls `act` and returns the exit status that Python would have."""
    try:
        act()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    except BaseException as error:
        traceback.print_exception(error)
        return 1
    return 0


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        failures.end(error)


def _wait(child: int) -> int | None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
