"""Floors (irreducible error): the least loss that any predictor of a given kind can reach.

For known populations, exact or estimated from a sample (`groups`, `bradley_terry`); for real people, estimated from
repeated raters (`raters`).
"""

from micro_lit.floors.bradley_terry import (
    NotConverged,
    Solution,
    bt_cross_entropy,
    bt_projection,
    conditional_bt,
    linear_bt,
)
from micro_lit.floors.estimates import MASS_TOLERANCE, FloorEstimate, binary_entropy
from micro_lit.floors.groups import (
    marginal_floor,
    mutual_information,
    oracle_floor,
    pinsker_bound,
    printed_bound,
    variance_bound,
)

__all__ = [
    "MASS_TOLERANCE",
    "FloorEstimate",
    "NotConverged",
    "Solution",
    "binary_entropy",
    "bt_cross_entropy",
    "bt_projection",
    "conditional_bt",
    "linear_bt",
    "marginal_floor",
    "mutual_information",
    "oracle_floor",
    "pinsker_bound",
    "printed_bound",
    "variance_bound",
]
