"""results.json: the results of a run, as read by tables, sweeps and people. A key never changes its meaning."""

import json
import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from micro_lit.config import Settings
from micro_lit.config.redaction import redact
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError
from micro_lit.host.files import write_text

COUNTED = ("dropped", "ties", "truncated", "same_tokens")
FILE_NAME = "results.json"
RECORDED_VERSIONS = ("micro-lit", "torch", "pytorch-lightning", "transformers")

# Settings that differ between repetitions, or do not change results.
INCIDENTAL = (
    "share_codes",
    "seed", "name", "ckpt_path", "skip_finished", "overwrite", "own_process", "paths", "report", "logger", "packages",
    "threads", "backbone.token_budget",
)  # fmt: skip

# The same, in the settings of any set of pairs.
OF_DATA = ("leak", "cache_dir")

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


# For each baseline the name of its table row, and its rule.
BASELINES = {
    "longer": ("longer wins", "the longer response wins"),
    "majority": ("majority", "what most training raters chose wins"),
    "first": ("first wins", "the response shown first wins"),
}


# Keys of results.json: required keys, keys with finite numbers, keys with numbers. QUANTITY: keys of a quantity.
REQUIRED = ("seed", "seconds", "test", "floors", "excess", "excess_risk", "raters")
FINITE = frozenset({"validation", "test", "test_by", "baselines", "floors", "excess", "excess_risk", "raters"})
MEASURED = FINITE | {"data", "heads", "code"}
UNITS = ("users", "pairs", "prompts", "rows")
# With fewer units intervals are inexact; `python -m benchmarks coverage` measures their coverage.
FEW_UNITS = 20
QUANTITY = ("value", "se", "n", "se_units", "units", "n_units", "low", "high")


def installed(name: str) -> str | None:
    """Version of a package; None for code that is on the path but not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def assemble(settings: Settings, data: PreferenceData, measured: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Assembles the results of one run.

    Args:
        settings: settings of the run.
        data: data of the run.
        measured: `MixtureBT.test_results()`, and these keys. `knows`: inputs of the model beyond prompt and responses.
            `metrics`: unit and direction of each metric. `checkpoint`: file in the run folder whose weights were
            tested, or None. `validation`: score by which they were selected (NLL, unless a callback monitors another);
            settings may be selected by it too.
        seconds: duration of the run.

    Returns:
        Plain JSON types; losses are in nats. `se` is a standard error over rows, for `raters` over pairs. For other
        quantities `se_units` is a standard error over `n_units` independent units, named by `units` (users, pairs,
        prompts or rows), and `low` and `high` are the 95 % interval over these units.
        `valid`: whether the results are possible; `invalid_because`: the reason if they are not.
        `data.overlap`: counts of test rows that share content with training rows, see `micro_lit.data.leaks.overlap`.
        `metrics`: unit and direction of each metric.
        `baselines`: accuracy of each baseline that applies, and the model's difference from it.
        `floors`, `excess` and `excess_risk` (known populations): loss above the predictor of each floor on the same
        test rows; expected loss, over labels, above the floor that applies.
        `mixed_reward` (several heads): NLL of σ(Σ w Δ), and the share of pairs on which the mixed reward
        and the preference of the mixture disagree.
        `raters` (pairs with several raters): the model's scores and the floor of the raters.
        `code` (models with user codes): statistics of the codes.
    """
    floors = data.population.floors if data.population is not None else {}
    from micro_lit.metrics.validity import why_impossible  # slow import

    reason = why_impossible(measured, measured["knows"])
    return {
        "valid": reason is None,
        **({} if reason is None else {"invalid_because": reason}),
        "experiment": settings["name"],
        "model": measured["model"],
        "num_heads": len(measured["heads"]["mean_weight"]),
        "seed": settings["seed"],
        "seconds": round(seconds, 1),
        "versions": {name.replace("-", "_"): installed(name) for name in RECORDED_VERSIONS},
        "data": _data_counts(data),
        "checkpoint": measured["checkpoint"],
        "validation": measured["validation"],
        "metrics": measured["metrics"],
        "test": measured["test"],
        "test_by": measured["test_by"],
        "baselines": measured.get("baselines", {}),
        # Exact sums over the population: no sampling error.
        "floors": {name: {"value": value, "se": 0.0} for name, value in floors.items()},
        "excess": measured.get("excess", {}),
        "excess_risk": measured.get("excess_risk", {}),
        "mixed_reward": measured.get("mixed_reward", {}),
        "raters": measured["raters"],
        "heads": measured["heads"],
        **({"code": measured["code"]} if "code" in measured else {}),
    }


def _data_counts(data: PreferenceData) -> dict[str, Any]:
    """Rows of each split, what became of the rows of each set, and the overlap of test and training rows."""
    return {
        **{name: len(rows) for name, rows in data.splits.items()},
        **{count: sum(getattr(counts, count) for counts in data.counts.values()) for count in COUNTED},
        "sets": {
            name: {
                **{count: getattr(counts, count) for count in ("rows", *COUNTED)},
                "left_out": dict(counts.left_out),
                "unread": counts.unread,
            }
            for name, counts in data.counts.items()
        },
        "overlap": data.overlap or {},
    }


def summary(results: Mapping[str, Any]) -> dict[str, int | float]:
    """Numbers of a run by name: test scores, floors, distances from floors, heads, rows, seconds."""
    parts = ("test", "floors", "excess")
    values = {f"{part}/{name}": of["value"] for part in parts for name, of in results[part].items()}
    values |= {f"data/{name}": count for name, count in results["data"].items() if isinstance(count, int)}
    values |= {"heads/number": results["num_heads"], "heads/effective": results["heads"]["effective"]}
    return {name: value for name, value in (values | {"seconds": results["seconds"]}).items() if value is not None}


def floor_lines(results: Mapping[str, Any], path: str) -> dict[str, Mapping[str, float]]:
    """Floors, {value, se} by name, of the quantity at a dotted path of results.json."""
    floors = results["floors"]
    if path == "test.nll":
        return {name: floors[key] for key, name in FLOORS.items() if key in floors}
    if path == "excess_risk" and floors:
        over = results["excess_risk"]["over"]
        base = floors[over]["value"]
        above = {key: floor["value"] - base for key, floor in floors.items()}
        zero = FLOORS[over].split()[0]
        shown = [key for key in FLOORS if above.get(key, 0.0) > 1e-9]  # omits floors equal up to rounding
        return {f"{FLOORS[key]} - {zero}": {"value": above[key], "se": 0.0} for key in shown}
    score = path.removeprefix("raters.").removesuffix(".model")
    found = results["raters"].get(score, {}).get("floors", {}) if path.startswith("raters.") else {}
    named = {RATER_FLOORS[score if name == score else f"{score}_{name}"]: floor for name, floor in found.items()}
    return {name: floor for name, floor in named.items() if name != RATER_FLOORS["nll_plug_in"]}  # not a bound


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings to dotted keys; lists are not flattened."""
    if not isinstance(node, Mapping) or not node:
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in flatten(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def is_incidental(name: str) -> bool:
    """Whether a setting (dotted key) differs between repetitions of a run, or does not change results."""
    own = name.split(".")[-1] if name.startswith("data.") else None
    return own in OF_DATA or any(name == other or name.startswith(f"{other}.") for other in INCIDENTAL)


def read_results(folder: Path) -> dict[str, Any]:
    """Reads and checks results.json in the folder of a finished run.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        found = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        check_results(found)
    except Exception as error:  # damaged files raise various exceptions
        reason = " ".join(f"{error!s:.120}".split()) or type(error).__name__
        raise UserError(f"{folder}: not the folder of a finished run ({FILE_NAME}: {reason})") from error
    return found


def check_results(results: Any) -> None:
    """Raises `ValueError`, with the dotted key, if results lack keys or numbers that tables and figures need."""
    if not isinstance(results, Mapping):
        raise ValueError(f"holds {results!r:.20}, which is no mapping")
    if missing := [key for key in REQUIRED if key not in results]:
        raise ValueError(f"{', '.join(missing)} missing")
    valid = results.get("valid", True)
    if not isinstance(valid, bool) or not (valid or isinstance(results.get("invalid_because"), str)):
        raise ValueError("valid is neither true nor false with a reason in invalid_because")
    for part in sorted(MEASURED & results.keys()):
        if not isinstance(results[part], Mapping):
            raise ValueError(f"{part} is {results[part]!r:.20}, which is no mapping")
        _check_numbers(results[part], part, valid and part in FINITE)
    if type(results["seed"]) is not int:
        raise ValueError(f"seed is {results['seed']!r:.20}, which is no whole number")
    _check_numbers(results["seconds"], "seconds", finite=True)
    for name in ("test.nll", *(f"floors.{name}" for name in results["floors"])):
        part, key = name.split(".", 1)
        if "value" not in _mapping(results[part].get(key), name):
            raise ValueError(f"{name}.value missing")
    for name, floor in results["floors"].items():
        if "se" not in floor:
            raise ValueError(f"floors.{name}.se missing")
    if results["floors"] and results["excess_risk"] and results["excess_risk"].get("over") not in results["floors"]:
        raise ValueError("excess_risk.over names no floor")
    for score, facts in results["raters"].items():
        if type(facts) is int:  # numbers of rows and pairs
            continue
        for name, floor in _mapping(_mapping(facts, f"raters.{score}").get("floors", {}), f"raters.{score}").items():
            if not {"value", "se"} <= _mapping(floor, f"raters.{score}.floors.{name}").keys():
                raise ValueError(f"raters.{score}.floors.{name} holds no value or no se")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mapping(node: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(node, Mapping):
        raise ValueError(f"{name} is {node!r:.20}, which is no mapping")
    return node


def _check_numbers(node: Any, name: str, finite: bool) -> None:
    """Raises `ValueError` for a leaf that is not a number; lists are accepted where numbers need not be finite."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            if isinstance(child, Mapping) and key in QUANTITY:
                raise ValueError(f"{name}.{key} is {child!r:.20}, which is no number")
            if key == "units" and "value" in node:
                if child not in UNITS:
                    raise ValueError(f"{name}.units is {child!r:.20}, which is none of {', '.join(UNITS)}")
            elif name != "excess_risk" or key != "over":
                _check_numbers(child, f"{name}.{key}", finite or "value" in node)
    elif isinstance(node, list) and not finite:
        return
    elif not is_number(node) or (finite and not math.isfinite(node)):
        raise ValueError(f"{name} is {node!r:.20}, which is no {'finite ' if finite else ''}number")


def write_results(results: dict[str, Any], folder: Path) -> None:
    """Writes results.json, redacted and atomically."""
    write_text(folder / FILE_NAME, json.dumps(redact(results), indent=2) + "\n")
