"""The mixed reward beside the preference of a mixture: facts by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro_lit.likelihood import preference_log_prob
from micro_lit.metrics import MixedRewardMetrics


def measured(margins_BK: torch.Tensor, weights_BK: torch.Tensor, link: str = "probability") -> dict:
    log_weights_BK = weights_BK.log()
    metrics = MixedRewardMetrics()
    metrics.update(preference_log_prob(margins_BK, log_weights_BK, link), margins_BK, log_weights_BK)
    return {name: facts["value"] for name, facts in metrics.compute().items()}


def test_reward_and_preference_can_choose_otherwise():
    """Weights .35 and .65: σ(4) and σ(-2) mix to .42, below a half, while the rewards mix to .1, above 0."""
    margins_BK = torch.tensor([[4.0, -2.0], [4.0, 2.0], [-4.0, -2.0], [-4.0, 2.0]])
    found = measured(margins_BK, torch.tensor([[0.35, 0.65]]).expand(4, 2))
    assert found["disagreement"] == 0.5
    mixed = [0.1, 2.7, -2.7, -0.1]
    assert found["nll"] == pytest.approx(sum(math.log1p(math.exp(-each)) for each in mixed) / 4, abs=1e-6)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_they_never_do_with_the_reward_link(num_heads, seed):
    generator = torch.Generator().manual_seed(seed)
    margins_BK = 3 * torch.randn(50, num_heads, generator=generator)
    weights_BK = torch.rand(50, num_heads, generator=generator).softmax(dim=1)
    assert measured(margins_BK, weights_BK, "reward")["disagreement"] == 0.0


def test_on_random_margins_they_do_for_a_few_pairs_in_a_hundred():
    generator = torch.Generator().manual_seed(0)
    for num_heads, least, most in ((2, 0.01, 0.05), (8, 0.04, 0.1)):
        margins_BK = 2 * torch.randn(20_000, num_heads, generator=generator)
        weights_BK = torch.distributions.Dirichlet(torch.ones(num_heads)).sample((20_000,))
        assert least < measured(margins_BK, weights_BK)["disagreement"] < most
