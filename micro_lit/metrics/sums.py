"""Sums and counts over rows and over units, for means and their intervals: exact over batches and devices.

Dimension letters: B rows of the batch, C cells of a breakdown, S quantities, U units, Q pairs of a cell and a unit.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchmetrics
from jaxtyping import Float, Int64
from torch import Tensor

from micro_lit.metrics.intervals import Singles, clustered
from micro_lit.metrics.units import ROWS, Units

Estimate = dict[str, Any]


def estimate(total: Tensor, total_of_squares: Tensor, count: Tensor) -> Estimate:
    """Mean, its standard error and n, from sums; the standard error treats rows as independent."""
    n = int(count)
    mean = float(total) / n
    variance = max(0.0, float(total_of_squares) / n - mean**2) * n / max(n - 1, 1)
    return {"value": mean, "se": math.sqrt(variance / n), "n": n}


class Float64(torchmetrics.Metric):
    """A metric that keeps its sums in float64 when a Trainer converts the model to another dtype (FSDP, bf16-true)."""

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> "Float64":
        names = [name for name, state in self._defaults.items() if state.dtype == torch.float64]
        super()._apply(fn, exclude_state)
        for name in names:
            self._defaults[name] = self._defaults[name].double()
            setattr(self, name, getattr(self, name).double())
        return self


class UnitSums(Float64):
    """Means of S quantities of each row, in each cell, with standard errors over rows and over units.

    Memory is linear in the number of units and of their cells: rows are added to sums and not stored.

    Args:
        num_quantities: S.
        units: independent units of the rows.
        num_cells: C, number of values of the breakdown.
        column: label column of the breakdown, which limits the cells of each unit; None: any unit may be in any cell.
    """

    full_state_update = False

    def __init__(self, num_quantities: int, units: Units = ROWS, num_cells: int = 1, column: str | None = None) -> None:
        super().__init__()
        self.units = units
        keys_Q = units.keys(column) if units.size and column is not None else torch.empty(0, dtype=torch.int64)
        self.register_buffer("keys_Q", keys_Q, persistent=False)
        size = len(keys_Q) if column is not None else num_cells * units.size
        # Count, total, total of squares: of all rows, and of rows that are single-row units; of units no squares.
        for name, shape in (
            ("sums", (num_cells, num_quantities, 3)),
            ("single_sums", (num_cells, num_quantities, 3)),
            ("unit_sums", (size, num_quantities, 2)),
        ):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def add(
        self,
        values_BS: Float[Tensor, "B S"],
        counts_BS: Float[Tensor, "B S"],
        pairs: Any,
        cell_B: Int64[Tensor, " B"] | None = None,
    ) -> None:
        """Adds rows. counts_BS: 1 where a row counts for a quantity, else 0. pairs: required if there are units."""
        if cell_B is None:
            cell_B = torch.zeros(len(values_BS), dtype=torch.int64, device=values_BS.device)
        terms_BS3 = torch.stack([counts_BS, values_BS * counts_BS, values_BS**2 * counts_BS], dim=2)
        self.sums.index_add_(0, cell_B, terms_BS3)
        if not self.units.size:
            self.single_sums.copy_(self.sums)
            return
        unit_B = self.units.code(pairs)
        alone_B = unit_B < 0
        self.single_sums.index_add_(0, cell_B[alone_B], terms_BS3[alone_B])
        key_B = (cell_B * self.units.size + unit_B)[~alone_B]
        if len(self.keys_Q):
            place_B = torch.searchsorted(self.keys_Q, key_B).clamp(max=len(self.keys_Q) - 1)
            assert (self.keys_Q[place_B] == key_B).all(), "rows of other units than those of the test"
            key_B = place_B
        self.unit_sums.index_add_(0, key_B, terms_BS3[~alone_B, :, :2])

    def estimate(self, quantity: int, cell: int = 0, proportion: bool = False) -> Estimate:
        """The mean of a quantity over the rows of a cell with at least one row.

        Returns: {value, se, n}, as if rows were independent; se_units, the standard error over units; units, their
            kind, and n_units, their number; low and high, the 95 % interval over units (`intervals.clustered`). With a
            single unit, se_units, low and high are missing.
        """
        count, total, squares = self.sums[cell, quantity]
        result = estimate(total, squares, count)
        ones, ones_total, ones_squares = self.single_sums[cell, quantity].tolist()
        first, last = self._slice(cell)
        counts_U, sums_U = self.unit_sums[first:last, quantity].T.cpu().numpy()
        singles = Singles(int(ones), ones_total, ones_squares)
        found = clustered(sums_U, counts_U, float(squares) - ones_squares, singles, proportion)
        result |= {"units": self.units.name, "n_units": found.n_units}
        return result | ({"se_units": found.se, "low": found.low, "high": found.high} if found.n_units > 1 else {})

    def _slice(self, cell: int) -> tuple[int, int]:
        """Start and end of the sums of a cell's units."""
        bounds = [cell * self.units.size, (cell + 1) * self.units.size]
        if len(self.keys_Q):
            bounds = torch.searchsorted(self.keys_Q, torch.tensor(bounds, device=self.keys_Q.device)).tolist()
        return bounds[0], bounds[1]
