"""Tests of `micro_lit.floors.exact`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from micro_lit.floors import exact


def margins(score_I):
    return score_I[:, None] - score_I[None, :]


def uniform_mass(num_items):
    return (1.0 - np.eye(num_items)) / (num_items * (num_items - 1))


def mixed_population(seed, num_items=5, num_groups=3):
    """Probabilities that no single Bradley-Terry model can show, and pairs asked unequally often."""
    generator = np.random.default_rng(seed)
    probability_KII = expit([margins(score_I) for score_I in 2.0 * generator.normal(size=(num_groups, num_items))])
    mass_II = generator.random((num_items, num_items)) * (1.0 - np.eye(num_items))
    mass_II = mass_II + mass_II.T
    return np.tensordot(generator.dirichlet(np.ones(num_groups)), probability_KII, 1), mass_II / mass_II.sum()


def test_entropy_is_zero_at_the_ends_and_log_two_in_the_middle():
    assert exact.binary_entropy(np.array([0.0, 1.0])).tolist() == [0.0, 0.0]
    assert exact.binary_entropy(np.array([0.5])) == pytest.approx([np.log(2)], abs=1e-15)


@settings(deadline=None)
@given(st.floats(1e-12, 1 - 1e-12))
def test_entropy_is_symmetric_and_below_log_two(probability):
    entropy, reverse = exact.binary_entropy(np.array([probability, 1 - probability]))
    assert 0 < entropy <= np.log(2) + 1e-15
    assert entropy == pytest.approx(reverse, rel=1e-4)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(-30, 30))
def test_cross_entropy_is_that_of_the_two_outcomes(probability, margin):
    expected = probability * np.logaddexp(0, -margin) + (1 - probability) * np.logaddexp(0, margin)
    assert exact.bt_cross_entropy(np.array([probability]), np.array([margin])) == pytest.approx([expected], abs=1e-9)


@settings(deadline=None)
@given(st.floats(-20, 20))
def test_cross_entropy_of_the_truth_is_its_entropy(margin):
    margin_N = np.array([margin])
    truth = expit(margin_N)
    assert exact.bt_cross_entropy(truth, margin_N) == pytest.approx(exact.binary_entropy(truth), abs=1e-9)


def test_floors_of_a_population_by_hand():
    """Two groups at weights 1/4 and 3/4, two pairs asked at 1/5 and 4/5."""
    weights_NK = np.array([[0.25, 0.75]])
    probabilities_NK = np.array([[0.9, 0.1], [0.5, 1.0]])
    mass_N = np.array([0.2, 0.8])

    def entropy(p):
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    oracle = 0.2 * entropy(0.1) + 0.8 * 0.25 * np.log(2)
    marginal = 0.2 * entropy(0.25 * 0.9 + 0.75 * 0.1) + 0.8 * entropy(0.25 * 0.5 + 0.75)
    assert exact.oracle_floor(weights_NK, probabilities_NK, mass_N) == pytest.approx(oracle, abs=1e-14)
    assert exact.marginal_floor(weights_NK, probabilities_NK, mass_N) == pytest.approx(marginal, abs=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_linear_bt_recovers_the_reward_that_made_the_probabilities(seed):
    generator = np.random.default_rng(seed)
    differences_ND, theta_D = generator.normal(size=(50, 4)), generator.normal(size=4)
    mass_N = generator.dirichlet(np.ones(50))
    found_D = exact.linear_bt(differences_ND, expit(differences_ND @ theta_D), mass_N)
    np.testing.assert_allclose(found_D, theta_D, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_linear_bt_stops_where_the_gradient_is_zero(seed):
    generator = np.random.default_rng(seed)
    differences_ND, probability_N = generator.normal(size=(50, 4)), generator.random(50)
    mass_N = generator.dirichlet(np.ones(50))
    theta_D = exact.linear_bt(differences_ND, probability_N, mass_N)
    predicted_N = expit(differences_ND @ theta_D)
    gradient_D = differences_ND.T @ (mass_N * (predicted_N - probability_N))
    assert np.abs(gradient_D).max() < 1e-9


def test_linear_bt_does_not_mind_a_column_twice():
    generator = np.random.default_rng(0)
    column_N1, mass_N = generator.normal(size=(40, 1)), np.full(40, 1 / 40)
    theta_D = exact.linear_bt(np.repeat(column_N1, 2, axis=1), expit(1.5 * column_N1[:, 0]), mass_N)
    assert theta_D.sum() == pytest.approx(1.5, abs=1e-7)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_bt_projection_recovers_scores_from_bradley_terry_probabilities(scale):
    score_I = scale * np.random.default_rng(1).normal(size=6)
    found_I = exact.bt_projection(expit(margins(score_I)), uniform_mass(6))
    np.testing.assert_allclose(found_I, score_I - score_I.mean(), atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_bt_projection_is_as_good_as_a_generic_minimiser(seed):
    probability_II, mass_II = mixed_population(seed)

    def loss(score_I):
        """The same cross-entropy, written out again."""
        first_II = np.logaddexp(0.0, -margins(score_I))
        return (mass_II * (probability_II * first_II + (1 - probability_II) * first_II.T)).sum()

    found_I = exact.bt_projection(probability_II, mass_II)
    best = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-7})
    assert loss(found_I) == pytest.approx(best.fun, abs=1e-10)
    np.testing.assert_allclose(found_I, best.x - best.x.mean(), atol=1e-4)
    assert loss(found_I) > exact.marginal_floor(np.ones((1, 1)), probability_II.reshape(-1, 1), mass_II.ravel()) + 1e-6


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_bt_projection_wins_each_item_as_often_as_the_truth_and_has_mean_zero(seed):
    """The condition of the optimum: for every item, expected wins under the model and the truth agree."""
    probability_II, mass_II = mixed_population(seed)
    score_I = exact.bt_projection(probability_II, mass_II)
    assert score_I.mean() == pytest.approx(0.0, abs=1e-8)
    excess_I = (mass_II * (expit(margins(score_I)) - probability_II)).sum(axis=1)
    assert np.abs(excess_I).max() < 1e-9


def test_the_diagonal_has_no_say():
    probability_II, mass_II = mixed_population(0)
    other = probability_II.copy()
    np.fill_diagonal(other, 0.9)
    expected_I = exact.bt_projection(probability_II, mass_II)
    np.testing.assert_allclose(exact.bt_projection(other, mass_II + 0.3 * np.eye(5)), expected_I, atol=1e-8)


def test_mass_that_does_not_sum_to_one_is_refused():
    probability_II, mass_II = mixed_population(0)
    with pytest.raises(ValueError, match="sums to 2; it must sum to 1"):
        exact.bt_projection(probability_II, 2.0 * mass_II)


def test_the_loss_of_separable_preferences_falls_to_its_infimum():
    """Their optimum lies at infinity; what is returned is as good as it to the tolerance of the gradient."""
    differences_ND = np.array([[1.0], [2.0], [0.5]])
    theta_D = exact.linear_bt(differences_ND, np.ones(3), np.full(3, 1 / 3))
    assert exact.bt_cross_entropy(np.ones(3), differences_ND @ theta_D).mean() < 1e-9
    score_I = exact.bt_projection(np.triu(np.ones((3, 3))), uniform_mass(3))
    assert score_I[0] > score_I[1] > score_I[2]
    assert (uniform_mass(3) * exact.bt_cross_entropy(np.triu(np.ones((3, 3))), margins(score_I))).sum() < 1e-9


def test_a_tolerance_that_is_not_met_is_an_error_with_the_gradient_norm():
    probability_II, mass_II = mixed_population(0)
    with pytest.raises(exact.NotConverged, match=r"gradient norm is .* above the tolerance"):
        exact.bt_projection(probability_II, mass_II, tolerance=-1.0)
    with pytest.raises(exact.NotConverged, match=r"gradient norm is .* above the tolerance"):
        exact.linear_bt(np.array([[1.0], [2.0]]), np.array([0.6, 0.7]), np.full(2, 0.5), tolerance=-1.0)
