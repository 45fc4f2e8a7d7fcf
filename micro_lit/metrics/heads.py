"""Metrics of heads: their weights, their correlation, and their match with groups of raters and categories of rows.

Dimension letters: B pairs in the batch, K heads, G groups, C categories.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from micro_lit.likelihood import WINNER
from micro_lit.metrics.contract import SCORES, scores
from micro_lit.metrics.sums import Float64, estimate

USED_WEIGHT, SAME_CORRELATION = 0.01, 0.95
# A head is dead if its mean weight is below this fraction of 1/K.
DEAD_SHARE = 0.1


class WeightMetrics(Float64):
    """Distribution of weight over K heads, for the data as a whole and per example."""

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
        nats, low if a gate has collapsed to few heads; entropy_per_example: mean entropy of a row's weights, in nats,
        high if the weights of single rows are near-equal; dead: heads with a mean weight below a tenth of 1/K.
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
    """Metrics of K heads: weights, correlation, and the loss of each head on each group of raters.

    Rows of unknown group (-1) count for weights and correlation, but not for the groups.
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
        """The results of `WeightMetrics` plus the following, in the order of the heads and groups.

        distinct: number of heads with a weight of at least 1 % (with many heads, a tenth of 1/K), where heads with
        margins correlated above .95 count once; margin_correlation [K, K]; and, if groups are known, `recovery`, see
        `_recovery`.
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
        """Match of planted groups and heads.

        matching: for each group its head in the one-to-one assignment of least total loss, or -1 if there are fewer
            heads than groups. best_head: for each group the head of least loss on its rows, selected on these same
            rows. oracle_nll: the loss if every row is scored by its group's best head; an oracle, since it uses groups
            and test labels. posterior [G, K]: mean posterior weight of each head on the rows of each group.
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


class CategoryMetrics(Float64):
    """Specialisation of experts: the top head of each row compared with the row's category.

    The top head has the largest weight of the gate; labels are not used. Rows of unknown category (-1) are excluded.
    """

    full_state_update = False

    def __init__(self, num_heads: int, num_categories: int) -> None:
        super().__init__()
        # Number of rows, and of rows that each head alone predicts correctly, a tie counting one half.
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
        """Plain JSON types; empty unless there are rows of at least two categories.

        top [C, K]: rows of each category with each top head. purity: fraction of the rows whose category is the most
        frequent one of their top head; nmi: mutual information of category and top head, divided by the mean of their
        entropies; ari: adjusted Rand index of both, 0 on average for random heads, 1 if each category has its own
        head. specialisation: for each head that is a top head, its most frequent category, the accuracy of the head
        alone on all rows of that category (inside) and on the others (outside), and the number of rows of which it is
        the top head (n).
        """
        if (self.top.sum(dim=1) > 0).sum() < 2:
            return {}
        top_CK = self.top.double()
        rows_C, rows_K, rows = top_CK.sum(dim=1), top_CK.sum(dim=0), top_CK.sum()
        entropy_C, entropy_K, entropy_CK = (
            float(torch.special.entr(count / rows).sum()) for count in (rows_C, rows_K, top_CK)
        )
        # Numbers of pairs of rows with the same category, the same head, and both.
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
