"""A model's scores compared with the floor estimated from repeated raters.

Dimension letters: B pairs in the batch, P pairs that raters share.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from micro_lit.floors import raters
from micro_lit.metrics.contract import SCORES, scores
from micro_lit.metrics.sums import Estimate, Float64


class RaterMetrics(Float64):
    """A model's scores and the raters' floor, on rows whose pair at least two raters judged.

    Args:
        num_pairs: number of codes of pairs, P. Rows with code -1 are ignored.
    """

    full_state_update = False

    def __init__(self, num_pairs: int) -> None:
        super().__init__()
        # votes: losses and wins of the first response. scores: sums of `SCORES`.
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
        """Plain JSON types; empty if no pair was judged twice, or raters disagree more than chance (`raters.contrary`).

        rows, pairs: their numbers. For nll, accuracy and brier: `model`, the model's score on these rows, and `floors`:
        the best score of any predictor that does not know the person (for brier an unbiased estimate, else bounds and,
        for nll, a corrected plug-in estimate). brier.excess: the model's score minus the floor, clustered by pair.
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


def _facts(mean: raters.FloorEstimate, n: int) -> Estimate:
    return {"value": mean.value, "se": mean.se, "n": n}
