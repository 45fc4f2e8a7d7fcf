"""The interface of loggers: metrics through Lightning's interface, and one `RunRecord` per command.

Example of a logger in your file mine.py, used with `logger.mine._target_=mine.MyLogger 'packages=[mine]'`:

    class MyLogger(Logger):
        def log_metrics(self, metrics, step=None):
            print(step, metrics)

        def record(self, record):
            print(record.command, dict(record.summary), list(record.tables))
"""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning.loggers as loggers

from micro_lit.track.record import RunRecord


class Recorder:
    """Methods of a logger beyond Lightning's. Extend it with a logger of Lightning: `class Mine(Recorder, Theirs)`.

    Only rank 0 calls these methods. Their exceptions are printed in one line, and the run continues.
    """

    def begin(self, record: RunRecord, resumed: bool) -> None:
        """Called before training, or before the record of a finished comparison or report.

        Args:
            record: record without results. Its settings are passed to `log_hyperparams` afterwards.
            resumed: whether the run is resumed from a checkpoint.
        """

    def record(self, record: RunRecord) -> None:
        """Called once, with the results."""

    def finish(self, failed: bool) -> None:
        """Called last, after Lightning's `finalize`. failed: whether the command raised an error."""


class Logger(Recorder, loggers.Logger):
    """Base class of loggers; every method does nothing. Arguments are already redacted (without secrets)."""

    @property
    def name(self) -> str | None:
        """Used by Lightning in the path of checkpoints without a folder."""
        return None

    @property
    def version(self) -> int | str | None:
        return None

    def log_metrics(self, metrics: Mapping[str, int | float], step: int | None = None) -> None:
        """Called with metrics, such as {"train/nll": 0.6, "epoch": 0}."""

    def log_hyperparams(self, params: Mapping[str, Any], *arguments: Any, **named: Any) -> None:
        """Called with all settings, before training."""
