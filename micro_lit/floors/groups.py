"""Floors and gaps of a population with known groups: means over pairs of functions of weights and probabilities.

Arguments of all functions: `weights_NK`, group weights γ, one row per pair or one for all; `probabilities_NK`, the
probability σ_k that group k prefers the first response; `mass_N`, or None for a sample (`micro_lit.floors.estimates`).
Results are in nats. Invalid input raises `ValueError`. NumPy in float64; large inputs are processed in blocks of rows.

Dimension letters: N pairs, B pairs of a block, K groups.
"""

from collections.abc import Callable

import numpy as np

from micro_lit.floors.estimates import Array, FloorEstimate, binary_entropy, check_pairs, mean_estimate, row_slices


def oracle_floor(weights_NK: Array, probabilities_NK: Array, mass_N: Array | None = None) -> FloorEstimate:
    """F0 = E[Σ_k γ_k h(σ_k)]: the floor of a predictor that knows the rater's group.

    Example:

        >>> round(oracle_floor(np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]]), np.ones(1)).value, 4)  # h(0.9), in nats
        0.3251
    """
    return _mean_over_pairs(_oracle, weights_NK, probabilities_NK, mass_N)


def marginal_floor(weights_NK: Array, probabilities_NK: Array, mass_N: Array | None = None) -> FloorEstimate:
    """F1 = E[h(Σ_k γ_k σ_k)]: the floor of a predictor that knows everything but the group.

    Example:

        >>> round(marginal_floor(np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]]), np.ones(1)).value, 4)  # log 2
        0.6931
    """
    return _mean_over_pairs(_marginal, weights_NK, probabilities_NK, mass_N)


def mutual_information(weights_NK: Array, probabilities_NK: Array, mass_N: Array | None = None) -> FloorEstimate:
    """F1 - F0 = I(group; label | prompt, pair): the most that knowing the person can reduce the loss.

    The difference is computed for each pair, so its standard error is smaller than those of the two floors suggest.

    Example:

        >>> round(mutual_information(np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]]), np.ones(1)).value, 4)
        0.3681
    """
    return _mean_over_pairs(lambda *pair: _marginal(*pair) - _oracle(*pair), weights_NK, probabilities_NK, mass_N)


def pinsker_bound(weights_NK: Array, probabilities_NK: Array, mass_N: Array | None = None) -> FloorEstimate:
    """2 E[Σ_k γ_k (σ_k - p̄)²], a lower bound of F1 - F0, so of the distance from F0 of every predictor without group.

    For each pair F1 - F0 is Σ_k γ_k KL(σ_k ‖ p̄), and Pinsker's inequality is KL(σ ‖ p̄) ≥ 2 (σ - p̄)². It is never
    below `variance_bound`: γ_k ≥ ρ, and the mean is the point with the least sum of squared distances, so
    Σ_k γ_k (σ_k - p̄)² ≥ ρ Σ_k (σ_k - p̄)² ≥ ρ K Var_k[σ_k].
    """
    return _mean_over_pairs(_weighted_variance, weights_NK, probabilities_NK, mass_N)


def variance_bound(weights_NK: Array, probabilities_NK: Array, mass_N: Array | None = None) -> FloorEstimate:
    """2 ρ K E[Var_k σ_k], the useful form of MiCRo's Theorem 3.2 (arXiv 2505.24846): a lower bound of F1 - F0.

    Var has equal weights 1/K. ρ is the least weight of any group on any pair that is asked. On a sample it is the least
    in the sample; the standard error ignores its uncertainty.
    """
    spread = _mean_over_pairs(
        lambda _, probabilities_BK: probabilities_BK.var(axis=1), weights_NK, probabilities_NK, mass_N
    )
    scale = 2.0 * probabilities_NK.shape[1] * _least_weight(weights_NK, mass_N)
    return FloorEstimate(scale * spread.value, scale * spread.se)


def printed_bound(weights_NK: Array, probabilities_NK: Array, mass_N: Array | None = None) -> FloorEstimate:
    """2 ρ K Var_k[E σ_k]: Theorem 3.2 of MiCRo (arXiv 2505.24846) as printed. It is 0 for every population.

    The expectation over i.i.d. response pairs is inside the variance. Both orders of a pair are then equally likely,
    and σ_k of one is 1 - σ_k of the other, so E σ_k = 1/2 for every group. The pairs must include both orders: with the
    chosen response always first, the result is a different number and no bound.

    On a sample let s be the mean of the σ over pairs, Σ their covariance and Var_k(s) = sᵀPs. On average sᵀPs is too
    large by tr(PΣ)/N. This is subtracted, so the estimate may be negative. Its variance is
    4 μᵀPΣPμ/N + 2 tr((PΣ)²)/N², μ the true mean. With s in place of μ the first term is too large by 4 tr((PΣ)²)/N².
    This is subtracted as well, down to 0, so the standard error is conservative near 0: up to √2 too large.
    """
    check_pairs(probabilities_NK, mass_N, weights_NK)
    num_pairs, num_groups = probabilities_NK.shape
    scale = 2.0 * num_groups * _least_weight(weights_NK, mass_N)
    if mass_N is not None:
        return FloorEstimate(scale * float((mass_N @ probabilities_NK).var()), 0.0)
    mean_K = probabilities_NK.mean(axis=0)
    covariance_KK = np.zeros((num_groups, num_groups))
    for rows in row_slices(num_pairs, num_groups):
        centred_BK = probabilities_NK[rows] - mean_K
        covariance_KK += centred_BK.T @ centred_BK / (num_pairs - 1)
    projector_KK = (np.eye(num_groups) - 1.0 / num_groups) / num_groups
    noise_KK = projector_KK @ covariance_KK / num_pairs
    noise_of_noise = float((noise_KK @ noise_KK).trace())
    slope = float(mean_K @ noise_KK @ projector_KK @ mean_K)
    variance = 4.0 * max(slope - noise_of_noise, 0.0) + 2.0 * noise_of_noise
    return FloorEstimate(scale * float(mean_K.var() - noise_KK.trace()), scale * variance**0.5)


def _marginal_probability(weights_BK: Array, probabilities_BK: Array) -> Array:
    # Weights whose sum rounds to above 1 would give an entropy of -inf.
    return np.minimum((weights_BK * probabilities_BK).sum(axis=1), 1.0)


def _oracle(weights_BK: Array, probabilities_BK: Array) -> Array:
    return (weights_BK * binary_entropy(probabilities_BK)).sum(axis=1)


def _marginal(weights_BK: Array, probabilities_BK: Array) -> Array:
    return binary_entropy(_marginal_probability(weights_BK, probabilities_BK))


def _weighted_variance(weights_BK: Array, probabilities_BK: Array) -> Array:
    centred_BK = probabilities_BK - _marginal_probability(weights_BK, probabilities_BK)[:, None]
    return 2.0 * (weights_BK * centred_BK**2).sum(axis=1)


def _mean_over_pairs(
    per_pair: Callable[[Array, Array], Array], weights_NK: Array, probabilities_NK: Array, mass_N: Array | None
) -> FloorEstimate:
    check_pairs(probabilities_NK, mass_N, weights_NK)
    value_N = np.empty(len(probabilities_NK))
    for rows in row_slices(*probabilities_NK.shape):
        weights_BK = weights_NK if len(weights_NK) == 1 else weights_NK[rows]
        value_N[rows] = per_pair(weights_BK / weights_BK.sum(axis=1, keepdims=True), probabilities_NK[rows])
    return mean_estimate(value_N, mass_N)


def _least_weight(weights_NK: Array, mass_N: Array | None) -> float:
    least_N = weights_NK.min(axis=1)
    return float((least_N if mass_N is None or len(least_N) == 1 else least_N[mass_N > 0]).min())
