"""Hydra plug-ins: the Optuna sweeper and the submitit launcher. Hydra finds plug-ins only in the package hydra_plugins.

Hydra imports this module at the start of every command, even for `--help`, so slow imports are inside functions.
"""

import contextlib
import math
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

EXTRA = "is not installed (pip install 'micro-lit[sweeps]')"


class OptunaSweeper(Sweeper):
    """Sweeper that runs an Optuna search with jobs as trials; settings: `conf/hydra/sweeper/optuna.yaml`.

    Args:
        params: settings to search, in addition to those of the command line.
        spec: see `micro_lit.run.search.search`.
    """

    def __init__(self, params: DictConfig, **spec: Any) -> None:
        self.params, self.spec = params, spec

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        try:
            from micro_lit.run import search
        except ModuleNotFoundError as error:
            sys.exit(f"error: hydra/sweeper=optuna: {error.name} {EXTRA}")
        from micro_lit.errors import UserError

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*(f"{name}={value}" for name, value in self.params.items()), *arguments])
        silent = self.config.hydra.job.config.override_dirname.exclude_keys
        try:
            search.search(OmegaConf.to_container(OmegaConf.create(self.spec)), overrides, silent, folder, self)
        except UserError as error:
            sys.exit(f"error: {error}")

    def run(self, batch: Sequence[list[str]], first: int) -> list[float]:
        """Runs one job per list of overrides, numbered from `first`, and returns their return values."""
        self.validate_batch_is_legal(batch)
        return [job.return_value for job in self.launcher.launch(batch, initial_job_idx=first)]

    def folder(self, overrides: Sequence[str], number: int) -> Path:
        """The output folder of a job."""
        from micro_lit.run import sweeps

        return sweeps.job_folder(self.hydra_context, self.config, overrides, number)


class SubmititLauncher(Launcher):
    """Launcher that runs each job in its own process by submitit, on a cluster or on this machine.

    A killed job does not affect the others. A job that is preempted or reaches its time limit saves its state and is
    queued again.

    Args:
        cluster: `slurm`, where the jobs of a batch form one array, or `local`.
        folder: folder for submitit's own files.
        max_num_timeout: how often a job may be queued again after a time-out.
        parameters: parameters of submitit, such as nodes; those that only SLURM has take the prefix `slurm_`.
    """

    def __init__(self, cluster: str, folder: str, max_num_timeout: int, **parameters: Any) -> None:
        self.cluster, self.jobs_folder, self.max_num_timeout = cluster, folder, max_num_timeout
        self.parameters = OmegaConf.to_container(OmegaConf.create(parameters))

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        try:
            from submitit import AutoExecutor
        except ModuleNotFoundError:
            sys.exit(f"error: hydra/launcher: submitit {EXTRA}")

        from micro_lit.host import threads

        timeouts = {f"{self.cluster}_max_num_timeout": self.max_num_timeout}
        try:
            executor = AutoExecutor(self.jobs_folder, cluster=self.cluster, **timeouts)
            executor.update_parameters(**self.parameters)
        except (RuntimeError, ValueError, NameError) as error:
            sys.exit(f"error: hydra.launcher: {error}")
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        overrides = [list(each) for each in job_overrides]
        # With cluster=local all jobs run at once, so they share the CPUs.
        with threads.shared(len(overrides)) if self.cluster == "local" else contextlib.nullcontext():
            jobs = executor.map_array(self, overrides, numbers, [Singleton.get_state()] * len(overrides))
        print(f"{len(jobs)} jobs started by {self.cluster}; their output is in {Path(self.jobs_folder).parent}/")
        try:
            return [self._returned(*each) for each in zip(jobs, overrides, numbers, strict=True)]
        except KeyboardInterrupt:
            for job in jobs:
                job.cancel(check=False)
            raise

    def _returned(self, job: Any, overrides: list[str], number: int) -> JobReturn:
        """Waits for the result of a job; nan if its process ended without one."""
        from micro_lit.run import sweeps

        try:
            return job.results()[0]
        except Exception as error:  # the exception for a lost job depends on the cluster
            folder = sweeps.job_folder(self.hydra_context, self.config, overrides, number)
            end = f"ended without a result, probably killed; its output is in {job.paths.folder}/"
            command = sweeps.command_of(self.hydra_context)
            sweeps.note_failure(folder, overrides, end, str(error), number, command)
            return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=math.nan)

    def __call__(self, overrides: list[str], number: int, singletons: dict[Any, Any]) -> JobReturn:
        """Runs one job, in the process that the cluster started for it."""
        from submitit import JobEnvironment

        Singleton.set_state(singletons)
        setup_globals()
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config.hydra.job):
            config.hydra.job.id, config.hydra.job.num = JobEnvironment().job_id, number
        with _queued_again():
            return run_job(
                task_function=self.task_function,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                hydra_context=self.hydra_context,
            )

    def checkpoint(self, overrides: list[str], *arguments: Any) -> Any:
        """Called by submitit to queue a job again: the same job, resumed from its last checkpoint."""
        from submitit.helpers import DelayedSubmission

        kept = [each for each in overrides if each.split("=")[0] not in ("overwrite", "ckpt_path")]
        return DelayedSubmission(self, [*kept, "ckpt_path=last"], *arguments)


@contextlib.contextmanager
def _queued_again() -> Iterator[None]:
    """Context manager: on the signal at which submitit queues a job again, the run first saves its state."""
    from micro_lit.host.preemption import PREEMPTED

    queue_again: Any = signal.getsignal(signal.SIGUSR2)  # submitit's handler, as is the next
    ignore = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: Any) -> None:
        handler: Any = signal.getsignal(signal.SIGTERM)
        if handler == ignore:
            queue_again(number, frame)
        else:
            handler(signal.SIGTERM, frame)

    signal.signal(signal.SIGUSR2, stop)
    try:
        yield
    except SystemExit as end:
        if end.code != PREEMPTED:
            raise
        queue_again(signal.SIGUSR2, None)
