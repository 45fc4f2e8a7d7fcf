"""Elicitation (active learning): selects the next pair to ask a user, to find the user's head with few labels.

Model: a user has one head, head k with current probability w_k, and prefers the first response of a pair with
probability σ(Δ_k), Δ_k the reward of the first minus the reward of the second response. A strategy scores a pool of
pairs shared by all users: `strategy(margins_PK, weights_UK, **settings) -> scores_UP`; the largest score is asked
first. Scores do not change when the two responses of a pair are swapped. `elicit` asks, reads the label, and updates
the weights by Bayes' rule. Bad input raises `ValueError` (see `labels`).

Dimension letters: P pairs of the pool, p pairs of a block, U users, K heads, N questions to a user, T = N + 1 moments,
before the first question and after each.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from micro_lit.adapt import labels
from micro_lit.adapt.labels import Array, Floats
from micro_lit.adapt.weights import reweigh

Strategy = Callable[[Floats, Floats], Array]


def information_gain(margins_PK: Floats, weights_UK: Floats) -> Array:
    """Expected information about the head from the answer, in nats: h(Σ_k w_k σ(Δ_k)) - Σ_k w_k h(σ(Δ_k)).

    h is the entropy of a coin. The score is the mutual information of answer and head  [Lindley 1956; BALD, 1112.5745]:
    the uncertainty of the mixture minus the mean uncertainty of its heads. It is high where heads are certain and
    disagree. It is 0 where all are certain of one side, where all are at 1/2, and where one head has all the weight. It
    is at most log 2, and at most the entropy of the weights. Accurate to about 1e-14 nats.

    Args:
        margins_PK: reward margins of the pool, in nats.
        weights_UK: current weights of each user.

    Returns:
        [U, P], in nats.
    """
    return _in_blocks(_information_gain, margins_PK, weights_UK)


def disagreement(margins_PK: Floats, weights_UK: Floats) -> Array:
    """Variance of the margins under the weights, Σ_k w_k (Δ_k - Σ_j w_j Δ_j)², in squared nats.

    A cheap alternative to `information_gain`: it prefers pairs whose rewards differ most between heads, even if the
    answers would not differ. Heads with margins 5 and 50 answer alike, so the pair teaches little, but it outscores a
    pair with margins -2 and 2. Where all margins are small the two agree: the gain tends to an eighth of the variance.

    Args:
        margins_PK: reward margins of the pool, in nats.
        weights_UK: current weights of each user.

    Returns:
        [U, P], in squared nats.
    """
    return _in_blocks(_disagreement, margins_PK, weights_UK)


def at_random(margins_PK: Floats, weights_UK: Floats, generator: np.random.Generator) -> Array:
    """[U, P] uniform random scores, drawn at each call: the baseline for all other strategies."""
    return generator.random((len(weights_UK), len(margins_PK)))


class Elicited(NamedTuple):
    """asked_UN: indices of pairs in the order asked. weights_TUK: weights before the first label and after each."""

    asked_UN: NDArray[np.int64]
    weights_TUK: Array


def elicit(
    margins_PK: Floats,
    allowed_UP: NDArray[np.bool_],
    prior_UK: Floats,
    strategy: Strategy,
    num_questions: int,
) -> Elicited:
    """Asks every user `num_questions` pairs in sequence, each with the best score under the current weights.

    All pairs are scored for all users at each step. Of equal scores the first pair is asked. Without randomness, users
    with equal priors and equal allowed pairs are asked the same pairs.

    Args:
        margins_PK: labelled pairs, chosen minus rejected; the label is that of the user who is asked. Strategies
            receive every pair oriented so that its first non-zero margin is positive, which hides the label.
        allowed_UP: the pairs that each user may be asked, each at most once.
        prior_UK: initial weights.
        strategy: `information_gain`, `disagreement`, `partial(at_random, generator=...)` or a custom one.
        num_questions: N.

    Returns:
        The weights after n questions equal `posterior` of the n labels; before the first, the prior to the last bit.

    Raises:
        ValueError: a user has fewer than `num_questions` allowed pairs, or the input is invalid.

    Example:
        >>> margins_PK = np.array([[0.1, 0.1], [2.0, -2.0], [0.1, -0.1]])  # the heads disagree most on pair 1
        >>> elicit(margins_PK, np.ones((1, 3), dtype=bool), np.array([[0.5, 0.5]]), disagreement, 2)[0]
        array([[1, 2]])
    """
    num_users, num_pairs = len(prior_UK), len(margins_PK)
    _check_pool(margins_PK, prior_UK)
    _check_questions(allowed_UP, (num_users, num_pairs), num_questions)
    shown_PK, label_loss_PK = _turned(labels.clipped(margins_PK)), labels.losses(margins_PK)
    open_UP, everyone_U = allowed_UP.copy(), np.arange(num_users)
    asked_UN = np.empty((num_users, num_questions), dtype=np.int64)
    weights_TUK = np.empty((num_questions + 1, *prior_UK.shape))
    weights_TUK[0] = prior_UK
    loss_UK = np.zeros(prior_UK.shape)
    for step in range(num_questions):
        scores_UP = strategy(shown_PK, weights_TUK[step])
        if not np.isfinite(scores_UP).all():
            raise ValueError(f"the strategy's scores at question {step} are not all finite; give numbers only")
        asked_U = np.where(open_UP, scores_UP, -np.inf).argmax(axis=1)
        open_UP[everyone_U, asked_U] = False
        loss_UK += label_loss_PK[asked_U]
        asked_UN[:, step], weights_TUK[step + 1] = asked_U, reweigh(prior_UK, loss_UK)
    return Elicited(asked_UN, weights_TUK)


def _check_questions(allowed_UP: NDArray[np.bool_], shape: tuple[int, int], num_questions: int) -> None:
    """Raises `ValueError` unless each user may be asked enough pairs."""
    num_users, num_pairs = shape
    labels.check_setting("num_questions", num_questions, zero=True)
    if allowed_UP.shape != shape:
        raise ValueError(
            f"the allowed pairs have shape {allowed_UP.shape}; give a row each of {num_users} users and a column each "
            f"of {num_pairs} pairs"
        )
    count_U = np.count_nonzero(allowed_UP, axis=1)
    if (count_U < num_questions).any():
        user = int(np.argmax(count_U < num_questions))
        raise ValueError(
            f"user {user} may be asked {count_U[user]} pairs, and num_questions is {num_questions}; allow more pairs, "
            "ask fewer questions, or leave out the user"
        )


def _check_pool(margins_PK: Floats, weights_UK: Floats) -> None:
    labels.check_labels(margins_PK, np.zeros(len(margins_PK), dtype=int), weights_UK)


def _in_blocks(score: Callable[[Array, Array], Array], margins_PK: Floats, weights_UK: Floats) -> Array:
    """Scores pairs in blocks, so that memory beyond the result does not grow with their number."""
    _check_pool(margins_PK, weights_UK)
    weights_UK = weights_UK / weights_UK.sum(axis=1, keepdims=True, dtype=np.float64)
    scores_UP = np.empty((len(weights_UK), len(margins_PK)))
    size = max(1, labels.BLOCK_VALUES // max(weights_UK.shape))
    for start in range(0, len(margins_PK), size):
        rows = slice(start, start + size)
        scores_UP[:, rows] = score(labels.clipped(margins_PK[rows]), weights_UK)
    return scores_UP


def _information_gain(margins_pK: Array, weights_UK: Array) -> Array:
    tilt_pK = np.tanh(margins_pK / 2.0)  # σ(Δ) - σ(-Δ): swapping the responses only changes the sign
    return np.maximum(
        _coin_entropy(_mean_score(weights_UK, tilt_pK)) - _mean_score(weights_UK, _coin_entropy(tilt_pK)), 0.0
    )


def _coin_entropy(tilt: Array) -> Array:
    """The entropy, in nats, of a coin whose two probabilities differ by `tilt`."""
    tilt = np.clip(tilt, -1.0, 1.0)
    return entr((1.0 + tilt) / 2.0) + entr((1.0 - tilt) / 2.0)


def _disagreement(margins_pK: Array, weights_UK: Array) -> Array:
    beyond_pK = margins_pK - margins_pK[:, :1]  # the same variance, without cancellation of a common part
    return np.maximum(_mean_score(weights_UK, beyond_pK**2) - _mean_score(weights_UK, beyond_pK) ** 2, 0.0)


def _mean_score(weights_UK: Array, values_pK: Array) -> Array:
    """[U, p] Σ_k w_k x_k, summed in a fixed order: equal pairs tie to the last bit, which BLAS does not guarantee."""
    return np.einsum("uk,pk->up", np.ascontiguousarray(weights_UK), np.ascontiguousarray(values_pK))


def _turned(margins_PK: Array) -> Array:
    """The pairs, with responses swapped where the first non-zero margin is negative."""
    first_P1 = (margins_PK != 0).argmax(axis=1, keepdims=True)
    return np.where(np.take_along_axis(margins_PK, first_P1, axis=1) < 0, -margins_PK, margins_PK)
