"""Report of many runs: one table and one figure, printed, written to files, and passed to loggers."""

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from micro_lit.config.redaction import redact
from micro_lit.errors import UserError
from micro_lit.host.files import write_text
from micro_lit.report import tables
from micro_lit.report.collect import FinishedRun, collect, group_runs
from micro_lit.report.results import FLOORS

CAPTION = "Mean ± standard deviation over n seeds."


def write_report(
    paths: Sequence[str],
    spec: Mapping[str, Any],
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    group: str | None = None,
) -> int:
    """Writes and prints the report of some runs.

    Writes table.md, table.csv and table.tex (a row per setting), runs.csv (a row per run), and with matplotlib
    figure.png and figure.svg.

    Args:
        paths: run folders, sweeps or patterns, see `collect`.
        spec: settings `report`.
        folder: output folder.
        settings: settings of the command, whose loggers receive table and figure; None: no loggers.
        group: sweep of the runs, for loggers.

    Returns:
        Number of runs.

    Raises:
        UserError: no runs or quantities can be read, or the folder cannot be written.
    """
    spec, left_out = redact(spec), []
    runs = collect(paths, left_out)
    metrics = tables.measured_paths(runs, spec["metrics"])
    if not metrics:
        raise UserError(f"report.metrics={spec['metrics']}: no run has measured any of these")
    valid_runs = [run for run in runs if run.valid]
    save_figure = _figure(valid_runs, spec) if valid_runs else lambda folder: []
    shown = tables.shown(summary := tables.summary_table(runs, metrics), metrics)
    notes = _notes(runs, spec, metrics)
    texts = {
        "table.md": "\n".join([tables.markdown(shown), *(f"{note}\n" for note in [*notes, *left_out])]),
        "table.tex": tables.latex(shown),
        "table.csv": summary.to_csv(index=False),
        "runs.csv": tables.per_run(runs, metrics).to_csv(index=False),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
        pictures = save_figure(folder)
    except OSError as error:
        raise UserError(f"report.out={folder}: cannot be written ({error.strerror})") from error
    Console(highlight=False, markup=False).print("", _on_terminal(shown, spec["title"]), *notes, sep="\n")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not pictures and valid_runs:
        left_out.append("no figure: matplotlib is not installed (pip install 'micro-lit[report]')")
    for line in left_out:
        console.print(line)
    console.print(f"wrote {folder}/: {', '.join(sorted([*texts, *(path.name for path in pictures)]))}")
    if settings is not None and settings.get("logger"):
        from micro_lit import track  # slow import

        images = {"figure": pictures[0]} if pictures else {}
        track.publish(track.RunRecord("report", "report", folder, settings, {}, {"table": shown}, images, group=group))
    return len(runs)


def _notes(runs: Sequence[FinishedRun], spec: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """The sentences below the table."""
    lines = [tables.interval_line(runs, metrics), tables.floors_line(runs, FLOORS)]
    unmeasured = [f"No run has measured {path}." for path in spec["metrics"] or () if path not in metrics]
    return [CAPTION, *filter(None, lines), *_slope_lines(runs, spec), *tables.invalid_lines(runs), *unmeasured]


def _figure(runs: Sequence[FinishedRun], spec: Mapping[str, Any]) -> Callable[[Path], list[Path]]:
    """Draws the figure; returns a function that saves it in a folder, which does nothing without matplotlib."""
    try:
        from micro_lit.report import figures
    except ImportError:
        return lambda folder: []
    return functools.partial(figures.save, figures.draw_runs(runs, spec))


def _slope_lines(runs: Sequence[FinishedRun], spec: Mapping[str, Any]) -> list[str]:
    if not (spec["log"] and spec["x"]):
        return []
    lines = []
    for path in spec["y"]:
        for name, group in group_runs(runs, *(label for label in runs[0].labels if label != spec["x"])).items():
            if values := tables.slopes(group, spec["x"], path):
                spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
                y, x = tables.display_name(path), tables.display_name(spec["x"])
                lines.append(
                    f"Log-log slope of {y} over the last decade of {x}, "
                    f"{name or 'all runs'}: {statistics.mean(values):.3f}{spread}, n = {len(values)}"
                )
    return lines


def _on_terminal(shown: pd.DataFrame, title: str | None) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(shown):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for cells in shown.to_numpy().tolist():
        table.add_row(*cells)
    return table
