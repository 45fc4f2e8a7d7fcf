"""Users as subjects: what so many labels of a person are worth to models of people, to mixtures and to single BT.

Scores are averaged over each user's rows and then over users, of those seen in training and of those never seen.

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
from micro_lit.compare.systems import NOTHING, System, is_oracle, of_candidate
from micro_lit.config import Settings, build
from micro_lit.models.people import prior_of_users

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

TOLD = {"user", "criterion"}  # all systems are


class Users:
    """The candidates as systems that learn from each user's labels, judged in two regimes: `seen` and `unseen`."""

    def __init__(self, candidates: Mapping[str, Candidate], settings: Settings) -> None:
        self.candidates, self.settings = candidates, settings
        own = settings["subjects"]["user"]
        self.data = next(iter(candidates.values())).data
        methods = {name: build(node) for name, node in own["adaptation"].items()}
        self.systems = [
            system
            for name, each in candidates.items()
            for system in of_candidate(each, methods, NOTHING, True, name in settings["profiled"])
        ]
        self.sizes = own["labels"]
        largest = max(size for size in self.sizes if size is not None)
        self.regimes, self.left_out = draw_users(
            self.data, largest, own["rows_left"], settings["draws"], settings["seed"]
        )
        self.benches = {name: Bench(each, self.data, settings, by_subject=True) for name, each in self.regimes.items()}

    def results(self) -> dict[str, Any]:
        """Of seen and of unseen users what was measured, see `regime`, and who was left out.

        `floors`, of a planted population, are the NLL of whoever knows the group, and of whoever knows no person.
        """
        population = self.data.population
        return {
            "rows_left": self.settings["subjects"]["user"]["rows_left"],
            "left_out": self.left_out,
            "floors": {name: population.floors[name] for name in ("oracle", "marginal")} if population else {},
            "regimes": {name: self.regime(name) for name in self.regimes},
        }

    def regime(self, name: str) -> dict[str, Any]:
        """What was measured of seen or of unseen users: how many there are, how many rows are judged, a row a system.

        `labels` (None: all), `given` (how many of these a user has, on average) and whatever a system scores are lists
        of one length; a difference is from the baseline without labels. `raters`, of seen users, holds floors of those
        who know no person, on rows whose pair several of these users judged: a system's scores there are `shared_`, and
        `shared_above` is its Brier score less its floor. `groups`, where the data name them, says how many users have
        one; `matched` is the share of these whose head stands for their group, `oracle` that of Bayes' own answer.
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
        """One system after each number of labels. start: scores of the baseline without labels."""
        bench = self.benches[name]
        row: Row = {"candidate": system.candidate, "method": system.method, "heads": system.heads}
        row["oracle"] = is_oracle(system, TOLD)
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
        """[R, U] the head of largest weight after so many labels; without a label everybody's is the first."""
        labels = self.benches[name].labels(size)
        log_weights_LK = torch.from_numpy(self.candidates[system.candidate].dense_log_weights_NK[labels.row_L])
        log_prior_UK = prior_of_users(log_weights_LK, torch.from_numpy(labels.user_L), labels.num_users)
        codes_UK = self.benches[name].codes(system, size)
        return (log_prior_UK + codes_UK).argmax(dim=1).view(labels.num_draws, -1).numpy()

    def among(self, name: str, groups: Groups, values_RV: Array) -> Point:
        """The mean over users of a known group, with its interval over users and draws."""
        return self.benches[name].among(len(groups.user_V)).summary(values_RV, proportion=True)["mean"]
