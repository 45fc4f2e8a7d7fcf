"""Tests of `micro_lit.adapt.weights`: the formulas, against the problems they solve."""

from fractions import Fraction
from math import prod

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import expit, logit, rel_entr

from micro_lit.adapt import (
    Sharpness,
    best_head_oracle,
    hedge,
    hedge_targets,
    hyre,
    labels,
    mixture_em,
    posterior,
    sharpness,
)

ALONE = np.zeros(1, dtype=int)


def case(seed, num_labels=6, num_heads=3):
    """One user's margins and prior."""
    generator = np.random.default_rng(seed)
    margins_NK = 2.0 * generator.normal(size=(num_labels, num_heads))
    return margins_NK, np.zeros(num_labels, dtype=int), generator.dirichlet(np.full(num_heads, 2.0), size=1)


def least(objective, num_heads):
    """The weights of least objective, found without a formula: as softmax of logits, from several starts."""

    def of_logits(logit_K):
        weight_K = np.exp(logit_K - logit_K.max())
        return objective(weight_K / weight_K.sum())

    starts = np.random.default_rng(0).normal(size=(4, num_heads))
    best = min((minimize(of_logits, start_K, tol=1e-12) for start_K in starts), key=lambda found: found.fun)
    weight_K = np.exp(best.x - best.x.max())
    return weight_K / weight_K.sum()


def test_losses_are_those_of_the_logistic_function():
    margin = np.array([-800.0, -30.0, -1.0, 0.0, 1.0, 30.0, 800.0])
    assert_allclose(labels.losses(margin), np.logaddexp(0.0, -margin), rtol=1e-15)
    assert_array_equal(labels.losses(np.array([np.inf, -np.inf, -1e300])), [0.0, 1e100, 1e100])


def test_posterior_is_bayes_rule_in_exact_fractions():
    sigma_NK = [[Fraction(1, 3), Fraction(1, 2)], [Fraction(9, 10), Fraction(1, 4)], [Fraction(2, 7), Fraction(3, 5)]]
    prior_K = [Fraction(2, 5), Fraction(3, 5)]
    joint_K = [weight * prod(column) for weight, column in zip(prior_K, zip(*sigma_NK, strict=True), strict=True)]
    expected_K = [float(joint / sum(joint_K)) for joint in joint_K]
    found_UK = posterior(
        logit(np.array(sigma_NK, dtype=float)), np.zeros(3, dtype=int), np.array([prior_K], dtype=float)
    )
    assert_allclose(found_UK[0], expected_K, rtol=1e-14)


def test_temperature_divides_the_log_odds():
    margins_NK, user_N, prior_UK = case(0)
    even_UK = np.full((1, 3), 1 / 3)
    at_1, at_4 = (np.log(posterior(margins_NK, user_N, even_UK, temperature)) for temperature in (1.0, 4.0))
    assert_allclose(at_4 - at_4[:, :1], (at_1 - at_1[:, :1]) / 4.0, rtol=1e-12)
    assert_allclose(posterior(margins_NK, user_N, prior_UK, 1e12), prior_UK, rtol=1e-9)


def test_flipped_labels_move_log_odds_by_the_difference_of_margins():
    """σ(-Δ) = σ(Δ) exp(-Δ): the odds are not inverted, unless the heads are each other's negation."""
    margins_NK, user_N, prior_UK = case(1)
    kept_K, flipped_K = (np.log(posterior(sign * margins_NK, user_N, prior_UK))[0] for sign in (1.0, -1.0))
    moved_K = (flipped_K - kept_K) + margins_NK.sum(axis=0)
    assert_allclose(moved_K, moved_K[0], rtol=1e-12)

    both_N2 = np.hstack([margins_NK[:, :1], -margins_NK[:, :1]])
    even_UK = np.full((1, 2), 0.5)
    assert_array_equal(posterior(-both_N2, user_N, even_UK), posterior(both_N2, user_N, even_UK)[:, ::-1])


def test_hyre_is_the_posterior_from_equal_weights():
    margins_NK, user_N, prior_UK = case(2)
    assert_array_equal(hyre(margins_NK, user_N, prior_UK), posterior(margins_NK, user_N, np.full((1, 3), 1 / 3)))
    loss_K = np.logaddexp(0.0, -margins_NK).sum(axis=0)
    assert_allclose(hyre(margins_NK, user_N, prior_UK, 2.0)[0], np.exp(-loss_K / 2) / np.exp(-loss_K / 2).sum())


@pytest.mark.parametrize("tau", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_hedge_solves_stage_2_with_one_vector_of_weights(seed, tau):
    margins_NK, user_N, prior_UK = case(seed)
    loss_NK = np.logaddexp(0.0, -margins_NK)

    def objective(weight_K):
        return (loss_NK @ weight_K + tau * rel_entr(weight_K, prior_UK[0]).sum()).sum()

    found_K = hedge(margins_NK, user_N, prior_UK, tau)[0]
    assert_allclose(found_K, least(objective, 3), atol=1e-4)
    # And the value of the optimum is known: -n tau log Σ_k π_k exp(-ℓ̄_k / tau).
    free = -6 * tau * np.log(prior_UK[0] @ np.exp(-loss_NK.mean(axis=0) / tau))
    assert objective(found_K) == pytest.approx(free, rel=1e-12)


def test_hedge_at_one_over_n_is_the_posterior_and_labels_repeated_change_nothing():
    margins_NK, user_N, prior_UK = case(3)
    assert_allclose(hedge(margins_NK, user_N, prior_UK, 1 / 6), posterior(margins_NK, user_N, prior_UK), rtol=1e-12)
    twice = np.vstack([margins_NK, margins_NK]), np.zeros(12, dtype=int)
    assert_allclose(hedge(*twice, prior_UK), hedge(margins_NK, user_N, prior_UK), rtol=1e-12)


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_targets_solve_stage_2_pair_by_pair(tau):
    margins_NK, _, _ = case(4)
    router_NK = np.random.default_rng(4).dirichlet(np.full(3, 2.0), size=6)
    target_NK = hedge_targets(margins_NK, router_NK, tau)
    for loss_K, router_K, target_K in zip(np.logaddexp(0.0, -margins_NK), router_NK, target_NK, strict=True):
        expected_K = least(lambda w_K, a=loss_K, b=router_K: w_K @ a + tau * rel_entr(w_K, b).sum(), 3)
        assert_allclose(target_K, expected_K, atol=1e-4)


def test_a_constant_router_fitted_to_its_targets_again_and_again_is_em():
    margins_NK, user_N, prior_UK = case(5, num_labels=30)
    router_1K = prior_UK
    for _ in range(3000):
        router_1K = hedge_targets(margins_NK, np.repeat(router_1K, 30, axis=0), 1.0).mean(axis=0, keepdims=True)
    found_UK = mixture_em(margins_NK, user_N, prior_UK, strength=0.0, tolerance=1e-12)
    assert_allclose(found_UK, router_1K, atol=1e-4)


def test_targets_at_micros_tau_are_nearly_one_hot():
    """As MiCRo's tau are, on margins of the size that reward models give."""
    margins_NK = 2.0 * np.random.default_rng(6).normal(size=(1000, 5))
    router_NK = np.full((1000, 5), 0.2)
    seen = [sharpness(hedge_targets(margins_NK, router_NK, tau)) for tau in (1e-4, 1e-3, 0.1, 1.0, 1e3)]
    assert seen[0].largest > 0.999
    assert seen[1].effective < 1.05
    assert [facts.largest for facts in seen] == sorted((facts.largest for facts in seen), reverse=True)
    assert [facts.effective for facts in seen] == sorted(facts.effective for facts in seen)
    assert seen[-1].effective == pytest.approx(5.0, abs=1e-3)


def test_sharpness_of_known_weights():
    assert sharpness(np.eye(4)) == Sharpness(1.0, 1.0)
    assert sharpness(np.full((3, 4), 0.25)) == pytest.approx((0.25, 4.0))
    assert sharpness(np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])) == pytest.approx((0.75, 1.5))


def test_oracle_takes_the_best_head_of_the_rows_it_sees_and_shares_ties_as_the_prior_does():
    margins_NK = np.array([[1.0, 2.0, 2.0, 3.0], [0.0, 0.5, 0.5, 0.9], [5.0, -9.0, 0.0, 0.0]])
    prior_UK = np.array([[0.4, 0.2, 0.4, 0.0], [0.1, 0.2, 0.3, 0.4]])
    weights_UK = best_head_oracle(margins_NK, np.array([0, 0, 1]), prior_UK)
    assert_allclose(weights_UK, [[0.0, 1 / 3, 2 / 3, 0.0], [1.0, 0.0, 0.0, 0.0]], rtol=1e-15)


def test_oracle_is_the_limit_of_hedge_and_loses_least():
    generator = np.random.default_rng(7)
    margins_NK, user_N = generator.normal(size=(40, 4)), generator.integers(5, size=40)
    prior_UK = generator.dirichlet(np.ones(4), size=5)
    oracle_UK = best_head_oracle(margins_NK, user_N, prior_UK)
    assert_allclose(oracle_UK, hedge(margins_NK, user_N, prior_UK, tau=1e-9), atol=1e-12)
    loss_NK = np.logaddexp(0.0, -margins_NK)
    for method in (posterior, hedge, hyre):
        weights_UK = method(margins_NK, user_N, prior_UK)
        assert ((oracle_UK - weights_UK)[user_N] * loss_NK).sum() <= 0.0


# A planted population: users of known groups, heads that are the groups' true rewards


def population(num_labels, num_users=3000, seed=0):
    """Margins, users, prior over groups, and each user's group."""
    generator = np.random.default_rng(seed)
    prior_K = np.array([0.5, 0.3, 0.15, 0.05])
    rewards_KD = generator.normal(size=(4, 5))
    group_U = generator.choice(4, p=prior_K, size=num_users)
    user_N = np.repeat(np.arange(num_users), num_labels)
    difference_ND = generator.normal(size=(len(user_N), 5))
    margins_NK = difference_ND @ rewards_KD.T
    first_wins_N = generator.random(len(user_N)) < expit(margins_NK[np.arange(len(user_N)), group_U[user_N]])
    return np.where(first_wins_N, 1.0, -1.0)[:, None] * margins_NK, user_N, np.tile(prior_K, (num_users, 1)), group_U


def test_posterior_finds_the_planted_group_ever_more_surely_and_is_calibrated():
    sure = []
    for num_labels in (0, 2, 8, 32, 128):
        margins_NK, user_N, prior_UK, group_U = population(num_labels)
        weights_UK = posterior(margins_NK, user_N, prior_UK)
        on_group_U = weights_UK[np.arange(len(group_U)), group_U]
        sure.append(on_group_U.mean())
        # What it says of each group is right on average: the posterior is the truth's own.
        for group in range(4):
            off_U = (group_U == group) - weights_UK[:, group]
            assert abs(off_U.mean()) < 4 * off_U.std() / len(off_U) ** 0.5 + 1e-12
    assert sure == sorted(sure)
    assert sure[0] == pytest.approx(0.5 * 0.5 + 0.3 * 0.3 + 0.15 * 0.15 + 0.05 * 0.05, abs=0.02)
    assert sure[-1] > 0.99


def test_posterior_of_planted_users_is_bayes_rule():
    margins_NK, user_N, prior_UK, _ = population(8, num_users=50)
    for user, found_K in enumerate(posterior(margins_NK, user_N, prior_UK)):
        joint_K = prior_UK[user] * expit(margins_NK[user_N == user]).prod(axis=0)
        assert_allclose(found_K, joint_K / joint_K.sum(), rtol=1e-12)


def test_no_other_rule_predicts_planted_users_better_than_the_posterior():
    """On labels it has not seen, by a paired comparison."""
    margins_NK, user_N, prior_UK, _ = population(12)
    shown_N = np.tile(np.arange(12) < 8, 3000)

    def nll_N(method):
        weights_UK = method(margins_NK[shown_N], user_N[shown_N], prior_UK)
        return -np.log((weights_UK[user_N] * expit(margins_NK)).sum(axis=1))[~shown_N]

    best_N = nll_N(posterior)
    for method in (
        hyre,
        hedge,
        mixture_em,
        lambda *given: posterior(*given, 0.3),
        lambda *given: posterior(*given, 4.0),
    ):
        worse_N = nll_N(method) - best_N
        assert worse_N.mean() > -2 * worse_N.std() / len(worse_N) ** 0.5
