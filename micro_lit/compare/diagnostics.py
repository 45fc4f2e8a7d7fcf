"""What else is known of the users of a comparison: whoever judged the same pairs, and the groups they belong to.

Dimension letters: N test rows, L labels, U users, V of them with a known group, R draws, K heads, G groups, P pairs
that raters share.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import log_expit

from micro_lit.compare.subjects import Labels, Subjects
from micro_lit.data.pairs import PreferenceData
from micro_lit.floors import raters
from micro_lit.objectives import sum_by

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

BAYES = "ORACLE: Bayes"


@dataclass(frozen=True, eq=False)
class RaterFloor:
    """The Brier floor, and bounds of NLL and accuracy, of whoever does not know the person.

    votes: on pairs that several of these users judged; their rows count from 0 among those of the subjects.
    terms: of each pair, as `raters.floor_terms`. count_P: how many votes a pair has.
    """

    votes: raters.Votes
    terms: dict[str, Array]
    count_P: Integers

    @classmethod
    def of(cls, data: PreferenceData, subjects: Subjects) -> "RaterFloor | None":
        """None where no pair was judged twice, or raters were not drawn alike."""
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
        """A system's scores on these votes, and how far its Brier score is above the floor; pairs are the units."""
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
    """Users whose group is known: which of the subjects they are, their groups, and their sources.

    A group's name means something of its own in each source: heads are matched with groups source by source. In a
    planted population it means the same everywhere, and all users are of source 0.
    """

    user_V: Integers
    group_V: Integers
    source_V: Integers

    @classmethod
    def of(cls, data: PreferenceData, subjects: Subjects) -> "Groups | None":
        """None where the data name no groups. A user of several groups or sources has none."""
        code_N = data.pairs.label_N("user_id").numpy()
        group_U = _only_value(data.pairs.label_N("group").numpy(), code_N)[subjects.code_U]
        source_U = np.zeros_like(group_U)
        if data.population is None and data.names["source"]:
            source_U = _only_value(data.pairs.label_N("source").numpy(), code_N)[subjects.code_U]
        user_V = np.flatnonzero((group_U >= 0) & (source_U >= 0))
        return cls(user_V, group_U[user_V], source_U[user_V]) if len(user_V) else None

    def matched(self, head_RU: Integers) -> Array:
        """[R, V] whether a user's head is the one that stands for the user's group.

        Heads stand for groups by the one-to-one assignment that most of these users fit, in each draw and source.
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
        """[R, V] whether the most probable group is the user's; where several are, so often as a draw among them."""
        evidence_LG, user_L = torch.from_numpy(evidence_NG[labels.row_L]), torch.from_numpy(labels.user_L)
        sums_UG = sum_by(evidence_LG, user_L, labels.num_users).numpy()
        best_RUG = (sums_UG == sums_UG.max(axis=1, keepdims=True)).reshape(labels.num_draws, labels.num_subjects, -1)
        best_RVG = best_RUG[:, self.user_V]
        return best_RVG[:, np.arange(len(self.user_V)), self.group_V] / best_RVG.sum(axis=2)


def bayes_evidence(data: PreferenceData) -> Array | None:
    """[N, G] ORACLE: log P(topic, label | group), up to a constant, under the true rewards of a planted population.

    Groups have equally many users, so that the sum over a user's pairs is the log posterior. None where the data are
    not drawn from a population, or do not show its levels as vectors.
    """
    population, pairs = data.population, data.pairs
    if population is None or not data.is_vectors:
        return None
    levels_NA = (data.texts[pairs.chosen_N] - data.texts[pairs.rejected_N]).double().numpy()
    margins_NG = levels_NA[:, : len(population.attributes)] @ population.rewards_KA.T
    topic_share_TG = population.group_weights_TK / population.group_weights_TK.sum(axis=0)
    with np.errstate(divide="ignore"):
        return log_expit(margins_NG) + np.log(topic_share_TG)[pairs.label_N("source").numpy()]


def _only_value(value_N: Integers, user_N: Integers) -> Integers:
    """[U] the one value that the rows of each user have; -1 where they have several or none is known."""
    known_N = (value_N >= 0) & (user_N >= 0)
    least_U, most_U = np.full(user_N.max() + 1, np.iinfo(np.int64).max), np.full(user_N.max() + 1, -1)
    np.minimum.at(least_U, user_N[known_N], value_N[known_N])
    np.maximum.at(most_U, user_N[known_N], value_N[known_N])
    return np.where(least_U == most_U, most_U, -1)
