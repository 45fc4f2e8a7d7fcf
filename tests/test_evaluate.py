"""Tests of `python -m micro_lit.evaluate`, the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HEAVY = {"torch", "transformers", "pytorch_lightning", "pyarrow", "scipy"}


def command(*arguments: str, cwd: Path, imports: bool = False) -> subprocess.CompletedProcess:
    shown = ["-X", "importtime"] if imports else []
    line = [sys.executable, *shown, "-m", "micro_lit.evaluate", *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--help"], None),
        (["--cfg", "job", "+experiment=micro"], None),
        ([], "error: baseline, candidates: no value given; set it on the command line or in your YAML"),
        (
            ["+experiment=micro", "budget_from=validation"],
            "error: budget_from='validation' is not allowed; give one of train, test",
        ),
        (["+experiment=micro", "draws=1"], "error: draws=1 is not allowed; give a whole number of at least 2"),
        (["+experiment=micro", "router.tau=0"], "error: router.tau=0 is not allowed; give a number above 0"),
        (
            ["candidates=mixture", "baseline=mixture"],
            "error: candidates='mixture' is not allowed; give a mapping from names to the folder of a run or a list of "
            "overrides of micro_lit.train",
        ),
    ],
)
def test_help_and_errors_answer_without_torch(arguments, error, tmp_path):
    answer = command(*arguments, cwd=tmp_path, imports=True)
    lines = answer.stderr.splitlines()
    imported = {line.rsplit("|", 1)[-1].strip() for line in lines if "import time:" in line}
    assert "hydra" in imported
    assert not HEAVY & imported
    assert [line for line in lines if "import time:" not in line] == ([error] if error else [])
    assert answer.returncode == (0 if error is None else 1)
    if arguments == ["--help"]:
        assert "python -m micro_lit.evaluate +experiment=micro" in answer.stdout


def test_the_command_trains_measures_writes_and_says_what_is_next(tmp_path):
    small = [
        "+experiment=micro_planted", "data.train=500", "data.validation=64", "data.test=100", "trainer.max_epochs=1",
    ]  # fmt: skip
    own = {
        "name": "mine",
        "candidates": {"single_bt": [*small, "model=single_bt"], "mixture": [*small, "model.num_heads=2"]},
        "baseline": "single_bt",
        "routed": ["mixture"],
        "draws": 2,
        "budget": 5,
        "budgets": [0, 5],
        "resamples": 100,
    }
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = f"# @package _global_\n{yaml.safe_dump(own, sort_keys=False)}"
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
    answer = command("--config-dir", "conf", "+experiment=mine", "out=results", cwd=tmp_path)
    assert answer.stderr == ""
    assert answer.returncode == 0
    results = json.loads((tmp_path / "results" / "protocol.json").read_text())
    assert {name: facts["heads"] for name, facts in results["candidates"].items()} == {"single_bt": 1, "mixture": 2}
    methods = {row["method"] for row in results["tables"]["labels"] if row["candidate"] == "mixture"}
    assert {"posterior", "hedge", "few_shot", "best head"} < methods
    assert [len(results["tables"][name]) for name in ("none", "criterion", "labels")] == [2, 2, 1 + len(methods)]
    for facts in results["candidates"].values():
        assert (tmp_path / facts["run"] / "results.json").is_file()
    assert (tmp_path / "results" / "tables.md").is_file()
    assert "next: " in answer.stdout
