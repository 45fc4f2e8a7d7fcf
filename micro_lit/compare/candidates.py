"""Candidates of the comparison: trained models, and their margins and weights on every row.

Dimension letters: N pairs, K heads.
"""

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import HydraException
from numpy.typing import NDArray

from micro_lit.compare import side_by_side
from micro_lit.config import Settings, build, compose, quoted
from micro_lit.config.redaction import hidden_in
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import ImpossibleResult, UserError
from micro_lit.host import devices, threads
from micro_lit.likelihood import Link
from micro_lit.models import MixtureBT
from micro_lit.report.results import FILE_NAME, flatten
from micro_lit.run import run_folder
from micro_lit.run.restored import NO_TRUST, Trust, read_settings, restore
from micro_lit.run.training import train

Array = NDArray[np.float64]

JUDGED = ("margins_BK", "log_weights_BK", "dense_log_weights_BK")


class Candidate:
    """A trained model and its outputs on all rows of the data, computed on first access.

    Args:
        name: name in tables.
        folder: run folder of the model.
        data: input of the model; criteria are hidden in it when attributes are compared.
        batch_size: number of pairs per forward pass.
    """

    def __init__(self, name: str, folder: Path, model: MixtureBT, data: PreferenceData, batch_size: int) -> None:
        self.name, self.folder, self.model, self.data = name, folder, model, data
        self.batch_size = batch_size

    @property
    def link(self) -> Link:
        return self.model.link

    @property
    def num_heads(self) -> int:
        return self.model.num_heads

    @cached_property
    def _judged(self) -> dict[str, Array]:
        return judge_rows(self.model, self.data, self.batch_size)

    @property
    def margins_NK(self) -> Array:
        """Reward margins [N, K] of every head."""
        return self._judged["margins_BK"]

    @property
    def log_weights_NK(self) -> Array:
        """Log weights [N, K] of the model's own gate."""
        return self._judged["log_weights_BK"]

    @property
    def dense_log_weights_NK(self) -> Array:
        """Log weights [N, K] before a sparse gate drops heads; equal to `log_weights_NK` for dense gates."""
        return self._judged["dense_log_weights_BK"]

    @cached_property
    def prior_K(self) -> Array:
        """Mean gate weights [K] over training pairs; the weights before any label."""
        weights_K = np.exp(self.log_weights_NK[self.data.splits["train"].numpy()]).mean(axis=0)
        return weights_K / weights_K.sum()


def train_missing(candidates: Mapping[str, str | Sequence[str]], settings: Settings) -> dict[str, Path]:
    """Trains the candidates that have no finished run, and returns the run folder of every candidate.

    Trained runs are cached in `candidates/<name>/<seed>/<candidate>` of `paths.output_dir`; an interrupted run is
    resumed from its last checkpoint. When the settings or the data of a candidate have changed, the run gets a new
    folder. With `jobs` above 1 several candidates are trained in parallel.

    Args:
        candidates: for each name a run folder, or a list of overrides of `micro_lit.train`.
        settings: settings of `micro_lit.compare`.

    Returns:
        The run folder of each candidate.

    Raises:
        UserError: the overrides of a candidate are invalid, or a parallel run failed.
    """
    folders, made = {}, {}
    for name, given in candidates.items():
        if isinstance(given, str):
            folders[name] = Path(given)
            continue
        folder = Path(settings["paths"]["output_dir"]) / "candidates" / settings["name"] / str(settings["seed"]) / name
        run = _compose(name, given, settings, folder)
        if (folder / run_folder.CONFIG).is_file() and run_folder.differences(folder, run):
            folder = folder.with_name(f"{name}-{run_folder.fingerprint(run)}")
            run = _compose(name, given, settings, folder)
        folders[name], made[name] = folder, run
    missing = {name: run for name, run in made.items() if run["overwrite"] or not (folders[name] / FILE_NAME).is_file()}
    beside = missing if settings["jobs"] > 1 and len(missing) > 1 else {}
    for name in [name for name in made if name not in beside]:
        print(f"\n== {name}")
        with contextlib.suppress(ImpossibleResult):  # printed by the run; the comparison checks results itself
            train(made[name], brief=True)
    if beside:
        print(f"\n== {', '.join(beside)}, {min(settings['jobs'], len(beside))} at once", flush=True)
        settled = {name: run | {"threads": run["threads"] or settings["threads"]} for name, run in beside.items()}
        side_by_side.train_side_by_side(settled, settings["jobs"])
    return folders


def _compose(name: str, given: Sequence[str], settings: Settings, folder: Path) -> Settings:
    """Composes the settings of the run that trains a candidate in a folder."""
    own = {**settings["paths"], "run_dir": str(folder)}
    shared = [f"seed={settings['seed']}", f"packages={settings['packages']}", "ckpt_path=last"]
    try:
        return compose("train", [*given, *shared, *(f"paths.{key}={quoted(path)}" for key, path in own.items())])
    except (HydraException, UserError) as error:
        raise UserError(f"candidates.{name}={list(given)}: {str(error).splitlines()[0]}") from error


def load_data(folders: Mapping[str, Path], criteria: str | None = None, trust: Trust = NO_TRUST) -> PreferenceData:
    """Loads the pairs that all runs share.

    Args:
        folders: run folders by candidate.
        criteria: `given`, `hidden` or `shuffled`; None: as in the settings of the runs, which must then agree.
        trust: code that the settings of the runs may execute.

    Raises:
        UserError: the runs differ in data or seed, so that their test rows would differ.
    """
    [(name, first), *others] = [(name, _rows(folder, criteria, trust)) for name, folder in folders.items()]
    known = flatten(first)
    for other, settings in others:
        found = flatten(settings)
        if differing := sorted(key for key in known.keys() | found.keys() if known.get(key) != found.get(key)):
            raise UserError(
                f"candidates {name} and {other} were not trained on the same data ({', '.join(differing)} differ); "
                "compare runs of one data set and one seed"
            )
    return build(first["data"]).load(first["seed"])


def restore_all(folders: Mapping[str, Path], data: PreferenceData, settings: Settings) -> dict[str, Candidate]:
    """Restores the model of every run. settings: settings of `micro_lit.compare`."""
    features_dir, batch_size = Path(settings["paths"]["features_dir"]), settings["loader"]["eval_batch_size"]
    trust = Trust.of(settings)
    return {
        name: Candidate(name, folder, restore(folder, data, features_dir, trust), data, batch_size)
        for name, folder in folders.items()
    }


@torch.no_grad()
def judge_rows(model: MixtureBT, data: PreferenceData, batch_size: int) -> dict[str, Array]:
    """Computes margins and log weights [N, K] of all rows, in float64, by field name of `Judgment`."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in JUDGED}
    with threads.using(model.backbone), devices.judging(model) as device:
        for row_B in torch.arange(len(data.pairs)).split(batch_size):
            judgment = model(data.pairs[row_B].to(device))
            for name, parts in found.items():
                parts.append(getattr(judgment, name).double().cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def _rows(folder: Path, criteria: str | None, trust: Trust) -> Settings:
    """Settings that determine the rows of a run: its seed and data, with criteria replaced unless None."""
    settings = read_settings(folder, trust)
    if hidden := hidden_in({"data": settings["data"]}):
        raise UserError(
            f"{folder}: its data cannot be read again, {', '.join(hidden)} held a secret that config.yaml does not; "
            "train it on a path or address without one"
        )
    data = settings["data"] if criteria is None else _with_criteria(settings["data"], criteria)
    return {"seed": settings["seed"], "data": data}


def _with_criteria(data: Mapping[str, Any], criteria: str) -> dict[str, Any]:
    """Replaces `criteria` in the settings of a data set, or of every set of a mixture of sets."""
    if "sets" in data:
        return {**data, "sets": {name: _with_criteria(each, criteria) for name, each in data["sets"].items()}}
    return {**data, "criteria": criteria}
