"""Baselines that cost nothing: predictions from the lengths of responses, other raters' choices, or the order shown.

Dimension letters: B pairs in the batch, N pairs, M distinct texts, P distinct pairs of responses, Q the same with their
contexts, S baselines.
"""

from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from micro_lit.data.pairs import Pairs, PreferenceData
from micro_lit.metrics import ROWS, SCORES, Units, UnitSums, scores

LONGER, MAJORITY, FIRST = "longer", "majority", "first"

COIN = 0.5


class Baselines:
    """How the baselines judge pairs of one data set.

    longer: the response of more characters wins; equal lengths are a coin. Of data whose responses are texts.
    majority: the response that most training raters of the same two responses in the same context (with its criterion)
        chose wins; a pair without them, and a tie, is a coin.
    first: the response that was shown first wins. Where the data give an order of presentation on any test row.

    Args:
        training: the pairs whose labels count for the majority. A rater's second row about a pair does not count.
    """

    def __init__(self, data: PreferenceData, training: Pairs) -> None:
        self.length_M = None if data.is_vectors else torch.tensor([len(text.response or "") for text in data.texts])
        self.majority = Majority(training, len(data.texts), named=bool(data.names.get("pair_id")))
        shown_first = bool((data.pairs.first_shown_N[data.splits["test"]] >= 0).any())
        self.names = [
            *([] if self.length_M is None else [LONGER]),
            MAJORITY,
            *([FIRST] if shown_first else []),
        ]

    def correct(self, pairs: Pairs) -> Float64[Tensor, "B S"]:
        """1 where a baseline predicts the label, 0 where it does not, 1/2 for a coin, NaN where it has no prediction.

        Args:
            pairs: on the CPU, of the same texts.
        """
        columns = []
        if self.length_M is not None:
            longer_B = self.length_M[pairs.chosen_N] - self.length_M[pairs.rejected_N]
            columns.append((1 + longer_B.sign().double()) / 2)
        columns.append((1 + self.majority.agrees(pairs).sign().double()) / 2)
        if FIRST in self.names:
            columns.append(pairs.first_shown_N.double().where(pairs.first_shown_N >= 0, torch.nan))
        return torch.stack(columns, dim=1)


class Majority:
    """Votes of raters on each pair of responses in its context.

    num_texts: M. named: whether the data name pairs, so that rows without a pair_id are a rater's second ones.
    """

    def __init__(self, pairs: Pairs, num_texts: int, named: bool = True) -> None:
        if named:
            pairs = pairs[(pairs.label_N("pair_id") >= 0).nonzero()[:, 0]]
        self.num_texts = num_texts
        self.pair_P = _pair(pairs, num_texts).unique()
        self.key_Q, place_N = self._key(pairs).unique(return_inverse=True)
        vote_N = torch.where(pairs.first_wins_N, 1, -1)
        self.votes_Q = torch.zeros_like(self.key_Q).index_add_(0, place_N, vote_N)

    def agrees(self, pairs: Pairs) -> Int64[Tensor, " B"]:
        """How many more raters chose the chosen response than the rejected one; 0 where there are none."""
        votes_B = _look_up(self.key_Q, self.votes_Q, self._key(pairs), 0)
        return torch.where(pairs.first_wins_N, votes_B, -votes_B)

    def _key(self, pairs: Pairs) -> Int64[Tensor, " N"]:
        """A number for context and unordered pair; negative for a pair that is not in `pair_P`."""
        # In two steps: M³, for three texts at once, is beyond 64 bits.
        place_N = _look_up(self.pair_P, torch.arange(len(self.pair_P)), _pair(pairs, self.num_texts), -1)
        return torch.where(place_N >= 0, place_N * self.num_texts + pairs.context_N, -1)


def _pair(pairs: Pairs, num_texts: int) -> Int64[Tensor, " N"]:
    """A number for the two responses of a pair, in whichever order."""
    low_N, high_N = torch.minimum(pairs.chosen_N, pairs.rejected_N), torch.maximum(pairs.chosen_N, pairs.rejected_N)
    return low_N * num_texts + high_N


def _look_up(
    keys_Q: Int64[Tensor, " Q"], values_Q: Int64[Tensor, " Q"], wanted_N: Int64[Tensor, " N"], missing: int
) -> Int64[Tensor, " N"]:
    """The value of each key, from sorted keys."""
    if not len(keys_Q):
        return torch.full_like(wanted_N, missing)
    place_N = torch.searchsorted(keys_Q, wanted_N).clamp(max=len(keys_Q) - 1)
    return torch.where(keys_Q[place_N] == wanted_N, values_Q[place_N], missing)


class BaselineMetrics(UnitSums):
    """Accuracy of baselines, and how far a model's accuracy is above each of them on the same rows."""

    def __init__(self, baselines: Baselines, units: Units = ROWS) -> None:
        # Correctness of each baseline, then that of the model less that of each.
        super().__init__(2 * len(baselines.names), units)
        self.baselines = baselines
        # Rows that are no coin.
        self.add_state("known", torch.zeros(len(baselines.names), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_prob_B: Float[Tensor, " B"], pairs: Any) -> None:
        correct_BS = self.baselines.correct(pairs.to(torch.device("cpu"))).to(log_prob_B.device)
        model_B = scores(log_prob_B.double())[:, SCORES.index("accuracy")]
        given_BS = ~correct_BS.isnan()
        terms_BS = torch.cat([correct_BS, model_B[:, None] - correct_BS], dim=1).nan_to_num(0.0)
        self.add(terms_BS, torch.cat([given_BS, given_BS], dim=1).double(), pairs)
        self.known += (given_BS & (correct_BS != COIN)).sum(dim=0)

    def compute(self) -> dict[str, dict[str, Any]]:
        """Plain JSON types, for each baseline an estimate (`UnitSums.estimate`); none for a baseline without rows.

        value: its accuracy. n: the rows on which it has a prediction. difference: the model's accuracy on these rows
        less that of the baseline, an estimate too. majority.known: the share of the rows that are no coin.
        """
        found: dict[str, dict[str, Any]] = {}
        for row, name in enumerate(self.baselines.names):
            count = self.sums[0, row, 0]
            if not count:
                continue
            difference = self.estimate(len(self.baselines.names) + row)
            found[name] = {**self.estimate(row, proportion=True), "difference": difference}
            if name == MAJORITY:
                found[name]["known"] = float(self.known[row] / count)
        return found
