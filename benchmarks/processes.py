"""Measurements in processes of their own: a high-water mark of memory does not go down."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def alone(module: str, name: str) -> dict[str, Any]:
    """What `python -m module name` prints, one JSON object."""
    command = [sys.executable, "-m", module, name]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def memory(what: str) -> float:
    """Bytes of the process, from the kernel: VmRSS held now, VmHWM held at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise OSError("the kernel does not tell the resident set")
