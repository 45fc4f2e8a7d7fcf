"""Routers as systems: gates that read prompt and criterion, trained on the labels of all attributes of a draw.

Dimension letters: N rows, B rows at once, U subjects in all draws, K heads.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from micro_lit.compare.candidates import Candidate, judge_rows
from micro_lit.compare.subjects import Labels, Subjects
from micro_lit.compare.systems import Array, System
from micro_lit.config import Settings, build
from micro_lit.data.datamodule import PreferenceDataModule
from micro_lit.data.pairs import PreferenceData
from micro_lit.host import threads
from micro_lit.run.restored import Trust, restore

ROUTER, SHUFFLED = "router", "router, criteria shuffled"


class Router(System):
    """Routers over the frozen heads of a candidate, one for each draw.

    Without labels the router is not trained, and the gate of stage 1 reads the criteria.

    Args:
        candidate: a trained mixture.
        data: data with criteria given, or shuffled.
        subjects: subjects whose test rows are scored.
        settings: settings of `micro_lit.compare`.
        method: name of the method in tables.
    """

    knows = frozenset({"criterion"})
    random = True

    def __init__(
        self, candidate: Candidate, data: PreferenceData, subjects: Subjects, settings: Settings, method: str = ROUTER
    ) -> None:
        super().__init__(candidate.name, method, candidate.num_heads)
        self.link, self.data, self.settings = candidate.link, data, settings
        features_dir = Path(settings["paths"]["features_dir"])
        self.stage1 = restore(candidate.folder, data, features_dir, Trust.of(settings))
        self.test_N = torch.from_numpy(subjects.row_N)
        self.place_of_row = torch.zeros(len(data.pairs), dtype=torch.int64)
        self.place_of_row[self.test_N] = torch.arange(len(self.test_N))
        # Margins and log weights [N, K] of the test rows, by router number.
        self.judged: list[tuple[Tensor, Tensor]] = []

    def learn(self, labels: Labels, flipped: bool = False) -> Int64[Tensor, "U 1"]:
        """Trains a router for each draw. The code of a subject is the index of its router."""
        assert not flipped, "a router cannot learn from flipped labels"
        first = len(self.judged)
        self.judged += [self._train(labels.of_draw(draw), draw) for draw in range(labels.num_draws)]
        return first + torch.arange(labels.num_draws).repeat_interleave(labels.num_subjects)[:, None]

    def _train(self, row_L: np.ndarray, draw: int) -> tuple[Tensor, Tensor]:
        """Trains a router on these labels; returns its margins and log weights [N, K] of the test rows."""
        seed = self.settings["seed"] + draw
        pl.seed_everything(seed, verbose=False)
        stage1 = self.stage1
        model = build(self.settings["router"], backbone=stage1.backbone, names=self.data.names, stage1=stage1)
        if len(row_L):
            own = dataclasses.replace(self.data, splits={**self.data.splits, "train": torch.from_numpy(row_L)})
            loader = PreferenceDataModule(own, **self.settings["loader"], seed=seed)
            with torch.enable_grad(), threads.using(stage1.backbone):
                build(self.settings["trainer"], logger=False).fit(model, loader)
        model.eval()
        test = dataclasses.replace(self.data, pairs=self.data.pairs[self.test_N])
        found = judge_rows(model, test, self.settings["loader"]["eval_batch_size"])
        return torch.from_numpy(found["margins_BK"]), torch.from_numpy(found["log_weights_BK"])

    def log_prob(self, row_B: Int64[Tensor, " B"], codes_BC: Int64[Tensor, "B 1"]) -> Float[Tensor, " B"]:
        [number] = codes_BC.unique().tolist()
        margins_BK, log_weights_BK = (each_NK[self.place_of_row[row_B]] for each_NK in self.judged[int(number)])
        return self.link.log_prob(margins_BK, log_weights_BK)

    def mean_weights(self, codes_U1: Tensor, subjects: Subjects) -> Array:
        """Mean weights [A, K] over the test rows of each attribute and over draws."""
        numbers = codes_U1[:: subjects.num_users, 0].tolist()
        return np.mean([mean_weights(self.judged[number][1].numpy(), subjects) for number in numbers], axis=0)


def mean_weights(log_weights_NK: Array, subjects: Subjects) -> Array:
    """Mean weights [A, K] over the test rows of each attribute."""
    weights_NK = np.exp(log_weights_NK)
    return np.stack([weights_NK[subjects.user_N == code].mean(axis=0) for code in range(subjects.num_users)])
