"""Sections of the comparison's report: results as tables for people.

A row is a system: a candidate and its adaptation. Rivals are systems with the same inputs; they come first, the best on
top. Checks, ORACLES (systems with more inputs) and results that cannot be true are marked, in a block below.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from micro_lit.compare.diagnostics import BAYES
from micro_lit.report.results import FEW_UNITS
from micro_lit.report.terminal import Z

Row = Mapping[str, Any]
Results = Mapping[str, Any]

MAX_ATTRIBUTES = 8  # columns of more attributes do not fit a page
COLUMN_NAMES = ("model", "adaptation")
INVALID = "INVALID: "
SHOWN_SCORES = {"accuracy": "accuracy", "nll": "NLL (nats)"}
ON_TERMINAL = (*COLUMN_NAMES, "K", "accuracy", "difference", "NLL", "turned")


class Table(NamedTuple):
    """A table in two blocks: rivals (`fair`), then checks, oracles and invalid results (`apart`).

    Attributes:
        key: name of the table in loggers.
        heading: heading of the table in tables.md.
        terminal: caption and both blocks as printed on a terminal; None: not printed.
    """

    key: str
    fair: pd.DataFrame
    apart: pd.DataFrame
    heading: str = ""
    terminal: tuple[str, pd.DataFrame, pd.DataFrame] | None = None


class Section(NamedTuple):
    """A section: title, caption, caption of the `apart` blocks, and tables. Without tables the caption says why."""

    title: str
    caption: str
    apart: str = ""
    tables: Sequence[Table] = ()


ATTRIBUTE_SECTIONS = {
    "none": Section(
        "(a) No side information",
        "Every candidate with the weights of its own gate, which reads the prompt alone.",
        "Not rivals: an ORACLE is given the attribute of every row.",
    ),
    "criterion": Section(
        "(b) Criterion and {budget} labels of each attribute",
        "A router, trained on {budget} labels of each attribute, reads prompt and criterion to weigh the heads.",
        "Not rivals: a CHECK reads shuffled criteria, and must fall to the accuracy of table (a).",
    ),
    "labels": Section(
        "(c) {budget} labels of the target alone",
        "The candidate's heads are weighed for each attribute by {budget} labels of that attribute.",
        "Not rivals: an ORACLE picks the best head of each attribute on the test rows themselves, or "
        "is given their attributes. Weighted heads may be better than the best single head.",
    ),
}
NO_ROUTER = "No router: `routed` names no candidate."
ATTRIBUTE_COLUMNS = {
    "K": "number of heads.",
    "accuracy": "share of test rows whose chosen response the model prefers, a tie one half; mean over attributes. In "
    "brackets its 95 % interval, over {units} and draws of labels.",
    "sd": "standard deviation of the accuracy over draws of labels.",
    "difference": "accuracy minus that of {baseline} in table (a), paired row by row. * marks a 95 % interval that "
    "excludes 0, over {units} and draws of labels.",
    "NLL": "negative log-likelihood in nats, mean over attributes.",
    "turned": "of the predictions that the labels changed, the share that flipped labels do not change in the same "
    "way; near 1 when predictions depend on the labels.",
}
TITLES = {
    "seen": "Users seen in training",
    "unseen": "Users never seen",
    "shared": "Pairs that several seen users judged",
    "matched": "Users whose head matches their group",
}
CAPTIONS = {
    "seen": "{users:,} users, scored on {rows:,} test rows; their labels are training pairs.{fewer}",
    "unseen": "{users:,} users without training pairs, scored on {rows:,} test rows in each draw, the same rows "
    "for every number of labels. Their labels are other test rows, which share no response with the scored rows.",
    "shared": "{rows:,} test rows of {pairs:,} pairs. A predictor that does not know the rater has a Brier score of at "
    "least {brier}, an accuracy of at most {accuracy_lower:.3f} to {accuracy_upper:.3f} and an NLL of at least "
    "{nll_lower:.3f} to {nll_upper:.3f} nats; a model that knows the rater may be better. Means over rows; ± is a 95 % "
    "interval, pairs as units.",
    "matched": "Share of {users} users whose head of largest weight is assigned to their group. Heads are assigned to "
    "groups one to one, to maximise this share{within}; without labels all users have the same head.",
}
NOBODY = {
    "seen": "Nobody: no test row belongs to a user with training pairs.",
    "unseen": "Nobody: no user without training pairs has enough test rows for labels and for scores.",
}
APART = "Not rivals: an ORACLE has more inputs than the others, and INVALID results cannot be true."
ORACLE = "Not rivals: an ORACLE is given the rewards of all groups, and returns the most probable group."
DIAGNOSTIC = "A diagnostic only: these groups may have been made with knowledge of test rows."
USER_COLUMNS = {
    "K": "number of heads.",
    "0, 1, ...": "the score after this number of labels of each user, or fewer if a user has fewer: a mean over the "
    "rows of each user, then over users and draws of labels.",
    "difference": "from {baseline} without labels, at the largest number of labels, paired user by user, with its 95 % "
    "interval over users and draws. * marks an interval that excludes 0.",
    "above floor": "the last Brier score minus the floor, on the same rows.",
}


def of_attributes(results: Results, leaders: Sequence[str], first: Sequence[str]) -> list[Section]:
    """Returns the sections of the three tables.

    Args:
        results: results of a `Comparison`.
        leaders, first: candidates and methods whose rows of table (c) a terminal shows.
    """
    found = []
    for key, section in ATTRIBUTE_SECTIONS.items():
        rows = results["tables"][key]
        title, caption = section.title.format(**results), section.caption.format(**results) + few_units(*units(results))
        if not rows:
            found.append(Section(title, NO_ROUTER, tables=[Table(key, *as_blocks([], results))]))
            continue
        words, shown = caption, rows
        if key == "labels":
            # Rows are selected without their scores, because the best of many would be biased upwards.
            shown = [row for row in rows if row["candidate"] in leaders or row["method"] in first or row["heads"] == 1]
            if len(shown) < len(rows):
                kinds = [f"{name} of every candidate" for name in first]
                kinds += [f"every method of {name}" for name in leaders]
                words += f" Shown: {', '.join(kinds)}; {len(rows) - len(shown)} more rows are in tables.md."
        fair, apart = as_blocks(shown, results)
        columns = [column for column in fair if column in (*ON_TERMINAL, *own_metrics(rows))]
        words += f" {section.apart}" if len(apart) else ""
        table = Table(key, *as_blocks(rows, results), terminal=(words, fair[columns], apart[columns]))
        found.append(Section(title, caption, section.apart, [table]))
    return found


def as_blocks(rows: Sequence[Row], results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Formats rows as two blocks, each sorted by accuracy: rivals, then checks, oracles and invalid results."""
    attributes = results["attributes"] if len(results["attributes"]) <= MAX_ATTRIBUTES else {}
    turned, own = any("turned" in row for row in rows), own_metrics(rows)
    columns = [*COLUMN_NAMES, "K", "accuracy", "sd", "difference", "NLL", *own]
    columns += [f"{name} (n = {count:,})" for name, count in attributes.items()]
    columns += ["turned"] if turned else []
    found: tuple[list, list] = ([], [])
    for row in sorted(rows, key=lambda row: (row["oracle"], -row["accuracy"]["value"])):
        mark = marked(row)
        cells = [f"{mark}{row['candidate']}", row["method"], str(row["heads"])]
        is_baseline = row["candidate"] == results["baseline"]
        cells += [_with_interval(row["accuracy"]), number(row["accuracy"]["sd"])]
        cells += [difference(row["accuracy_difference"], is_baseline), number(row["nll"]["value"])]
        cells += [_with_interval(row[name]) for name in own]
        cells += [number(row["accuracy_by"][name]["value"]) for name in attributes]
        cells += [number(row.get("turned"), digits=2)] if turned else []
        found[bool(mark)].append(cells)
    fair, apart = (pd.DataFrame(block, columns=columns) for block in found)
    return fair, apart


def few_units(number: int, units: str) -> str:
    """Returns a warning when there are too few units for intervals; else an empty text."""
    if number >= FEW_UNITS:
        return ""
    return f" Only {number} {units}: too few for intervals to be exact, and nothing is starred."


def units(results: Results) -> tuple[int, str]:
    """Number and name of the units behind the intervals of attributes."""
    first = next(row for rows in results["tables"].values() for row in rows)["accuracy"]
    return first.get("n_units", FEW_UNITS), first.get("units", "units")


def own_metrics(rows: Sequence[Row]) -> list[str]:
    """Names of the user's own metrics, beside accuracy and NLL."""
    scored = [name.removesuffix("_difference") for row in rows[:1] for name in row if name.endswith("_difference")]
    return [name for name in scored if name not in SHOWN_SCORES]


def marked(row: Row) -> str:
    """Prefix of the name of a system that is not a rival; empty for a rival."""
    if not row.get("valid", True):
        return INVALID
    return "ORACLE: " if row.get("oracle") else "CHECK: " if row.get("check") else ""


def of_users(results: Results) -> list[Section]:
    """Returns the sections of users: scores of seen and unseen users, pairs with several raters, and groups."""
    regimes, found = results["regimes"], []
    for key, nobody in NOBODY.items():
        if key not in regimes:
            found.append(Section(TITLES[key], nobody))
            continue
        fewer = [
            f"{given:.1f} at {size_name(size)}"
            for size, given in zip(regimes[key]["labels"], regimes[key]["given"], strict=True)
            if size is None or round(given, 1) < size
        ]
        words = f" Some have fewer: on average {', '.join(fewer)}." if fewer else ""
        caption = CAPTIONS[key].format(**regimes[key], fewer=words)
        few = few_units(regimes[key]["users"], "users")
        tables = []
        for score in (*SHOWN_SCORES, *own_metrics(regimes[key]["systems"])):
            fair, apart = _over_labels(regimes[key], score, results["baseline"])
            on_terminal = tuple(block.drop(columns="K", errors="ignore") for block in (fair, apart))
            shown = None if score == "nll" else (caption + few, *on_terminal)
            tables.append(Table(f"{key}_{score}", fair, apart, SHOWN_SCORES.get(score, score), shown))
        found.append(Section(TITLES[key], caption + few, APART, tables))
    if raters := regimes.get("seen", {}).get("raters"):
        floors = {name: floor["value"] for name, floor in raters["floors"].items()}
        brier = f"{floors.pop('brier'):.4f} ± {Z * raters['floors']['brier']['se']:.4f}"
        caption = CAPTIONS["shared"].format(rows=raters["rows"], pairs=raters["pairs"], brier=brier, **floors)
        found.append(_alike("shared", "shared_brier", caption, _shared(regimes["seen"]), pd.DataFrame()))
    if grouped := of_groups(results):
        fair, apart = (
            pd.concat(block).fillna("-") for block in zip(*(_matched(*each) for each in grouped.items()), strict=True)
        )
        users = " and ".join(f"{of['groups']['users']:,} {key}" for key, of in grouped.items())
        sources = max(of["groups"]["sources"] for of in grouped.values())
        within = f" within each of {sources} sources" if sources > 1 else ""
        caption = CAPTIONS["matched"].format(users=users, within=within)
        caption += f" {ORACLE}" if len(apart) else "" if results["floors"] else f" {DIAGNOSTIC}"
        found.append(_alike("matched", "matched_share", caption, fair, apart))
    return found


def _alike(title: str, key: str, caption: str, fair: pd.DataFrame, apart: pd.DataFrame) -> Section:
    """A section of one table that is the same in tables.md and on a terminal."""
    return Section(TITLES[title], caption, "", [Table(key, fair, apart, terminal=(caption, fair, apart))])


def of_groups(results: Results) -> dict[str, Mapping[str, Any]]:
    """Results by regime, for regimes in which groups are known and some systems weigh heads."""
    regimes = results["regimes"].items()
    return {key: found for key, found in regimes if any("matched" in row for row in found["systems"])}


def bayes(found: Mapping[str, Any]) -> list[Row]:
    """The ORACLE of groups as a row of a system; empty when the true rewards are unknown."""
    oracle = found.get("groups", {}).get("oracle")
    return [{"candidate": BAYES, "method": "true rewards", "heads": "-", "matched": oracle}] if oracle else []


def _over_labels(found: Mapping[str, Any], score: str, baseline: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One score after each number of labels, as blocks of rivals and others; for accuracy also the last NLL."""
    rows: tuple[list, list] = ([], [])
    for system in sorted(found["systems"], key=lambda row: row[score][-1]["value"], reverse=score == "accuracy"):
        cells = _names(system) | _cells(found["labels"], system[score])
        cells["difference"] = difference(system[f"{score}_difference"][-1], system["candidate"] == baseline)
        if score == "accuracy":
            cells["NLL"] = number(system["nll"][-1]["value"])
        rows[bool(marked(system))].append(cells)
    fair, apart = map(pd.DataFrame, rows)
    return fair, apart


def _shared(found: Mapping[str, Any]) -> pd.DataFrame:
    """Scores on pairs with several raters, without labels and with the largest number of labels."""
    ends = {"0": 0, size_name(found["labels"][-1]): -1}
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
    """Shares of users in the right group, for systems that weigh heads, and for the ORACLE if there is one."""
    systems = [row for row in found["systems"] if "matched" in row]
    both = (sorted(systems, key=lambda row: row["matched"][-1]["value"], reverse=True), bayes(found))
    return tuple(
        pd.DataFrame([_names(row) | {"users": key} | _cells(found["labels"], row["matched"]) for row in block])
        for block in both
    )


def _names(system: Row) -> dict[str, str]:
    mark = marked(system) if system.get("method") != "true rewards" else ""
    return {"model": f"{mark}{system['candidate']}", "adaptation": system["method"], "K": str(system["heads"])}


def _cells(sizes: Sequence[int | None], points: Sequence[Mapping[str, float]]) -> dict[str, str]:
    return {size_name(size): number(point["value"]) for size, point in zip(sizes, points, strict=True)}


def size_name(size: int | None) -> str:
    return "all" if size is None else str(size)


def _with_interval(score: Mapping[str, float]) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def difference(found: Mapping[str, float], is_baseline: bool) -> str:
    """Formats a difference with its interval, and with * when the interval excludes 0 and there are enough units."""
    if is_baseline and found["low"] == found["high"] == 0.0:
        return "baseline"
    outside = found["low"] > 0.0 or found["high"] < 0.0
    mark = "*" if outside and found.get("n_units", FEW_UNITS) >= FEW_UNITS else ""
    return f"{found['value']:+z.3f} [{found['low']:+z.3f}, {found['high']:+z.3f}]{mark}"


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
