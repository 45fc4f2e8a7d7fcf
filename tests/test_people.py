"""Tests of `python -m micro_lit.people`, the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HEAVY = {"torch", "transformers", "pytorch_lightning", "pyarrow", "scipy"}
LABELS = "give a list of whole numbers that rise from 0, at its end maybe null for all labels"


def command(*arguments: str, cwd: Path, imports: bool = False) -> subprocess.CompletedProcess:
    shown = ["-X", "importtime"] if imports else []
    line = [sys.executable, *shown, "-m", "micro_lit.people", *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--help"], None),
        (["--cfg", "job", "+experiment=people_planted"], None),
        ([], "error: baseline, candidates: no value given; set it on the command line or in your YAML"),
        (["+experiment=people_planted", "rows_left=0"], "error: rows_left=0 is not allowed; give a whole number of"),
        (
            ["+experiment=people_planted", "common=tied"],
            "error: common='tied' is not allowed; give a list of",
        ),
    ],
)
def test_help_and_errors_answer_without_torch(arguments, error, tmp_path):
    answer = command(*arguments, cwd=tmp_path, imports=True)
    lines = answer.stderr.splitlines()
    imported = {line.rsplit("|", 1)[-1].strip() for line in lines if "import time:" in line}
    assert "hydra" in imported
    assert not HEAVY & imported
    said = [line for line in lines if "import time:" not in line]
    assert len(said) == (error is not None)
    assert all(line.startswith(error) for line in said)
    assert answer.returncode == (0 if error is None else 1)
    if arguments == ["--help"]:
        assert "python -m micro_lit.people +experiment=people_planted" in answer.stdout


@pytest.mark.quick
@pytest.mark.parametrize(
    ("labels", "allowed"),
    [
        ([0], True),
        ([0, None], True),
        ([0, 1, 4, None], True),
        ([], False),
        ([None], False),
        ([1, 2], False),
        ([0, 2, 2], False),
        ([0, 4, 2], False),
        ([0, None, 4], False),
        ([0, True], False),
        ([0, 1.5], False),
        (4, False),
    ],
)
def test_labels_rise_from_none_to_all(labels, allowed, settings):
    from micro_lit.errors import UserError

    override = f"labels={json.dumps(labels)}"
    if allowed:
        assert settings("+experiment=people_planted", override, config="people")["labels"] == labels
        return
    with pytest.raises(UserError, match=f"labels=.* is not allowed; {LABELS}"):
        settings("+experiment=people_planted", override, config="people")


def test_the_command_trains_measures_writes_and_says_what_is_next(tmp_path):
    own = {
        "name": "mine",
        "common": [
            "+experiment=planted_floors_k8", "data.users_per_group=6", "data.train=300", "data.validation=64",
            "data.test=200", "trainer.max_epochs=1",
        ],
        "candidates": {"single_bt": ["model=single_bt"], "tied": ["model=tied"], "mixture": []},
        "baseline": "single_bt",
        "labels": [0, 3, None],
        "draws": 2,
        "resamples": 100,
    }  # fmt: skip
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = f"# @package _global_\n{yaml.safe_dump(own, sort_keys=False)}"
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
    answer = command("--config-dir", "conf", "+experiment=mine", "out=results", cwd=tmp_path)
    assert answer.stderr == ""
    assert answer.returncode == 0
    results = json.loads((tmp_path / "results" / "people.json").read_text())
    assert {name: facts["heads"] for name, facts in results["candidates"].items()} == {
        "single_bt": 1, "tied": 4, "mixture": 8,
    }  # fmt: skip
    assert list(results["regimes"]) == ["seen"]
    methods = [(row["candidate"], row["method"]) for row in results["regimes"]["seen"]["systems"]]
    assert methods == [
        ("single_bt", "nothing"), ("tied", "its own"), ("mixture", "posterior"), ("mixture", "mixture_em"),
    ]  # fmt: skip
    for facts in results["candidates"].values():
        assert (tmp_path / facts["run"] / "results.json").is_file()
    assert (tmp_path / "results" / "tables.md").is_file()
    assert "Users never seen\nNobody: no user without training pairs has enough test rows" in answer.stdout
    assert "next: " in answer.stdout
