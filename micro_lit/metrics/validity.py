"""Results that cannot be: a likelihood that is none, or a loss below what anybody could reach."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from scipy.stats import norm
from scipy.stats import t as student

SIGMAS = 5.0

# What opens the oracle floor: each of these may tell which group a row's rater is of.
OPENS_ORACLE = frozenset({"user", "group", "attribute", "criterion"})

FLOORS = {
    "marginal": "F1, the floor of all who know prompt and responses only",
    "oracle": "F0, the floor of the oracle",
}


def why_impossible(results: Mapping[str, Any], knows: Collection[str]) -> str | None:
    """Says in one sentence why results cannot be true, or None where nothing speaks against them.

    Impossible are scores that are no numbers, an NLL below 0, an accuracy outside [0, 1], and an NLL further below the
    floor that is open to a system than luck explains: five standard errors over units, or what is as improbable by
    Student's t with so few units. The distance from a floor is paired, row by row, with the predictor that reaches it.

    Args:
        results: of results.json, `test` and, of a known population, `excess`.
        knows: what the system was told of a row beyond prompt and responses: user, group, attribute, criterion.
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
        told = f"it is told {', '.join(sorted(knows))}" if knows else "it is told nothing else"
        return (
            f"test.nll is {-excess['value']:.4f} nats below {FLOORS[floor]} ({told}), {-excess['value'] / error:.0f} "
            "standard errors: do the log weights sum to one, and do test labels stay out of its inputs?"
            if error > 0
            else f"test.nll is {-excess['value']:.4f} nats below {FLOORS[floor]} ({told}) on every row"
        )
    return None
