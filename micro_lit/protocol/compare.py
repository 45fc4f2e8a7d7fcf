"""The comparison: who judges the test rows how well, knowing nothing of the rater, a criterion, or some labels.

Every system is judged on the same rows, by the one likelihood, with the same labels to adapt to. A target is an
attribute; its labels are drawn several times, and the scores are kept for each draw.

Dimension letters: N test rows, K heads, R draws, A attributes, U targets: one for each draw and attribute, L labels.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from scipy.special import log_expit

from micro_lit import adaptation, metrics, runs, threads
from micro_lit.config import Settings, build
from micro_lit.data.budgets import draw_orders
from micro_lit.data.datamodule import PreferenceDataModule
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError
from micro_lit.likelihood import LinkName as Link
from micro_lit.likelihood import preference_log_prob
from micro_lit.protocol.candidates import Candidate, judge
from micro_lit.restored import Trust

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Method = Callable[[Array, Integers, Array], Array]


class Targets(NamedTuple):
    """The rows that are judged, and the labels that adaptation may see.

    codes: the attributes that the test rows have, by their codes in the data.
    row_N: test rows of known attribute, as rows of the data. attribute_N: of which of `codes`. prompt_N: any codes.
    keep_RN: which of them are judged in each draw.
    labels_RA: the rows that may be asked for, in random order, for each draw and attribute.
    """

    codes: Integers
    row_N: Integers
    attribute_N: Integers
    prompt_N: Integers
    keep_RN: NDArray[np.bool_]
    labels_RA: list[list[Integers]]

    @property
    def num_attributes(self) -> int:
        return len(self.labels_RA[0])

    def budget(self, size: int) -> tuple[Integers, Integers]:
        """The first labels of every target: their rows [L], and whose they are [L], target r * A + a."""
        orders = [order[:size] for orders in self.labels_RA for order in orders]
        return np.concatenate(orders), np.repeat(np.arange(len(orders)), [len(order) for order in orders])


def draw_targets(data: PreferenceData, budget_from: str, largest: int, draws: int, seed: int) -> Targets:
    """The test rows of known attribute, and so many draws of `largest` labels or more.

    budget_from: `train`, or `test` where the data to train on are others: then the rows that a draw may adapt to, and
    all rows of their prompts, are judged by nobody in that draw.

    Raises `UserError` when an attribute has too few rows for the largest budget.
    """
    row_N = data.splits["test"].numpy()
    attribute_N = data.pairs.label_N("attribute").numpy()
    row_N = row_N[attribute_N[row_N] >= 0]
    present, attribute_N = np.unique(attribute_N[row_N], return_inverse=True)
    names = data.names["attribute"]
    # Rows of one prompt are no independent evidence. Vectors have no prompts, only topics, which thousands share.
    prompt_of_row = np.arange(len(data.pairs)) if data.is_vectors else data.pairs.context_N.numpy()
    labels_RA, keep_RN = [], np.ones((draws, len(row_N)), dtype=bool)
    for draw in range(draws):
        orders = draw_orders(data, budget_from, seed, draw)
        for code in present:
            if len(orders[code]) < largest:
                raise UserError(
                    f"budgets: attribute {names[code]!r} has {len(orders[code])} {budget_from} rows, and {largest} "
                    "labels are to be drawn; give smaller budgets"
                )
        labels_RA.append([orders[code][:largest] if budget_from == "test" else orders[code] for code in present])
        if budget_from == "test":
            keep_RN[draw] = ~np.isin(prompt_of_row[row_N], prompt_of_row[np.concatenate(labels_RA[-1])])
    for number, code in enumerate(present):
        if not keep_RN[:, attribute_N == number].any(axis=1).all():
            raise UserError(
                f"budgets: the labels and their prompts take all test rows of {names[code]!r}; give smaller budgets"
            )
    return Targets(present, row_N, attribute_N, prompt_of_row[row_N], keep_RN, labels_RA)


def own_log_probs(candidate: Candidate, targets: Targets) -> Array:
    """[1, N] with the weights of the candidate's own gate, which knows the prompt alone."""
    margins_NK, log_weights_NK = (x[targets.row_N] for x in (candidate.margins_NK, candidate.log_weights_NK))
    return _log_probs(margins_NK, log_weights_NK, candidate.link)[None]


def prior_UK(candidate: Candidate, data: PreferenceData, targets: Targets) -> Array:
    """The mean weights over training pairs, for every target."""
    weights_K = np.exp(candidate.log_weights_NK[data.splits["train"].numpy()]).mean(axis=0)
    return np.tile(weights_K / weights_K.sum(), (len(targets.labels_RA) * targets.num_attributes, 1))


def adapt(
    candidate: Candidate, targets: Targets, method: Method, start_UK: Array, budget: int, flipped: bool = False
) -> Array:
    """[U, K] the weights that a method gives every target after so many labels; flipped: after the opposite labels."""
    rows_L, target_L = targets.budget(budget)
    margins_LK = candidate.margins_NK[rows_L]
    return method(-margins_LK if flipped else margins_LK, target_L, start_UK)


def weighted_log_probs(candidate: Candidate, targets: Targets, weights_UK: Array) -> Array:
    """[R, N] every row judged with the weights of its own attribute, in every draw."""
    margins_NK = candidate.margins_NK[targets.row_N]
    log_prob_RN = np.empty(targets.keep_RN.shape)
    weights_RAK = weights_UK.reshape(len(log_prob_RN), targets.num_attributes, -1)
    for code in range(targets.num_attributes):
        own_N = targets.attribute_N == code
        log_prob_RN[:, own_N] = _log_probs_of_draws(margins_NK[own_N], weights_RAK[:, code], candidate.link)
    return log_prob_RN


def best_head_oracle(candidate: Candidate, targets: Targets) -> Array:
    """[R, N] ORACLE: each attribute judged by the head that does best on all of its TEST rows, adapted to or not."""
    rows_NK = candidate.margins_NK[targets.row_N]
    start_AK = np.full((targets.num_attributes, candidate.num_heads), 1 / candidate.num_heads)
    weights_AK = adaptation.best_head_oracle(rows_NK, targets.attribute_N, start_AK)
    return weighted_log_probs(candidate, targets, np.tile(weights_AK, (len(targets.keep_RN), 1)))


def turned(before_RN: Array, after_RN: Array, opposite_RN: Array, keep_RN: NDArray[np.bool_]) -> float | None:
    """Of the predictions that the labels turned to the other response, the share that opposite labels do not.

    The three are log-probabilities without labels, with them, and with every label flipped. None: no prediction turned.
    """
    side_RN, after_side_RN, opposite_side_RN = (each > np.log(0.5) for each in (before_RN, after_RN, opposite_RN))
    moved_RN = keep_RN & (after_side_RN != side_RN)
    return float((opposite_side_RN != after_side_RN)[moved_RN].mean()) if moved_RN.any() else None


class Routed(NamedTuple):
    """What routers say, one a draw: log-probabilities [R, N], and the mean weights [A, K] on each attribute's rows."""

    log_prob_RN: Array
    weights_AK: Array


def route(candidate: Candidate, data: PreferenceData, targets: Targets, budget: int, settings: Settings) -> Routed:
    """Routers trained on the labels of all attributes, one a draw.

    data: with criteria given, or shuffled. At budget 0 the gate of stage 1 reads the criteria.
    """
    stage1 = runs.restore(candidate.folder, data, Path(settings["paths"]["features_dir"]), Trust.of(settings))
    log_prob_RN, weights_AK = np.empty(targets.keep_RN.shape), 0.0
    for draw, labels_A in enumerate(targets.labels_RA):
        pl.seed_everything(settings["seed"] + draw, verbose=False)
        model = build(settings["router"], backbone=stage1.backbone, names=data.names, stage1=stage1)
        if budget:
            rows = torch.from_numpy(np.concatenate([order[:budget] for order in labels_A]))
            own = dataclasses.replace(data, splits={**data.splits, "train": rows})
            loader = PreferenceDataModule(own, **settings["loader"], seed=settings["seed"] + draw)
            with threads.using(stage1.backbone):
                build(settings["trainer"], logger=False).fit(model, loader)
        model.eval()
        test = dataclasses.replace(data, pairs=data.pairs[torch.from_numpy(targets.row_N)])
        margins_NK, log_weights_NK = judge(model, test, settings["loader"]["eval_batch_size"])
        log_prob_RN[draw] = _log_probs(margins_NK, log_weights_NK, candidate.link)
        weights_AK = weights_AK + mean_weights(log_weights_NK, targets) / len(log_prob_RN)
    return Routed(log_prob_RN, weights_AK)


def mean_weights(log_weights_NK: Array, targets: Targets) -> Array:
    """[A, K] the mean weights of the test rows of each attribute."""
    weights_NK = np.exp(log_weights_NK)
    return np.stack([weights_NK[targets.attribute_N == code].mean(axis=0) for code in range(targets.num_attributes)])


def elicit(
    candidate: Candidate, targets: Targets, strategies: Mapping[str, Callable], start_UK: Array, pool: int, labels: int
) -> dict[str, list[Array]]:
    """For each strategy the log-probabilities [R, N] after 0, 1, ... labels that it asked for, posterior weights.

    pool: how many rows of an attribute's may be asked for in a draw; each draw has its own.
    """
    rows, target = targets.budget(pool)
    rows_P, place = np.unique(rows, return_inverse=True)
    allowed_UP = np.zeros((len(start_UK), len(rows_P)), dtype=bool)
    allowed_UP[target, place] = True
    found = {}
    for name, strategy in strategies.items():
        asked = adaptation.elicit(candidate.margins_NK[rows_P], allowed_UP, start_UK, strategy, labels)
        found[name] = [weighted_log_probs(candidate, targets, weights_UK) for weights_UK in asked.weights_TUK]
    return found


def scores(log_prob_RN: Array, names: Sequence[str] = ("accuracy", "nll")) -> dict[str, Array]:
    """Accuracy, where a tie counts one half, NLL in nats or Brier score of every row, by the rule of all reports."""
    found = metrics.scores(torch.from_numpy(log_prob_RN).flatten()).numpy().reshape(*log_prob_RN.shape, -1)
    return {name: found[..., metrics.SCORES.index(name)] for name in names}


def _log_probs(margins_NK: Array, log_weights_NK: Array, link: Link) -> Array:
    """[N] the one likelihood of this library, in float64."""
    return preference_log_prob(torch.from_numpy(margins_NK), torch.from_numpy(log_weights_NK), link).numpy()


def _log_probs_of_draws(margins_NK: Array, weights_RK: Array, link: Link) -> Array:
    """[R, N] the same for every row under every draw's weights, as one product of matrices."""
    if link == "reward":
        return log_expit(weights_RK @ margins_NK.T)
    log_NK = log_expit(margins_NK)
    # The surest head's is taken out, so that only what is less than 1e-308 of it is lost.
    largest_N1 = log_NK.max(axis=1, keepdims=True)
    mixed_RN = weights_RK @ np.exp(log_NK - largest_N1).T
    return np.log(np.maximum(mixed_RN, np.finfo(np.float64).tiny)) + largest_N1.T
