"""Figure of a stream of labels: regret to the best judge, and its upper bound.

Dimension letters: N labels, T different numbers of labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from micro_lit.adapt.labels import Array, Integers
from micro_lit.report.figures import COLOURS, FLOOR_COLOUR, STYLE


def draw_regret(stream: Mapping[str, Sequence[Any]]) -> Figure:
    """Draws regret and its bound over labels, in nats; for several users mean and largest regret, and largest bound.

    Args:
        stream: for each label its `user`, its position `label` among the labels of the user, from 1, and `regret` and
            `bound` after it, as in `micro_lit.adapt.profiles.Learned`.
    """
    regret_N = np.array(stream["regret"])
    label_T, row_N, count_T = np.unique(stream["label"], return_inverse=True, return_counts=True)
    num_users = len(set(stream["user"]))
    curves = {"regret" if num_users == 1 else f"largest regret of {num_users:,} users": _largest(regret_N, row_N)}
    if num_users > 1:
        curves["mean regret"] = np.bincount(row_N, weights=regret_N) / count_T
    with rc_context(STYLE):
        figure = Figure(figsize=(5.9, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0.0, color=FLOOR_COLOUR, linewidth=0.5)
        marker = "." if len(label_T) < 50 else ""
        for (name, values_T), colour in zip(curves.items(), COLOURS, strict=False):
            axes.plot(label_T, values_T, color=colour, marker=marker, linewidth=1.3, label=name)
        if None not in stream["bound"]:  # known for the built-in rules only
            bound_T = _largest(np.array(stream["bound"]), row_N)
            axes.plot(label_T, bound_T, color=FLOOR_COLOUR, marker=marker, linestyle="--", linewidth=1, label="bound")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(title="Regret to the best of model and heads", xlabel="labels of a user", ylabel="nats")
        axes.legend(fontsize=8, framealpha=0.9, edgecolor="none")
    return figure


def _largest(values_N: Array, row_N: Integers) -> Array:
    """Largest value [T] of each row."""
    largest_T = np.full(row_N.max() + 1, -np.inf)
    np.maximum.at(largest_T, row_N, values_N)
    return largest_T
