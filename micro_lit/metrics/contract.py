"""The contract of metrics: a score per row from the log-probability of its outcome. One class adds it to all tables.

Dimension letters: B rows of the batch, S metrics.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from micro_lit.errors import UserError

TIE = 1e-6

NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED_METRICS = ("ece",)  # beside the built-in ones

Score: TypeAlias = Tensor | tuple[Tensor, Tensor]


class Metric:
    """Base class of metrics: a score per row. Every table shows its mean, the number of rows and an interval.

    Custom metrics are subclasses in the user's own file, named in the settings:
    `packages=[mine] +metrics.surprise._target_=mine.Surprise`.

    Attributes:
        name: key in results.json, of lower-case letters, digits and _; required.
        unit: unit of the values, for display.
        better: whether higher or lower values are better.
        proportion: whether every value lies in [0, 1], so that the mean has Wilson's interval for proportions.

    Example:
        class Surprise(Metric):
            name, unit, better = "surprise", "bits", "lower"

            def values(self, log_prob_B, pairs):
                return -log_prob_B / math.log(2.0)
    """

    name: str = ""
    unit: str = ""
    better: Literal["higher", "lower"] = "lower"
    proportion: bool = False

    def values(self, log_prob_B: Float[Tensor, " B"], pairs: Any) -> Score:
        """The score of each row.

        Args:
            log_prob_B: log-probability, in nats and float64, that the model gives to the outcome of each row.
            pairs: the batch, `micro_lit.data.pairs.Pairs`.

        Returns: one number per row, [B]; or two tensors [B], the numbers and a count that is 1 for rows that the
            metric scores and 0 for the others, which are excluded from its mean and its n.
        """
        raise NotImplementedError


class NLL(Metric):
    """Negative log-likelihood of the outcome."""

    name, unit = "nll", "nats"

    def values(self, log_prob_B: Float[Tensor, " B"], pairs: Any) -> Score:
        return -log_prob_B


class Accuracy(Metric):
    """Fraction of rows whose outcome is the more probable one; a tie counts one half."""

    name, better, proportion = "accuracy", "higher", True

    def values(self, log_prob_B: Float[Tensor, " B"], pairs: Any) -> Score:
        probability_B = log_prob_B.exp()
        correct_B = (probability_B > 0.5).to(log_prob_B.dtype)
        correct_B[(probability_B - 0.5).abs() < TIE] = 0.5
        return correct_B


class Brier(Metric):
    """Squared distance of the outcome's probability from 1."""

    name = "brier"

    def values(self, log_prob_B: Float[Tensor, " B"], pairs: Any) -> Score:
        return (1.0 - log_prob_B.exp()) ** 2


BUILT_IN: tuple[Metric, ...] = (NLL(), Accuracy(), Brier())
SCORES = tuple(metric.name for metric in BUILT_IN)


def with_built_in(own: Sequence[Any]) -> tuple[Any, ...]:
    """The built-in metrics followed by the custom ones, which are checked.

    Raises `UserError`, with the name of the class, for an invalid name, direction or unit.
    """
    names = [*SCORES, *RESERVED_METRICS]
    for metric in own:
        of_class, name = type(metric).__name__, getattr(metric, "name", None)
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(f"metric {of_class}: name={name!r}; give a name of lower-case letters, digits and _")
        if name in names:
            raise UserError(f"metric {of_class}: name={name!r} is taken ({', '.join(names)}); give another")
        if getattr(metric, "better", None) not in ("higher", "lower"):
            raise UserError(f"metric {of_class}: better={getattr(metric, 'better', None)!r}; give 'higher' or 'lower'")
        if not isinstance(getattr(metric, "unit", None), str):
            raise UserError(f"metric {of_class}: unit={getattr(metric, 'unit', None)!r}; give a text, maybe empty")
        if not callable(getattr(metric, "values", None)):
            raise UserError(f"metric {of_class}: has no method values(log_prob_B, pairs); see micro_lit.metrics.Metric")
        names.append(name)
    return (*BUILT_IN, *own)


def values(
    metrics: Sequence[Any], log_prob_B: Float[Tensor, " B"], pairs: Any
) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B S"]]:
    """Scores of each row by each metric, in float64, and counts: 1 where the metric scores the row, else 0.

    Raises `UserError`, with the name of the class, if a metric does not return one number per row.
    """
    log_prob_B = log_prob_B.detach().double()
    columns = [_metric_column(metric, log_prob_B, pairs) for metric in metrics]
    values_BS, counts_BS = (torch.stack(each, dim=1) for each in zip(*columns, strict=True))
    return values_BS, counts_BS


def _metric_column(metric: Any, log_prob_B: Tensor, pairs: Any) -> tuple[Tensor, Tensor]:
    found = metric.values(log_prob_B, pairs)
    value_B, count_B = found if isinstance(found, tuple) and len(found) == 2 else (found, torch.ones_like(log_prob_B))
    of_class = type(metric).__name__
    for each in (value_B, count_B):
        if not isinstance(each, Tensor) or each.is_complex():
            raise UserError(f"metric {of_class}: values() gave {type(each).__name__}; give a tensor of numbers [B]")
        if each.shape != log_prob_B.shape:
            shape, rows = list(each.shape), len(log_prob_B)
            raise UserError(f"metric {of_class}: values() gave shape {shape} for {rows} rows; give one number for each")
    value_B, count_B = value_B.detach().to(log_prob_B), count_B.detach().to(log_prob_B)
    if not ((count_B == 0) | (count_B == 1)).all():
        raise UserError(f"metric {of_class}: a count is neither 0 nor 1; 1 is a row that the metric scores")
    value_B = value_B.where(count_B > 0, 0.0)
    if metric not in BUILT_IN and not value_B.isfinite().all() and log_prob_B.isfinite().all():
        row = int((~value_B.isfinite()).nonzero()[0])
        raise UserError(
            f"metric {of_class}: values() gave {float(value_B[row])} for row {row} of a batch; give numbers"
        )
    if metric.proportion and ((value_B < 0) | (value_B > 1)).any():
        raise UserError(f"metric {of_class}: a value is outside [0, 1], where proportion=True says that all are inside")
    return value_B, count_B


def scores(log_prob_B: Float[Tensor, " B"]) -> Float[Tensor, "B 3"]:
    """The built-in scores of each row, [B, 3], in the order of `SCORES`.

    Example:

        >>> scores(torch.tensor([0.8, 0.4]).log())  # nll, accuracy, brier
        tensor([[0.2231, 1.0000, 0.0400],
                [0.9163, 0.0000, 0.3600]])
    """
    return torch.stack([metric.values(log_prob_B, None) for metric in BUILT_IN], dim=1)
