"""Test results of a model, in the form of results.json."""

from typing import Any


def measured(model: Any) -> dict[str, Any]:
    """The parts of results.json that come from the metrics of a `MixtureBT` after its test, as plain JSON types."""
    [overall] = model.test_metrics.compute()
    results = {
        "model": model.name,
        "test": overall,
        "test_by": {},
        "heads": model.head_metrics.compute(),
        "raters": model.rater_metrics.compute(),
    }
    if "recovery" in results["heads"]:
        results["heads"]["recovery"] = {"groups": model.names["group"], **results["heads"]["recovery"]}
    found = {name: metrics.compute() for name, metrics in model.category_metrics.items()}
    categories = {name: {"values": model.names[name], **facts} for name, facts in found.items() if facts}
    if categories:
        results["heads"]["categories"] = categories
    for name, metrics in model.test_breakdowns.items():
        cells = dict(zip(model.names[name], metrics.compute(), strict=True))
        results["test_by"][name] = {value: cell for value, cell in cells.items() if cell}
    if model.mixed_reward_metrics is not None:
        results["mixed_reward"] = model.mixed_reward_metrics.compute()
    if model.references:
        excess, risk = model.excess_metrics.compute()
        results["excess"] = dict(zip(model.references, excess, strict=True))
        results["excess_risk"] = {"over": model.bayes, **risk}
    if model.baseline_metrics is not None:
        results["baselines"] = model.baseline_metrics.compute()
    return results
