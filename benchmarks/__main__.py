"""Runs benchmarks, each in its own process, and prints one table: `python -m benchmarks [name ...]`.

Without names, all of `NAMES` run. These run only by name: `published` and `precisions` (slow, need real data),
`coverage`, `fuzz`, and `gpu` (needs a GPU). Options are passed on: `python -m benchmarks fuzz --settings 50 --seed 1`.
"""

import itertools
import json
import subprocess
import sys

from rich.console import Console
from rich.table import Table

NAMES = (
    "trainer",
    "encoding",
    "sharing",
    "throughput",
    "start",
    "memory",
    "floors",
    "adaptation",
    "people",
    "scaling",
    "scoring",
    "neighbours",
    "lines",
)


def main() -> None:
    console = Console(highlight=False)
    table = Table(title="Benchmarks", title_justify="left")
    for column in ("what", "measured", "bar", ""):
        table.add_column(column)
    names = list(itertools.takewhile(lambda each: not each.startswith("-"), sys.argv[1:]))
    options = sys.argv[1 + len(names) :]
    for name in names or NAMES:
        console.print(f"running {name} ...")
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=name not in ("fuzz", "gpu"))
        if ended.returncode and not ended.stdout:  # fuzz exits with 1 if a case fails, gpu exits without a GPU
            sys.exit(ended.returncode)
        lines = ended.stdout.splitlines()
        for row in map(json.loads, lines):
            table.add_row(row["what"], row["measured"], row["bar"], "met" if row["met"] else "MISSED")
    console.print(table)


if __name__ == "__main__":
    main()
