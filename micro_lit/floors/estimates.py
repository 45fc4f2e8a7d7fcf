"""Shared parts of floors of known populations: estimates, input checks, and iteration in blocks.

A population is a table of pairs. Each pair has the probability σ_k that group k prefers the first response, the group
weights γ_k, and a mass: the probability that the pair is asked. With masses a result is an exact sum. Without them
(`mass_N=None`) the pairs are an i.i.d. sample, and the result is an estimate with its standard error.

Dimension letters: N pairs, K groups.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

FLOOR_BLOCK_VALUES = 2**20
MASS_TOLERANCE = 1e-5  # allows float32 weights and manually typed thirds


class FloorEstimate(NamedTuple):
    """A number in nats and its standard error; 0.0 if all masses are known and the number is exact."""

    value: float
    se: float


def binary_entropy(probability: Array) -> Array:
    """h(p) in nats, elementwise; 0 at p = 0 and p = 1."""
    return entr(probability) + entr(1.0 - probability)


def mean_estimate(value_N: Array, mass_N: Array | None, optimism: float = 0.0) -> FloorEstimate:
    """The mean of a quantity over pairs. `optimism`, the bias of an in-sample mean, is added only for a sample."""
    if mass_N is not None:
        return FloorEstimate(float(mass_N @ value_N), 0.0)
    return FloorEstimate(float(value_N.mean()) + optimism, float(value_N.std(ddof=1)) / len(value_N) ** 0.5)


def row_slices(num_rows: int, width: int) -> Iterator[slice]:
    """Slices of rows with about BLOCK_VALUES values each."""
    size = max(1, FLOOR_BLOCK_VALUES // max(1, width))
    return (slice(start, start + size) for start in range(0, num_rows, size))


def check_pairs(probabilities: Array, mass_N: Array | None, weights_NK: Array | None = None) -> None:
    """Raises `ValueError` for an invalid population. probabilities: [N, K] with weights, else [N]."""
    num_pairs = len(probabilities)
    letters = ("N",) if weights_NK is None else ("N", "K")
    if probabilities.ndim != len(letters):
        raise ValueError(f"the probabilities have shape {probabilities.shape}; they need the axes {', '.join(letters)}")
    if probabilities.size == 0:
        raise ValueError(f"there are no pairs: the probabilities have shape {probabilities.shape}; give at least one")
    # A probability summed over groups may round to slightly above 1.
    most = 1.0 + MASS_TOLERANCE if weights_NK is None else 1.0
    if not (probabilities.min() >= 0 and probabilities.max() <= most):
        place = np.argwhere(~((probabilities >= 0) & (probabilities <= most)))[0]
        where = ", ".join(f"{name} {number}" for name, number in zip(("pair", "group"), place, strict=False))
        raise ValueError(
            f"{where}: the probability {probabilities[tuple(place)]} is not in [0, 1]; expit makes one of a margin"
        )
    if mass_N is None:
        if num_pairs < 2:
            raise ValueError("a single sampled pair has no standard error; sample more, or give mass_N")
    else:
        if mass_N.shape != (num_pairs,):
            raise ValueError(f"mass_N has shape {mass_N.shape}; {num_pairs} pairs need {(num_pairs,)}")
        if not mass_N.min() >= 0:
            pair = np.argmax(~(mass_N >= 0))
            raise ValueError(
                f"pair {pair}: the mass {mass_N[pair]} is not at least 0; give the probability that the pair is asked"
            )
        if not abs(mass_N.sum() - 1.0) <= MASS_TOLERANCE:
            raise ValueError(f"mass_N sums to {mass_N.sum():.6g}; it must sum to 1: divide it by its sum")
    if weights_NK is None:
        return
    if weights_NK.ndim != 2 or weights_NK.shape not in (probabilities.shape, (1, probabilities.shape[1])):
        raise ValueError(
            f"weights_NK has shape {weights_NK.shape} and probabilities_NK {probabilities.shape}; "
            "give a weight for every group, in one row for each pair or one row for all"
        )
    if not weights_NK.min() >= 0:
        pair, group = np.argwhere(~(weights_NK >= 0))[0]
        raise ValueError(f"pair {pair}, group {group}: the weight {weights_NK[pair, group]} is not at least 0")
    sum_N = weights_NK.sum(axis=1)
    if not abs(sum_N - 1.0).max() <= MASS_TOLERANCE:
        pair = np.argmax(~(abs(sum_N - 1.0) <= MASS_TOLERANCE))
        raise ValueError(
            f"pair {pair}: the weights sum to {sum_N[pair]:.6g}; they must sum to 1: divide the row by its sum"
        )
    most_K = weights_NK.max(axis=0)
    if most_K.min() == 0:
        raise ValueError(f"group {most_K.argmin()} has zero weight on every pair; leave it out")
