"""What a SIGTERM does, which a scheduler sends before it takes a machine away."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

# Exit status of what was told to stop and wants to be started again: EX_TEMPFAIL of sysexits.h.
PREEMPTED = 75


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """While inside, a SIGTERM ends this process with the exit status `PREEMPTED`, whatever it is doing."""
    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread hears signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop(number: int, frame: Any) -> None:
    """The handler where nothing is left to be saved."""
    sys.exit(PREEMPTED)
