"""Cases of the fuzzer, and checks of their outcomes."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

# Placeholder for the path of a case's folder in its arguments and files.
FOLDER = "{folder}"


class Expect(StrEnum):
    """Expected outcome of a case.

    FAIL: exit status other than 0, and one line `error: ...` that contains the note and is not an internal error.
    WARN: success, and the note is printed. PASS: success, and possible results.
    """

    FAIL = "must_fail"
    WARN = "must_warn"
    PASS = "must_pass"


@dataclass(frozen=True)
class Case:
    """A test case, run in its own folder.

    Attributes:
        what: description in the list of failures.
        command: module of `micro_lit` that is run as a command.
        arguments: its arguments; `{folder}` is replaced by the folder of the case.
        act: function of the folder that is called instead of a command.
        prepare: fills the folder before the case runs.
        note: required part of the output (WARN) or of the error line (FAIL).
        check: describes what is wrong with the folder after a success; None if nothing is.
    """

    what: str
    expect: Expect
    command: str = ""
    arguments: tuple[str, ...] = ()
    act: Callable[[Path], None] | None = None
    prepare: Callable[[Path], None] | None = None
    note: str = ""
    check: Callable[[Path], str | None] | None = None


@dataclass(frozen=True)
class Outcome:
    """Outcome of a case; status is None after a timeout."""

    status: int | None
    output: str
    errors: str


def fault(case: Case, outcome: Outcome, folder: Path) -> str | None:
    """Describes how the outcome differs from the expected one; None if it does not."""
    if outcome.status is None:
        return "it did not end"
    if "Traceback (most recent call last)" in outcome.output + outcome.errors:
        return "a traceback"
    if "internal error" in outcome.errors:
        return f"an internal error: {outcome.errors.strip()[:300]}"
    lines = outcome.errors.strip().splitlines()
    if case.expect == Expect.FAIL:
        if outcome.status == 0:
            return "it succeeded"
        if len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) < 15:
            return f"not one line on stderr: {outcome.errors.strip()[:300]!r}"
        return None if case.note in outcome.errors else f"it did not say {case.note!r}: {lines[0][:300]}"
    if outcome.status != 0:
        return f"it failed: {outcome.errors.strip()[:300]}"
    if case.expect == Expect.WARN and case.note not in outcome.output + outcome.errors:
        return f"it did not say {case.note!r}"
    return None if case.check is None else case.check(folder)


def check_results(path: Path, rows: int | None) -> str | None:
    """Describes what is wrong with a results.json: impossible numbers, or a wrong number of test rows; else None."""
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return f"no results: {error}"
    for key, value in _leaves(results):
        name = key.split(".")
        if isinstance(value, float) and not math.isfinite(value):
            return f"{key} is {value}"
        share = name[-1] in ("value", "accuracy") and any(each in ("accuracy", "brier", "ece") for each in name)
        if share and not key.startswith(("excess", "floors")) and not 0.0 <= value <= 1.0:
            return f"{key} is {value}"
    nll = results["test"]["nll"]
    if not 0.0 <= nll["value"] < 1e4 or nll["se"] < 0:
        return f"test.nll is {nll}"
    if rows is not None and nll["n"] != rows:
        return f"test.nll is of {nll['n']} rows, not {rows}"
    weights = results["heads"]["mean_weight"]
    weights = [each["value"] if isinstance(each, dict) else each for each in weights]
    return None if abs(sum(weights) - 1.0) < 1e-3 else f"heads.mean_weight sums to {sum(weights)}"


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if children is None:
        yield key, node
    else:
        for name, child in children:
            yield from _leaves(child, f"{key}.{name}" if key else str(name))
