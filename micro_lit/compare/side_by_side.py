"""Candidates that are trained side by side, each in a process of its own, as `micro_lit.train` would train it alone."""

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


def train(runs: Mapping[str, Settings], jobs: int) -> None:
    """Trains runs, at most `jobs` at once; the CPUs are shared out among these.

    What a run prints has its name before each line. A run that fails ends no other. Results that cannot be true are
    printed, written and marked by the run: no failure here.

    Raises:
        UserError: after all have ended, with the name of each that failed and the reason.
        SystemExit: with `PREEMPTED`, once one was told to stop.
    """
    environment = os.environ | threads.share(min(jobs, len(runs))) | {"PYTHONUNBUFFERED": "1"}
    waiting, failed = list(runs.items()), []
    with tempfile.TemporaryDirectory() as folder, _ending_them() as running:
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
    """The process of one run. Its lines are printed by a thread, for as long as it writes any."""

    def __init__(self, name: str, settings: Settings, folder: Path, environment: Mapping[str, str]) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True)
        path = folder / "settings.yaml"
        path.write_text(yaml.safe_dump(settings))
        # Of a group of its own: a Ctrl-C reaches the parent process alone, which passes it on once.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "micro_lit.run.worker", str(path), str(os.getpid()), "brief"],
            env=environment, process_group=0, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        )  # fmt: skip
        self.printing = threading.Thread(target=self._print, daemon=True)
        self.printing.start()

    def _print(self) -> None:
        for line in self.process.stdout:
            # One write a line: those of several threads do not interleave. Where nobody reads on, runs do not block.
            with contextlib.suppress(OSError):
                sys.stdout.write(f"{self.name}: {line.rstrip()}\n" if line.strip() else "")
                sys.stdout.flush()

    def end(self) -> str | None:
        """Why it has failed; None where it has not. All that it printed has been printed by then."""
        self.printing.join()
        self.process.stdout.close()
        code = self.process.wait()
        if code in (0, ImpossibleResult.status):
            return None
        word = workers.word_of(self.folder, 0)
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return word.read_text() if word.is_file() else f"ended with status {code}"


@contextlib.contextmanager
def _ending_them() -> Iterator[list[_Run]]:
    """A list of runs of which none is left when the block ends: what ends this process early is passed on to them."""
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
