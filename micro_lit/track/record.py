"""`RunRecord`: what a command hands to its loggers beside curves."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from micro_lit.config.redaction import redact


@dataclass(frozen=True)
class Artifact:
    """A folder that a command has written or used.

    kind: model for a run folder, features for a folder of the feature store. written: False for one that was read.
    checkpoint: the weights of a model, without secrets; None leaves them out.
    """

    kind: Literal["model", "features"]
    folder: Path
    written: bool = False
    checkpoint: Path | None = None


@dataclass(frozen=True)
class RunRecord:
    """What a command hands to its loggers: at its beginning without outcome, at its end once with it.

    command: train, compare or report. name: of the run, as tables show it. folder: what it writes to.
    settings: all of the command, as plain containers. summary: numbers by name, such as `test/nll`. tables, figures:
    by name; a figure is a file. artifacts: folders written or used. group: the sweep that it belongs to.
    failed: the command ended with an error; there is no outcome then.
    """

    command: str
    name: str
    folder: Path
    settings: Mapping[str, Any]
    summary: Mapping[str, int | float] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)
    artifacts: Sequence[Artifact] = ()
    group: str | None = None
    failed: bool = False

    def redacted(self) -> "RunRecord":
        """The same without secrets. Paths stay: they are opened."""
        return dataclasses.replace(
            self,
            name=redact(self.name),
            settings=redact(self.settings),
            summary=redact(self.summary),
            tables={name: _redacted(frame) for name, frame in redact(self.tables).items()},
            figures=redact(self.figures),
            group=redact(self.group),
        )


def _redacted(frame: pd.DataFrame) -> pd.DataFrame:
    """A table without secrets in its cells and column names; the same object where there are none."""
    columns, cells = list(frame.columns), frame.to_numpy(dtype=object).tolist()
    shown, hidden = redact((columns, cells))
    return frame if (shown, hidden) == (columns, cells) else pd.DataFrame(hidden, index=frame.index, columns=shown)
