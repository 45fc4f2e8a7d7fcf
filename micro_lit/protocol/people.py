"""The protocol of people: what so many labels of a person are worth to models of people, to mixtures and to single BT.

All models are frozen. Each judges a user's test rows by the code that some labels of that user give: a model of people
by its own `learn`, a pair-level mixture by an adaptation, single BT as it judges everybody's. Scores are those of the
one likelihood, averaged over each user's rows and then over users.

Dimension letters: N test rows, L labels, K heads, C numbers of a code, U users, V of them with a known group, R draws,
G groups, P pairs that raters share.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import log_expit
from torch import Tensor

from micro_lit import runs
from micro_lit.config import Settings, build
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError
from micro_lit.floors import raters
from micro_lit.likelihood import LOG_NEVER, sum_by
from micro_lit.models import MixtureBT, TiedMixture
from micro_lit.models.people import PeopleBT, prior_of_users
from micro_lit.protocol.candidates import judge, load_data, train_missing
from micro_lit.protocol.compare import Method, scores
from micro_lit.protocol.intervals import Resampling
from micro_lit.protocol.regimes import Labels, Regime, draw_regimes
from micro_lit.restored import Trust

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Row = dict[str, Any]

SCORES = ("accuracy", "nll")
OWN, FLAT = "its own", "nothing"


@dataclass(frozen=True, eq=False)
class System:
    """A candidate and how it learns what a user wants: by an adaptation, by itself, or not at all."""

    candidate: str
    method: str
    model: MixtureBT
    adapt: Method | None = None

    @property
    def has_heads(self) -> bool:
        """Whether codes are what labels add to the log weights of heads."""
        return self.adapt is not None or isinstance(self.model, TiedMixture)


class People:
    """The candidates, the users in two regimes, and one way to score whatever judges their rows.

    Making one trains the candidates that are missing. Raises `UserError` for what the user can mend.
    """

    def __init__(self, settings: Settings) -> None:
        runs.quiet_libraries()
        self.settings = settings
        names = settings["candidates"]
        if settings["baseline"] not in names:
            raise UserError(f"baseline={settings['baseline']}: not among the candidates, which are {', '.join(names)}")
        given = {name: each if isinstance(each, str) else [*settings["common"], *each] for name, each in names.items()}
        self.folders = train_missing(given, settings)
        self.started = time.perf_counter()
        trust = Trust.of(settings)
        self.data = load_data(self.folders, trust=trust)
        if not self.data.names["user_id"]:
            raise UserError(
                "candidates: their data name no users; map a column (+data.columns.user_id=theirs), or for a planted "
                "population set data.users_per_group"
            )
        features_dir = Path(settings["paths"]["features_dir"])
        self.models = {
            name: runs.restore(folder, self.data, features_dir, trust) for name, folder in self.folders.items()
        }
        self.systems = [system for name, model in self.models.items() for system in self._systems(name, model)]
        largest = max(size for size in settings["labels"] if size is not None)
        self.regimes, self.left_out = draw_regimes(
            self.data, largest, settings["rows_left"], settings["draws"], settings["seed"]
        )
        self.judgments, self.codes, self.scores = map(functools.cache, (self._judgments, self._codes, self._scores))

    def _systems(self, name: str, model: MixtureBT) -> list[System]:
        if isinstance(model, PeopleBT):
            return [System(name, OWN, model)]
        methods = self.settings["adaptation"] if model.num_heads > 1 else {}
        return [System(name, key, model, build(node)) for key, node in methods.items()] or [System(name, FLAT, model)]

    def results(self) -> dict[str, Any]:
        """Everything that is measured, as plain JSON types; see `regime` for its larger part.

        `floors`, of a planted population, are the NLL of whoever knows the group, and of whoever knows no person.
        """
        asked = ("name", "seed", "baseline", "draws", "resamples", "rows_left")
        population = self.data.population
        return {
            **{name: self.settings[name] for name in asked},
            "candidates": {
                name: {"run": str(self.folders[name]), "heads": model.num_heads} for name, model in self.models.items()
            },
            "left_out": self.left_out,
            "floors": {name: population.floors[name] for name in ("oracle", "marginal")} if population else {},
            "regimes": {name: self.regime(name) for name in self.regimes},
            "seconds": round(time.perf_counter() - self.started, 1),
        }

    def regime(self, name: str) -> dict[str, Any]:
        """What was measured of seen or of unseen users: how many there are, how many rows are judged, a row a system.

        `labels` (None: all), `given` (how many of these a user has, on average) and whatever a system scores are lists
        of one length; a difference is from the baseline without labels. `raters`, of seen users, holds floors of those
        who know no person, on rows whose pair several of these users judged: a system's scores there are `shared_`, and
        `shared_above` is its Brier score less its floor. `groups`, where the data name them, says how many users have
        one; `matched` is the share of these whose head stands for their group, `oracle` that of Bayes' own answer.
        """
        regime = self.regimes[name]
        sizes = [size for size in self.settings["labels"] if size is not None or name == "seen"]
        [baseline, *_] = (system for system in self.systems if system.candidate == self.settings["baseline"])
        start = self.scores(baseline, name, 0)
        summary = self._summary(regime.num_users)
        floor = RaterFloor.of(self.data, regime) if name == "seen" else None
        groups = Groups.of(self.data, regime)
        among = self._summary(len(groups.user_V)) if groups else None
        systems = []
        for system in self.systems:
            row: Row = {"candidate": system.candidate, "method": system.method, "heads": system.model.num_heads}
            found = [self.scores(system, name, size) for size in sizes]
            for score in SCORES:
                row[score] = [summary(each[score]) for each in found]
                row[f"{score}_difference"] = [summary(each[score], start[score]) for each in found]
            if floor:
                shared = [floor.compare(each["accuracy_N"], each["brier_N"]) for each in found]
                row |= {f"shared_{score}": [each[score] for each in shared] for score in shared[0]}
            if groups and system.has_heads:
                row["matched"] = [among(groups.matched(self.heads(system, name, size))) for size in sizes]
            systems.append(row)
        labels = [regime.labels(size) for size in sizes]
        result = {
            "users": regime.num_users,
            "rows": int(regime.keep_RN.sum()) // len(regime.keep_RN),
            "labels": sizes,
            "given": [len(each.row_L) / each.num_draws / regime.num_users for each in labels],
            "systems": systems,
        }
        if floor:
            result["raters"] = floor.facts()
        if groups:
            result["groups"] = {"users": len(groups.user_V), "sources": len(np.unique(groups.source_V))}
            if (evidence_NG := bayes_evidence(self.data)) is not None:
                found = (among(groups.bayes(evidence_NG, each, regime.num_users)) for each in labels)
                result["groups"]["oracle"] = list(found)
        return result

    def heads(self, system: System, name: str, size: int | None) -> Integers:
        """[R, U] the head of largest weight after so many labels; without a label everybody's is the first."""
        labels = self.regimes[name].labels(size)
        _, log_weights_NK = self.judgments(system.candidate)
        codes_UK = self.codes(system, name, size)
        log_prior_UK = prior_of_users(log_weights_NK[labels.row_L], torch.from_numpy(labels.user_L), len(codes_UK))
        return (log_prior_UK + codes_UK).argmax(dim=1).view(labels.num_draws, -1).numpy()

    def _summary(self, num_users: int) -> Callable[..., dict[str, float | None]]:
        """Scores [R, U] of users, less others, to their mean with its interval over users and draws."""
        draws, resamples, seed = (self.settings[key] for key in ("draws", "resamples", "seed"))
        user_U = np.arange(num_users)
        keep_RU = np.ones((draws, num_users), dtype=bool)
        resampling = Resampling(np.zeros_like(user_U), user_U, keep_RU, resamples, seed)
        return lambda *scores_RU: resampling.summary(*scores_RU)["mean"]._asdict()

    def _scores(self, system: System, name: str, size: int | None) -> dict[str, Array]:
        """Accuracy and NLL of users [R, U]; accuracy and Brier score of rows [N], on average over draws."""
        if system.method == FLAT and size != 0:
            return self.scores(system, name, 0)
        regime = self.regimes[name]
        found = scores(self.log_probs(system, regime, self.codes(system, name, size)), (*SCORES, "brier"))
        rows = {f"{score}_N": found[score].mean(axis=0) for score in ("accuracy", "brier")}
        return {**{score: regime.mean_by_user(found[score]) for score in SCORES}, **rows}

    @torch.no_grad()
    def log_probs(self, system: System, regime: Regime, codes_UC: Tensor) -> Array:
        """[R, N] of the choices in the rows of a regime, by the codes of all users in every draw."""
        codes_RUC = codes_UC.view(-1, regime.num_users, codes_UC.shape[1])
        log_prob_RN = np.empty((len(codes_RUC), len(regime.row_N)))
        for place_B in torch.arange(len(regime.row_N)).split(self.settings["loader"]["eval_batch_size"]):
            pairs, user_B = self.data.pairs[torch.from_numpy(regime.row_N)[place_B]], regime.user_N[place_B]
            for log_prob_N, codes_UC in zip(log_prob_RN, codes_RUC, strict=True):
                log_prob_N[place_B] = system.model.log_prob(system.model(pairs, codes_UC[user_B]))
        return log_prob_RN

    @torch.no_grad()
    def _codes(self, system: System, name: str, size: int | None) -> Tensor:
        """[U, C] of all users in every draw, as `Labels` counts them."""
        regime = self.regimes[name]
        labels = regime.labels(size)
        user_L, num_users = torch.from_numpy(labels.user_L), labels.num_draws * regime.num_users
        if system.adapt is not None:
            margins_LK, log_weights_LK = (each_NK[labels.row_L] for each_NK in self.judgments(system.candidate))
            return evidence(system.adapt, margins_LK, log_weights_LK, user_L, num_users).float()
        if system.method == FLAT:
            return torch.zeros(num_users, system.model.num_heads)
        return system.model.learn(self.data.pairs[torch.from_numpy(labels.row_L)], user_L, num_users)

    def _judgments(self, candidate: str) -> tuple[Tensor, Tensor]:
        """Margins and log weights [N, K] of all rows, by heads and gate alone, before any head is set aside."""
        batch_size = self.settings["loader"]["eval_batch_size"]
        found = judge(self.models[candidate], self.data, batch_size, "dense_log_weights_BK")
        return tuple(map(torch.from_numpy, found))


def evidence(
    adapt: Method, margins_LK: Tensor, log_weights_LK: Tensor, user_L: Tensor, num_users: int
) -> Float64[Tensor, "U K"]:
    """What labels add to the log weights of a pair-level mixture's gate, by an adaptation; exactly 0 without labels.

    The adaptation starts from the gate's weights, averaged in logs over a user's labelled pairs.
    """
    prior_UK = prior_of_users(log_weights_LK, user_L, num_users).exp()
    weights_UK = torch.from_numpy(adapt(*(each.numpy() for each in (margins_LK, user_L, prior_UK))))
    after_UK, before_UK = (each_UK.log().clamp(min=LOG_NEVER) for each_UK in (weights_UK, prior_UK))
    return after_UK - before_UK


@dataclass(frozen=True, eq=False)
class RaterFloor:
    """The Brier floor, and bounds of NLL and accuracy, of whoever does not know the person.

    votes: on pairs that several of a regime's users judged; their rows count from 0 among those of the regime.
    terms: of each pair, as `raters.floor_terms`. count_P: how many votes a pair has.
    """

    votes: raters.Votes
    terms: dict[str, Array]
    count_P: Integers

    @classmethod
    def of(cls, data: PreferenceData, regime: Regime) -> "RaterFloor | None":
        """None where no pair was judged twice, or raters were not drawn alike."""
        pairs = data.pairs[torch.from_numpy(regime.row_N)]
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
    """Users of a regime whose group is known: which of its users they are, their groups, and their sources.

    A group's name means something of its own in each source: heads are matched with groups source by source. In a
    planted population it means the same everywhere, and all users are of source 0.
    """

    user_V: Integers
    group_V: Integers
    source_V: Integers

    @classmethod
    def of(cls, data: PreferenceData, regime: Regime) -> "Groups | None":
        """None where the data name no groups. A user of several groups or sources has none."""
        code_N = data.pairs.label_N("user_id").numpy()
        group_U = _only_value(data.pairs.label_N("group").numpy(), code_N)[regime.code_U]
        source_U = np.zeros_like(group_U)
        if data.population is None and data.names["source"]:
            source_U = _only_value(data.pairs.label_N("source").numpy(), code_N)[regime.code_U]
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

    def bayes(self, evidence_NG: Array, labels: Labels, num_users: int) -> Array:
        """[R, V] whether the most probable group is the user's; where several are, so often as a draw among them."""
        size = labels.num_draws * num_users
        sums_UG = sum_by(torch.from_numpy(evidence_NG[labels.row_L]), torch.from_numpy(labels.user_L), size).numpy()
        best_RUG = (sums_UG == sums_UG.max(axis=1, keepdims=True)).reshape(labels.num_draws, num_users, -1)
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
