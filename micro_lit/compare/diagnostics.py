"""Diagnostics of users: the error floor on pairs with several raters, and recovery of known groups.

Dimension letters: N test rows, L labels, U users, V users with a known group, R draws, K heads, G groups, T topics, P
pairs with several raters.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from micro_lit.compare.subjects import Labels, Subjects
from micro_lit.data.pairs import PreferenceData
from micro_lit.floors import raters
from micro_lit.likelihood import WINNER, sum_by

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

BAYES = "ORACLE: Bayes"


@dataclass(frozen=True, eq=False)
class RaterFloor:
    """Brier floor and bounds of NLL and accuracy for predictors that do not know the rater.

    Attributes:
        votes: votes on pairs that several of these users judged; rows are indices into the rows of the subjects.
        terms: terms of each pair, see `raters.floor_terms`.
        count_P: number of votes on each pair.
    """

    votes: raters.Votes
    terms: dict[str, Array]
    count_P: Integers

    @classmethod
    def of(cls, data: PreferenceData, subjects: Subjects) -> "RaterFloor | None":
        """Computes the floor; None when no pair has two raters, or raters agree less often than chance."""
        pairs = data.pairs[torch.from_numpy(subjects.row_N)]
        columns = (pairs.label_N("pair_id"), pairs.first_wins_N, pairs.label_N("user_id"))
        try:
            votes = raters.gather(*(column.numpy() for column in columns))
        except ValueError:
            return None
        count_P = np.bincount(votes.pair_N)
        wins_P = np.bincount(votes.pair_N[votes.first_wins_N], minlength=len(count_P))
        terms = raters.floor_terms(wins_P, count_P - wins_P)
        agreement = raters.weighted_mean(terms["agreement"], count_P).value
        return None if raters.contrary(agreement, len(count_P)) else cls(votes, terms, count_P)

    def facts(self) -> dict[str, Any]:
        floors = {name: raters.weighted_mean(terms_P, self.count_P)._asdict() for name, terms_P in self.terms.items()}
        return {"rows": len(self.votes.pair_N), "pairs": len(self.count_P), "floors": floors}

    def compare(self, accuracy_N: Array, brier_N: Array) -> dict[str, dict[str, float]]:
        """Returns accuracy and Brier score of a system on these votes, and its Brier score minus the floor.

        Args:
            accuracy_N, brier_N: scores of the test rows of the subjects.

        Returns:
            `accuracy`, `brier` and `above`, each an estimate with pairs as units.
        """
        accuracy_P, brier_P = (
            np.bincount(self.votes.pair_N, values_N[self.votes.row_N]) for values_N in (accuracy_N, brier_N)
        )
        found = {
            "accuracy": raters.weighted_mean(accuracy_P / self.count_P, self.count_P),
            "brier": raters.weighted_mean(brier_P / self.count_P, self.count_P),
            "above": raters.excess(brier_P, self.terms["brier"], self.count_P),
        }
        return {name: estimate._asdict() for name, estimate in found.items()}


@dataclass(frozen=True, eq=False)
class Groups:
    """Users with a known group: their indices among the subjects, their groups and their sources.

    A group name has a different meaning in each source, so heads are matched with groups within each source. In a
    planted population groups mean the same in all sources, and every user has source 0.
    """

    user_V: Integers
    group_V: Integers
    source_V: Integers

    @classmethod
    def of(cls, data: PreferenceData, subjects: Subjects) -> "Groups | None":
        """Finds users with a known group; None when there are none. Users of several groups or sources are excluded."""
        code_N = data.pairs.label_N("user_id").numpy()
        group_U = _only_value(data.pairs.label_N("group").numpy(), code_N)[subjects.code_U]
        source_U = np.zeros_like(group_U)
        if data.population is None and data.names["source"]:
            source_U = _only_value(data.pairs.label_N("source").numpy(), code_N)[subjects.code_U]
        user_V = np.flatnonzero((group_U >= 0) & (source_U >= 0))
        return cls(user_V, group_U[user_V], source_U[user_V]) if len(user_V) else None

    def matched(self, head_RU: Integers) -> Array:
        """Whether the head of each user is assigned to the user's group: 1 or 0, [R, V].

        Heads are assigned to groups one to one (Hungarian algorithm), to maximise the number of matched users, in each
        draw and source.

        Args:
            head_RU: head of every subject in every draw.
        """
        head_RV = head_RU[:, self.user_V]
        matched_RV = np.zeros(head_RV.shape)
        for source in np.unique(self.source_V):
            own_V = self.source_V == source
            for head_V, matched_V in zip(head_RV, matched_RV, strict=True):
                count_KG = np.zeros((head_RU.max() + 1, self.group_V.max() + 1))
                np.add.at(count_KG, (head_V[own_V], self.group_V[own_V]), 1)
                group_of_head = np.full(len(count_KG), -1)
                heads, groups = linear_sum_assignment(count_KG, maximize=True)
                group_of_head[heads] = groups
                matched_V[own_V] = group_of_head[head_V[own_V]] == self.group_V[own_V]
        return matched_RV

    def bayes(self, evidence_NG: Array, labels: Labels) -> Array:
        """Whether the most probable group of each user is the true group, [R, V]; with m tied groups 1/m.

        Args:
            evidence_NG: log evidence of each row for each group, see `bayes_evidence`.
            labels: labels of the subjects.
        """
        evidence_LG, user_L = torch.from_numpy(evidence_NG[labels.row_L]), torch.from_numpy(labels.user_L)
        sums_UG = sum_by(evidence_LG, user_L, labels.num_users).numpy()
        best_RUG = (sums_UG == sums_UG.max(axis=1, keepdims=True)).reshape(labels.num_draws, labels.num_subjects, -1)
        best_RVG = best_RUG[:, self.user_V]
        return best_RVG[:, np.arange(len(self.user_V)), self.group_V] / best_RVG.sum(axis=2)


def bayes_evidence(data: PreferenceData) -> Array | None:
    """ORACLE: log P(topic, label | group) [N, G], up to a constant, under the true rewards of a planted population.

    Groups have equal numbers of users, so that the sum over a user's pairs is the log posterior. None when the data are
    not from a planted population, or are not vectors of attribute levels.
    """
    population, pairs = data.population, data.pairs
    if population is None or not data.is_vectors:
        return None
    levels_NA = (data.texts[pairs.chosen_N] - data.texts[pairs.rejected_N]).double().numpy()
    margins_NG = levels_NA[:, : len(population.attributes)] @ population.rewards_KA.T
    topic_share_TG = population.group_weights_TK / population.group_weights_TK.sum(axis=0)
    with np.errstate(divide="ignore"):
        return WINNER.array_log_prob(margins_NG) + np.log(topic_share_TG)[pairs.label_N("source").numpy()]


def _only_value(value_N: Integers, user_N: Integers) -> Integers:
    """The value [U] that all rows of a user share; -1 when values differ or none is known."""
    known_N = (value_N >= 0) & (user_N >= 0)
    least_U, most_U = np.full(user_N.max() + 1, np.iinfo(np.int64).max), np.full(user_N.max() + 1, -1)
    np.minimum.at(least_U, user_N[known_N], value_N[known_N])
    np.maximum.at(most_U, user_N[known_N], value_N[known_N])
    return np.where(least_U == most_U, most_U, -1)
