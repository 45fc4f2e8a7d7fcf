"""Terminal output of a run: a summary of the data, and tables of results."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from micro_lit.data.mapping import meanings
from micro_lit.data.pairs import PreferenceData
from micro_lit.floors.raters import RaterFloors
from micro_lit.report.results import BASELINES, FEW_UNITS, FLOORS, RATER_FLOORS

Z = 1.96
USUAL_COUNTS = {"nll": "NLL", "accuracy": "accuracy", "brier": "Brier", "ece": "ECE"}
KEPT = ("results.json", "metrics.csv", "metrics.jsonl", "tensorboard", "config.yaml", "checkpoints")
# Kinds of overlap of test and training rows, as counted by `micro_lit.data.leaks.overlap`.
KNOWN_FLOORS = {
    "identical": "as they are",
    "other_rater": "by other raters or criteria",
    "prompt": "by their prompt",
    "response": "by a response",
}
MAX_CELLS = 16
MAX_EXAMPLE = 300
MIN_NMI = 0.01
MIN_ROWS = 30  # test rows; with fewer a warning is printed
MIN_WIDTH = 72  # characters: room for captions of narrow tables


def show_data(data: PreferenceData, example: str | None) -> None:
    """Prints rows read, dropped and tied per set, truncated texts, splits, and an example input of the backbone."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for name, counts in data.counts.items():
        console.print(
            f"{name}: {counts.rows:,} rows read, {counts.dropped:,} bad rows dropped, {counts.ties:,} ties "
            f"{'dropped' if counts.drops_ties else 'kept'}, {counts.truncated:,} texts cut to fit"
        )
        if counts.truncated:
            console.print(
                f"  {_text_counts(counts.truncated)} cut to backbone.max_length={counts.max_length}: "
                f"{counts.cut_prompts:,} lost the beginning of their prompt, "
                f"{counts.cut_responses:,} the end of their response"
            )
        if counts.same_tokens:
            pairs = "1 pair" if counts.same_tokens == 1 else f"{counts.same_tokens:,} pairs"
            console.print(
                f"  {pairs} dropped: both responses are the same tokens for the backbone, after template and cut "
                f"(backbone.max_length={counts.max_length})"
            )
        for reason, number in counts.left_out.items():
            console.print(f"  left out {number:,}: {reason}")
        for reason in counts.reasons:
            console.print(f"  dropped {reason}")
        if counts.dropped > len(counts.reasons):
            console.print(f"  and {counts.dropped - len(counts.reasons):,} more")
        if counts.unread:
            console.print(f"  columns not read: {', '.join(counts.unread)}")
        for line in meanings(counts.unread):
            console.print(f"  note: {line}")
    sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in data.splits.items() if len(rows))
    console.print(f"pairs: {sizes}; {len(data.texts):,} distinct {'vectors' if data.is_vectors else 'texts'}")
    if data.overlap is not None:
        known = ", ".join(
            f"{number:,} {KNOWN_FLOORS[name]}" for name, number in data.overlap.items() if name in KNOWN_FLOORS
        )
        console.print(f"of {data.overlap['rows']:,} test rows, training rows hold: {known}")
    for note in data.notes:
        console.print(f"warning: {note}")
    if example is not None:
        shown = example if len(example) <= MAX_EXAMPLE else f"{example[:MAX_EXAMPLE]} ..."
        console.print(f"the backbone reads, for example: {shown!r}")


def show_heads(num_heads: int, data: PreferenceData) -> None:
    """Prints the automatic number of heads of a mixture, and the setting that changes it."""
    print(f"K = {num_heads} heads for {len(data.splits['train']):,} training pairs; model.num_heads sets it")


def _text_counts(number: int) -> str:
    return "1 text" if number == 1 else f"{number:,} texts"


def show_results(results: Mapping[str, Any], folder: Path, brief: bool = False) -> None:
    """Prints the tables of a finished run, the written files, and a next command; brief: one line only."""
    console = Console(highlight=False)
    single = results["num_heads"] == 1
    if brief:
        nll = results["test"]["nll"]
        line = f"{folder.name}: test NLL {nll['value']:.4f}{_interval(nll, 4)}, {results['seconds']:.0f} s"
        console.print(line, markup=False, soft_wrap=True)
        _show_invalid(console, results)
        return
    console.print()
    _show_invalid(console, results)
    if results["floors"]:
        console.print(ladder(results), "")
    console.print(score_table(results), "")
    if note := unbeaten(results):
        console.print(note, "", sep="\n", markup=False)
    if results["raters"]:
        console.print(against_raters(results), "")
    if not single:
        console.print(heads(results), "")
        if found := recovered(results):
            console.print(categories(found), "")
    kept = [name for name in KEPT if (folder / name).exists()]
    console.print(f"wrote {folder}/ in {results['seconds']:.0f} s: {', '.join(kept)}", markup=False, soft_wrap=True)
    if results["model"] == "router":
        console.print("next: python -m micro_lit.compare +experiment=micro, a router among its rivals")
    elif "user" in results["test_by"]:
        console.print("next: python -m micro_lit.compare +experiment=people_planted, models of people and their rivals")
    else:
        console.print(f"next: the same command with model={'mixture' if single else 'single_bt'}, to compare")


def _show_invalid(console: Console, results: Mapping[str, Any]) -> None:
    if not results.get("valid", True):
        words = f"INVALID: {results['invalid_because']} These numbers cannot be true; rankings leave them out."
        console.print(words, style="bold red", markup=False, soft_wrap=True)


def ladder(results: Mapping[str, Any]) -> Table:
    """Table of the model's test NLL and the floors of its population, lowest first."""
    test = results["test"]["nll"]
    rows = [
        (results["floors"][key]["value"], label, "", _distance(results["excess"][key])) for key, label in FLOORS.items()
    ]
    coin = math.log(2.0)
    rows.append((coin, "a coin", "", _distance({**test, "value": test["value"] - coin})))
    rows.append((test["value"], "[bold]this model[/bold]", _interval(test, 4), ""))
    recovery = results["heads"].get("recovery")
    if recovery and results["num_heads"] > 1:
        oracle = recovery["oracle_nll"]
        beyond = oracle["value"] - results["floors"]["oracle"]["value"]
        distance = f"from F0 {_distance({'value': beyond, 'se': oracle['se']})}"
        rows.append((oracle["value"], "ORACLE: best head per group", _interval(oracle, 4), distance))
    table = Table(title=f"Where {_title(results)} stands", title_justify="left", caption_justify="left")
    table.caption = (
        "NLL in nats, with 95 % intervals. A distance compares, on the same test rows, the model with the predictor "
        "that reaches the floor. The ORACLE is given groups and test labels."
        f"{_units_note(test)}"
    )
    table.add_column("")
    table.add_column("test NLL", justify="right")
    table.add_column("model's distance", justify="right")
    for value, label, interval, distance in sorted(rows):
        table.add_row(label, f"{value:.4f}{interval or ' ' * 9}", distance)
    return table


def score_table(results: Mapping[str, Any]) -> Table:
    """Table of NLL, accuracy, Brier score and calibration error: all test rows, then breakdowns with few values."""
    table = Table(title=f"Test scores of {_title(results)}", title_justify="left", caption_justify="left")
    table.caption = f"± and brackets: 95 % intervals.{_units_note(results['test']['nll'])}"
    table.add_column("rows")
    table.add_column("n", justify="right")
    own = [name for name in results["test"] if name not in USUAL_COUNTS]
    for column in (*USUAL_COUNTS.values(), *own):
        table.add_column(column, justify="right")
    for name in own:
        facts = results["metrics"][name]
        unit = f", in {facts['unit']}" if facts["unit"] else ""
        table.caption += f" {name}{unit}: {facts['better']} is better."
    _add_scores(table, "all", results["test"], own)
    baselines = results.get("baselines", {})
    for name, cell in baselines.items():
        table.add_row(BASELINES[name][0], f"{cell['n']:,}", "", _share(cell), "", "", *[""] * len(own))
    for column, cells in results["test_by"].items():
        if 1 < len(cells) <= MAX_CELLS:
            table.add_section()
            for name, cell in cells.items():
                _add_scores(table, f"{column} {name}", cell, own)
    hidden = [f"{column} ({len(cells)})" for column, cells in results["test_by"].items() if len(cells) > MAX_CELLS]
    if hidden:
        table.caption += f" Only in results.json, too many values to print: {', '.join(hidden)}."
    if (rows := results["test"]["nll"]["n"]) < MIN_ROWS:
        table.caption = (
            f"{rows} test rows, fewer than {MIN_ROWS}: these numbers say nothing about the model. {table.caption}"
        )
    if "majority" in baselines:
        table.caption += (
            f" majority: what most training raters of the same pair chose, known for "
            f"{baselines['majority']['known']:.0%} of the rows; a coin on the others."
        )
    return table


def unbeaten(results: Mapping[str, Any]) -> str | None:
    """Sentence if the model is not more accurate than the best baseline, beyond the 95 % interval; else None."""
    found = results.get("baselines", {})
    if not found:
        return None
    name = min(found, key=lambda each: found[each]["difference"]["value"])
    difference = found[name]["difference"]
    if difference["value"] > _reach(difference):
        return None
    words = "a coin" if found[name].get("known") == 0 else f"'{BASELINES[name][1]}'"
    rows = "" if difference["n"] == results["test"]["nll"]["n"] else f" on the {difference['n']:,} rows it applies to"
    return (
        f"note: this model does not beat {words} ({found[name]['value']:.3f}){rows}: difference in accuracy "
        f"{difference['value']:+.3f}{_interval(difference, 3)}"
    )


def against_raters(results: Mapping[str, Any]) -> Table:
    """Table of scores on pairs with several raters, and the floors implied by their disagreement."""
    facts = results["raters"]
    table = Table(title="Against the raters' own floor", title_justify="left", caption_justify="left")
    table.caption = (
        f"{facts['rows']:,} test rows whose {facts['pairs']:,} pairs two or more raters judged; two of them agree with "
        f"probability {facts['agreement']['value']:.3f}. No predictor that does not know the rater can be better "
        "than the floor; for NLL and accuracy only bounds of it are known. ± is a 95 % interval, pairs as units."
    )
    for column in ("", "this model", "floor or ceiling", "model's distance"):
        table.add_column(column, justify="left" if not column else "right")
    brier, nll, accuracy = (facts[name] for name in ("brier", "nll", "accuracy"))
    floor = brier["floors"]["brier"]
    model = [f"{score['model']['value']:.4f}{_interval(score['model'], 4)}" for score in (brier, nll, accuracy)]
    distance = _distance(brier["excess"])
    table.add_row("Brier", model[0], f"{floor['value']:.4f}{_interval(floor, 4)}", distance)
    for name, score, shown in (("NLL", nll, model[1]), ("accuracy", accuracy, model[2])):
        low, high = (score["floors"][bound]["value"] for bound in ("lower", "upper"))
        table.add_row(name, shown, f"between {low:.4f} and {high:.4f}", "")
    return table


def _add_scores(table: Table, name: str, cell: Mapping[str, Any], own: Sequence[str]) -> None:
    nll = cell["nll"]
    table.add_row(
        escape(name),
        f"{nll['n']:,}",
        f"{nll['value']:.3f}{_interval(nll, 3)}",
        _share(cell["accuracy"]),
        *(f"{cell[metric]['value']:.3f}" for metric in ("brier", "ece")),
        *(_scored(cell[metric], nll["n"]) if metric in cell else "" for metric in own),
    )


def _scored(facts: Mapping[str, Any], rows: int) -> str:
    """Formats the mean of a metric with its interval, and the number of rows if it does not score all."""
    of = "" if facts["n"] == rows else f" (n {facts['n']:,})"
    return f"{facts['value']:.3f}{_interval(facts, 3)}{of}"


def heads(results: Mapping[str, Any]) -> Table:
    """Table of the mean weight of each head, and its NLL on each group of raters if groups are known."""
    facts = results["heads"]
    recovery = facts.get("recovery")
    groups = recovery["groups"] if recovery else []
    title = "Heads: mean weight, and NLL on each group" if recovery else "Heads: mean weight"
    table = Table(title=title, title_justify="left", caption_justify="left", min_width=MIN_WIDTH)
    table.caption = f"{facts['effective']:.1f} of {results['num_heads']} heads in effective use"
    if recovery:
        table.caption += "; * the head assigned to the group in the best one-to-one matching"
    table.caption += (
        f". Of log K = {math.log(results['num_heads']):.2f} nats the entropy of the mean weights is "
        f"{facts['entropy_of_mean']:.2f} (low: few heads do all) and that of an example's weights "
        f"{facts['entropy_per_example']:.2f} (high: the gate does not choose)."
    )
    if dead := facts["dead"]:
        more = f" and {len(dead) - MAX_CELLS} more" if len(dead) > MAX_CELLS else ""
        table.caption += (
            f" Dead, with less than a tenth of an equal weight: {', '.join(map(str, dead[:MAX_CELLS]))}{more}; raise "
            "model.balance_weight, lower model.num_heads, or give a sparse mixture model.noise."
        )
    if (mixed := results.get("mixed_reward")) and mixed["disagreement"]["value"]:
        table.caption += (
            f" A score is the mixed reward, Σ w r: on {mixed['disagreement']['value']:.1%} of the test pairs it orders "
            f"responses otherwise than the mixture's preference; NLL of its own preference {mixed['nll']['value']:.4f}."
        )
    table.add_column("head", justify="right")
    table.add_column("mean weight", justify="right")
    for group in groups:
        table.add_column(escape(group), justify="right")
    for head, weight in enumerate(facts["mean_weight"]):
        cells = (
            f"{recovery['nll'][number][head]:.3f}{'*' if recovery['matching'][number] == head else ' '}"
            for number in range(len(groups))
        )
        table.add_row(str(head), f"{weight:.3f}", *cells)
    return table


def recovered(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Label columns that the top heads predict, with NMI of at least `MIN_NMI`."""
    columns = results["heads"].get("categories", {})
    return {column: facts for column, facts in columns.items() if facts["nmi"] >= MIN_NMI}


def categories(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Table of the agreement between the head of largest weight of each row and each label column."""
    title = "The head on top against the labels"
    table = Table(title=title, title_justify="left", caption_justify="left", min_width=MIN_WIDTH)
    table.caption = "In brackets the purity of one head for all rows. NMI and ARI: 0 for chance, 1 for a head a value."
    table.add_column("column")
    for name in ("values", "purity", "NMI", "ARI"):
        table.add_column(name, justify="right")
    for column, facts in found.items():
        rows = [sum(top) for top in facts["top"]]
        table.add_row(
            column,
            str(sum(map(bool, rows))),
            f"{facts['purity']:.3f} ({max(rows) / sum(rows):.3f})",
            *(f"{facts[score]:.3f}" for score in ("nmi", "ari")),
        )
    return table


def _title(results: Mapping[str, Any]) -> str:
    return escape(f"{results['experiment']} ({results['model']}, K = {results['num_heads']})")


def _reach(facts: Mapping[str, Any]) -> float:
    """Half width of the 95 % interval; over rows for results of older versions, which lack other intervals."""
    return (facts["high"] - facts["low"]) / 2 if "low" in facts else Z * facts["se"]


def _interval(facts: Mapping[str, Any], digits: int) -> str:
    return f" ± {_reach(facts):.{digits}f}"


def _share(facts: Mapping[str, Any]) -> str:
    """Formats a proportion with both ends of its interval, which is not symmetric."""
    if "low" not in facts:
        return f"{facts['value']:.3f}{_interval(facts, 3)}"
    value, low, high = (f"{facts[part]:.3f}".removeprefix("0") for part in ("value", "low", "high"))
    return f"{value} [{low} {high}]"


def _distance(facts: Mapping[str, Any]) -> str:
    return f"{facts['value']:+.4f}{_interval(facts, 4)}"


def _units_note(facts: Mapping[str, Any]) -> str:
    """Sentence on the independent units of intervals, with a warning if there are few."""
    if "units" not in facts:
        return " They take rows as independent."
    number, name = facts["n_units"], facts["units"]
    if number == 1:
        return f" A single unit ({name}): they take rows as independent, which these are not."
    few = f" Fewer than {FEW_UNITS} {name}: too few for intervals to be exact." if number < FEW_UNITS else ""
    return f" They take the {number:,} {name} as independent.{few}"


GAPS = {
    "mutual_information": ("F1 - F0, the mutual information of group and label", "knowing the person"),
    "misspecification": ("F2 conditional - F1", "a mixture"),
    "prompt": ("F2 linear - F2 conditional", "a gate on the prompt, or a richer single BT"),
    "pinsker_bound": ("bound of F1 - F0 from below: 2 E Σ γ (σ - p̄)²", ""),
    "variance_bound": ("bound of F1 - F0 from below: 2ρK E Var σ", ""),
    "printed_bound": ("the same as printed in MiCRo, Theorem 3.2: vacuous", ""),
}


def population_floors(found: Mapping[str, Mapping[str, float]]) -> Table:
    """Table of exact floors of a planted population, their gaps, and bounds of the gaps."""
    table = Table(title="Floors of the population, in nats", title_justify="left", caption_justify="left")
    norm = max(found["gradient_norms"].values())
    table.caption = (
        f"Exact sums. The two single-BT floors are convex solves, with a gradient norm of at most {norm:.1e}."
    )
    table.add_column("")
    table.add_column("nats", justify="right")
    table.add_column("who can win it")
    for key, value in sorted(found["floors"].items(), key=lambda item: item[1]):
        table.add_row(FLOORS[key], f"{value:.4f}", "")
    table.add_section()
    for key, (name, winner) in GAPS.items():
        table.add_row(name, f"{found['gaps'][key]:.4f}", winner)
    return table


def rater_table(found: RaterFloors) -> Table:
    """Table of floors, from disagreement of raters, for predictors that do not know the rater; bootstrap intervals."""
    table = Table(title="Floor of the raters themselves", title_justify="left", caption_justify="left")
    raters = "unnamed raters" if found.raters is None else f"{found.raters:,} raters"
    caption = [
        f"{found.rows:,} votes of {raters} on {found.pairs:,} pairs that two or more of them judged "
        f"({found.raters_per_pair:.1f} a pair, {found.covered:.0%} of the rows). Intervals: 95 %, bootstrap."
    ]
    table.caption = "\n".join([*caption, *(f"Warning: {warning}" for warning in found.warnings)])
    table.add_column("")
    for column in ("estimate", "over pairs", "over raters"):
        table.add_column(column, justify="right")
    for key, name in RATER_FLOORS.items():
        floor = found.floors[key]
        intervals = ("" if span is None else f"{span[0]:.4f} to {span[1]:.4f}" for span in floor[2:])
        table.add_row(name, f"{floor.value:.4f}", *intervals)
    return table
