"""Prior precisions: a Gaussian beside the sum of the losses of all training pairs, whatever the batch."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import SMALL_FEATURES
from hydra.errors import ConfigCompositionException

from micro_lit.config.failures import describe
from micro_lit.config.renamed import RENAMED, as_now
from micro_lit.data.pairs import Pairs
from micro_lit.data.records import LABELS
from micro_lit.errors import UserError
from micro_lit.features.backbones import CachedBackbone
from micro_lit.models import MixtureBT, PriorHeads, SharedBaseEnsemble, SharedHeads, UniformGate
from micro_lit.run import checkpoints
from micro_lit.run.restored import restore
from micro_lit.run.run import Run

WIDTH = 6


def make_pairs(num_pairs: int = 60) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    return Pairs(
        torch.randint(20, (num_pairs, 3), generator=generator),
        torch.full((num_pairs, len(LABELS)), -1),
        torch.rand(num_pairs, generator=generator),
        torch.empty(num_pairs, 0),
    )


def make_model(kind=MixtureBT, **settings) -> MixtureBT:
    features_MD = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    backbone = CachedBackbone(features_MD, standardise=False, train=make_pairs())
    torch.manual_seed(0)
    return kind(backbone, names={}, **settings)


def gradient_of_fit(model, pairs, num_pairs):
    """Of the mean loss of some pairs, in a fit on so many, times their number."""
    model.num_pairs = num_pairs
    (sum(model.losses(model(pairs), pairs).values()) * num_pairs).backward()
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("kind", ["shared", "ensemble"])
def test_a_precision_stands_beside_the_sum_of_the_losses_whatever_the_batch(kind):
    """Pairs twice, or parts of them: the losses add up, the prior is there once."""
    settings = {
        "shared": {"head": partial(SharedHeads, base_precision=2.0, deviation_precision=5.0)},
        "ensemble": {"kind": SharedBaseEnsemble, "head": PriorHeads, "gate": UniformGate, "prior_precision": 5.0},
    }[kind]
    pairs = make_pairs()
    n = len(pairs)

    def model():
        return make_model(num_heads=3, **settings)

    once, without = gradient_of_fit(model(), pairs, n), gradient_of_fit(model(), pairs, 10**12)
    # A prior spread over 10^12 pairs is none: what is left is the gradient of n losses, times 10^12 / n.
    losses = [gradient * n / 10**12 for gradient in without]
    prior = [gradient - loss for gradient, loss in zip(once, losses, strict=True)]
    assert max(gradient.abs().max() for gradient in prior) > 0.1
    twice = gradient_of_fit(model(), pairs[torch.arange(n).repeat(2)], 2 * n)
    torch.testing.assert_close(twice, [2 * loss + each for loss, each in zip(losses, prior, strict=True)])
    # Two batches, or devices, of half the pairs: the mean of their gradients is that of all.
    halves = [gradient_of_fit(model(), pairs[rows], n) for rows in torch.arange(n).chunk(2)]
    torch.testing.assert_close([(one + other) / 2 for one, other in zip(*halves, strict=True)], once)


SMALL = ("+experiment=planted_floors_k8", *SMALL_FEATURES, "model/head=shared", "trainer.max_epochs=1")


def test_a_fit_counts_its_labelled_pairs_and_an_older_run_judges_as_it_did(settings, tmp_path):
    """Of the older run the names of the ridges stand in config.yaml; its weights are in units of their roots."""
    with Run(settings(*SMALL)) as run:
        run.fit()
        assert run.model.num_pairs == len(run.datamodule.labelled_pairs) == 512
    folder, config = run.folder, run.folder / "config.yaml"
    pairs = run.data.split("test")
    expected_BK = restore(folder, run.data, tmp_path).judge(pairs).margins_BK
    as_ridge = lambda found: f"{found[1]}_ridge: {float(found[2]) / 2**14!r}"  # noqa: E731
    then = re.sub(r"(base|deviation)_precision: (\S+)", as_ridge, config.read_text())
    config.write_text(then)
    assert "base_ridge" in config.read_text()
    assert torch.equal(restore(folder, run.data, tmp_path).judge(pairs).margins_BK, expected_BK)


def test_no_training_goes_on_from_weights_in_units_of_a_ridge(monkeypatch):
    then = {"optimizer_states": [], "settings": {"model": {"head": {"base_ridge": 1e-5}}}}
    monkeypatch.setattr(checkpoints, "read_checkpoint", lambda path: then)
    with pytest.raises(UserError, match=r"old\.ckpt: of an earlier version.*base_precision = base_ridge · n"):
        checkpoints.check_resumable(Path("old.ckpt"), make_model(num_heads=2))


@pytest.mark.parametrize("prefix", ["", "+"])
@pytest.mark.parametrize("key", sorted(RENAMED))
def test_a_ridge_of_a_mean_loss_is_refused_with_the_conversion(key, prefix, settings):
    model = "ensemble" if "prior" in key else "single_bt"
    overrides = [f"model={model}", *(["model/head=shared"] if "head" in key else []), f"{prefix}{key}=0.1"]
    with pytest.raises((UserError, ConfigCompositionException)) as refused:
        settings(*overrides)
    line = describe(refused.value).line
    assert key in line
    assert RENAMED[key] in line
    assert "· n" in line


def test_settings_of_a_finished_run_get_the_names_and_units_of_today():
    then = {"model": {"head": {"base_ridge": 1e-5, "deviation_ridge": 3e-5, "draw": 1}}, "seed": 1}
    now = as_now(then)
    assert now["model"]["head"] == {"base_precision": 1e-5 * 2**14, "deviation_precision": 3e-5 * 2**14, "draw": 1}
    assert "base_ridge" in then["model"]["head"]
