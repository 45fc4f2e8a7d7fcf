"""Reads finished runs from their folders: settings, results, and the settings in which runs differ."""

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
from micro_lit.report.results import FILE_NAME, QUANTITY, flatten, is_incidental, is_number, read_results


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, read from its folder.

    Attributes:
        folder: run folder.
        seed: seed of the run.
        results: content of results.json.
        settings: settings of config.yaml by dotted key, without incidental ones (see `results.is_incidental`).
        chosen: group options and overrides of the command line, see `_choices`.
        labels: settings that distinguish the run from others of the collection; equal for repetitions.
    """

    folder: Path
    seed: int
    results: Mapping[str, Any]
    settings: Mapping[str, Any]
    chosen: Mapping[str, Any]
    labels: Mapping[str, Any] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """Whether the results are possible; True for results of older versions, which were not checked."""
        return self.results.get("valid", True)

    def setting(self, name: str) -> Any:
        """Value of a setting: the option of a config group, or the value in config.yaml; None if it is neither."""
        if name in self.labels:
            return self.labels[name]
        option = self.chosen.get(name)
        return self.settings.get(name) if option is None else option


def collect(paths: Sequence[str], left_out: list[str] | None = None) -> list[FinishedRun]:
    """Reads all finished runs below the given folders, and labels them by the settings in which they differ.

    As few labels as possible are used: overrides and group options of the command line first, then other settings of
    config.yaml. Runs with equal labels differ only in their seed. Of runs with equal labels and seed the one with the
    newest results.json is kept; the file time is the only order across machines.

    Args:
        paths: run folders, sweeps, folders of sweeps, or glob patterns of these.
        left_out: list to which a line for each unreadable folder, and their number, are appended.

    Returns:
        The runs, sorted by labels and seed.

    Raises:
        UserError: there is no run, or none is readable.
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
    cells = [_setting_cell(run) for run in runs]
    representatives = dict(zip(cells, runs, strict=True))  # of runs with equal settings the last one gives the labels
    names = _distinguishing_names(list(representatives.values()))
    latest = {}
    for cell, run in zip(cells, runs, strict=True):
        latest[cell, run.seed] = replace(run, labels={name: representatives[cell].setting(name) for name in names})
    return sorted(latest.values(), key=lambda run: [*map(_order, run.labels.values()), _order(run.seed)])


def group_runs(runs: Sequence[FinishedRun], *names: str) -> dict[str, list[FinishedRun]]:
    """Groups runs by the values of the given settings, formatted as text; without names all runs are one group."""
    parts: dict[str, list[FinishedRun]] = {}
    for run in runs:
        parts.setdefault(", ".join(_in_words(name, run.setting(name)) for name in names), []).append(run)
    return parts


def split_by_number(runs: Sequence[FinishedRun], name: str) -> dict[float, list[FinishedRun]]:
    """Groups runs by a numeric setting, in increasing order.

    Raises:
        UserError: the setting of a run is not a number.
    """
    parts: dict[float, list[FinishedRun]] = {}
    for run in runs:
        number = run.setting(name)
        if not isinstance(number, int | float):
            differing = ", ".join(run.labels) or "no setting"
            raise UserError(f"report.x={name}: {run.folder} has no number there; the runs differ in: {differing}")
        parts.setdefault(float(number), []).append(run)
    return dict(sorted(parts.items()))


def values_of(runs: Sequence[FinishedRun], path: str) -> list[float]:
    """Values at a dotted path of results.json, such as `test.nll`, of the valid runs that have it."""
    return [facts["value"] for run in runs if run.valid and (facts := look_up(run.results, path))]


def look_up(results: Mapping[str, Any], path: str) -> dict[str, Any] | None:
    """Returns the quantity at a dotted path of results.json, with its keys of `QUANTITY`; None if not measured."""
    found: Any = results
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    if isinstance(found, Mapping):
        return {key: found[key] for key in QUANTITY if key in found} if "value" in found else None
    return {"value": float(found)} if is_number(found) else None


def _result_files(pattern: str) -> list[Path]:
    """Paths of results.json below the folders of a pattern. Folders deleted meanwhile are ignored."""
    found = [pattern] if Path(pattern).exists() else glob.glob(pattern)  # folder names may contain pattern characters
    return [Path(place, FILE_NAME) for folder in found for place, _, names in os.walk(folder) if FILE_NAME in names]


def _read(folder: Path) -> tuple[int, FinishedRun]:
    """Modification time of results.json, in ns, and the run. Raises `UserError` if it is unreadable."""
    try:
        before = (folder / FILE_NAME).stat()
        run = _read_files(folder)
        after = (folder / FILE_NAME).stat()
    except UserError:
        raise
    except FileNotFoundError as error:
        gone = Path(error.filename or folder).name
        raise UserError(f"{folder}: not the folder of a finished run ({gone} is not there)") from error
    except Exception as error:  # damaged files raise various exceptions in their parsers
        reason = " ".join(f"{type(error).__name__}: {error!s:.120}".split())
        raise UserError(f"{folder}: not the folder of a finished run ({reason})") from error
    if (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns):
        raise UserError(f"{folder}: not the folder of a finished run (it runs again, and has changed meanwhile)")
    return after.st_mtime_ns, run


def _read_files(folder: Path) -> FinishedRun:
    results = read_results(folder)
    written = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    settings = redact(flatten(with_public_targets(written, warn=False)))
    own, data_dir = settings["paths.run_dir"], settings["paths.data_dir"]
    if not isinstance(own, str) or not isinstance(data_dir, str):
        raise TypeError("paths.run_dir and paths.data_dir of config.yaml are to be texts")
    kept = {name: _without_paths(value, own, data_dir) for name, value in settings.items() if not is_incidental(name)}
    return FinishedRun(folder, results["seed"], results, kept, _choices(folder))


def _choices(folder: Path) -> dict[str, Any]:
    """Options of config groups and other overrides: those of the command line, in order, then default options."""
    path = folder / ".hydra" / "hydra.yaml"
    if not path.is_file():
        return {}
    hydra = yaml.safe_load(path.read_text())["hydra"]
    options = {name: option for name, option in hydra["runtime"]["choices"].items() if not name.startswith("hydra/")}
    typed = [override.split("=")[0].lstrip("+~") for override in hydra["overrides"]["task"]]
    return {name: options.get(name) for name in [*typed, *options] if not is_incidental(name)}


def _without_paths(value: Any, own: str, data_dir: str) -> Any:
    """Replaces the run folder and the data folder in a setting, because paths must not distinguish runs."""
    if isinstance(value, list):
        return [_without_paths(each, own, data_dir) for each in value]
    if not isinstance(value, str):
        return value
    inside_data = value.startswith(f"{data_dir}/")
    return f"<data_dir>{value.removeprefix(data_dir)}" if inside_data else value.replace(own, "<run_dir>")


def _setting_cell(run: FinishedRun) -> frozenset[tuple[str, str]]:
    """Settings of a run in a hashable form, equal for repetitions."""
    return frozenset((name, str(value)) for name, value in run.settings.items() if value is not None)


def _distinguishing_names(runs: Sequence[FinishedRun]) -> list[str]:
    """Greedy choice of settings that distinguish all runs; settings of the command line come first."""
    candidates = dict.fromkeys(name for run in runs for name in run.chosen)
    candidates |= dict.fromkeys(name for run in runs for name in sorted(run.settings))
    names: list[str] = []
    for name in candidates:
        if len(group_runs(runs, *names, name)) > len(group_runs(runs, *names)):
            names.append(name)
    return names


def _in_words(name: str, value: Any) -> str:
    """Formats a setting: text alone, other values with the last part of the name."""
    return str(value) if isinstance(value, str) else f"{name.split('.')[-1]} {value}"


def _order(label: Any) -> tuple:
    """Sort key: numbers by size (K = 16 after K = 8), then texts."""
    number = isinstance(label, int | float) and not isinstance(label, bool)
    return (0, label, "") if number else (1, 0, str(label))
