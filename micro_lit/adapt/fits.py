"""Adaptation by fitting: mixture weights that fit the labels best, as optima of convex problems.

Signature and guarantees are as in `weights`. A user's weights w minimise, on heads whose prior is above 0, in nats

    Σ_i φ(a_i·w) + pull KL(w ‖ π) - pseudo Σ_k π_k log w_k,   w ≥ 0, Σ_k w_k = 1.

Link `probability`: a_ik = σ(Δ_ik), φ(p) = -log p. Link `reward`: a_ik = Δ_ik, φ(Δ) = -log σ(Δ). Every term is convex
in w, so the gradient at any w bounds its distance from the minimum (`_Problem.at`); the search stops by this bound.

Dimension letters: N labelled pairs, U users, K heads, u users of a block, n labels of a user.
"""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from micro_lit.adapt import labels
from micro_lit.adapt.labels import Array, Floats, Integers
from micro_lit.likelihood import LinkName
from micro_lit.ranges import Count, NonNegative

NO_WEIGHT = -1e4  # a log-weight whose exponential is 0
LEAST = -600.0  # minimum log-weight of an allowed head: its inverse weight is finite
LEAST_START = 1e-6  # minimum initial weight: a head at 0 could not regain weight
LARGEST_MOVE = 5.0  # maximum change of a log-weight in one step
FORGETTING = 0.15  # weight of the newest value in the running mean that new values may not exceed


def few_shot_logits(
    margins_NK: Floats,
    user_N: Integers,
    prior_UK: Floats,
    link: LinkName = "probability",
    strength: NonNegative = 1.0,
    tolerance: NonNegative = 1e-6,
    max_steps: Count = 2000,
) -> Array:
    """Weights of least negative log-likelihood plus strength · KL(w ‖ π)  [LoRe, 2504.14439, at strength 0].

    At strength 0 the optimum may not be unique; the result then depends on the prior, where the search starts.

    Args:
        margins_NK: reward margins, chosen minus rejected, in nats.
        user_N: user of each label.
        prior_UK: prior weights π.
        link: `probability` gives a label the probability Σ_k w_k σ(Δ_k), `reward` gives σ(Σ_k w_k Δ_k), as in LoRe.
        strength: weight of the KL divergence. At 0 few labels lead to a corner of the simplex, a single head.
        tolerance: allowed distance of the objective from its minimum, in nats; relative if the objective is above 1
            nat.
        max_steps: maximum number of steps. Users who need more keep the weights reached, with a `RuntimeWarning` that
            states the distance from the optimum. Seen only with link `reward` and margins of thousands of nats.

    Returns:
        [U, K].

    Raises:
        ValueError: invalid input, or infinite margins with link `reward`, which have no mixed reward.

    Example:

        >>> margins_NK = np.array([[2.0, -2.0], [2.0, -2.0], [-2.0, 2.0]])  # head 0 explains two of three labels
        >>> few_shot_logits(margins_NK, np.array([0, 0, 0]), np.array([[0.5, 0.5]])).round(2)
        array([[0.64, 0.36]])
    """
    if link not in ("probability", "reward"):
        raise ValueError(f"link is {link!r}; allowed are 'probability' and 'reward'")
    return _fit(margins_NK, user_N, prior_UK, link, strength, 0.0, tolerance, max_steps)


def mixture_em(
    margins_NK: Floats,
    user_N: Integers,
    prior_UK: Floats,
    strength: NonNegative = 1.0,
    tolerance: NonNegative = 1e-6,
    max_steps: Count = 2000,
) -> Array:
    """Maximum-likelihood weights, or MAP weights, if a user draws a head independently for each pair.

    Maximises Σ_i log Σ_k w_k σ(Δ_ik) + strength Σ_k π_k log w_k. The second term is a Dirichlet prior with parameters
    1 + strength π_k, worth `strength` labels; at 0, maximum likelihood. The optimum is the fixed point of EM,

        w_k = (Σ_i r_ik + strength π_k) / (n + strength),   r_ik ∝ w_k σ(Δ_ik).

    EM takes a thousand steps where this search takes dozens. At strength 0 it equals `few_shot_logits` at strength 0.
    `posterior` assumes a user with one head, and converges to that head; this assumes a mixed user, and converges to
    the proportions of the heads.

    Args and Returns as in `few_shot_logits`, except `strength`: number of pseudo-labels of the prior.

    Example:

        >>> margins_NK = np.array([[9.0, -9.0], [9.0, -9.0], [-9.0, 9.0]])  # each label is of one head
        >>> mixture_em(margins_NK, np.array([0, 0, 0]), np.array([[0.5, 0.5]]), strength=0.0).round(3)
        array([[0.667, 0.333]])
    """
    return _fit(margins_NK, user_N, prior_UK, "probability", 0.0, strength, tolerance, max_steps)


def _fit(
    margins_NK: Floats,
    user_N: Integers,
    prior_UK: Floats,
    link: LinkName,
    pull: float,
    pseudo: float,
    tolerance: float,
    max_steps: int,
) -> Array:
    labels.check_labels(margins_NK, user_N, prior_UK)
    if link == "reward" and (infinite_NK := np.isinf(margins_NK) & (prior_UK > 0)[user_N]).any():
        row, head = np.argwhere(infinite_NK)[0]
        raise ValueError(
            f"the margin of labelled pair {row} is infinite for head {head}, so no reward can be mixed; leave out the "
            "pair, give the head prior 0, or take link 'probability'"
        )
    labels.check_setting("strength", pull or pseudo, zero=True)
    labels.check_setting("tolerance", tolerance)
    weights_UK = prior_UK.astype(np.float64)
    missed = []
    for users_u, margins_unK, real_un in labels.padded_blocks(margins_NK, user_N, len(prior_UK)):
        rows_unK = _label_rows(margins_unK, prior_UK[users_u] > 0, link)
        problem = _Problem(rows_unK, real_un, weights_UK[users_u], link, pull, pseudo)
        weights_UK[users_u], gap_u = _minimise(problem, tolerance, max_steps)
        missed += gap_u[gap_u > 0].tolist()
    if missed:
        warnings.warn(
            f"{len(missed)} of {len(prior_UK)} users are up to {max(missed):.1e} nats above their least loss after "
            f"{max_steps} steps; raise strength or tolerance, or scale the rewards down",
            RuntimeWarning,
            stacklevel=3,
        )
    return weights_UK


def _label_rows(margins_unK: Array, allowed_uK: NDArray[np.bool_], link: LinkName) -> Array:
    """The a_ik, 0 for heads not allowed. Probabilities are divided by the pair's largest to avoid underflow."""
    if link == "reward":
        return np.where(allowed_uK[:, None], margins_unK, 0.0)
    log_unK = np.where(allowed_uK[:, None], -labels.losses(margins_unK), -np.inf)
    return np.exp(log_unK - log_unK.max(axis=2, keepdims=True))


@dataclass(frozen=True, eq=False)
class _Problem:
    """The objective of each user in a block, as a function of log-weights [u, K]."""

    rows_unK: Array
    real_un: NDArray[np.bool_]
    prior_uK: Array
    link: LinkName
    pull: float
    pseudo: float

    def of(self, users: NDArray) -> "_Problem":
        return replace(self, rows_unK=self.rows_unK[users], real_un=self.real_un[users], prior_uK=self.prior_uK[users])

    @cached_property
    def allowed_uK(self) -> NDArray[np.bool_]:
        return self.prior_uK > 0

    @cached_property
    def log_prior_uK(self) -> Array:
        return np.where(self.allowed_uK, np.log(np.where(self.allowed_uK, self.prior_uK, 1.0)), NO_WEIGHT)

    @cached_property
    def floor_uK(self) -> Array:
        """Lower bounds of the optimum's log-weights: a head has at least its share of the pseudo-labels."""
        if not self.pseudo:
            return np.full(self.prior_uK.shape, LEAST)
        return self.log_prior_uK + np.log(self.pseudo / (self.real_un.sum(axis=1, keepdims=True) + self.pseudo))

    def at(self, log_weights_uK: Array) -> tuple[Array, Array, Array]:
        """The objective [u], its gradient by w [u, K], and a bound [u] on its distance from the minimum, in nats.

        Without a pull the bound is w·∇ - min_k ∇_k (Frank & Wolfe 1956). With one, let g be the other terms. As g is
        convex, no v has less than g(w) + ∇g·(v - w) + pull KL(v ‖ π), whose minimum over v is known. The objective at w
        exceeds it by pull KL(w ‖ v), where v ∝ π exp(-∇g/pull) is the minimiser.
        """
        weights_uK = np.exp(log_weights_uK)
        mixed_un = (self.rows_unK @ weights_uK[..., None])[..., 0]
        if self.link == "probability":
            loss_un, slope_un = -np.log(mixed_un), -1.0 / mixed_un
        else:
            loss_un, slope_un = labels.losses(mixed_un), -expit(-mixed_un)
        value_u = (loss_un * self.real_un).sum(axis=1)
        gradient_uK = ((slope_un * self.real_un)[:, None] @ self.rows_unK)[:, 0]
        if self.pseudo:
            value_u -= self.pseudo * (self.prior_uK * log_weights_uK).sum(axis=1)
            gradient_uK -= self.pseudo * np.exp(self.log_prior_uK - log_weights_uK)
        score_uK = np.where(self.allowed_uK, self.pull * self.log_prior_uK - gradient_uK, -np.inf)
        least_u = -score_uK.max(axis=1)
        if self.pull:
            least_u -= self.pull * np.log(np.exp((score_uK + least_u[:, None]) / self.pull).sum(axis=1))
            log_ratio_uK = self.pull * (log_weights_uK - self.log_prior_uK)
            value_u += (weights_uK * log_ratio_uK).sum(axis=1)
            gradient_uK += log_ratio_uK
        return value_u, gradient_uK, (weights_uK * gradient_uK).sum(axis=1) - least_u

    def normalised(self, log_weights_uK: Array) -> Array:
        """Log-weights normalised over the allowed heads, so that the weights sum to one."""
        log_weights_uK = np.where(self.allowed_uK, np.maximum(log_weights_uK, self.floor_uK), NO_WEIGHT)
        log_weights_uK -= log_weights_uK.max(axis=1, keepdims=True)
        return log_weights_uK - np.log(np.exp(log_weights_uK).sum(axis=1, keepdims=True))


def _minimise(problem: _Problem, tolerance: float, max_steps: int) -> tuple[Array, Array]:
    """Weights [u, K], and the bound [u] on their distance from the minimum in nats; 0 where it is within tolerance.

    Exponentiated gradient, log w <- log w - step · ∇, with the step sizes of Barzilai & Borwein (1988): the inverse
    curvature along the last step, in the metric Σ_k w_k s_k t_k of log-weights, with their two formulas in turn. A step
    to a value above the running mean of the values is rejected, and its size quartered (Zhang & Hager 2004).
    """
    weights_uK, missed_u = np.empty(problem.prior_uK.shape), np.zeros(len(problem.prior_uK))
    users_u = np.arange(len(missed_u))
    log_uK = problem.normalised(np.log(np.maximum(problem.prior_uK, LEAST_START)))
    value_u, gradient_uK, gap_u = problem.at(log_uK)
    running_u = value_u
    step_u = 1.0 / np.maximum(np.abs(_centred(gradient_uK, np.exp(log_uK))).max(axis=1), 1e-12)
    for turn in range(max_steps):
        late_u = gap_u > tolerance * np.maximum(1.0, np.abs(value_u))
        if np.count_nonzero(late_u) <= len(late_u) // 2:
            weights_uK[users_u] = np.exp(log_uK)
            if not late_u.any():
                return weights_uK, missed_u
            problem = problem.of(late_u)
            users_u, log_uK, value_u, gradient_uK, gap_u, running_u, step_u, late_u = (
                values[late_u] for values in (users_u, log_uK, value_u, gradient_uK, gap_u, running_u, step_u, late_u)
            )
        move_uK = -step_u[:, None] * _centred(gradient_uK, np.exp(log_uK))
        new_log_uK = problem.normalised(log_uK + np.clip(move_uK, -LARGEST_MOVE, LARGEST_MOVE))
        new_value_u, new_gradient_uK, new_gap_u = problem.at(new_log_uK)
        taken_u = late_u & (new_value_u <= running_u + 1e-12 * np.abs(running_u))
        metric_uK = (np.exp(log_uK) + np.exp(new_log_uK)) / 2.0
        move_uK = _centred(new_log_uK - log_uK, metric_uK)
        change_uK = _centred(new_gradient_uK - gradient_uK, metric_uK)
        across_u = (metric_uK * move_uK * change_uK).sum(axis=1)
        if turn % 2:
            above_u, below_u = (metric_uK * move_uK**2).sum(axis=1), across_u
        else:
            above_u, below_u = across_u, (metric_uK * change_uK**2).sum(axis=1)
        curved_u = taken_u & (across_u > 0) & (below_u > 0)
        step_u = np.divide(above_u, below_u, out=np.where(taken_u, 2.0, 0.25) * step_u, where=curved_u)
        log_uK = np.where(taken_u[:, None], new_log_uK, log_uK)
        gradient_uK = np.where(taken_u[:, None], new_gradient_uK, gradient_uK)
        value_u, gap_u = np.where(taken_u, new_value_u, value_u), np.where(taken_u, new_gap_u, gap_u)
        running_u = running_u + FORGETTING * (value_u - running_u)
    weights_uK[users_u] = np.exp(log_uK)
    missed_u[users_u] = np.where(gap_u > tolerance * np.maximum(1.0, np.abs(value_u)), gap_u, 0.0)
    return weights_uK, missed_u


def _centred(values_uK: Array, metric_uK: Array) -> Array:
    """Removes the component along the constant vector, which has no effect on weights."""
    return values_uK - (metric_uK * values_uK).sum(axis=1, keepdims=True)
