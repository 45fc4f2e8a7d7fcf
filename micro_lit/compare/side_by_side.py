"""Parallel training of candidates, each in a worker process, with the same result as `micro_lit.train` alone."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from micro_lit.config import Settings
from micro_lit.errors import ImpossibleResult, UserError
from micro_lit.host import threads
from micro_lit.host.preemption import PREEMPTED
from micro_lit.run import workers


def train_side_by_side(runs: Mapping[str, Settings], jobs: int) -> None:
    """Trains runs in worker processes, at most `jobs` at once; the CPUs are divided among them.

    Each printed line is prefixed with the name of its run. A failed run does not stop the others. A run whose results
    cannot be true marks them itself, and does not count as failed.

    Args:
        runs: settings of `micro_lit.train`, by name.
        jobs: largest number of workers at once.

    Raises:
        UserError: some runs failed; raised after all have ended, with the name of each and the reason.
        SystemExit: a worker was preempted; the exit status is `PREEMPTED`.
    """
    environment = os.environ | threads.share(min(jobs, len(runs))) | {"PYTHONUNBUFFERED": "1"}
    waiting, failed = list(runs.items()), []
    with tempfile.TemporaryDirectory() as folder, _terminated_at_exit() as running:
        while waiting or running:
            while waiting and len(running) < jobs:
                name, settings = waiting.pop(0)
                running.append(_Run(name, settings, Path(folder) / name, environment))
            time.sleep(0.05)
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                reason = run.end()
                if run.process.returncode == PREEMPTED:
                    sys.exit(PREEMPTED)
                if reason:
                    failed.append(f"candidates.{run.name}: {reason}")
    if failed:
        raise UserError("; ".join(failed))


class _Run:
    """The worker of one run, and a thread that prints its output."""

    def __init__(self, name: str, settings: Settings, folder: Path, environment: Mapping[str, str]) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True)
        path = folder / "settings.yaml"
        path.write_text(yaml.safe_dump(settings))
        # A process group of its own: Ctrl-C reaches the parent process only, which forwards it once.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "micro_lit.run.worker", str(path), str(os.getpid()), "brief"],
            env=environment, process_group=0, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        )  # fmt: skip
        self.printing = threading.Thread(target=self._print, daemon=True)
        self.printing.start()

    def _print(self) -> None:
        for line in self.process.stdout:
            # One write per line, so that lines of several threads do not interleave. With a closed stdout runs go on.
            with contextlib.suppress(OSError):
                sys.stdout.write(f"{self.name}: {line.rstrip()}\n" if line.strip() else "")
                sys.stdout.flush()

    def end(self) -> str | None:
        """Waits for the end of the worker and of its output; returns the reason of a failure, else None."""
        self.printing.join()
        self.process.stdout.close()
        code = self.process.wait()
        if code in (0, ImpossibleResult.status):
            return None
        message_file = workers.error_file(self.folder, 0)
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return message_file.read_text() if message_file.is_file() else f"ended with status {code}"


@contextlib.contextmanager
def _terminated_at_exit() -> Iterator[list[_Run]]:
    """Yields a list of runs, and terminates those in it at the end: SIGINT after Ctrl-C, else SIGTERM, then SIGKILL."""
    running: list[_Run] = []
    number = signal.SIGTERM
    try:
        yield running
    except KeyboardInterrupt:
        number = signal.SIGINT
        raise
    finally:
        for run in running:
            run.process.send_signal(number)
        deadline = time.monotonic() + workers.GRACE
        for run in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.process.wait(max(0.0, deadline - time.monotonic()))
            run.process.kill()
            run.end()
