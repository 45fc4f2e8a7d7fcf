"""Scores of systems on the test rows of some subjects, by the same metrics as in all reports.

Dimension letters: N test rows, U subjects, R draws, C numbers of a code, S metrics.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from micro_lit.compare.averages import Averages, Point
from micro_lit.compare.subjects import Subjects
from micro_lit.compare.systems import System, judge, learned, turned
from micro_lit.config import Settings, build
from micro_lit.data.pairs import PreferenceData
from micro_lit.metrics import BUILT_IN, units_of, values, with_built_in
from micro_lit.metrics.validity import why_impossible

Array = NDArray[np.float64]
Row = dict[str, Any]

SHOWN_SYSTEMS = ("accuracy", "nll")  # built-in metrics in tables; the user's own metrics follow


class Bench:
    """Evaluates systems on the test rows of some subjects.

    Args:
        subjects: subjects, their test rows and their labels.
        data: the data of these rows.
        settings: settings of `micro_lit.compare`.
        by_subject: True: the subjects are the units of the intervals. False: units as in
            `micro_lit.metrics.units_of`. Means are over the rows of each subject, then over subjects, in both cases.

    Raises:
        UserError: a metric of the settings does not implement `Metric`.
    """

    def __init__(self, subjects: Subjects, data: PreferenceData, settings: Settings, by_subject: bool) -> None:
        self.subjects, self.by_subject, self.draws = subjects, by_subject, settings["draws"]
        self.batch_size = settings["loader"]["eval_batch_size"]
        self.metrics = {each.name: each for each in with_built_in([build(x) for x in settings["metrics"].values()])}
        self.shown = [*SHOWN_SYSTEMS, *list(self.metrics)[len(BUILT_IN) :]]
        self.pairs, self.population = data.pairs[torch.from_numpy(subjects.row_N)], data.population
        units = units_of(data, self.pairs)
        unit_N = subjects.user_N if by_subject else _codes(units, self.pairs)
        keep_RN = np.broadcast_to(subjects.keep_RN, (self.draws, len(unit_N)))
        self.rows = Averages(np.zeros_like(unit_N), unit_N, keep_RN, units.name)
        of_rows = Averages(subjects.user_N, unit_N, keep_RN, units.name)
        self.averages = self.among(subjects.num_users) if by_subject else of_rows
        self.labels = functools.cache(subjects.labels)  # by number of labels and `every_draw`
        self.codes = functools.cache(self._learned)
        self.kept: list[pd.DataFrame] = []

    def among(self, num_users: int) -> Averages:
        """Averages over users, each of which is one unit."""
        keep_RU = np.ones((self.draws, num_users), dtype=bool)
        return Averages(np.zeros(num_users, dtype=np.int64), np.arange(num_users), keep_RU, "users")

    def _learned(self, system: System, size: int | None, flipped: bool = False) -> torch.Tensor:
        return learned(system, self.labels(size, system.random), flipped)

    def log_prob(self, system: System, size: int | None = 0, flipped: bool = False) -> Array:
        """Log-probability [R, N], in nats, after `size` labels of each subject; None: after all."""
        return judge(system, self.subjects, self.codes(system, size if system.learns else 0, flipped), self.batch_size)

    def scores(self, log_prob_RN: Array) -> dict[str, Array]:
        """Scores [R, N] by metric; NaN for rows that the metric does not score."""
        found = []
        for log_prob_N in log_prob_RN:
            values_NS, counts_NS = values(list(self.metrics.values()), torch.from_numpy(log_prob_N), self.pairs)
            found.append(values_NS.where(counts_NS > 0, torch.nan).numpy())
        return dict(zip(self.metrics, np.stack(found, axis=-1).transpose(1, 2, 0), strict=True))

    def reduced(self, scores: Mapping[str, Array]) -> Mapping[str, Array]:
        """Scores of rows [R, N], or of subjects [R, U] when subjects are the units."""
        return self.by_user(scores) if self.by_subject else scores

    def by_user(self, scores: Mapping[str, Array]) -> dict[str, Array]:
        """Means [R, U] over the rows of each subject."""
        return {name: self.subjects.mean_by_user(each_RN) for name, each_RN in scores.items()}

    def summary(self, score: str, found: Array, baseline: Array | None = None) -> dict[str, Point]:
        """Mean with its interval, under `mean`; also the mean of each subject unless subjects are the units."""
        return self.averages.summary(found, baseline, self.metrics[score].proportion)

    def mean(self, score: str, found: Array, baseline: Array | None = None) -> Point:
        return self.summary(score, found, baseline)["mean"]

    def turned(self, system: System, size: int | None) -> float | None:
        """The check of `systems.turned`: compares with the labels of all subjects flipped."""
        judged = (self.log_prob(system, each, flipped) for each, flipped in ((0, False), (size, False), (size, True)))
        return turned(*judged, self.subjects.keep_RN)

    def why_impossible(self, system: System, size: int | None, scores: Mapping[str, Array]) -> str | None:
        """Returns the reason why scores of a system cannot be true; None when they are possible.

        Labels of a subject reveal its group, as a criterion does. After labels the floor is therefore F0.
        """
        results = {"test": {name: self.mean_of_rows(scores[name]) for name in SHOWN_SYSTEMS}, "excess": {}}
        if self.population is not None:
            for column, name in enumerate(("oracle", "marginal")):
                reference_N = self.pairs.reference_log_probs_NF[:, column].double().numpy()
                results["excess"][name] = self.mean_of_rows(scores["nll"], -reference_N[None])
        known = system.knows | ({"user"} if system.learns and size != 0 else set())
        return why_impossible(results, known)

    def mean_of_rows(self, values_RN: Array, baseline_RN: Array | None = None) -> Point:
        """Mean over all scored rows, in the format of an estimate in results.json."""
        found = self.rows.summary(values_RN, baseline_RN)["mean"]
        error = found["se_units"] or 0.0
        return found | {"se": error, "se_units": error, "n": len(self.subjects.row_N)}

    def keep(
        self, part: str, system: System, size: int | None, scores: Mapping[str, Array], names: Sequence[str]
    ) -> None:
        """Stores the scores of every subject in every draw for scores.parquet. names: names of the subjects."""
        found = self.by_user(scores)
        num_draws, num_users = found["nll"].shape
        self.kept.append(
            pd.DataFrame(
                {
                    "part": part,
                    "candidate": system.candidate,
                    "method": system.method,
                    "labels": "all" if size is None else str(size),
                    "draw": np.repeat(np.arange(num_draws), num_users),
                    "subject": np.tile(names, num_draws),
                    **{name: each_RU.ravel() for name, each_RU in found.items()},
                }
            )
        )


def _codes(units: Any, pairs: Any) -> NDArray[np.int64]:
    """Code of each row's unit; a row without a unit becomes its own unit."""
    if not units.size:
        return np.arange(len(pairs))
    code_N = units.code(pairs).numpy()
    return np.where(code_N >= 0, code_N, units.size + np.arange(len(code_N)))


def baseline_of(settings: Settings, systems: Sequence[System]) -> System:
    """The system that all others are compared with."""
    return next(system for system in systems if system.candidate == settings["baseline"])
