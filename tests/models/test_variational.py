"""Tests of ideal points (PAL) and of variational codes (VPL)."""

import csv
import math
from functools import partial
from pathlib import Path

import micro_lit_testing
import pytest
import torch
from conftest import SMALL_FEATURES
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from micro_lit import train
from micro_lit.config import build
from micro_lit.data.pairs import Pairs
from micro_lit.data.records import LABELS
from micro_lit.features.backbones import CachedBackbone
from micro_lit.models import PAL, VPL, LoRe, MixtureBT, PromptPrototypeHeads, PrototypeHeads, SingleBT
from micro_lit.models.people import number_users
from micro_lit.models.people.vpl import CodeDecoder, code_posterior, code_statistics, divergence
from micro_lit.run.restored import restore
from micro_lit.run.run import Run

WIDTH, TEXTS, USERS, CODE = 6, 20, 9, 5
NAMES = {"user_id": [f"u{number}" for number in range(USERS)]}
USER = LABELS.index("user_id")
HEADS = [PrototypeHeads, PromptPrototypeHeads]


def make_pairs(num_pairs: int = 60, named: bool = True, seed: int = 0) -> Pairs:
    """Pairs of all users but the last."""
    generator = torch.Generator().manual_seed(seed)
    labels_NC = torch.full((num_pairs, len(LABELS)), -1)
    if named:
        labels_NC[:, USER] = torch.randint(USERS - 1, (num_pairs,), generator=generator)
    return Pairs(
        torch.randint(TEXTS, (num_pairs, 3), generator=generator),
        labels_NC,
        torch.rand(num_pairs, generator=generator),
        torch.empty(num_pairs, 0),
    )


def make_model(model=VPL, seed: int = 0, names=NAMES, **settings) -> MixtureBT:
    features_MD = torch.randn(TEXTS, WIDTH, generator=torch.Generator().manual_seed(1))
    backbone = CachedBackbone(features_MD, standardise=False, train=make_pairs())
    torch.manual_seed(seed)
    return model(backbone, names=names, **settings)


make_vpl = partial(make_model, VPL, code_width=CODE, hidden=16)


def loss_of(model: MixtureBT, pairs: Pairs) -> torch.Tensor:
    return sum(model.losses(model(pairs), pairs).values())


def descend(model: MixtureBT, pairs: Pairs, steps: int = 20, lr: float = 0.05) -> MixtureBT:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, pairs).backward()
        optimizer.step()
    return model


def say(model: VPL, mean: float, log_variance: float) -> VPL:
    """All votes alike, whatever the encoder reads."""
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias.copy_(torch.tensor([mean, log_variance]).repeat_interleave(CODE))
    return model


def codes_of_all(model: VPL, pairs: Pairs) -> torch.Tensor:
    return model.learn(pairs, pairs.label_N("user_id"), USERS)


@pytest.mark.parametrize("head", HEADS)
def test_pal_of_one_prototype_trains_as_single_bt_to_the_last_bit(head):
    pairs = make_pairs()
    pal, single = make_model(PAL, num_heads=1, head=head), make_model(SingleBT, head=head)
    for model in (pal, single):
        descend(model, pairs)
    for left, right in zip(pal.head.parameters(), single.head.parameters(), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(pal.log_prob(pal(pairs)), single.log_prob(single(pairs)))


@pytest.mark.parametrize("head", HEADS)
def test_pal_judges_by_the_closeness_to_the_users_own_point(head):
    """Through the whole model, from labels to probabilities: reward -|f(y) - z|² in model A, f(y) · z in model B."""
    model, pairs = make_model(PAL, num_heads=3, head=head, temperature=0.1), make_pairs(200)
    model.codes_UC = codes_of_all(model, pairs)
    with torch.no_grad():
        judgment = model.judge(pairs)
        shown = model.backbone(pairs, with_context=True)
        weights_BK = judgment.log_weights_BK.exp()
        assert weights_BK.std(dim=0).min() > 0.05
        chosen_BP, rejected_BP = model.head.map(shown.chosen_BD), model.head.map(shown.rejected_BD)
        if head is PrototypeHeads:
            ideal_BP = weights_BK @ model.head.prototypes_KP
            closer_B = (rejected_BP - ideal_BP).square().sum(dim=1) - (chosen_BP - ideal_BP).square().sum(dim=1)
        else:
            points_KBP = torch.stack([prototype(shown.context_BD) for prototype in model.head.prototypes])
            ideal_BP = torch.einsum("bk,kbp->bp", weights_BK, points_KBP)
            closer_B = ((chosen_BP - rejected_BP) * ideal_BP).sum(dim=1)
    torch.testing.assert_close(model.log_prob(judgment), logsigmoid(closer_B))


def test_pal_is_lore_with_prototypes():
    pairs = make_pairs()
    pal, lore = make_model(PAL, num_heads=3), make_model(LoRe, num_heads=3, head=PrototypeHeads)
    assert torch.equal(loss_of(pal, pairs), loss_of(lore, pairs))
    assert torch.equal(codes_of_all(pal, pairs), codes_of_all(lore, pairs))


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-6, 4)), min_size=1, max_size=5))
def test_the_divergence_is_that_of_gaussians(code):
    mean_C, log_variance_C = torch.tensor(code, dtype=torch.float64).T
    q = torch.distributions.Normal(mean_C, (log_variance_C / 2).exp())
    p = torch.distributions.Normal(torch.zeros_like(mean_C), torch.ones_like(mean_C))
    expected = torch.distributions.kl_divergence(q, p).sum()
    torch.testing.assert_close(divergence(mean_C[None], log_variance_C[None])[0], expected)


def test_a_code_is_the_mean_of_votes_and_of_one_for_the_prior():
    votes_NV = torch.tensor([[2.0, -4.0], [4.0, -2.0], [5.0, 1.0]])
    mean_UC, log_variance_UC = code_posterior(votes_NV, torch.tensor([2, 2, 0]), 3)
    torch.testing.assert_close(mean_UC[:, 0], torch.tensor([2.5, 0.0, 2.0]))
    torch.testing.assert_close(log_variance_UC[:, 0], torch.tensor([0.5, 0.0, -2.0]))


def test_neither_the_order_of_pairs_nor_the_names_of_users_change_codes():
    model, pairs = make_vpl(), make_pairs()
    codes_UC = codes_of_all(model, pairs)
    generator = torch.Generator().manual_seed(2)
    shuffled = pairs[torch.randperm(len(pairs), generator=generator)]
    torch.testing.assert_close(codes_of_all(model, shuffled), codes_UC)
    renamed_U = torch.randperm(USERS, generator=generator)
    renamed_UC = model.learn(pairs, renamed_U[pairs.label_N("user_id")], USERS)
    torch.testing.assert_close(renamed_UC[renamed_U], codes_UC)
    alone_N = torch.nonzero(pairs.label_N("user_id") == 3)[:, 0]
    torch.testing.assert_close(codes_of_all(model, pairs[alone_N])[3], codes_UC[3])


def test_many_labels_are_read_in_parts(monkeypatch):
    model, pairs = make_vpl(), make_pairs()
    whole_UC = codes_of_all(model, pairs)
    monkeypatch.setattr(VPL, "rows_at_once", 7)
    torch.testing.assert_close(codes_of_all(model, pairs), whole_UC)


def test_which_response_was_chosen_changes_the_code():
    model, pairs = make_vpl(), make_pairs()
    turned = Pairs(pairs.triplets_N3[:, [0, 2, 1]], pairs.labels_NC, pairs.rating_gap_N, pairs.reference_log_probs_NF)
    assert (codes_of_all(model, pairs) - codes_of_all(model, turned))[: USERS - 1].abs().max() > 0.01


def test_strangers_have_the_code_of_the_prior_and_are_never_an_error():
    model, pairs = make_vpl(), make_pairs()
    model.codes_UC = codes_of_all(model, pairs)
    assert torch.equal(model.codes_UC[USERS - 1], torch.zeros(CODE))
    assert model.codes_UC[: USERS - 1].abs().min() > 0
    strangers = make_pairs(seed=5)
    strangers.labels_NC[:20, USER] = USERS - 1
    strangers.labels_NC[20:40, USER] = -1
    with torch.no_grad():
        judged, stranger, zero = model.judge(strangers), model(strangers), model(strangers, torch.zeros(60, CODE))
    assert torch.equal(stranger.margins_BK, zero.margins_BK)
    assert torch.equal(judged.margins_BK[:40], stranger.margins_BK[:40])
    assert (judged.margins_BK[40:] != stranger.margins_BK[40:]).any()
    nobodies = torch.where(pairs.label_N("user_id") == 0, -1, pairs.label_N("user_id"))
    torch.testing.assert_close(model.learn(pairs, nobodies, USERS)[1:], model.codes_UC[1:])
    assert torch.equal(model.learn(pairs, nobodies, USERS)[0], torch.zeros(CODE))


def test_without_users_or_labels_there_is_nothing_to_learn():
    pairs = make_pairs(named=False)
    model, user_N = make_vpl(names={}), pairs.label_N("user_id")
    assert torch.isfinite(model.log_prob(model.judge(pairs))).all()
    assert model.learn(pairs, user_N, 0).shape == (0, CODE)
    assert torch.equal(model.learn(pairs, user_N, USERS), torch.zeros(USERS, CODE))
    assert model.code_facts == {"width": CODE, "active_units": 0, "kl": 0.0}


def network(decoder: CodeDecoder) -> torch.nn.Sequential:
    return torch.nn.Sequential(decoder.response, decoder.reward)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "rating_gap_weight": 0.5, "centring_weight": 0.1}])
def test_a_decoder_that_ignores_the_code_trains_as_single_bt(settings):
    """To rounding, not to the bit: single BT judges every distinct response of a batch once, VPL for each user."""
    pairs = make_pairs()
    vpl = make_vpl(read_share=1.0, kl_weight=0.0, **settings)
    torch.nn.init.zeros_(vpl.head.code.weight.requires_grad_(False))
    head = partial(CodeDecoder, code_width=CODE, hidden=16)
    single = make_model(SingleBT, head=lambda **sizes: network(head(**sizes)), **settings)
    torch.testing.assert_close(vpl.losses(vpl(pairs), pairs), single.losses(single(pairs), pairs))
    for model in (vpl, single):
        descend(model, pairs)
    before = make_model(SingleBT, head=lambda **sizes: network(head(**sizes)), **settings)
    single_B, vpl_B = single(pairs).margins_BK, vpl(pairs).margins_BK
    torch.testing.assert_close(vpl_B, single_B, atol=1e-3, rtol=1e-3)
    assert (single_B - before(pairs).margins_BK).abs().mean() > 0.1


def test_the_loss_is_that_of_the_users_codes_and_their_divergence():
    """Codes without spread, so that nothing is left to chance: every user's is that of n equal votes of n + 1."""
    model, pairs = say(make_vpl(read_share=1.0, kl_weight=0.7), 0.8, -200.0), make_pairs()
    user_N = pairs.label_N("user_id")
    share_U = torch.bincount(user_N, minlength=USERS) / (1 + torch.bincount(user_N, minlength=USERS))
    terms = model.losses(model(pairs), pairs)
    expected = -logsigmoid(model(pairs, (0.8 * share_U[user_N])[:, None].expand(-1, CODE)).margins_BK).mean()
    torch.testing.assert_close(terms["nll"], expected)
    code_UC = torch.ones(USERS, CODE) * share_U[:, None]
    torch.testing.assert_close(terms["kl"], 0.7 * divergence(0.8 * code_UC, -200.0 * code_UC).sum() / len(pairs))
    assert set(terms) == {"nll", "kl"}
    assert set(make_vpl(kl_weight=0.0).losses(model(pairs), pairs)) == {"nll"}


def test_pairs_of_nobody_are_users_of_their_own():
    model, pairs = make_vpl(read_share=1.0, kl_weight=1.0), make_pairs(12, named=False)
    named = make_pairs(12, named=False)
    named.labels_NC[:, USER] = torch.arange(12)
    together = model.losses(model(pairs), pairs)["kl"]
    alone = [model.losses(model(pairs[row]), pairs[row])["kl"] for row in torch.arange(12)[:, None]]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    torch.testing.assert_close(together, model.losses(model(named), named)["kl"])


def test_what_the_encoder_reads_is_not_what_the_loss_is_of(monkeypatch):
    """A pair bears on the codes or on the loss: on the KL through the votes, or on the NLL through its margin."""
    model, pairs = make_vpl(read_share=0.5, kl_weight=1.0), make_pairs(40)
    read_B, noise_uC = model._draw(40, number_users(pairs.label_N("user_id"))[1])
    assert 10 < read_B.sum() < 30
    monkeypatch.setattr(model, "_draw", lambda *sizes: (read_B, noise_uC))
    shown_BE = model(pairs).context_BD.requires_grad_()
    terms = model.losses(model(pairs)._replace(context_BD=shown_BE), pairs)
    votes_BE = torch.autograd.grad(terms["kl"], shown_BE, retain_graph=True)[0]
    assert torch.equal(votes_BE.abs().sum(dim=1) > 0, read_B)
    with torch.no_grad():
        codes_uC, log_variance_uC = code_posterior(
            model._vote(shown_BE[read_B]), number_users(pairs.label_N("user_id"))[0][read_B], len(noise_uC)
        )
        codes_uC = codes_uC + (log_variance_uC / 2).exp() * noise_uC
        margins_BK = model(pairs, codes_uC[number_users(pairs.label_N("user_id"))[0]]).margins_BK
    torch.testing.assert_close(terms["nll"], -logsigmoid(margins_BK[~read_B]).mean())
    everything = torch.ones(40, dtype=torch.bool)
    monkeypatch.setattr(model, "_draw", lambda *sizes: (everything, noise_uC))
    assert model.losses(model(pairs), pairs)["nll"].isfinite()


@pytest.mark.parametrize("share", [0.25, 0.8])
def test_so_large_a_share_is_read_and_another_one_in_every_step(share, monkeypatch):
    model = make_vpl(read_share=share)
    draws = []
    for step in (0, 1, 0):
        monkeypatch.setattr(VPL, "global_step", step)
        draws.append(model._draw(20_000, 3))
    for first, other, again in zip(*draws, strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert float(draws[0][0].float().mean()) == pytest.approx(share, abs=0.02)
    for first, other in zip(draws[0], make_vpl(read_share=share, seed=1)._draw(20_000, 3), strict=True):
        assert not torch.equal(first, other)


def test_codes_are_drawn_from_the_posterior():
    """With equal votes of means 1 and variance 4, drawn for 4000 users of 3 pairs each."""
    model = say(make_vpl(read_share=1.0), 4 / 3, 4 / 3 * math.log(4.0))
    pairs = make_pairs(12_000)
    pairs.labels_NC[:, USER] = torch.arange(12_000) // 3
    seen = []
    decode = model._decode
    model._decode = lambda shown_BE, codes_BC: seen.append(codes_BC.detach()) or decode(shown_BE, codes_BC)
    judgment = model(pairs)
    model.losses(judgment, pairs)
    codes_UC = seen[-1].view(4000, 3, CODE)
    assert torch.equal(codes_UC[:, 0], codes_UC[:, 2])
    assert float(codes_UC[:, 0].mean()) == pytest.approx(1.0, abs=0.05)
    assert float(codes_UC[:, 0].std()) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("read_share", [0.5, 1.0])
def test_gradients_reach_encoder_and_decoder(read_share):
    model, pairs = make_vpl(read_share=read_share), make_pairs()
    terms = model.losses(model(pairs), pairs)
    for name in ("nll", "kl"):
        [gradient] = torch.autograd.grad(terms[name], [model.encoder[0].weight], retain_graph=True)
        assert gradient.abs().sum() > 0
    terms["nll"].backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.parameters())


def test_the_kl_rises_from_zero_with_the_steps():
    model, pairs = make_vpl(read_share=1.0), make_pairs()
    whole = model.losses(model(pairs), pairs)["kl"]
    model.steps_to_rise = 8.0  # of which the first is being taken
    torch.testing.assert_close(model.losses(model(pairs), pairs)["kl"], whole / 8)


def test_active_units_are_those_that_tell_users_apart():
    spread_UC = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    spread_UC *= torch.tensor([1.0, 0.3, 0.05, 0.0])
    spread_UC += 10.0  # what all users share does not count
    assert code_statistics(spread_UC, torch.zeros_like(spread_UC))["active_units"] == 2
    for users in (0, 1):
        facts = code_statistics(spread_UC[:users], torch.zeros(users, 4))
        assert (facts["width"], facts["active_units"]) == (4, 0)
        assert math.isfinite(facts["kl"])
    assert code_statistics(torch.tensor([[2.0], [0.0]]), torch.zeros(2, 1)) == {
        "width": 1,
        "active_units": 1,
        "kl": 1.0,
    }


def test_a_collapsed_encoder_has_no_active_units_and_a_spread_one_has_all():
    pairs = make_pairs()
    model = say(make_vpl(), 3.0, 0.0)
    # Users with more pairs hear the prior less, which is no news of their tastes, so give all as many.
    pairs.labels_NC[:, USER] = torch.arange(60) % (USERS - 1)
    pairs = pairs[torch.arange(56)]
    codes_of_all(model, pairs)
    assert model.code_facts["active_units"] == 0
    assert model.code_facts["kl"] == pytest.approx(CODE * (3.0 * 7 / 8) ** 2 / 2)
    with torch.no_grad():
        model.encoder[-1].weight[:CODE].normal_(std=10.0, generator=torch.Generator().manual_seed(0))
    codes_of_all(model, pairs)
    assert model.code_facts["active_units"] == CODE


def test_too_large_a_weight_of_the_divergence_collapses_the_code():
    pairs = make_pairs(200)
    free, bound = (descend(make_vpl(kl_weight=weight), pairs, steps=60, lr=0.02) for weight in (0.0, 1e3))
    for model in (free, bound):
        codes_of_all(model, pairs)
    assert free.code_facts["active_units"] > 0
    assert bound.code_facts["active_units"] == 0
    assert bound.code_facts["kl"] < 0.01 < free.code_facts["kl"]


def test_a_batch_learned_from_in_half_precision_is_judged_in_single():
    model, pairs = make_vpl(), make_pairs()
    expected = model(pairs).margins_BK
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(pairs).margins_BK, expected)
        assert all(term.dtype == torch.float32 for term in model.losses(model(pairs), pairs).values())


OPPOSITE = (
    "+experiment=planted_floors_k8", *SMALL_FEATURES, "data.train=2400", "data.test=1200", "data.users_per_group=75",
    "data/population=two_tastes", "data.population.angle=180",
)  # fmt: skip


QUICK = ("loader.batch_size=256", "trainer.max_epochs=16")


@pytest.mark.parametrize("model", ["pal_a", "pal_b", "vpl"])
def test_users_of_opposite_tastes_are_told_apart(model, settings, tmp_path):
    """16 labels of each of 150 users, half of whom want the opposite: single BT is a coin, and its NLL is log 2."""
    run = settings(*OPPOSITE, *QUICK, f"model={model}", *(["model.num_heads=2"] if model != "vpl" else []))
    assert train.run(run) < 0.75 * math.log(2.0)
    data = build(run["data"]).load(0)
    restored = restore(Path(run["paths"]["run_dir"]), data, tmp_path)
    trained, test = data.split("train"), data.split("test")
    restored.codes_UC = restored.learn(trained, trained.label_N("user_id"), restored.num_users)
    with torch.no_grad():
        judgment, stranger = restored.judge(test), restored(test)
    differ_B = data.texts[test.chosen_N, 1] != data.texts[test.rejected_N, 1]  # in what the groups disagree about
    for judged, least, most in ((judgment, 0.85, 1.0), (stranger, 0.3, 0.7)):
        assert least < float((restored.log_prob(judged)[differ_B] > -math.log(2.0)).float().mean()) < most


def test_a_run_of_vpl_says_how_its_code_fares_and_keeps_it(settings, tmp_path):
    run = settings(*OPPOSITE, "model=vpl", "loader.batch_size=256", "trainer.max_epochs=4")
    with Run(run) as this:
        this.fit()
        measured = this.test()
        module = this.model
        assert module.steps_to_rise == this.trainer.global_step / 2
    folder = Path(run["paths"]["run_dir"])
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/active_units")]
    assert len(rows) == 4
    code = measured["code"]
    assert code["width"] == 16
    assert 0 < code["active_units"] <= 16
    assert f"{code['kl']:.4f}" in {f"{float(row['val/kl']):.4f}" for row in rows}  # of the best checkpoint
    data = build(run["data"]).load(0)
    restored = restore(folder, data, tmp_path)
    pairs = data.split("train")
    codes_UC = restored.learn(pairs, pairs.label_N("user_id"), restored.num_users)
    assert torch.equal(codes_UC, module.codes_UC)
    assert torch.equal(restored(pairs, codes_UC[pairs.label_N("user_id")]).margins_BK, module.judge(pairs).margins_BK)


def test_a_killed_vpl_that_is_resumed_within_an_epoch_ends_where_the_whole_one_does(settings):
    overrides = (
        *OPPOSITE,
        "model=vpl",
        "trainer.max_epochs=2",
        "loader.batch_size=300",
        "trainer.val_check_interval=3",
    )
    expected = train.run(settings(*overrides))
    kill = ("+callbacks.kill._target_=micro_lit_testing.KillAt", "+callbacks.kill.step=11", "overwrite=true")
    with pytest.raises(micro_lit_testing.Killed):
        train.run(settings(*overrides, "packages=[micro_lit_testing]", *kill))
    last = Path(settings()["paths"]["run_dir"]) / "checkpoints" / "last.ckpt"
    assert train.run(settings(*overrides, f"ckpt_path={last}")) == expected
