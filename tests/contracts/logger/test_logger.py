"""A logger from outside the package: it gets what W&B gets, and can end no run."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import SMALL_FEATURES
from run_folders import write_run

from micro_lit import people
from micro_lit.report import __main__ as report

OWN = "packages=[own_loggers]"
TRAIN = (
    "+experiment=planted_floors_k8",
    *SMALL_FEATURES,
    "trainer.max_epochs=1",
    "paths.run_dir=run",
    "trainer.log_every_n_steps=1",
    OWN,
)
DIARY = ("+logger.mine._target_=own_loggers.Diary", "+logger.mine.path=diary.jsonl")


def diary() -> list[dict]:
    return [json.loads(line) for line in Path("diary.jsonl").read_text().splitlines()]


def of(name: str) -> list:
    return [entry[name] for entry in diary() if name in entry]


def test_a_run_hands_curves_and_its_record_to_a_logger_of_ones_own(command, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "the-secret-of-mine")
    _, err = command(*TRAIN, *DIARY, "report.title=the-secret-of-mine")
    assert err == ""
    results = json.loads(Path("run/results.json").read_text())
    assert list(diary()[0]) == ["begin", "resumed"]
    assert list(diary()[-1]) == ["finish"]
    [settings], [summary], [artifacts] = of("settings"), of("summary"), of("artifacts")
    assert settings["report"]["title"] == "***"
    assert summary["test/nll"] == results["test"]["nll"]["value"]
    assert summary["excess/marginal"] == results["excess"]["marginal"]["value"]
    assert artifacts == [["model", "run", True]]
    assert any("train/nll" in metrics for metrics in of("metrics"))
    assert of("finish") == of("failed") == [False]


def test_a_run_that_fails_says_so(command):
    killed = ("packages=[own_loggers,micro_lit_testing]", "+callbacks.kill._target_=micro_lit_testing.KillAt")
    _, err = command(*TRAIN, *DIARY, *killed, "+callbacks.kill.step=3")
    assert "Killed" in err
    assert of("failed") == of("finish") == [True]
    assert of("summary") == [{}]


def test_a_logger_that_raises_is_one_line_and_the_run_is_the_same(command):
    command(*TRAIN)
    expected = json.loads(Path("run/results.json").read_text())["test"]
    out, err = command(*TRAIN, "overwrite=true", "+logger.mine._target_=own_loggers.Raises")
    assert err == ""
    said = [line for line in out.splitlines() if "Raises" in line]
    assert said == ["Raises: something is not logged (ValueError: no answer from https://***@host); the run goes on"]
    assert json.loads(Path("run/results.json").read_text())["test"] == expected


@pytest.mark.parametrize("target", ["own_loggers.NoLogger", "own_loggers.json.JSONEncoder"])
def test_a_class_that_is_no_logger_is_one_line(target, command):
    _, err = command(*TRAIN, f"+logger.mine._target_={target}")
    [line] = err.splitlines()
    assert line.startswith(f"error: logger.mine: {target} is no logger") or "ends outside own_loggers" in line
    assert not Path("run/results.json").exists()


def test_a_logger_of_lightning_needs_no_record(command):
    plain = ("+logger.plain._target_=pytorch_lightning.loggers.CSVLogger", "+logger.plain.save_dir=plain")
    _, err = command(*TRAIN, *plain)
    assert err == ""
    [path] = Path("plain").rglob("metrics.csv")
    assert {"train/nll", "excess/marginal"} <= set(path.read_text().splitlines()[0].split(","))


def test_a_report_hands_its_table_to_a_logger_of_ones_own(command):
    write_run(Path("runs/0"))
    _, err = command("runs=runs", OWN, *DIARY, "paths.run_dir=report", main=report.main)
    assert err == ""
    [tables] = of("tables")
    assert tables["table"]["n"] == ["1"]
    assert of("command") == ["report"]
    assert all(figures == {"figure": True} for figures in of("figures") if figures)


def test_a_comparison_hands_its_tables_to_a_logger_of_ones_own(command):
    own = {
        "common": [
            "+experiment=planted_floors_k8", "data.users_per_group=6", "data.train=300", "data.validation=64",
            "data.test=200", "trainer.max_epochs=1",
        ],
        "candidates": {"single_bt": ["model=single_bt"], "mixture": []}, "baseline": "single_bt", "labels": [0, 3],
        "draws": 2, "resamples": 100,
    }  # fmt: skip
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/mine.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(own, sort_keys=False)}")
    arguments = ("--config-dir", "conf", "+experiment=mine", "out=out", "paths.run_dir=compared", OWN)
    _, err = command(*arguments, *DIARY, main=people.main)
    assert err == ""
    [tables], [artifacts] = of("tables"), of("artifacts")
    assert any(name.endswith("nll") for name in tables)
    assert [kind for kind, _, written in artifacts if not written] == ["model", "model"]
    assert of("command") == ["compare"]
