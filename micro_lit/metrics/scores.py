"""Scores of log-probabilities: of a model, and of a model above reference predictors.

Dimension letters: B pairs in the batch, C cells of a breakdown, F reference predictors.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric

NUM_BINS = 15
TIE = 1e-6

Estimate = dict[str, float]


def estimate(total: Tensor, total_of_squares: Tensor, count: Tensor) -> Estimate:
    """Mean, its standard error and n, from sums; the standard error treats rows as independent."""
    n = int(count)
    mean = float(total) / n
    variance = max(0.0, float(total_of_squares) / n - mean**2) * n / max(n - 1, 1)
    return {"value": mean, "se": math.sqrt(variance / n), "n": n}


SCORES = ("nll", "accuracy", "brier")


def scores(log_prob_B: Float[Tensor, " B"]) -> Float[Tensor, "B 3"]:
    """The three scores of `SCORES` for each row."""
    probability_B = log_prob_B.exp()
    correct_B = (probability_B > 0.5).to(log_prob_B.dtype)
    correct_B[(probability_B - 0.5).abs() < TIE] = 0.5
    return torch.stack([-log_prob_B, correct_B, (1.0 - probability_B) ** 2], dim=1)


class PreferenceMetrics(Metric):
    """NLL (nats), accuracy (a tie counts one half), Brier score and calibration error, per cell of a breakdown.

    num_cells: how many values the breakdown has; rows with cell -1 are in none of them.
    """

    full_state_update = False
    higher_is_better = False

    def __init__(self, num_cells: int = 1) -> None:
        super().__init__()
        for name, shape in (
            ("count", (num_cells,)),
            ("totals", (num_cells, 3)),
            ("squares", (num_cells, 3)),
            # Per bin of confidence: rows, confidence, correctness.
            ("bins", (num_cells * NUM_BINS, 3)),
        ):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_prob_B: Float[Tensor, " B"], cell_B: Int64[Tensor, " B"] | None = None) -> None:
        if cell_B is None:
            cell_B = torch.zeros(len(log_prob_B), dtype=torch.int64, device=log_prob_B.device)
        known_B = cell_B >= 0
        log_prob_B, cell_B = log_prob_B[known_B].double(), cell_B[known_B]
        probability_B = log_prob_B.exp()
        scores_B3 = scores(log_prob_B)
        self.count.index_add_(0, cell_B, torch.ones_like(log_prob_B))
        self.totals.index_add_(0, cell_B, scores_B3)
        self.squares.index_add_(0, cell_B, scores_B3**2)
        # The label is always "chosen", so confidence in the predicted side is what can be calibrated.
        confidence_B = torch.maximum(probability_B, 1.0 - probability_B)
        bin_B = ((confidence_B - 0.5) * 2 * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        binned_B3 = torch.stack([torch.ones_like(log_prob_B), confidence_B, scores_B3[:, 1]], dim=1)
        self.bins.index_add_(0, cell_B * NUM_BINS + bin_B, binned_B3)

    def compute(self) -> list[dict[str, Estimate]]:
        """For each cell {nll, accuracy, brier, ece}; an empty dict for a cell without rows."""
        return [self._cell(cell) if self.count[cell] else {} for cell in range(len(self.count))]

    def _cell(self, cell: int) -> dict[str, Estimate]:
        count = self.count[cell]
        result = {
            name: estimate(self.totals[cell, column], self.squares[cell, column], count)
            for column, name in enumerate(SCORES)
        }
        bins_3 = self.bins[cell * NUM_BINS : (cell + 1) * NUM_BINS]
        ece = float((bins_3[:, 1] - bins_3[:, 2]).abs().sum() / count)
        return {**result, "ece": {"value": ece, "n": int(count)}}


class ExcessMetrics(Metric):
    """Loss above reference predictors on the same rows, in nats: what both owe to the luck of the labels cancels.

    bayes: column of the reference that knows all that the data show. A model's excess risk is its expected loss above
        that one; the label is integrated out, so that even millionths of a nat are seen.
    """

    full_state_update = False

    def __init__(self, num_references: int, bayes: int) -> None:
        super().__init__()
        self.bayes = bayes
        for name, shape in (("count", ()), ("totals", (num_references + 1,)), ("squares", (num_references + 1,))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_prob_B: Float[Tensor, " B"], reference_log_probs_BF: Float[Tensor, "B F"]) -> None:
        log_prob_B, reference_log_probs_BF = log_prob_B.double(), reference_log_probs_BF.double()
        excess_BF = reference_log_probs_BF - log_prob_B[:, None]
        risk_B = bernoulli_divergence(reference_log_probs_BF[:, self.bayes], log_prob_B)
        terms_BF = torch.cat([excess_BF, risk_B[:, None]], dim=1)
        self.count += len(log_prob_B)
        self.totals += terms_BF.sum(dim=0)
        self.squares += terms_BF.square().sum(dim=0)

    def compute(self) -> tuple[list[Estimate], Estimate]:
        """The excess over each reference, and the excess risk."""
        *excess, risk = (
            estimate(total, square, self.count) for total, square in zip(self.totals, self.squares, strict=True)
        )
        return excess, risk


def bernoulli_divergence(log_p_B: Float[Tensor, " B"], log_q_B: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """KL(p ‖ q) of two coins, in nats, from the logs of their probabilities of heads."""
    # A sum of float32 probabilities may round to 1 and above, where tails would have no probability at all.
    log_p_B, log_q_B = (log_B.clamp(max=-(2.0**-24)) for log_B in (log_p_B, log_q_B))
    other_p_B, other_q_B = -torch.expm1(log_p_B), -torch.expm1(log_q_B)
    tails_B = torch.special.xlogy(other_p_B, other_p_B / other_q_B)
    return log_p_B.exp() * (log_p_B - log_q_B) + tails_B
