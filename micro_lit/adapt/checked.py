"""Checks the weights that an adaptation returns; custom adaptations may return anything.

Dimension letters: N labelled pairs, U users, K heads.
"""

from collections.abc import Callable

import numpy as np

from micro_lit.adapt.labels import Array, Integers
from micro_lit.errors import UserError, name_of
from micro_lit.likelihood import WEIGHTS_TOLERANCE

Method = Callable[[Array, Integers, Array], Array]


def adapted(adapt: Method, name: str, margins_NK: Array, user_N: Integers, prior_UK: Array) -> Array:
    """Runs an adaptation and returns its weights [U, K]. Raises `UserError` if it fails or returns invalid weights."""
    try:
        weights_UK = adapt(margins_NK, user_N, prior_UK)
    except Exception as error:  # a user's code can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"adaptation {name} ({name_of(adapt)}) failed ({reason})") from error
    wrong = ""
    if not isinstance(weights_UK, np.ndarray) or weights_UK.shape != prior_UK.shape:
        wrong = (
            f"an array of shape {np.shape(weights_UK)} for {prior_UK.shape[0]} subjects and {prior_UK.shape[1]} heads"
        )
    elif not np.isfinite(weights_UK).all() or (weights_UK < 0).any():
        wrong = "weights that are negative or not finite"
    elif (off_U := np.abs(weights_UK.sum(axis=1) - 1) > WEIGHTS_TOLERANCE).any():
        wrong = f"weights that sum to {weights_UK[off_U][0].sum():.4g}"
    if wrong:
        raise UserError(
            f"adaptation {name} ({name_of(adapt)}) gave {wrong}; an adaptation gives weights of at least 0 that sum to "
            "one, a row a subject"
        )
    return weights_UK.astype(np.float64)
