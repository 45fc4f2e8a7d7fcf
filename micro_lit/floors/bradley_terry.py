"""Floors of single Bradley-Terry models: convex problems, solved to a tolerance with a certificate.

`mass_N=None` makes the pairs a sample (`micro_lit.floors.estimates`). Invalid input raises `ValueError`. NumPy in
float64; large inputs are processed in blocks of rows.

Dimension letters: N pairs, K groups, D features, I items, A items that are asked, T contexts, E pairs of items that are
asked, each once whatever its order.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from micro_lit.floors.estimates import (
    MASS_TOLERANCE,
    Array,
    FloorEstimate,
    Integers,
    check_pairs,
    mean_estimate,
    row_slices,
)

NewtonTerms = Callable[[Array], tuple[float, Array, Array]]

MAX_NEWTON_STEPS = 100


class NotConverged(ArithmeticError):
    """A convex solver did not reach its tolerance; the message contains the final gradient norm."""


class Solution(NamedTuple):
    """The best predictor of a convex class and its floor, with a certificate of optimality.

    gradient_norm: Euclidean norm of the gradient of the expected loss at `parameters`. The problem is convex, so the
        loss there exceeds the minimum by at most this times the distance to the optimum.
    """

    parameters: Array
    floor: FloorEstimate
    gradient_norm: float
    steps: int


def bt_cross_entropy(probability: Array, margin: Array) -> Array:
    """Expected loss, in nats, of the Bradley-Terry prediction σ(margin) when the truth is `probability`."""
    from micro_lit.likelihood import WINNER  # imports torch, which takes seconds and which --help does not need

    return (1.0 - probability) * margin - WINNER.array_log_prob(margin)


def linear_bt(
    differences_ND: Array, probability_N: Array, mass_N: Array | None = None, tolerance: float = 1e-10
) -> Solution:
    """The reward vector θ_D whose single Bradley-Terry model σ(θ · (φ_first - φ_second)) has the least expected loss.

    Newton's method on a convex problem. On a sample of N pairs the minimum is below the loss of the same θ on new
    pairs, and below the floor, by tr(H⁻¹J)/(2N) to first order. J is the second moment of a pair's gradient
    (σ - p)(φ_first - φ_second), H the Hessian of the mean loss. The floor includes this correction (Takeuchi 1976),
    which needs many more pairs than features. If H is singular, directions absent from the data do not count. If labels
    are separable the optimum is at infinity: the loss at θ is then correct to the tolerance, but θ is arbitrary.

    Args:
        differences_ND: φ_first - φ_second.
        probability_N: probability that the first response wins, summed over groups.
        mass_N: mass of each pair; None for a sample.
        tolerance: maximum gradient norm.

    Raises:
        NotConverged: the gradient norm stays above `tolerance`.

    Example:
        >>> solution = linear_bt(np.array([[1.0], [1.0]]), np.array([0.9, 0.7]), mass_N=np.array([0.5, 0.5]))
        >>> solution.parameters.round(4)  # the log odds of the mean, 0.8
        array([1.3863])
    """
    check_pairs(probability_N, mass_N)
    num_pairs = len(probability_N)
    if differences_ND.ndim != 2 or len(differences_ND) != num_pairs or differences_ND.size == 0:
        raise ValueError(
            f"differences_ND has shape {differences_ND.shape}; {num_pairs} pairs need a row of features each"
        )
    if not (np.isfinite(differences_ND.min()) and np.isfinite(differences_ND.max())):
        pair, feature = np.argwhere(~np.isfinite(differences_ND))[0]
        raise ValueError(f"pair {pair}, feature {feature}: {differences_ND[pair, feature]} is not finite; leave it out")
    share_N = np.full(num_pairs, 1.0 / num_pairs) if mass_N is None else mass_N

    def newton_terms(theta_D: Array) -> tuple[float, Array, Array]:
        margin_N = differences_ND @ theta_D
        predicted_N = expit(margin_N)
        gradient_D = differences_ND.T @ (share_N * (predicted_N - probability_N))
        hessian_DD = _second_moment(differences_ND, share_N * predicted_N * (1.0 - predicted_N))
        return float(share_N @ bt_cross_entropy(probability_N, margin_N)), gradient_D, hessian_DD

    theta_D, gradient_norm, steps = _newton(newton_terms, np.zeros(differences_ND.shape[1]), tolerance)
    margin_N = differences_ND @ theta_D
    optimism = 0.0
    if mass_N is None:
        predicted_N = expit(margin_N)
        hessian_DD = _second_moment(differences_ND, share_N * predicted_N * (1.0 - predicted_N))
        moment_DD = _second_moment(differences_ND, share_N * (predicted_N - probability_N) ** 2)
        scale_D1 = _unit_scale(hessian_DD)
        inverse_DD = scale_D1 * np.linalg.pinv(scale_D1 * hessian_DD * scale_D1.T, 1e-10, hermitian=True) * scale_D1.T
        optimism = float((inverse_DD * moment_DD).sum()) / (2.0 * num_pairs)
    floor = mean_estimate(bt_cross_entropy(probability_N, margin_N), mass_N, optimism)
    return Solution(theta_D, floor, gradient_norm, steps)


def bt_projection(
    probability_II: Array, mass_II: Array, tolerance: float = 1e-10, num_pairs: int | None = None
) -> Solution:
    """Scores r_I whose Bradley-Terry model σ(r_i - r_j) is closest, in expected loss, to a matrix of probabilities.

    Scores have mean zero within each connected component of compared items; an item that is never asked has score 0.

    Args:
        probability_II: probability that item i is preferred to j, with p_ij + p_ji = 1 wherever the pair is asked.
        mass_II: probability that the pair is asked; symmetric, with sum one; the diagonal is ignored.
        tolerance: maximum gradient norm.
        num_pairs: if the masses are frequencies in an i.i.d. sample, its number of pairs. The floor is then an
            estimate, corrected for optimism as in `linear_bt`.

    Raises:
        NotConverged: as in `linear_bt`.
    """
    edges = _edges_of_matrix(probability_II, mass_II)
    if num_pairs is not None and num_pairs < 2:
        raise ValueError(f"num_pairs is {num_pairs}; a standard error needs at least two pairs")
    fit = _fit_scores(edges, len(probability_II), tolerance, sampled=num_pairs is not None)
    loss_E = bt_cross_entropy(edges.probability_E, fit.score_I[edges.first_E] - fit.score_I[edges.second_E])
    floor = FloorEstimate(float(edges.mass_E @ loss_E), 0.0)
    if num_pairs is not None:
        variance = float(edges.mass_E @ (loss_E - floor.value) ** 2) / (num_pairs - 1)
        floor = FloorEstimate(floor.value + fit.quotient / (2.0 * num_pairs), variance**0.5)
    return Solution(fit.score_I, floor, fit.gradient_norm, fit.steps)


def conditional_bt(
    context_N: Integers,
    first_N: Integers,
    second_N: Integers,
    probability_N: Array,
    num_items: int,
    mass_N: Array | None = None,
    tolerance: float = 1e-10,
) -> Solution:
    """The best single Bradley-Terry model whose score may be any function of context and item, from a list of pairs.

    Solves one `bt_projection` per context. The floor is over all contexts; on a sample it is corrected for optimism as
    in `linear_bt`, which needs many more pairs than all contexts together have items. A pair listed several times, in
    either order, counts by its mean: the loss is linear in it.

    Args:
        context_N: number of the context, from 0.
        first_N, second_N: the two items, below `num_items`.
        probability_N: probability that the first item wins.
        num_items: I.
        mass_N: mass of each pair; None for a sample.
        tolerance: maximum gradient norm, in each context.

    Returns:
        Scores [T, I], with mean zero within each connected component of items compared in the context, and 0 for items
        never asked there. gradient_norm and steps are the maxima over contexts.

    Raises:
        NotConverged: with the context.

    Example:
        >>> items = np.array([0]), np.array([0]), np.array([1])
        >>> round(conditional_bt(*items, np.array([0.8]), 2, np.ones(1)).floor.value, 4)  # h(0.8), in nats
        0.5004
    """
    check_pairs(probability_N, mass_N)
    _check_items(context_N, first_N, second_N, num_items, len(probability_N))
    scores_TI = np.zeros((int(context_N.max()) + 1, num_items))
    if mass_N is not None:
        asked_N = mass_N > 0
        context_N, first_N, second_N = context_N[asked_N], first_N[asked_N], second_N[asked_N]
        probability_N, mass_N = probability_N[asked_N], mass_N[asked_N]
    context_E, edges = _edges_of_pairs(context_N, first_N, second_N, probability_N, num_items, mass_N)
    quotient = gradient_norm = steps = 0
    ends_T = np.searchsorted(context_E, np.arange(len(scores_TI)), side="right")
    for context, (start, end) in enumerate(itertools.pairwise([0, *ends_T])):
        if start == end:
            continue
        own = _Edges(*(column_E[start:end] for column_E in edges))
        own = own._replace(mass_E=own.mass_E / own.mass_E.sum())
        try:
            fit = _fit_scores(own, num_items, tolerance, sampled=mass_N is None)
        except NotConverged as error:
            raise NotConverged(f"context {context}: {error}") from error
        scores_TI[context] = fit.score_I
        quotient += fit.quotient
        gradient_norm, steps = max(gradient_norm, fit.gradient_norm), max(steps, fit.steps)
    margin_N = scores_TI[context_N, first_N] - scores_TI[context_N, second_N]
    floor = mean_estimate(bt_cross_entropy(probability_N, margin_N), mass_N, quotient / (2.0 * len(probability_N)))
    return Solution(scores_TI, floor, gradient_norm, steps)


class _Edges(NamedTuple):
    """Pairs of items that are asked, each in one order only.

    spread_E: variance of the probability over the listed pairs that were merged into one.
    """

    first_E: Integers
    second_E: Integers
    probability_E: Array
    mass_E: Array
    spread_E: Array


class _Fit(NamedTuple):
    score_I: Array
    gradient_norm: float
    steps: int
    quotient: float  # tr(H⁻¹J); 0 without sampling


def _edges_of_matrix(probability_II: Array, mass_II: Array) -> _Edges:
    shape = probability_II.shape
    if len(shape) != 2 or shape[0] != shape[1] or mass_II.shape != shape:
        raise ValueError(
            f"probability_II has shape {shape} and mass_II {mass_II.shape}; both need a row and a column an item"
        )
    mass_II = np.where(np.eye(len(mass_II), dtype=bool), 0.0, mass_II)
    if not np.isclose(mass_II.sum(), 1.0, atol=MASS_TOLERANCE):
        raise ValueError(
            f"mass_II off the diagonal sums to {mass_II.sum():.6g}; it must sum to 1: divide it by its sum"
        )
    asked_II = mass_II > 0
    for broken_II, complaint in (
        (mass_II < 0, "the mass is not at least 0; give the probability that the pair is asked"),
        (abs(mass_II - mass_II.T) > MASS_TOLERANCE * mass_II, "the mass is not symmetric; give each order half of it"),
        (
            asked_II & ~((probability_II >= 0) & (probability_II <= 1.0 + MASS_TOLERANCE)),
            "the probability is not in [0, 1]",
        ),
        (
            asked_II & ~(abs(probability_II + probability_II.T - 1.0) <= MASS_TOLERANCE),
            "it does not sum to 1 with that of the other order",
        ),
    ):
        if broken_II.any():
            first, second = np.argwhere(broken_II)[0]
            facts = f"probability {probability_II[first, second]}, mass {mass_II[first, second]}"
            raise ValueError(f"items {first} and {second} ({facts}): {complaint}")
    first_E, second_E = np.nonzero(np.triu(mass_II))
    mass_E = mass_II[first_E, second_E] + mass_II[second_E, first_E]
    return _Edges(first_E, second_E, probability_II[first_E, second_E], mass_E, np.zeros(len(mass_E)))


def _edges_of_pairs(
    context_N: Integers,
    first_N: Integers,
    second_N: Integers,
    probability_N: Array,
    num_items: int,
    mass_N: Array | None,
) -> tuple[Integers, _Edges]:
    """The context of each edge, ascending, and the edges; the masses sum to one over all contexts."""
    share_N = np.full(len(probability_N), 1.0 / len(probability_N)) if mass_N is None else mass_N
    low_N, high_N = np.minimum(first_N, second_N), np.maximum(first_N, second_N)
    wins_N = np.where(first_N < second_N, probability_N, 1.0 - probability_N)
    cell_N = (context_N.astype(np.int64) * num_items + low_N) * num_items + high_N
    cell_E, edge_N = np.unique(cell_N, return_inverse=True)
    mass_E = np.bincount(edge_N, share_N)
    wins_E = np.bincount(edge_N, share_N * wins_N) / mass_E
    spread_E = np.bincount(edge_N, share_N * (wins_N - wins_E[edge_N]) ** 2) / mass_E
    context_low_E, high_E = np.divmod(cell_E, num_items)
    context_E, low_E = np.divmod(context_low_E, num_items)
    return context_E, _Edges(low_E, high_E, wins_E, mass_E, spread_E)


def _fit_scores(edges: _Edges, num_items: int, tolerance: float, sampled: bool) -> _Fit:
    """The Bradley-Terry scores of least expected loss; the masses of the edges sum to one."""
    asked_A, place_2E = np.unique(np.concatenate([edges.first_E, edges.second_E]), return_inverse=True)
    edges = edges._replace(first_E=place_2E[: len(edges.first_E)], second_E=place_2E[len(edges.first_E) :])
    first_E, second_E, probability_E, mass_E, spread_E = edges

    def newton_terms(score_A: Array) -> tuple[float, Array, Array]:
        margin_E = score_A[first_E] - score_A[second_E]
        predicted_E = expit(margin_E)
        residual_E = mass_E * (predicted_E - probability_E)
        gradient_A = np.bincount(first_E, residual_E, len(score_A)) - np.bincount(second_E, residual_E, len(score_A))
        hessian_AA = _laplacian(edges, mass_E * predicted_E * (1.0 - predicted_E), len(score_A))
        return float(mass_E @ bt_cross_entropy(probability_E, margin_E)), gradient_A, hessian_AA

    # Start at zero, where the curvature is largest. The groups' mean reward seems a closer start, but if probabilities
    # are near 0 and 1 the loss is flat there, and Newton's method does not recover.
    score_A, gradient_norm, steps = _newton(newton_terms, np.zeros(len(asked_A)), tolerance)
    # The loss does not change if a constant is added to all scores of a connected component.
    graph_AA = coo_array((mass_E, (first_E, second_E)), shape=(len(score_A), len(score_A)))
    part_A = connected_components(graph_AA, directed=False)[1]
    score_I = np.zeros(num_items)
    score_I[asked_A] = score_A - (np.bincount(part_A, score_A) / np.bincount(part_A))[part_A]
    quotient = 0.0
    if sampled:
        predicted_E = expit(score_A[first_E] - score_A[second_E])
        hessian_AA = _laplacian(edges, mass_E * predicted_E * (1.0 - predicted_E), len(score_A))
        moment_AA = _laplacian(edges, mass_E * ((predicted_E - probability_E) ** 2 + spread_E), len(score_A))
        # With one score of each component fixed, H is invertible, and tr(H⁻¹J) is unchanged.
        held = np.unique(part_A, return_index=True)[1]
        hessian_AA, moment_AA = (np.delete(np.delete(m_AA, held, 0), held, 1) for m_AA in (hessian_AA, moment_AA))
        quotient = float(_solve(hessian_AA, moment_AA).trace())
    return _Fit(score_I, gradient_norm, steps, quotient)


def _laplacian(edges: _Edges, weight_E: Array, num_items: int) -> Array:
    """Σ_E weight_E (e_first - e_second)(e_first - e_second)ᵀ."""
    matrix_II = np.zeros((num_items, num_items))
    matrix_II[edges.first_E, edges.second_E] = matrix_II[edges.second_E, edges.first_E] = -weight_E
    np.fill_diagonal(matrix_II, -matrix_II.sum(axis=1))
    return matrix_II


def _second_moment(differences_ND: Array, weight_N: Array) -> Array:
    """Σ_N weight_N φ_N φ_Nᵀ."""
    num_features = differences_ND.shape[1]
    moment_DD = np.zeros((num_features, num_features))
    for rows in row_slices(*differences_ND.shape):
        moment_DD += (differences_ND[rows].T * weight_N[rows]) @ differences_ND[rows]
    return moment_DD


def _newton(newton_terms: NewtonTerms, start: Array, tolerance: float) -> tuple[Array, float, int]:
    """Newton's method with step halving. Returns the point, its gradient norm, and the number of steps.

    newton_terms maps a point to loss, gradient and Hessian.
    """
    point = start
    loss, gradient, hessian = newton_terms(point)
    for steps in range(MAX_NEWTON_STEPS):
        gradient_norm = float(np.linalg.norm(gradient))
        if gradient_norm <= tolerance:
            return point, gradient_norm, steps
        step = _solve(hessian, gradient[:, None])[:, 0]
        size = 1.0
        while True:
            candidate = newton_terms(point - size * step)
            if candidate[0] <= loss + 1e-12 or size < 1e-18:
                break
            size /= 2.0
        point = point - size * step
        loss, gradient, hessian = candidate
    raise NotConverged(
        f"the gradient norm is {np.linalg.norm(gradient):.3g} after {MAX_NEWTON_STEPS} Newton steps, "
        f"above the tolerance {tolerance:.3g}; are the preferences deterministic?"
    )


def _solve(hessian_DD: Array, right_DC: Array) -> Array:
    """H⁻¹ times columns that lie in the range of H.

    In other directions both sides are zero: the ridge, relative to a diagonal of 1, avoids the division of rounding
    errors by rounding errors there, and is too small to matter elsewhere.
    """
    scale_D1 = _unit_scale(hessian_DD)
    scaled_DD = scale_D1 * hessian_DD * scale_D1.T
    scaled_DD.flat[:: len(scaled_DD) + 1] += 1e-14
    return scale_D1 * np.linalg.solve(scaled_DD, scale_D1 * right_DC)


def _unit_scale(hessian_DD: Array) -> Array:
    """A column that, multiplied into rows and columns, scales the non-zero diagonal entries to 1."""
    diagonal_D = hessian_DD.diagonal()
    return np.where(diagonal_D > 0, diagonal_D, 1.0)[:, None] ** -0.5


def _check_items(context_N: Integers, first_N: Integers, second_N: Integers, num_items: int, num_pairs: int) -> None:
    for name, number_N, most in (
        ("context", context_N, None), ("first item", first_N, num_items), ("second item", second_N, num_items)
    ):  # fmt: skip
        if number_N.shape != (num_pairs,):
            raise ValueError(f"the {name}s have shape {number_N.shape}; {num_pairs} pairs need {(num_pairs,)}")
        if number_N.min() < 0 or (most is not None and number_N.max() >= most):
            pair = np.argmax((number_N < 0) | (number_N >= (np.inf if most is None else most)))
            raise ValueError(
                f"pair {pair}: the {name} is number {number_N[pair]}; numbers start at 0 and num_items is {num_items}"
            )
    if (first_N == second_N).any():
        pair = np.argmax(first_N == second_N)
        raise ValueError(f"pair {pair} compares item {first_N[pair]} with itself; leave it out")
