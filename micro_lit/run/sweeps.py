"""Error handling of sweeps: failed jobs are recorded, the other jobs continue, and a report is written at the end."""

import contextlib
import math
import os
import re
import secrets
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from micro_lit.config.redaction import redact
from micro_lit.errors import UserError
from micro_lit.host.files import write_text

# File in the folder of a failed job. Line 1: the error; line 2: overrides; line 3: number of the job and name of the
# command; then the traceback.
ERROR = "error.txt"
JOB = re.compile(r"job (\d+) of command ([0-9a-f]+)")


class Sweep(Callback):
    """Hydra callback that keeps a sweep running when a job fails and writes a report at the end.

    Attributes:
        command: random name of this command. Launchers pass the callback, and thus the name, to job processes.
    """

    def __init__(self) -> None:
        self.command = secrets.token_hex(8)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuses a sweep started as several processes by torchrun or srun: each would run the whole sweep."""
        processes = max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
        if processes > 1 or "LOCAL_RANK" in os.environ:
            sys.exit(
                "error: a sweep started by torchrun or srun as one of several processes would run once in each; start "
                "it as one process, python -m micro_lit.train -m ...: every job starts the processes of its devices"
            )
        for path in Path(config.hydra.sweep.dir).rglob(ERROR):
            if not path.stat().st_size:  # left by an earlier command, which cannot be identified
                path.unlink()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Writes error.txt for a failed job and sets its value to nan; removes error.txt of a job that succeeded."""
        folder = Path(config.hydra.runtime.output_dir)
        if job_return.status == JobStatus.COMPLETED:
            (folder / ERROR).unlink(missing_ok=True)
        elif config.hydra.mode == RunMode.MULTIRUN:
            error = job_return._return_value
            job_return.return_value, job_return.status = math.nan, JobStatus.COMPLETED
            details = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
            number = config.hydra.job.num
            note_failure(folder, job_return.overrides, message_of(error), details, number, self.command)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Writes the report, lists the failed jobs, and exits with status 1 if there are any."""
        sweep = Path(config.hydra.sweep.dir)
        failed = failures(sweep, self.command)
        try:
            if next(sweep.rglob("results.json"), None):  # avoids a slow import if there is nothing to report
                self._report(config, sweep)
            else:
                print("no report: no job has finished")
        except Exception as error:  # failed jobs must still be listed
            again = f"python -m micro_lit.report runs={sweep}"
            print(f"no report: {message_of(error)}\nonce that is fixed: {again}")
        typed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        shared = {each.get_key_element() for each in typed if not each.is_sweep_override()}
        for failure in failed:
            own = [each for each in failure.overrides if each.split("=")[0] not in shared]
            print(f"failed: {failure.folder}/ ({shlex.join(own)}): {failure.error}")
        if failed:
            sys.exit(1)

    def _report(self, config: DictConfig, sweep: Path) -> None:
        from micro_lit.report import runs

        spec = OmegaConf.to_container(config.report, resolve=True)
        folder = Path(spec["out"] or sweep / "report")
        OmegaConf.set_readonly(config, False)
        config.paths.run_dir = str(folder)
        kept = [key for key in ("logger", "packages") if config.get(key) is not None]
        settings = {key: OmegaConf.to_container(config[key], resolve=True) for key in kept} | {"report": spec}
        runs.write_report([str(sweep)], spec, folder, settings, group=sweep.name)


class FailedJob(NamedTuple):
    """A failed job: folder, overrides and a one-line error."""

    folder: Path
    overrides: list[str]
    error: str


def note_failure(folder: Path, overrides: Sequence[str], error: str, details: str, number: int, command: str) -> None:
    """Prints that a job failed and writes `error.txt` into its folder.

    Args:
        folder: folder of the job.
        overrides: Hydra overrides of the job.
        error: message in one line.
        details: traceback, or an empty string.
        number: number of the job.
        command: name of its command, see `Sweep`.
    """
    print(f"failed: {folder}/: {error}", flush=True)
    lines = [error, shlex.join(overrides), f"job {number} of command {command}", details]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).unlink(missing_ok=True)
        try:
            write_text(folder / ERROR, redact("\n".join(lines)))
        except OSError:  # disk full: `failures` reads an empty file as that
            (folder / ERROR).touch()


def failures(sweep: Path, command: str) -> list[FailedJob]:
    """Failed jobs of one command, ordered by number; other commands in the same folder are ignored."""
    found = []
    for path in sorted(sweep.rglob(ERROR)):
        error, overrides, job, *_ = [*path.read_text(encoding="utf-8").split("\n"), "", "", ""]
        if not error:
            found.append((math.inf, FailedJob(path.parent, [], f"{ERROR} is empty: is the disk full?")))
        elif (match := JOB.fullmatch(job)) and match[2] == command:
            found.append((int(match[1]), FailedJob(path.parent, shlex.split(overrides), error)))
    return [failure for _, failure in sorted(found, key=lambda each: each[0])]


def command_of(context: HydraContext) -> str:
    """The name of the sweep's command, see `Sweep`; an empty string if the sweep has no such callback."""
    callbacks = context.callbacks.callbacks
    return next((callback.command for callback in callbacks if isinstance(callback, Sweep)), "")


def message_of(error: Exception) -> str:
    """The message of an exception on one line, preceded by its type unless it is a `UserError`."""
    message = " ".join(str(error).split())
    return message if isinstance(error, UserError) else f"{type(error).__name__}: {message}"


def job_folder(context: HydraContext, sweep: DictConfig, overrides: Sequence[str], number: int) -> Path:
    """The folder of a sweep's job, whether or not it has run."""
    config = context.config_loader.load_sweep_config(sweep, list(overrides))
    with open_dict(config.hydra.job):
        config.hydra.job.id = config.hydra.job.num = number
    return Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
