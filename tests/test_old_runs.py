"""Run folders of an earlier version open, and judge to the bit as they did."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from micro_lit.config import build
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
