"""Detects impossible results: an invalid likelihood, or a loss below the floor."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from scipy.stats import norm
from scipy.stats import t as student

SIGMAS = 5.0

# Inputs that may reveal the group of a row's rater; a system that reads one is compared with the oracle floor.
OPENS_ORACLE = frozenset({"user", "group", "attribute", "criterion"})

LOSS_FLOORS = {
    "marginal": "F1, the floor of predictors that read only prompt and responses",
    "oracle": "F0, the floor of the oracle",
}


def why_impossible(results: Mapping[str, Any], knows: Collection[str]) -> str | None:
    """Explains in one sentence why results cannot be true; None if they can.

    Impossible are scores that are not finite, an NLL below 0, an accuracy outside [0, 1], and an NLL significantly
    below the floor that applies to the system. Significant means five standard errors over units, or the equally
    improbable quantile of Student's t for few units. The distance from a floor is paired, row by row, with the
    predictor that attains it.

    Args:
        results: from results.json, `test` and, for a known population, `excess`.
        knows: inputs of the system beyond prompt and responses: user, group, attribute, criterion.
    """
    for name, facts in results["test"].items():
        if not math.isfinite(facts["value"]):
            return f"test.{name} is {facts['value']}, which is no number"
    nll, accuracy = results["test"]["nll"]["value"], results["test"]["accuracy"]["value"]
    if nll < 0:
        return f"test.nll is {nll:.4f} nats, below 0: probabilities above 1; do the log weights sum to one?"
    if not 0 <= accuracy <= 1:
        return f"test.accuracy is {accuracy:.4f}, outside [0, 1]"
    floor = "oracle" if OPENS_ORACLE & frozenset(knows) else "marginal"
    excess = results.get("excess", {}).get(floor)
    if excess is None:
        return None
    if not math.isfinite(excess["value"]):
        return f"excess.{floor} is {excess['value']}, which is no number"
    error = max(excess["se"], excess.get("se_units", 0.0))
    reach = float(student.isf(norm.sf(SIGMAS), max(1, excess.get("n_units", excess["n"]) - 1)))
    if excess["value"] < -reach * error and excess["value"] < -1e-6:
        reads = f"it reads {', '.join(sorted(knows))}" if knows else "it reads nothing else"
        below = f"test.nll is {-excess['value']:.4f} nats below {LOSS_FLOORS[floor]} ({reads})"
        return (
            f"{below}, {-excess['value'] / error:.0f} standard errors: do the log weights sum to one, and do test "
            "labels stay out of its inputs?"
            if error > 0
            else f"{below} on every row"
        )
    return None
