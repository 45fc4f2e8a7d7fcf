"""What `python -m micro_lit.evaluate` leaves behind: three tables, every number as CSV, and a figure over labels.

A row of a table is a system: a candidate and how it was adapted. Fair systems come first, the most accurate on top.
Checks, and ORACLES that know what no rival knows, stand in a block below, marked, wherever the table is shown.
"""

import contextlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table
from scipy.optimize import isotonic_regression

from micro_lit import track
from micro_lit.config import Settings
from micro_lit.errors import UserError
from micro_lit.files import write_text
from micro_lit.redaction import redact
from micro_lit.reporting import explanations, tables
from micro_lit.reporting.results import flatten

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from micro_lit.reporting import cards, figures
except ImportError:  # the extra report is not installed: all but the pictures comes
    cards, figures, Axes, Figure = None, None, Any, Any

Row = Mapping[str, Any]
Heads = tuple[Mapping[str, Any], Sequence[tuple[str, str, str]] | None]

FILE_NAME = "protocol.json"
MAX_ATTRIBUTES = 8  # beyond, their columns do not fit a page
WIDE = 120  # characters
NAMES = ("model", "adaptation")
ON_TERMINAL = (*NAMES, "K", "accuracy", "difference", "NLL", "turned")
SCORES = {"accuracy": "accuracy", "nll": "NLL (nats)"}
PARTS = ("value", "low", "high", "sd")
CURVE_COLUMNS = ["kind", "candidate", "method", "labels", *(f"{score}.{part}" for score in SCORES for part in PARTS)]

WIDTH, HEIGHT, BETWEEN = 4.8, 2.6, 0.6  # inches: of a panel, the least height, and between two rows of them
NAME_GAP = 0.145  # inches: between the names beside a panel
MAX_MARKERS = 12  # on a curve; a longer one has them at the ticks
INK, GRID = "#222222", "#E6E6E6"
COIN = math.log(2.0)
ROUTER = "router"


class Section(NamedTuple):
    """One table: its title, what its systems know, what stands apart from them, and what to say when it is empty."""

    title: str
    caption: str
    apart: str
    empty: str = ""


SECTIONS = {
    "none": Section(
        "(a) No side information",
        "Every candidate with the weights of its own gate, which reads the prompt alone.",
        "Apart from these, no rival: an ORACLE is told the attribute of every row.",
    ),
    "criterion": Section(
        "(b) Criterion and {budget} labels of each attribute",
        "A router, trained on {budget} labels of each attribute, reads prompt and criterion to weigh the heads.",
        "Apart from these, no rival: a CHECK reads shuffled criteria, and must fall to the accuracy of table (a).",
        "No router: `routed` names no candidate.",
    ),
    "labels": Section(
        "(c) {budget} labels of the target alone",
        "The candidate's heads are weighed for each attribute by {budget} labels of that attribute.",
        "Apart from these, no rival: an ORACLE picks the best head of each attribute on the test rows themselves, or "
        "was told their attributes. Heads weighed together may pass the best of them.",
    ),
}
COLUMNS = {
    "K": "number of heads.",
    "accuracy": "share of test rows whose chosen response the model prefers, a tie one half; mean over attributes. In "
    "brackets its 95 % interval: bootstrap over prompts (rows, when the data are vectors) and draws of labels.",
    "sd": "standard deviation of the accuracy over draws of labels.",
    "difference": "accuracy less that of {baseline} in table (a), on the same resamples: a paired interval. * marks an "
    "interval that excludes 0.",
    "NLL": "negative log-likelihood in nats, mean over attributes.",
    "turned": "of the predictions that the labels changed, the share that opposite labels do not change alike; near 1 "
    "when it is the labels that decide.",
}


class Panel(NamedTuple):
    """Curves by name; those in `main` are drawn boldly, with their intervals."""

    title: str
    curves: Mapping[str, Row]
    main: set[str]


class End(NamedTuple):
    """Where a curve or a line ends, and how it is drawn."""

    name: str
    x: float
    value: float
    style: Mapping[str, Any]


def folder_for(settings: Settings) -> Path:
    """Makes the folder that is written to: `out`, or the run's own. Raises `UserError` when it cannot be made."""
    with writable(settings) as folder:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def writable(settings: Settings) -> Iterator[Path]:
    """The folder, with the setting that names it in the error of whatever cannot be written there."""
    key, folder = ("out", settings["out"]) if settings["out"] else ("paths.run_dir", settings["paths"]["run_dir"])
    try:
        yield Path(folder)
    except OSError as error:
        raise UserError(f"{key}={folder}: cannot be written ({error.strerror})") from error


def write(
    results: Mapping[str, Any],
    settings: Settings,
    heads: Mapping[str, Heads] | None = None,
    explained: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Writes and shows what `micro_lit.protocol.measure` found; returns the folder: `out`, or the run's own.

    heads: by candidate what a card of its heads shows: the arguments of `cards.facts`, and texts.
    explained: by candidate what `explanations.explain` found; shown in a folder `explanations` with one for each.

    There are then protocol.json (all of it), tables.md, systems.csv (a row a system), curves.csv (a row a point) and,
    where matplotlib is installed, figure.png, figure.svg and a folder `cards` with one for each of `heads`; the run's
    own folder has config.yaml. Loggers get tables and pictures. Raises `UserError` when
    the folder cannot be written.
    """
    folder = folder_for(settings)
    judged = [Path(facts["run"]) for facts in results["candidates"].values()]
    results = redact(results)
    panels = _panels(results, settings)
    with writable(settings):
        pictures = figures.save(draw(results, panels), folder) if figures and panels else []
        drawn = {
            name: cards.write(
                folder / "cards" / name, cards.facts(**known), redact(f"{results['name']}: {name}"), texts
            )
            for name, (known, texts) in (heads or {}).items()
            if cards
        }
        argued = {
            name: explanations.write(folder / "explanations" / name, found, redact(f"{results['name']}: {name}"))
            for name, found in (explained or {}).items()
        }
        texts = {
            FILE_NAME: json.dumps(results, indent=2) + "\n",
            "systems.csv": systems(results).to_csv(index=False),
            "curves.csv": curves(results).to_csv(index=False),
            "tables.md": markdown(results, with_figure=bool(pictures)),
        }
        write_texts(texts, folder, settings)
    _show(results, settings)
    written = [*texts, *(path.name for path in pictures), *(f"cards/{name}" for name in drawn)]
    written += [f"explanations/{name}" for name in argued]
    say_what_is_next(results, folder, written, _next_step(results, settings), drawable=bool(panels))
    if settings.get("logger"):
        frames = {key: pd.concat(shown(rows, results)) for key, rows in results["tables"].items()}
        images = {"figure": pictures[0]} if pictures else {}
        images |= {f"heads/{name}": paths[0] for name, paths in drawn.items()}
        images |= {f"explanations/{name}": paths[0] for name, paths in argued.items() if cards}
        used = [track.Artifact("model", path) for path in judged]
        track.publish(track.RunRecord("evaluate", results["name"], folder, settings, {}, frames, images, used))
    return folder


def write_texts(texts: Mapping[str, str], folder: Path, settings: Settings) -> None:
    """Writes files, each whole or not at all, and into the run's own folder config.yaml. Raises `OSError`."""
    own = Path(settings["paths"]["run_dir"])
    own.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    write_text(own / "config.yaml", yaml.safe_dump(redact(settings), sort_keys=False))


def say_what_is_next(
    results: Mapping[str, Any], folder: Path, written: Sequence[str], words: str, drawable: bool
) -> None:
    """Prints what was written, why there is no figure where there is none, and a next step."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not drawable:
        console.print("no figure: nothing was measured over the number of labels")
    elif "figure.png" not in written:
        console.print("no figure: matplotlib is not installed (pip install 'micro-lit[report]')")
    console.print(f"wrote {folder}/ in {results['seconds']:.0f} s: {', '.join(sorted(written))}")
    console.print(f"next: {words}")


def systems(results: Mapping[str, Any]) -> pd.DataFrame:
    """A row a system; its columns are the dotted keys of protocol.json, those of single attributes last."""
    rows = [
        {"table": table, "check": False, "turned": None, **flatten(row)}
        for table, rows in results["tables"].items()
        for row in rows
    ]
    frame = pd.DataFrame(rows, dtype=object)
    first = ["table", "candidate", "method", "heads", "oracle", "check", "turned"]
    scores = sorted((column for column in frame if column not in first), key=lambda column: "_by." in column)
    return frame[[*first, *scores]]


def curves(results: Mapping[str, Any]) -> pd.DataFrame:
    """A row a point: of kind `curve`, where labels are drawn at random, or `elicitation`, where they are asked for."""
    rows = []
    for kind, name in (("curve", "curves"), ("elicitation", "elicitation")):
        for curve in results.get(name) or ():
            for labels, *points in zip(curve["labels"], *(curve[score] for score in SCORES), strict=True):
                system = {"kind": kind, "candidate": curve["candidate"], "method": curve["method"], "labels": labels}
                rows.append(system | flatten(dict(zip(SCORES, points, strict=True))))
    return pd.DataFrame(rows, columns=CURVE_COLUMNS, dtype=object)


def shown(rows: Sequence[Row], results: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table for people, in two blocks: fair systems by accuracy, the best first; then checks and oracles."""
    attributes = results["attributes"] if len(results["attributes"]) <= MAX_ATTRIBUTES else {}
    turned = any("turned" in row for row in rows)
    columns = [*NAMES, "K", "accuracy", "sd", "difference", "NLL"]
    columns += [f"{name} (n = {count:,})" for name, count in attributes.items()]
    columns += ["turned"] if turned else []
    blocks: tuple[list, list] = ([], [])
    for row in sorted(rows, key=lambda row: (row["oracle"], -row["accuracy"]["value"])):
        mark = "ORACLE: " if row["oracle"] else "CHECK: " if row.get("check") else ""
        cells = [f"{mark}{row['candidate']}", row["method"], str(row["heads"])]
        is_baseline = row["candidate"] == results["baseline"]
        cells += [_with_interval(row["accuracy"]), number(row["accuracy"]["sd"])]
        cells += [difference(row["accuracy_difference"], is_baseline), number(row["nll"]["value"])]
        cells += [number(row["accuracy_by"][name]["value"]) for name in attributes]
        cells += [number(row.get("turned"), digits=2)] if turned else []
        blocks[bool(mark)].append(cells)
    fair, apart = (pd.DataFrame(block, columns=columns) for block in blocks)
    return fair, apart


def markdown(results: Mapping[str, Any], with_figure: bool) -> str:
    """The three tables as a page. with_figure: figure.png lies beside it."""
    parts = [f"# {escaped(results['name'])}", *map(escaped, _facts(results))]
    if with_figure:
        parts.append("![Accuracy and NLL over the number of labels](figure.png)")
    for key, section in SECTIONS.items():
        rows = results["tables"][key]
        parts.append(f"## {section.title.format(**results)}")
        parts.append(section.caption.format(**results) if rows else section.empty)
        for frame, words in zip(shown(rows, results), (None, section.apart), strict=True):
            if len(frame):
                parts += [words] if words else []
                parts.append(tables.markdown(escaped_names(frame)).rstrip())
    words = {"baseline": escaped(results["baseline"])}
    parts += ["## Columns", "\n".join(f"- {name}: {text.format(**words)}" for name, text in COLUMNS.items())]
    many = len(results["attributes"]) > MAX_ATTRIBUTES
    by_attribute = "is in systems.csv" if many else "has a column here, and its interval and NLL are in systems.csv"
    parts.append(f"The accuracy of each attribute {by_attribute}.")
    return "\n\n".join(parts) + "\n"


def draw(results: Mapping[str, Any], panels: Sequence[Panel]) -> Figure:
    """Accuracy and NLL over the number of labels, beside each other for each of the panels."""
    heights = [max(HEIGHT, NAME_GAP * (len(panel.curves) + 4)) for panel in panels]
    with rc_context({**figures.STYLE, "text.parse_math": False}):  # a name may hold a dollar
        size = (WIDTH * len(SCORES), sum(heights) + BETWEEN * (len(panels) + 1))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(panels), len(SCORES), squeeze=False, height_ratios=heights)
        for axes_row, panel, height in zip(grid, panels, heights, strict=True):
            axes_row[0].set_title(panel.title)
            for axes, score in zip(axes_row, SCORES, strict=True):
                _draw_panel(axes, panel, score, _references(results, score), height)
        figure.suptitle(results["name"], x=0.01, ha="left", fontweight="bold")
        note = (
            f"Means over {len(results['attributes'])} attributes and {results['draws']} draws of labels; shaded: 95 % "
            "intervals over prompts and draws."
        )
        if any(row["oracle"] for row in results["tables"]["none"]):
            note += " An ORACLE is told the attribute of every row."
        figure.supxlabel(note, x=0.01, ha="left", fontsize=7.5, color=figures.FLOOR_COLOUR)
    return figure


def _draw_panel(axes: Axes, panel: Panel, score: str, references: Mapping[str, float], height: float) -> None:
    """Curves of one score, lines to compare them with, and the names of both on the right; `height` in inches."""
    most = max(1, *(max(curve["labels"]) for curve in panel.curves.values()))
    ticks = [0] + [step * 10**power for power in range(len(str(most))) for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if tick <= most]
    right = most * 1.15
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(-0.15, right)
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.set(xlabel="labels of each attribute", ylabel=SCORES[score])
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    ends = []
    for (name, curve), style in zip(panel.curves.items(), styles(), strict=False):
        labels, main = curve["labels"], name in panel.main
        marked = range(len(labels)) if len(labels) <= MAX_MARKERS else [labels.index(tick) for tick in ticks]
        ends.append(draw_curve(axes, name, labels, curve[score], style, main, markevery=list(marked)))
    ends += draw_references(axes, references, right)
    if score == "nll":
        cut_off(axes)
    name_ends(axes, ends, panel.main, height)


def styles() -> Iterator[dict[str, str]]:
    """Colour and marker of one curve after another."""
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
    """A curve, with its intervals if it is a main one. `settings` are matplotlib's, of the line."""
    value, low, high = ([point[part] for point in points] for part in ("value", "low", "high"))
    style = {**style, "markersize": 4.5 if main else 3.5}
    axes.plot(x, value, label=name, **style, linewidth=2.0 if main else 1.1, zorder=4 if main else 3, **settings)
    if main:
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    return End(name, x[-1], value[-1], style)


def draw_references(axes: Axes, references: Mapping[str, float], right: float) -> list[End]:
    """Lines across a panel to compare curves with; they end at `right`."""
    ends = []
    for (name, value), dashes in zip(references.items(), itertools.cycle(figures.DASHES[1:]), strict=False):
        axes.axhline(value, color=figures.FLOOR_COLOUR, linestyle=dashes, linewidth=1, zorder=2)
        ends.append(End(name, right, value, {"color": figures.FLOOR_COLOUR, "marker": ""}))
    return ends


def cut_off(axes: Axes) -> None:
    """A panel of the NLL ends above a coin's: one that is far worse would squeeze all others."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, min(top, 2 * COIN - bottom))


def name_ends(axes: Axes, ends: Sequence[End], main: set[str], height: float) -> None:
    """Names on the right of a panel `height` inches high; of what lies above it the value too."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)  # as they are, whatever the names add
    gap = NAME_GAP * (top - bottom) / height
    places = _apart([min(end.value, top) for end in ends], bottom, top, gap)
    for place, (name, x, value, style) in zip(places, ends, strict=True):
        axes.annotate(
            name if value <= top else f"{name} (to {value:.2f})", (x, min(value, top)), (1.095, place),
            textcoords=("axes fraction", "data"), va="center", annotation_clip=False,
            fontsize=7.5, fontweight="bold" if name in main else "normal", color=INK,
            arrowprops={"arrowstyle": "-", "color": style["color"], "linewidth": 0.5, "relpos": (0, 0.5)},
        )  # fmt: skip
        axes.plot(1.07, place, **style, transform=axes.get_yaxis_transform(), clip_on=False)


def _panels(results: Mapping[str, Any], settings: Settings) -> list[Panel]:
    """Every method, of each leader; every candidate, by the first method; every way to ask for labels."""
    drawn, asked = (results.get(name) or [] for name in ("curves", "elicitation"))
    leaders = _leaders(results, settings)
    panels = []
    for name in leaders:
        if methods := {curve["method"]: curve for curve in drawn if curve["candidate"] == name}:
            panels.append(Panel(f"{name}: every method", methods, {*_first_method(settings), ROUTER}))
    for method in _first_method(settings):
        found = {curve["candidate"]: curve for curve in drawn if curve["method"] == method}
        if len(found) > 1:
            ordered = {name: found[name] for name in (*leaders, *found) if name in found}
            panels.append(Panel(f"{method}: every candidate", ordered, set(leaders)))
    for name in dict.fromkeys(curve["candidate"] for curve in asked):
        # Labels at random, the last way, come first: so they look like the first method above, which they repeat.
        ways = {curve["method"]: curve for curve in reversed(asked) if curve["candidate"] == name}
        panels.append(Panel(f"{name}: which label to ask for next", ways, {next(iter(ways))}))
    return panels


def _apart(values: Sequence[float], bottom: float, top: float, gap: float) -> list[float]:
    """Places between bottom and top, `gap` apart or more, whose squared distances from the values sum to the least."""
    steps = gap * np.arange(len(values))
    order = np.argsort(values, kind="stable")
    places = np.empty(len(values))
    places[order] = isotonic_regression(np.array(values)[order] - steps).x.clip(bottom, top - steps[-1]) + steps
    return places.tolist()


def _references(results: Mapping[str, Any], score: str) -> dict[str, float]:
    """The baseline and the oracles of table (a)."""
    rows = results["tables"]["none"]
    baseline = {f"baseline {row['candidate']}": row for row in rows if row["candidate"] == results["baseline"]}
    oracles = {f"ORACLE {row['candidate']}": row for row in rows if row["oracle"]}
    return {name: row[score]["value"] for name, row in (baseline | oracles).items()}


def _leaders(results: Mapping[str, Any], settings: Settings) -> list[str]:
    """The candidates that are shown with every method: those routed, or else the first fair one with several heads."""
    oracles = {row["candidate"] for row in results["tables"]["none"] if row["oracle"]}
    several = [name for name, facts in results["candidates"].items() if facts["heads"] > 1 and name not in oracles]
    rivals = [name for name in several if name != results["baseline"]]
    return settings["routed"] or (rivals or several)[:1]


def _first_method(settings: Settings) -> list[str]:
    """The method by which candidates are compared where only one is shown; none when there is none."""
    return list(settings["adaptation"])[:1]


def _show(results: Mapping[str, Any], settings: Settings) -> None:
    """Prints the tables; of (c) a choice that does not look at scores, for the best of many would flatter."""
    console = wide_console()
    first, leaders = _first_method(settings), _leaders(results, settings)
    console.print("", *_facts(results), "", sep="\n")
    for key, section in SECTIONS.items():
        rows = results["tables"][key]
        title, caption = section.title.format(**results), section.caption.format(**results)
        if not rows:
            console.print(title, section.empty, "", sep="\n")
            continue
        if key == "labels":
            chosen = [row for row in rows if row["candidate"] in leaders or row["method"] in first or row["heads"] == 1]
            if len(chosen) < len(rows):
                kinds = [f"{name} of every candidate" for name in first]
                kinds += [f"every method of {name}" for name in leaders]
                caption += f" Shown: {', '.join(kinds)}; {len(rows) - len(chosen)} more rows are in tables.md."
            rows = chosen
        fair, apart = shown(rows, results)
        caption += f" {section.apart}" if len(apart) else ""
        columns = [column for column in fair if column in ON_TERMINAL]
        console.print(on_terminal(title, caption, fair[columns], apart[columns]), "")
    words = (f"{name}: {words.format(**results)}" for name, words in COLUMNS.items() if name in ON_TERMINAL)
    console.print(*words, "tables.md has more columns, systems.csv every number", "", sep="\n")


def wide_console() -> Console:
    """A console that takes text as it is and is wide enough for tables."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file or a pipe has no width of its own
        console.width = max(console.width, WIDE)
    return console


def on_terminal(title: str, caption: str, fair: pd.DataFrame, apart: pd.DataFrame) -> Table:
    """A table of two blocks with the same columns, what stands apart in the lower one."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in fair:
        named = column in NAMES
        table.add_column(column, justify="left" if named else "right", overflow="fold", no_wrap=column == "model")
    for block in (fair, apart):
        table.add_section()
        for cells in block.to_numpy().tolist():
            table.add_row(*cells, style="dim" if block is apart else None)
    return table


def _facts(results: Mapping[str, Any]) -> list[str]:
    """What was measured, in two lines."""
    from_test = results["budget_from"] == "test"
    judged = "test rows judged, on average over draws" if from_test else "test rows judged"
    source = "test rows, which nobody is judged on in that draw" if from_test else "training rows"
    counts = ", ".join(f"{name} {count:,}" for name, count in results["attributes"].items())
    return [
        f"{len(results['attributes'])} attributes ({judged}): {counts}.",
        f"Budget: {results['budget']} labels of each attribute, drawn {results['draws']} times from the {source}. "
        f"Baseline: {results['baseline']}. Seed {results['seed']}. Measured in {results['seconds']:.0f} s.",
    ]


def _next_step(results: Mapping[str, Any], settings: Settings) -> str:
    leaders = _leaders(results, settings)
    if not leaders:
        return "the same command with a mixture among the candidates, to compare"
    if not results.get("elicitation"):
        return f"the same command with elicited=[{leaders[0]}], to see which labels are worth asking for"
    run = results["candidates"][leaders[0]]["run"]
    return f"python -m micro_lit.personalise run={run} profile=me.json user=me pairs=<your labelled pairs>"


def _with_interval(score: Mapping[str, float]) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def difference(found: Mapping[str, float], is_baseline: bool) -> str:
    """A difference with its interval, and * where that excludes 0."""
    if is_baseline and found["low"] == found["high"] == 0.0:
        return "baseline"
    mark = "*" if found["low"] > 0.0 or found["high"] < 0.0 else ""
    return f"{found['value']:+z.3f} [{found['low']:+z.3f}, {found['high']:+z.3f}]{mark}"


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is; tables escape `|` themselves. An underscore inside a word needs no escape."""
    return re.sub(r"[\\`*\[\]<>~$&#]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def escaped_names(frame: pd.DataFrame) -> pd.DataFrame:
    """A table whose columns, models and adaptations are shown as they are named."""
    names = {column: frame[column].map(escaped) for column in NAMES}
    return frame.assign(**names).rename(columns=escaped)
