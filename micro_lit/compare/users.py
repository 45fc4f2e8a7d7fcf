"""Users as subjects: scores of models of people, mixtures and single BT after some labels of a user.

Scores are averaged over the rows of each user, then over users, separately for users seen in training and unseen users.

Dimension letters: N test rows, R draws, U users, K heads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micro_lit.compare.averages import Point
from micro_lit.compare.bench import Bench, Row, baseline_of
from micro_lit.compare.candidates import Candidate
from micro_lit.compare.diagnostics import Groups, RaterFloor, bayes_evidence
from micro_lit.compare.subjects import draw_users
from micro_lit.compare.systems import KNOWS_NOTHING, System, is_oracle, of_candidate
from micro_lit.config import Settings, build
from micro_lit.models.people import prior_of_users

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

CONTEXTS = {"user", "criterion"}  # inputs that all systems may have


class UserComparison:
    """Measures systems that learn from the labels of each user, in two regimes: `seen` and `unseen` users.

    Args:
        candidates: trained models by name.
        settings: settings of `micro_lit.compare`.
    """

    def __init__(self, candidates: Mapping[str, Candidate], settings: Settings) -> None:
        self.candidates, self.settings = candidates, settings
        own = settings["subjects"]["user"]
        self.data = next(iter(candidates.values())).data
        methods = {name: build(node) for name, node in own["adaptation"].items()}
        self.systems = [
            system
            for name, each in candidates.items()
            for system in of_candidate(each, methods, KNOWS_NOTHING, True, name in settings["profiled"])
        ]
        self.sizes = own["labels"]
        largest = max(size for size in self.sizes if size is not None)
        self.regimes, self.left_out = draw_users(
            self.data, largest, own["rows_left"], settings["draws"], settings["seed"]
        )
        self.benches = {name: Bench(each, self.data, settings, by_subject=True) for name, each in self.regimes.items()}

    def results(self) -> dict[str, Any]:
        """Measures everything about users.

        Returns:
            Plain JSON types: `regimes`, see `regime`; `left_out`, counts of excluded rows and users; `floors` of a
            planted population: NLL of predictors that know the group (`oracle`) or no rater (`marginal`).
        """
        population = self.data.population
        return {
            "rows_left": self.settings["subjects"]["user"]["rows_left"],
            "left_out": self.left_out,
            "floors": {name: population.floors[name] for name in ("oracle", "marginal")} if population else {},
            "regimes": {name: self.regime(name) for name in self.regimes},
        }

    def regime(self, name: str) -> dict[str, Any]:
        """Measures one regime: number of users, number of scored rows, and a row for each system.

        Args:
            name: `seen` or `unseen`.

        Returns:
            `labels` (numbers of labels; None: all), `given` (mean number that a user has) and the scores of a system
            are lists of equal length. Differences are from the baseline without labels. `raters` (seen users only) has
            floors for predictors that do not know the rater, on pairs that several of these users judged. `shared_*`
            are the scores of a system on these pairs; `shared_above` is its Brier score minus the floor. `groups` (if
            known) counts users with a group. `matched` is the share of these whose head is assigned to their group;
            `oracle` is that share for the Bayes classifier.
        """
        subjects, bench = self.regimes[name], self.benches[name]
        sizes = [size for size in self.sizes if size is not None or name == "seen"]
        floor = RaterFloor.of(self.data, subjects) if name == "seen" else None
        groups = Groups.of(self.data, subjects)
        labels = [bench.labels(size) for size in sizes]
        start = bench.reduced(bench.scores(bench.log_prob(baseline_of(self.settings, self.systems))))
        result: dict[str, Any] = {
            "users": subjects.num_users,
            "rows": round(float(subjects.keep_RN.sum(axis=1).mean())),
            "labels": sizes,
            "given": [len(each.row_L) / each.num_draws / subjects.num_users for each in labels],
            "systems": [self.row(name, system, sizes, start, floor, groups) for system in self.systems],
        }
        if floor:
            result["raters"] = floor.facts()
        if groups:
            result["groups"] = {"users": len(groups.user_V), "sources": len(np.unique(groups.source_V))}
            if (evidence_NG := bayes_evidence(self.data)) is not None:
                found = (groups.bayes(evidence_NG, each) for each in labels)
                result["groups"]["oracle"] = [self.among(name, groups, right_RV) for right_RV in found]
        return result

    def row(
        self,
        name: str,
        system: System,
        sizes: list[int | None],
        start: Mapping[str, Array],
        floor: RaterFloor | None,
        groups: Groups | None,
    ) -> Row:
        """Returns the scores of one system after each number of labels.

        Args:
            name: `seen` or `unseen`.
            sizes: numbers of labels of each user; None: all.
            start: scores of the baseline without labels.
        """
        bench = self.benches[name]
        row: Row = {"candidate": system.candidate, "method": system.method, "heads": system.heads}
        row["oracle"] = is_oracle(system, CONTEXTS)
        for size in sizes:
            of_rows = bench.scores(bench.log_prob(system, size))
            bench.keep(name, system, size, of_rows, self.user_names(name))
            found = bench.reduced(of_rows)
            points = {score: bench.mean(score, found[score]) for score in bench.shown}
            points |= {f"{score}_difference": bench.mean(score, found[score], start[score]) for score in bench.shown}
            if reason := bench.why_impossible(system, size, of_rows):
                row |= {"valid": False, "invalid_because": reason}
            if floor:
                shared = floor.compare(*(of_rows[score].mean(axis=0) for score in ("accuracy", "brier")))
                points |= {f"shared_{score}": point for score, point in shared.items()}
            if groups and system.weighs_heads:
                points["matched"] = self.among(name, groups, groups.matched(self.heads(system, name, size)))
            for key, point in points.items():
                row.setdefault(key, []).append(point)
        return row

    def user_names(self, name: str) -> list[str]:
        return [self.data.names["user_id"][code] for code in self.regimes[name].code_U]

    def heads(self, system: System, name: str, size: int | None) -> Integers:
        """Index [R, U] of the head of largest weight after `size` labels; without labels it is 0 for all users."""
        labels = self.benches[name].labels(size)
        log_weights_LK = torch.from_numpy(self.candidates[system.candidate].dense_log_weights_NK[labels.row_L])
        log_prior_UK = prior_of_users(log_weights_LK, torch.from_numpy(labels.user_L), labels.num_users)
        codes_UK = self.benches[name].codes(system, size)
        return (log_prior_UK + codes_UK).argmax(dim=1).view(labels.num_draws, -1).numpy()

    def among(self, name: str, groups: Groups, values_RV: Array) -> Point:
        """Mean over users with a known group, with its interval over users and draws."""
        return self.benches[name].among(len(groups.user_V)).summary(values_RV, proportion=True)["mean"]
