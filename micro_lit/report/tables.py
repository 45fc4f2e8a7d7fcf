"""Tables of many runs: mean and standard deviation over seeds, as Markdown, CSV and LaTeX."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from micro_lit.report.collect import FinishedRun, group_runs, look_up, split_by_number, values_of
from micro_lit.report.results import BASELINES, FEW_UNITS

# Default columns; those that no run has measured are omitted.
METRICS = ("test.nll", "excess_risk", "test.accuracy", "test.brier", "test.ece", "raters.brier.excess")
NAMES = {
    "test.nll": "NLL",
    "test.accuracy": "accuracy",
    "test.brier": "Brier",
    "test.ece": "ECE",
    "excess_risk": "excess risk",
    "excess.oracle": "above F0",
    "excess.marginal": "above F1",
    "excess.marginal_static": "above F1, prompt unseen",
    "excess.single_bt_conditional": "above F2 conditional",
    "excess.single_bt_linear": "above F2 linear",
    "raters.brier.model": "Brier, shared pairs",
    "raters.brier.excess": "above the raters' floor",
    "raters.nll.model": "NLL, shared pairs",
    "raters.accuracy.model": "accuracy, shared pairs",
    **{f"baselines.{name}": f"accuracy, {row}" for name, (row, _) in BASELINES.items()},
    **{f"baselines.{name}.difference": f"accuracy above '{row}'" for name, (row, _) in BASELINES.items()},
    "heads.effective": "effective heads",
    "heads.distinct": "distinct heads",
    "heads.entropy_per_example": "entropy of an example's weights",
    "heads.entropy_of_mean": "entropy of the mean weights",
    **{
        f"heads.categories.{column}.{score}": f"{word} ({column})"
        for column in ("group", "attribute", "source")
        for score, word in (("purity", "purity"), ("nmi", "NMI"), ("ari", "ARI"))
    },
    "test_by.user.seen.accuracy": "accuracy, seen users",
    "test_by.user.unseen.accuracy": "accuracy, unseen users",
    "model.num_heads": "heads K",
    "model.top_k": "experts a pair",
    "data.train": "training pairs",
    "data.population.angle": "angle between tastes (°)",
}


def display_name(path: str) -> str:
    """Display name of a setting or of a quantity of results.json."""
    return NAMES.get(path, path.removeprefix("test."))


def measured_paths(runs: Sequence[FinishedRun], metrics: Sequence[str] | None) -> list[str]:
    """Returns the paths in `metrics` (None: default columns and all test metrics) that at least one run has."""
    own = dict.fromkeys(f"test.{name}" for run in runs for name in run.results["test"])
    usual = dict.fromkeys((*METRICS, *own))
    return [path for path in metrics or usual if any(look_up(run.results, path) for run in runs)]


def per_run(runs: Sequence[FinishedRun], metrics: Sequence[str]) -> pd.DataFrame:
    """A row per run: labels, seed, validity, quantities, floors and seconds.

    Quantities have standard errors over rows and over units, and 95 % intervals over units.
    """
    rows = []
    for run in runs:
        row = {**run.labels, "seed": run.seed, "valid": run.valid}
        for path in metrics:
            facts = look_up(run.results, path) or {}
            row[path] = facts.get("value")
            row |= {f"{path}.{key}": facts[key] for key in ("se", "se_units", "n_units", "low", "high") if key in facts}
        row |= {f"floors.{name}": floor["value"] for name, floor in run.results["floors"].items()}
        row["seconds"] = run.results["seconds"]
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)  # object: else a label missing in some runs turns 8 into 8.0


def summary_table(runs: Sequence[FinishedRun], metrics: Sequence[str]) -> pd.DataFrame:
    """A row per combination of labels: number n of valid runs (seeds), number of invalid runs, mean and sd over runs.

    For a single valid run also the 95 % interval of each quantity, if it has one.
    """
    rows = []
    for group in group_runs(runs, *runs[0].labels).values():
        valid_runs = [run for run in group if run.valid]
        row = {**group[0].labels, "n": len(valid_runs), "invalid": len(group) - len(valid_runs)}
        for path in metrics:
            values = values_of(group, path)
            row[f"{path}.mean"] = statistics.mean(values) if values else None
            row[f"{path}.sd"] = statistics.stdev(values) if len(values) > 1 else None
            facts = (look_up(valid_runs[0].results, path) or {}) if len(valid_runs) == 1 else {}
            row |= {f"{path}.{end}": facts.get(end) for end in ("low", "high")}
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def shown(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Formats a summary: `mean ± sd`, or for a single run the value and its 95 % interval in brackets."""
    numbers = [f"{path}.{part}" for path in metrics for part in ("mean", "sd", "low", "high")]
    labels = [column for column in frame if column not in ("n", "invalid", *numbers)]
    table = frame[[*labels, "n"]].rename(columns=display_name).map(lambda cell: "-" if cell is None else str(cell))
    table["n"] = [
        f"{n} (+ {bad} INVALID)" if bad else str(n) for n, bad in zip(frame["n"], frame["invalid"], strict=True)
    ]
    for path in metrics:
        parts = zip(*(frame[f"{path}.{part}"] for part in ("mean", "sd", "low", "high")), strict=True)
        table[display_name(path)] = [_cell(*each) for each in parts]
    return table


def interval_line(runs: Sequence[FinishedRun], metrics: Sequence[str]) -> str | None:
    """Sentence on the intervals in brackets, with a warning for few units; None if the table has no intervals."""
    alone = [
        group[0]
        for group in group_runs([run for run in runs if run.valid], *runs[0].labels).values()
        if len(group) == 1
    ]
    found = [look_up(run.results, path) or {} for run in alone for path in metrics]
    found = [facts for facts in found if "low" in facts]
    if not found:
        return None
    few = min(found, key=lambda facts: facts["n_units"])
    over = ", ".join(dict.fromkeys(facts["units"] for facts in found))
    line = f"In brackets, for a single run, the 95 % interval; independent units: {over}."
    if few["n_units"] < FEW_UNITS:
        line += f" {few['n_units']} {few['units']} are fewer than {FEW_UNITS}: too few for intervals to be exact."
    return line


def invalid_lines(runs: Sequence[FinishedRun]) -> list[str]:
    """A line for each invalid run, with the reason."""
    return [f"INVALID, left out: {run.folder}: {run.results['invalid_because']}" for run in runs if not run.valid]


def markdown(table: pd.DataFrame) -> str:
    cells = [list(table), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in cells)
    return "".join(f"| {line} |\n" for line in lines)


def latex(table: pd.DataFrame) -> str:
    """LaTeX table; needs the package booktabs."""
    text = table.to_latex(index=False, escape=True, column_format="l" * table.shape[1])
    return text.replace("±", r"$\pm$")


def floors_line(runs: Sequence[FinishedRun], names: Mapping[str, str]) -> str | None:
    """Sentence on the floors of the NLL if all runs share them, else None."""
    [first, *others] = [run.results["floors"] for run in runs]
    if not first or any(floors != first for floors in others):
        return None
    floors = sorted((floor["value"], name) for name, floor in first.items())
    return "Floors of the NLL: " + ", ".join(f"{names[name]} {value:.4f}" for value, name in floors)


def slopes(runs: Sequence[FinishedRun], x: str, path: str) -> list[float]:
    """Log-log slopes of a quantity over the last decade of the setting `x`, one per seed."""
    curves: dict[int, list[tuple[float, float]]] = {}
    for place, group in split_by_number(runs, x).items():
        for run in group:
            value = (look_up(run.results, path) or {"value": 0.0})["value"]
            if value > 0 and run.valid:
                curves.setdefault(run.seed, []).append((place, value))
    found = []
    most = max((points[-1][0] for points in curves.values()), default=0.0)
    for points in curves.values():
        last = [point for point in points if point[0] >= most / 10.01]  # 10, with tolerance for rounded grids
        if len(last) > 1:
            x_N, y_N = np.log(last).T
            found.append(float(np.polyfit(x_N, y_N, 1)[0]))
    return found


def _cell(mean: float | None, sd: float | None, low: float | None, high: float | None) -> str:
    if mean is None:
        return "-"
    digits = ".1e" if 0 < abs(mean) < 1e-3 else ".4f"
    spread = "" if sd is None else f" ± {sd:{digits}}"
    return f"{mean:{digits}}{spread}" + ("" if low is None else f" [{low:{digits}}, {high:{digits}}]")
