"""Collects results.json files into results/first_readings.csv and prints the table of the README.

Usage: python experiments/first_readings/collect.py runs/sweeps
"""

import csv
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

METRICS = ("nll", "accuracy", "brier", "ece")
TARGET = Path(__file__).parent / "results" / "first_readings.csv"


def read(folder: Path) -> list[dict]:
    rows = []
    for path in sorted(folder.rglob("results.json")):
        found = json.loads(path.read_text())
        gate = "none" if found["num_heads"] == 1 else "prompt"
        config = (path.parent / "config.yaml").read_text()
        if "StaticGate" in config:
            gate = "static"
        row = {"data": found["experiment"].split("_")[0], "heads": found["num_heads"], "gate": gate}
        row |= {"seed": found["seed"], "n": found["test"]["nll"]["n"]}
        for metric in METRICS:
            row[metric] = round(found["test"][metric]["value"], 5)
        row |= {f"{metric}_se": round(found["test"][metric]["se"], 5) for metric in ("nll", "accuracy")}
        row |= {"effective_heads": round(found["heads"]["effective"], 2), "seconds": found["seconds"]}
        rows.append(row)
    return sorted(rows, key=lambda row: (row["data"], row["heads"], row["gate"], row["seed"]))


def write(rows: list[dict]) -> None:
    TARGET.parent.mkdir(exist_ok=True)
    with TARGET.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def show(rows: list[dict]) -> None:
    groups = defaultdict(list)
    for row in rows:
        groups[row["data"], row["heads"], row["gate"]].append(row)
    print("| data | K | gate | test pairs | accuracy | NLL | Brier | ECE |")
    print("|---|---|---|---|---|---|---|---|")
    for (data, heads, gate), runs in groups.items():
        cells = [_mean_sd([run[metric] for run in runs]) for metric in ("accuracy", "nll", "brier", "ece")]
        print(f"| {data} | {heads} | {gate} | {runs[0]['n']:,} | {' | '.join(cells)} |")


def _mean_sd(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {spread:.4f}"


if __name__ == "__main__":
    found = read(Path(sys.argv[1]))
    if not found:
        sys.exit(f"{sys.argv[1]}: no results.json below")
    write(found)
    show(found)
