"""`RunRecord`: the data that a command passes to its loggers, beside metrics."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from micro_lit.config.redaction import redact


@dataclass(frozen=True)
class Artifact:
    """A folder that a command wrote or read.

    Attributes:
        kind: `model` for a run folder, `features` for a folder of the feature store.
        folder: path of the folder.
        written: True if the command wrote the folder, False if it only read it.
        checkpoint: weights of the model, without secrets; None: omitted from the artifact.
    """

    kind: Literal["model", "features"]
    folder: Path
    written: bool = False
    checkpoint: Path | None = None


@dataclass(frozen=True)
class RunRecord:
    """The data that a command passes to its loggers: at its start without results, at its end with them.

    Attributes:
        command: train, compare or report.
        name: name of the run in tables.
        folder: output folder.
        settings: all settings of the command, as plain containers.
        summary: numbers by name, such as `test/nll`.
        tables, figures: tables, and paths of pictures, by name.
        artifacts: folders written or read.
        group: sweep of the run; None: not in a sweep.
        failed: whether the command ended with an error; there are no results then.
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
        """Returns a copy without secrets. Paths are not changed, because loggers open them."""
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
    """Removes secrets from the cells and column names of a table; returns the same object if there are none."""
    columns, cells = list(frame.columns), frame.to_numpy(dtype=object).tolist()
    shown, hidden = redact((columns, cells))
    return frame if (shown, hidden) == (columns, cells) else pd.DataFrame(hidden, index=frame.index, columns=shown)
