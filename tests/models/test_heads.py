import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro_lit import likelihood
from micro_lit.adapt import posterior
from micro_lit.errors import UserError
from micro_lit.models import (
    LinearHeads,
    NegatedHeads,
    PrincipalHeads,
    PriorHeads,
    PromptPrototypeHeads,
    PrototypeHeads,
    RandomHeads,
)
from micro_lit.models.heads import perceptron

WIDTH = 7


def make_head(head, *arguments, seed: int = 0, **settings) -> torch.nn.Module:
    torch.manual_seed(seed)
    return head(WIDTH, *arguments, **settings)


def make_differences(num_pairs: int = 400, seed: int = 0) -> torch.Tensor:
    """Correlated features with a mean far from zero."""
    generator = torch.Generator().manual_seed(seed)
    mixing_DD = torch.randn(WIDTH, WIDTH, generator=generator)
    return torch.randn(num_pairs, WIDTH, generator=generator) @ mixing_DD + 3.0 * mixing_DD[0]


def prepared(num_heads: int, differences_ND: torch.Tensor, batch: int = 64) -> PrincipalHeads:
    heads = PrincipalHeads(WIDTH, num_heads)
    heads.prepare(iter(differences_ND.split(batch)))
    return heads


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_random_heads_have_unit_length_and_nothing_to_train(distribution):
    heads = make_head(RandomHeads, 100, distribution=distribution)
    torch.testing.assert_close(heads.directions_KD.norm(dim=1), torch.ones(100))
    assert not any(weight.requires_grad for weight in heads.parameters())
    rewards_BK = heads(torch.eye(WIDTH))
    assert torch.equal(rewards_BK, heads.directions_KD.T)


def test_random_heads_are_drawn_with_the_seed_of_the_run():
    first, again, other = (make_head(RandomHeads, 5, seed=seed).directions_KD for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_entries_of_uniform_directions_are_bounded_and_gaussian_ones_are_not():
    """Before scaling to unit length entries of either have one spread, but uniform ones end at √3 of it."""
    width = 10_000
    largest = {
        name: float(RandomHeads(width, 3, name).directions_KD.abs().max()) * width**0.5
        for name in ("gaussian", "uniform")
    }
    assert largest["uniform"] == pytest.approx(3**0.5, rel=0.03)
    assert largest["gaussian"] > 3.0


def test_an_unknown_distribution_is_refused():
    with pytest.raises(Exception, match="distribution"):
        RandomHeads(WIDTH, 4, distribution="cauchy")


def test_a_prior_of_scale_zero_leaves_linear_heads():
    heads, linear = make_head(PriorHeads, 4, scale=0.0), make_head(LinearHeads, 4)
    response_BD = torch.randn(9, WIDTH)
    assert torch.equal(heads(response_BD), linear(response_BD))


def test_a_prior_is_a_frozen_direction_of_the_length_that_was_asked_for():
    heads, linear = make_head(PriorHeads, 4, scale=2.5), make_head(LinearHeads, 4)
    torch.testing.assert_close(heads.prior_KD.norm(dim=1), torch.full((4,), 2.5))
    response_BD = torch.randn(9, WIDTH)
    torch.testing.assert_close(heads(response_BD), linear(response_BD) + response_BD @ heads.prior_KD.T)
    assert [name for name, _ in heads.named_parameters()] == ["weight"]


@pytest.mark.parametrize("num_heads", [2, 6])
def test_second_half_of_negated_heads_is_the_first_turned_round(num_heads):
    heads = make_head(NegatedHeads, num_heads)
    reward_BK = heads(torch.randn(9, WIDTH))
    assert reward_BK.shape == (9, num_heads)
    assert torch.equal(reward_BK, -reward_BK.roll(num_heads // 2, dims=1))
    assert sum(weight.numel() for weight in heads.parameters()) == WIDTH * num_heads // 2


@given(margin=st.floats(-20, 20), logit=st.floats(-6, 6))
def test_a_head_and_its_negation_under_fixed_weights_are_bt_with_wrong_labels(margin, logit):
    margins_BK = torch.tensor([[margin, -margin]], dtype=torch.float64)
    log_weights_BK = torch.log_softmax(torch.tensor([[logit, 0.0]], dtype=torch.float64), dim=-1)
    wrong = torch.sigmoid(torch.tensor(-logit, dtype=torch.float64))
    expected_B = wrong + (1 - 2 * wrong) * torch.sigmoid(margins_BK[:, 0])
    torch.testing.assert_close(likelihood.preference_log_prob(margins_BK, log_weights_BK).exp(), expected_B)


def test_flipped_labels_turn_the_posterior_of_a_head_and_its_negation():
    differences_ND = make_differences(6)
    heads = make_head(NegatedHeads, 2)
    margins_NK = heads(differences_ND).detach().double().numpy()
    flipped_NK = heads(-differences_ND).detach().double().numpy()
    user_N, prior_UK = np.zeros(6, dtype=int), np.full((1, 2), 0.5)
    weights_UK = posterior(margins_NK, user_N, prior_UK)
    assert np.array_equal(posterior(flipped_NK, user_N, prior_UK), weights_UK[:, ::-1])
    assert abs(weights_UK[0, 0] - 0.5) > 0.01


def test_principal_heads_are_the_right_singular_vectors_of_the_centred_differences():
    differences_ND = make_differences()
    found_KD = prepared(8, differences_ND).directions_KD.double().numpy()
    array_ND = differences_ND.double().numpy()
    _, _, right_DD = np.linalg.svd(array_ND - array_ND.mean(axis=0))
    cosine_CC = found_KD[:4] @ right_DD[:4].T
    np.testing.assert_allclose(np.abs(cosine_CC), np.eye(4), atol=1e-6)
    np.testing.assert_allclose(found_KD @ found_KD.T, np.kron([[1, -1], [-1, 1]], np.eye(4)), atol=1e-6)
    assert np.array_equal(found_KD[4:], -found_KD[:4])
    assert all(row[np.abs(row).argmax()] > 0 for row in found_KD[:4])


def test_planted_directions_are_found_in_the_order_of_their_variance():
    generator = torch.Generator().manual_seed(0)
    planted_CD = torch.linalg.qr(torch.randn(WIDTH, 3, generator=generator)).Q.T
    scores_NC = torch.randn(20_000, 3, generator=generator) * torch.tensor([4.0, 2.0, 0.0])
    noise_ND = 0.1 * torch.randn(20_000, WIDTH, generator=generator)
    # All agree along the third direction, and most of a difference is there: a mean, not a component.
    differences_ND = scores_NC @ planted_CD + noise_ND + 50.0 * planted_CD[2]
    directions_KD = prepared(4, differences_ND, batch=1000).directions_KD
    torch.testing.assert_close((directions_KD[:2] * planted_CD[:2]).sum(dim=1).abs(), torch.ones(2), atol=1e-3, rtol=0)
    assert (directions_KD @ planted_CD[2]).abs().max() < 0.01


def test_components_do_not_depend_on_batches_or_on_which_response_won():
    """Turning every label round turns the mean, and leaves the spread about it as it is."""
    differences_ND = make_differences()
    directions_KD = prepared(6, differences_ND).directions_KD
    torch.testing.assert_close(prepared(6, differences_ND, batch=7).directions_KD, directions_KD)
    assert torch.equal(prepared(6, -differences_ND).directions_KD, directions_KD)


def test_principal_heads_without_components_are_refused():
    heads = PrincipalHeads(WIDTH, 4)
    with pytest.raises(ValueError, match="no components yet"):
        heads(torch.randn(3, WIDTH))
    assert heads.directions_KD.shape == (4, WIDTH)


def test_principal_heads_keep_their_components():
    heads = prepared(4, make_differences())
    before_KD = heads.directions_KD.clone()
    heads.prepare(iter(make_differences(seed=1).split(64)))
    assert torch.equal(heads.directions_KD, before_KD)


@pytest.mark.parametrize("head", [NegatedHeads, PrincipalHeads])
def test_heads_with_negations_are_even(head):
    with pytest.raises(UserError, match=r"model.num_heads=5: .* give an even number"):
        head(WIDTH, 5)


def test_more_components_than_directions_are_refused():
    with pytest.raises(UserError, match=r"model.num_heads=16: representations 7 wide .* give at most 14"):
        PrincipalHeads(WIDTH, 16)
    # Seven features, of which two repeat others: five directions vary.
    differences_ND = make_differences()
    differences_ND[:, 5:] = differences_ND[:, :2]
    assert prepared(10, differences_ND).is_prepared
    with pytest.raises(UserError, match=r"model.num_heads=12: .* 5 directions only; give at most 10"):
        prepared(12, differences_ND)


def test_frozen_directions_survive_a_checkpoint_to_the_bit():
    response_BD = torch.randn(5, WIDTH)
    for trained, fresh in (
        (make_head(RandomHeads, 4), make_head(RandomHeads, 4, seed=1)),
        (make_head(PriorHeads, 4), make_head(PriorHeads, 4, seed=1)),
        (prepared(4, make_differences()), PrincipalHeads(WIDTH, 4)),
    ):
        file = io.BytesIO()
        torch.save(trained.state_dict(), file)
        file.seek(0)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(fresh(response_BD), trained(response_BD))


def test_principal_heads_that_are_trained_start_at_the_components_and_move():
    differences_ND = torch.randn(200, WIDTH) * torch.arange(1.0, WIDTH + 1)
    fixed, trained = make_head(PrincipalHeads, 4), make_head(PrincipalHeads, 4, trained=True)
    for heads in (fixed, trained):
        heads.prepare([differences_ND])
    assert torch.equal(fixed.directions_KD, trained.directions_KD)
    assert [heads.directions_KD.requires_grad for heads in (fixed, trained)] == [False, True]
    trained(differences_ND).square().sum().backward()
    assert (trained.directions_KD.grad != 0).all()


def test_a_perceptron_is_linear_layers_with_gelu_between_them():
    torch.manual_seed(0)
    first, gelu, second = layers = perceptron(WIDTH, 4, 3)
    response_BD = torch.randn(5, WIDTH)
    assert torch.equal(layers(response_BD), second(gelu(first(response_BD))))
    assert (first.weight.shape, second.weight.shape) == ((4, WIDTH), (3, 4))
    assert [type(layer) for layer in perceptron(WIDTH, 3)] == [torch.nn.Linear]


@pytest.mark.parametrize("layers", [1, 3])
def test_prototype_heads_are_minus_the_squared_distance_to_prototypes(layers):
    heads = make_head(PrototypeHeads, 4, dim=5, layers=layers)
    response_BD = torch.randn(9, WIDTH)
    distance_BK = torch.cdist(heads.map(response_BD), heads.prototypes_KP)
    torch.testing.assert_close(heads(response_BD), -distance_BK.square())


@given(shares=st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3), seed=st.integers(0, 1000))
def test_a_mix_of_prototypes_is_one_prototype_but_for_a_constant(shares, seed):
    """Σ_k w_k r_k + |f - Σ_k w_k p_k|² is minus the spread of the prototypes about their mix, whatever the response."""
    heads = make_head(PrototypeHeads, 3, dim=5, seed=seed).double()
    weights_K = torch.tensor(shares, dtype=torch.float64)
    weights_K /= weights_K.sum()
    response_BD = 10 * torch.randn(9, WIDTH, dtype=torch.float64)
    mixed_P = weights_K @ heads.prototypes_KP
    closeness_B = -(heads.map(response_BD) - mixed_P).square().sum(dim=1)
    spread = (weights_K * (heads.prototypes_KP - mixed_P).square().sum(dim=1)).sum()
    torch.testing.assert_close(heads(response_BD) @ weights_K, closeness_B - spread)


def test_prompt_prototype_heads_are_products_of_two_points():
    heads = make_head(PromptPrototypeHeads, 3, dim=5, layers=2)
    response_BD, context_BD = torch.randn(2, 9, WIDTH)
    rewards_BK = heads(response_BD, context_BD)
    for head, prototype in enumerate(heads.prototypes):
        expected_B = torch.einsum("bp,bp->b", heads.map(response_BD), prototype(context_BD))
        torch.testing.assert_close(rewards_BK[:, head], expected_B)
    assert (heads(response_BD, context_BD.roll(1, dims=0)) - rewards_BK).abs().min() > 0


@given(shares=st.lists(st.floats(-2.0, 2.0), min_size=3, max_size=3))
def test_a_mix_of_prompt_prototypes_is_one_prompt_prototype(shares):
    heads = make_head(PromptPrototypeHeads, 3, dim=5).double()
    weights_K = torch.tensor(shares, dtype=torch.float64)
    response_BD, context_BD = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    mixed_BP = sum(
        weight * prototype(context_BD) for weight, prototype in zip(weights_K, heads.prototypes, strict=True)
    )
    expected_B = (heads.map(response_BD) * mixed_BP).sum(dim=1)
    torch.testing.assert_close(heads(response_BD, context_BD) @ weights_K, expected_B)
