"""A metric from outside the package: one class in one file, named in the settings, is in every table."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from micro_lit import train
from micro_lit.config.failures import describe
from micro_lit.errors import ImpossibleResult, UserError
from micro_lit.report import runs, terminal

PLUG_IN = '''
import math
import torch
from micro_lit.metrics import Metric
from micro_lit.models import MixtureBT

class Surprise(Metric):
    name, unit, better = "surprise", "bits", "lower"

    def __init__(self, base: float = 2.0) -> None:
        self.base = base

    def values(self, log_prob_B, pairs):
        return -log_prob_B / math.log(self.base)

class FirstGroup(Metric):
    """Accuracy where the first group judges; other rows are left out."""

    name, better, proportion = "first_group", "higher", True

    def values(self, log_prob_B, pairs):
        return (log_prob_B > math.log(0.5)).double(), (pairs.label_N("group") == 0).double()

class Lies(Metric):
    """Gives what it is told to give."""

    def __init__(self, name: str = "lies", better: str = "lower", gives: str = "shape") -> None:
        self.name, self.better, self.gives = name, better, gives

    def values(self, log_prob_B, pairs):
        return {
            "shape": log_prob_B[:-1],
            "matrix": log_prob_B[:, None],
            "no_number": log_prob_B * torch.nan,
            "text": "0.5",
            "count": (log_prob_B, torch.full_like(log_prob_B, 0.5)),
        }[self.gives]

class Flatterer(MixtureBT):
    """Probabilities that are none: those of the two preferences sum to more than one."""

    def log_prob(self, judgment):
        return 0.3 * super().log_prob(judgment)
'''
NAME = "metric_of_a_user"
SMALL = ("data.train=512", "data.validation=64", "data.test=256", "loader.batch_size=64", "trainer.max_epochs=1")
RUN = ("+experiment=planted_floors_k8", *SMALL, f"packages=[{NAME}]")


def metric(of_class: str, **settings) -> list[str]:
    return [
        f"+metrics.mine._target_={NAME}.{of_class}",
        *(f"+metrics.mine.{key}={value}" for key, value in settings.items()),
    ]


def test_a_metric_of_a_user_is_in_every_table(settings, tmp_path, capsys):
    run = settings(*RUN, *metric("Surprise"), f"+metrics.other._target_={NAME}.FirstGroup")
    nll = train.run(run)
    folder = Path(run["paths"]["run_dir"])
    results = json.loads((folder / "results.json").read_text())
    found = results["test"]["surprise"]
    assert found["value"] == pytest.approx(nll / math.log(2.0))
    assert (found["n"], found["n_units"], found["units"]) == (256, 256, "rows")
    assert found["low"] < found["value"] < found["high"]
    assert results["metrics"]["surprise"] == {"unit": "bits", "better": "lower"}
    groups = results["test_by"]["group"]
    assert all("surprise" in cell for cell in groups.values())
    assert results["test"]["first_group"]["n"] == next(iter(groups.values()))["nll"]["n"] < 256
    assert "val/surprise" in pd.read_csv(folder / "metrics.csv").columns
    printed = capsys.readouterr().out
    assert "surprise" in printed
    assert "surprise, in bits: lower is better" in " ".join(printed.split())
    spec = {"metrics": None, "x": None, "y": ["test.surprise"], "panels": None, "log": False, "title": None}
    runs.write_report([str(folder)], spec, tmp_path / "report")
    assert "surprise" in (tmp_path / "report" / "table.md").read_text().splitlines()[0]
    assert "test.surprise.se_units" in (tmp_path / "report" / "runs.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({"name": "''"}, "name=''"),
        ({"name": "nll"}, "is taken"),
        ({"better": "sideways"}, "better='sideways'"),
        ({"gives": "shape"}, r"shape \[\d+\] for \d+ rows"),
        ({"gives": "matrix"}, "shape"),
        ({"gives": "no_number"}, "gave nan for row 0"),
        ({"gives": "text"}, "gave str"),
        ({"gives": "count"}, "neither 0 nor 1"),
    ],
)
def test_a_metric_that_lies_ends_the_run_in_one_line_with_its_name(lie, words, settings):
    with pytest.raises(UserError, match=f"metric Lies: .*{words}") as raised:
        train.run(settings(*RUN, *metric("Lies", **lie)))
    assert "\n" not in str(raised.value)


def test_a_likelihood_that_is_none_is_written_marked_and_not_believed(settings, tmp_path, capsys):
    run = settings(*RUN, f"model._target_={NAME}.Flatterer")
    with pytest.raises(ImpossibleResult, match="below"):
        train.run(run)
    folder = Path(run["paths"]["run_dir"])
    results = json.loads((folder / "results.json").read_text())
    assert results["valid"] is False
    assert results["invalid_because"] in " ".join(capsys.readouterr().out.split())
    assert describe(ImpossibleResult("")).status == 3
    # The finished run is no more believed when its command is given again.
    with pytest.raises(ImpossibleResult):
        train.run(run)
    spec = {"metrics": None, "x": None, "y": ["test.nll"], "panels": None, "log": False, "title": None}
    runs.write_report([str(folder)], spec, tmp_path / "report")
    table = (tmp_path / "report" / "table.md").read_text()
    assert "0 (+ 1 INVALID)" in table
    assert f"INVALID, left out: {folder}" in table
    terminal.show_results(results, folder, brief=True)
    assert "INVALID" in capsys.readouterr().out


def test_an_honest_run_is_valid(settings):
    run = settings(*RUN)
    train.run(run)
    results = json.loads((Path(run["paths"]["run_dir"]) / "results.json").read_text())
    assert results["valid"] is True
    assert "invalid_because" not in results
