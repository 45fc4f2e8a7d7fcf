"""What a run prints: the data it found, and a table that says where the model stands."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch.nn import Module

from micro_lit.data.pairs import PreferenceData
from micro_lit.features.backbones import CachedBackbone

Z = 1.96
MAX_ROWS = 16

FLOOR_LABELS = {
    "oracle": "F0  floor when the rater's group is known",
    "marginal": "F1  floor of any predictor that sees prompt and pair",
    "single_bt_conditional": "F2  best single BT, any score of prompt and response",
    "single_bt_linear": "F2  best single BT, linear in the attributes",
}


def show_data(data: PreferenceData, backbone: Module) -> None:
    """Rows read, dropped and tied per set, the sizes of the splits, and texts that were cut."""
    console = Console()
    for name, counts in data.counts.items():
        console.print(
            f"{name}: {counts.rows:,} rows read, {counts.dropped:,} dropped, {counts.ties:,} ties", highlight=False
        )
        for reason in counts.reasons:
            console.print(f"  dropped {reason}", highlight=False, markup=False)
    sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in data.splits.items())
    cut = f"; {backbone.truncated:,} cut to fit" if backbone.truncated else ""
    console.print(f"pairs: {sizes}; {len(data.texts):,} distinct texts{cut}", highlight=False)


def show_results(results: Mapping[str, Any], folder: Path) -> None:
    """The tables of a finished run, then what was written and what to do next."""
    console = Console()
    name = f"{results['experiment']} ({results['model']}, K = {results['num_heads']})"
    console.print()
    console.print(ladder(results, name) if results["floors"] else scores({name: results["test"]}, "test"))
    if results["floors"]:
        console.print(scores({name: results["test"]}, "test"))
    for column, cells in results["test_by"].items():
        if 1 < len(cells) <= MAX_ROWS:
            console.print(scores(cells, f"test by {column}"))
    if results["num_heads"] > 1:
        console.print(heads(results))
    kind = "a single BT's baseline for it" if results["num_heads"] > 1 else "a mixture to compare"
    console.print(f"wrote {folder}/ (results.json, metrics.csv, checkpoints/) in {results['seconds']:.0f} s")
    other = "single_bt" if results["num_heads"] > 1 else "mixture"
    console.print(f"next: the same command with model={other} gives {kind}", highlight=False)


def ladder(results: Mapping[str, Any], name: str) -> Table:
    """The model's test NLL among the floors of its population, best first."""
    floors, excess, test = results["floors"], results["excess"], results["test"]["nll"]
    rows = [(floors[key]["value"], label, "", _excess(excess[key])) for key, label in FLOOR_LABELS.items()]
    rows.append((math.log(2.0), "a coin", "", _signed(test["value"] - math.log(2.0), test["se"])))
    rows.append((test["value"], f"[bold]{name}[/bold]", f"± {Z * test['se']:.4f}", ""))
    oracle = results["heads"].get("recovery", {}).get("oracle_nll")
    if oracle is not None and results["num_heads"] > 1:
        label = "ORACLE: each planted group's best head, picked on the test rows"
        rows.append((oracle["value"], label, f"± {Z * oracle['se']:.4f}", ""))
    table = Table(title=f"Where {name} stands", title_justify="left", caption_justify="left")
    table.caption = (
        "NLL in nats; ± is a 95 % interval. Distances compare the model with each floor's own predictor on the\n"
        "same test rows, so the luck of the labels cancels."
    )
    table.add_column("predictor")
    table.add_column("test NLL", justify="right")
    table.add_column("95 %", justify="right")
    table.add_column("the model is above it by", justify="right")
    for value, label, interval, distance in sorted(rows):
        table.add_row(label, f"{value:.4f}", interval, distance)
    return table


def scores(rows: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """NLL, accuracy, Brier score and calibration error with 95 % intervals and n, a row each."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("n", justify="right")
    for column in ("NLL", "accuracy", "Brier", "ECE"):
        table.add_column(column, justify="right")
    for name, cell in rows.items():
        table.add_row(
            name,
            f"{cell['nll']['n']:,}",
            *(_with_interval(cell[metric], digits) for metric, digits in (("nll", 4), ("accuracy", 3), ("brier", 4))),
            f"{cell['ece']['value']:.3f}",
        )
    return table


def heads(results: Mapping[str, Any]) -> Table:
    """Mean weight per head, and the planted group each head stands for."""
    facts = results["heads"]
    recovery = facts.get("recovery")
    table = Table(title="heads", title_justify="left", caption_justify="left")
    table.add_column("head", justify="right")
    table.add_column("mean weight", justify="right")
    groups = list(results["test_by"].get("group", {}))
    for group in groups if recovery else []:
        table.add_column(f"NLL on {group}", justify="right")
    for head, weight in enumerate(facts["mean_weight"]):
        cells = []
        for number, _ in enumerate(groups if recovery else []):
            mark = "*" if recovery["matching"][number] == head else " "
            cells.append(f"{recovery['nll'][number][head]:.3f}{mark}")
        table.add_row(str(head), f"{weight:.3f}", *cells)
    table.caption = f"{facts['effective']:.1f} of {results['num_heads']} heads in effective use"
    if recovery:
        table.caption += "; * the head that stands for the group in the best one-to-one matching"
    return table


def _with_interval(facts: Mapping[str, float], digits: int) -> str:
    return f"{facts['value']:.{digits}f} ± {Z * facts['se']:.{digits}f}"


def _excess(facts: Mapping[str, float]) -> str:
    return _signed(facts["value"], facts["se"])


def _signed(value: float, se: float) -> str:
    return f"{value:+.4f} ± {Z * se:.4f}"
