"""A whole run, from texts to results, in a process that is killed at a given moment of its work."""

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

from micro_lit import train
from micro_lit.features import encoder

# Of Python's audit: before each of them a process may have left what the next one finds.
EVENTS = {"fcntl.flock", "open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}


def run(settings: dict[str, Any], output: Path, kill_at: int | None = None) -> None:
    """Runs settings as the command would; what it prints goes to the end of a file.

    kill_at: the process kills itself before so many accesses to files. None: never; their number is then written
    beside the output, with the ending .accesses.
    """
    printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(printed, stream)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    # Many shards, so that there is much to break.
    encoder.SHARD_BYTES = 1024
    accesses = itertools.count()

    def watch(event: str, _: tuple) -> None:
        if event in EVENTS and next(accesses) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    train.run(settings)
    if kill_at is None:
        output.with_suffix(".accesses").write_text(str(next(accesses)))
