import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_expit
from torch.nn.functional import logsigmoid

from micro_lit.likelihood import Link, Outcome, Winner, hedge_log_targets, link_of, preference_log_prob

LINKS = ("probability", "reward")


def draw(num_pairs: int, num_heads: int, seed: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    margins_BK = scale * torch.randn(num_pairs, num_heads, generator=generator, dtype=torch.float64)
    logits_BK = torch.randn(num_pairs, num_heads, generator=generator, dtype=torch.float64)
    return margins_BK, torch.log_softmax(logits_BK, dim=-1)


@pytest.mark.parametrize("link", LINKS)
def test_one_head_is_single_bt_to_the_last_bit(link):
    margins_B1 = torch.randn(1000, 1) * 10
    log_weights_B1 = torch.log_softmax(torch.randn(1000, 1), dim=-1)
    log_prob_B = preference_log_prob(margins_B1, log_weights_B1, link)
    assert torch.equal(log_prob_B, logsigmoid(margins_B1[:, 0]))


def test_probability_link_is_the_mixture_of_probabilities():
    margins_BK, log_weights_BK = draw(50, 4, seed=0)
    expected_B = (log_weights_BK.exp() * torch.sigmoid(margins_BK)).sum(dim=-1).log()
    torch.testing.assert_close(preference_log_prob(margins_BK, log_weights_BK), expected_B)


def test_reward_link_is_one_bt_of_the_mean_reward():
    margins_BK, log_weights_BK = draw(50, 4, seed=1)
    expected_B = torch.sigmoid((log_weights_BK.exp() * margins_BK).sum(dim=-1)).log()
    torch.testing.assert_close(preference_log_prob(margins_BK, log_weights_BK, "reward"), expected_B)


@pytest.mark.parametrize("link", LINKS)
@given(num_heads=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_swapping_the_pair_gives_the_other_probability(link, num_heads, seed):
    margins_BK, log_weights_BK = draw(16, num_heads, seed)
    there_B = preference_log_prob(margins_BK, log_weights_BK, link).exp()
    back_B = preference_log_prob(-margins_BK, log_weights_BK, link).exp()
    torch.testing.assert_close(there_B + back_B, torch.ones_like(there_B))


@pytest.mark.parametrize("link", LINKS)
def test_order_of_heads_does_not_matter(link):
    margins_BK, log_weights_BK = draw(50, 5, seed=2)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(
        preference_log_prob(margins_BK, log_weights_BK, link),
        preference_log_prob(margins_BK[:, order], log_weights_BK[:, order], link),
    )


@pytest.mark.parametrize("link", LINKS)
def test_far_margins_stay_finite(link):
    margins_BK = torch.tensor([[-1e4, -1e4], [1e4, 1e4], [1e4, -1e4]], requires_grad=True)
    log_weights_BK = torch.tensor([[0.5, 0.5]]).log().expand(3, 2)
    log_prob_B = preference_log_prob(margins_BK, log_weights_BK, link)
    log_prob_B.sum().backward()
    assert log_prob_B.isfinite().all()
    assert margins_BK.grad.isfinite().all()
    assert log_prob_B[0].item() == pytest.approx(-1e4)


@pytest.mark.parametrize("link", LINKS)
def test_gradients(link):
    margins_BK, log_weights_BK = (tensor.requires_grad_() for tensor in draw(3, 4, seed=3, scale=1.0))
    assert torch.autograd.gradcheck(
        lambda m, w: preference_log_prob(m, torch.log_softmax(w, -1), link), (margins_BK, log_weights_BK)
    )


def test_unknown_link_is_refused():
    with pytest.raises(Exception, match="link"):
        preference_log_prob(torch.zeros(1, 1), torch.zeros(1, 1), "sum")


def test_posterior_is_bayes_rule():
    margins_BK, log_weights_BK = draw(20, 3, seed=4)
    joint_BK = log_weights_BK.exp() * torch.sigmoid(margins_BK)
    expected_BK = joint_BK / joint_BK.sum(dim=-1, keepdim=True)
    found_BK = hedge_log_targets(link_of("reward").head_losses(margins_BK), log_weights_BK)
    torch.testing.assert_close(found_BK.exp(), expected_BK)


def test_smoothing_mixes_both_labels():
    margins_BK, log_weights_BK = draw(20, 3, seed=5)
    nll_B = -preference_log_prob(margins_BK, log_weights_BK)
    opposite_B = -preference_log_prob(-margins_BK, log_weights_BK)
    smoothed_B = link_of("probability").loss(margins_BK, log_weights_BK, label_smoothing=0.1)
    torch.testing.assert_close(smoothed_B, 0.9 * nll_B + 0.1 * opposite_B)
    assert torch.equal(link_of("probability").loss(margins_BK, log_weights_BK), nll_B)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_heads", [1, 3, 8])
def test_links_are_the_literal_formulas_to_the_last_bit(num_heads, dtype):
    margins_BK, log_weights_BK = (values.to(dtype) for values in draw(1003, num_heads, seed=9, scale=20.0))
    probability, reward = link_of("probability"), link_of("reward")
    mixed_B = (log_weights_BK.exp() * margins_BK).sum(dim=-1)
    for sign in (1.0, -1.0):
        expected_B = torch.logsumexp(log_weights_BK + logsigmoid(sign * margins_BK), dim=-1)
        assert torch.equal(probability.log_prob(sign * margins_BK, log_weights_BK), expected_B)
        assert torch.equal(reward.log_prob(sign * margins_BK, log_weights_BK), logsigmoid(sign * mixed_B))
    for link in (probability, reward):
        there_B, back_B = (-link.log_prob(sign * margins_BK, log_weights_BK) for sign in (1.0, -1.0))
        assert torch.equal(link.loss(margins_BK, log_weights_BK), there_B)
        assert torch.equal(link.loss(margins_BK, log_weights_BK, 0.1), torch.lerp(there_B, back_B, 0.1))
        assert torch.equal(link.head_losses(margins_BK), -logsigmoid(margins_BK))
        smoothed_BK = torch.lerp(-logsigmoid(margins_BK), -logsigmoid(-margins_BK), 0.1)
        assert torch.equal(link.head_losses(margins_BK, 0.1), smoothed_BK)
        assert torch.equal(link.margin(margins_BK, log_weights_BK), margins_BK - log_weights_BK)


@pytest.mark.parametrize("shape", [(7,), (2, 0), (2, 3, 4)])
def test_arrays_get_what_tensors_get(shape):
    margins = np.random.default_rng(0).normal(size=shape) * 10
    margins.setflags(write=False)
    log_prob = Winner().array_log_prob(margins)
    assert log_prob.dtype == np.float64
    np.testing.assert_allclose(log_prob, log_expit(margins), rtol=1e-15)


class Approval(Outcome):
    """One response is approved: log σ(r)."""

    responses = 1

    def statistic(self, *rewards):
        [reward] = rewards
        return reward

    def log_prob(self, statistic):
        return logsigmoid(statistic)

    def opposite(self, statistic):
        return -statistic


class Order(Outcome):
    """Three responses from best to worst, Plackett-Luce: the statistic is all three rewards."""

    responses = 3

    def statistic(self, *rewards):
        return torch.stack(rewards, dim=1)

    def log_prob(self, statistic):
        return sum(statistic[:, place] - statistic[:, place:].logsumexp(dim=1) for place in range(self.responses))

    def opposite(self, statistic):
        return statistic.flip(1)


@pytest.mark.parametrize("outcome", [Approval(), Order(), Winner()])
@pytest.mark.parametrize("link", LINKS)
def test_an_outcome_from_outside_the_package_is_mixed_by_either_link(link, outcome):
    rewards = [draw(6, 4, seed)[0] for seed in range(outcome.responses)]
    _, log_weights_BK = draw(6, 4, seed=10)
    kind = type(link_of(link))(outcome)
    found_B = kind.log_prob(kind.margin(*rewards), log_weights_BK)
    if link == "probability":
        head_BK = torch.stack([outcome.log_prob(outcome.statistic(*(r[:, k] for r in rewards))) for k in range(4)], 1)
        expected_B = (log_weights_BK + head_BK).logsumexp(dim=1)
    else:
        mixed = [(log_weights_BK.exp() * each).sum(dim=1) for each in rewards]
        expected_B = outcome.log_prob(outcome.statistic(*mixed))
    torch.testing.assert_close(found_B, expected_B)
    assert kind.loss(kind.margin(*rewards), log_weights_BK, 0.1).shape == (6,)
    assert kind.head_losses(kind.margin(*rewards)).shape == (6, 4)


def test_a_link_of_ones_own_needs_log_prob_alone_and_has_a_name():
    class Surest(Link):
        def log_prob(self, margins_BK, log_weights_BK):
            return self.outcome.log_prob(margins_BK.amax(dim=-1))

    own = link_of(Surest())
    assert own.name.endswith("Surest")
    assert (link_of("probability").name, link_of("reward").name) == LINKS
    margins_BK, log_weights_BK = draw(5, 3, seed=11)
    assert torch.equal(own.loss(margins_BK, log_weights_BK), -logsigmoid(margins_BK.amax(dim=-1)))
