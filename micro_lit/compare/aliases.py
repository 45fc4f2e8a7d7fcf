"""`micro_lit.evaluate` and `micro_lit.people`, which `micro_lit.compare` has replaced: their settings in its terms."""

import re
import shlex
import sys
from typing import Any

from micro_lit.compare.__main__ import run
from micro_lit.config import Settings, compose

# The intervals are no bootstrap any more.
GONE = ("resamples",)

# Of each command the subjects that it compares, the file of all that it measured, and where its settings stand now.
KINDS = {"evaluate": "attribute", "people": "user"}
FILES = {"evaluate": "protocol.json", "people": "people.json"}
MOVED = {
    "evaluate": {"budget": "budget", "budgets": "labels", "budget_from": "labels_from", "adaptation": "adaptation"},
    "people": {"labels": "labels", "rows_left": "rows_left", "adaptation": "adaptation"},
}


def run_as(command: str, settings: Settings) -> dict[str, Any]:
    """Runs the comparison that settings of an old command describe, and prints the command to type instead."""
    new = shlex.join(["python", "-m", "micro_lit.compare", *typed(command, sys.argv[1:])])
    print(f"micro_lit.{command} is now: {new}")
    if len(typed(command, sys.argv[1:])) <= len(sys.argv[1:]):
        print(f"note: {', '.join(GONE)} has no effect: intervals are computed without resamples")
    return run(translated(command, settings), FILES[command])


def translated(command: str, settings: Settings) -> Settings:
    """Settings of `micro_lit.compare` that do what those of an old command did."""
    kind, moved = KINDS[command], MOVED[command]
    missing = ["candidates={a: b}", "baseline=a", "paths.run_dir=none", f"subjects={kind}"]
    kept = {name: value for name, value in settings.items() if name not in (*moved, *GONE)}
    own = {new: settings[old] for old, new in moved.items()}
    defaults = compose("compare", missing)
    return {**defaults, **kept, "loader": {**defaults["loader"], **kept["loader"]}, "subjects": {kind: own}}


def typed(command: str, arguments: list[str]) -> list[str]:
    """Arguments of an old command, as `micro_lit.compare` takes them."""
    place = f"subjects.{KINDS[command]}"

    def renamed(argument: str) -> str:
        for old, new in MOVED[command].items():
            # As a key, such as budgets=[0,5] or ~adaptation.hyre, and as a package: +adaptation@adaptation.mine=mine.
            argument = re.sub(rf"^([+~]*(?:adaptation@)?){old}(?=[.=]|$)", rf"\g<1>{place}.{new}", argument)
        return argument

    # Options of Hydra stand before settings, so that this one comes last.
    kept = [argument for argument in arguments if argument.lstrip("+~").partition("=")[0] not in GONE]
    return [*map(renamed, kept), f"subjects={KINDS[command]}"]
