"""Intervals of the comparison: means over attributes, resampled over prompts and over draws of the labels.

Where users are the subjects, a row is a user, who is a prompt of one row, and all are of one attribute.

Dimension letters: R draws, N test rows, A attributes, P prompts, S resamples.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

LEVEL = 95.0
MOST_UNITS = 1000  # with more prompts than that, units of several, put together at random: the interval is as wide


class Interval(NamedTuple):
    """A value, its 95 % interval, and the standard deviation of the value over draws (None where there is one)."""

    value: float
    low: float
    high: float
    sd: float | None


class Resampling:
    """The same resamples of prompts and of draws for every system, so that differences between systems are paired.

    attribute_N: code of each row, from 0 on. prompt_N: code of its prompt: rows of one prompt stand or fall together.
    keep_RN: rows that are judged in each draw; the others were adapted to, or share their prompt with one that was.
    """

    def __init__(
        self, attribute_N: Integers, prompt_N: Integers, keep_RN: NDArray[np.bool_], resamples: int, seed: int
    ) -> None:
        self.num_attributes = int(attribute_N.max()) + 1
        generator = np.random.default_rng(seed)
        prompts_P, prompt_N = np.unique(prompt_N, return_inverse=True)
        if len(prompts_P) > MOST_UNITS:
            prompts_P, prompt_N = np.arange(MOST_UNITS), generator.integers(MOST_UNITS, size=len(prompts_P))[prompt_N]
        self.cell_N = prompt_N * self.num_attributes + attribute_N
        self.shape = (len(prompts_P), self.num_attributes)
        self.keep_RN = keep_RN
        num_draws, num_prompts = len(keep_RN), len(prompts_P)
        prompts_SP = generator.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), resamples)
        draws_SR = generator.multinomial(num_draws, np.full(num_draws, 1 / num_draws), resamples)
        self.prompts_SP, self.draws_SR = prompts_SP.astype(np.float64), draws_SR.astype(np.float64)
        self.count_RPA = self._sums(np.ones(keep_RN.shape))
        self.count_SA = self._resampled(self.count_RPA)

    def summary(self, scores_RN: Array, baseline_RN: Array | None = None) -> dict[str, Interval]:
        """The mean over attributes, under "mean", and that of each attribute, under its code as text.

        scores_RN: of every row in every draw; one draw stands for all. baseline_RN: subtracted, row by row.
        """
        difference_RN = scores_RN if baseline_RN is None else scores_RN - baseline_RN
        sums_RPA = self._sums(np.broadcast_to(difference_RN, self.keep_RN.shape))
        value_A = _ratio(sums_RPA.sum(axis=(0, 1)), self.count_RPA.sum(axis=(0, 1)))
        draws_RA = _ratio(sums_RPA.sum(axis=1), self.count_RPA.sum(axis=1))
        resampled_SA = _ratio(self._resampled(sums_RPA), self.count_SA)
        varies = len(difference_RN) > 1
        columns: Mapping[str, tuple] = {
            "mean": (value_A.mean(), np.nanmean(resampled_SA, axis=1), draws_RA.mean(axis=1)),
            **{str(code): (value_A[code], resampled_SA[:, code], draws_RA[:, code]) for code in range(len(value_A))},
        }
        return {name: _interval(*column, varies) for name, column in columns.items()}

    def counts_A(self) -> Integers:
        """How many rows of each attribute are judged, on average over draws."""
        return np.rint(self.count_RPA.sum(axis=1).mean(axis=0)).astype(np.int64)

    def _sums(self, values_RN: Array) -> Array:
        """[R, P, A] sums over the rows that are kept."""
        kept_RN = np.where(self.keep_RN, values_RN, 0.0)
        size = self.shape[0] * self.shape[1]
        return np.stack([np.bincount(self.cell_N, kept_N, size) for kept_N in kept_RN]).reshape(-1, *self.shape)

    def _resampled(self, sums_RPA: Array) -> Array:
        """[S, A] the sums under every resample of prompts and draws."""
        num_draws, num_prompts, num_attributes = sums_RPA.shape
        flat = self.prompts_SP @ sums_RPA.swapaxes(0, 1).reshape(num_prompts, -1)
        return (flat.reshape(-1, num_draws, num_attributes) * self.draws_SR[..., None]).sum(axis=1)


def _ratio(sums: Array, counts: Array) -> Array:
    """Means; NaN where nothing is left of an attribute, which then takes no part."""
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _interval(value: float, resampled_S: Array, draws_R: Array, varies: bool) -> Interval:
    low, high = np.nanpercentile(resampled_S, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high), float(draws_R.std(ddof=1)) if varies else None)
