"""Irreducible error of known populations: the least negative log-likelihood (nats) each kind of predictor can reach.

A population is a table of pairs with, for each pair, the probability σ_k that group k prefers the first response, the
group weights γ_k, and the probability that the pair is asked. All functions are NumPy in float64.

Dimension letters: N pairs, K groups, D features, I items.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit

Array = NDArray[np.float64]

MAX_NEWTON_STEPS = 100


class NotConverged(ArithmeticError):
    """A convex solve did not reach its tolerance; the message holds the gradient norm it stopped at."""


def binary_entropy(probability: Array) -> Array:
    """h(p) in nats, elementwise; 0 at p = 0 and p = 1."""
    return entr(probability) + entr(1.0 - probability)


def bt_cross_entropy(probability: Array, margin: Array) -> Array:
    """Expected loss, in nats, of the Bradley-Terry prediction σ(margin) when the truth is `probability`."""
    return np.logaddexp(0.0, -margin) + (1.0 - probability) * margin


def oracle_floor(weights_NK: Array, probabilities_NK: Array, mass_N: Array) -> float:
    """F0 = E[Σ_k γ_k h(σ_k)]: the floor of a predictor that knows the rater's group."""
    return float(mass_N @ (weights_NK * binary_entropy(probabilities_NK)).sum(axis=-1))


def marginal_floor(weights_NK: Array, probabilities_NK: Array, mass_N: Array) -> float:
    """F1 = E[h(Σ_k γ_k σ_k)]: the floor of a predictor that knows everything but the group."""
    return float(mass_N @ binary_entropy((weights_NK * probabilities_NK).sum(axis=-1)))


def linear_bt(differences_ND: Array, probability_N: Array, mass_N: Array, tolerance: float = 1e-10) -> Array:
    """The reward vector θ_D whose single Bradley-Terry model σ(θ · (φ_first − φ_second)) has the least expected loss.

    Newton's method on a convex problem; raises `NotConverged` when the gradient norm stays above `tolerance`. Where
    labels are separable the optimum lies at infinity: the loss at θ is then right to the tolerance, θ itself arbitrary.
    """

    def newton_terms(theta_D: Array) -> tuple[float, Array, Array]:
        margin_N = differences_ND @ theta_D
        predicted_N = expit(margin_N)
        gradient_D = differences_ND.T @ (mass_N * (predicted_N - probability_N))
        curvature_N = mass_N * predicted_N * (1.0 - predicted_N)
        hessian_DD = (differences_ND.T * curvature_N) @ differences_ND
        return float(mass_N @ bt_cross_entropy(probability_N, margin_N)), gradient_D, hessian_DD

    return _minimise(newton_terms, np.zeros(differences_ND.shape[1]), tolerance)


def bt_projection(probability_II: Array, mass_II: Array, tolerance: float = 1e-10) -> Array:
    """Scores r_I whose Bradley-Terry model σ(r_i − r_j) is closest, in expected loss, to a matrix of probabilities.

    probability_II[i, j] is the probability that item i is preferred to j, with p_ij + p_ji = 1 off the diagonal;
    mass_II[i, j] how often the pair is asked, symmetric, summing to one; the diagonal has no say.
    The scores have mean zero. Raises `NotConverged` as `linear_bt` does.
    """
    num_items = len(probability_II)
    mass_II = np.where(np.eye(num_items, dtype=bool), 0.0, mass_II)

    def newton_terms(score_I: Array) -> tuple[float, Array, Array]:
        margin_II = score_I[:, None] - score_I[None, :]
        predicted_II = expit(margin_II)
        curvature_II = mass_II * predicted_II * (1.0 - predicted_II)
        # Antisymmetry folds the two occurrences of an item (first, second) into one sum, hence the factor 2.
        gradient_I = 2.0 * (mass_II * (predicted_II - probability_II)).sum(axis=1)
        hessian_II = 2.0 * (np.diag(curvature_II.sum(axis=1)) - curvature_II)
        # The loss does not see a constant added to all scores; this term fixes their mean and leaves the rest alone.
        hessian_II += hessian_II.trace() / num_items**2
        return float((mass_II * bt_cross_entropy(probability_II, margin_II)).sum()), gradient_I, hessian_II

    if not np.isclose(mass_II.sum(), 1.0):
        raise ValueError(f"mass_II off the diagonal sums to {mass_II.sum():.6g}; it must sum to 1")
    # From zero, where the curvature is largest. A start at the groups' mean reward looks closer, but where
    # probabilities are near 0 and 1 the loss is flat there, and Newton's steps do not find back.
    return _minimise(newton_terms, np.zeros(num_items), tolerance)


def _minimise(newton_terms, start: Array, tolerance: float) -> Array:
    """Newton's method with step halving; `newton_terms` maps a point to loss, gradient and Hessian."""
    point = start
    loss, gradient, hessian = newton_terms(point)
    for _ in range(MAX_NEWTON_STEPS):
        if np.linalg.norm(gradient) <= tolerance:
            return point
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        size = 1.0
        while True:
            candidate = newton_terms(point - size * step)
            if candidate[0] <= loss + 1e-12 or size < 1e-6:
                break
            size /= 2.0
        point = point - size * step
        loss, gradient, hessian = candidate
    raise NotConverged(
        f"the gradient norm is {np.linalg.norm(gradient):.3g} after {MAX_NEWTON_STEPS} Newton steps, "
        f"above the tolerance {tolerance:.3g}; are the preferences deterministic?"
    )
