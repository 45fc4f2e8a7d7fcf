"""What `python -m micro_lit.people` leaves behind: tables and curves over the number of labels that a user gives.

A row of a table is a system: a candidate and how it learns what a user wants. The best at the most labels is on top; an
ORACLE that knows what no rival knows stands apart, marked.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from micro_lit import track
from micro_lit.config import Settings
from micro_lit.redaction import redact
from micro_lit.reporting import protocol, tables
from micro_lit.reporting.protocol import HEIGHT, INK, SCORES, difference, escaped, number
from micro_lit.reporting.results import FLOORS, flatten
from micro_lit.reporting.terminal import Z

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from micro_lit.reporting import figures
except ImportError:  # the extra report is not installed: all but the figure comes
    figures, Axes, Figure = None, Any, Any

Row = Mapping[str, Any]
Point = Mapping[str, float]
Styles = Mapping[str, Mapping[str, Any]]

FILE_NAME = "people.json"
SYSTEM = ["regime", "candidate", "method", "heads"]
OWN, FLAT = "its own", "nothing"
BAYES = "ORACLE: Bayes"

TITLES = {
    "seen": "Users seen in training",
    "unseen": "Users never seen",
    "shared": "Pairs that several seen users judged",
    "matched": "Users whose head stands for their group",
}
CAPTIONS = {
    "seen": "{users:,} users, judged on {rows:,} test rows; their labels are training pairs.{fewer}",
    "unseen": "{users:,} users without training pairs, judged on {rows:,} test rows in each draw; their labels are "
    "other test rows, and the same rows are judged after any number of them.",
    "shared": "{rows:,} test rows of {pairs:,} pairs. Whoever does not know the person has a Brier score of at least "
    "{brier}, an accuracy of at most {accuracy_lower:.3f} to {accuracy_upper:.3f} and an NLL of at least "
    "{nll_lower:.3f} to {nll_upper:.3f} nats; a model that knows the person may pass. Means over rows; ± is a 95 % "
    "interval, pairs as units.",
    "matched": "Share of {users} users whose head of largest weight stands for their group. Heads stand for groups by "
    "the one-to-one assignment that most of these very users fit{within}; without labels all have the same head.",
}
NOBODY = {
    "seen": "Nobody: no test row is of a user with training pairs.",
    "unseen": "Nobody: no user without training pairs has test rows enough for the labels, and some more to judge.",
}
ORACLE = "Apart from these, no rival: an ORACLE is told the rewards of all groups, and gives the most probable group."
DIAGNOSTIC = "A diagnostic only: whoever made these groups may have looked at test rows."
COLUMNS = {
    "K": "number of heads.",
    "0, 1, ...": "the score after so many labels of each user, or all that a user has: a mean over the user's rows, "
    "then over users and draws of labels.",
    "difference": "from {baseline} without labels, at the most labels, with its 95 % interval: a paired bootstrap over "
    "users and draws. * marks an interval that excludes 0.",
    "above floor": "the last Brier score less the floor, on the same rows.",
}
FLOOR, CEILING = "floor, person unknown", "ceiling, person unknown"


class Shown(NamedTuple):
    """A table: which one, what it shows, and its rows in two blocks, rivals and what stands apart."""

    key: str
    score: str
    caption: str
    fair: pd.DataFrame
    apart: pd.DataFrame


class Panel(NamedTuple):
    """Curves by name over the number of labels, and lines and bands to compare them with."""

    score: str
    curves: Mapping[str, Sequence[Point]]
    lines: Mapping[str, float]
    bands: Mapping[str, tuple[float, float]]


def write(results: Mapping[str, Any], settings: Settings) -> Path:
    """Writes and shows what `micro_lit.protocol.people` found; returns the folder: `out`, or the run's own.

    There are then people.json (all of it), tables.md, systems.csv (a row a system, at the most labels), curves.csv (a
    row a point) and, where matplotlib is installed, figure.png and figure.svg; the run's own folder has config.yaml.
    Loggers get tables and figure. Raises `UserError` when the folder cannot be written.
    """
    folder = protocol.folder_for(settings)
    judged = [Path(facts["run"]) for facts in results["candidates"].values()]
    results = redact(results)
    with protocol.writable(settings):
        pictures = figures.save(draw(results), folder) if figures and results["regimes"] else []
        points = curves(results)
        texts = {
            FILE_NAME: json.dumps(results, indent=2) + "\n",
            "systems.csv": points.groupby(SYSTEM, sort=False).tail(1).to_csv(index=False),
            "curves.csv": points.to_csv(index=False),
            "tables.md": markdown(results, with_figure=bool(pictures)),
        }
        protocol.write_texts(texts, folder, settings)
    _show(results)
    written = [*texts, *(path.name for path in pictures)]
    protocol.say_what_is_next(results, folder, written, _next_step(results), drawable=bool(results["regimes"]))
    if settings.get("logger"):
        frames = {f"{key}_{score}": pd.concat([fair, apart]) for key, score, _, fair, apart in shown(results)}
        images = {"figure": pictures[0]} if pictures else {}
        used = [track.Artifact("model", path) for path in judged]
        track.publish(track.RunRecord("people", results["name"], folder, settings, {}, frames, images, used))
    return folder


def curves(results: Mapping[str, Any]) -> pd.DataFrame:
    """A row a point: a system of one kind of users after so many labels. Columns are the dotted keys of people.json."""
    rows = []
    for regime, found in results["regimes"].items():
        systems = [*found["systems"], *_bayes(found)]
        for system in systems:
            measured = {key: points for key, points in system.items() if isinstance(points, list)}
            for place, (size, given) in enumerate(zip(found["labels"], found["given"], strict=True)):
                known = {"regime": regime, **{key: system[key] for key in SYSTEM[1:]}}
                known |= {"labels": "all" if size is None else size, "given": given}
                rows.append(known | flatten({key: points[place] for key, points in measured.items()}))
    return pd.DataFrame(rows, columns=None if rows else [*SYSTEM, "labels", "given"], dtype=object)


def shown(results: Mapping[str, Any]) -> Iterator[Shown]:
    """The tables for people, those of users by accuracy and by NLL."""
    regimes = results["regimes"]
    for key, found in regimes.items():
        fewer = [
            f"{given:.1f} at {_size(size)}"
            for size, given in zip(found["labels"], found["given"], strict=True)
            if size is None or round(given, 1) < size
        ]
        words = f" Some have fewer: on average {', '.join(fewer)}." if fewer else ""
        caption = CAPTIONS[key].format(**found, fewer=words)
        for score in SCORES:
            yield Shown(key, score, caption, _over_labels(found, score, results["baseline"]), pd.DataFrame())
    if raters := regimes.get("seen", {}).get("raters"):
        yield Shown("shared", "brier", _floors_in_words(raters), _shared(regimes["seen"]), pd.DataFrame())
    if grouped := _grouped(results):
        blocks = zip(*(_matched(*item) for item in grouped.items()), strict=True)
        fair, apart = (pd.concat(block).fillna("-") for block in blocks)
        users = " and ".join(f"{found['groups']['users']:,} {key}" for key, found in grouped.items())
        sources = max(found["groups"]["sources"] for found in grouped.values())
        within = f" within each of {sources} sources" if sources > 1 else ""
        caption = CAPTIONS["matched"].format(users=users, within=within)
        caption += f" {ORACLE}" if len(apart) else "" if results["floors"] else f" {DIAGNOSTIC}"
        yield Shown("matched", "share", caption, fair, apart)


def _grouped(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The kinds of users of whom groups are known, and heads that may stand for them."""
    regimes = results["regimes"].items()
    return {key: found for key, found in regimes if any("matched" in row for row in found["systems"])}


def _over_labels(found: Mapping[str, Any], score: str, baseline: str) -> pd.DataFrame:
    """One score after each number of labels; of accuracy also the last NLL."""
    rows = []
    for system in sorted(found["systems"], key=lambda row: row[score][-1]["value"], reverse=score == "accuracy"):
        cells = _names(system) | _cells(found["labels"], system[score])
        cells["difference"] = difference(system[f"{score}_difference"][-1], system["candidate"] == baseline)
        if score == "accuracy":
            cells["NLL"] = number(system["nll"][-1]["value"])
        rows.append(cells)
    return pd.DataFrame(rows)


def _shared(found: Mapping[str, Any]) -> pd.DataFrame:
    """Scores on the pairs of several raters, without labels and with the most."""
    ends = {"0": 0, _size(found["labels"][-1]): -1}
    rows = []
    for system in sorted(found["systems"], key=lambda row: row["shared_brier"][-1]["value"]):
        above = system["shared_above"][-1]
        rows.append(
            _names(system)
            | {f"accuracy, {size}": number(system["shared_accuracy"][end]["value"]) for size, end in ends.items()}
            | {f"Brier, {size}": number(system["shared_brier"][end]["value"], digits=4) for size, end in ends.items()}
            | {"above floor": f"{above['value']:+.4f} ± {Z * above['se']:.4f}"}
        )
    return pd.DataFrame(rows)


def _matched(key: str, found: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Who is in the right group, by systems with heads, and by Bayes where the truth is known."""
    systems = [row for row in found["systems"] if "matched" in row]
    blocks = (sorted(systems, key=lambda row: row["matched"][-1]["value"], reverse=True), _bayes(found))
    return tuple(
        pd.DataFrame([_names(row) | {"users": key} | _cells(found["labels"], row["matched"]) for row in block])
        for block in blocks
    )


def _bayes(found: Mapping[str, Any]) -> list[Row]:
    """The ORACLE of groups as a system, where the truth is known."""
    oracle = found.get("groups", {}).get("oracle")
    return [{"candidate": BAYES, "method": "true rewards", "heads": "-", "matched": oracle}] if oracle else []


def _names(system: Row) -> dict[str, str]:
    return {"model": system["candidate"], "adaptation": system["method"], "K": str(system["heads"])}


def _cells(sizes: Sequence[int | None], points: Sequence[Point]) -> dict[str, str]:
    return {_size(size): number(point["value"]) for size, point in zip(sizes, points, strict=True)}


def _size(size: int | None) -> str:
    return "all" if size is None else str(size)


def _floors_in_words(raters: Mapping[str, Any]) -> str:
    floors = {name: floor["value"] for name, floor in raters["floors"].items()}
    brier = f"{floors.pop('brier'):.4f} ± {Z * raters['floors']['brier']['se']:.4f}"
    return CAPTIONS["shared"].format(rows=raters["rows"], pairs=raters["pairs"], brier=brier, **floors)


def markdown(results: Mapping[str, Any], with_figure: bool) -> str:
    """All tables as a page. with_figure: figure.png lies beside it."""
    parts = [f"# {escaped(results['name'])}", *map(escaped, _facts(results))]
    if with_figure:
        parts.append("![Scores over the number of labels](figure.png)")
    found = list(shown(results))
    for key, title in TITLES.items():
        mine = [table for table in found if table.key == key]
        if not mine and key not in NOBODY:
            continue
        parts += [f"## {title}", mine[0].caption if mine else NOBODY[key]]
        for table in mine:
            parts += [f"{SCORES[table.score]}:"] if table.score in SCORES else []
            parts += [
                tables.markdown(protocol.escaped_names(block)).rstrip()
                for block in (table.fair, table.apart)
                if len(block)
            ]
    words = {"baseline": escaped(results["baseline"])}
    parts += ["## Columns", "\n".join(f"- {name}: {text.format(**words)}" for name, text in COLUMNS.items())]
    return "\n\n".join(parts) + "\n"


def draw(results: Mapping[str, Any]) -> Figure:
    """Accuracy and NLL over the number of labels, of seen and of unseen users; below, what raters and groups say."""
    rows, name_of = _panels(results), _curve_names(results)
    main = {name for (_, method), name in name_of.items() if method == OWN}
    order = sorted(name_of.values(), key=lambda name: name not in main)
    style_of = dict(zip(order, protocol.styles(), strict=False))
    style_of[BAYES] = {"color": INK, "marker": "", "linestyle": figures.DASHES[1]}
    sizes = max((found["labels"] for found in results["regimes"].values()), key=len)
    height = max(HEIGHT, protocol.NAME_GAP * (len(style_of) + 4))
    with rc_context({**figures.STYLE, "text.parse_math": False}):  # a name may hold a dollar
        size = (2 * protocol.WIDTH, len(rows) * (height + protocol.BETWEEN) + protocol.BETWEEN)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(rows), 2, squeeze=False)
        for axes_row, (title, panels) in zip(grid, rows.items(), strict=True):
            axes_row[0].set_title(title)
            for axes in axes_row[len(panels) :]:
                axes.set_axis_off()
            for axes, panel in zip(axes_row, panels, strict=False):
                _draw_panel(axes, panel, style_of, main, sizes, height)
        figure.suptitle(results["name"], x=0.01, ha="left", fontweight="bold")
        note = f"Means over users and {results['draws']} draws of labels; shaded: 95 % intervals over users and draws."
        if TITLES["shared"] in rows:
            note += "\nOn pairs that several judged: means over rows, intervals over pairs."
        figure.supxlabel(note, x=0.01, ha="left", fontsize=7.5, color=figures.FLOOR_COLOUR)
    return figure


def _draw_panel(
    axes: Axes, panel: Panel, style_of: Styles, main: set[str], sizes: Sequence[int | None], height: float
) -> None:
    """One score over numbers of labels, evenly apart; `sizes` are all that any panel shows, `height` is in inches."""
    right = len(sizes) - 0.85
    axes.set_xlim(-0.15, right)
    axes.set_xticks(range(len(sizes)), map(_size, sizes))
    axes.set(xlabel="labels of each user", ylabel=panel.score)
    axes.grid(axis="y", color=protocol.GRID, linewidth=0.6)
    ends = [
        protocol.draw_curve(axes, name, range(len(points)), points, style_of[name], name in main)
        for name, points in panel.curves.items()
    ]
    ends += protocol.draw_references(axes, panel.lines, right)
    for name, (low, high) in panel.bands.items():
        axes.axhspan(low, high, color=figures.FLOOR_COLOUR, alpha=0.15, linewidth=0, zorder=0)
        if name not in panel.lines:
            ends.append(protocol.End(name, right, (low + high) / 2, {"color": figures.FLOOR_COLOUR, "marker": ""}))
    if panel.score == SCORES["nll"]:
        protocol.cut_off(axes)
    protocol.name_ends(axes, ends, main, height)


def _panels(results: Mapping[str, Any]) -> dict[str, list[Panel]]:
    """The panels of each row, by its title."""
    regimes = results["regimes"]
    floors = {FLOORS[key]: value for key, value in results["floors"].items()}
    rows = {}
    for regime, found in regimes.items():
        accuracy, nll = (_panel(results, found, score, label) for score, label in SCORES.items())
        rows[TITLES[regime]] = [accuracy, nll._replace(lines=nll.lines | floors)]
    if raters := regimes.get("seen", {}).get("raters"):
        accuracy = _panel(results, regimes["seen"], "shared_accuracy", SCORES["accuracy"])
        brier = _panel(results, regimes["seen"], "shared_brier", "Brier score")
        ceiling = tuple(raters["floors"][f"accuracy_{bound}"]["value"] for bound in ("lower", "upper"))
        floor = _interval(raters["floors"]["brier"])
        rows[TITLES["shared"]] = [
            accuracy._replace(bands={CEILING: ceiling}),
            brier._replace(lines=brier.lines | {FLOOR: floor["value"]}, bands={FLOOR: (floor["low"], floor["high"])}),
        ]
    matched = []
    for regime, found in _grouped(results).items():
        panel = _panel(results, found, "matched", f"share of {regime} users")
        oracle = {row["candidate"]: row["matched"] for row in _bayes(found)}
        matched.append(panel._replace(curves=panel.curves | oracle, lines={}))
    return rows | ({TITLES["matched"]: matched} if matched else {})


def _panel(results: Mapping[str, Any], found: Mapping[str, Any], key: str, label: str) -> Panel:
    """Whoever was measured so, and the baseline without labels as a line."""
    name_of, baseline = _curve_names(results), results["baseline"]
    rows = [row for row in found["systems"] if key in row]
    measured = {(row["candidate"], row["method"]): list(map(_interval, row[key])) for row in rows}
    curves = {name: measured[system] for system, name in name_of.items() if system in measured}
    lines = {f"baseline {name}": points[0]["value"] for (name, _), points in measured.items() if name == baseline}
    return Panel(label, curves, lines, {})


def _curve_names(results: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """What to call the curve of a system: its candidate, and how that adapts where it does in several ways.

    The baseline has none where it learns nothing: it is a line.
    """
    rows = (row for found in results["regimes"].values() for row in found["systems"])
    systems = dict.fromkeys((row["candidate"], row["method"]) for row in rows)
    systems.pop((results["baseline"], FLAT), None)
    ways = Counter(candidate for candidate, _ in systems)
    return {
        (candidate, method): candidate if ways[candidate] == 1 else f"{candidate}, {method}"
        for candidate, method in systems
    }


def _interval(point: Point) -> Point:
    """A value with its interval, which a standard error stands for where there is none."""
    if "se" not in point:
        return point
    error = Z * point["se"]
    return {"value": point["value"], "low": point["value"] - error, "high": point["value"] + error}


def _show(results: Mapping[str, Any]) -> None:
    """Prints the tables, but for the NLL after each number of labels."""
    console = protocol.wide_console()
    console.print("", *_facts(results), "", sep="\n")
    for key, words in NOBODY.items():
        if key not in results["regimes"]:
            console.print(TITLES[key], words, "", sep="\n")
    for key, score, caption, fair, apart in shown(results):
        if score == "accuracy":
            fair = fair.drop(columns="K")  # for its width
        if score != "nll":
            console.print(protocol.on_terminal(TITLES[key], caption, fair, apart), "")
    console.print(*(f"{name}: {words.format(**results)}" for name, words in COLUMNS.items()), sep="\n")
    console.print("tables.md has the NLL after each number of labels, curves.csv every number", "", sep="\n")


def _facts(results: Mapping[str, Any]) -> list[str]:
    """What was measured, and who was left out, in two lines."""
    left_out = [f"{count:,} {name}" for name, count in results["left_out"].items() if count]
    return [
        f"Labels of each user were drawn {results['draws']} times. Baseline: {results['baseline']}. "
        f"Seed {results['seed']}. Measured in {results['seconds']:.0f} s.",
        f"Left out: {', '.join(left_out) or 'nobody'}.",
    ]


def _next_step(results: Mapping[str, Any]) -> str:
    systems = [row for found in results["regimes"].values() for row in found["systems"]]
    if not any(row["method"] == OWN for row in systems):
        return "the same command with a model of people among the candidates, such as one with model=tied"
    return "the same command with another seed and out, to see how much of this is luck"
