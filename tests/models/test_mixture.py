from functools import partial

import pytest
import torch

from micro_lit.data.pairs import Pairs
from micro_lit.errors import UserError
from micro_lit.features.backbones import CachedBackbone
from micro_lit.models import LinearGate, LinearHeads, MixtureBT, MLPGate, MLPHeads, SingleBT, StaticGate

WIDTH = 6


def make_pairs(num_pairs: int = 64) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    return Pairs(
        torch.randint(20, (num_pairs, 3), generator=generator),
        torch.full((num_pairs, 4), -1),
        torch.rand(num_pairs, generator=generator),
        torch.empty(num_pairs, 0),
    )


def make_model(model=MixtureBT, seed: int = 0, **settings) -> MixtureBT:
    features_MD = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1))
    backbone = CachedBackbone(features_MD, standardise=False, train=make_pairs())
    torch.manual_seed(seed)
    return model(backbone, names={}, **settings)


def descend(model: MixtureBT, steps: int = 20) -> MixtureBT:
    pairs = make_pairs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model.losses(model(pairs), pairs).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@pytest.mark.parametrize("gate", [StaticGate, LinearGate, MLPGate])
@pytest.mark.parametrize("link", ["probability", "reward"])
def test_one_head_with_any_gate_trains_as_single_bt_to_the_last_bit(gate, link):
    baseline = descend(make_model(SingleBT))
    mixture = descend(make_model(num_heads=1, gate=gate, link=link, entropy_weight=0.5, balance_weight=0.5))
    assert torch.equal(mixture.head.weight, baseline.head.weight)
    pairs = make_pairs()
    assert torch.equal(mixture.log_prob(mixture(pairs)), baseline.log_prob(baseline(pairs)))


@pytest.mark.parametrize("head", [LinearHeads, MLPHeads])
@pytest.mark.parametrize("gate", [StaticGate, LinearGate, MLPGate])
def test_gradients_reach_heads_and_gate_and_the_loss_falls(head, gate):
    pairs = make_pairs()
    model = make_model(num_heads=4, head=head, gate=gate)
    before = model.losses(model(pairs), pairs)["nll"]
    before.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    descend(model)
    assert model.losses(model(pairs), pairs)["nll"] < before


def test_heads_are_independent_rewards():
    """MLP heads computed together equal each head computed alone."""
    heads = MLPHeads(WIDTH, 3, hidden=5)
    response_BD = torch.randn(7, WIDTH)
    together_BK = heads(response_BD)
    for head in range(3):
        rows = slice(head * 5, (head + 1) * 5)
        hidden_BH = torch.nn.functional.gelu(response_BD @ heads.hidden.weight[rows].T + heads.hidden.bias[rows])
        torch.testing.assert_close(together_BK[:, head], hidden_BH @ heads.output_KH[head])


def test_eight_batches_of_one_equal_one_batch_of_eight():
    model, pairs = make_model(num_heads=3, gate=MLPGate), make_pairs(8)
    model.losses(model(pairs), pairs)["nll"].backward()
    together = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for row in range(8):
        one = pairs[torch.tensor([row])]
        (model.losses(model(one), one)["nll"] / 8).backward()
    for parameter, expected in zip(model.parameters(), together, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_swapping_chosen_and_rejected_mirrors_the_probability():
    model, pairs = make_model(num_heads=3, gate=LinearGate), make_pairs()
    swapped = Pairs(pairs.triplets_N3[:, [0, 2, 1]], pairs.labels_NC, pairs.rating_gap_N, pairs.reference_log_probs_NF)
    total_B = model.log_prob(model(pairs)).exp() + model.log_prob(model(swapped)).exp()
    torch.testing.assert_close(total_B, torch.ones_like(total_B))


def test_terms_of_weight_zero_are_left_out():
    model, pairs = make_model(num_heads=3), make_pairs()
    assert set(model.losses(model(pairs), pairs)) == {"nll"}
    model = make_model(num_heads=3, entropy_weight=0.5, balance_weight=0.1, centring_weight=0.01)
    assert set(model.losses(model(pairs), pairs)) == {"nll", "entropy", "balance", "centring"}


def test_rating_gaps_ask_for_a_margin_pair_by_pair():
    model, pairs = make_model(SingleBT, rating_gap_weight=2.0), make_pairs()
    judgment = model(pairs)
    expected = -torch.nn.functional.logsigmoid(judgment.margins_BK[:, 0] - 2.0 * pairs.rating_gap_N).mean()
    torch.testing.assert_close(model.losses(judgment, pairs)["nll"], expected)
    unknown = Pairs(pairs.triplets_N3, pairs.labels_NC, torch.full((64,), torch.nan), pairs.reference_log_probs_NF)
    assert model.losses(judgment, unknown)["nll"].isfinite()


def test_a_head_of_the_wrong_width_is_an_error():
    model = make_model(num_heads=4, head=lambda width, num_heads: torch.nn.Linear(width, 3))
    with pytest.raises(UserError, match="Linear gives float32 rewards"):
        model(make_pairs())


def test_weights_of_another_number_of_heads_do_not_load():
    with pytest.raises(RuntimeError, match="size mismatch"):
        make_model(num_heads=4).load_state_dict(make_model(num_heads=3).state_dict())


def test_frozen_features_are_not_in_the_checkpoint():
    names = set(make_model(num_heads=2, gate=partial(MLPGate, hidden=4)).state_dict())
    assert {name.split(".")[0] for name in names} == {"head", "gate", "backbone"}
    assert not any("features" in name for name in names)
