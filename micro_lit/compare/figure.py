"""The figure of a comparison: scores over the number of labels, with a row of two panels for each question.

Curves are labelled at their right end. The main curves are drawn bold, with 95 % intervals.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from micro_lit.compare.diagnostics import BAYES
from micro_lit.compare.router import ROUTER
from micro_lit.compare.sections import SHOWN_SCORES, TITLES, Results, Row, bayes, of_groups, size_name, units
from micro_lit.compare.systems import KNOWS_NOTHING, OWN
from micro_lit.report import figures
from micro_lit.report.curves import INK, NAME_GAP, End, draw_curve, draw_references, name_ends, styles
from micro_lit.report.results import FLOORS
from micro_lit.report.terminal import Z

CurvePoint = Mapping[str, float]
Points = Sequence[CurvePoint]

WIDTH, HEIGHT, BETWEEN = 4.8, 2.6, 0.6  # inches: panel width, least panel height, gap between rows
MAX_MARKERS = 12  # per curve; a longer curve has markers at the ticks only
GRID = "#E6E6E6"
COIN = math.log(2.0)
FLOOR, CEILING = "floor, person unknown", "ceiling, person unknown"


class Panel(NamedTuple):
    """One panel: curves by name, each with x positions and points; reference lines and bands by name."""

    score: str
    curves: Mapping[str, tuple[Sequence[float], Points]]
    lines: Mapping[str, float] = {}
    bands: Mapping[str, tuple[float, float]] = {}


class Ticks(NamedTuple):
    """The x axis (number of labels): axis label, tick labels by position, right limit, whether it is logarithmic."""

    label: str
    names: Mapping[float, str]
    right: float
    log: bool


class PanelRow(NamedTuple):
    """Panels in one row, with the styles of their curves. Curves in `main` are drawn bold."""

    title: str
    panels: Sequence[Panel]
    main: set[str]
    style_of: Mapping[str, Mapping[str, Any]]
    ticks: Ticks

    @property
    def height(self) -> float:
        """Height in inches at which the curve names beside a panel do not overlap."""
        return max(HEIGHT, NAME_GAP * (max(len(self.style_of), *(len(each.curves) for each in self.panels)) + 4))


def draw_curves(results: Results, leaders: Sequence[str], first: Sequence[str]) -> Figure | None:
    """Draws all rows of panels, for attributes and users.

    Args:
        results: results of a `Comparison`.
        leaders: candidates that are shown with every method.
        first: the method, if any, with which every candidate is shown.

    Returns:
        The figure; None when nothing was measured over the number of labels.
    """
    rows = _of_attributes(results, leaders, first) if "tables" in results else []
    notes = [_note_of_attributes(results)] if rows else []
    if results.get("regimes"):
        rows += _of_users(results)
        notes.append(_note_of_users(results))
    if not rows:
        return None
    heights = [row.height for row in rows]
    with rc_context({**figures.STYLE, "text.parse_math": False}):  # names may contain `$`
        size = (2 * WIDTH, sum(heights) + BETWEEN * (len(rows) + 1))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights)
        for axes_row, row in zip(grid, rows, strict=True):
            axes_row[0].set_title(row.title)
            for axes in axes_row[len(row.panels) :]:
                axes.set_axis_off()
            for axes, panel in zip(axes_row, row.panels, strict=False):
                _draw_panel(axes, panel, row)
        figure.suptitle(results["name"], x=0.01, ha="left", fontweight="bold")
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=7.5, color=figures.FLOOR_COLOUR)
    return figure


def _draw_panel(axes: Axes, panel: Panel, row: PanelRow) -> None:
    """Draws curves of one score and reference lines, with the names of both on the right."""
    ticks = row.ticks
    if ticks.log:
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(-0.15, ticks.right)
    axes.set_xticks(list(ticks.names), list(ticks.names.values()))
    axes.minorticks_off()
    axes.set(xlabel=ticks.label, ylabel=panel.score)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    ends = []
    for name, (x, points) in panel.curves.items():
        marked = range(len(x)) if len(x) <= MAX_MARKERS else [x.index(tick) for tick in ticks.names]
        ends.append(draw_curve(axes, name, x, points, row.style_of[name], name in row.main, markevery=list(marked)))
    ends += draw_references(axes, panel.lines, ticks.right)
    for name, (low, high) in panel.bands.items():
        axes.axhspan(low, high, color=figures.FLOOR_COLOUR, alpha=0.15, linewidth=0, zorder=0)
        if name not in panel.lines:
            style = {"color": figures.FLOOR_COLOUR, "marker": ""}
            ends.append(End(name, ticks.right, (low + high) / 2, style))
    if panel.score == SHOWN_SCORES["nll"]:  # cut above the NLL of a coin: a far worse curve would compress all others
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, min(top, 2 * COIN - bottom))
    name_ends(axes, ends, row.main, row.height)


def _of_attributes(results: Results, leaders: Sequence[str], first: Sequence[str]) -> list[PanelRow]:
    """Rows of panels: all methods of each leader, all candidates with the first method, all elicitation strategies."""
    drawn, asked = (results.get(name) or [] for name in ("curves", "elicitation"))
    rows = []
    for name in leaders:
        if methods := {curve["method"]: curve for curve in drawn if curve["candidate"] == name}:
            rows.append(_attribute_row(results, f"{name}: every method", methods, {*first, ROUTER}))
    for method in first:
        found = {curve["candidate"]: curve for curve in drawn if curve["method"] == method}
        if len(found) > 1:
            ordered = {name: found[name] for name in (*leaders, *found) if name in found}
            rows.append(_attribute_row(results, f"{method}: every candidate", ordered, set(leaders)))
    for name in dict.fromkeys(curve["candidate"] for curve in asked):
        # Random labels, the last strategy, come first, to get the style of the first method above, which they repeat.
        ways = {curve["method"]: curve for curve in reversed(asked) if curve["candidate"] == name}
        rows.append(_attribute_row(results, f"{name}: which label to ask for next", ways, {next(iter(ways))}))
    return rows


def _attribute_row(results: Results, title: str, found: Mapping[str, Row], main: set[str]) -> PanelRow:
    most = max(1, *(max(curve["labels"]) for curve in found.values()))
    places = [0] + [step * 10**power for power in range(len(str(most))) for step in (1, 2, 5)]
    ticks = Ticks("labels of each attribute", {tick: str(tick) for tick in places if tick <= most}, most * 1.15, True)
    panels = [
        Panel(
            label,
            {name: (curve["labels"], curve[score]) for name, curve in found.items()},
            _references(results, score),
        )
        for score, label in SHOWN_SCORES.items()
    ]
    return PanelRow(title, panels, main, dict(zip(found, styles(), strict=False)), ticks)


def _references(results: Results, score: str) -> dict[str, float]:
    """Reference lines: scores of the baseline and of the oracles of table (a)."""
    rows = results["tables"]["none"]
    baseline = {f"baseline {row['candidate']}": row for row in rows if row["candidate"] == results["baseline"]}
    oracles = {f"ORACLE {row['candidate']}": row for row in rows if row["oracle"]}
    return {name: row[score]["value"] for name, row in (baseline | oracles).items()}


def _note_of_attributes(results: Results) -> str:
    note = (
        f"Means over {len(results['attributes'])} attributes and {results['draws']} draws of labels; shaded: 95 % "
        f"intervals over {units(results)[1]} and draws."
    )
    with_oracle = any(row["oracle"] for row in results["tables"]["none"])
    return note + (" An ORACLE is given the attribute of every row." if with_oracle else "")


def _note_of_users(results: Results) -> str:
    note = f"Means over users and {results['draws']} draws of labels; shaded: 95 % intervals over users and draws."
    shared = "raters" in results["regimes"].get("seen", {})
    return note + ("\nOn pairs that several judged: means over rows, intervals over pairs." if shared else "")


def _of_users(results: Results) -> list[PanelRow]:
    """Rows of panels: scores of seen and unseen users, then of pairs with several raters, then matched groups."""
    regimes, name_of = results["regimes"], _curve_names(results)
    floors = {FLOORS[key]: value for key, value in results["floors"].items()}
    rows = {}
    for regime, found in regimes.items():
        accuracy, nll = (_user_panel(results, found, score, label) for score, label in SHOWN_SCORES.items())
        rows[TITLES[regime]] = [accuracy, nll._replace(lines={**nll.lines, **floors})]
    if raters := regimes.get("seen", {}).get("raters"):
        accuracy = _user_panel(results, regimes["seen"], "shared_accuracy", SHOWN_SCORES["accuracy"])
        brier = _user_panel(results, regimes["seen"], "shared_brier", "Brier score")
        ceiling = tuple(raters["floors"][f"accuracy_{bound}"]["value"] for bound in ("lower", "upper"))
        floor = _interval_of(raters["floors"]["brier"])
        lines, band = {**brier.lines, FLOOR: floor["value"]}, {FLOOR: (floor["low"], floor["high"])}
        rows[TITLES["shared"]] = [accuracy._replace(bands={CEILING: ceiling}), brier._replace(lines=lines, bands=band)]
    matched = []
    for regime, found in of_groups(results).items():
        panel = _user_panel(results, found, "matched", f"share of {regime} users")
        oracle = {row["candidate"]: (range(len(row["matched"])), row["matched"]) for row in bayes(found)}
        matched.append(panel._replace(curves={**panel.curves, **oracle}, lines={}))
    if matched:
        rows[TITLES["matched"]] = matched
    main = {name for (_, method), name in name_of.items() if method == OWN}
    style_of = dict(zip(sorted(name_of.values(), key=lambda name: name not in main), styles(), strict=False))
    style_of[BAYES] = {"color": INK, "marker": "", "linestyle": figures.DASHES[1]}
    sizes = max((found["labels"] for found in regimes.values()), key=len)
    ticks = Ticks("labels of each user", dict(enumerate(map(size_name, sizes))), len(sizes) - 0.85, False)
    return [PanelRow(title, panels, main, style_of, ticks) for title, panels in rows.items()]


def _user_panel(results: Results, found: Mapping[str, Any], key: str, label: str) -> Panel:
    """Panel of one score: curves of all systems that have it, and the baseline without labels as a line."""
    name_of, baseline = _curve_names(results), results["baseline"]
    rows = [row for row in found["systems"] if key in row]
    measured = {(row["candidate"], row["method"]): list(map(_interval_of, row[key])) for row in rows}
    curves = {
        name: (range(len(measured[system])), measured[system]) for system, name in name_of.items() if system in measured
    }
    lines = {f"baseline {name}": points[0]["value"] for (name, _), points in measured.items() if name == baseline}
    return Panel(label, curves, lines)


def _curve_names(results: Results) -> dict[tuple[str, str], str]:
    """Curve names of systems: the candidate, followed by the method if the candidate has several.

    A baseline that learns nothing is excluded, because it is drawn as a line.
    """
    rows = (row for found in results["regimes"].values() for row in found["systems"])
    systems = dict.fromkeys((row["candidate"], row["method"]) for row in rows)
    systems.pop((results["baseline"], KNOWS_NOTHING), None)
    ways = Counter(candidate for candidate, _ in systems)
    return {
        (candidate, method): candidate if ways[candidate] == 1 else f"{candidate}, {method}"
        for candidate, method in systems
    }


def _interval_of(point: CurvePoint) -> CurvePoint:
    """A value with its 95 % interval, computed from the standard error if the interval is missing."""
    if "se" not in point:
        return point
    error = Z * point["se"]
    return {"value": point["value"], "low": point["value"] - error, "high": point["value"] + error}
