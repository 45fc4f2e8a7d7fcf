"""Runs read back from their folders: what was set, what was measured, and which settings tell them apart."""

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from micro_lit.config.redaction import redact
from micro_lit.config.renamed import with_public_targets
from micro_lit.errors import UserError
from micro_lit.report.results import FILE_NAME, QUANTITY, flatten, is_incidental, is_number, read


@dataclass(frozen=True)
class FinishedRun:
    """One run folder.

    settings: what config.yaml says, as dotted keys, without the incidental. chosen: what the command line named, see
    `_choices`. labels: the settings that tell the run from the others of its collection; repetitions share them.
    """

    folder: Path
    seed: int
    results: Mapping[str, Any]
    settings: Mapping[str, Any]
    chosen: Mapping[str, Any]
    labels: Mapping[str, Any] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """Whether nothing speaks against its results; of an older version nothing does."""
        return self.results.get("valid", True)

    def setting(self, name: str) -> Any:
        """A setting in words: the option for a group, the value in config.yaml for a key; None for neither."""
        if name in self.labels:
            return self.labels[name]
        option = self.chosen.get(name)
        return self.settings.get(name) if option is None else option


def collect(paths: Sequence[str], left_out: list[str] | None = None) -> list[FinishedRun]:
    """Every finished run in the given run folders, sweeps, folders of sweeps, or patterns of these.

    Runs are labelled by the fewest settings that tell them apart, in words their user typed where these do: the
    overrides and group options of the command line first, then whatever else differs in their config.yaml. Runs with
    the same labels differ in their seed alone; of two with the same seed the one whose results.json is newer is kept:
    nothing but the clock orders runs of several machines.

    left_out: gets a line for each folder that cannot be read, and one with their number. Raises `UserError` when there
    is no run, or none that can be read.
    """
    folders = sorted({path.parent for pattern in paths for path in _result_files(pattern)})
    if not folders:
        raise UserError(f"runs={list(paths)}: no {FILE_NAME} below; give the folder of a run, of a sweep or of many")
    found: list[tuple[int, FinishedRun]] = []
    unread: list[UserError] = []
    for folder in folders:
        try:
            found.append(_read(folder))
        except UserError as error:
            unread.append(error)
    if not found:
        others = f"; {len(unread) - 1} more cannot be read either" if len(unread) > 1 else ""
        raise UserError(f"{unread[0]}{others}")
    if left_out is not None and unread:
        left_out += [*(f"left out: {error}" for error in unread), f"{len(unread)} of {len(folders)} runs left out"]
    runs = [run for _, run in sorted(found, key=lambda each: (each[0], each[1].folder))]
    cells = [_cell(run) for run in runs]
    speakers = dict(zip(cells, runs, strict=True))  # of runs with the same settings the last one names them
    names = _telling_names(list(speakers.values()))
    latest = {}
    for cell, run in zip(cells, runs, strict=True):
        latest[cell, run.seed] = replace(run, labels={name: speakers[cell].setting(name) for name in names})
    return sorted(latest.values(), key=lambda run: [*map(_order, run.labels.values()), _order(run.seed)])


def split(runs: Sequence[FinishedRun], *names: str) -> dict[str, list[FinishedRun]]:
    """Runs by what the given settings say, in words; all together when none is given."""
    parts: dict[str, list[FinishedRun]] = {}
    for run in runs:
        parts.setdefault(", ".join(_in_words(name, run.setting(name)) for name in names), []).append(run)
    return parts


def split_by_number(runs: Sequence[FinishedRun], name: str) -> dict[float, list[FinishedRun]]:
    """Runs by the number that a setting is, in rising order. Raises `UserError` when it is none."""
    parts: dict[float, list[FinishedRun]] = {}
    for run in runs:
        number = run.setting(name)
        if not isinstance(number, int | float):
            telling = ", ".join(run.labels) or "no setting"
            raise UserError(f"report.x={name}: {run.folder} has no number there; what tells the runs apart: {telling}")
        parts.setdefault(float(number), []).append(run)
    return dict(sorted(parts.items()))


def values_of(runs: Sequence[FinishedRun], path: str) -> list[float]:
    """The quantity at a dotted path of results.json, of the runs that measured it and can be believed."""
    return [facts["value"] for run in runs if run.valid and (facts := look_up(run.results, path))]


def look_up(results: Mapping[str, Any], path: str) -> dict[str, Any] | None:
    """The quantity at a dotted path of results.json, with those of `QUANTITY` it has; None when it was not measured."""
    found: Any = results
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    if isinstance(found, Mapping):
        return {key: found[key] for key in QUANTITY if key in found} if "value" in found else None
    return {"value": float(found)} if is_number(found) else None


def _result_files(pattern: str) -> list[Path]:
    """The results below the folders that a pattern names. Folders that disappear meanwhile have none."""
    found = [pattern] if Path(pattern).exists() else glob.glob(pattern)  # a folder's name may look like a pattern
    return [Path(place, FILE_NAME) for folder in found for place, _, names in os.walk(folder) if FILE_NAME in names]


def _read(folder: Path) -> tuple[int, FinishedRun]:
    """When a run was finished, by the clock, and the run. Raises `UserError` for one that cannot be read."""
    try:
        before = (folder / FILE_NAME).stat()
        run = _read_files(folder)
        after = (folder / FILE_NAME).stat()
    except UserError:
        raise
    except FileNotFoundError as error:
        gone = Path(error.filename or folder).name
        raise UserError(f"{folder}: not the folder of a finished run ({gone} is not there)") from error
    except Exception as error:  # whatever damaged files make of their readers
        reason = " ".join(f"{type(error).__name__}: {error!s:.120}".split())
        raise UserError(f"{folder}: not the folder of a finished run ({reason})") from error
    if (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns):
        raise UserError(f"{folder}: not the folder of a finished run (it runs again, and has changed meanwhile)")
    return after.st_mtime_ns, run


def _read_files(folder: Path) -> FinishedRun:
    results = read(folder)
    written = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    settings = redact(flatten(with_public_targets(written, warn=False)))
    own, data_dir = settings["paths.run_dir"], settings["paths.data_dir"]
    if not isinstance(own, str) or not isinstance(data_dir, str):
        raise TypeError("paths.run_dir and paths.data_dir of config.yaml are to be texts")
    telling = {name: _placeless(value, own, data_dir) for name, value in settings.items() if not is_incidental(name)}
    return FinishedRun(folder, results["seed"], results, telling, _choices(folder))


def _choices(folder: Path) -> dict[str, Any]:
    """What was chosen on the command line: the options of groups, in the order typed, then those never mentioned."""
    path = folder / ".hydra" / "hydra.yaml"
    if not path.is_file():
        return {}
    hydra = yaml.safe_load(path.read_text())["hydra"]
    options = {name: option for name, option in hydra["runtime"]["choices"].items() if not name.startswith("hydra/")}
    typed = [override.split("=")[0].lstrip("+~") for override in hydra["overrides"]["task"]]
    return {name: options.get(name) for name in [*typed, *options] if not is_incidental(name)}


def _placeless(value: Any, own: str, data_dir: str) -> Any:
    """A setting without the run's own folder and the folder of the data sets: where files lie tells no runs apart."""
    if isinstance(value, list):
        return [_placeless(each, own, data_dir) for each in value]
    if not isinstance(value, str):
        return value
    inside_data = value.startswith(f"{data_dir}/")
    return f"<data_dir>{value.removeprefix(data_dir)}" if inside_data else value.replace(own, "<run_dir>")


def _cell(run: FinishedRun) -> frozenset[tuple[str, str]]:
    """All that repetitions of a run share."""
    return frozenset((name, str(value)) for name, value in run.settings.items() if value is not None)


def _telling_names(runs: Sequence[FinishedRun]) -> list[str]:
    """The settings, the most telling first, that tell all the runs apart."""
    candidates = dict.fromkeys(name for run in runs for name in run.chosen)
    candidates |= dict.fromkeys(name for run in runs for name in sorted(run.settings))
    names: list[str] = []
    for name in candidates:
        if len(split(runs, *names, name)) > len(split(runs, *names)):
            names.append(name)
    return names


def _in_words(name: str, value: Any) -> str:
    """An option speaks for itself; a number needs its name."""
    return str(value) if isinstance(value, str) else f"{name.split('.')[-1]} {value}"


def _order(label: Any) -> tuple:
    """Numbers by size, then words, so that K = 16 follows K = 8."""
    number = isinstance(label, int | float) and not isinstance(label, bool)
    return (0, label, "") if number else (1, 0, str(label))
