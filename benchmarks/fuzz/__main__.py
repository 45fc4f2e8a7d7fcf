"""`python -m benchmarks fuzz --settings 500 --data 500 --seed 0`: runs commands on invalid and unusual inputs.

Prints one JSON object for each kind of case. Failed cases are listed on stderr, with the options to repeat each of
them: `--case settings:17 --seed 0`.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}

import torch

from benchmarks.fuzz import data, folders, settings, stores
from benchmarks.fuzz.cases import Case, Expect, fault
from benchmarks.fuzz.runner import call, run
from benchmarks.fuzz.runs import Runs, make_runs

# For each kind: a function (seed, folder of shared files, runs) -> cases, and the default number of cases.
KINDS: dict[str, tuple[Callable[[int, Path, Runs], Sequence[Case]], int]] = {
    "settings": (settings.cases, 500),
    "folders": (folders.cases, 200),
    "stores": (stores.cases, 100),
    "data": (data.cases, 500),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz", description=__doc__)
    for kind, (_, number) in KINDS.items():
        parser.add_argument(f"--{kind}", type=int, default=number, help=f"number of cases of {kind}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases")
    parser.add_argument("--case", help="run only this case, such as settings:17, and print its output")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        shared = Path(place).resolve() / "shared"
        shared.mkdir()
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            kinds = [given.case.split(":")[0]] if given.case else [kind for kind in KINDS if getattr(given, kind)]
            runs: Runs = {}
            if set(kinds) - {"data"}:
                # Also imports the modules that commands import late, so that child processes inherit them.
                call(settings.base_run(shared / "first"), shared)
                runs = make_runs(shared)
        failed = [report(kind, given, shared, runs, Path(place) / kind) for kind in kinds]
    sys.exit(1 if any(failed) else 0)


def report(kind: str, given: argparse.Namespace, shared: Path, runs: Runs, place: Path) -> int:
    """Runs the cases of one kind and prints a summary; returns the number of failed cases."""
    all_cases = KINDS[kind][0](given.seed, shared, runs)
    wanted = [int(given.case.split(":")[1])] if given.case else range(min(getattr(given, kind), len(all_cases)))
    counts, failed = dict.fromkeys(Expect, 0), 0
    for number in wanted:
        case = all_cases[number]
        outcome = run(case, place / str(number))
        counts[case.expect] += 1
        if given.case:
            print(outcome.output, outcome.errors, sep="\n", file=sys.stderr)
        if (wrong := fault(case, outcome, place / str(number))) is not None:
            failed += 1
            repeat = f"--case {kind}:{number} --seed {given.seed}"
            print(f"{repeat}: {case.what}: {case.expect}, but {wrong}", file=sys.stderr, flush=True)
    declared = ", ".join(f"{count} {expect}" for expect, count in counts.items())
    row = {
        "what": f"fuzz, seed {given.seed}: {kind} that do what they declare ({declared})",
        "measured": f"{len(wanted) - failed} of {len(wanted)}",
        "bar": "all",
        "met": not failed,
    }
    print(json.dumps(row), flush=True)
    return failed


if __name__ == "__main__":
    main()
