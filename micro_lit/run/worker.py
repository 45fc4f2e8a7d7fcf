"""One worker process: a rank of a run on several devices, or a run beside others. Started by us, never typed.

`workers.start` starts the ranks of one run, `compare.side_by_side.train` one worker for each of several runs.
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
    """One process. It ends when the command that has started it does."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a cluster tells all processes; the one that waits passes it on
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it has ended already
        sys.exit(PREEMPTED)
    try:
        with stoppable():
            train(yaml.safe_load(Path(path).read_text()), brief=bool(brief))
    except Exception as error:
        failures.show_traceback(error)
        failure = failures.describe(error)
        workers.word_of(Path(path).parent, ranks.rank()).write_text(failure.line.removeprefix("error: "))
        sys.exit(failure.status)


if __name__ == "__main__":
    main(*sys.argv[1:])
