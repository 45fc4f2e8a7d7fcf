"""The report of many runs: one table and one figure, on the terminal, as files, and for loggers."""

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
from micro_lit.report.collect import FinishedRun, collect, split
from micro_lit.report.results import FLOORS

CAPTION = "Mean ± standard deviation over n seeds."


def write(
    paths: Sequence[str],
    spec: Mapping[str, Any],
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    group: str | None = None,
) -> int:
    """Writes and shows the report of the runs found in `paths` (see `collect`); returns how many there are.

    spec: the settings `report`. In `folder` are then table.md, table.csv and table.tex (a row a setting), runs.csv (a
    row a run), figure.png and figure.svg. settings: of the command, whose loggers get table and figure
    as well. group: the sweep that they belong to. Raises `UserError` before anything is written.
    """
    spec, left_out = redact(spec), []
    runs = collect(paths, left_out)
    metrics = tables.measured(runs, spec["metrics"])
    if not metrics:
        raise UserError(f"report.metrics={spec['metrics']}: no run has measured any of these")
    believed = [run for run in runs if run.valid]
    save_figure = _figure(believed, spec) if believed else lambda folder: []
    summary = tables.summary(runs, metrics)
    shown = tables.shown(summary, metrics)
    lines = [tables.interval_line(runs, metrics), tables.floors_line(runs, FLOORS)]
    notes = [CAPTION, *filter(None, lines), *_slope_lines(runs, spec), *tables.invalid_lines(runs)]
    notes += [f"No run has measured {path}." for path in spec["metrics"] or () if path not in metrics]
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
    for line in left_out:
        console.print(line)
    if not pictures and believed:
        console.print("no figure: matplotlib is not installed (pip install 'micro-lit[report]')")
    console.print(f"wrote {folder}/: {', '.join(sorted([*texts, *(path.name for path in pictures)]))}")
    if settings is not None and settings.get("logger"):
        from micro_lit import track  # it needs what takes seconds to import

        images = {"figure": pictures[0]} if pictures else {}
        track.publish(
            track.RunRecord("report", "report", folder, settings, tables={"table": shown}, figures=images, group=group)
        )
    return len(runs)


def _figure(runs: Sequence[FinishedRun], spec: Mapping[str, Any]) -> Callable[[Path], list[Path]]:
    """Draws the figure; returns what saves it in a folder, as no file where matplotlib is not installed."""
    try:
        from micro_lit.report import figures
    except ImportError:
        return lambda folder: []
    return functools.partial(figures.save, figures.draw(runs, spec))


def _slope_lines(runs: Sequence[FinishedRun], spec: Mapping[str, Any]) -> list[str]:
    if not (spec["log"] and spec["x"]):
        return []
    lines = []
    for path in spec["y"]:
        for name, group in split(runs, *(label for label in runs[0].labels if label != spec["x"])).items():
            if values := tables.slopes(group, spec["x"], path):
                spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
                lines.append(
                    f"Log-log slope of {tables.name_of(path)} over the last decade of {tables.name_of(spec['x'])}, "
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
