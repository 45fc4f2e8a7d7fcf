"""A whole run, from texts to results, in a process that may be killed at any moment."""

import os
import sys
from pathlib import Path
from typing import Any

from micro_lit import train
from micro_lit.features import encoder


def run(settings: dict[str, Any], output: Path) -> None:
    """Runs settings as the command would; what it prints goes to the end of a file."""
    printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(printed, stream)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    # Many shards, so that there is much to break.
    encoder.SHARD_BYTES = 1024
    train.run(settings)
