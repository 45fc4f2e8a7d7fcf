"""results.json: the contract that tables, sweeps and people read. A key never changes its meaning."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from micro_lit.config import Settings
from micro_lit.data.pairs import PreferenceData

COUNTED = ("dropped", "ties", "truncated")
FILE_NAME = "results.json"
RECORDED_VERSIONS = ("micro-lit", "torch", "pytorch-lightning", "transformers")


def assemble(settings: Settings, data: PreferenceData, measured: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One run's results as plain JSON types.

    measured: `MixtureBT.test_results()`. `floors` and `excess` (loss above each floor's own predictor on the same test
    rows) are there when the population is known. Losses are in nats; `se` is a standard error over rows.
    """
    floors = data.population.floors if data.population is not None else {}
    return {
        "experiment": settings["name"],
        "model": measured["model"],
        "num_heads": len(measured["heads"]["mean_weight"]),
        "seed": settings["seed"],
        "seconds": round(seconds, 1),
        "versions": {name.replace("-", "_"): version(name) for name in RECORDED_VERSIONS},
        "data": {
            **{name: len(rows) for name, rows in data.splits.items()},
            **{count: sum(getattr(counts, count) for counts in data.counts.values()) for count in COUNTED},
            "sets": {
                name: {count: getattr(counts, count) for count in ("rows", *COUNTED)}
                for name, counts in data.counts.items()
            },
        },
        "test": measured["test"],
        "test_by": measured["test_by"],
        # Exact sums over the population: no sampling error.
        "floors": {name: {"value": value, "se": 0.0} for name, value in floors.items()},
        "excess": measured.get("excess", {}),
        "heads": measured["heads"],
    }


def write(results: dict[str, Any], folder: Path) -> None:
    """Writes results.json in one step: it is there whole or not at all."""
    path = folder / FILE_NAME
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=2) + "\n")
    os.replace(partial, path)
