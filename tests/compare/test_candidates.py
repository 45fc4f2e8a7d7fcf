"""Tests of `micro_lit.compare.candidates`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import SMALL_FEATURES

from micro_lit import config, train
from micro_lit.compare import candidates
from micro_lit.compare.candidates import judge_rows, load_data, restore_all, train_missing
from micro_lit.errors import UserError
from micro_lit.run.restored import restore

SMALL = ["+experiment=micro_planted", *SMALL_FEATURES, "trainer.max_epochs=1"]


@pytest.fixture
def spec(settings, tmp_path):
    """Settings of the command."""
    own = ["candidates={a: b}", "baseline=a", "name=made", f"paths.output_dir={tmp_path / 'runs'}"]
    return settings(*own, config="compare")


@pytest.fixture
def composed(monkeypatch) -> list[dict]:
    """What would have been trained; nothing is."""
    seen = []
    monkeypatch.setattr(candidates, "train", lambda settings, brief: seen.append(settings))
    return seen


def test_a_candidate_is_trained_once_and_elsewhere_when_its_settings_change(spec, tmp_path, capsys):
    folders = train_missing({"mixture": SMALL}, spec)
    assert folders == {"mixture": tmp_path / "runs" / "candidates" / "made" / "0" / "mixture"}
    results = folders["mixture"] / "results.json"
    first = results.read_text()
    capsys.readouterr()
    assert train_missing({"mixture": SMALL}, spec) == folders
    assert "finished before" in capsys.readouterr().out
    assert results.read_text() == first
    other = [*SMALL, "model.num_heads=2"]
    changed = train_missing({"mixture": other}, spec)["mixture"]
    assert changed.parent == folders["mixture"].parent
    assert json.loads((changed / "results.json").read_text())["num_heads"] == 2
    assert results.read_text() == first
    for again, folder in ((SMALL, folders["mixture"]), (other, changed)):
        capsys.readouterr()
        assert train_missing({"mixture": again}, spec)["mixture"] == folder
        assert "finished before" in capsys.readouterr().out


def test_a_candidate_trained_anew_is_judged_by_what_it_is_now(spec):
    """Also when the run before it left a best checkpoint, and this one writes none."""
    last_only = [*SMALL, "callbacks.best=null", "callbacks.early_stopping=null", "model.optimizer.lr=0.1"]
    for overrides in (SMALL, last_only):
        folders = train_missing({"mixture": overrides}, spec)
    data = load_data(folders, "hidden")
    model = restore_all(folders, data, spec)["mixture"].model
    tested = json.loads((folders["mixture"] / "results.json").read_text())["test"]["nll"]["value"]
    assert -model.log_prob(model(data.split("test"))).mean().item() == pytest.approx(tested)


def test_a_folder_is_taken_as_it_is(spec, composed):
    assert train_missing({"old": "runs/before"}, spec) == {"old": Path("runs/before")}
    assert not composed


def test_candidates_share_seed_packages_and_paths_whatever_their_characters(spec, composed, tmp_path):
    spec["paths"]["features_dir"] = "it's, {a}\\'s [b]=c\\"
    spec["paths"]["output_dir"] = str(tmp_path / "a\\b c")
    train_missing({"one": SMALL, "two": [*SMALL, "seed=9"]}, {**spec, "seed": 4, "packages": ["mine", "yours"]})
    for name, run in zip(("one", "two"), composed, strict=True):
        assert run["paths"]["features_dir"] == spec["paths"]["features_dir"]
        assert Path(run["paths"]["run_dir"]).parts[-5:] == ("a\\b c", "candidates", "made", "4", name)
        assert (run["seed"], run["packages"], run["ckpt_path"]) == (4, ["mine", "yours"], "last")


@pytest.mark.parametrize(
    "wrong", ["nothing=3", "+experiment=nowhere", "model=nothing", "model.num_heads=0", "model.num_heads", "seed=0,1"]
)
def test_wrong_overrides_name_the_candidate_in_one_line(wrong, spec, composed):
    with pytest.raises(UserError, match=r"candidates\.second=") as caught:
        train_missing({"first": SMALL, "second": [*SMALL, wrong]}, spec)
    assert "\n" not in str(caught.value)


def write_settings(folder: Path, run: dict) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(run))
    return folder


@pytest.mark.parametrize(
    ("changed", "differing"),
    [
        (["seed=1"], "seed"),
        (["data.test=99"], r"data\.test"),
        (["data.population.strength=1.0", "data.train=99"], r"data\.population\.strength, data\.train"),
    ],
)
def test_runs_on_other_rows_are_refused_with_what_differs(changed, differing, settings, tmp_path):
    first, second = settings(*SMALL), settings(*SMALL, *changed)
    folders = {"a": write_settings(tmp_path / "a", first), "b": write_settings(tmp_path / "b", second)}
    with pytest.raises(UserError, match=rf"candidates a and b .*\({differing} differ\)"):
        load_data(folders, "hidden")


def test_runs_may_differ_in_models_and_in_what_they_are_told(settings, tmp_path):
    other = settings(*SMALL, "model=single_bt", "data.criteria=given", "loader.batch_size=8", "trainer.max_epochs=3")
    folders = {
        "a": write_settings(tmp_path / "a", settings(*SMALL)),
        "b": write_settings(tmp_path / "b", other),
    }
    assert len(load_data(folders, "hidden").pairs) == 832


@pytest.mark.quick
def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: not the folder of a run"):
        load_data({"a": tmp_path}, "hidden")


def write_pairs(path: Path) -> Path:
    rows = [
        {
            "prompt": f"Question {row // 2}?",
            "chosen": f"Yes {row}.",
            "rejected": "No.",
            "attribute": ("brief", "warm")[row % 2],
            "criterion": ("Be brief.", "Be warm.")[row % 2],
        }
        for row in range(60)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("kind", ["vectors", "texts"])
def test_criteria_change_contexts_and_nothing_else(kind, settings, tmp_path):
    texts = ["data=pairs", f"data.train={write_pairs(tmp_path / 'pairs.jsonl')}", "data.test_fraction=0.3"]
    folders = {"a": write_settings(tmp_path / "a", settings(*(SMALL if kind == "vectors" else texts)))}
    hidden, told, shuffled = (load_data(folders, criteria) for criteria in ("hidden", "given", "shuffled"))

    def shown(data, column):
        found = [data.texts[row] for row in data.pairs.triplets_N3[:, column].tolist()]
        return torch.stack(found).tolist() if data.is_vectors else found

    for data in (told, shuffled):
        for column in (1, 2):
            assert shown(data, column) == shown(hidden, column)
        assert shown(data, 0) != shown(hidden, 0)
        for name, rows in hidden.splits.items():
            assert data.splits[name].tolist() == rows.tolist()
    assert shown(told, 0) != shown(shuffled, 0)
    attributes, same, other = (
        [data.names["attribute"][code] for code in data.pairs.label_N("attribute")] for data in (hidden, told, shuffled)
    )
    assert attributes == same
    assert attributes != other
    for rows in hidden.splits.values():
        assert sorted(attributes[row] for row in rows) == sorted(other[row] for row in rows)


def test_what_candidates_say_is_what_they_were_tested_on(spec):
    kinds = {"single_bt": ["model=single_bt"], "mixture": [], "attribute_bt": ["model=attribute_bt", "model.name=mine"]}
    folders = train_missing({name: [*SMALL, *own] for name, own in kinds.items()}, spec)
    data = load_data(folders, "hidden")
    candidates = restore_all(folders, data, {**spec, "loader": {"eval_batch_size": 100}})
    assert [candidate.num_heads for candidate in candidates.values()] == [1, 8, 4]
    assert [candidate.model.knows for candidate in candidates.values()] == [set(), set(), {"attribute"}]
    test_N = data.splits["test"].numpy()
    for name, candidate in candidates.items():
        assert (candidate.name, candidate.folder, candidate.link.name) == (name, folders[name], "probability")
        assert candidate.margins_NK.dtype == candidate.log_weights_NK.dtype == np.float64
        weights_NK = np.exp(candidate.log_weights_NK[test_N])
        np.testing.assert_allclose(weights_NK.sum(axis=1), 1.0, atol=1e-5)
        nll = -np.log((weights_NK / (1 + np.exp(-candidate.margins_NK[test_N]))).sum(axis=1)).mean()
        assert nll == pytest.approx(json.loads((folders[name] / "results.json").read_text())["test"]["nll"]["value"])
    for size in (7, 5000):
        margins_NK = judge_rows(candidates["mixture"].model, data, size)["margins_BK"]
        np.testing.assert_allclose(margins_NK, candidates["mixture"].margins_NK, atol=1e-5)


# Restoring a run


@pytest.fixture
def run(settings) -> dict:
    made = settings(*SMALL)
    train.run(made, brief=True)
    return made


def restored(run: dict):
    data = config.build(run["data"]).load(run["seed"])
    return restore(Path(run["paths"]["run_dir"]), data, Path(run["paths"]["features_dir"]))


def test_a_restored_model_is_frozen_and_at_rest(run):
    model = restored(run)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_what_cannot_be_restored_is_named(run):
    folder = Path(run["paths"]["run_dir"])
    other = {**run, "model": {**run["model"], "num_heads": 3}}
    (folder / "config.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(UserError, match=r"config.yaml says model.num_heads=3, the checkpoint was trained with 8"):
        restored(run)
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a checkpoint"):
        restored(run)
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no checkpoint"):
        restored(run)
