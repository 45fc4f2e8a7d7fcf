"""Run folders of an earlier version open, and judge to the bit as they did."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from micro_lit.config import build, find
from micro_lit.config.renamed import with_public_targets
from micro_lit.run.restored import read_settings, restore

OLD = Path(__file__).parent / "old_runs"
FOLDERS = ("single_bt", "tied", "mixture", "router")


@pytest.fixture
def old_runs(tmp_path, monkeypatch):
    """Copies of the folders, where their settings expect them."""
    for name in FOLDERS:
        shutil.copytree(OLD / name, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@torch.no_grad()
def scores(folder: Path, features_dir: Path) -> dict[str, list]:
    settings = read_settings(folder)
    data = build(settings["data"]).load(settings["seed"])
    model = restore(folder, data, features_dir)
    judgment = model.judge(data.split("test"))
    return {
        "margins_BK": judgment.margins_BK[:16].tolist(),
        "log_weights_BK": judgment.log_weights_BK[:16].tolist(),
        "log_prob_B": model.log_prob(judgment)[:16].tolist(),
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_a_run_of_an_earlier_version_judges_as_it_did(name, old_runs, tmp_path):
    expected = json.loads((OLD / name / "scores.json").read_text())
    assert scores(old_runs / name, tmp_path / "features") == expected


OLD_TARGETS = {
    "micro_lit.adaptation.hyre": "micro_lit.adapt.hyre",
    "micro_lit.adaptation.weights.hyre": "micro_lit.adapt.hyre",
    "micro_lit.callbacks.StepLine": "micro_lit.run.StepLine",
    "micro_lit.data.layouts.rpr": "micro_lit.data.rpr",
    "micro_lit.data.planted.PlantedText": "micro_lit.data.PlantedText",
    "micro_lit.data.sources.PairFiles": "micro_lit.data.PairFiles",
    "micro_lit.features.pretrained.Pretrained": "micro_lit.features.Pretrained",
    "micro_lit.models.people.PAL": "micro_lit.models.PAL",
    "micro_lit.models.variational.VPL": "micro_lit.models.VPL",
    "micro_lit.sharding.FullySharded": "micro_lit.features.FullySharded",
    "micro_lit.sweeps.Sweep": "micro_lit.run.Sweep",
    "micro_lit.track.wandb.HarmlessWandbLogger": "micro_lit.track.WandbLogger",
    "mine.layouts.rpr": "mine.layouts.rpr",
    "torch.optim.AdamW": "torch.optim.AdamW",
}


@pytest.mark.parametrize(("old", "new"), OLD_TARGETS.items())
def test_a_class_of_an_earlier_version_is_found_under_its_name_of_today(old, new):
    found = with_public_targets({"a": [{"_target_": old, "b": 1}]}, warn=False)
    assert found == {"a": [{"_target_": new, "b": 1}]}
    if new.startswith("micro_lit."):
        assert find(new).__name__ == new.rpartition(".")[2]


def test_yaml_of_an_earlier_version_runs_with_one_line_for_each_name(tmp_path):
    """Classes, a group of options and a callback of Hydra under their old names."""
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "mine.yaml").write_text(
        "defaults: [train, _self_]\n"
        "data: {_target_: micro_lit.data.planted.PlantedText}\n"
        "hydra: {callbacks: {sweep: {_target_: micro_lit.sweeps.Sweep}}}\n"
    )
    command = [sys.executable, "-m", "micro_lit.train", "--config-dir", "yaml", "--config-name", "mine", "--cfg", "job"]
    answer = subprocess.run([*command, "+rung=mixture_two"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0
    assert answer.stderr.splitlines() == [
        "note: +rung=mixture_two is +variant=mixture_two now; old names will go in version 1.0",
        "note: micro_lit.sweeps.Sweep is micro_lit.run.Sweep now; old names will go in version 1.0",
    ]
    settings = with_public_targets(yaml.safe_load(answer.stdout))
    assert settings["data"]["_target_"] == "micro_lit.data.PlantedText"
    assert settings["model"]["num_heads"] == 2
