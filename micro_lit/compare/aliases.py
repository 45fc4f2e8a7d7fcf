"""Settings of the old commands `micro_lit.evaluate` and `micro_lit.people`, translated to `micro_lit.compare`."""

import re
import shlex
import sys
from typing import Any

from micro_lit.compare.__main__ import run
from micro_lit.config import Settings, compose

# Removed settings: intervals no longer use a bootstrap.
GONE = ("resamples",)

# For each old command: the kind of subjects, the name of its results file, and the new names of its settings.
SUBJECTS_OF = {"evaluate": "attribute", "people": "user"}
FILES = {"evaluate": "protocol.json", "people": "people.json"}
MOVED = {
    "evaluate": {"budget": "budget", "budgets": "labels", "budget_from": "labels_from", "adaptation": "adaptation"},
    "people": {"labels": "labels", "rows_left": "rows_left", "adaptation": "adaptation"},
}


def run_as(command: str, settings: Settings) -> dict[str, Any]:
    """Runs `micro_lit.compare` with the settings of an old command, and prints the new command to type.

    Args:
        command: `evaluate` or `people`.
        settings: composed settings of that command.

    Returns:
        The results of the comparison.
    """
    new = shlex.join(["python", "-m", "micro_lit.compare", *typed(command, sys.argv[1:])])
    print(f"micro_lit.{command} is now: {new}")
    if len(typed(command, sys.argv[1:])) <= len(sys.argv[1:]):
        print(f"note: {', '.join(GONE)} has no effect: intervals are computed without resamples")
    return run(translated(command, settings), FILES[command])


def translated(command: str, settings: Settings) -> Settings:
    """Returns the settings of `micro_lit.compare` that are equivalent to those of an old command."""
    kind, moved = SUBJECTS_OF[command], MOVED[command]
    missing = ["candidates={a: b}", "baseline=a", "paths.run_dir=none", f"subjects={kind}"]
    kept = {name: value for name, value in settings.items() if name not in (*moved, *GONE)}
    own = {new: settings[old] for old, new in moved.items()}
    defaults = compose("compare", missing)
    return {**defaults, **kept, "loader": {**defaults["loader"], **kept["loader"]}, "subjects": {kind: own}}


def typed(command: str, arguments: list[str]) -> list[str]:
    """Translates command-line arguments of an old command to those of `micro_lit.compare`."""
    place = f"subjects.{SUBJECTS_OF[command]}"

    def renamed(argument: str) -> str:
        for old, new in MOVED[command].items():
            # The old name is a key (budgets=[0,5], ~adaptation.hyre) or a package (+adaptation@adaptation.mine=mine).
            argument = re.sub(rf"^([+~]*(?:adaptation@)?){old}(?=[.=]|$)", rf"\g<1>{place}.{new}", argument)
        return argument

    # `subjects=` comes last, because Hydra's options must stand before settings.
    kept = [argument for argument in arguments if argument.lstrip("+~").partition("=")[0] not in GONE]
    return [*map(renamed, kept), f"subjects={SUBJECTS_OF[command]}"]
