"""Tests of `micro_lit.compare.side_by_side`: candidates trained in processes of their own."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, SMALL_FEATURES
from processes import wait_until

from micro_lit.compare.candidates import train_missing
from micro_lit.errors import UserError

SMALL = ["+experiment=micro_planted", *SMALL_FEATURES, "trainer.max_epochs=1"]
PLUG_IN = '''
from micro_lit.models import MixtureBT

class Flatterer(MixtureBT):
    """Probabilities that are none."""

    def log_prob(self, judgment):
        return 0.3 * super().log_prob(judgment)
'''


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """The folder of the user, from which processes import."""
    (tmp_path / "flattering.py").write_text(PLUG_IN)
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{tmp_path}")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def spec(settings, tmp_path):
    """Settings of the command, with a number of jobs."""

    def make(jobs: int) -> dict:
        own = ["candidates={a: b}", "baseline=a", f"name=made{jobs}", f"jobs={jobs}"]
        return settings(*own, f"paths.output_dir={tmp_path / 'runs'}", config="compare")

    return make


def weights(folder: Path) -> dict[str, list]:
    """All numbers of the best checkpoint of a run."""
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert state
    return {name: weight.tolist() for name, weight in state.items()}


def test_what_is_trained_side_by_side_is_to_the_bit_what_is_trained_in_turn(spec, capsys):
    candidates = {"single_bt": [*SMALL, "model=single_bt"], "mixture": SMALL}
    beside, alone = (train_missing(candidates, spec(jobs)) for jobs in (2, 1))
    for name in candidates:
        tested, expected = (json.loads((each[name] / "results.json").read_text()) for each in (beside, alone))
        assert tested["test"] == expected["test"]
        assert tested["valid"] is True
        assert weights(beside[name]) == weights(alone[name])
    assert (beside["mixture"].parent.parent.name, alone["mixture"].parent.parent.name) == ("made2", "made1")
    printed = capsys.readouterr().out
    side, _, _ = printed.partition("\n== single_bt\n")
    assert "== single_bt, mixture, 2 at once" in side
    lines = [line for line in side.splitlines() if line and not line.startswith("==")]
    assert {re.match(r"(\w+): ", line)[1] for line in lines} == set(candidates)
    # What is there is not trained again, and needs no process.
    assert train_missing(candidates, spec(2)) == beside
    assert capsys.readouterr().out.count("finished before") == 2


def test_one_that_fails_is_named_after_the_others_have_ended_and_a_flatterer_is_no_failure(spec, capsys):
    flatterer = ["+experiment=planted_floors_k8", "data.train=512", "data.validation=64", "data.test=256",
                 "trainer.max_epochs=1", "packages=[flattering]", "model._target_=flattering.Flatterer"]  # fmt: skip
    lost = [*SMALL[:1], "data=pairs", "data.train=nowhere.jsonl"]
    settings = {**spec(2), "packages": ["flattering"]}
    with pytest.raises(UserError, match=r"^candidates\.lost: .*nowhere\.jsonl") as caught:
        train_missing({"lost": lost, "flatterer": flatterer, "mixture": SMALL}, settings)
    assert "\n" not in str(caught.value)
    folder = Path(settings["paths"]["output_dir"]) / "candidates" / "made2" / "0"
    assert json.loads((folder / "flatterer" / "results.json").read_text())["valid"] is False
    assert json.loads((folder / "mixture" / "results.json").read_text())["valid"] is True
    assert "flatterer: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 75, marks=pytest.mark.full)]
)
def test_what_stops_the_command_stops_all(number, status, start_process, tmp_path):
    long = str([*SMALL, "trainer.max_epochs=100000", "callbacks.early_stopping=null"])
    command = [
        sys.executable,
        "-m",
        "micro_lit.compare",
        f"candidates={{a: {long}, b: {long}}}",
        "baseline=a",
        "jobs=2",
    ]
    process = start_process([*command, "name=long"], cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    folder = tmp_path / "runs" / "candidates" / "long" / "0"
    wait_until(lambda: all((folder / name / "metrics.csv").is_file() for name in "ab"), process)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == status, err
    assert err.splitlines() == (["interrupted"] if number == signal.SIGINT else [])
