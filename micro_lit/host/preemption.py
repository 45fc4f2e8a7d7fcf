"""Handling of SIGTERM, which schedulers send before they take a machine away."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

# Exit status of a preempted process that should be started again: EX_TEMPFAIL of sysexits.h.
PREEMPTED = 75


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Context manager: a SIGTERM ends this process with the exit status `PREEMPTED`."""
    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread can install signal handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop(number: int, frame: Any) -> None:
    """Signal handler for phases in which nothing needs saving: exits with `PREEMPTED`."""
    sys.exit(PREEMPTED)
