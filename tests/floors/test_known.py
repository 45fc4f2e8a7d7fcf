"""Tests of the floors of known populations: `micro_lit.floors.groups` and `micro_lit.floors.bradley_terry`."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from micro_lit import floors
from micro_lit.floors import estimates

FEW = settings(max_examples=30)
SEEDS = st.integers(0, 2**32 - 1)
MIXTURE = (
    floors.oracle_floor,
    floors.marginal_floor,
    floors.mutual_information,
    floors.pinsker_bound,
    floors.variance_bound,
    floors.printed_bound,
)


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


class Listed(NamedTuple):
    """Every ordered pair of items in every context, as rows."""

    context_N: np.ndarray
    first_N: np.ndarray
    second_N: np.ndarray
    differences_ND: np.ndarray
    weights_NK: np.ndarray
    probabilities_NK: np.ndarray
    mass_N: np.ndarray

    @property
    def marginal_N(self):
        return (self.weights_NK * self.probabilities_NK).sum(axis=1)

    @property
    def mixture(self):
        return self.weights_NK, self.probabilities_NK

    def mixture_of(self, rows):
        return self.weights_NK[rows], self.probabilities_NK[rows]

    def linear(self, rows=slice(None), mass_N=None):
        return floors.linear_bt(self.differences_ND[rows], self.marginal_N[rows], mass_N)

    def conditional(self, rows=slice(None), mass_N=None, tolerance=1e-10):
        places = self.context_N[rows], self.first_N[rows], self.second_N[rows]
        return floors.conditional_bt(*places, self.marginal_N[rows], 5, mass_N, tolerance)


def listed(seed, num_contexts=2, num_groups=3, num_items=5, num_features=2):
    """A population whose rewards are linear in the items' features; weights differ by context, both orders as often."""
    generator = np.random.default_rng(seed)
    features_ID = generator.normal(size=(num_items, num_features))
    rewards_KD = 2.0 * generator.normal(size=(num_groups, num_features))
    weights_TK = generator.dirichlet(np.full(num_groups, 2.0), size=num_contexts)
    mass_TII = generator.random((num_contexts, num_items, num_items)) + 0.1
    mass_TII = mass_TII + mass_TII.transpose(0, 2, 1)
    places = itertools.product(range(num_contexts), itertools.permutations(range(num_items), 2))
    context_N, first_N, second_N = np.array([(context, *pair) for context, pair in places]).T
    differences_ND = features_ID[first_N] - features_ID[second_N]
    mass_N = mass_TII[context_N, first_N, second_N]
    return Listed(
        context_N, first_N, second_N, differences_ND, weights_TK[context_N], expit(differences_ND @ rewards_KD.T),
        mass_N / mass_N.sum(),
    )  # fmt: skip


# Entropy and cross-entropy


def test_entropy_is_zero_at_the_ends_and_log_two_in_the_middle():
    assert floors.binary_entropy(np.array([0.0, 1.0])).tolist() == [0.0, 0.0]
    assert floors.binary_entropy(np.array([0.5])) == pytest.approx([np.log(2)], abs=1e-15)


@given(st.floats(1e-12, 1 - 1e-12))
def test_entropy_is_symmetric_and_below_log_two(probability):
    entropy, reverse = floors.binary_entropy(np.array([probability, 1 - probability]))
    assert 0 < entropy <= np.log(2) + 1e-15
    assert entropy == pytest.approx(reverse, rel=1e-4)


@given(st.floats(0, 1), st.floats(-30, 30))
def test_cross_entropy_is_that_of_the_two_outcomes(probability, margin):
    expected = probability * np.logaddexp(0, -margin) + (1 - probability) * np.logaddexp(0, margin)
    assert floors.bt_cross_entropy(np.array([probability]), np.array([margin])) == pytest.approx([expected], abs=1e-9)


@given(st.floats(-20, 20))
def test_cross_entropy_of_the_truth_is_its_entropy(margin):
    margin_N = np.array([margin])
    truth = expit(margin_N)
    assert floors.bt_cross_entropy(truth, margin_N) == pytest.approx(floors.binary_entropy(truth), abs=1e-9)


# Floors and gaps of a mixture


def entropy_of(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p) if 0 < p < 1 else 0.0


def test_floors_of_a_population_by_hand():
    """Two groups at weights 1/4 and 3/4, two pairs asked at 1/5 and 4/5."""
    weights_NK = np.array([[0.25, 0.75]])
    probabilities_NK = np.array([[0.9, 0.1], [0.5, 1.0]])
    mass_N = np.array([0.2, 0.8])
    oracle = 0.2 * entropy_of(0.1) + 0.8 * 0.25 * np.log(2)
    marginal = 0.2 * entropy_of(0.25 * 0.9 + 0.75 * 0.1) + 0.8 * entropy_of(0.25 * 0.5 + 0.75)
    assert floors.oracle_floor(weights_NK, probabilities_NK, mass_N) == pytest.approx((oracle, 0), abs=1e-14)
    assert floors.marginal_floor(weights_NK, probabilities_NK, mass_N) == pytest.approx((marginal, 0), abs=1e-14)


def test_bounds_of_a_population_by_hand():
    """For the first pair the groups' mean is 1/2 and p̄ = 0.3; for the second 3/4 and 0.875."""
    weights_NK = np.array([[0.25, 0.75]])
    probabilities_NK = np.array([[0.9, 0.1], [0.5, 1.0]])
    mass_N = np.array([0.2, 0.8])
    variance = 2 * 0.25 * 2 * (0.2 * 0.4**2 + 0.8 * 0.25**2)
    pinsker = 2 * (0.2 * (0.25 * 0.6**2 + 0.75 * 0.2**2) + 0.8 * (0.25 * 0.375**2 + 0.75 * 0.125**2))
    # The groups' means over pairs are 0.58 and 0.82.
    printed = 2 * 0.25 * 2 * 0.12**2
    assert floors.variance_bound(weights_NK, probabilities_NK, mass_N) == pytest.approx((variance, 0), abs=1e-14)
    assert floors.pinsker_bound(weights_NK, probabilities_NK, mass_N) == pytest.approx((pinsker, 0), abs=1e-14)
    assert floors.printed_bound(weights_NK, probabilities_NK, mass_N) == pytest.approx((printed, 0), abs=1e-14)


def brute_force(population):
    """The exact values of `MIXTURE`, a pair and a group at a time."""
    oracle = marginal = pinsker = spread = 0.0
    num_groups = population.weights_NK.shape[1]
    means_K = [0.0] * num_groups
    for weights_K, probabilities_K, mass in zip(*population.mixture, population.mass_N, strict=True):
        mixed = sum(w * p for w, p in zip(weights_K, probabilities_K, strict=True))
        centre = sum(probabilities_K) / num_groups
        marginal += mass * entropy_of(mixed)
        for group, (weight, probability) in enumerate(zip(weights_K, probabilities_K, strict=True)):
            oracle += mass * weight * entropy_of(probability)
            pinsker += 2 * mass * weight * (probability - mixed) ** 2
            spread += mass * (probability - centre) ** 2 / num_groups
            means_K[group] += mass * probability
    centre = sum(means_K) / num_groups
    scale = 2 * num_groups * min(map(min, population.weights_NK))
    printed = scale * sum((mean - centre) ** 2 for mean in means_K) / num_groups
    return oracle, marginal, marginal - oracle, pinsker, scale * spread, printed


@pytest.mark.parametrize("seed", range(3))
def test_exact_sums_are_those_of_a_loop(seed):
    population = listed(seed)
    # Chosen response first, so that the printed bound is not 0.
    population = population._replace(mass_N=population.mass_N * population.probabilities_NK[:, 0])
    population = population._replace(mass_N=population.mass_N / population.mass_N.sum())
    for function, expected in zip(MIXTURE, brute_force(population), strict=True):
        estimate = function(*population.mixture, population.mass_N)
        assert estimate == pytest.approx((expected, 0.0), abs=1e-13), function.__name__
        assert type(estimate.value) is float


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_of_every_pair_once_has_the_mean_of_the_exact_sum_and_the_standard_error_of_a_mean(seed):
    population = listed(seed)
    num_pairs = len(population.mass_N)
    mixture, even_N = population.mixture, np.full(num_pairs, 1 / num_pairs)
    for function in MIXTURE[:5]:
        sampled = function(*mixture)
        by_pair = [
            function(*(column[row : row + 1] for column in mixture), np.ones(1)).value for row in range(num_pairs)
        ]
        assert sampled.value == pytest.approx(function(*mixture, even_N).value, abs=1e-14)
        if function is not floors.variance_bound:  # its ρ is not that of a pair
            assert sampled.se == pytest.approx(np.std(by_pair, ddof=1) / num_pairs**0.5, rel=1e-12)


def test_the_information_is_the_difference_of_the_floors_with_the_noise_they_share_left_out():
    population = listed(0)
    oracle, marginal, information = (function(*population.mixture) for function in MIXTURE[:3])
    assert information.value == pytest.approx(marginal.value - oracle.value, abs=1e-15)
    assert information.se < (oracle.se**2 + marginal.se**2) ** 0.5


@pytest.mark.parametrize("function", MIXTURE)
@pytest.mark.parametrize("with_mass", [True, False])
def test_one_row_of_weights_stands_for_all_pairs(function, with_mass):
    population = listed(1, num_contexts=1)
    mass_N = population.mass_N if with_mass else None
    expected = function(*population.mixture, mass_N)
    found = function(population.weights_NK[:1], population.probabilities_NK, mass_N)
    assert found == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("function", MIXTURE)
@pytest.mark.parametrize("with_mass", [True, False])
def test_blocks_of_rows_do_not_change_the_sum(function, with_mass, monkeypatch):
    population = listed(2)
    mass_N = population.mass_N if with_mass else None
    whole = function(*population.mixture, mass_N)
    monkeypatch.setattr(estimates, "FLOOR_BLOCK_VALUES", 21)
    assert function(*population.mixture, mass_N) == pytest.approx(whole, abs=1e-15)


@FEW
@given(SEEDS, st.integers(1, 4), st.booleans())
def test_bounds_are_in_order_below_the_exact_gap(seed, num_groups, with_mass):
    population = listed(seed, num_groups=num_groups)
    mass_N = population.mass_N if with_mass else None
    information, pinsker, variance = (function(*population.mixture, mass_N).value for function in MIXTURE[2:5])
    assert -1e-12 <= variance <= pinsker + 1e-12
    assert pinsker <= information + 1e-12
    assert floors.printed_bound(*population.mixture, population.mass_N).value == pytest.approx(0.0, abs=1e-24)


@FEW
@given(SEEDS, st.permutations(range(4)))
def test_nothing_depends_on_the_order_of_the_groups(seed, order):
    population = listed(seed, num_groups=4)
    shuffled = population._replace(
        weights_NK=population.weights_NK[:, order], probabilities_NK=population.probabilities_NK[:, order]
    )
    for mass_N in (population.mass_N, None):
        for function in MIXTURE:
            expected = function(*population.mixture, mass_N)
            assert function(*shuffled.mixture, mass_N) == pytest.approx(expected, abs=1e-13), function.__name__
        assert shuffled.linear(mass_N=mass_N).floor == pytest.approx(population.linear(mass_N=mass_N).floor, abs=1e-8)


@FEW
@given(SEEDS, st.integers(1, 3))
def test_floors_are_in_order(seed, num_contexts):
    population = listed(seed, num_contexts)
    oracle, marginal = (function(*population.mixture, population.mass_N).value for function in MIXTURE[:2])
    conditional = population.conditional(mass_N=population.mass_N).floor.value
    linear = population.linear(mass_N=population.mass_N).floor.value
    assert 0 < oracle <= marginal + 1e-10
    assert marginal <= conditional + 1e-10
    assert conditional <= linear + 1e-10
    assert linear <= np.log(2) + 1e-10


@FEW
@given(SEEDS)
def test_groups_that_agree_leave_no_gap(seed):
    population = listed(seed)
    population = population._replace(probabilities_NK=np.repeat(population.probabilities_NK[:, :1], 3, axis=1))
    for function in MIXTURE[2:]:
        assert function(*population.mixture, population.mass_N).value == pytest.approx(0.0, abs=1e-13)
    oracle = floors.oracle_floor(*population.mixture, population.mass_N).value
    for solution in (population.conditional(mass_N=population.mass_N), population.linear(mass_N=population.mass_N)):
        assert solution.floor.value == pytest.approx(oracle, abs=1e-10)


def test_opposite_groups_of_one_size_make_labels_a_coin_toss():
    population = listed(0, num_groups=1)
    probability_N1 = population.probabilities_NK
    population = population._replace(
        weights_NK=np.full((len(probability_N1), 2), 0.5),
        probabilities_NK=np.hstack([probability_N1, 1 - probability_N1]),
    )
    assert floors.marginal_floor(*population.mixture, population.mass_N).value == pytest.approx(np.log(2), abs=1e-12)
    assert population.conditional(mass_N=population.mass_N).floor.value == pytest.approx(np.log(2), abs=1e-12)
    assert floors.oracle_floor(*population.mixture, population.mass_N).value < 0.6


def test_weights_whose_sum_is_rounded_leave_the_floors_finite_and_the_gap_zero():
    weights_NK = np.random.default_rng(0).dirichlet(np.ones(8), size=500)
    rounded_NK = weights_NK.astype(np.float32).astype(np.float64)
    assert (weights_NK.sum(axis=1) > 1).any()
    for given_NK in (weights_NK, rounded_NK):
        assert floors.marginal_floor(given_NK, np.ones((500, 8))).value == pytest.approx(0.0, abs=1e-14)
        assert floors.mutual_information(given_NK, np.full((500, 8), 0.3)).value == pytest.approx(0.0, abs=1e-14)


def test_a_pair_that_is_never_asked_does_not_lower_the_least_weight():
    weights_NK, probabilities_NK = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.9, 0.1], [0.9, 0.1]])
    bound = floors.variance_bound(weights_NK, probabilities_NK, np.array([1.0, 0.0]))
    assert bound.value == pytest.approx(2 * 0.5 * 2 * 0.4**2, abs=1e-15)
    assert floors.variance_bound(weights_NK, probabilities_NK, np.array([0.5, 0.5])).value == 0.0


def test_the_printed_bound_says_nothing_where_the_others_do():
    population = listed(0)
    bounds = {function: function(*population.mixture, population.mass_N).value for function in MIXTURE}
    assert bounds[floors.printed_bound] < 1e-24
    assert bounds[floors.variance_bound] > 0.01


# Single Bradley-Terry models


@pytest.mark.parametrize("seed", range(3))
def test_linear_bt_recovers_the_reward_that_made_the_probabilities(seed):
    generator = np.random.default_rng(seed)
    differences_ND, theta_D = generator.normal(size=(50, 4)), generator.normal(size=4)
    mass_N, probability_N = generator.dirichlet(np.ones(50)), expit(differences_ND @ theta_D)
    found = floors.linear_bt(differences_ND, probability_N, mass_N)
    np.testing.assert_allclose(found.parameters, theta_D, atol=1e-7)
    assert found.floor == pytest.approx((mass_N @ floors.binary_entropy(probability_N), 0.0), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("with_mass", [True, False])
def test_the_certificate_of_linear_bt_is_the_norm_of_its_gradient(seed, with_mass):
    generator = np.random.default_rng(seed)
    differences_ND, probability_N = generator.normal(size=(50, 4)), generator.random(50)
    mass_N = generator.dirichlet(np.ones(50)) if with_mass else None
    for tolerance in (1e-10, 0.05):
        found = floors.linear_bt(differences_ND, probability_N, mass_N, tolerance)
        share_N = np.full(50, 1 / 50) if mass_N is None else mass_N
        gradient_D = differences_ND.T @ (share_N * (expit(differences_ND @ found.parameters) - probability_N))
        assert found.gradient_norm == pytest.approx(np.linalg.norm(gradient_D), abs=1e-12)
        assert found.gradient_norm <= tolerance
        assert found.steps <= 10


def test_linear_bt_does_not_mind_a_column_twice():
    generator = np.random.default_rng(0)
    column_N1, mass_N = generator.normal(size=(40, 1)), np.full(40, 1 / 40)
    found = floors.linear_bt(np.repeat(column_N1, 2, axis=1), expit(1.5 * column_N1[:, 0]), mass_N)
    assert found.parameters.sum() == pytest.approx(1.5, abs=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_columns_twice_or_empty_and_units_far_apart_change_neither_floor_nor_standard_error(seed):
    """Newton's method once lost its way here: rounding was divided by rounding where the Hessian is singular."""
    generator = np.random.default_rng(seed)
    differences_ND, probability_N = generator.normal(size=(40, 3)), (generator.random(40) < 0.6).astype(np.float64)
    expected = floors.linear_bt(differences_ND, probability_N)
    units_ND = differences_ND * np.array([1e-2, 1.0, 1e3])
    awkward_ND = np.hstack([units_ND, units_ND[:, [1, 0]] @ np.ones((2, 1)), units_ND[:, :1], np.zeros((40, 1))])
    found = floors.linear_bt(awkward_ND, probability_N)
    assert found.floor == pytest.approx(expected.floor, abs=1e-9)


@pytest.mark.parametrize("seed", [9946, 12293])
def test_a_step_from_where_predictions_are_too_sure_is_halved_until_it_helps(seed):
    """The loss is flat there, a step of Newton's method is far too long, and twenty halvings were too few."""
    generator = np.random.default_rng(seed)
    differences_ND = generator.normal(size=(6, 3)) * np.array([30.0, 3.0, 0.1])
    assert floors.linear_bt(differences_ND, expit(8.0 * generator.normal(size=6))).gradient_norm <= 1e-10


def test_a_summed_probability_that_is_rounded_to_above_one_is_a_probability():
    above = np.nextafter(1.0, 2.0)
    assert floors.linear_bt(np.ones((2, 1)), np.array([above, 0.5])).parameters == pytest.approx([np.log(3)])
    solution = floors.bt_projection(np.array([[0.5, above], [0.0, 0.5]]), uniform_mass(2))
    assert solution.floor.value == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_bt_projection_recovers_scores_from_bradley_terry_probabilities(scale):
    score_I = scale * np.random.default_rng(1).normal(size=6)
    found = floors.bt_projection(expit(margins(score_I)), uniform_mass(6))
    np.testing.assert_allclose(found.parameters, score_I - score_I.mean(), atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_bt_projection_is_as_good_as_a_generic_minimiser(seed):
    probability_II, mass_II = mixed_population(seed)

    def loss(score_I):
        """The same cross-entropy, written out again."""
        first_II = np.logaddexp(0.0, -margins(score_I))
        return (mass_II * (probability_II * first_II + (1 - probability_II) * first_II.T)).sum()

    found = floors.bt_projection(probability_II, mass_II)
    best = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-7})
    assert found.floor == pytest.approx((best.fun, 0.0), abs=1e-10)
    assert found.floor.value == pytest.approx(loss(found.parameters), abs=1e-14)
    np.testing.assert_allclose(found.parameters, best.x - best.x.mean(), atol=1e-4)
    marginal = floors.marginal_floor(np.ones((1, 1)), probability_II.reshape(-1, 1), mass_II.ravel())
    assert found.floor.value > marginal.value + 1e-6


@given(SEEDS)
def test_bt_projection_wins_each_item_as_often_as_the_truth_and_has_mean_zero(seed):
    """The condition of the optimum: for every item, expected wins under the model and the truth agree."""
    probability_II, mass_II = mixed_population(seed)
    found = floors.bt_projection(probability_II, mass_II)
    assert found.parameters.mean() == pytest.approx(0.0, abs=1e-12)
    excess_I = (mass_II * (expit(margins(found.parameters)) - probability_II)).sum(axis=1)
    assert np.abs(excess_I).max() < 1e-9
    assert found.gradient_norm == pytest.approx(2 * np.linalg.norm(excess_I), abs=1e-12)


def test_the_diagonal_has_no_say_and_neither_have_pairs_that_are_not_asked():
    probability_II, mass_II = mixed_population(0)
    other = probability_II.copy()
    np.fill_diagonal(other, np.nan)
    expected = floors.bt_projection(probability_II, mass_II).parameters
    found = floors.bt_projection(other, mass_II + 0.3 * np.eye(5)).parameters
    np.testing.assert_allclose(found, expected, atol=1e-8)
    wider_II, wider_mass_II = np.full((6, 6), np.nan), np.zeros((6, 6))
    wider_II[:5, :5], wider_mass_II[:5, :5] = probability_II, mass_II
    np.testing.assert_allclose(floors.bt_projection(wider_II, wider_mass_II).parameters, [*expected, 0.0], atol=1e-8)


def test_the_loss_of_separable_preferences_falls_to_its_infimum():
    """Their optimum lies at infinity; what is returned is as good as it to the tolerance of the gradient."""
    differences_ND = np.array([[1.0], [2.0], [0.5]])
    for mass_N in (np.full(3, 1 / 3), None):
        assert floors.linear_bt(differences_ND, np.ones(3), mass_N).floor == pytest.approx((0.0, 0.0), abs=1e-9)
    for num_pairs in (None, 6):
        found = floors.bt_projection(np.triu(np.ones((3, 3))), uniform_mass(3), num_pairs=num_pairs)
        assert found.parameters[0] > found.parameters[1] > found.parameters[2]
        assert found.floor == pytest.approx((0.0, 0.0), abs=1e-9)


def test_a_tolerance_that_is_not_met_is_an_error_with_the_gradient_norm():
    probability_II, mass_II = mixed_population(0)
    with pytest.raises(floors.NotConverged, match=r"gradient norm is .* above the tolerance"):
        floors.bt_projection(probability_II, mass_II, tolerance=-1.0)
    with pytest.raises(floors.NotConverged, match=r"gradient norm is .* above the tolerance"):
        floors.linear_bt(np.array([[1.0], [2.0]]), np.array([0.6, 0.7]), np.full(2, 0.5), tolerance=-1.0)
    with pytest.raises(floors.NotConverged, match=r"context 3: the gradient norm is .* above the tolerance"):
        floors.conditional_bt(*np.array([[3, 3], [0, 1], [1, 2]]), np.array([0.6, 0.7]), 3, tolerance=-1.0)


# Conditional scores from a list


@pytest.mark.parametrize("seed", range(3))
def test_conditional_bt_is_a_projection_in_every_context(seed):
    population = listed(seed)
    # A loose tolerance, so that the certificates are numbers and not rounding.
    found = population.conditional(mass_N=population.mass_N, tolerance=1e-3)
    assert found.parameters.shape == (2, 5)
    total = norm = 0.0
    for context in range(2):
        own = population.context_N == context
        probability_II, mass_II = np.full((5, 5), 0.5), np.zeros((5, 5))
        probability_II[population.first_N[own], population.second_N[own]] = population.marginal_N[own]
        mass_II[population.first_N[own], population.second_N[own]] = (
            population.mass_N[own] / population.mass_N[own].sum()
        )
        projection = floors.bt_projection(probability_II, mass_II, tolerance=1e-3)
        np.testing.assert_allclose(found.parameters[context], projection.parameters, atol=1e-10)
        total += population.mass_N[own].sum() * projection.floor.value
        norm = max(norm, projection.gradient_norm)
    assert found.floor == pytest.approx((total, 0.0), abs=1e-12)
    assert found.gradient_norm == pytest.approx(norm, rel=1e-6)


def test_a_pair_in_either_order_any_number_of_times_counts_by_its_mean():
    generator = np.random.default_rng(0)
    context_N, first_N = generator.integers(2, size=300), generator.integers(4, size=300)
    second_N = (first_N + generator.integers(1, 4, size=300)) % 4
    probability_N, mass_N = generator.random(300), generator.dirichlet(np.ones(300))
    found = floors.conditional_bt(context_N, first_N, second_N, probability_N, 4, mass_N)

    def loss(score_V):
        score_TI = score_V.reshape(2, 4)
        margin_N = score_TI[context_N, first_N] - score_TI[context_N, second_N]
        return mass_N @ (probability_N * np.logaddexp(0, -margin_N) + (1 - probability_N) * np.logaddexp(0, margin_N))

    best = minimize(loss, np.zeros(8), method="BFGS", options={"gtol": 1e-8})
    assert found.floor.value == pytest.approx(best.fun, abs=1e-10)
    centred_TI = best.x.reshape(2, 4) - best.x.reshape(2, 4).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found.parameters, centred_TI, atol=1e-5)
    reverse = floors.conditional_bt(context_N, second_N, first_N, 1 - probability_N, 4, mass_N)
    np.testing.assert_allclose(reverse.parameters, found.parameters, atol=1e-9)


def test_a_sample_as_a_list_and_as_a_matrix_is_the_same_sample():
    population = listed(3, num_contexts=1)
    rows = np.random.default_rng(0).choice(len(population.mass_N), size=200, p=population.mass_N)
    found = population.conditional(rows)
    probability_II, counts_II = np.full((5, 5), 0.5), np.zeros((5, 5))
    probability_II[population.first_N, population.second_N] = population.marginal_N
    np.add.at(counts_II, (population.first_N[rows], population.second_N[rows]), 1 / 400)
    matrix = floors.bt_projection(probability_II, counts_II + counts_II.T, num_pairs=200)
    np.testing.assert_allclose(matrix.parameters, found.parameters[0], atol=1e-9)
    assert matrix.floor == pytest.approx(found.floor, abs=1e-9)
    assert found.floor.se > 0


def test_items_without_comparisons_score_zero_and_islands_have_mean_zero_each():
    """Context 0: items 0, 1, 2 are compared, and 4 with 5; context 1: nothing; context 2: items 3 and 1."""
    context_N, first_N, second_N = np.array([[0, 0, 0, 2], [0, 1, 4, 3], [1, 2, 5, 1]])
    margin_N = np.array([1.0, 0.5, -2.0, 3.0])
    for mass_N in (np.array([0.1, 0.2, 0.3, 0.4]), None):
        found = floors.conditional_bt(context_N, first_N, second_N, expit(margin_N), 7, mass_N)
        expected = [[2.5 / 3, -0.5 / 3, -2 / 3, 0, -1, 1, 0], [0] * 7, [0, -1.5, 0, 1.5, 0, 0, 0]]
        np.testing.assert_allclose(found.parameters, expected, atol=1e-8)
        share_N = np.full(4, 0.25) if mass_N is None else mass_N
        assert found.floor.value == pytest.approx(share_N @ floors.binary_entropy(expit(margin_N)), abs=1e-9)


def test_a_pair_without_mass_is_not_asked():
    context_N, first_N, second_N = np.array([[0, 0, 1], [0, 1, 0], [1, 2, 1]])
    found = floors.conditional_bt(context_N, first_N, second_N, np.array([0.7, 0.9, 0.1]), 3, np.array([1.0, 0.0, 0.0]))
    half = np.log(0.7 / 0.3) / 2
    np.testing.assert_allclose(found.parameters, [[half, -half, 0], [0, 0, 0]], atol=1e-9)


@FEW
@given(SEEDS)
def test_the_few_labels_of_a_sample_always_have_a_solution(seed):
    """Items that always win, islands and contexts of a single pair are the rule in small samples."""
    generator = np.random.default_rng(seed)
    num_pairs = int(generator.integers(2, 40))
    context_N, first_N = generator.integers(3, size=num_pairs), generator.integers(6, size=num_pairs)
    second_N = (first_N + generator.integers(1, 6, size=num_pairs)) % 6
    label_N = generator.integers(2, size=num_pairs).astype(np.float64)
    found = floors.conditional_bt(context_N, first_N, second_N, label_N, 6)
    assert np.isfinite(found.floor).all()
    assert found.gradient_norm <= 1e-10
    assert found.floor.value >= 0


# Samples


def draws(population, number, num_pairs):
    generator = np.random.default_rng(7)
    return generator.choice(len(population.mass_N), size=(number, num_pairs), p=population.mass_N)


@pytest.mark.parametrize("function", MIXTURE[:5])
def test_estimates_from_samples_cover_the_exact_value(function):
    population = listed(4)
    truth = function(*population.mixture, population.mass_N).value
    estimates = [function(*population.mixture_of(rows)) for rows in draws(population, 200, 100)]
    covered = np.mean([abs(estimate.value - truth) < 1.96 * estimate.se for estimate in estimates])
    assert 0.88 < covered < 0.995


def test_the_printed_bound_of_a_sample_never_sets_a_pair_beside_itself():
    """The unbiased estimate of a product of means is the mean product of two different pairs."""
    population = listed(4)
    rows = draws(population, 1, 30)[0]
    weights_NK, probabilities_NK = population.mixture_of(rows)
    centred_NK = probabilities_NK - probabilities_NK.mean(axis=1, keepdims=True)
    products_NN = centred_NK @ centred_NK.T / 3
    expected = 2 * 3 * weights_NK.min() * (products_NN.sum() - products_NN.trace()) / (30 * 29)
    assert floors.printed_bound(weights_NK, probabilities_NK).value == pytest.approx(expected, rel=1e-10)


def test_the_printed_bound_of_a_sample_is_zero_on_average_within_its_standard_error():
    """Its variance is 2 tr((PΣ)²)/N² there; the standard error finds it, up to √2 too large."""
    population, num_groups, num_pairs = listed(4), 3, 100
    estimates = [floors.printed_bound(*population.mixture_of(rows)) for rows in draws(population, 1000, num_pairs)]
    value, se = np.array(estimates).T
    projector_KK = (np.eye(num_groups) - 1 / num_groups) / num_groups
    covariance_KK = np.cov(population.probabilities_NK.T, aweights=population.mass_N, ddof=0)
    scale = 2 * num_groups * population.weights_NK.min()
    expected = scale * (2 * np.trace(projector_KK @ covariance_KK @ projector_KK @ covariance_KK)) ** 0.5 / num_pairs
    assert abs(value.mean()) < 3 * value.std() / 1000**0.5
    assert value.std() == pytest.approx(expected, rel=0.2)
    assert 0.9 * expected < np.mean(se**2) ** 0.5 < 1.6 * expected
    assert np.mean(np.abs(value) < 1.96 * se) > 0.95


def test_the_printed_bound_of_a_sample_covers_the_exact_value_where_that_is_not_zero():
    """The better response always first: the groups' means differ, and the first term of the variance rules."""
    population = listed(4)
    sorted_N = population.mass_N * (population.marginal_N > 0.5)
    population = population._replace(mass_N=sorted_N / sorted_N.sum())
    truth = floors.printed_bound(*population.mixture, population.mass_N).value
    estimates = [floors.printed_bound(*population.mixture_of(rows)) for rows in draws(population, 200, 500)]
    value, se = np.array(estimates).T
    assert truth > 3 * se.mean()
    assert abs(value.mean() - truth) < 3 * value.std() / 200**0.5
    assert 0.88 < np.mean(np.abs(value - truth) < 1.96 * se) < 0.995


@pytest.mark.parametrize("kind", ["linear", "conditional"])
@pytest.mark.parametrize("labels", [False, True])
def test_single_floors_from_samples_cover_the_exact_value_once_their_optimism_is_taken_off(kind, labels):
    """With probabilities or with labels drawn from them; `labels` makes the optimism large.

    What a sample's own optimum flatters by is measured against the true optimum's loss on the same pairs, so that the
    luck of the draw cancels.
    """
    population = listed(6, num_features=4)
    num_pairs = 100 if kind == "linear" else 300
    true = getattr(population, kind)(mass_N=population.mass_N)
    if kind == "linear":
        margin_N = population.differences_ND @ true.parameters
    else:
        margin_N = true.parameters[population.context_N, population.first_N]
        margin_N = margin_N - true.parameters[population.context_N, population.second_N]
    truth = true.floor.value
    generator = np.random.default_rng(0)
    estimates, corrected, flattering = [], [], []
    for rows in draws(population, 200, num_pairs):
        probability_N = population.marginal_N[rows]
        if labels:
            probability_N = (generator.random(num_pairs) < probability_N).astype(np.float64)
        if kind == "linear":
            found = floors.linear_bt(population.differences_ND[rows], probability_N)
            own_N = population.differences_ND[rows] @ found.parameters
        else:
            places = population.context_N[rows], population.first_N[rows], population.second_N[rows]
            found = floors.conditional_bt(*places, probability_N, 5)
            own_N = found.parameters[places[0], places[1]] - found.parameters[places[0], places[2]]
        of_the_true = floors.bt_cross_entropy(probability_N, margin_N[rows]).mean()
        estimates.append(found.floor)
        corrected.append(found.floor.value - of_the_true)
        flattering.append(floors.bt_cross_entropy(probability_N, own_N).mean() - of_the_true)
    value, se = np.array(estimates).T
    assert 0.88 < np.mean(np.abs(value - truth) < 1.96 * se) < 0.995
    assert np.mean(flattering) < 0
    assert abs(np.mean(corrected)) < 0.25 * abs(np.mean(flattering))


# Mistakes


def given_mixture(**changes):
    arguments = {
        "weights_NK": np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]),
        "probabilities_NK": np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]),
        "mass_N": np.array([0.2, 0.3, 0.5]),
    }
    return arguments | changes


@pytest.mark.parametrize("function", MIXTURE)
@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        (
            {"weights_NK": np.array([[0.5, 0.5], [1.5, -0.5], [0.5, 0.5]])},
            r"pair 1, group 1: the weight -0.5 is not at",
        ),
        ({"weights_NK": np.array([[0.5, 0.5], [0.5, 0.5], [np.nan, 0.5]])}, r"pair 2, group 0: the weight nan"),
        ({"weights_NK": np.array([[0.5, 0.5], [0.5, 0.4], [0.5, 0.5]])}, r"pair 1: the weights sum to 0.9; .* divide"),
        ({"weights_NK": np.array([[1.0, 1.0]])}, r"pair 0: the weights sum to 2"),
        ({"weights_NK": np.array([[1.0, 0.0]])}, r"group 1 has zero weight on every pair; leave it out"),
        ({"weights_NK": np.array([[0.5, 0.5], [0.5, 0.5]])}, r"weights_NK has shape \(2, 2\) .*\(3, 2\).* one row for"),
        ({"weights_NK": np.ones((3, 1))}, r"weights_NK has shape \(3, 1\)"),
        ({"weights_NK": np.array([0.5, 0.5])}, r"weights_NK has shape \(2,\)"),
        (
            {"probabilities_NK": np.array([[0.1, 0.9], [0.2, 1.1], [0.3, 0.7]])},
            r"pair 1, group 1: .* 1.1 is not in \[0",
        ),
        ({"probabilities_NK": np.array([[0.1, 0.9], [0.2, 0.8], [-0.3, 0.7]])}, r"pair 2, group 0: .* -0.3"),
        ({"probabilities_NK": np.array([[0.1, np.nan], [0.2, 0.8], [0.3, 0.7]])}, r"pair 0, group 1: .* nan"),
        (
            {"probabilities_NK": np.array([0.1, 0.2, 0.3])},
            r"the probabilities have shape \(3,\); they need the axes N, K",
        ),
        ({"probabilities_NK": np.empty((0, 2)), "weights_NK": np.empty((0, 2))}, r"there are no pairs"),
        ({"mass_N": np.array([0.2, 0.3])}, r"mass_N has shape \(2,\); 3 pairs need \(3,\)"),
        ({"mass_N": np.array([0.2, 0.3, 0.6])}, r"mass_N sums to 1.1; it must sum to 1: divide it by its sum"),
        ({"mass_N": np.array([0.7, -0.2, 0.5])}, r"pair 1: the mass -0.2 is not at least 0"),
        ({"mass_N": np.array([0.7, 0.3, np.nan])}, r"pair 2: the mass nan"),
        (
            {"weights_NK": np.ones((1, 1)), "probabilities_NK": np.ones((1, 1)), "mass_N": None},
            r"a single sampled pair has no standard error",
        ),
    ],
)
def test_what_is_no_population_is_refused(function, changes, trouble):
    function(**given_mixture())
    with pytest.raises(ValueError, match=trouble):
        function(**given_mixture(**changes))


@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        ({"probability_N": np.array([0.5, 1.2])}, r"pair 1: the probability 1.2 is not in \[0, 1\]"),
        ({"probability_N": np.array([[0.5, 0.2]])}, r"shape \(1, 2\); they need the axes N"),
        ({"probability_N": np.empty(0)}, r"there are no pairs"),
        ({"mass_N": np.array([0.5, 0.6])}, r"mass_N sums to 1.1"),
        ({"differences_ND": np.ones((3, 1))}, r"differences_ND has shape \(3, 1\); 2 pairs need a row"),
        ({"differences_ND": np.ones((2, 0))}, r"differences_ND has shape \(2, 0\)"),
        ({"differences_ND": np.array([[1.0, 2.0], [3.0, np.inf]])}, r"pair 1, feature 1: inf is not finite"),
        ({"differences_ND": np.array([[1.0, np.nan], [3.0, 1.0]])}, r"pair 0, feature 1: nan is not finite"),
    ],
)
def test_linear_bt_refuses_what_is_no_list_of_pairs(changes, trouble):
    arguments = {"differences_ND": np.ones((2, 1)), "probability_N": np.full(2, 0.5), "mass_N": np.full(2, 0.5)}
    floors.linear_bt(**arguments)
    with pytest.raises(ValueError, match=trouble):
        floors.linear_bt(**arguments | changes)


@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        ({"probability_N": np.array([0.5, -0.2])}, r"pair 1: the probability -0.2"),
        ({"mass_N": np.array([0.5, 0.6])}, r"mass_N sums to 1.1"),
        ({"context_N": np.array([0, -1])}, r"pair 1: the context is number -1; numbers start at 0"),
        ({"context_N": np.array([0])}, r"the contexts have shape \(1,\); 2 pairs need \(2,\)"),
        ({"first_N": np.array([3, 0])}, r"pair 0: the first item is number 3; .* num_items is 3"),
        ({"second_N": np.array([2, 0])}, r"pair 1 compares item 0 with itself"),
    ],
)
def test_conditional_bt_refuses_what_is_no_list_of_pairs(changes, trouble):
    arguments = {
        "context_N": np.array([0, 1]), "first_N": np.array([1, 0]), "second_N": np.array([2, 2]),
        "probability_N": np.full(2, 0.5), "num_items": 3, "mass_N": np.full(2, 0.5),
    }  # fmt: skip
    floors.conditional_bt(**arguments)
    with pytest.raises(ValueError, match=trouble):
        floors.conditional_bt(**arguments | changes)


def test_bt_projection_refuses_what_is_no_matrix_of_preferences():
    probability_II, mass_II = mixed_population(0)
    lopsided_II = mass_II.copy()
    lopsided_II[0, 1], lopsided_II[1, 0] = lopsided_II[0, 1] / 2, lopsided_II[1, 0] + lopsided_II[0, 1] / 2
    unsure_II, broken_II, negative_II = probability_II.copy(), probability_II.copy(), mass_II.copy()
    unsure_II[0, 2], broken_II[3, 1] = 0.0, np.nan
    negative_II[1, 2] = negative_II[2, 1] = -0.1
    for probability, mass, trouble in (
        (probability_II, 2.0 * mass_II, r"sums to 2; it must sum to 1"),
        (probability_II, negative_II / negative_II.sum(), r"items 1 and 2 .*: the mass is not at least 0"),
        (probability_II, lopsided_II, r"items 0 and 1 .*: the mass is not symmetric; give each order half"),
        (broken_II, mass_II, r"items 3 and 1 \(probability nan, .*\): the probability is not in \[0, 1\]"),
        (unsure_II, mass_II, r"items 0 and 2 .*: it does not sum to 1 with that of the other order"),
        (probability_II[:4], mass_II, r"probability_II has shape \(4, 5\) and mass_II \(5, 5\)"),
    ):
        with pytest.raises(ValueError, match=trouble):
            floors.bt_projection(probability, mass)
    with pytest.raises(ValueError, match=r"num_pairs is 1; a standard error needs at least two"):
        floors.bt_projection(probability_II, mass_II, num_pairs=1)
