"""Attributes as subjects: systems without side information, with a criterion, and with some labels.

Dimension letters: R draws, N test rows, K heads, A attributes, U attributes in all draws, L labels.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micro_lit import adapt
from micro_lit.compare.bench import Bench, Row
from micro_lit.compare.candidates import Candidate
from micro_lit.compare.router import ROUTER, SHUFFLED, Router, mean_weights
from micro_lit.compare.subjects import Subjects, draw_attributes
from micro_lit.compare.systems import (
    OWN_WEIGHTS,
    TOLD,
    AsTrained,
    BestHead,
    Reweighted,
    System,
    is_oracle,
    judge,
    of_candidate,
)
from micro_lit.config import Settings, build
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError
from micro_lit.report.explanations import explain
from micro_lit.report.texts import PairTexts, in_words

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

NOTHING_TO_ADAPT = "nothing to adapt"

# Inputs beyond prompt and responses that rivals in each table may read; a system with more is an ORACLE.
ALLOWED = {"none": set(), "criterion": {"criterion"}, "labels": set()}


class AttributeComparison:
    """Measures attributes: three tables, curves over the number of labels, and checks against flattering results.

    Args:
        candidates: trained models by name, with criteria hidden.
        told: a function of `given` or `shuffled` that returns the data with such criteria.
        settings: settings of `micro_lit.compare`.

    Raises:
        UserError: the data have no attributes, or too few rows for the labels.
    """

    def __init__(
        self, candidates: Mapping[str, Candidate], told: Callable[[str], PreferenceData], settings: Settings
    ) -> None:
        self.candidates, self.settings = candidates, settings
        own = settings["subjects"]["attribute"]
        self.budget, self.budgets = own["budget"], own["labels"]
        asked = settings["elicitation"]["labels"] if settings["elicited"] else 0
        self.data = next(iter(candidates.values())).data
        self.subjects = draw_attributes(
            self.data, own["labels_from"], max(self.budget, asked, *self.budgets), settings["draws"], settings["seed"]
        )
        self.names = [self.data.names["attribute"][code] for code in self.subjects.code_U]
        self.bench = Bench(self.subjects, self.data, settings, by_subject=False)
        methods = {name: build(node) for name, node in own["adaptation"].items()}
        self.own = {
            name: AsTrained(candidate, TOLD if "attribute" in candidate.model.knows else OWN_WEIGHTS)
            for name, candidate in candidates.items()
        }
        self.adapted = {
            name: of_candidate(candidate, methods, NOTHING_TO_ADAPT, False, name in settings["profiled"])
            for name, candidate in candidates.items()
        }
        self.baseline = self.bench.scores(self.bench.log_prob(self.own[settings["baseline"]]))

        @functools.cache
        def router(name: str, criteria: str) -> Router:
            method = ROUTER if criteria == "given" else SHUFFLED
            return Router(candidates[name], told(criteria), self.subjects, settings, method)

        self.router = router

    def results(self) -> dict[str, Any]:
        """Measures everything about attributes.

        Returns:
            Plain JSON types. `tables` has three lists of rows: `none` (no side information), `criterion` (a router that
            reads the criterion, trained on `budget` labels of each attribute) and `labels` (`budget` labels of the
            subject alone). `curves` and `elicitation` hold scores over the number of labels. `attributes` maps each
            attribute to its number of test rows.
        """
        return {
            "budget": self.budget,
            "budgets": self.budgets,
            "budget_from": self.settings["subjects"]["attribute"]["labels_from"],
            "attributes": dict(zip(self.names, self.bench.averages.counts_A().tolist(), strict=True)),
            "tables": {
                "none": [self.row("none", system, 0) for system in self.own.values()],
                "criterion": [
                    self.row("criterion", self.router(name, criteria), self.budget, check=criteria == "shuffled")
                    for name in self.settings["routed"]
                    for criteria in ("given", "shuffled")
                ],
                "labels": self.with_labels(),
            },
            "curves": self.curves(),
            "elicitation": self.elicitation(),
        }

    def with_labels(self) -> list[Row]:
        """Rows of table (c): every candidate with every method, and with the best head on the test rows (ORACLE)."""
        rows = []
        for name, candidate in self.candidates.items():
            for system in self.adapted[name]:
                checked = {"turned": self.bench.turned(system, self.budget)} if system.learns else {}
                rows.append(self.row("labels", system, self.budget if system.learns else 0, **checked))
            if candidate.num_heads > 1 and not candidate.model.by_user:
                rows.append(self.row("labels", BestHead(candidate, self.subjects), 0))
        return rows

    def curves(self) -> list[Row]:
        """Scores of every method of table (c), and of every router, over the number of labels."""
        learning = [
            system
            for name, systems in self.adapted.items()
            for system in systems
            if system.learns and not is_oracle(self.own[name], ALLOWED["none"])
        ]
        return [
            self.curve(
                system.candidate,
                system.method,
                self.budgets,
                (self.bench.log_prob(system, size) for size in self.budgets),
            )
            for system in [*learning, *(self.router(name, "given") for name in self.settings["routed"])]
        ]

    def elicitation(self) -> list[Row]:
        """Scores of posterior weights over the number of labels, for each strategy that selects the next label."""
        curves = []
        for name in self.settings["elicited"]:
            strategies = {key: build(node) for key, node in self.settings["elicitation"]["strategies"].items()}
            generator = np.random.default_rng(self.settings["seed"])
            strategies["at random"] = functools.partial(adapt.at_random, generator=generator)
            pool, labels = (self.settings["elicitation"][key] for key in ("pool", "labels"))
            candidate = self.candidates[name]
            system = Reweighted(
                name, "posterior", candidate.margins_NK, candidate.prior_K, candidate.link, adapt.posterior
            )
            for strategy, weights_TUK in elicit_labels(system, self.subjects, strategies, pool, labels).items():
                judged = (
                    judge(system, self.subjects, torch.from_numpy(weights_UK), self.bench.batch_size)
                    for weights_UK in weights_TUK
                )
                curves.append(self.curve(name, strategy, range(labels + 1), judged))
        return curves

    def row(self, table: str, system: System, size: int, **facts: Any) -> Row:
        """Returns the row of one system: scores with intervals, scores by attribute, and differences from the baseline.

        Args:
            table: `none`, `criterion` or `labels`.
            size: number of labels of each attribute.
            facts: further columns, such as `check_attributes` or `turned`.
        """
        found = self.bench.scores(self.bench.log_prob(system, size))
        self.bench.keep(table, system, size, found, self.names)
        row = {
            "candidate": system.candidate,
            "method": system.method,
            "heads": system.heads,
            "oracle": is_oracle(system, ALLOWED[table]),
            **facts,
        }
        for score in self.bench.shown:
            means = self.bench.summary(score, found[score])
            row[score] = means.pop("mean")
            row[f"{score}_by"] = dict(zip(self.names, means.values(), strict=True))
            row[f"{score}_difference"] = self.bench.mean(score, found[score], self.baseline[score])
        if reason := self.bench.why_impossible(system, size, found):
            row |= {"valid": False, "invalid_because": reason}
        return row

    def curve(self, candidate: str, method: str, labels: Iterable[int], judged: Iterable[Array]) -> Row:
        """Returns the scores of a system over the number of labels; `judged` has log-probabilities [R, N] for each."""
        found = [self.bench.scores(log_prob_RN) for log_prob_RN in judged]
        points = {score: [self.bench.mean(score, each[score]) for each in found] for score in self.bench.shown}
        return {"candidate": candidate, "method": method, "labels": list(labels), **points}

    def card(self, name: str) -> tuple[dict[str, Any], list[PairTexts] | None]:
        """Returns the data of a head card of a candidate.

        Returns:
            The arguments of `micro_lit.report.cards.facts`, and the texts of the test rows (None for vectors).
        """
        candidate, rows_N, system = self.candidates[name], self.subjects.row_N, self.adapted[name][0]
        drawn_UK = self.bench.codes(system, self.budget).numpy()
        weights_AK = {
            "before": mean_weights(candidate.log_weights_NK[rows_N], self.subjects),
            f"{system.method}, {self.budget} labels": drawn_UK.reshape(-1, len(self.names), system.heads).mean(axis=0),
        }
        if name in self.settings["routed"]:
            router = self.router(name, "given")
            codes_U1 = self.bench.codes(router, self.budget)
            weights_AK[f"router, {self.budget} labels"] = router.mean_weights(codes_U1, self.subjects)
        known = {
            "margins_NK": candidate.margins_NK[rows_N],
            "attribute_N": self.subjects.user_N,
            "attributes": self.names,
            "prompt_N": self.subjects.prompt_N,
            "weights_AK": weights_AK,
        }
        return known, self._texts(rows_N)

    def explanation(self, name: str) -> dict[str, Any]:
        """Explains which head weights of a candidate changed for which attribute, and which labels changed them.

        Uses the first method and the first draw of `budget` labels; see `micro_lit.report.explanations.explain`.
        """
        candidate, num_attributes, system = self.candidates[name], len(self.names), self.adapted[name][0]
        labels = self.bench.labels(self.budget)
        first_L = labels.user_L < num_attributes
        row_L = labels.row_L[first_L]
        return explain(
            candidate.margins_NK[row_L],
            labels.user_L[first_L],
            np.tile(candidate.prior_K, (num_attributes, 1)),
            self.bench.codes(system, self.budget).numpy()[:num_attributes],
            self.names,
            [f"head {head}" for head in range(candidate.num_heads)],
            row_L,
            f"{system.method}, {self.budget} labels of each attribute, the first of {self.settings['draws']} draws",
            self._texts(row_L),
        )

    def _texts(self, rows_N: Integers) -> list[PairTexts] | None:
        """Prompt and both responses of rows of the data; None when the data are vectors."""
        if self.data.is_vectors:
            return None
        texts = self.data.texts
        return [
            (in_words(texts[chosen].prompt), texts[chosen].response, texts[rejected].response)
            for _, chosen, rejected in self.data.pairs.triplets_N3[torch.from_numpy(rows_N)].tolist()
        ]


def elicit_labels(
    system: Reweighted, subjects: Subjects, strategies: Mapping[str, adapt.Strategy], pool: int, labels: int
) -> dict[str, Array]:
    """Runs active elicitation with each strategy.

    Args:
        strategies: acquisition strategies by name.
        pool: number of rows of each attribute that a strategy may select from; each draw has its own pool.
        labels: number of labels that are selected, at most `pool`.

    Returns:
        For each strategy the weights [T, U, K] after 0, 1, ..., `labels` selected labels.
    """
    drawn = subjects.labels(pool, every_draw=True)
    rows_P, place = np.unique(drawn.row_L, return_inverse=True)
    allowed_UP = np.zeros((drawn.num_users, len(rows_P)), dtype=bool)
    allowed_UP[drawn.user_L, place] = True
    start_UK = np.tile(system.prior_K, (drawn.num_users, 1))
    return {
        name: adapt.elicit(system.margins_NK[rows_P], allowed_UP, start_UK, strategy, labels).weights_TUK
        for name, strategy in strategies.items()
    }


def check_attributes(settings: Settings) -> None:
    """Raises `UserError` when the elicitation pool is smaller than the number of labels to select."""
    pool, asked = settings["elicitation"]["pool"], settings["elicitation"]["labels"]
    if settings["elicited"] and pool < asked:
        raise UserError(f"elicitation.pool={pool} is too small; {asked} labels are asked for: elicitation.labels")
