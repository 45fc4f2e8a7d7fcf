"""Runs every benchmark, each in a process of its own, and prints one table: `python -m benchmarks [name ...]`.

`published`, which takes a quarter of an hour and real data, is run by its name alone.
"""

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
    "neighbours",
)


def main() -> None:
    console = Console(highlight=False)
    table = Table(title="Benchmarks", title_justify="left")
    for column in ("what", "measured", "bar", ""):
        table.add_column(column)
    for name in sys.argv[1:] or NAMES:
        console.print(f"running {name} ...")
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        for row in map(json.loads, lines):
            table.add_row(row["what"], row["measured"], row["bar"], "met" if row["met"] else "MISSED")
    console.print(table)


if __name__ == "__main__":
    main()
