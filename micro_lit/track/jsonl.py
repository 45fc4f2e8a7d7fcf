"""JSON lines logger: metrics, then the results of a command, in metrics.jsonl, readable even after a kill."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from micro_lit.config.redaction import redact
from micro_lit.host.files import write_text
from micro_lit.track.contract import Logger
from micro_lit.track.record import RunRecord

METRICS_FILE = "metrics.jsonl"


class JSONLLogger(Logger):
    """Appends a line for each call of `log_metrics`; at the end one for each table, figure, artifact, and the summary.

    Each line is one JSON object, appended in one write. NaN and infinite numbers become null.

    Example:
        {"step": 49, "train/nll": 0.61, "epoch": 0}
        {"table": "unseen_nll", "rows": [{"model": "tied", "0": 0.58}]}
        {"summary": {"test/nll": 0.55}, "command": "train", "name": "mixture", "failed": false}
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir, METRICS_FILE)

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def begin(self, record: RunRecord, resumed: bool) -> None:
        """Starts an empty file; lines of an earlier part of a resumed run have been moved to metrics.1.jsonl before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "")

    def log_metrics(self, metrics: Mapping[str, int | float], step: int | None = None) -> None:
        self._add({"step": step, **metrics})

    def record(self, record: RunRecord) -> None:
        for name, frame in record.tables.items():
            self._add({"table": name, "rows": frame.to_dict("records")})
        for name, path in record.figures.items():
            self._add({"figure": name, "path": redact(os.path.relpath(path, self.path.parent))})
        for artifact in record.artifacts:
            folder = redact(os.path.relpath(artifact.folder, self.path.parent))
            self._add({"artifact": artifact.kind, "folder": folder, "written": artifact.written})
        about = {"command": record.command, "name": record.name, "failed": record.failed}
        self._add({"summary": dict(record.summary), **about})

    def _add(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(_json_value(row), allow_nan=False, default=str) + "\n"
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode())


def _json_value(value: Any) -> Any:
    """Replaces NaN and infinite numbers by None, recursively."""
    if isinstance(value, Mapping):
        return {str(name): _json_value(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
