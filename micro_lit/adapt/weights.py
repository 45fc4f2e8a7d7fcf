"""Adaptation in closed form: mixture weights from each user's labels and a prior over heads.

Every method here and in `fits` is `method(margins_NK, user_N, prior_UK, **settings) -> weights_UK`. `margins_NK` are
rewards of the chosen minus the rejected responses under frozen heads, `user_N` is the user of each row, and `prior_UK`
has a row per user: one row with `user_N` all 0 is a single target, a repeated row a common prior. Rows of the result
sum to one. A user without labels keeps the prior to the last bit; a head of prior 0 keeps weight 0; the order of labels
does not matter; K = 1 gives weight 1. Bad input raises `ValueError` (see `labels`).

With ℓ_ik = -log σ(Δ_ik) nats and n labels of a user, all but the oracle are one formula with different temperatures:

    w_k ∝ π_k exp(-Σ_i ℓ_ik / T),   T = ∞ `prior`,  T = temperature `posterior` and `hyre`,  T = n·tau `hedge`.

Dimension letters: N labelled pairs, U users, K heads.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import entr

from micro_lit.adapt import labels
from micro_lit.adapt.labels import Array, Floats, Integers


def prior(margins_NK: Floats, user_N: Integers, prior_UK: Floats) -> Array:
    """No adaptation: the prior itself."""
    labels.check_labels(margins_NK, user_N, prior_UK)
    return prior_UK.astype(np.float64)


def uniform(margins_NK: Floats, user_N: Integers, prior_UK: Floats) -> Array:
    """No adaptation and no prior: equal weights on all heads whose prior is above 0.

    Example:

        >>> uniform(np.array([[2.0, 0.0]]), np.array([0]), np.array([[0.9, 0.1]]))
        array([[0.5, 0.5]])
    """
    labels.check_labels(margins_NK, user_N, prior_UK)
    return _even(prior_UK)


def posterior(margins_NK: Floats, user_N: Integers, prior_UK: Floats, temperature: float = 1.0) -> Array:
    """w_k ∝ π_k Π_i σ(Δ_ik)^(1/temperature): the probability that all labels of a user came from head k.

    At temperature 1 it is Bayes' rule for a user with one fixed head. Above 1 labels have less influence.

    It also has a regret bound when used online: the mixture Σ_k w_k σ(Δ_k), with w from the earlier labels, loses at
    most log(1/π_k) nats more than head k over any sequence (the losses telescope to -log Σ_k π_k exp(-Σ_i ℓ_ik)).

    Example:

        >>> margins_NK = np.array([[2.0, -2.0], [1.0, 0.0]])  # two labels of one user, two heads
        >>> posterior(margins_NK, np.array([0, 0]), np.array([[0.5, 0.5]])).round(3)
        array([[0.915, 0.085]])
    """
    labels.check_labels(margins_NK, user_N, prior_UK)
    labels.check_setting("temperature", temperature)
    return reweigh(prior_UK, labels.summed_losses(margins_NK, user_N, len(prior_UK)), temperature)


def hyre(margins_NK: Floats, user_N: Integers, prior_UK: Floats, temperature: float = 1.0) -> Array:
    """w_k ∝ exp(-Σ_i ℓ_ik): `posterior` from equal weights, on all heads whose prior is above 0  [HyRe, 2412.08812].

    Example:

        >>> hyre(np.array([[2.0, -2.0]]), np.array([0]), np.array([[0.9, 0.1]])).round(3)
        array([[0.881, 0.119]])
    """
    labels.check_prior(prior_UK)
    return posterior(margins_NK, user_N, _even(prior_UK), temperature)


def hedge(margins_NK: Floats, user_N: Integers, prior_UK: Floats, tau: float = 0.1) -> Array:
    """w_k ∝ π_k exp(-mean_i ℓ_ik / tau): stage 2 of MiCRo if a user's labels share one weight vector.

    MiCRo (2505.24846, §3.3) minimises Σ_i [w_i·ℓ_i + tau KL(w_i ‖ ω_i)]. With w_i = w and ω_i = π for all n labels of a
    user it is n (w·ℓ̄ + tau KL(w ‖ π)), ℓ̄ the mean loss, and a Lagrange multiplier for Σ_k w_k = 1 gives the formula.
    Only the mean of the losses counts: as n grows the weights converge instead of moving to one head. At tau = 1/n it
    is `posterior`. tau is in nats; the paper sets 1e-3 and 1e-4, which leaves only the head of least loss.

    Example:

        >>> hedge(np.array([[2.0, -2.0]]), np.array([0]), np.array([[0.5, 0.5]]), tau=1.0).round(3)
        array([[0.881, 0.119]])
    """
    labels.check_labels(margins_NK, user_N, prior_UK)
    labels.check_setting("tau", tau)
    loss_UK = labels.summed_losses(margins_NK, user_N, len(prior_UK))
    count_U1 = np.bincount(user_N, minlength=len(prior_UK))[:, None]
    return reweigh(prior_UK, loss_UK, tau * np.maximum(count_U1, 1))


def best_head_oracle(test_margins_NK: Floats, user_N: Integers, prior_UK: Floats) -> Array:
    """ORACLE: all weight on the head of least loss on the given TEST rows.

    It uses the labels it is evaluated on. Never compare it with methods: print it separately, as an oracle. Heads that
    tie share the weight in proportion to their prior, the limit of `hedge` as tau goes to 0.
    """
    labels.check_labels(test_margins_NK, user_N, prior_UK)
    return reweigh(prior_UK, labels.summed_losses(test_margins_NK, user_N, len(prior_UK)), 0.0)


def hedge_targets(margins_NK: Floats, weights_NK: Floats, tau: float = 0.1) -> Array:
    """[N, K] w*_ik ∝ ω_ik exp(-ℓ_ik / tau): a separate target for each labelled pair  [MiCRo, 2505.24846, §3.3].

    A router is fitted to the targets by cross-entropy. A router with the same weights for all labels of a user fits
    their mean; iterated at tau = 1 that is EM, and converges to `fits.mixture_em` at strength 0. So per-pair targets
    and `hedge` differ: they explain a user's labels by many heads, or by one.

    Args:
        margins_NK: reward margins, chosen minus rejected, in nats.
        weights_NK: ω, the current router's weights.
        tau: temperature in nats.
    """
    labels.check_labels(margins_NK, np.arange(len(margins_NK)), weights_NK)
    labels.check_setting("tau", tau)
    target_NK = np.empty(weights_NK.shape)
    size = max(1, labels.BLOCK_VALUES // weights_NK.shape[1])
    for start in range(0, len(weights_NK), size):
        rows = slice(start, start + size)
        target_NK[rows] = reweigh(weights_NK[rows], labels.losses(margins_NK[rows]), tau)
    return target_NK


class Sharpness(NamedTuple):
    """Concentration of weights, from (1/K, K) for equal weights to (1, 1) for a single head.

    largest: mean over rows of the largest weight. effective: mean over rows of exp(entropy), the effective number of
    heads.
    """

    largest: float
    effective: float


def sharpness(weights_NK: Floats) -> Sharpness:
    """The mean concentration of the rows of targets or weights. At MiCRo's tau of 1e-3 targets are nearly one-hot."""
    labels.check_prior(weights_NK)
    return Sharpness(float(weights_NK.max(axis=1).mean()), float(np.exp(entr(weights_NK).sum(axis=1)).mean()))


def reweigh(prior_UK: Floats, loss_UK: Array, temperature: float | Array = 1.0) -> Array:
    """[U, K] w_k ∝ π_k exp(-loss_k / temperature); at temperature 0 its limit, the heads of least loss.

    temperature: a number, or [U, 1]. Where all heads have equal loss the prior is returned to the last bit.
    """
    loss_UK = np.where(prior_UK > 0, loss_UK, np.inf)
    excess_UK = loss_UK - loss_UK.min(axis=1, keepdims=True)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        evidence_UK = np.where(excess_UK > 0, excess_UK / temperature, 0.0)
        log_weights_UK = np.log(prior_UK, dtype=np.float64) - evidence_UK
    weights_UK = np.exp(log_weights_UK - log_weights_UK.max(axis=1, keepdims=True))
    weights_UK /= weights_UK.sum(axis=1, keepdims=True)
    differs_U1 = ((excess_UK > 0) & (prior_UK > 0)).any(axis=1, keepdims=True)
    return np.where(differs_U1, weights_UK, prior_UK)


def _even(prior_UK: Floats) -> Array:
    return (prior_UK > 0) / np.count_nonzero(prior_UK, axis=1, keepdims=True)
