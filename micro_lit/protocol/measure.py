"""Runs the protocol: three tables, curves over the number of labels, and checks that nothing flatters.

Dimension letters: R draws, N test rows, K heads, U targets.
"""

import functools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micro_lit import adaptation
from micro_lit.config import Settings, build
from micro_lit.errors import UserError
from micro_lit.protocol import compare
from micro_lit.protocol.candidates import Candidate, judge_all, load_data, train_missing
from micro_lit.protocol.intervals import Resampling
from micro_lit.reporting.explanations import explain
from micro_lit.reporting.texts import PairTexts, in_words
from micro_lit.restored import Trust
from micro_lit.runs import quiet_libraries

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Row = dict[str, Any]

OWN, ROUTER, SHUFFLED, ORACLE = "own weights", "router", "router, criteria shuffled", "best head"
TOLD = "told the attribute"


class Protocol:
    """The candidates, their targets, and one way to score whatever judges the rows.

    Making one trains the candidates that are missing. Raises `UserError` for what the user can mend.
    """

    def __init__(self, settings: Settings) -> None:
        quiet_libraries()
        self.settings = settings
        names, pool = settings["candidates"], settings["elicitation"]["pool"]
        asked = settings["elicitation"]["labels"] if settings["elicited"] else 0
        named = {settings["baseline"], *settings["routed"], *settings["elicited"]}
        named |= {*settings["cards"], *settings["explained"]}
        if missing := named - set(names):
            raise UserError(f"{', '.join(sorted(missing))}: not among the candidates, which are {', '.join(names)}")
        if pool < asked:
            raise UserError(f"elicitation.pool={pool} is too small; {asked} labels are asked for: elicitation.labels")
        folders = train_missing(names, settings)
        self.started = time.perf_counter()
        trust = Trust.of(settings)
        self.data = load_data(folders, "hidden", trust)
        features_dir = Path(settings["paths"]["features_dir"])
        self.candidates = judge_all(folders, self.data, features_dir, settings["loader"]["eval_batch_size"], trust)
        largest = max(settings["budget"], asked, *settings["budgets"])
        self.targets = compare.draw_targets(
            self.data, settings["budget_from"], largest, settings["draws"], settings["seed"]
        )
        self.attributes = [self.data.names["attribute"][code] for code in self.targets.codes]
        self.resampling = Resampling(
            self.targets.attribute_N,
            self.targets.prompt_N,
            self.targets.keep_RN,
            settings["resamples"],
            settings["seed"],
        )
        self.methods = {name: build(node) for name, node in settings["adaptation"].items()}
        self.start_UK = {
            name: compare.prior_UK(candidate, self.data, self.targets) for name, candidate in self.candidates.items()
        }
        self.own_1N = {
            name: compare.own_log_probs(candidate, self.targets) for name, candidate in self.candidates.items()
        }
        self.routed = functools.cache(self._route)
        self.weights = functools.cache(self._weights)
        self.told = functools.cache(functools.partial(load_data, folders, trust=trust))

    def results(self) -> dict[str, Any]:
        """Everything that is measured, as plain JSON types.

        `tables` holds `none` (no side information), `criterion` (its text and `budget` labels of each attribute, of
        which a router is made) and `labels` (`budget` labels of the target alone), `curves` and `elicitation` the same
        over the number of labels. `attributes` says how many rows of each are judged.
        """
        asked = ("name", "seed", "baseline", "budget", "budgets", "budget_from", "draws", "resamples")
        return {
            **{name: self.settings[name] for name in asked},
            "candidates": {
                name: {"run": str(candidate.folder), "heads": candidate.num_heads}
                for name, candidate in self.candidates.items()
            },
            "attributes": dict(zip(self.attributes, self.resampling.counts_A().tolist(), strict=True)),
            "tables": {
                "none": self.without_side_information(),
                "criterion": self.with_criteria(),
                "labels": self.with_labels(),
            },
            "curves": self.curves(),
            "elicitation": self.elicitation(),
            "seconds": round(time.perf_counter() - self.started, 1),
        }

    def without_side_information(self) -> list[Row]:
        """Table (a): every candidate with the weights of its own gate."""
        return [
            self.row(candidate, TOLD if candidate.is_oracle else OWN, self.own_1N[name], oracle=candidate.is_oracle)
            for name, candidate in self.candidates.items()
        ]

    def with_criteria(self) -> list[Row]:
        """Table (b): routers, and the same with criteria that say nothing."""
        rows = []
        for name in self.settings["routed"]:
            for method, criteria in ((ROUTER, "given"), (SHUFFLED, "shuffled")):
                log_prob_RN = self.routed(name, self.settings["budget"], criteria).log_prob_RN
                rows.append(self.row(self.candidates[name], method, log_prob_RN, check=criteria == "shuffled"))
        return rows

    def with_labels(self) -> list[Row]:
        """Table (c): every candidate with every method, and with the head that is best on the test rows."""
        rows = []
        for name, candidate in self.candidates.items():
            if candidate.num_heads == 1:
                rows.append(self.row(candidate, "nothing to adapt", self.own_1N[name], candidate.is_oracle))
                continue
            before_RN = compare.weighted_log_probs(candidate, self.targets, self.start_UK[name])
            for method in self.methods:
                after_RN, opposite_RN = (
                    compare.weighted_log_probs(
                        candidate, self.targets, self.weights(name, method, self.settings["budget"], flipped)
                    )
                    for flipped in (False, True)
                )
                share = compare.turned(before_RN, after_RN, opposite_RN, self.targets.keep_RN)
                rows.append(self.row(candidate, method, after_RN, candidate.is_oracle, turned=share))
            rows.append(self.row(candidate, ORACLE, compare.best_head_oracle(candidate, self.targets), oracle=True))
        return rows

    def curves(self) -> list[Row]:
        """Every method of table (c), and every router, over the number of labels."""
        curves = []
        for name, candidate in self.candidates.items():
            if candidate.num_heads > 1 and not candidate.is_oracle:
                for method in self.methods:
                    judged = (
                        compare.weighted_log_probs(candidate, self.targets, self.weights(name, method, budget, False))
                        for budget in self.settings["budgets"]
                    )
                    curves.append(self.curve(name, method, self.settings["budgets"], judged))
        for name in self.settings["routed"]:
            judged = (self.routed(name, budget, "given").log_prob_RN for budget in self.settings["budgets"])
            curves.append(self.curve(name, ROUTER, self.settings["budgets"], judged))
        return curves

    def elicitation(self) -> list[Row]:
        """Posterior weights over the number of labels, for each way to choose which label to ask for."""
        curves = []
        for name in self.settings["elicited"]:
            strategies = {key: build(node) for key, node in self.settings["elicitation"]["strategies"].items()}
            generator = np.random.default_rng(self.settings["seed"])
            strategies["at random"] = functools.partial(adaptation.at_random, generator=generator)
            pool, labels = (self.settings["elicitation"][key] for key in ("pool", "labels"))
            found = compare.elicit(self.candidates[name], self.targets, strategies, self.start_UK[name], pool, labels)
            curves += [self.curve(name, strategy, range(labels + 1), judged) for strategy, judged in found.items()]
        return curves

    def card(self, name: str) -> tuple[dict[str, Any], list[PairTexts] | None]:
        """Of a candidate's heads: what `micro_lit.reporting.cards.facts` takes in, and the texts of the test rows."""
        candidate, budget, rows_N = self.candidates[name], self.settings["budget"], self.targets.row_N
        method = next(iter(self.methods))
        drawn_UK = self.weights(name, method, budget, False)
        weights_AK = {
            "before": compare.mean_weights(candidate.log_weights_NK[rows_N], self.targets),
            f"{method}, {budget} labels": drawn_UK.reshape(-1, len(self.attributes), candidate.num_heads).mean(axis=0),
        }
        if name in self.settings["routed"]:
            weights_AK[f"router, {budget} labels"] = self.routed(name, budget, "given").weights_AK
        known = {
            "margins_NK": candidate.margins_NK[rows_N],
            "attribute_N": self.targets.attribute_N,
            "attributes": self.attributes,
            "prompt_N": self.targets.prompt_N,
            "weights_AK": weights_AK,
        }
        return known, self._texts(rows_N)

    def explanation(self, name: str) -> dict[str, Any]:
        """Of a candidate's heads: which moved for which attribute, and the labels that moved them.

        By the first method and the first draw of `budget` labels; see `micro_lit.reporting.explanations.explain`.
        """
        candidate, budget, num_attributes = self.candidates[name], self.settings["budget"], len(self.attributes)
        method = next(iter(self.methods))
        row_L, target_L = self.targets.budget(budget)
        first_L = target_L < num_attributes
        row_L, target_L = row_L[first_L], target_L[first_L]
        return explain(
            candidate.margins_NK[row_L],
            target_L,
            self.start_UK[name][:num_attributes],
            self.weights(name, method, budget, False)[:num_attributes],
            self.attributes,
            [f"head {head}" for head in range(candidate.num_heads)],
            row_L,
            f"{method}, {budget} labels of each attribute, the first of {self.settings['draws']} draws",
            self._texts(row_L),
        )

    def row(self, candidate: Candidate, method: str, log_prob_RN: Array, oracle: bool = False, **facts: Any) -> Row:
        """One system in a table: scores with intervals, of each attribute too, and its distance from the baseline."""
        found, baseline = compare.scores(log_prob_RN), compare.scores(self.own_1N[self.settings["baseline"]])
        row = {"candidate": candidate.name, "method": method, "heads": candidate.num_heads, "oracle": oracle, **facts}
        for score, values_RN in found.items():
            means = self.resampling.summary(values_RN)
            row[score] = means.pop("mean")._asdict()
            row[f"{score}_by"] = {
                name: interval._asdict() for name, interval in zip(self.attributes, means.values(), strict=True)
            }
            row[f"{score}_difference"] = self.resampling.summary(values_RN, baseline[score])["mean"]._asdict()
        return row

    def curve(self, name: str, method: str, labels: Iterable[int], judged: Iterable[Array]) -> Row:
        found = [compare.scores(log_prob_RN) for log_prob_RN in judged]
        return {
            "candidate": name,
            "method": method,
            "labels": list(labels),
            **{
                score: [self.resampling.summary(each[score])["mean"]._asdict() for each in found]
                for score in ("accuracy", "nll")
            },
        }

    def _texts(self, rows_N: Integers) -> list[PairTexts] | None:
        """Of rows of the data; None when they are vectors."""
        if self.data.is_vectors:
            return None
        texts = self.data.texts
        return [
            (in_words(texts[chosen].prompt), texts[chosen].response, texts[rejected].response)
            for _, chosen, rejected in self.data.pairs.triplets_N3[torch.from_numpy(rows_N)].tolist()
        ]

    def _weights(self, name: str, method: str, budget: int, flipped: bool) -> Array:
        candidate, start_UK = self.candidates[name], self.start_UK[name]
        return compare.adapt(candidate, self.targets, self.methods[method], start_UK, budget, flipped)

    def _route(self, name: str, budget: int, criteria: str) -> compare.Routed:
        return compare.route(self.candidates[name], self.told(criteria), self.targets, budget, self.settings)
