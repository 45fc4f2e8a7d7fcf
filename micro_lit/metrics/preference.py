"""Metrics of log-probabilities: of a model alone, and relative to reference predictors.

Dimension letters: B pairs in the batch, C cells of a breakdown, F reference predictors, S metrics.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from micro_lit.likelihood import WINNER
from micro_lit.metrics.contract import BUILT_IN, SCORES, values
from micro_lit.metrics.sums import Estimate, UnitSums
from micro_lit.metrics.units import ROWS, Units

NUM_BINS = 15


class PreferenceMetrics(UnitSums):
    """The mean of each metric and the expected calibration error, per cell of a breakdown.

    Args:
        num_cells: number of values of the breakdown; rows with cell -1 belong to none.
        metrics: metrics, the built-in ones first.
        units: see `UnitSums`.
        column: see `UnitSums`.
    """

    higher_is_better = False

    def __init__(
        self,
        num_cells: int = 1,
        metrics: Sequence[Any] = BUILT_IN,
        units: Units = ROWS,
        column: str | None = None,
    ) -> None:
        super().__init__(len(metrics), units, num_cells, column)
        self.metrics = tuple(metrics)
        # Per confidence bin: number of rows, sum of confidence, sum of correctness.
        self.add_state("bins", torch.zeros(num_cells * NUM_BINS, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, log_prob_B: Float[Tensor, " B"], pairs: Any = None, cell_B: Int64[Tensor, " B"] | None = None
    ) -> None:
        """Adds rows. pairs: the batch; required by units and by metrics that read it."""
        if cell_B is None:
            cell_B = torch.zeros(len(log_prob_B), dtype=torch.int64, device=log_prob_B.device)
        known_B = cell_B >= 0
        if not known_B.all():
            rows = known_B.nonzero()[:, 0]
            log_prob_B, cell_B = log_prob_B[rows], cell_B[rows]
            pairs = pairs if pairs is None else pairs[rows]
        values_BS, counts_BS = values(self.metrics, log_prob_B, pairs)
        self.add(values_BS, counts_BS, pairs, cell_B)
        probability_B = log_prob_B.double().exp()
        # The label is always "chosen", so only the confidence in the predicted response can be calibrated.
        confidence_B = torch.maximum(probability_B, 1.0 - probability_B)
        bin_B = ((confidence_B - 0.5) * 2 * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        correct_B = values_BS[:, SCORES.index("accuracy")]
        binned_B3 = torch.stack([torch.ones_like(correct_B), confidence_B, correct_B], dim=1)
        self.bins.index_add_(0, cell_B * NUM_BINS + bin_B, binned_B3)

    def compute(self) -> list[dict[str, Estimate]]:
        """{nll, accuracy, brier, ece} and custom metrics for each cell; an empty dict for a cell without rows."""
        return [self._cell(cell) if self.sums[cell, 0, 0] else {} for cell in range(len(self.sums))]

    def _cell(self, cell: int) -> dict[str, Estimate]:
        counted = {column: metric for column, metric in enumerate(self.metrics) if self.sums[cell, column, 0]}
        result = {metric.name: self.estimate(column, cell, metric.proportion) for column, metric in counted.items()}
        count = self.sums[cell, 0, 0]
        bins_3 = self.bins[cell * NUM_BINS : (cell + 1) * NUM_BINS]
        ece = float((bins_3[:, 1] - bins_3[:, 2]).abs().sum() / count)
        return {**result, "ece": {"value": ece, "n": int(count)}}


class ExcessMetrics(UnitSums):
    """Loss minus that of reference predictors on the same rows, in nats: noise of the labels common to both cancels.

    Args:
        num_references: F.
        bayes: column of the reference that knows everything the data contain (the Bayes predictor). A model's excess
            risk is its expected loss minus that of this reference; the label is integrated out, so that differences of
            millionths of a nat are visible.
        units: see `UnitSums`.
    """

    def __init__(self, num_references: int, bayes: int, units: Units = ROWS) -> None:
        super().__init__(num_references + 1, units)
        self.bayes = bayes

    def update(
        self, log_prob_B: Float[Tensor, " B"], reference_log_probs_BF: Float[Tensor, "B F"], pairs: Any = None
    ) -> None:
        log_prob_B, reference_log_probs_BF = log_prob_B.double(), reference_log_probs_BF.double()
        excess_BF = reference_log_probs_BF - log_prob_B[:, None]
        risk_B = bernoulli_divergence(reference_log_probs_BF[:, self.bayes], log_prob_B)
        terms_BS = torch.cat([excess_BF, risk_B[:, None]], dim=1)
        self.add(terms_BS, torch.ones_like(terms_BS), pairs)

    def compute(self) -> tuple[list[Estimate], Estimate]:
        """The excess loss over each reference, and the excess risk."""
        *excess, risk = (self.estimate(column) for column in range(self.sums.shape[1]))
        return excess, risk


class MixedRewardMetrics(UnitSums):
    """The mixed reward Σ_k w_k r_k beside the preference of a mixture, Σ_k w_k σ(Δ_k), of which scores are an extract.

    Args:
        units: independent units of the rows.
    """

    def __init__(self, units: Units = ROWS) -> None:
        super().__init__(2, units)

    def update(
        self,
        log_prob_B: Float[Tensor, " B"],
        margins_BK: Float[Tensor, "B K"],
        log_weights_BK: Float[Tensor, "B K"],
        pairs: Any = None,
    ) -> None:
        """Adds rows.

        Args:
            log_prob_B: log-probability of the label by the mixture.
            margins_BK: reward of the chosen minus reward of the rejected response.
            log_weights_BK: log weights of the heads.
            pairs: the batch; required by units.
        """
        log_prob_B = log_prob_B.double()
        margin_B = (log_weights_BK.double().exp() * margins_BK.double()).sum(dim=-1)
        apart_B = (log_prob_B + math.log(2.0)) * margin_B < 0
        terms_BS = torch.stack([-WINNER.log_prob(margin_B), apart_B.double()], dim=1)
        self.add(terms_BS, torch.ones_like(terms_BS), pairs)

    def compute(self) -> dict[str, Estimate]:
        """nll: of σ(Σ_k w_k Δ_k). disagreement: share of rows on which reward and preference choose otherwise."""
        return {"nll": self.estimate(0), "disagreement": self.estimate(1, proportion=True)}


def bernoulli_divergence(log_p_B: Float[Tensor, " B"], log_q_B: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """KL(p ‖ q) of two Bernoulli distributions, in nats, from the logs of their success probabilities."""
    # A sum of float32 probabilities may round to 1 or above; then the other outcome would have probability 0.
    log_p_B, log_q_B = (log_B.clamp(max=-(2.0**-24)) for log_B in (log_p_B, log_q_B))
    other_p_B, other_q_B = -torch.expm1(log_p_B), -torch.expm1(log_q_B)
    tails_B = torch.special.xlogy(other_p_B, other_p_B / other_q_B)
    return log_p_B.exp() * (log_p_B - log_q_B) + tails_B
