"""Tests of searches: what is proposed, what decides, and going on after a kill."""

import contextlib
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import hydra
import optuna
import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from micro_lit import config, train
from micro_lit.errors import UserError
from micro_lit.run import search

SPACE = (
    "model.optimizer.lr=tag(log,interval(1e-4,1))",
    "model.num_heads=choice(1,2,4,8)",
    "loader.batch_size=range(2,9)",
)


def parse(*overrides: str):
    return OverridesParser.create().parse_overrides(list(overrides))


class Bowl:
    """Jobs whose validation loss is a bowl around lr = 0.01, least with 4 heads; their test loss would choose another.

    stop_at: the batch at whose beginning the process ends, as `stop` says. nan: heads whose jobs fail.
    """

    def __init__(self, root: Path, stop_at: int | None = None, nan: str | None = None) -> None:
        self.root, self.stop_at, self.nan = root, stop_at, nan
        self.batches: list[list[list[str]]] = []

    def stop(self) -> None:
        raise KeyboardInterrupt

    def run(self, batch, first: int) -> list[float]:
        if len(self.batches) == self.stop_at:
            self.stop()
        self.batches.append(list(batch))
        return [self.train(overrides, first + number) for number, overrides in enumerate(batch)]

    def train(self, overrides, number: int) -> float:
        values = dict(override.split("=", 1) for override in overrides)
        if values["model.num_heads"] == self.nan:
            return math.nan
        loss = (math.log10(float(values["model.optimizer.lr"])) + 2) ** 2
        loss += 0.5 * abs(int(values["model.num_heads"]) - 4) + 0.01 * int(values["loader.batch_size"])
        folder = self.folder(overrides, number)
        folder.mkdir(parents=True)
        nothing = {part: {} for part in ("floors", "excess", "excess_risk", "raters")}
        measured = {"validation": {"nll": loss}, "test": {"nll": {"value": 1 - loss, "se": 0.1}}, **nothing}
        measured |= {"seed": 0, "seconds": 1.0}
        (folder / "results.json").write_text(json.dumps(measured))
        return 1 - loss

    def folder(self, overrides, number: int) -> Path:
        return self.root / str(number)


@pytest.fixture
def spec(tmp_path):
    with hydra.initialize_config_dir(str(config.config_dir()), version_base="1.3"):
        composed = hydra.compose("train", ["hydra/sweeper=optuna"], return_hydra_config=True).hydra.sweeper
    composed.storage = str(tmp_path / "search.journal")
    return {name: value for name, value in composed.items() if name not in ("_target_", "params")}


def run(spec, jobs: Bowl, *overrides: str, silent=("name",)) -> None:
    search.search(spec, parse(*(overrides or SPACE)), silent, Path(spec["storage"]).parent, jobs)


def trials(spec) -> list[tuple]:
    """What every trial of a search was and how it ended."""
    storage = JournalStorage(JournalFileBackend(spec["storage"]))
    study = optuna.load_study(study_name="search", storage=storage)
    return [(trial.number, trial.params, trial.state, trial.value) for trial in study.trials]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=1,2,4", CategoricalDistribution(("1", "2", "4"))),
        ("a=x,'y z',null", CategoricalDistribution(("x", "'y z'", "null"))),
        ("+a@b=p,q", CategoricalDistribution(("p", "q"))),
        ("a=interval(0,1)", FloatDistribution(0.0, 1.0)),
        ("a=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("a=int(interval(1,8))", IntDistribution(1, 8)),
        ("a=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("a=range(1,8)", IntDistribution(1, 7)),
        ("a=range(1,9,3)", IntDistribution(1, 7, step=3)),
        ("a=range(7,0,-3)", IntDistribution(1, 7, step=3)),
        ("a=range(0.0,0.5,0.1)", FloatDistribution(0.0, 0.4, step=0.1)),
        ("a=tag(log,range(1,65))", IntDistribution(1, 64, log=True)),
    ],
)
def test_the_grammar_of_sweeps_says_what_is_searched(override, expected):
    assert search.distribution(parse(override)[0]) == expected


@pytest.mark.parametrize("override", ["a=interval(2,1)", "a=tag(log,interval(0,1))", "a=range(3,3)"])
def test_values_between_which_nothing_can_be_chosen_are_refused(override):
    with pytest.raises(UserError, match="nothing to choose from"):
        search.distribution(parse(override)[0])


def test_a_search_finds_what_is_least_on_the_validation_split(spec, tmp_path, capsys):
    """Settings that are not searched hold for every trial; the test loss, which points elsewhere, has no say."""
    jobs = Bowl(tmp_path)
    run(spec | {"n_trials": 40}, jobs, "name=mine", *SPACE, "seed=3")
    assert all(overrides[:2] == ["name=mine", "seed=3"] for [overrides] in jobs.batches)
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    values = dict(override.split("=") for override in best["overrides"])
    assert 0.002 < float(values["model.optimizer.lr"]) < 0.05
    assert values["model.num_heads"] == "4"
    found = trials(spec)
    assert best["value"] == min(value for *_, value in found) == found[best["trial"]][3]
    assert json.loads((Path(best["folder"]) / "results.json").read_text())["validation"]["nll"] == best["value"]
    shown = capsys.readouterr().out
    assert "40 trials, 0 of them failed" in shown
    assert "importance: model.optimizer.lr 0." in shown


@pytest.mark.parametrize(("sampler", "n_jobs"), [("tpe", 1), ("tpe", 4), ("random", 3), ("gp", 2)])
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(sampler, n_jobs, spec, tmp_path):
    """Stopped in its first batch, in one that Optuna has drawn from what it has seen, and in the last."""
    spec |= {"sampler": sampler, "n_jobs": n_jobs, "n_trials": 15}
    whole = spec | {"storage": str(tmp_path / "whole.journal")}
    run(whole, Bowl(tmp_path / "whole"))
    batches = math.ceil(15 / n_jobs)
    for stop_at in (0, batches - 3, 1):
        with pytest.raises(KeyboardInterrupt):
            run(spec, Bowl(tmp_path / f"{stop_at}", stop_at=stop_at))
    run(spec, Bowl(tmp_path / "rest"))
    assert trials(spec) == trials(whole)
    assert {state for _, _, state, _ in trials(spec)} == {TrialState.COMPLETE}


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_optuna import Bowl, run

class Killed(Bowl):
    def stop(self):
        os.kill(os.getpid(), signal.SIGKILL)

run({spec!r}, Killed(Path({root!r}), stop_at=12))
"""


def test_a_killed_search_goes_on_whatever_it_left_of_its_last_line(spec, tmp_path):
    spec |= {"n_trials": 14}
    script = KILLED.format(tests=str(Path(__file__).parent), spec=spec, root=str(tmp_path / "killed"))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with Path(spec["storage"]).open("a") as file:
        file.write('{"op_code":6,"worker_id":"a')
    rest = Bowl(tmp_path / "rest")
    run(spec, rest)
    assert len(rest.batches) == 2
    whole = spec | {"storage": str(tmp_path / "whole.journal")}
    run(whole, Bowl(tmp_path / "whole"))
    assert trials(spec) == trials(whole)


def test_a_failed_trial_is_told_and_others_follow(spec, tmp_path, capsys):
    spec |= {"n_trials": 20, "sampler": "random"}
    run(spec, Bowl(tmp_path, nan="4"))
    failed = [params["model.num_heads"] for _, params, state, _ in trials(spec) if state == TrialState.FAIL]
    assert failed
    assert set(failed) == {"4"}
    assert {params["model.num_heads"] for _, params, state, _ in trials(spec) if state == TrialState.COMPLETE} == {
        "1", "2", "8",
    }  # fmt: skip
    assert f"20 trials, {len(failed)} of them failed" in capsys.readouterr().out
    assert "model.num_heads=4" not in (tmp_path / "best.yaml").read_text()


def test_a_search_of_which_every_trial_fails_ends(spec, tmp_path, capsys):
    run(spec | {"n_trials": 3}, Bowl(tmp_path, nan="4"), SPACE[0], "model.num_heads=choice(4)", SPACE[2])
    assert "3 trials, 3 of them failed" in capsys.readouterr().out
    assert not (tmp_path / "best.yaml").exists()


def test_more_trials_are_added_to_those_of_earlier_commands(spec, tmp_path):
    run(spec | {"n_trials": 3}, Bowl(tmp_path / "first"), "name=a", *SPACE)
    more = Bowl(tmp_path / "second")
    run(spec | {"n_trials": 5}, more, "name=b", *SPACE)
    assert len(more.batches) == 2
    again = Bowl(tmp_path / "third")
    run(spec | {"n_trials": 5}, again, *SPACE)
    assert again.batches == []


@pytest.mark.parametrize(
    ("changed", "overrides", "named"),
    [
        ({}, (*SPACE[:2], "loader.batch_size=range(2,5)"), "space"),
        ({}, (*SPACE, "seed=1"), "settings"),
        ({"direction": "maximize"}, SPACE, "direction"),
        ({"objective": "validation.accuracy"}, SPACE, "objective"),
    ],
)
def test_a_journal_of_another_search_is_refused(changed, overrides, named, spec, tmp_path):
    run(spec | {"n_trials": 1}, Bowl(tmp_path))
    with pytest.raises(UserError, match=f"a search with another {named}"):
        run(spec | {"n_trials": 2} | changed, Bowl(tmp_path), *overrides)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objective": "test.nll"}, r"objective='test.nll' is not allowed; give a path below `validation`"),
        ({"direction": "down"}, r"direction='down'"),
        ({"n_trials": 0}, r"n_trials=0 is not allowed; give a whole number of at least 1"),
        ({"n_jobs": 1.5}, r"n_jobs=1.5"),
        ({"seed": -1}, r"seed=-1"),
        ({"sampler": "best"}, r"sampler='best' is not allowed; give one of tpe, random, gp"),
        ({"options": {"sharpness": 1}}, r"hydra.sweeper.options: .*sharpness"),
        ({"objective": "validation.loss"}, r"validation.loss: .*results.json does not hold it"),
    ],
)
def test_mistakes_are_one_line(changed, message, spec, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        run(spec | changed, Bowl(tmp_path))
    assert "\n" not in str(caught.value)


def test_without_values_there_is_nothing_to_search(spec, tmp_path):
    with pytest.raises(UserError, match="nothing to search"):
        run(spec, Bowl(tmp_path), "seed=1")


def test_two_commands_at_one_search_are_one_too_many(spec, tmp_path):
    with filelock.FileLock(f"{spec['storage']}.lock"), pytest.raises(UserError, match="another command"):
        run(spec, Bowl(tmp_path))


# The whole of it


@pytest.fixture
def run_search(tmp_path, monkeypatch):
    """Runs a search by the command, in this process and below the test's own folder; heads are one mistake or two."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> None:
        fixed = [
            "-m", "+study=resumable", "name=mine", "hydra/sweeper=optuna", "hydra.sweeper.sampler=random",
            "+experiment=planted_floors_k8", "data.train=64", "data.validation=16", "data.test=64",
            "trainer.max_epochs=1", "data.population.attributes=[length,warmth,humour]", "data.population.groups=2",
            "model.optimizer.lr=tag(log,interval(1e-3,1))", "model.num_heads=choice(0,2)",
        ]  # fmt: skip
        monkeypatch.setattr("sys.argv", ["micro_lit/train.py", *fixed, *arguments])
        try:
            train.main()
        finally:
            HydraConfig.instance().cfg = None

    return run


def test_a_search_over_real_runs(tmp_path, run_search, settings, capsys):
    """Some trials fail, the best of the others is named; a second command adds one trial in the same folder."""
    for n_trials in (3, 4):
        with contextlib.suppress(SystemExit):
            run_search(f"hydra.sweeper.n_trials={n_trials}")
    sweep = tmp_path / "runs" / "studies" / "mine"
    folders = {path for path in sweep.iterdir() if path.is_dir() and path.name != "report"}
    measured = {path.parent: json.loads(path.read_text()) for path in sweep.rglob("results.json")}
    failed = {path.parent for path in sweep.rglob("error.txt")}
    assert len(folders) == 4
    assert failed == folders - set(measured)
    assert 0 < len(failed) < 4
    best = yaml.safe_load((sweep / "best.yaml").read_text())
    assert best["value"] == min(each["validation"]["nll"] for each in measured.values())
    assert measured[tmp_path / best["folder"]]["validation"]["nll"] == best["value"]
    assert settings(*best["overrides"])["model"]["num_heads"] == 2
    shown = capsys.readouterr().out
    assert shown.count("trial 2 (3 of 3): ") == shown.count("trial 3 (4 of 4): ") == 1
    assert (sweep / "report" / "table.md").is_file()


def test_a_search_with_failed_trials_ends_with_status_1_and_a_mistake_in_one_line(run_search):
    with pytest.raises(SystemExit) as caught:
        run_search("hydra.sweeper.n_trials=1")
    assert caught.value.code == 1
    with pytest.raises(SystemExit, match=r"error: hydra.sweeper.n_trials=0 is not allowed"):
        run_search("hydra.sweeper.n_trials=0")


def test_plugins_cost_the_other_commands_nothing(tmp_path):
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "micro_lit.train", "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rsplit("|", 1)[-1].strip() for line in shown.stderr.splitlines() if "import time:" in line}
    assert not {"optuna", "submitit", "joblib", "torch"} & imported
