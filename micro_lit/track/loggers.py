"""Loggers of a command. Each is wrapped in a `Guard`, which redacts its inputs and catches its exceptions."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning.loggers as loggers

from micro_lit.config import Settings, build
from micro_lit.config.redaction import redact
from micro_lit.config.targets import check_node, objects
from micro_lit.errors import UserError
from micro_lit.host import ranks
from micro_lit.track.contract import Recorder
from micro_lit.track.record import RunRecord


class Guard(loggers.Logger):
    """Wraps a logger: redacts its inputs, and prints its first exception in one line instead of raising.

    All other methods and attributes are those of the logger, for callbacks that need them.
    """

    def __init__(self, logger: loggers.Logger) -> None:
        super().__init__()
        self.logger = logger
        self.recorder = logger if isinstance(logger, Recorder) else _Summary(logger)
        self._complained = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "logger":  # not yet set during a copy: avoids infinite recursion
            raise AttributeError(name)
        return getattr(self.logger, name)

    @property
    def name(self) -> str | None:
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        return self.logger.version

    @property
    def save_dir(self) -> str | None:
        return self.logger.save_dir

    @property
    def root_dir(self) -> str | None:
        return self.logger.root_dir

    @property
    def log_dir(self) -> str | None:
        return self.logger.log_dir

    @property
    def group_separator(self) -> str:
        return self.logger.group_separator

    def log_metrics(self, metrics: Mapping[str, int | float], step: int | None = None) -> None:
        self._attempt(self.logger.log_metrics, redact(metrics), step=step)

    def log_hyperparams(self, params: Any, *arguments: Any, **named: Any) -> None:
        self._attempt(self.logger.log_hyperparams, redact(params), *arguments, **named)

    def log_graph(self, *arguments: Any, **named: Any) -> None:
        self._attempt(self.logger.log_graph, *arguments, **named)

    def save(self) -> None:
        self._attempt(self.logger.save)

    def finalize(self, status: str) -> None:
        self._attempt(self.logger.finalize, status)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._attempt(self.logger.after_save_checkpoint, checkpoint_callback)

    def begin(self, record: RunRecord, resumed: bool) -> None:
        record = record.redacted()
        self._attempt(self.recorder.begin, record, resumed)
        self._attempt(self.logger.log_hyperparams, record.settings)

    def record(self, record: RunRecord) -> None:
        self._attempt(self.recorder.record, record.redacted())

    def finish(self, failed: bool) -> None:
        self.finalize("failed" if failed else "success")
        self._attempt(self.recorder.finish, failed)

    def _attempt(self, act: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Calls a method of the logger on rank 0; prints the first exception."""
        if ranks.rank() > 0:
            return
        try:
            act(*arguments, **named)
        except Exception as error:
            if not self._complained:
                name, reason = type(self.logger).__name__, _reason(error)
                print(f"{name}: something is not logged ({reason}); the run goes on", flush=True)
            self._complained = True


class _Summary(Recorder):
    """Recorder for a logger of Lightning that is not a `Recorder`: logs the summary as metrics."""

    def __init__(self, logger: loggers.Logger) -> None:
        self.logger = logger

    def record(self, record: RunRecord) -> None:
        if record.summary:
            self.logger.log_metrics(dict(record.summary))
            self.logger.save()


class Loggers:
    """All loggers of a command.

    Args:
        settings: settings with `logger` (config nodes by name) and `packages`.

    Attributes:
        guards: wrapped loggers, to be passed to a Trainer.

    Raises:
        UserError: a configured class is not a logger.
    """

    def __init__(self, settings: Settings) -> None:
        self.guards: list[Guard] = []
        self._begun: RunRecord | None = None
        self._recorded = False
        for name, node in (settings.get("logger") or {}).items():
            if node is None:
                continue
            for key, each in objects(node, f"logger.{name}"):
                check_node(key, each, settings.get("packages") or [])
            made = build(node)
            if not isinstance(made, loggers.Logger):
                raise UserError(
                    f"logger.{name}: {node['_target_']} is no logger; extend micro_lit.track.Logger, or a logger of "
                    "pytorch_lightning"
                )
            self.guards.append(Guard(made))

    def begin(self, record: RunRecord, resumed: bool = False) -> None:
        """Starts all loggers. record: record without results. resumed: whether the run is resumed from a checkpoint."""
        self._begun = record
        for guard in self.guards:
            guard.begin(record, resumed)

    def record(self, **outcome: Any) -> None:
        """Passes the record of `begin` to all loggers, with these fields of `RunRecord` added."""
        assert self._begun is not None
        self._recorded = True
        for guard in self.guards:
            guard.record(dataclasses.replace(self._begun, **outcome))

    def finish(self, failed: bool) -> None:
        """Closes all loggers. After `begin`, a failed command without a record is recorded with `failed=True`."""
        if failed and self._begun is not None and not self._recorded:
            self.record(failed=True)
        for guard in self.guards:
            guard.finish(failed)


def publish(record: RunRecord) -> None:
    """Passes the record of a finished comparison or report to the loggers of its settings.

    Exceptions of a logger are printed in one line.

    Raises:
        UserError: a configured class is not a logger.
    """
    opened = Loggers(dict(record.settings))
    opened.begin(dataclasses.replace(record, summary={}, tables={}, figures={}, artifacts=()))
    opened.record(**{name: getattr(record, name) for name in ("summary", "tables", "figures", "artifacts")})
    opened.finish(failed=False)


def _reason(error: Exception) -> str:
    """Type and first line of an exception, redacted, of at most 100 characters."""
    words = redact(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {words[0]:.100}" if words else type(error).__name__
