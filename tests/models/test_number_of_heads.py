"""Tests of the number of heads where nobody has set it."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import SMALL_FEATURES

from micro_lit import train
from micro_lit.config import build, config_dir
from micro_lit.errors import UserError
from micro_lit.models.mixture import heads_for
from micro_lit.run.restored import restore
from micro_lit.run.run_folder import differences


@pytest.fixture
def pairs(settings, tmp_path):
    """Settings of a mixture on sixty pairs of somebody's own."""
    rows = [{"prompt": f"Question {row}?", "chosen": f"Yes {row}.", "rejected": "No."} for row in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def make(*overrides: str) -> dict:
        own = ("data=pairs", f"data.train={tmp_path / 'pairs.jsonl'}", "backbone=tiny", "trainer.max_epochs=1")
        return settings(*own, "data.validation_fraction=0.1", "data.test_fraction=0.3", *overrides)

    return make


@pytest.mark.quick
@pytest.mark.parametrize(
    ("num_pairs", "heads"), [(1, 2), (48, 2), (1999, 2), (2000, 4), (3999, 4), (4000, 8), (10**6, 8)]
)
def test_the_number_of_heads_follows_the_number_of_training_pairs(num_pairs, heads):
    assert heads_for(num_pairs) == heads


def test_few_pairs_of_ones_own_have_two_heads_and_a_line_says_so(pairs, tmp_path, capsys):
    run = pairs()
    train.run(run)
    folder = Path(run["paths"]["run_dir"])
    found = json.loads((folder / "results.json").read_text())
    line = f"K = 2 heads for {found['data']['train']} training pairs; model.num_heads sets it\n"
    printed = capsys.readouterr().out
    assert line in printed
    assert printed.index(line) < printed.index("step 1/")
    assert found["num_heads"] == 2
    # The number is recorded, so that the run opens whatever data it is to judge, and begins anew when it is asked to.
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["num_heads"] == 2
    model = restore(folder, build(run["data"]).load(run["seed"]), tmp_path / "features")
    assert model.num_heads == 2
    assert not differences(folder, run)
    (folder / "config.yaml").write_text(yaml.safe_dump(run))  # says null
    with pytest.raises(UserError, match=r"config\.yaml says model\.num_heads=None, the checkpoint was trained with 2"):
        restore(folder, build(run["data"]).load(run["seed"]), tmp_path / "features")


def test_asking_again_finds_the_finished_run(pairs, capsys):
    run = pairs()
    train.run(run)
    folder = Path(run["paths"]["run_dir"])
    capsys.readouterr()
    train.run(pairs())
    assert capsys.readouterr().out.startswith("finished before")
    assert differences(folder, pairs("model.num_heads=3")) == {"model.num_heads": (2, 3)}


def test_a_finished_run_of_another_number_is_not_that_of_a_command_without_one(pairs):
    train.run(pairs("model.num_heads=3"))
    with pytest.raises(
        UserError, match=r"holds a finished run with other settings \(model.num_heads 3 there, None here"
    ):
        train.run(pairs())


@pytest.mark.parametrize("typed", [[], ["model.num_heads=3"]])
def test_a_run_of_few_pairs_goes_on_with_the_heads_it_has(typed, pairs, capsys):
    """As one does that an earlier version began, with eight."""
    train.run(pairs("trainer.max_epochs=1", *typed))
    run = pairs("trainer.max_epochs=2", "ckpt_path=last")
    train.run(run)
    assert "going on from" in capsys.readouterr().out
    found = json.loads((Path(run["paths"]["run_dir"]) / "results.json").read_text())
    assert found["num_heads"] == (3 if typed else 2)


def test_a_number_that_was_set_is_kept_and_nothing_is_said(pairs, capsys):
    run = pairs("model.num_heads=3")
    train.run(run)
    assert json.loads((Path(run["paths"]["run_dir"]) / "results.json").read_text())["num_heads"] == 3
    assert "model.num_heads sets it" not in capsys.readouterr().out


@pytest.mark.parametrize("model", ["mixture", "mixture_static"])
def test_planted_populations_have_eight_heads_however_few_their_pairs(model, settings):
    assert settings("+experiment=planted_floors_k8", *SMALL_FEATURES, f"model={model}")["model"]["num_heads"] == 8
    assert settings("+experiment=mixture_k8", f"model={model}")["model"]["num_heads"] == 8


@pytest.mark.parametrize(
    "experiment", [path.stem for path in (config_dir() / "experiment").glob("*.yaml") if "_k8" in path.stem]
)
def test_experiments_may_take_a_model_of_no_heads(experiment, settings):
    assert "num_heads" not in settings(f"+experiment={experiment}", "model=single_bt")["model"]
