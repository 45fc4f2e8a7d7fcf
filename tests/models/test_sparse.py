"""Tests of `micro_lit.models.sparse`, and of the planted categories that it recovers."""

import json
import math
from pathlib import Path

import micro_lit_testing
import pytest
import torch
from conftest import SMALL_FEATURES
from hypothesis import given
from hypothesis import strategies as st

from micro_lit import likelihood, train
from micro_lit.data.pairs import Pairs
from micro_lit.errors import UserError
from micro_lit.features.backbones import CachedBackbone
from micro_lit.models import LinearGate, MixtureBT, MLPGate, SingleBT, SparseMoE, StaticGate

WIDTH = 6
TERMS = {"sparsity_weight": 0.3, "balance_weight": 0.2, "diversity_weight": 0.1}


def make_pairs(num_pairs: int = 64) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    triplets_N3 = torch.randint(20, (num_pairs, 3), generator=generator)
    return Pairs(
        triplets_N3, torch.full((num_pairs, 5), -1), torch.full((num_pairs,), torch.nan), torch.empty(num_pairs, 0)
    )


def make_model(model=SparseMoE, seed: int = 0, **settings) -> MixtureBT:
    features_MD = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1))
    backbone = CachedBackbone(features_MD, standardise=False, train=make_pairs())
    torch.manual_seed(seed)
    return model(backbone, names={}, **{"gate": LinearGate, **settings})


def descend(model: MixtureBT, steps: int = 20) -> MixtureBT:
    pairs = make_pairs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model.losses(model(pairs), pairs).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def same_to_the_last_bit(one: MixtureBT, other: MixtureBT) -> bool:
    pairs = make_pairs()
    return torch.equal(one.head.weight, other.head.weight) and torch.equal(
        one.log_prob(one(pairs)), other.log_prob(other(pairs))
    )


@pytest.mark.parametrize("gate", [StaticGate, LinearGate, MLPGate])
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_all_heads_heard_is_the_mixture_to_the_last_bit(gate, noise):
    mixture = descend(make_model(MixtureBT, num_heads=4, gate=gate))
    sparse = descend(make_model(num_heads=4, gate=gate, top_k=4, noise=noise))
    assert same_to_the_last_bit(sparse, mixture)
    for ours, theirs in zip(sparse.gate.parameters(), mixture.gate.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("link", ["probability", "reward"])
def test_one_head_is_single_bt_to_the_last_bit_whatever_the_terms(link):
    baseline = descend(make_model(SingleBT))
    sparse = descend(make_model(num_heads=1, top_k=1, link=link, noise=1.0, **TERMS))
    assert same_to_the_last_bit(sparse, baseline)


@given(num_heads=st.integers(2, 9), data=st.data(), seed=st.integers(0, 100))
def test_the_largest_weights_are_kept_and_share_what_the_others_lose(num_heads, data, seed):
    top_k = data.draw(st.integers(1, num_heads))
    judgment = make_model(num_heads=num_heads, top_k=top_k, seed=seed)(make_pairs())
    dense_BK, sparse_BK = judgment.dense_log_weights_BK.exp(), judgment.log_weights_BK.exp()
    for dense_K, sparse_K in zip(dense_BK, sparse_BK, strict=True):
        kept = sorted(range(num_heads), key=lambda head: -dense_K[head])[:top_k]
        expected_K = torch.zeros(num_heads)
        expected_K[kept] = dense_K[kept] / dense_K[kept].sum()
        torch.testing.assert_close(sparse_K, expected_K)
        assert (sparse_K > 0).sum() == top_k


def test_evidence_of_who_judges_changes_who_is_heard():
    """It weighs on the dense weights, by Bayes' rule, and the choice follows; evidence for all alike is none."""
    model, pairs = make_model(num_heads=5, top_k=2), make_pairs()
    plain = model(pairs)
    evidence_BK = 2.0 * torch.randn(64, 5, generator=torch.Generator().manual_seed(2))
    judged = model(pairs, evidence_BK)
    dense_BK = plain.dense_log_weights_BK.exp() * evidence_BK.exp()
    torch.testing.assert_close(judged.dense_log_weights_BK.exp(), dense_BK / dense_BK.sum(dim=1, keepdim=True))
    heard_BK, expected_B2 = judged.log_weights_BK.exp() > 0, dense_BK.topk(2).indices.sort().values
    assert torch.equal(heard_BK.nonzero()[:, 1].view(-1, 2), expected_B2)
    assert not torch.equal(heard_BK, plain.log_weights_BK.exp() > 0)
    for_one_BK = torch.tensor([0.0, 0.0, 0.0, 50.0, 0.0]).expand(64, 5)
    torch.testing.assert_close(model(pairs, for_one_BK).log_weights_BK[:, 3].exp(), torch.ones(64))
    torch.testing.assert_close(model(pairs, torch.full((64, 5), 7.0)).log_weights_BK, plain.log_weights_BK)


def test_noise_decides_who_is_heard_but_not_how_loudly_and_in_training_alone():
    plain, noisy = (make_model(num_heads=6, top_k=2, noise=noise) for noise in (0.0, 1e4))
    pairs = make_pairs(4000)
    judgment = noisy(pairs)
    assert torch.equal(judgment.dense_log_weights_BK, plain(pairs).dense_log_weights_BK)
    heard_BK = judgment.log_weights_BK.exp() > 0
    # So much noise draws two of six by lot: each is heard by a third, with a standard error of .0075.
    torch.testing.assert_close(heard_BK.float().mean(dim=0), torch.full((6,), 1 / 3), atol=0.04, rtol=0)
    kept_BK = judgment.dense_log_weights_BK.exp() * heard_BK
    torch.testing.assert_close(judgment.log_weights_BK.exp(), kept_BK / kept_BK.sum(dim=1, keepdim=True))
    assert torch.equal(noisy.eval()(pairs).log_weights_BK, plain(pairs).log_weights_BK)


def test_little_noise_keeps_clear_choices():
    plain, noisy = (make_model(num_heads=6, top_k=2, noise=noise) for noise in (0.0, 1e-9))
    assert torch.equal(noisy(make_pairs()).log_weights_BK, plain(make_pairs()).log_weights_BK)


def test_heads_that_are_not_heard_learn_nothing_from_the_likelihood_and_the_gate_does():
    model, pairs = make_model(num_heads=6, top_k=2, gate=StaticGate), make_pairs()
    with torch.no_grad():
        model.gate.logits_K.copy_(torch.tensor([0.1, 0.0, 0.4, 0.0, 0.3, 0.2]))
    model.losses(model(pairs), pairs)["nll"].backward()
    silent = torch.tensor([0, 1, 3, 5])
    assert (model.head.weight.grad[silent] == 0).all()
    assert (model.head.weight.grad[[2, 4]].abs().sum(dim=1) > 0).all()
    assert (model.gate.logits_K.grad[[2, 4]] != 0).all()


@pytest.mark.parametrize("term", ["sparsity_weight", "balance_weight"])
def test_a_dead_expert_keeps_a_gradient(term):
    model, pairs = make_model(num_heads=3, top_k=1, gate=StaticGate, **{term: 1.0}), make_pairs()
    with torch.no_grad():
        model.gate.logits_K.copy_(torch.tensor([2.0, 0.0, -1.0]))
    terms = model.losses(model(pairs), pairs)
    [nll] = torch.autograd.grad(terms["nll"], [model.gate.logits_K], retain_graph=True)
    assert (nll == 0).all()  # of a single expert heard there is nothing to weigh
    terms[term.removesuffix("_weight")].backward()
    assert (model.gate.logits_K.grad != 0).all()
    # Balance calls the dead expert back; sparsity alone lets it go.
    assert (model.gate.logits_K.grad[2] < 0) == (term == "balance_weight")


def test_the_terms_are_what_they_say():
    model, pairs = make_model(num_heads=5, top_k=2, **TERMS), make_pairs()
    judgment = model(pairs)
    terms = model.losses(judgment, pairs)
    assert set(terms) == {"nll", "sparsity", "balance", "diversity"}
    dense_BK = judgment.dense_log_weights_BK.exp()
    entropy = torch.special.entr(dense_BK).sum(dim=1).mean()
    torch.testing.assert_close(terms["sparsity"], 0.3 * entropy)
    mean_K = dense_BK.mean(dim=0)
    torch.testing.assert_close(terms["balance"], 0.2 * (mean_K * (5 * mean_K).log()).sum())
    torch.testing.assert_close(terms["diversity"], 0.1 * likelihood.diversity(judgment.margins_BK))
    torch.testing.assert_close(terms["nll"], -model.log_prob(judgment).mean())
    assert set(make_model(num_heads=5).losses(judgment, pairs)) == {"nll"}


def test_gates_that_know_nothing_pay_log_k_for_sparsity():
    model, pairs = make_model(num_heads=5, gate=StaticGate, sparsity_weight=1.0), make_pairs()
    assert model.losses(model(pairs), pairs)["sparsity"].item() == pytest.approx(math.log(5))


def test_swapping_chosen_and_rejected_mirrors_the_probability():
    model, pairs = make_model(num_heads=5, top_k=2), make_pairs()
    swapped = Pairs(pairs.triplets_N3[:, [0, 2, 1]], pairs.labels_NC, pairs.rating_gap_N, pairs.reference_log_probs_NF)
    total_B = model.log_prob(model(pairs)).exp() + model.log_prob(model(swapped)).exp()
    torch.testing.assert_close(total_B, torch.ones_like(total_B))


def test_the_order_of_experts_does_not_matter():
    model, other, pairs = make_model(num_heads=4, **TERMS), make_model(num_heads=4, **TERMS), make_pairs()
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for there, here in zip(other.parameters(), model.parameters(), strict=True):
            there.copy_(here[order])
    left, right = model.losses(model(pairs), pairs), other.losses(other(pairs), pairs)
    for name in left:
        torch.testing.assert_close(left[name], right[name])


@pytest.mark.parametrize(("num_heads", "top_k"), [(4, 0), (4, 5), (1, 2), (4, -1)])
def test_a_number_of_experts_that_cannot_be_heard_is_named(num_heads, top_k):
    with pytest.raises(UserError, match=rf"model.top_k={top_k}: .* at least 1 and at most model.num_heads={num_heads}"):
        make_model(num_heads=num_heads, top_k=top_k)


@pytest.mark.full
def test_experts_of_planted_categories_are_specialists(settings):
    """Nobody tells the model the category of a topic: the expert on top says it, and is right on it alone."""
    size = ("data.train=20000", "data.validation=1000", "data.test=4000", "loader.batch_size=512")
    run = settings("+experiment=sparse_moe_planted", *size)
    train.run(run)
    folder = Path(run["paths"]["run_dir"])
    heads = json.loads((folder / "results.json").read_text())["heads"]
    found = heads["categories"]["group"]
    assert set(heads["categories"]) == {"source", "group"}
    assert found["values"] == ["coding", "letters", "science", "stories"]
    assert found["purity"] >= 0.95
    assert found["nmi"] > 0.8
    for expert in found["specialisation"]:
        assert expert["inside"] > 0.8
        assert expert["outside"] < 0.6
    assert sum(expert["n"] for expert in found["specialisation"]) == 4000
    assert heads["entropy_per_example"] <= math.log(2)
    columns = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    terms = {f"train/{name}" for name in ("nll", "sparsity", "balance", "diversity")}
    assert {*terms, "val/entropy_per_example", "val/entropy_of_mean", "val/dead_heads"} <= set(columns)


SMALL = ("+experiment=sparse_moe_planted", *SMALL_FEATURES)


def test_a_model_of_one_head_has_no_routing_to_report(settings):
    run = settings(*SMALL, "model=single_bt", "trainer.max_epochs=1")
    train.run(run)
    folder = Path(run["paths"]["run_dir"])
    assert "categories" not in json.loads((folder / "results.json").read_text())["heads"]
    assert "val/entropy" not in (folder / "metrics.csv").read_text()


@pytest.mark.full
def test_a_noisy_run_that_is_resumed_ends_where_the_whole_one_does(settings):
    command = (*SMALL, "model.noise=1.0", "trainer.max_epochs=3", "trainer.val_check_interval=3")
    whole = settings(*command)
    expected = train.run(whole)
    last = Path(whole["paths"]["run_dir"]) / "checkpoints" / "last.ckpt"
    kill = ("packages=[micro_lit_testing]", "+callbacks.kill._target_=micro_lit_testing.KillAt")
    with pytest.raises(micro_lit_testing.Killed):
        train.run(settings(*command, *kill, "+callbacks.kill.step=13", "overwrite=true"))
    assert train.run(settings(*command, f"ckpt_path={last}")) == expected
    assert train.run(settings(*command, "model.noise=0.0", "overwrite=true")) != expected
