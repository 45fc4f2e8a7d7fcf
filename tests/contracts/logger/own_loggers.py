"""Loggers of a user: one that keeps what it is given, and some that do not keep the contract."""

import json
from pathlib import Path

from micro_lit.track import Logger


class Diary(Logger):
    """Writes all it is given into one file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def write(self, **entry) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(entry, default=str) + "\n")

    def begin(self, record, resumed) -> None:
        self.write(begin=record.command, resumed=resumed)

    def log_hyperparams(self, params) -> None:
        self.write(settings=params)

    def log_metrics(self, metrics, step=None) -> None:
        self.write(step=step, metrics=metrics)

    def record(self, record) -> None:
        tables = {name: frame.to_dict("list") for name, frame in record.tables.items()}
        figures = {name: Path(path).is_file() for name, path in record.figures.items()}
        artifacts = [[each.kind, each.folder, each.written] for each in record.artifacts]
        self.write(
            command=record.command, name=record.name, summary=record.summary, tables=tables, figures=figures,
            artifacts=artifacts, failed=record.failed,
        )  # fmt: skip

    def finish(self, failed) -> None:
        self.write(finish=failed)


class Raises(Logger):
    """Fails in all it is asked for."""

    def _fail(self, *_, **__) -> None:
        raise ValueError("no answer from https://me:pw@host")

    begin = log_hyperparams = log_metrics = record = save = finalize = finish = _fail


class NoLogger:
    """A class of another kind."""
