"""results.json: the contract that tables, sweeps and people read. A key never changes its meaning."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from micro_lit.config import Settings
from micro_lit.data.pairs import PreferenceData
from micro_lit.files import write_text

COUNTED = ("dropped", "ties", "truncated")
FILE_NAME = "results.json"
RECORDED_VERSIONS = ("micro-lit", "torch", "pytorch-lightning", "transformers")

INCIDENTAL = (
    "seed", "name", "ckpt_path", "skip_finished", "overwrite", "own_process", "paths", "report", "logger", "packages",
)  # fmt: skip

FLOORS = {
    "oracle": "F0 oracle",
    "marginal": "F1 marginal",
    "marginal_static": "F1 marginal, prompt unseen",
    "single_bt_conditional": "F2 single BT, conditional",
    "single_bt_linear": "F2 single BT, linear",
}


RATER_FLOORS = {
    "agreement": "two raters agree",
    "brier": "Brier floor",
    "nll_lower": "NLL floor, lower bound",
    "nll_plug_in": "NLL floor, plug-in (Miller-Madow)",
    "nll_upper": "NLL floor, upper bound",
    "accuracy_lower": "accuracy ceiling, lower bound",
    "accuracy_upper": "accuracy ceiling, upper bound",
}


def assemble(settings: Settings, data: PreferenceData, measured: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One run's results as plain JSON types.

    measured: `MixtureBT.test_results()`, and `checkpoint`: the file in the run folder whose weights were tested, or
    None, and `validation`: the score they were chosen by (the NLL, unless a callback monitors another), by which
    settings may be chosen too.

    When the population is known there are `floors`, `excess` (loss above each floor's own predictor on the same test
    rows) and `excess_risk` (expected loss above the floor that applies, the label integrated out). `raters` holds the
    model's scores beside the floor of the raters themselves, when several judged a pair, `code` what a model that
    gives users codes says of these. Losses are in nats; `se` is a standard error over rows, of `raters` over pairs.
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
                name: {
                    **{count: getattr(counts, count) for count in ("rows", *COUNTED)},
                    "left_out": dict(counts.left_out),
                }
                for name, counts in data.counts.items()
            },
        },
        "checkpoint": measured["checkpoint"],
        "validation": measured["validation"],
        "test": measured["test"],
        "test_by": measured["test_by"],
        # Exact sums over the population: no sampling error.
        "floors": {name: {"value": value, "se": 0.0} for name, value in floors.items()},
        "excess": measured.get("excess", {}),
        "excess_risk": measured.get("excess_risk", {}),
        "raters": measured["raters"],
        "heads": measured["heads"],
        **({"code": measured["code"]} if "code" in measured else {}),
    }


def floor_lines(results: Mapping[str, Any], path: str) -> dict[str, Mapping[str, float]]:
    """The floors to draw beside the quantity at a path of results.json, each {value, se} under its name."""
    floors = results["floors"]
    if path == "test.nll":
        return {name: floors[key] for key, name in FLOORS.items() if key in floors}
    if path == "excess_risk" and floors:
        over = results["excess_risk"]["over"]
        base = floors[over]["value"]
        above = {key: floor["value"] - base for key, floor in floors.items()}
        zero = FLOORS[over].split()[0]
        shown = [key for key in FLOORS if above.get(key, 0.0) > 1e-9]  # no rounding error of an equal floor
        return {f"{FLOORS[key]} - {zero}": {"value": above[key], "se": 0.0} for key in shown}
    score = path.removeprefix("raters.").removesuffix(".model")
    found = results["raters"].get(score, {}).get("floors", {}) if path.startswith("raters.") else {}
    named = {RATER_FLOORS[score if name == score else f"{score}_{name}"]: floor for name, floor in found.items()}
    return {name: floor for name, floor in named.items() if name != RATER_FLOORS["nll_plug_in"]}  # no bound, no line


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys; lists stay whole."""
    if not isinstance(node, Mapping) or not node:
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in flatten(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def is_incidental(name: str) -> bool:
    """Whether a setting, by its dotted key, is one in which repetitions of a run differ or that changes no result."""
    return any(name == other or name.startswith(f"{other}.") for other in INCIDENTAL)


def read(folder: Path) -> dict[str, Any]:
    """The results that a finished run left in its folder."""
    return json.loads((folder / FILE_NAME).read_text())


def write(results: dict[str, Any], folder: Path) -> None:
    """Writes results.json in one step."""
    write_text(folder / FILE_NAME, json.dumps(results, indent=2) + "\n")
