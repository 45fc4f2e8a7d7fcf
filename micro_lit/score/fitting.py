"""Training from Python: the settings and the run of `micro_lit.train`, without a command line."""

import dataclasses
import functools
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from micro_lit import config
from micro_lit.config import Settings
from micro_lit.report import results
from micro_lit.run.training import train
from micro_lit.score.loaded import LoadedModel, load


def compose(overrides: Sequence[str] = (), command: str = "train") -> Settings:
    """The settings that `python -m micro_lit.<command> <overrides>` would run with.

    Args:
        overrides: in Hydra's grammar, as on a command line. Without `paths.run_dir`, a new folder is named in
            `runs/python/`.
        command: name of the command.

    Raises:
        UserError: a setting is not valid.
    """
    given = list(overrides)
    if not any(each.lstrip("+").startswith("paths.run_dir=") for each in given):
        given.append(f"paths.run_dir=runs/python/{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(3)}")
    return config.compose(command, given)


@dataclasses.dataclass(frozen=True)
class FinishedFit:
    """A finished run: its folder, and results.json as a mapping. `model` is loaded at its first use."""

    folder: Path
    results: Mapping[str, Any]

    @functools.cached_property
    def model(self) -> LoadedModel:
        return load(self.folder)


def fit(settings: Settings | Sequence[str]) -> FinishedFit:
    """Trains and tests one model, as `python -m micro_lit.train` does.

    Args:
        settings: settings from `compose`, or overrides.

    Raises:
        UserError: the settings or the data have an error that the user can correct.
    """
    settings = settings if isinstance(settings, dict) else compose(settings)
    train(settings)
    folder = Path(settings["paths"]["run_dir"])
    return FinishedFit(folder, results.read_results(folder))
