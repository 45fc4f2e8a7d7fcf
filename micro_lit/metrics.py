"""Metrics of preference predictions, as sums and counts: exact over batches of any size and over devices.

Everything is computed from one number a pair, the log-probability that the chosen response is preferred.

Dimension letters: B pairs in the batch, C cells of a breakdown, K heads, G groups, F reference predictors, P pairs that
raters share.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torchmetrics import Metric

from micro_lit.floors import raters
from micro_lit.likelihood import WINNER

NUM_BINS = 15
USED_WEIGHT, SAME_CORRELATION = 0.01, 0.95
# A head is dead whose mean weight is below this share of an equal one.
DEAD_SHARE = 0.1
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


class WeightMetrics(Metric):
    """How K heads share the weight, over the data and in each example."""

    full_state_update = False

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        for name, shape in (("count", ()), ("weight", (num_heads,)), ("entropy", ())):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_weights_BK: Float[Tensor, "B K"]) -> None:
        log_weights_BK = log_weights_BK.double()
        weights_BK = log_weights_BK.exp()
        self.count += len(weights_BK)
        self.weight += weights_BK.sum(dim=0)
        self.entropy -= (weights_BK * log_weights_BK).sum()

    def compute(self) -> dict[str, Any]:
        """Plain JSON types, in the order of the heads.

        mean_weight; effective: exp of the entropy of the mean weights, from 1 to K; entropy_of_mean: that entropy, in
        nats, low when a gate has collapsed to few heads; entropy_per_example: mean entropy of one row's weights, in
        nats, high when the gate does not choose; dead: heads with a mean weight below a tenth of 1/K.
        """
        mean_weight_K = self.weight / self.count
        entropy = torch.special.entr(mean_weight_K).sum()
        return {
            "mean_weight": mean_weight_K.tolist(),
            "effective": float(entropy.exp()),
            "entropy_of_mean": float(entropy),
            "entropy_per_example": float(self.entropy / self.count),
            "dead": (mean_weight_K < DEAD_SHARE / len(mean_weight_K)).nonzero()[:, 0].tolist(),
        }


class HeadMetrics(WeightMetrics):
    """How K heads share the work: weights, agreement, and the loss of each head on each group of raters.

    Rows whose group is unknown (-1) count for weights and agreement, not for the groups.
    """

    def __init__(self, num_heads: int, num_groups: int = 0) -> None:
        super().__init__(num_heads)
        for name, shape in (
            ("margin_products", (num_heads, num_heads)),
            ("group_count", (num_groups,)),
            ("group_nll", (num_groups, num_heads)),
            ("group_nll_squares", (num_groups, num_heads)),
            ("group_posterior", (num_groups, num_heads)),
        ):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        margins_BK: Float[Tensor, "B K"],
        log_weights_BK: Float[Tensor, "B K"],
        log_posterior_BK: Float[Tensor, "B K"],
        group_B: Int64[Tensor, " B"],
    ) -> None:
        super().update(log_weights_BK)
        margins_BK = margins_BK.double()
        self.margin_products += margins_BK.T @ margins_BK
        known_B = group_B >= 0
        group_B = group_B[known_B]
        nll_BK = -WINNER.log_prob(margins_BK[known_B])
        self.group_count.index_add_(0, group_B, torch.ones_like(nll_BK[:, 0]))
        self.group_nll.index_add_(0, group_B, nll_BK)
        self.group_nll_squares.index_add_(0, group_B, nll_BK**2)
        self.group_posterior.index_add_(0, group_B, log_posterior_BK[known_B].double().exp())

    def compute(self) -> dict[str, Any]:
        """What `WeightMetrics` says, and more, in the order of the heads and groups.

        distinct: how many heads have a weight of at least 1 % (with many heads, a tenth of 1/K), those that say the
        same (margins correlated above .95) counted once; margin_correlation [K, K]; and, when groups are known,
        `recovery`: see there.
        """
        result = super().compute()
        # About zero, not about the mean: the order (chosen, rejected) fixes the sign, and a shared bias is agreement.
        scale_K = self.margin_products.diagonal().sqrt().clamp(min=1e-12)
        correlation_KK = self.margin_products / scale_K[:, None] / scale_K
        used_K = self.weight / self.count >= min(USED_WEIGHT, DEAD_SHARE / len(scale_K))
        same_KK = (correlation_KK[used_K][:, used_K] > SAME_CORRELATION).cpu().numpy()
        result |= {
            "distinct": int(connected_components(same_KK, directed=False)[0]),
            "margin_correlation": correlation_KK.tolist(),
        }
        return {**result, **({"recovery": self._recovery()} if self.group_count.sum() else {})}

    def _recovery(self) -> dict[str, Any]:
        """Planted groups against heads.

        matching: for each group the head that stands for it in the one-to-one assignment with the least total loss,
            or -1 when there are fewer heads than groups. best_head: for each group the head with the least loss on its
            rows, chosen on these very rows. oracle_nll: the loss when every row is judged by its group's best head;
            an oracle, since it knows groups and test labels. posterior [G, K]: mean posterior weight of each head on
            the rows of each group.
        """
        from scipy.optimize import linear_sum_assignment

        seen_G = self.group_count.clamp(min=1)
        nll_GK = self.group_nll / seen_G[:, None]
        group, head = linear_sum_assignment(nll_GK.cpu().numpy())
        matching = dict(zip(group.tolist(), head.tolist(), strict=True))
        best_G = nll_GK.argmin(dim=1)
        rows_G = torch.arange(len(best_G), device=best_G.device)
        return {
            "matching": [matching.get(number, -1) for number in range(len(seen_G))],
            "best_head": best_G.tolist(),
            "oracle_nll": estimate(
                self.group_nll[rows_G, best_G].sum(),
                self.group_nll_squares[rows_G, best_G].sum(),
                self.group_count.sum(),
            ),
            "nll": nll_GK.tolist(),
            "posterior": (self.group_posterior / seen_G[:, None]).tolist(),
        }


class CategoryMetrics(Metric):
    """Whether experts are specialists: the head on top of each row, against the category that the row is of.

    The head on top has the largest weight, by the gate alone: no label has a say. Rows of no known category (-1) are
    left out.
    """

    full_state_update = False

    def __init__(self, num_heads: int, num_categories: int) -> None:
        super().__init__()
        # Rows, and pairs that a head alone judges right, a tie counting one half.
        self.add_state("top", torch.zeros(num_categories, num_heads, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("right", torch.zeros(num_categories, num_heads, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        margins_BK: Float[Tensor, "B K"],
        log_weights_BK: Float[Tensor, "B K"],
        category_B: Int64[Tensor, " B"],
    ) -> None:
        known_B = category_B >= 0
        category_B, margins_BK = category_B[known_B], margins_BK[known_B].double()
        num_heads = margins_BK.shape[1]
        top_BK = torch.nn.functional.one_hot(log_weights_BK[known_B].argmax(dim=1), num_heads)
        log_prob_N = WINNER.log_prob(margins_BK).flatten()
        right_BK = scores(log_prob_N)[:, SCORES.index("accuracy")].view(-1, num_heads)
        self.top.index_add_(0, category_B, top_BK)
        self.right.index_add_(0, category_B, right_BK)

    def compute(self) -> dict[str, Any]:
        """Plain JSON types; empty unless there are rows of two categories.

        top [C, K]: rows of each category on which each head is on top. purity: share of the rows whose head on top has
        most of its rows in their category; nmi: mutual information of category and head on top, over the mean of their
        entropies; ari: the adjusted Rand index of both, 0 on average for heads drawn by chance, 1 where each category
        has a head of its own. specialisation: for each head that is ever on top the category of most such rows, the
        accuracy of the head alone on all rows of that category (inside) and of the others (outside), and on how many
        rows it is on top (n).
        """
        if (self.top.sum(dim=1) > 0).sum() < 2:
            return {}
        top_CK = self.top.double()
        rows_C, rows_K, rows = top_CK.sum(dim=1), top_CK.sum(dim=0), top_CK.sum()
        entropy_C, entropy_K, entropy_CK = (
            float(torch.special.entr(count / rows).sum()) for count in (rows_C, rows_K, top_CK)
        )
        # Pairs of rows that share their category, their head, and both.
        pairs_C, pairs_K, pairs_CK = (float((count * (count - 1) / 2).sum()) for count in (rows_C, rows_K, top_CK))
        by_chance = pairs_C * pairs_K / float(rows * (rows - 1) / 2)
        return {
            "purity": float(top_CK.amax(dim=0).sum() / rows),
            "nmi": 2 * max(0.0, entropy_C + entropy_K - entropy_CK) / (entropy_C + entropy_K),
            "ari": (pairs_CK - by_chance) / most if (most := (pairs_C + pairs_K) / 2 - by_chance) else 1.0,
            "top": self.top.tolist(),
            "specialisation": [self._specialist(head) for head in rows_K.nonzero()[:, 0].tolist()],
        }

    def _specialist(self, head: int) -> dict[str, Any]:
        rows_C, right_C = self.top.sum(dim=1), self.right[:, head]
        category = int(self.top[:, head].argmax())
        rows, right = rows_C[category], right_C[category]
        return {
            "head": head,
            "category": category,
            "inside": float(right / rows),
            "outside": float((right_C.sum() - right) / (rows_C.sum() - rows)),
            "n": int(self.top[:, head].sum()),
        }


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


class RaterMetrics(Metric):
    """A model's scores beside the floor of the raters themselves, on rows whose pair at least two of them judged.

    num_pairs: how many codes of pairs there are. Rows with code -1 have no say.
    """

    full_state_update = False

    def __init__(self, num_pairs: int) -> None:
        super().__init__()
        # Losses and wins of the first response; sums of `SCORES`.
        self.add_state("votes", torch.zeros(num_pairs, 2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("scores", torch.zeros(num_pairs, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, log_prob_B: Float[Tensor, " B"], pair_B: Int64[Tensor, " B"], first_wins_B: Bool[Tensor, " B"]
    ) -> None:
        known_B = pair_B >= 0
        log_prob_B, pair_B, first_wins_B = log_prob_B[known_B].double(), pair_B[known_B], first_wins_B[known_B]
        self.scores.index_add_(0, pair_B, scores(log_prob_B))
        self.votes.index_add_(0, pair_B, torch.nn.functional.one_hot(first_wins_B.long(), 2))

    def compute(self) -> dict[str, Any]:
        """Plain JSON types; empty when no pair was judged twice, or raters were not drawn alike (`raters.contrary`).

        rows, pairs: how many there are. For nll, accuracy and brier: `model`, what the model scores there, and
        `floors`: what no predictor that does not know the person passes (for brier its unbiased estimate, else bounds
        and, for nll, a corrected plug-in). brier.excess: how far the model is above the floor, pairs as the units.
        """
        votes_P2, scores_P3 = self.votes.cpu().numpy(), self.scores.cpu().numpy()
        shared_P = votes_P2.sum(axis=1) >= 2
        if not shared_P.any():
            return {}
        votes_P2, scores_P3 = votes_P2[shared_P], scores_P3[shared_P]
        count_P = votes_P2.sum(axis=1)
        rows = int(count_P.sum())
        terms = raters.floor_terms(votes_P2[:, 1], votes_P2[:, 0])
        if raters.contrary(raters.weighted_mean(terms["agreement"], count_P).value, len(count_P)):
            return {}
        floors = {name: _facts(raters.weighted_mean(terms_P, count_P), rows) for name, terms_P in terms.items()}
        result: dict[str, Any] = {"rows": rows, "pairs": len(count_P), "agreement": floors["agreement"]}
        for column, name in enumerate(SCORES):
            own = {floor.removeprefix(f"{name}_"): facts for floor, facts in floors.items() if floor.startswith(name)}
            model = raters.weighted_mean(scores_P3[:, column] / count_P, count_P)
            result[name] = {"model": _facts(model, rows), "floors": own}
        excess = raters.excess(scores_P3[:, SCORES.index("brier")], terms["brier"], count_P)
        result["brier"]["excess"] = _facts(excess, rows)
        return result


def _facts(mean: raters.Estimate, n: int) -> Estimate:
    return {"value": mean.value, "se": mean.se, "n": n}


def bernoulli_divergence(log_p_B: Float[Tensor, " B"], log_q_B: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """KL(p ‖ q) of two coins, in nats, from the logs of their probabilities of heads."""
    # A sum of float32 probabilities may round to 1 and above, where tails would have no probability at all.
    log_p_B, log_q_B = (log_B.clamp(max=-(2.0**-24)) for log_B in (log_p_B, log_q_B))
    other_p_B, other_q_B = -torch.expm1(log_p_B), -torch.expm1(log_q_B)
    tails_B = torch.special.xlogy(other_p_B, other_p_B / other_q_B)
    return log_p_B.exp() * (log_p_B - log_q_B) + tails_B
