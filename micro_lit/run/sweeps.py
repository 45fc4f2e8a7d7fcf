"""What a sweep does beside running its jobs: a failed one is noted and the others go on; a report closes it."""

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

# In the folder of a failed job: a line that says what went wrong, its overrides in another, a third that says which job
# of which command it was, then the traceback.
ERROR = "error.txt"
JOB = re.compile(r"job (\d+) of command ([0-9a-f]+)")


class Sweep(Callback):
    """Keeps a sweep going when one of its jobs fails, and ends it with a report of all; one of Hydra's callbacks.

    command: a random name of this command. Launchers hand the callback, and with it the name, to the processes of jobs.
    """

    def __init__(self) -> None:
        self.command = secrets.token_hex(8)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuses a sweep that a launcher has started in several processes, each of which would run the whole of it."""
        processes = max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
        if processes > 1 or "LOCAL_RANK" in os.environ:
            sys.exit(
                "error: a sweep started by torchrun or srun as one of several processes would run once in each; start "
                "it as one process, python -m micro_lit.train -m ...: every job starts the processes of its devices"
            )
        for path in Path(config.hydra.sweep.dir).rglob(ERROR):
            if not path.stat().st_size:  # of an earlier command: it does not say of which
                path.unlink()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Notes an exception in the folder of the job, whose value becomes nan; a job that succeeds clears the note."""
        folder = Path(config.hydra.runtime.output_dir)
        if job_return.status == JobStatus.COMPLETED:
            (folder / ERROR).unlink(missing_ok=True)
        elif config.hydra.mode == RunMode.MULTIRUN:
            error = job_return._return_value
            job_return.return_value, job_return.status = math.nan, JobStatus.COMPLETED
            details = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
            number = config.hydra.job.num
            note_failure(folder, job_return.overrides, in_one_line(error), details, number, self.command)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Reports on the jobs that have finished, names those that failed, and ends the command with status 1 then."""
        sweep = Path(config.hydra.sweep.dir)
        failed = failures(sweep, self.command)
        try:
            if next(sweep.rglob("results.json"), None):  # without one, what takes seconds to import is not needed
                self._report(config, sweep)
            else:
                print("no report: no job has finished")
        except Exception as error:  # the jobs have run, and those that failed are to be named
            again = f"python -m micro_lit.report runs={sweep}"
            print(f"no report: {in_one_line(error)}\nonce that is mended: {again}")
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
        runs.write([str(sweep)], spec, folder, settings, group=sweep.name)


class Failure(NamedTuple):
    """A job that failed: its folder, its overrides, and what went wrong in one line."""

    folder: Path
    overrides: list[str]
    error: str


def note_failure(folder: Path, overrides: Sequence[str], error: str, details: str, number: int, command: str) -> None:
    """Prints that a job failed, and leaves `error.txt` in its folder.

    number: of the job. command: the name of its command, see `Sweep`.
    """
    print(f"failed: {folder}/: {error}", flush=True)
    lines = [error, shlex.join(overrides), f"job {number} of command {command}", details]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).unlink(missing_ok=True)
        try:
            write_text(folder / ERROR, redact("\n".join(lines)))
        except OSError:  # where the disk is full there is an empty file, which says as much
            (folder / ERROR).touch()


def failures(sweep: Path, command: str) -> list[Failure]:
    """The jobs of a command that failed, in the order of their numbers; of no other command in the same folder."""
    found = []
    for path in sorted(sweep.rglob(ERROR)):
        error, overrides, job, *_ = [*path.read_text(encoding="utf-8").split("\n"), "", "", ""]
        if not error:
            found.append((math.inf, Failure(path.parent, [], f"{ERROR} is empty: is the disk full?")))
        elif (match := JOB.fullmatch(job)) and match[2] == command:
            found.append((int(match[1]), Failure(path.parent, shlex.split(overrides), error)))
    return [failure for _, failure in sorted(found, key=lambda each: each[0])]


def command_of(context: HydraContext) -> str:
    """The name of the sweep's command, see `Sweep`; an empty one where the sweep has no such callback."""
    callbacks = context.callbacks.callbacks
    return next((callback.command for callback in callbacks if isinstance(callback, Sweep)), "")


def in_one_line(error: Exception) -> str:
    """What a user's mistake says; of any other exception its type too."""
    message = " ".join(str(error).split())
    return message if isinstance(error, UserError) else f"{type(error).__name__}: {message}"


def job_folder(context: HydraContext, sweep: DictConfig, overrides: Sequence[str], number: int) -> Path:
    """The folder of a job of a sweep, which need not have run."""
    config = context.config_loader.load_sweep_config(sweep, list(overrides))
    with open_dict(config.hydra.job):
        config.hydra.job.id = config.hydra.job.num = number
    return Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
