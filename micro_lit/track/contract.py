"""The contract of a logger: curves by Lightning's interface, and one `RunRecord` a command.

Example: a logger in one file of yours, `logger.mine._target_=mine.MyLogger 'packages=[mine]'`.

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
    """What a logger does beside curves. Extend it together with a logger of Lightning: `class Mine(Recorder, Theirs)`.

    Only the first process of a run calls these. Whatever they raise is printed in one line, and the run goes on.
    """

    def begin(self, record: RunRecord, resumed: bool) -> None:
        """Called before training, or before a finished comparison or report is recorded.

        Args:
            record: without outcome. Its settings are passed to `log_hyperparams` after this.
            resumed: the run goes on from a checkpoint.
        """

    def record(self, record: RunRecord) -> None:
        """Called once, with the outcome."""

    def finish(self, failed: bool) -> None:
        """Called last, after Lightning's `finalize`."""


class Logger(Recorder, loggers.Logger):
    """A logger that does nothing; extend it and write the methods you need. Values are redacted already."""

    @property
    def name(self) -> str | None:
        """Lightning puts it in the path of checkpoints that have no folder."""
        return None

    @property
    def version(self) -> int | str | None:
        return None

    def log_metrics(self, metrics: Mapping[str, int | float], step: int | None = None) -> None:
        """Called with some points of curves, such as {"train/nll": 0.6, "epoch": 0}."""

    def log_hyperparams(self, params: Mapping[str, Any], *arguments: Any, **named: Any) -> None:
        """Called with all settings, before training."""
