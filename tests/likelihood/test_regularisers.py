import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro_lit import likelihood


def draw(num_pairs: int, num_heads: int, seed: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    margins_BK = scale * torch.randn(num_pairs, num_heads, generator=generator, dtype=torch.float64)
    logits_BK = torch.randn(num_pairs, num_heads, generator=generator, dtype=torch.float64)
    return margins_BK, torch.log_softmax(logits_BK, dim=-1)


@given(num_heads=st.integers(2, 9), seed=st.integers(0, 10**6))
def test_regularisers_lie_between_uniform_and_one_head(num_heads, seed):
    _, log_weights_BK = draw(16, num_heads, seed)
    assert -math.log(num_heads) - 1e-9 <= likelihood.negative_entropy(log_weights_BK) <= 1e-9
    assert -1e-9 <= likelihood.imbalance(log_weights_BK) <= math.log(num_heads) + 1e-9


def test_balance_allows_sharp_examples_and_entropy_does_not():
    sharp_BK = torch.log_softmax(1e3 * torch.eye(4), dim=-1)
    uniform_BK = torch.full((4, 4), -math.log(4.0))
    one_head_BK = sharp_BK[:1].expand(4, 4)
    assert likelihood.imbalance(sharp_BK).item() == pytest.approx(0.0, abs=1e-6)
    assert likelihood.imbalance(one_head_BK).item() == pytest.approx(math.log(4.0))
    assert likelihood.negative_entropy(sharp_BK).item() == pytest.approx(0.0, abs=1e-6)
    assert likelihood.negative_entropy(uniform_BK).item() == pytest.approx(-math.log(4.0))


@given(num_pairs=st.integers(2, 30), num_heads=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_diversity_is_the_mean_squared_correlation_of_two_heads(num_pairs, num_heads, seed):
    margins_BK, _ = draw(num_pairs, num_heads, seed)
    squares = []
    for one, other in itertools.permutations(range(num_heads), 2):
        one_B, other_B = margins_BK[:, one], margins_BK[:, other]
        squares.append((one_B @ other_B) ** 2 / (one_B @ one_B) / (other_B @ other_B))
    found = likelihood.diversity(margins_BK)
    assert found.item() == pytest.approx(sum(squares).item() / len(squares), abs=1e-9)
    assert 0 <= found <= 1 + 1e-9
    # Which response of a pair was chosen, and how loud or how turned round a head is, make no heads more alike.
    sign_B1 = torch.where(torch.arange(num_pairs) % 3 == 0, -1.0, 1.0)[:, None].double()
    torch.testing.assert_close(likelihood.diversity(sign_B1 * margins_BK), found)
    scale_K = torch.linspace(-7.0, 5.0, num_heads, dtype=torch.float64)
    torch.testing.assert_close(likelihood.diversity(scale_K * margins_BK), found)


def test_diversity_of_equal_unrelated_and_single_heads():
    margins_BK, _ = draw(20, 4, seed=6)
    unrelated_BK = torch.linalg.qr(margins_BK).Q
    assert likelihood.diversity(unrelated_BK).item() == pytest.approx(0.0, abs=1e-12)
    assert likelihood.diversity(margins_BK[:, :1].expand(20, 4)).item() == pytest.approx(1.0)
    alone_B1 = margins_BK[:, :1].clone().requires_grad_()
    alone = likelihood.diversity(alone_B1)
    alone.backward()
    assert alone == 0
    assert (alone_B1.grad == 0).all()


def test_diversity_of_heads_without_margins_is_finite_and_so_is_its_gradient():
    margins_BK, _ = draw(20, 3, seed=7)
    margins_BK[:, 0] = 0.0
    margins_BK.requires_grad_()
    found = likelihood.diversity(margins_BK)
    found.backward()
    assert found.item() == pytest.approx(likelihood.diversity(margins_BK[:, 1:]).item() / 3)
    assert margins_BK.grad.isfinite().all()
    assert likelihood.diversity(torch.zeros(5, 3)) == 0


def test_gradient_of_diversity():
    margins_BK, _ = draw(6, 3, seed=8)
    assert torch.autograd.gradcheck(likelihood.diversity, (margins_BK.requires_grad_(),))
