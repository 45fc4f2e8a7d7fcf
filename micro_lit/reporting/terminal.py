"""What a run prints: the data it found, and tables that say where the model stands."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from micro_lit.data.pairs import PreferenceData

Z = 1.96
KEPT = ("results.json", "metrics.csv", "config.yaml", "checkpoints")
MAX_CELLS = 16
MAX_EXAMPLE = 300

FLOORS = {
    "oracle": "F0  oracle floor",
    "marginal": "F1  marginal floor",
    "single_bt_conditional": "F2  single BT, conditional",
    "single_bt_linear": "F2  single BT, linear",
}


def show_data(data: PreferenceData, example: str | None) -> None:
    """Rows read, dropped and tied per set, texts that were cut, the splits, and a text as the backbone reads it."""
    console = Console(highlight=False, soft_wrap=True)
    for name, counts in data.counts.items():
        console.print(
            f"{name}: {counts.rows:,} rows read, {counts.dropped:,} bad rows dropped, {counts.ties:,} ties "
            f"{'dropped' if counts.drops_ties else 'kept'}, {counts.truncated:,} texts cut to fit"
        )
        for reason in counts.reasons:
            console.print(f"  dropped {reason}", markup=False)
        if counts.dropped > len(counts.reasons):
            console.print(f"  and {counts.dropped - len(counts.reasons):,} more")
    sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in data.splits.items())
    console.print(f"pairs: {sizes}; {len(data.texts):,} distinct {'vectors' if data.is_vectors else 'texts'}")
    if example is not None:
        shown = example if len(example) <= MAX_EXAMPLE else f"{example[:MAX_EXAMPLE]} ..."
        console.print(f"the backbone reads, for example: {shown!r}", markup=False)


def show_results(results: Mapping[str, Any], folder: Path) -> None:
    """The tables of a finished run, then what was written and a command worth running next."""
    console = Console(highlight=False)
    single = results["num_heads"] == 1
    console.print()
    if results["floors"]:
        console.print(ladder(results), "")
    console.print(scores(results), "")
    if not single:
        console.print(heads(results), "")
    kept = [name for name in KEPT if (folder / name).exists()]
    console.print(f"wrote {folder}/ in {results['seconds']:.0f} s: {', '.join(kept)}", soft_wrap=True)
    console.print(f"next: the same command with model={'mixture' if single else 'single_bt'}, to compare")


def ladder(results: Mapping[str, Any]) -> Table:
    """The model's test NLL among the floors of its population, best first."""
    test = results["test"]["nll"]
    rows = [
        (results["floors"][key]["value"], label, "", _distance(results["excess"][key])) for key, label in FLOORS.items()
    ]
    coin = math.log(2.0)
    rows.append((coin, "a coin", "", _distance({"value": test["value"] - coin, "se": test["se"]})))
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
        "that reaches the floor. The ORACLE knows groups and test labels."
    )
    table.add_column("")
    table.add_column("test NLL", justify="right")
    table.add_column("model's distance", justify="right")
    for value, label, interval, distance in sorted(rows):
        table.add_row(label, f"{value:.4f}{interval or ' ' * 9}", distance)
    return table


def scores(results: Mapping[str, Any]) -> Table:
    """NLL, accuracy, Brier score and calibration error of all test rows, then of each breakdown with few values."""
    table = Table(title=f"Test scores of {_title(results)}", title_justify="left", caption_justify="left")
    table.caption = "± is a 95 % interval that takes rows as independent"
    table.add_column("rows")
    table.add_column("n", justify="right")
    for column in ("NLL", "accuracy", "Brier", "ECE"):
        table.add_column(column, justify="right")
    _add_scores(table, "all", results["test"])
    for column, cells in results["test_by"].items():
        if 1 < len(cells) <= MAX_CELLS:
            table.add_section()
            for name, cell in cells.items():
                _add_scores(table, f"{column} {name}", cell)
    hidden = [f"{column} ({len(cells)})" for column, cells in results["test_by"].items() if len(cells) > MAX_CELLS]
    if hidden:
        table.caption += f"; only in results.json, too many values to print: {', '.join(hidden)}"
    return table


def _add_scores(table: Table, name: str, cell: Mapping[str, Any]) -> None:
    certain = (f"{cell[metric]['value']:.3f}{_interval(cell[metric], 3)}" for metric in ("nll", "accuracy"))
    table.add_row(
        name, f"{cell['nll']['n']:,}", *certain, *(f"{cell[metric]['value']:.3f}" for metric in ("brier", "ece"))
    )


def heads(results: Mapping[str, Any]) -> Table:
    """Mean weight per head, and its loss on each group of raters when groups are known."""
    facts = results["heads"]
    recovery = facts.get("recovery")
    groups = recovery["groups"] if recovery else []
    title = "Heads: mean weight, and NLL on each group" if recovery else "Heads: mean weight"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = f"{facts['effective']:.1f} of {results['num_heads']} heads in effective use"
    if recovery:
        table.caption += "; * the head that stands for the group in the best one-to-one matching"
    table.add_column("head", justify="right")
    table.add_column("mean weight", justify="right")
    for group in groups:
        table.add_column(group, justify="right")
    for head, weight in enumerate(facts["mean_weight"]):
        cells = (
            f"{recovery['nll'][number][head]:.3f}{'*' if recovery['matching'][number] == head else ' '}"
            for number in range(len(groups))
        )
        table.add_row(str(head), f"{weight:.3f}", *cells)
    return table


def _title(results: Mapping[str, Any]) -> str:
    return f"{results['experiment']} ({results['model']}, K = {results['num_heads']})"


def _interval(facts: Mapping[str, float], digits: int) -> str:
    return f" ± {Z * facts['se']:.{digits}f}"


def _distance(facts: Mapping[str, float]) -> str:
    return f"{facts['value']:+.4f} ± {Z * facts['se']:.4f}"
