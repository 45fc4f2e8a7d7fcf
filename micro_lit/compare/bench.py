"""The bench: systems judged on the rows of some subjects, scored by one rule, with intervals on the same resamples.

Dimension letters: N test rows, U subjects, R draws, C numbers of a code.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from micro_lit import metrics
from micro_lit.compare.resampling import Resampling
from micro_lit.compare.subjects import Subjects
from micro_lit.compare.systems import System, judge, learned, turned
from micro_lit.config import Settings

Array = NDArray[np.float64]
Point = dict[str, float | None]

SCORES = ("accuracy", "nll")


class Bench:
    """Judges and scores systems on the test rows of some subjects.

    Args:
        by_subject: whether the mean is over subjects, which are the units of the intervals too; else it is over the
            rows of each subject and then over subjects, with prompts as units.
    """

    def __init__(self, subjects: Subjects, settings: Settings, by_subject: bool) -> None:
        self.subjects, self.by_subject = subjects, by_subject
        self.batch_size = settings["loader"]["eval_batch_size"]
        draws, resamples, seed = (settings[key] for key in ("draws", "resamples", "seed"))
        if by_subject:
            self.resampling = resample(subjects.num_users, draws, resamples, seed)
        else:
            keep_RN = np.broadcast_to(subjects.keep_RN, (draws, len(subjects.row_N)))
            self.resampling = Resampling(subjects.user_N, subjects.prompt_N, keep_RN, resamples, seed)
        self.labels = functools.cache(subjects.labels)  # by the number of labels, and whether every draw counts
        self.codes = functools.cache(self._codes)
        self.kept: list[pd.DataFrame] = []

    def _codes(self, system: System, size: int | None, flipped: bool = False) -> torch.Tensor:
        return learned(system, self.labels(size, system.random), flipped)

    def log_prob(self, system: System, size: int | None = 0, flipped: bool = False) -> Array:
        """[R, N] after so many labels of each subject; None: after all."""
        return judge(system, self.subjects, self.codes(system, size if system.learns else 0, flipped), self.batch_size)

    def reduced(self, log_prob_RN: Array, names: Sequence[str] = SCORES) -> dict[str, Array]:
        """Scores of rows [R, N], or of subjects [R, U] where these are the units."""
        found = scores(log_prob_RN, names)
        return {name: self.subjects.mean_by_user(each) for name, each in found.items()} if self.by_subject else found

    def summary(self, values: Array, baseline: Array | None = None) -> dict[str, Point]:
        """The mean with its interval, under `mean`, and that of each subject where rows are averaged first."""
        return {name: each._asdict() for name, each in self.resampling.summary(values, baseline).items()}

    def mean(self, values: Array, baseline: Array | None = None) -> Point:
        return self.summary(values, baseline)["mean"]

    def turned(self, system: System, size: int | None) -> float | None:
        """See `systems.turned`: the check with the labels of all subjects flipped."""
        judged = (self.log_prob(system, each, flipped) for each, flipped in ((0, False), (size, False), (size, True)))
        return turned(*judged, self.subjects.keep_RN)

    def keep(self, part: str, system: System, size: int | None, log_prob_RN: Array, names: Sequence[str]) -> None:
        """Notes the scores of every subject in every draw for the file of scores. names: of the subjects."""
        found = {name: self.subjects.mean_by_user(each_RN) for name, each_RN in scores(log_prob_RN, SCORES).items()}
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


def resample(num_users: int, draws: int, resamples: int, seed: int) -> Resampling:
    """Resamples of draws and of subjects, each one unit."""
    user_U = np.arange(num_users)
    return Resampling(np.zeros_like(user_U), user_U, np.ones((draws, num_users), dtype=bool), resamples, seed)


def scores(log_prob_RN: Array, names: Sequence[str] = SCORES) -> dict[str, Array]:
    """Accuracy, where a tie counts one half, NLL in nats or Brier score of every row, by the rule of all reports."""
    found = metrics.scores(torch.from_numpy(log_prob_RN).flatten()).numpy().reshape(*log_prob_RN.shape, -1)
    return {name: found[..., metrics.SCORES.index(name)] for name in names}


def baseline_of(settings: Settings, systems: Sequence[System]) -> System:
    """The system that all others are compared with."""
    return next(system for system in systems if system.candidate == settings["baseline"])


Row = dict[str, Any]
