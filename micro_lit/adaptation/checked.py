"""What an adaptation gives, checked: one of a user's own may give anything.

Dimension letters: N labelled pairs, U users, K heads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from micro_lit.adaptation.labels import Array, Integers
from micro_lit.errors import UserError

Method = Callable[[Array, Integers, Array], Array]

WEIGHTS_TOLERANCE = 1e-4  # of their sum; that of float32 and of bfloat16 gates


def adapted(adapt: Method, name: str, margins_NK: Array, user_N: Integers, prior_UK: Array) -> Array:
    """[U, K] the weights that an adaptation gives. Raises `UserError` unless they are weights."""
    weights_UK = adapt(margins_NK, user_N, prior_UK)
    wrong = ""
    if not isinstance(weights_UK, np.ndarray) or weights_UK.shape != prior_UK.shape:
        wrong = (
            f"an array of shape {np.shape(weights_UK)} for {prior_UK.shape[0]} subjects and {prior_UK.shape[1]} heads"
        )
    elif not np.isfinite(weights_UK).all() or (weights_UK < 0).any():
        wrong = "weights below 0, or none that are numbers"
    elif (off_U := np.abs(weights_UK.sum(axis=1) - 1) > WEIGHTS_TOLERANCE).any():
        wrong = f"weights that sum to {weights_UK[off_U][0].sum():.4g}"
    if wrong:
        raise UserError(
            f"adaptation {name} ({_named(adapt)}) gave {wrong}; an adaptation gives weights of at least 0 that sum to "
            "one, a row a subject"
        )
    return weights_UK.astype(np.float64)


def _named(adapt: Any) -> str:
    """The function of an adaptation, without the settings that it has been given."""
    function = getattr(adapt, "func", adapt)
    return getattr(function, "__qualname__", type(function).__name__)
