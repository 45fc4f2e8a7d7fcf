"""Tests of `micro_lit.adapt.fits`: optima against other solvers, and the arithmetic that vouches for them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import approx_fprime, minimize
from scipy.special import expit, rel_entr

from micro_lit.adapt import few_shot_logits, fits, labels, mixture_em, posterior


def objective(weights_K, margins_NK, prior_K, link, pull, pseudo):
    if link == "probability":
        loss = -np.log(expit(margins_NK) @ weights_K).sum()
    else:
        loss = np.logaddexp(0.0, -margins_NK @ weights_K).sum()
    return loss + pull * rel_entr(weights_K, prior_K).sum() - pseudo * prior_K @ np.log(np.maximum(weights_K, 1e-300))


def least(*problem):
    """The least objective by sequential quadratic programming on the simplex, from several starts."""
    num_heads = len(problem[1])
    one = {"type": "eq", "fun": lambda weights_K: weights_K.sum() - 1.0}
    starts = [np.full(num_heads, 1 / num_heads), problem[1]]
    found = [
        minimize(
            lambda weights_K: objective(np.maximum(weights_K, 1e-12), *problem),
            start_K,
            method="SLSQP",
            bounds=[(1e-12, 1.0)] * num_heads,
            constraints=one,
            options={"ftol": 1e-13, "maxiter": 500},
        ).fun
        for start_K in starts
    ]
    return min(found)


def case(seed, num_labels, num_heads, scale=2.0):
    generator = np.random.default_rng(seed)
    prior_K = generator.dirichlet(np.full(num_heads, 2.0))
    return scale * generator.normal(size=(num_labels, num_heads)), prior_K


def fit(margins_NK, prior_K, link, pull, pseudo, tolerance=1e-10):
    given_ = margins_NK, np.zeros(len(margins_NK), dtype=int), prior_K[None]
    if pseudo:
        return mixture_em(*given_, pseudo, tolerance)[0]
    return few_shot_logits(*given_, link, pull, tolerance)[0]


PROBLEMS = [
    *((link, pull, 0.0) for link in ("probability", "reward") for pull in (0.0, 0.1, 1.0, 20.0)),
    *(("probability", 0.0, pseudo) for pseudo in (0.1, 1.0, 20.0)),
]


@pytest.mark.parametrize(("link", "pull", "pseudo"), PROBLEMS)
@pytest.mark.parametrize(("num_labels", "num_heads"), [(1, 2), (3, 4), (20, 3), (12, 10)])
def test_no_other_solver_finds_a_smaller_objective(num_labels, num_heads, link, pull, pseudo):
    for seed in range(2):
        margins_NK, prior_K = case(seed, num_labels, num_heads)
        weights_K = fit(margins_NK, prior_K, link, pull, pseudo)
        problem = margins_NK, prior_K, link, pull, pseudo
        assert objective(weights_K, *problem) <= least(*problem) + 1e-7


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.sampled_from(PROBLEMS),
    st.integers(1, 12),
    st.integers(1, 6),
    st.sampled_from([1e-3, 1.0, 5.0, 30.0]),
)
def test_the_bound_of_the_distance_from_the_optimum_holds_everywhere(seed, terms, num_labels, num_heads, scale):
    """At points drawn at random, and at the point where the search ends, by a search that goes much further."""
    margins_NK, prior_K = case(seed, num_labels, num_heads, scale)
    link, pull, pseudo = terms
    rows_1NK = fits._label_rows(margins_NK[None], prior_K[None] > 0, link)
    problem = fits._Problem(rows_1NK, np.ones((1, num_labels), dtype=bool), prior_K[None], link, pull, pseudo)

    def value(weights_K):
        return problem.at(np.log(np.maximum(weights_K, 1e-250))[None])[0][0]

    least_found = value(fit(margins_NK, prior_K, link, pull, pseudo, 1e-12))
    for weights_K in np.random.default_rng(seed).dirichlet(np.full(num_heads, 0.5), size=5):
        value_1, _, gap_1 = problem.at(np.log(np.maximum(weights_K, 1e-250))[None])
        assert gap_1[0] >= value_1[0] - least_found - 1e-9 * max(1.0, abs(value_1[0]))
    assert value(fit(margins_NK, prior_K, link, pull, pseudo, 1e-3)) <= least_found + 1e-3 * max(1.0, abs(least_found))


@pytest.mark.parametrize(("link", "pull", "pseudo"), PROBLEMS)
def test_gradient_by_finite_differences(link, pull, pseudo):
    margins_NK, prior_K = case(0, 5, 3)
    rows_1NK = fits._label_rows(margins_NK[None], prior_K[None] > 0, link)
    problem = fits._Problem(rows_1NK, np.ones((1, 5), dtype=bool), prior_K[None], link, pull, pseudo)
    weights_K = np.array([0.2, 0.5, 0.3])
    numeric_K = approx_fprime(weights_K, lambda weights_K: problem.at(np.log(weights_K)[None])[0][0], 1e-7)
    found_K = problem.at(np.log(weights_K)[None])[1][0]
    # Along the simplex: a constant in all components does not count.
    assert_allclose(found_K - found_K.mean(), numeric_K - numeric_K.mean(), atol=1e-4)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 10.0])
def test_mixture_em_is_where_em_stands_still(strength):
    margins_NK, prior_K = case(1, 40, 5)
    weights_K = fit(margins_NK, prior_K, "probability", 0.0, strength, 1e-13)
    if not strength:
        weights_K = mixture_em(margins_NK, np.zeros(40, dtype=int), prior_K[None], 0.0, 1e-13)[0]
    joint_NK = weights_K * expit(margins_NK)
    shares_K = (joint_NK / joint_NK.sum(axis=1, keepdims=True)).sum(axis=0)
    assert_allclose((shares_K + strength * prior_K) / (40 + strength), weights_K, atol=1e-6)


def test_em_gets_there_in_the_end():
    margins_NK, prior_K = case(2, 30, 6)
    weights_K = prior_K
    for _ in range(2000):
        joint_NK = weights_K * expit(margins_NK)
        weights_K = ((joint_NK / joint_NK.sum(axis=1, keepdims=True)).sum(axis=0) + prior_K) / 31
    assert_allclose(fit(margins_NK, prior_K, "probability", 0.0, 1.0), weights_K, atol=1e-6)


def test_at_strength_zero_the_two_fits_are_one():
    margins_NK, prior_K = case(3, 15, 4)
    given_ = margins_NK, np.zeros(15, dtype=int), prior_K[None]
    np.testing.assert_array_equal(mixture_em(*given_, 0.0), few_shot_logits(*given_, strength=0.0))


@pytest.mark.parametrize("link", ["probability", "reward"])
def test_the_pull_leads_from_the_prior_to_a_corner(link):
    """One label that one head explains best: at strength 0 it has all the weight, at much strength the prior."""
    margins_1K, prior_K = np.array([[3.0, 1.0, -2.0]]), np.array([0.2, 0.3, 0.5])
    path = [fit(margins_1K, prior_K, link, pull, 0.0, 1e-12) for pull in (0.0, 0.1, 1.0, 10.0, 1e6)]
    first = [weights_K[0] for weights_K in path]
    assert first == sorted(first, reverse=True)
    assert_allclose(path[0], [1.0, 0.0, 0.0], atol=1e-6)
    assert_allclose(path[-1], prior_K, atol=1e-5)
    assert 0.25 < path[2][0] < 0.6


def test_two_heads_by_bisection():
    """With K = 2 the slope in the first weight, which rises, is zero at the optimum."""
    margins_NK, prior_K = case(4, 9, 2)
    sigma_NK = expit(margins_NK)
    slope_N = sigma_NK[:, 0] - sigma_NK[:, 1]
    low, high = 1e-12, 1 - 1e-12
    for _ in range(200):
        weight = (low + high) / 2
        pull = np.log(weight / prior_K[0]) - np.log((1 - weight) / prior_K[1])
        slope = pull - (slope_N / (sigma_NK[:, 1] + weight * slope_N)).sum()
        low, high = (low, weight) if slope > 0 else (weight, high)
    assert fit(margins_NK, prior_K, "probability", 1.0, 0.0, 1e-14)[0] == pytest.approx(low, abs=1e-6)


def test_mixed_users_are_recovered_by_the_mixture_and_not_by_the_posterior():
    """Users who draw a head anew for each pair, from planted shares."""
    generator = np.random.default_rng(5)
    share_K, num_users, num_labels = np.array([0.6, 0.3, 0.1]), 200, 400
    user_N = np.repeat(np.arange(num_users), num_labels)
    margins_NK = 3.0 * generator.normal(size=(len(user_N), 3))
    head_N = generator.choice(3, p=share_K, size=len(user_N))
    wins_N = generator.random(len(user_N)) < expit(margins_NK[np.arange(len(user_N)), head_N])
    given_ = np.where(wins_N, 1.0, -1.0)[:, None] * margins_NK, user_N, np.full((num_users, 3), 1 / 3)
    mixed_UK = mixture_em(*given_)
    assert_allclose(mixed_UK.mean(axis=0), share_K, atol=0.015)
    assert np.abs(mixed_UK - share_K).max() < 0.25
    assert posterior(*given_)[:, 0].min() > 0.99


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e3, 1e10, 1e99, 1e300])
@pytest.mark.parametrize("strength", [0.0, 1e-3, 1.0, 30.0])
def test_probabilities_of_any_margins_are_fitted_to_the_end(scale, strength):
    """Warnings are errors here: every user reaches the tolerance. Heads with next to no prior are in reach."""
    generator = np.random.default_rng(6)
    margins_NK = scale * np.clip(generator.normal(size=(200, 5)), -5, 5)
    margins_NK[generator.random(margins_NK.shape) < 0.1] = -np.inf
    user_N, prior_UK = generator.integers(10, size=200), generator.dirichlet(np.full(5, 0.1), size=10)
    prior_UK[:, 0], prior_UK[:, 1] = 1e-300, prior_UK[:, 1] + prior_UK[:, 0]
    for method in (few_shot_logits, mixture_em):
        weights_UK = method(margins_NK, user_N, prior_UK, strength=strength)
        assert_allclose(weights_UK.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 300.0])
def test_mixed_rewards_of_hundreds_of_nats_are_fitted_to_the_end(scale, strength):
    generator = np.random.default_rng(7)
    user_N, prior_UK = generator.integers(20, size=200), np.full((20, 5), 0.2)
    weights_UK = few_shot_logits(scale * generator.normal(size=(200, 5)), user_N, prior_UK, "reward", strength)
    assert_allclose(weights_UK.sum(axis=1), 1.0, rtol=1e-12)


def test_a_step_may_not_jump_back_to_where_it_began():
    """Two labels with margins of 800 nats: a step of size 1/strength leads to the prior itself, whose loss is 200."""
    margins_NK = np.array([[800.0, 0.0, -800.0, 800.0], [800.0, 0.0, -800.0, -800.0]])
    weights_K = few_shot_logits(margins_NK, np.zeros(2, dtype=int), np.full((1, 4), 0.25), "reward", max_steps=200)[0]
    assert_allclose(weights_K, [0.3742, 0.2612, 0.1823, 0.1823], atol=1e-3)


@pytest.mark.parametrize("link", ["probability", "reward"])
def test_users_fitted_together_stop_where_each_alone_would(link):
    """Also far from the optimum: nobody goes on because others of the block do."""
    generator = np.random.default_rng(11)
    margins_NK, user_N, prior_UK = 2.0 * generator.normal(size=(400, 6)), np.arange(400) % 40, np.full((40, 6), 1 / 6)
    together_UK = few_shot_logits(margins_NK, user_N, prior_UK, link, strength=0.1, tolerance=1e-2)
    for user in range(40):
        alone = margins_NK[user_N == user], np.zeros(10, dtype=int), prior_UK[:1]
        assert_allclose(few_shot_logits(*alone, link, strength=0.1, tolerance=1e-2)[0], together_UK[user], rtol=1e-9)


def test_too_few_steps_are_said_with_the_distance_from_the_optimum():
    margins_NK, prior_K = case(8, 30, 4)
    given_ = margins_NK, np.arange(30) % 3, np.tile(prior_K, (4, 1))
    with pytest.warns(RuntimeWarning, match=r"3 of 4 users are up to .* nats above their least loss after 2 steps"):
        weights_UK = few_shot_logits(*given_, max_steps=2)
    assert_allclose(weights_UK.sum(axis=1), 1.0, rtol=1e-12)


def test_an_unknown_link_and_infinite_rewards_are_refused():
    margins_NK, prior_K = case(9, 5, 3)
    margins_NK[2, 1] = -np.inf
    given_ = margins_NK, np.zeros(5, dtype=int), prior_K[None]
    with pytest.raises(ValueError, match="pair 2 is infinite for head 1"):
        few_shot_logits(*given_, link="reward")
    closed_1K = np.array([[0.5, 0.0, 0.5]])
    assert few_shot_logits(*given_[:2], closed_1K, link="reward")[0, 1] == 0.0
    with pytest.raises(ValueError, match="link is 'logit'; allowed are"):
        few_shot_logits.__wrapped__(*given_, link="logit")


def test_little_is_padding_however_uneven_the_users():
    """Sorted by their number of labels, users of a block have about as many; no block is above its size."""
    generator = np.random.default_rng(10)
    count_U = np.minimum(generator.zipf(1.6, size=2000), 3000)
    user_N = np.repeat(np.arange(2000), count_U)
    margins_NK = generator.normal(size=(len(user_N), 8))
    seen, values = [], 0
    for users_u, margins_unK, real_un in labels.padded_blocks(margins_NK, user_N, 2000):
        assert margins_unK.size <= labels.BLOCK_VALUES
        assert_allclose(real_un.sum(axis=1), count_U[users_u])
        user = users_u[0]
        np.testing.assert_array_equal(margins_unK[0][real_un[0]], margins_NK[user_N == user])
        seen += users_u.tolist()
        values += margins_unK.size
    assert sorted(seen) == list(range(2000))
    assert values < 2 * margins_NK.size
