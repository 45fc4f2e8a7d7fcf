"""What a sweep does beside running its jobs: a failed one is noted and the others go on; a report closes it."""

import contextlib
import math
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from micro_lit.errors import UserError

# In the folder of a failed job: a line that says what went wrong, its overrides in another, then the traceback.
ERROR = "error.txt"


class Sweep(Callback):
    """Keeps a sweep going when one of its jobs fails, and ends it with a report of all; one of Hydra's callbacks."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuses a sweep that a launcher has started in several processes, each of which would run the whole of it."""
        processes = max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
        if processes > 1 or "LOCAL_RANK" in os.environ:
            sys.exit(
                "error: a sweep started by torchrun or srun as one of several processes would run once in each; start "
                "it as one process, python -m micro_lit.train -m ...: every job starts the processes of its devices"
            )

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Notes an exception in the folder of the job, whose value becomes nan; a job that succeeds clears the note."""
        folder = Path(config.hydra.runtime.output_dir)
        if job_return.status == JobStatus.COMPLETED:
            (folder / ERROR).unlink(missing_ok=True)
        elif config.hydra.mode == RunMode.MULTIRUN:
            error = job_return._return_value
            job_return.return_value, job_return.status = math.nan, JobStatus.COMPLETED
            details = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
            note_failure(folder, job_return.overrides, in_one_line(error), details)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Reports on the jobs that have finished, names those that failed, and ends the command with status 1 then."""
        sweep = Path(config.hydra.sweep.dir)
        failed = list(failures(sweep))
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
        from micro_lit.reporting import report

        spec = OmegaConf.to_container(config.report, resolve=True)
        folder = Path(spec["out"] or sweep / "report")
        OmegaConf.set_readonly(config, False)
        config.paths.run_dir = str(folder)
        wandb = OmegaConf.select(config, "logger.wandb")
        if wandb is not None:
            wandb = {**OmegaConf.to_container(wandb, resolve=True), "group": sweep.name}
        report.write([str(sweep)], spec, folder, wandb)


class Failure(NamedTuple):
    """A job that failed: its folder, its overrides, and what went wrong in one line."""

    folder: Path
    overrides: list[str]
    error: str


def note_failure(folder: Path, overrides: Sequence[str], error: str, details: str) -> None:
    """Says that a job failed, and leaves `error.txt` in its folder."""
    print(f"failed: {folder}/: {error}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    # Where the disk is full there is an empty file, which says as much.
    with contextlib.suppress(OSError):
        (folder / ERROR).write_text("\n".join([error, shlex.join(overrides), details]), encoding="utf-8")


def failures(sweep: Path) -> Iterator[Failure]:
    """The failed jobs of the last command that ran in the folder of a sweep, in the order in which they failed."""
    notes = {path: path.stat().st_mtime_ns for path in sweep.rglob(ERROR)}
    begun = (sweep / "multirun.yaml").stat().st_mtime_ns  # written by the sweeper before its first job
    for path in sorted(notes, key=notes.__getitem__):
        if notes[path] >= begun:
            error, overrides, *_ = [*path.read_text(encoding="utf-8").split("\n"), "", ""]
            yield Failure(path.parent, shlex.split(overrides), error or f"{ERROR} is empty: is the disk full?")


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
