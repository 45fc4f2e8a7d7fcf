"""Hyper-parameter search: Optuna proposes trials, the jobs of a sweep train them, validation loss selects the best.

Every trial is written to a journal before it is trained, and its sampler has its own seed. A killed search therefore
resumes with the same command and gives the same trials.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import filelock
import optuna
import yaml
from hydra.core.override_parser.types import IntervalSweep, Override
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.study import Study
from optuna.trial import TrialState

from micro_lit.errors import UserError
from micro_lit.host.files import cut_torn_line, write_text

SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "gp": "GPSampler"}
BEST_FILE = "best.yaml"

# Importances from fewer trials are meaningless.
TRIALS_FOR_IMPORTANCE = 10


@runtime_checkable
class Jobs(Protocol):
    """Protocol of the class that runs trials: trains a batch of jobs and gives the folder of each."""

    def run(self, batch: Sequence[list[str]], first: int) -> list[float]: ...

    def folder(self, overrides: Sequence[str], number: int) -> Path: ...


def search(
    spec: Mapping[str, Any], overrides: Sequence[Override], silent: Sequence[str], folder: Path, jobs: Jobs
) -> None:
    """Runs trials until `n_trials` are done, including those of earlier commands; writes best.yaml.

    A failed trial is recorded as failed, and the search goes on.

    Args:
        spec: settings as in conf/hydra/sweeper/optuna.yaml.
        overrides: Hydra overrides; those that sweep define the search space, the others are fixed for all trials.
        silent: names of overrides that do not affect results, left out when journals are compared.
        folder: folder for best.yaml.
        jobs: runs the trials.

    Raises:
        UserError: invalid search settings, or the journal holds a different search.
    """
    _check_study(spec)
    space = {each.get_key_element(): distribution(each) for each in overrides if each.is_sweep_override()}
    if not space:
        raise UserError("nothing to search: give a setting several values, as in model.num_heads=choice(1,2,4,8)")
    fixed = [each for each in overrides if not each.is_sweep_override()]
    relevant = [each.input_line for each in fixed if each.key_or_group not in silent]
    journal = Path(spec["storage"]).absolute()
    with _alone(journal):
        study = _open(journal, spec, space, sorted(relevant))
        given = [each.input_line for each in fixed]
        _run(study, spec, space, given, jobs)
        _conclude(study, spec, given, folder, jobs)


def _check_study(spec: Mapping[str, Any]) -> None:
    def refuse(name: str, allowed: str) -> None:
        raise UserError(f"hydra.sweeper.{name}={spec[name]!r} is not allowed; give {allowed}")

    if not str(spec["objective"]).startswith("validation."):
        refuse("objective", "a path below `validation` in results.json: what is searched on cannot test the winner")
    if spec["direction"] not in ("minimize", "maximize"):
        refuse("direction", "minimize or maximize")
    for name, least in {"n_trials": 1, "n_jobs": 1, "seed": 0}.items():
        if type(spec[name]) is not int or spec[name] < least:
            refuse(name, f"a whole number of at least {least}")
    if spec["sampler"] not in SAMPLERS:
        refuse("sampler", f"one of {', '.join(SAMPLERS)}")


def distribution(override: Override) -> BaseDistribution:
    """Converts an override in Hydra's sweep grammar into an Optuna distribution.

    An interval or a numeric range becomes a numeric distribution, logarithmic with tag(log, ...). Other sweeps become a
    categorical choice between the values as typed.

    Raises:
        UserError: the interval or range is empty or invalid.
    """
    swept = override.value()
    try:
        if isinstance(swept, IntervalSweep):
            kind = IntDistribution if isinstance(swept.start, int) else FloatDistribution
            return kind(swept.start, swept.end, log="log" in swept.tags)
        if override.is_range_sweep():
            values = sorted(override.sweep_iterator())
            whole = all(isinstance(value, int) for value in values)
            log = "log" in swept.tags
            step = None if log and not whole else abs(swept.step)
            return (IntDistribution if whole else FloatDistribution)(values[0], values[-1], log=log, step=step)
        return CategoricalDistribution(tuple(override.sweep_string_iterator()))
    except (ValueError, IndexError) as error:
        raise UserError(f"{override.input_line}: nothing to choose from ({error})") from error


@contextlib.contextmanager
def _alone(journal: Path) -> Iterator[None]:
    """Locks the journal: two commands on one journal would train each other's trials."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(f"{journal}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(f"{journal}: another command runs this search; give this one another name") from error
    with lock:
        yield


class _NoLock:
    """Dummy lock for Optuna's journal. `_alone` locks it already, and this leaves no lock file after a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _open(journal: Path, spec: Mapping[str, Any], space: Mapping[str, BaseDistribution], relevant: list[str]) -> Study:
    """The Optuna study of a journal: new, or started by an earlier command with the same settings."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if journal.exists():
        cut_torn_line(journal)
    storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=_NoLock()))
    study = optuna.create_study(study_name="search", storage=storage, direction=spec["direction"], load_if_exists=True)
    known = {
        "objective": spec["objective"],
        "direction": spec["direction"],
        "space": {name: optuna.distributions.distribution_to_json(each) for name, each in space.items()},
        "settings": relevant,
    }
    begun = study.user_attrs.get("search", known)
    for name, value in known.items():
        if begun[name] != value:
            raise UserError(
                f"{journal}: a search with another {name} ({begun[name]}, not {value}); give this one a name"
            )
    study.set_user_attr("search", known)
    return study


def _run(
    study: Study, spec: Mapping[str, Any], space: Mapping[str, BaseDistribution], fixed: list[str], jobs: Jobs
) -> None:
    """Runs trials in batches of `n_jobs` and reports their values to Optuna."""
    waiting = []  # numbers and values of trials that have not ended
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if trial.params.keys() == space.keys():
            waiting.append((trial.number, trial.params))
        else:  # the command was killed while it wrote this trial
            study.tell(trial.number, state=TrialState.FAIL)
    number = len(study.trials)
    while True:
        while number < spec["n_trials"] and (not waiting or number % spec["n_jobs"]):
            study.sampler = _sampler(spec, number)
            waiting.append((number, study.ask(dict(space)).params))
            number += 1
        if not waiting:
            return
        batch = [[*fixed, *_overrides(values)] for _, values in waiting]
        returned = jobs.run(batch, waiting[0][0])
        for (asked, values), overrides, result in zip(waiting, batch, returned, strict=True):
            value = _measured(spec["objective"], jobs.folder(overrides, asked)) if math.isfinite(result) else math.nan
            if math.isfinite(value):
                study.tell(asked, value)
            else:
                study.tell(asked, state=TrialState.FAIL)
            end = f"{spec['objective']} {value:.4f}" if math.isfinite(value) else "failed"
            shown = " ".join(_overrides(values))
            print(f"trial {asked} ({asked + 1} of {spec['n_trials']}): {end}, {shown}", flush=True)
        waiting = []


def _sampler(spec: Mapping[str, Any], number: int) -> optuna.samplers.BaseSampler:
    """A new sampler for each trial, so that an interruption does not change the proposals."""
    try:
        return getattr(optuna.samplers, SAMPLERS[spec["sampler"]])(seed=spec["seed"] + number, **spec["options"])
    except TypeError as error:
        raise UserError(f"hydra.sweeper.options: {error}") from error


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def _measured(objective: str, folder: Path) -> float:
    """The objective of a job; nan if its results are damaged. Raises `UserError` if they lack the objective."""
    from micro_lit.report import collect, results

    try:
        measured = results.read_results(folder)
    except UserError as error:
        print(error, flush=True)
        return math.nan
    found = collect.look_up(measured, objective)
    if found is None:
        raise UserError(f"hydra.sweeper.objective={objective}: {folder / results.FILE_NAME} does not hold it")
    return found["value"]


def _conclude(study: Study, spec: Mapping[str, Any], fixed: list[str], folder: Path, jobs: Jobs) -> None:
    """Prints the best trial and the importance of settings; writes best.yaml."""
    done = study.get_trials(states=[TrialState.COMPLETE])
    print(f"\n{len(study.trials)} trials, {len(study.trials) - len(done)} of them failed")
    if not done:
        return
    best = study.best_trial
    overrides = [*fixed, *_overrides(best.params)]
    where = jobs.folder(overrides, best.number)
    found = {
        "objective": spec["objective"],
        "value": best.value,
        "trial": best.number,
        "folder": str(where),
        "overrides": overrides,
    }
    write_text(folder / BEST_FILE, yaml.safe_dump(found, sort_keys=False))
    print(f"best: {spec['objective']} {best.value:.4f}, trial {best.number} in {where}/")
    print(f"  {' '.join(_overrides(best.params))}")
    if len(done) >= TRIALS_FOR_IMPORTANCE and len(best.params) > 1:
        shares = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        print("importance: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items()))
    print(f"wrote {folder / BEST_FILE}")
