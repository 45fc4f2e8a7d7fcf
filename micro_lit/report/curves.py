"""Curves with intervals, labelled at their ends beside the panel."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from scipy.optimize import isotonic_regression

from micro_lit.report import figures

NAME_GAP = 0.145  # inches between names beside a panel
INK = "#222222"


class End(NamedTuple):
    """The right end of a curve or line: its name, position and style."""

    name: str
    x: float
    value: float
    style: Mapping[str, Any]


def styles() -> Iterator[dict[str, str]]:
    """Yields colours and markers for one curve after another."""
    pairs = zip(itertools.cycle(figures.COLOURS), itertools.cycle(figures.MARKERS), strict=False)
    return ({"color": colour, "marker": marker} for colour, marker in pairs)


def draw_curve(
    axes: Axes,
    name: str,
    x: Sequence[float],
    points: Sequence[Mapping[str, float]],
    style: Mapping[str, Any],
    main: bool,
    **settings: Any,
) -> End:
    """Draws a curve, with its intervals if `main`; returns its end.

    Args:
        points: `value`, `low` and `high` of each point.
        style: colour and marker.
        settings: further arguments of `Axes.plot`.
    """
    value, low, high = ([point[part] for point in points] for part in ("value", "low", "high"))
    style = {**style, "markersize": 4.5 if main else 3.5}
    axes.plot(x, value, label=name, **style, linewidth=2.0 if main else 1.1, zorder=4 if main else 3, **settings)
    if main:
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    return End(name, x[-1], value[-1], style)


def draw_references(axes: Axes, references: Mapping[str, float], right: float) -> list[End]:
    """Draws horizontal reference lines by name; returns their ends at x = `right`."""
    ends = []
    for (name, value), dashes in zip(references.items(), itertools.cycle(figures.DASHES[1:]), strict=False):
        axes.axhline(value, color=figures.FLOOR_COLOUR, linestyle=dashes, linewidth=1, zorder=2)
        ends.append(End(name, right, value, {"color": figures.FLOOR_COLOUR, "marker": ""}))
    return ends


def name_ends(axes: Axes, ends: Sequence[End], main: set[str], height: float) -> None:
    """Writes names to the right of a panel of `height` inches; adds the value of ends above the panel."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)  # fixed, so that names do not change the limits
    gap = NAME_GAP * (top - bottom) / height
    places = _spread([min(end.value, top) for end in ends], bottom, top, gap)
    for place, (name, x, value, style) in zip(places, ends, strict=True):
        axes.annotate(
            name if value <= top else f"{name} (to {value:.2f})", (x, min(value, top)), (1.095, place),
            textcoords=("axes fraction", "data"), va="center", annotation_clip=False,
            fontsize=7.5, fontweight="bold" if name in main else "normal", color=INK,
            arrowprops={"arrowstyle": "-", "color": style["color"], "linewidth": 0.5, "relpos": (0, 0.5)},
        )  # fmt: skip
        axes.plot(1.07, place, **style, transform=axes.get_yaxis_transform(), clip_on=False)


def _spread(values: Sequence[float], bottom: float, top: float, gap: float) -> list[float]:
    """Positions from bottom to top, at least `gap` apart, with the least sum of squared distances from the values."""
    steps = gap * np.arange(len(values))
    order = np.argsort(values, kind="stable")
    places = np.empty(len(values))
    places[order] = isotonic_regression(np.array(values)[order] - steps).x.clip(bottom, top - steps[-1]) + steps
    return places.tolist()
