"""Tests of tied mixtures, hard EM and LoRe: users of several pairs, and nobody's pairs."""

import itertools
import json
import math
from pathlib import Path

import micro_lit_testing
import numpy as np
import pytest
import torch
from conftest import SMALL_FEATURES
from torch.nn.functional import logsigmoid

from micro_lit import adapt, train
from micro_lit.config import build
from micro_lit.data.pairs import Pairs
from micro_lit.data.records import LABELS
from micro_lit.errors import UserError
from micro_lit.features.backbones import CachedBackbone
from micro_lit.models import LinearGate, LoRe, MaxMinEM, MixtureBT, SharedHeads, SingleBT, SourceGate, TiedMixture
from micro_lit.models.people import PeopleBT, codes_of, number_users, prior_of_users
from micro_lit.models.people.evidence import EpochEvidence
from micro_lit.run.restored import restore
from micro_lit.run.run import Run

WIDTH, USERS, SOURCES = 6, 9, 3
NAMES = {"user_id": [f"u{number}" for number in range(USERS)], "source": [f"s{number}" for number in range(SOURCES)]}


def make_pairs(num_pairs: int = 60, named: bool = True, seed: int = 0) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    labels_NC = torch.full((num_pairs, len(LABELS)), -1)
    if named:
        labels_NC[:, LABELS.index("user_id")] = torch.randint(USERS - 1, (num_pairs,), generator=generator)
        labels_NC[:, LABELS.index("source")] = torch.randint(SOURCES, (num_pairs,), generator=generator)
    return Pairs(
        torch.randint(20, (num_pairs, 3), generator=generator),
        labels_NC,
        torch.rand(num_pairs, generator=generator),
        torch.empty(num_pairs, 0),
    )


def make_model(model=TiedMixture, seed: int = 0, names=NAMES, **settings) -> MixtureBT:
    features_MD = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1))
    backbone = CachedBackbone(features_MD, standardise=False, train=make_pairs())
    torch.manual_seed(seed)
    return model(backbone, names=names, **settings)


def loss_of(model: MixtureBT, pairs: Pairs) -> torch.Tensor:
    return sum(model.losses(model(pairs), pairs).values())


def user_losses(model: MixtureBT, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """[U, K] summed losses and log priors of the users that have pairs, one user at a time."""
    judgment, user_N = model(pairs), pairs.label_N("user_id")
    rows = [user_N == user for user in user_N.unique()]
    losses = torch.stack([-logsigmoid(judgment.margins_BK[own]).sum(dim=0) for own in rows])
    prior = torch.stack([torch.log_softmax(judgment.log_weights_BK[own].mean(dim=0), dim=-1) for own in rows])
    return losses, prior


@pytest.mark.parametrize(("model", "settings"), [(TiedMixture, {}), (MaxMinEM, {"estimation": "gradient"}), (LoRe, {})])
def test_one_head_trains_as_single_bt_to_the_last_bit(model, settings):
    baseline, people = make_model(SingleBT), make_model(model, num_heads=1, gate=SourceGate, **settings)
    pairs = make_pairs()
    for each in (baseline, people):
        optimizer = torch.optim.AdamW(each.parameters(), lr=0.05)
        for _ in range(20):
            optimizer.zero_grad()
            loss_of(each, pairs).backward()
            optimizer.step()
    assert torch.equal(people.head.weight, baseline.head.weight)
    assert torch.equal(people.log_prob(people(pairs)), baseline.log_prob(baseline(pairs)))


@pytest.mark.parametrize("gate", [SourceGate, LinearGate])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_loss_is_the_tempered_marginal_likelihood_and_so_is_its_gradient(gate, temperature):
    model, pairs = make_model(num_heads=3, gate=gate, temperature=temperature), make_pairs()
    weights = list(model.parameters())
    found = torch.autograd.grad(loss_of(model, pairs), weights)
    losses_UK, prior_UK = user_losses(model, pairs)
    expected = -temperature * torch.logsumexp(prior_UK - losses_UK / temperature, dim=-1).sum() / len(pairs)
    torch.testing.assert_close(loss_of(model, pairs), expected)
    for left, right in zip(found, torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(left, right)


def test_hard_em_charges_every_user_the_best_head():
    model, pairs = make_model(MaxMinEM, num_heads=3, estimation="gradient"), make_pairs()
    losses_UK, _ = user_losses(model, pairs)
    torch.testing.assert_close(loss_of(model, pairs), losses_UK.min(dim=1).values.sum() / len(pairs))


def test_pairs_of_nobody_are_a_pair_level_mixture():
    pairs = make_pairs(named=False)
    tied, mixture = make_model(num_heads=4), make_model(MixtureBT, num_heads=4)
    torch.testing.assert_close(loss_of(tied, pairs), loss_of(mixture, pairs))


def test_users_are_numbered_and_nobodies_are_apart():
    user_B, num_users = number_users(torch.tensor([7, -1, 7, 3, -1]))
    assert num_users == 4
    assert user_B[0] == user_B[2]
    assert len(user_B.unique()) == 4


def test_the_order_of_pairs_does_not_matter():
    model, pairs = make_model(num_heads=3), make_pairs()
    shuffled = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(2))]
    torch.testing.assert_close(loss_of(model, pairs), loss_of(model, shuffled))
    left, right = (model.learn(each, each.label_N("user_id"), USERS) for each in (pairs, shuffled))
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize(("model", "method"), [(TiedMixture, adapt.posterior), (LoRe, adapt.few_shot_logits)])
def test_what_is_learned_of_a_user_is_the_adaptation_of_its_name(model, method):
    model, pairs = make_model(model, num_heads=3), make_pairs()
    user_N = pairs.label_N("user_id")
    with torch.no_grad():
        model.gate.logits_K.copy_(torch.tensor([0.5, 0.0, -1.0]))
        judgment = model(pairs)
    prior_UK = prior_of_users(judgment.log_weights_BK, user_N, USERS)
    settings = {"link": "reward"} if method is adapt.few_shot_logits else {}
    prior = np.where(np.arange(USERS)[:, None] < USERS - 1, prior_UK.double().exp().numpy(), 1 / 3)
    expected_UK = method(
        judgment.margins_BK.numpy(), user_N.numpy(), prior / prior.sum(axis=1, keepdims=True), **settings
    )
    codes_UK = model.learn(pairs, user_N, USERS)
    assert torch.equal(codes_UK[USERS - 1], torch.zeros(3))  # the last user has no pairs
    rows = torch.arange(USERS - 1)
    weights_UK = torch.softmax(prior_UK + codes_UK, dim=-1)
    torch.testing.assert_close(weights_UK[rows].double(), torch.from_numpy(expected_UK)[rows], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("model", [TiedMixture, MaxMinEM, LoRe])
def test_strangers_get_the_prior_and_never_an_error(model):
    model, pairs = make_model(model, num_heads=3, gate=SourceGate), make_pairs()
    user_N = pairs.label_N("user_id")
    model.codes_UC = model.learn(pairs, user_N, USERS)
    strangers = make_pairs(seed=5)
    strangers.labels_NC[:20, LABELS.index("user_id")] = USERS - 1
    strangers.labels_NC[20:40, LABELS.index("user_id")] = -1
    strangers.labels_NC[:, LABELS.index("source")] = -1
    with torch.no_grad():
        known, prior = model.log_prob(model.judge(strangers)), model.log_prob(model(strangers))
    assert torch.equal(known[:40], prior[:40])
    assert not torch.equal(known[40:], prior[40:])
    nobody = make_model(TiedMixture, names={}, num_heads=3)
    assert torch.isfinite(nobody.log_prob(nobody.judge(make_pairs(named=False)))).all()
    assert torch.equal(codes_of(torch.zeros(0, 3), torch.tensor([-1])), torch.zeros(1, 3))


def test_no_labels_at_all_teach_nothing():
    model, pairs = make_model(num_heads=3), make_pairs(named=False)
    assert torch.equal(model.learn(pairs, pairs.label_N("user_id"), USERS), torch.zeros(USERS, 3))


def test_the_gradient_of_lore_is_that_of_the_optimum():
    """Weights are found, not followed: the loss at the optimum moves with the heads as its gradient says."""
    pairs = make_pairs()
    model = make_model(LoRe, num_heads=3, temperature=0.5)
    loss_of(model, pairs).backward()
    direction = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(3))
    values, step = [], 3e-2
    for sign in (1, -1):
        moved = make_model(LoRe, num_heads=3, temperature=0.5)
        with torch.no_grad():
            moved.head.weight.add_(sign * step * direction)
        values.append(loss_of(moved, pairs).item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(
        float((model.head.weight.grad * direction).sum()), rel=1e-2
    )


def test_lore_finds_the_weights_of_smoothed_labels():
    """No other weights cost a user less: neither the prior, nor those found, moved a little."""
    pairs = make_pairs()
    model = make_model(LoRe, num_heads=3, temperature=0.5, label_smoothing=0.3)
    with torch.no_grad():
        model.head.weight.mul_(8.0)
        judgment = model(pairs)
        user_B, num_users = number_users(pairs.label_N("user_id"))
        prior_UK = prior_of_users(judgment.log_weights_BK, user_B, num_users)
        found_UK = model.user_log_weights(judgment.margins_BK, prior_UK, user_B)

        def cost(log_weights_UK):
            divergence = (log_weights_UK.exp() * (log_weights_UK - prior_UK)).sum()
            return float(model.user_nll(judgment.margins_BK, log_weights_UK[user_B]).sum() + 0.5 * divergence)

        generator = torch.Generator().manual_seed(0)
        others = [found_UK + 0.3 * torch.randn(found_UK.shape, generator=generator) for _ in range(20)]
        assert all(cost(found_UK) < cost(torch.log_softmax(other, dim=-1)) for other in [*others, prior_UK])
    with pytest.raises(UserError, match=r"model\.label_smoothing needs a model\.temperature above 0"):
        make_model(LoRe, num_heads=3, temperature=0.0, label_smoothing=0.1)


def test_em_never_raises_the_loss_and_ends_where_its_gradient_is_flat():
    pairs = make_pairs(200)
    model = make_model(num_heads=2, gate=SourceGate, estimation="em", head=SharedHeads)
    exact = make_model(num_heads=2, gate=SourceGate, head=SharedHeads)
    losses = []
    for _ in range(60):
        exact.load_state_dict(model.state_dict())
        losses.append(loss_of(exact, pairs).item())
        with torch.no_grad():
            model.log_weights_UK, _ = model.weigh_users(model.read(pairs), pairs.label_N("user_id"), USERS)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50, line_search_fn="strong_wolfe")

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = loss_of(model, pairs)
            loss.backward()
            return loss

        optimizer.step(closure)
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(losses))
    assert losses[0] - losses[-1] > 0.01
    exact.load_state_dict(model.state_dict())
    loss_of(exact, pairs).backward()
    # In single precision no step lowers the loss from there.
    assert max(float(weight.grad.abs().max()) for weight in exact.parameters()) < 2e-2


def test_a_gate_by_source_knows_its_sources_by_name():
    model = make_model(num_heads=3, gate=SourceGate)
    with torch.no_grad():
        model.gate.difference_SK.copy_(torch.randn(SOURCES, 3))
        model.gate.logits_K.copy_(torch.randn(3))
    other = make_model(num_heads=3, gate=SourceGate, names={**NAMES, "source": ["new", "s2"]}, sources=NAMES["source"])
    other.load_state_dict(model.state_dict())
    pairs = make_pairs(3)
    pairs.labels_NC[:, LABELS.index("source")] = torch.tensor([2, 0, -1])
    there, here = (torch.arange(3), model), (torch.tensor([1, 0, -1]), other)
    pairs.labels_NC[:, LABELS.index("source")] = torch.tensor([2, -1, -1])
    expected_BK = there[1](pairs).log_weights_BK
    pairs.labels_NC[:, LABELS.index("source")] = here[0]
    assert torch.equal(here[1](pairs).log_weights_BK, expected_BK)


def test_features_of_shared_heads_have_the_kernel_they_promise():
    head = SharedHeads(8, 1, features=200_000, lengthscale=0.5)
    response_BD = torch.randn(6, 8)
    shown_BF = (2 / head.features) ** 0.5 * torch.cos(response_BD @ head.frequencies_FD.T + head.phases_F)
    distance_BB = torch.cdist(response_BD, response_BD) / (0.5 * 8**0.5)
    torch.testing.assert_close(shown_BF @ shown_BF.T, torch.exp(-(distance_BB**2) / 2), atol=0.02, rtol=0.0)
    with torch.no_grad():
        expected_BK = shown_BF @ (128 * 0.3**-0.5 * (head.base_F + head.deviation_KF)).T
        torch.testing.assert_close(head(response_BD), expected_BK, atol=1e-4, rtol=1e-3)
    assert "frequencies_FD" not in head.state_dict()


def test_shared_heads_pay_for_what_they_add():
    head = SharedHeads(4, 3, base_precision=0.2, deviation_precision=0.3)
    with torch.no_grad():
        head.base_F.fill_(1.0)
        head.deviation_KF.fill_(2.0)
    assert head.penalty().item() == pytest.approx(128**2 * (4 + 12 * 4) / 2)
    torch.testing.assert_close(head(torch.ones(1, 4)), torch.full((1, 3), 2 * 128 * (0.2**-0.5 + 2 * 0.3**-0.5)))
    model = make_model(num_heads=3, head=SharedHeads)
    assert set(model.losses(model(make_pairs()), make_pairs())) == {"nll", "penalty"}


PLANTED = (
    "+experiment=planted_floors_k8", *SMALL_FEATURES, "data.train=2400", "data.test=1200",
    "data/population=two_tastes", "data.population.angle=180", "data.users_per_group=40",
)  # fmt: skip
EM = (
    "model=tied", "model.num_heads=2", "model.estimation=em", "model/optimizer=lbfgs", "model.optimizer.max_iter=20",
    "trainer.gradient_clip_val=null", "loader.batch_size=100000", "trainer.max_epochs=8",
)  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=tied", "model.num_heads=2", "trainer.max_epochs=8"),
        EM,
        pytest.param(("model=lore", "model.num_heads=2", "trainer.max_epochs=8"), marks=pytest.mark.full),
        ("model=maxmin", "model.num_heads=2", "trainer.max_epochs=8"),
    ],
)
def test_users_of_opposite_tastes_are_told_apart(overrides, settings, tmp_path):
    """A pair-level mixture cannot do better than a coin where two groups of one size want opposite things."""
    run = settings(*PLANTED, *overrides)
    nll = train.run(run)
    data = build(run["data"]).load(0)
    assert nll < 0.75 * math.log(2.0)
    model = restore(Path(run["paths"]["run_dir"]), data, tmp_path)
    pairs = data.split("train")
    user_N = pairs.label_N("user_id")
    codes_UK = model.learn(pairs, user_N, len(data.names["user_id"]))
    head_U = codes_UK.argmax(dim=1)
    groups = (head_U[:40].float().mean() - head_U[40:].float().mean()).abs()
    assert groups > 0.9


@pytest.mark.parametrize("model", [TiedMixture, MaxMinEM, LoRe])
def test_every_weight_has_a_gradient_as_several_devices_ask_for(model):
    settings = {"temperature": 0.0} if model is LoRe else {}
    people, pairs = make_model(model, num_heads=3, gate=SourceGate, **settings), make_pairs()
    loss_of(people, pairs).backward()
    assert all(weight.grad is not None for weight in people.parameters())


def test_the_weights_of_an_e_step_are_where_the_model_is():
    """They come from a checkpoint to the CPU, before the model is sent to its device."""
    model = make_model(num_heads=3, estimation="em")
    model.on_load_checkpoint({"e_step": (2, torch.zeros(USERS, 3))})
    assert model.to("meta").log_weights_UK.is_meta


def test_em_goes_on_from_a_checkpoint_of_a_mixture_with_an_e_step_of_its_own():
    model = make_model(num_heads=3, estimation="em")
    model.on_load_checkpoint({})
    assert model.epoch == -1
    assert model.log_weights_UK is None


@pytest.mark.parametrize("unfit", ["trainer.gradient_clip_val=1.0", "trainer.accumulate_grad_batches=2"])
def test_a_line_search_on_another_gradient_than_the_loss_has_is_refused(unfit, settings):
    with pytest.raises(UserError, match=r"trainer\.gradient_clip_val=null trainer\.accumulate_grad_batches=1"):
        train.run(settings(*PLANTED, *EM, unfit))


def test_a_model_of_people_without_people_is_a_mixture_of_pairs_and_says_so(settings, capsys):
    train.run(settings(*PLANTED, "model=tied", "model.num_heads=2", "data.users_per_group=0", "trainer.max_epochs=1"))
    assert "note: the data name no users" in capsys.readouterr().out
    model, pairs = make_model(num_heads=3, gate=LinearGate), make_pairs(named=False)
    expected_B = -model.log_prob(model(pairs))
    torch.testing.assert_close(model.nll_terms(model(pairs), pairs), expected_B)


def test_a_run_says_how_seen_and_unseen_users_fare(settings, capsys):
    run = settings(*PLANTED, "model=tied", "data.users_per_group=600", "trainer.max_epochs=1")
    train.run(run)
    found = json.loads((Path(run["paths"]["run_dir"]) / "results.json").read_text())["test_by"]["user"]
    data = build(run["data"]).load(0)
    seen = torch.isin(data.split("test").label_N("user_id"), data.split("train").label_N("user_id"))
    assert found["seen"]["nll"]["n"] == int(seen.sum())
    assert found["unseen"]["nll"]["n"] == int((~seen).sum())
    assert "next: python -m micro_lit.compare +experiment=people_planted" in capsys.readouterr().out


def test_a_killed_em_that_is_resumed_within_an_epoch_ends_where_the_whole_one_does(settings):
    overrides = (
        *PLANTED, "model=tied", "model.estimation=em", "trainer.max_epochs=2", "loader.batch_size=300",
        "trainer.val_check_interval=3",
    )  # fmt: skip
    expected = train.run(settings(*overrides))
    kill = (
        "packages=[micro_lit_testing]",
        "+callbacks.kill._target_=micro_lit_testing.KillAt",
        "+callbacks.kill.step=11",
    )
    with pytest.raises(micro_lit_testing.Killed):
        train.run(settings(*overrides, *kill, "overwrite=true"))
    last = Path(settings()["paths"]["run_dir"]) / "checkpoints" / "last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    assert step == 9 or step % 3 == 2, step
    assert train.run(settings(*overrides, f"ckpt_path={last}")) == expected


TRAINED = (
    "data=planted_text", "data.train=64", "data.validation=16", "data.test=16", "data.users_per_group=4",
    "backbone=tiny", "loader.batch_size=16", "trainer.max_epochs=1",
)  # fmt: skip


@pytest.fixture
def num_read(monkeypatch) -> list[int]:
    """How many pairs each reading of training pairs was of, but for those of training passes."""
    found, read = [], PeopleBT.read
    monkeypatch.setattr(PeopleBT, "read", lambda self, pairs: found.append(len(pairs)) or read(self, pairs))
    return found


@pytest.mark.parametrize("name", ["tied", "lore", "vpl"])
def test_validation_of_a_trained_backbone_reads_no_training_text_again(name, settings, num_read):
    with Run(settings(*TRAINED, f"model={name}", "model.optimizer.lr=1e-7")) as built:
        built.fit()
        assert num_read == []
        model = built.model
        evidence_NE, read_N = model.epoch_evidence.gathered()
        assert read_N.all()
        user_N = built.datamodule.labelled_pairs.label_N("user_id")
        assert torch.equal(model.codes_UC, model.codes(evidence_NE, user_N, model.num_users))
        # At so small a learning rate the weights of each pass are those of now, and each row is at its place.
        with torch.no_grad():
            torch.testing.assert_close(
                evidence_NE, PeopleBT.read(model, built.datamodule.train_pairs), atol=0.01, rtol=0.01
            )
        num_read.clear()
        built.test()
        assert num_read == [64]


def test_validation_within_an_epoch_reads_what_the_epoch_has_not_come_to(settings, num_read):
    with Run(settings(*TRAINED, "model=tied", "trainer.val_check_interval=0.5")) as built:
        built.fit()
    [within] = num_read
    assert 0 < within < 64


def test_a_run_killed_before_its_evidence_is_whole_ends_where_the_whole_one_does(settings):
    overrides = (*TRAINED, "model=tied", "trainer.max_epochs=2", "trainer.val_check_interval=2")
    expected = train.run(settings(*overrides))
    kill = ("packages=[micro_lit_testing]", "+callbacks.kill={_target_: micro_lit_testing.KillAt, step: 7}")
    with pytest.raises(micro_lit_testing.Killed):
        train.run(settings(*overrides, *kill, "overwrite=true"))
    last = Path(settings()["paths"]["run_dir"]) / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch_evidence"]["read"].any()
    assert train.run(settings(*overrides, f"ckpt_path={last}")) == expected


def test_evidence_of_other_data_is_not_taken_over(settings):
    with Run(settings(*TRAINED, "model=tied")) as built:
        built.model.epoch_evidence = EpochEvidence(3)
        built.fit()
        assert built.model.epoch_evidence.read_N.tolist() == [True] * 64
