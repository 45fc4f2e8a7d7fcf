"""Labelled margins and their users, the input of every adaptation: checks, and grouping by user.

A label consists of a margin per head for one pair, the reward of the chosen minus that of the rejected response, and
the user who chose. Users may have any number of labels, including none, in any row order. A "user" is whatever weights
are computed for: a person, a criterion, or one of several draws of a budget. Margins beyond ±1e100 nats, including
infinite ones, count as ±1e100.

Dimension letters: N labelled pairs, U users, K heads, B pairs of a block, u users of a block, n labels of a user.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from micro_lit.likelihood import WINNER

Array = NDArray[np.float64]
Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

BLOCK_VALUES = 2**20  # maximum number of values in an array of a block
LARGEST_MARGIN = 1e100
SUM_TOLERANCE = 1e-5  # allows float32 weights and manually typed thirds


def check_labels(margins_NK: Floats, user_N: Integers, prior_UK: Floats) -> None:
    """Raises `ValueError`, with place and remedy, if shapes do not match or the prior is not a distribution."""
    check_prior(prior_UK)
    check_margins(margins_NK, user_N, prior_UK)


def check_prior(prior_UK: Floats) -> None:
    """Raises `ValueError` unless each row of the prior has at least one head, no negative weight, and sum one."""
    if prior_UK.ndim != 2 or prior_UK.shape[1] == 0:
        raise ValueError(f"the prior has shape {prior_UK.shape}; give a row a user and a column a head")
    bad_UK = ~(prior_UK >= 0)
    if bad_UK.any():
        user, head = np.argwhere(bad_UK)[0]
        raise ValueError(
            f"the prior of user {user} is {prior_UK[user, head]} for head {head}; give weights from 0 to 1"
        )
    sum_U = prior_UK.sum(axis=1, dtype=np.float64)
    bad_U = ~(np.abs(sum_U - 1.0) <= SUM_TOLERANCE)
    if bad_U.any():
        user = int(np.argmax(bad_U))
        raise ValueError(f"the prior of user {user} sums to {sum_U[user]}; divide each row by its sum")


def check_margins(margins_NK: Floats, user_N: Integers, prior_UK: Floats) -> None:
    """Raises `ValueError` unless margins have a column per head of the prior, no NaN, and users within its rows."""
    num_users, num_heads = prior_UK.shape
    if margins_NK.ndim != 2 or margins_NK.shape[1] != num_heads:
        raise ValueError(
            f"margins have shape {margins_NK.shape}; give a row a labelled pair and a column each of the prior's "
            f"{num_heads} heads"
        )
    if user_N.shape != margins_NK.shape[:1]:
        raise ValueError(f"users have shape {user_N.shape} for {len(margins_NK)} labelled pairs; give one a pair")
    bad_N = (user_N < 0) | (user_N >= num_users)
    if bad_N.any():
        row = int(np.argmax(bad_N))
        raise ValueError(
            f"labelled pair {row} is of user {user_N[row]}; users count from 0 to {num_users - 1}, the rows of the "
            "prior: give the prior a row for every user"
        )
    bad_NK = np.isnan(margins_NK)
    if bad_NK.any():
        row, head = np.argwhere(bad_NK)[0]
        raise ValueError(
            f"the margin of labelled pair {row} is NaN for head {head}; leave the pair out, or see why that head has "
            "no reward for one of its responses"
        )


def check_setting(name: str, value: float, zero: bool = False) -> None:
    """Raises `ValueError` unless the value is finite and positive; 0 is allowed if `zero`."""
    if not (np.isfinite(value) and (value > 0 or (zero and value == 0))):
        raise ValueError(f"{name} is {value}; give a number above 0{', or 0' if zero else ''}")


def clipped(margins: Floats) -> Array:
    """Margins in float64, clipped to ±`LARGEST_MARGIN`, so that sums and differences are finite."""
    return np.clip(margins.astype(np.float64), -LARGEST_MARGIN, LARGEST_MARGIN)


def losses(margins: Floats) -> Array:
    """-log σ(Δ) in nats, elementwise, for margins of any shape; never infinite."""
    return -WINNER.array_log_prob(clipped(margins))


def summed_losses(margins_NK: Floats, user_N: Integers, num_users: int) -> Array:
    """[U, K] the losses -log σ(Δ) of every head, in nats, summed over each user's labels; all a posterior needs."""
    loss_UK = np.zeros((num_users, margins_NK.shape[1]))
    order_N = np.argsort(user_N, kind="stable")
    size = max(1, BLOCK_VALUES // margins_NK.shape[1])
    for start in range(0, len(order_N), size):
        row_B = order_N[start : start + size]
        users_u, first_u = np.unique(user_N[row_B], return_index=True)
        loss_UK[users_u] += np.add.reduceat(losses(margins_NK[row_B]), first_u, axis=0)
    return loss_UK


def padded_blocks(
    margins_NK: Floats, user_N: Integers, num_users: int
) -> Iterator[tuple[Integers, Array, NDArray[np.bool_]]]:
    """Yields padded blocks of users and their labels: users [u], margins [u, n, K], and a mask of real labels [u, n].

    Users without labels are in no block. Users in a block have similar numbers of labels: at least half of it is real.
    Padding repeats a label of the user.
    """
    count_U = np.bincount(user_N, minlength=num_users)
    row_N = np.argsort(user_N, kind="stable")
    first_U = np.cumsum(count_U) - count_U
    waiting = np.argsort(-count_U, kind="stable")[: np.count_nonzero(count_U)]
    while len(waiting):
        most = count_U[waiting[0]]
        alike = np.count_nonzero(2 * count_U[waiting] >= most)
        size = max(1, min(alike, BLOCK_VALUES // (most * margins_NK.shape[1])))
        users_u, waiting = waiting[:size], waiting[size:]
        real_un = np.arange(most) < count_U[users_u, None]
        label_un = np.where(real_un, np.arange(most), 0)
        yield users_u, clipped(margins_NK[row_N[first_U[users_u, None] + label_un]]), real_un
