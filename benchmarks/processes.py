"""Runs measurements in separate processes, because the peak memory of a process never decreases."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def alone(module: str, name: str) -> dict[str, Any]:
    """Runs `python -m module name` and parses its output, one JSON object."""
    command = [sys.executable, "-m", module, name]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def memory(what: str) -> float:
    """Resident memory of this process in bytes: "VmRSS" for the current value, "VmHWM" for the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise OSError("the kernel does not tell the resident set")
