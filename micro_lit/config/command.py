"""Commands: a function of settings becomes `python -m micro_lit.<name>`."""

import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from micro_lit.config.composition import config_dir, in_sweep, to_settings
from micro_lit.config.rules import Settings
from micro_lit.errors import UserError
from micro_lit.preemption import stoppable
from micro_lit.redaction import redact_yaml


def entry_point(config_name: str) -> Callable[[Callable[[Settings], Any]], Callable[[], None]]:
    """Makes a command of a function of settings: composes, validates, runs; a user's mistake becomes one line.

    The function under the command stays importable as it is, and returns what it measured.
    """

    def decorate(run: Callable[[Settings], Any]) -> Callable[[], None]:
        @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)
        @functools.wraps(run)
        def command(config: DictConfig) -> Any:
            _redact_hydras_files()
            try:
                with stoppable():
                    return run(to_settings(config))
            except UserError as error:
                if in_sweep() and HydraConfig.get().callbacks:
                    raise  # to `sweeps.Sweep`, which goes on with the other jobs
                sys.exit(f"error: {error}")

        return command

    return decorate


def _redact_hydras_files() -> None:
    """Leaves no secret of the command line in the files that Hydra has just written."""
    node = HydraConfig.get()
    written = [Path(node.sweep.dir, "multirun.yaml")] if in_sweep() else []
    if node.output_subdir is not None:
        written += Path(node.runtime.output_dir, node.output_subdir).glob("*.yaml")
    for path in written:
        with contextlib.suppress(FileNotFoundError):
            redact_yaml(path)
