"""Figures of many runs: rows of dots, or curves over a setting, with floors as lines.

Colours are the colour-blind safe palette of Okabe and Ito; every series also has its own marker.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from micro_lit.errors import UserError
from micro_lit.host.files import write_whole
from micro_lit.report.collect import FinishedRun, group_runs, look_up, split_by_number, values_of
from micro_lit.report.results import floor_lines
from micro_lit.report.tables import display_name, slopes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"  # 8 markers and 7 colours: a combination repeats only after 56 series
FLOOR_COLOUR = "#555555"
DASHES = ((0, ()), (0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 3)))
REPETITIONS = {"linestyle": "none", "alpha": 0.35, "markersize": 4, "markeredgewidth": 0}
Z = 1.96
DPI = 160
ROW, GAP = 0.34, 0.1  # inches: height of a row of dots, and gap to the names of floors
TICK_ROUNDING = 1e-9
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "svg.fonttype": "none",
    "svg.hashsalt": "micro_lit",  # makes SVG files deterministic
}


def draw_runs(runs: Sequence[FinishedRun], spec: Mapping[str, Any]) -> Figure:
    """Draws a figure with a row of panels for each value of the setting `panels`, and a panel for each quantity in `y`.

    Each combination of the other settings in which runs differ is a curve over `x`, or without `x` a row of dots.

    Args:
        runs: valid runs of one collection.
        spec: settings `report` of the command.

    Raises:
        UserError: no run has a quantity or the setting `panels`, or `x` is not a number.
    """
    first, *_ = spec["y"]
    for path in spec["y"]:
        if not values_of(runs, path):
            raise UserError(f"report.y: no run has measured {path!r}, which would be found under it in results.json")
    if spec["panels"] and all(run.setting(spec["panels"]) is None for run in runs):
        raise UserError(f"report.panels={spec['panels']}: no run has such a setting")
    panels = group_runs(runs, spec["panels"]) if spec["panels"] else {"": runs}
    names = [name for name in runs[0].labels if name not in (spec["x"], spec["panels"])]
    styles = {
        series: {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        for number, series in enumerate(group_runs(runs, *names))
    }
    width, height = 5.9 * len(spec["y"]), 3.9
    if spec["x"] is None:
        width, height = max(8.0, 5.0 * len(spec["y"])), 1.9 + ROW * len(styles)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), len(spec["y"]), squeeze=False)
        for axes_row, (panel, group) in zip(grid, panels.items(), strict=True):
            series = group_runs(group, *names)
            if spec["x"] is None:  # sorted by the first quantity, lowest on top, in all panels
                series = dict(sorted(series.items(), key=lambda row: _mean(values_of(row[1], first)), reverse=True))
                axes_row[0].set_ylabel(panel, fontweight="bold")  # not a title: names of floors are above the panel
            for axes, path in zip(axes_row, spec["y"], strict=True):
                if spec["x"] is None:
                    _dots(axes, series, styles, path)
                    _floor_lines(axes, group, path)
                else:
                    _curves(axes, series, styles, path, spec)
                    _floor_curves(axes, group, path, spec["x"])
                    axes.set_title(panel)
        if spec["title"]:
            figure.suptitle(spec["title"], x=0.01, ha="left", fontweight="bold")
    return figure


def save(figure: Figure, folder: Path, name: str = "figure", style: Mapping[str, Any] = STYLE) -> list[Path]:
    """Writes a figure as PNG and SVG, atomically and deterministically.

    Args:
        name: file name without suffix.
        style: rc settings with which the figure was drawn.

    Returns:
        The paths, PNG first.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = paths = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    with rc_context(style):
        # `format` is needed, because the temporary file has another suffix.
        write_whole(png, lambda file: figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}))
        write_whole(svg, lambda file: figure.savefig(file, format="svg", metadata={"Date": None}))
    return paths


def _dots(axes: Axes, series: Mapping[str, list[FinishedRun]], styles: Mapping[str, Any], path: str) -> None:
    for height, (name, runs) in enumerate(series.items()):
        if values := values_of(runs, path):
            axes.plot(values, [height] * len(values), **styles[name], **REPETITIONS)
            axes.errorbar(_mean(values), height, xerr=_sd(values), **styles[name], capsize=3)
    axes.set_yticks(range(len(series)), [name or "all runs" for name in series])
    axes.set_ylim(-0.6, len(series) - 0.4)
    axes.set_xlabel(_axis_name(path))
    axes.locator_params(axis="x", nbins=7)


def _floor_lines(axes: Axes, runs: Sequence[FinishedRun], path: str) -> None:
    """Draws each floor as a vertical line, with its name above the panel."""
    floors = _agreed_floors(runs, path)
    for floor, dashes in zip(floors.values(), itertools.cycle(DASHES), strict=False):
        value, error = floor["value"], Z * floor["se"]
        axes.axvline(value, color=FLOOR_COLOUR, linestyle=dashes, linewidth=1, zorder=0)
        if error:
            axes.axvspan(value - error, value + error, color=FLOOR_COLOUR, alpha=0.15, linewidth=0, zorder=0)
    axes.margins(x=0.06)
    axes.autoscale_view()
    _, width = _inches(axes)
    top = axes.get_xaxis_transform()
    above = top + ScaledTranslation(0, GAP, axes.figure.dpi_scale_trans)
    places = _apart([floor["value"] for floor in floors.values()], axes.get_xlim(), width)
    for place, (name, floor) in zip(places, floors.items(), strict=True):
        axes.annotate(
            name, (floor["value"], 1.0), (place, 1.0), xycoords=top, textcoords=above, rotation=40, ha="left",
            va="bottom", fontsize=7.5, color=FLOOR_COLOUR,
            arrowprops={"arrowstyle": "-", "color": FLOOR_COLOUR, "linewidth": 0.5, "relpos": (0, 0)},
        )  # fmt: skip


def _curves(
    axes: Axes,
    series: Mapping[str, list[FinishedRun]],
    styles: Mapping[str, Any],
    path: str,
    spec: Mapping[str, Any],
) -> None:
    if spec["log"]:
        axes.set(xscale="log", yscale="log")
    for name, runs in series.items():
        values = {place: values_of(group, path) for place, group in split_by_number(runs, spec["x"]).items()}
        values = {place: found for place, found in values.items() if found}
        rates = slopes(runs, spec["x"], path) if spec["log"] else []
        axes.errorbar(
            list(values),
            [_mean(found) for found in values.values()],
            yerr=[_sd(found) for found in values.values()],
            label=f"{name}  (slope {_mean(rates):.2f})".strip() if rates else name,
            **styles[name], markersize=4.5, linewidth=1.3, capsize=2.5,
        )  # fmt: skip
    axes.set_xlabel(display_name(spec["x"]))
    axes.set_ylabel(_axis_name(path))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8, framealpha=0.9, edgecolor="none")


def _floor_curves(axes: Axes, runs: Sequence[FinishedRun], path: str, x: str) -> None:
    """Draws each floor as a curve over x, with its name at the right end."""
    along = {place: _agreed_floors(group, path) for place, group in split_by_number(runs, x).items()}
    names = dict.fromkeys(name for floors in along.values() for name in floors)
    ends = []
    for name, dashes in zip(names, itertools.cycle(DASHES), strict=False):
        places = [place for place, floors in along.items() if name in floors]
        values = np.array([along[place][name]["value"] for place in places])
        errors = Z * np.array([along[place][name]["se"] for place in places])
        axes.plot(places, values, color=FLOOR_COLOUR, linestyle=dashes, linewidth=1, zorder=3)
        if errors.any():
            axes.fill_between(places, values - errors, values + errors, color=FLOOR_COLOUR, alpha=0.15, linewidth=0)
        ends.append(values[-1])
    log = axes.get_yscale() == "log"
    limits, ends = (np.log(values).tolist() if log else values for values in (axes.get_ylim(), ends))
    height, _ = _inches(axes)
    for place, name in zip(_apart(ends, limits, height), names, strict=True):
        axes.annotate(
            name, (1.01, np.exp(place) if log else place), xycoords=("axes fraction", "data"), va="center",
            fontsize=7.5, color=FLOOR_COLOUR, annotation_clip=False,
        )  # fmt: skip


def _agreed_floors(runs: Sequence[FinishedRun], path: str) -> dict[str, dict[str, float]]:
    """Floors, {value, se} by name, that agree between all runs that have them, within standard errors."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for run in runs:
        floors = floor_lines(run.results, path) if look_up(run.results, path) else {}
        for name, floor in floors.items():
            found.setdefault(name, []).append(floor)
    agreed = {}
    for name, lines in found.items():
        values, se = [line["value"] for line in lines], max(line["se"] for line in lines)
        if max(values) - min(values) <= 2 * Z * se + TICK_ROUNDING:
            agreed[name] = {"value": _mean(values), "se": se}
    return agreed


def _mean(values: Sequence[float]) -> float:
    return statistics.mean(values) if values else math.inf


def _sd(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _axis_name(path: str) -> str:
    nats = "nll" in path or path.startswith("excess")
    return f"{display_name(path)} (nats)" if nats else display_name(path)


def _inches(axes: Axes) -> tuple[float, float]:
    """Approximate height and width of a panel in inches, for the spacing of names of floors."""
    width, height = axes.figure.get_size_inches()
    grid = axes.get_gridspec()
    return 0.75 * height / grid.nrows, 0.7 * width / grid.ncols


def _apart(values: Sequence[float], limits: Sequence[float], inches: float, gap: float = 0.17) -> list[float]:
    """Positions of names close to their values, with at least `gap` inches between neighbours."""
    least = gap * (limits[1] - limits[0]) / inches
    order = np.argsort(values)
    places = np.array(values, dtype=float)
    for _ in range(50):
        for low, high in itertools.pairwise(order):
            missing = least - (places[high] - places[low])
            if missing > 0:
                places[low] -= missing / 2
                places[high] += missing / 2
    return places.tolist()
