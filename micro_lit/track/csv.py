"""CSV logger: metrics in metrics.csv, readable even after a kill; one file for each table of a comparison or report."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning.loggers as loggers
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment

from micro_lit.host.files import write_text
from micro_lit.track.contract import Recorder
from micro_lit.track.record import RunRecord


class CSVLogger(loggers.CSVLogger, Recorder):
    """Lightning's CSV logger with safe writes: rows are appended in one write, new columns replace the file atomically.

    Lightning's own logger truncates the file before it adds a column, so that a kill at that moment loses the metrics.
    Tables are written to `tables/<name>.csv`. The summary of a run is not written, because results.json has it.
    """

    def log_hyperparams(self, params: Any = None, *arguments: Any, **named: Any) -> None:
        """Does nothing: config.yaml holds all settings."""

    def record(self, record: RunRecord) -> None:
        for name, frame in record.tables.items():
            path = Path(self.log_dir, "tables", f"{name.replace('/', '-')}.csv")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, frame.to_csv(index=False))

    @property
    @rank_zero_experiment
    def experiment(self) -> "_Rows":
        if self._experiment is None:
            self._experiment = _Rows(log_dir=self.log_dir)
        return self._experiment


class _Rows(ExperimentWriter):
    def save(self) -> None:
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        columns = sorted({*self.metrics_keys, *(name for row in self.metrics for name in row)})
        if columns != self.metrics_keys or not path.is_file():
            with path.open(newline="") if path.is_file() else io.StringIO() as before:
                rows = list(csv.DictReader(before))
            write_text(path, _lines(columns, [*rows, *self.metrics], header=True))
        else:
            with path.open("ab", buffering=0) as file:
                file.write(_lines(columns, self.metrics).encode())
        self.metrics_keys, self.metrics = columns, []


def _lines(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
