"""Entry point of a worker process: one rank of a run on several devices, or one of several runs side by side.

Users never type it: `workers.start` starts the ranks of one run, `compare.side_by_side` one worker per run.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

import yaml

from micro_lit.config import failures
from micro_lit.host import ranks
from micro_lit.host.preemption import PREEMPTED, stoppable
from micro_lit.run import workers
from micro_lit.run.training import train

PR_SET_PDEATHSIG = 1


def main(path: str, parent: str, *brief: str) -> None:
    """Trains in this process. On Linux it receives SIGTERM when its parent process ends."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # clusters signal all processes; the parent process forwards it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # the parent exited before prctl took effect
        sys.exit(PREEMPTED)
    try:
        with stoppable():
            train(yaml.safe_load(Path(path).read_text()), brief=bool(brief))
    except Exception as error:
        failures.show_traceback(error)
        failure = failures.describe(error)
        workers.error_file(Path(path).parent, ranks.rank()).write_text(failure.line.removeprefix("error: "))
        sys.exit(failure.status)


if __name__ == "__main__":
    main(*sys.argv[1:])
