"""Averages of the comparison: means over subjects, with 95 % intervals over units and draws of labels.

Dimension letters: R draws, N test rows, A subjects that rows are averaged in, U units.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro_lit.metrics import Crossed, crossed

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Point = dict[str, Any]


class Averages:
    """Averages the same rows for every system, so that differences between systems are paired.

    Args:
        subject_N: code of each row's subject, from 0. Rows are averaged within a subject, then over subjects.
        unit_N: code of each row's sampling unit (cluster); rows of one unit are not independent.
        keep_RN: rows that are scored in each draw; excluded rows were learned from, or share a prompt or response with
            rows that were.
        units: name of the units, such as prompts.
    """

    def __init__(self, subject_N: Integers, unit_N: Integers, keep_RN: NDArray[np.bool_], units: str) -> None:
        num_subjects, codes_U = int(subject_N.max()) + 1, np.unique(unit_N, return_inverse=True)
        self.units, self.keep_RN = units, keep_RN
        self.shape = (len(codes_U[0]), num_subjects)
        self.cell_N = codes_U[1] * num_subjects + subject_N

    def summary(self, values_RN: Array, baseline_RN: Array | None = None, proportion: bool = False) -> dict[str, Point]:
        """Returns the mean over subjects, under "mean", and the mean of each subject, under its code as text.

        Args:
            values_RN: value of every row in every draw, NaN for rows without one; one draw is used for all draws.
            baseline_RN: values to subtract, row by row.
            proportion: whether values lie in [0, 1]; intervals are then Wilson's.

        Returns:
            For each mean {value, low, high, sd, se_units, units, n_units}. `sd` is over draws; None for a single draw.
        """
        difference_RN = values_RN if baseline_RN is None else values_RN - baseline_RN
        varies = len(difference_RN) > 1
        difference_RN, keep_RN = np.broadcast_arrays(difference_RN, self.keep_RN)
        keep_RN = keep_RN & np.isfinite(difference_RN)
        sums_RUA, counts_RUA = self._sums(np.where(keep_RN, difference_RN, 0.0)), self._sums(keep_RN.astype(np.float64))
        proportion = proportion and baseline_RN is None
        found = {"mean": self._point(sums_RUA, counts_RUA, proportion, varies)}
        for code in range(self.shape[1]):
            own = slice(code, code + 1)
            found[str(code)] = self._point(sums_RUA[..., own], counts_RUA[..., own], proportion, varies)
        return found

    def counts_A(self) -> Integers:
        """Number of scored rows of each subject, averaged over draws and rounded."""
        return np.rint(self._sums(self.keep_RN.astype(np.float64)).sum(axis=1).mean(axis=0)).astype(np.int64)

    def _sums(self, values_RN: Array) -> Array:
        """[R, U, A] sums over rows."""
        size = self.shape[0] * self.shape[1]
        return np.stack([np.bincount(self.cell_N, values_N, size) for values_N in values_RN]).reshape(-1, *self.shape)

    def _point(self, sums_RUA: Array, counts_RUA: Array, proportion: bool, varies: bool) -> Point:
        found: Crossed = crossed(sums_RUA, counts_RUA, proportion)
        counts_RA = counts_RUA.sum(axis=1)
        means_RA = np.divide(sums_RUA.sum(axis=1), counts_RA, out=np.full(counts_RA.shape, np.nan), where=counts_RA > 0)
        single = found.n_units == 1  # no interval exists
        judged_RA = means_RA[np.isfinite(means_RA).any(axis=1)]  # a draw may have no rows to score
        return {
            "value": found.value,
            "low": found.value if single else found.low,
            "high": found.value if single else found.high,
            "sd": float(np.nanmean(judged_RA, axis=1).std(ddof=1)) if varies and len(judged_RA) > 1 else None,
            "se_units": None if single else found.se,
            "units": self.units,
            "n_units": found.n_units,
        }
