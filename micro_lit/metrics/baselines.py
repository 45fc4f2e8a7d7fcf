"""Baselines without a model: predictions from response lengths, other raters' choices, or the order of presentation.

Dimension letters: B pairs in the batch, N pairs, M distinct texts, P distinct pairs of responses, Q the same with their
contexts, S baselines.
"""

from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from micro_lit.data.pairs import Pairs, PreferenceData
from micro_lit.metrics import ROWS, SCORES, Units, UnitSums, scores

LONGER, MAJORITY_BASELINE, FIRST = "longer", "majority", "first"

CHANCE = 0.5


class Baselines:
    """Predictions of the baselines on pairs of one data set.

    longer: the response with more characters wins; equal lengths predict 1/2. Only for text responses.
    majority: the response preferred by most training raters of the same two responses in the same context (including
        its criterion) wins; without such raters, or with a tie, the prediction is 1/2.
    first: the response shown first wins. Only if the data give an order of presentation for any test row.

    Args:
        data: the data set.
        training: pairs whose labels count for the majority. A rater's second label of a pair does not count.
    """

    def __init__(self, data: PreferenceData, training: Pairs) -> None:
        self.length_M = None if data.is_vectors else torch.tensor([len(text.response or "") for text in data.texts])
        self.majority = Majority(training, len(data.texts), named=bool(data.names.get("pair_id")))
        shown_first = bool((data.pairs.first_shown_N[data.splits["test"]] >= 0).any())
        self.names = [
            *([] if self.length_M is None else [LONGER]),
            MAJORITY_BASELINE,
            *([FIRST] if shown_first else []),
        ]

    def correct(self, pairs: Pairs) -> Float64[Tensor, "B S"]:
        """1 where a baseline predicts the label, 0 where it does not, 1/2 without preference, NaN without prediction.

        Args:
            pairs: pairs on the CPU, of the same texts.
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

    Args:
        pairs: training pairs.
        num_texts: M.
        named: whether the data have a pair_id; then rows without one are repeated labels of a rater, and are skipped.
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
        """Number of raters who chose the chosen response minus those who chose the rejected one; 0 without raters."""
        votes_B = _find_texts(self.key_Q, self.votes_Q, self._key(pairs), 0)
        return torch.where(pairs.first_wins_N, votes_B, -votes_B)

    def _key(self, pairs: Pairs) -> Int64[Tensor, " N"]:
        """A number for context and unordered pair; -1 for a pair that is not in `pair_P`."""
        # In two steps: M³, for three texts at once, would overflow 64 bits.
        place_N = _find_texts(self.pair_P, torch.arange(len(self.pair_P)), _pair(pairs, self.num_texts), -1)
        return torch.where(place_N >= 0, place_N * self.num_texts + pairs.context_N, -1)


def _pair(pairs: Pairs, num_texts: int) -> Int64[Tensor, " N"]:
    """A number for the two responses of a pair, independent of their order."""
    low_N, high_N = torch.minimum(pairs.chosen_N, pairs.rejected_N), torch.maximum(pairs.chosen_N, pairs.rejected_N)
    return low_N * num_texts + high_N


def _find_texts(
    keys_Q: Int64[Tensor, " Q"], values_Q: Int64[Tensor, " Q"], wanted_N: Int64[Tensor, " N"], missing: int
) -> Int64[Tensor, " N"]:
    """The value of each wanted key, by binary search in sorted keys; `missing` for absent keys."""
    if not len(keys_Q):
        return torch.full_like(wanted_N, missing)
    place_N = torch.searchsorted(keys_Q, wanted_N).clamp(max=len(keys_Q) - 1)
    return torch.where(keys_Q[place_N] == wanted_N, values_Q[place_N], missing)


class BaselineMetrics(UnitSums):
    """Accuracy of the baselines, and the model's accuracy minus that of each baseline on the same rows."""

    def __init__(self, baselines: Baselines, units: Units = ROWS) -> None:
        # Columns: correctness of each baseline, then the model's correctness minus that of each baseline.
        super().__init__(2 * len(baselines.names), units)
        self.baselines = baselines
        # Number of rows on which a baseline predicts something else than 1/2.
        self.add_state("known", torch.zeros(len(baselines.names), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_prob_B: Float[Tensor, " B"], pairs: Any) -> None:
        correct_BS = self.baselines.correct(pairs.to(torch.device("cpu"))).to(log_prob_B.device)
        model_B = scores(log_prob_B.double())[:, SCORES.index("accuracy")]
        given_BS = ~correct_BS.isnan()
        terms_BS = torch.cat([correct_BS, model_B[:, None] - correct_BS], dim=1).nan_to_num(0.0)
        self.add(terms_BS, torch.cat([given_BS, given_BS], dim=1).double(), pairs)
        self.known += (given_BS & (correct_BS != CHANCE)).sum(dim=0)

    def compute(self) -> dict[str, dict[str, Any]]:
        """An estimate (`UnitSums.estimate`) per baseline, as plain JSON types; baselines without rows are omitted.

        value: accuracy of the baseline. n: rows for which it has a prediction. difference: accuracy of the model on
        these rows minus that of the baseline, also an estimate. majority.known: fraction of the rows whose prediction
        is not 1/2.
        """
        found: dict[str, dict[str, Any]] = {}
        for row, name in enumerate(self.baselines.names):
            count = self.sums[0, row, 0]
            if not count:
                continue
            difference = self.estimate(len(self.baselines.names) + row)
            found[name] = {**self.estimate(row, proportion=True), "difference": difference}
            if name == MAJORITY_BASELINE:
                found[name]["known"] = float(self.known[row] / count)
        return found
