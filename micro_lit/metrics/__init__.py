"""Metrics of preference predictions, as sums and counts: exact over batches of any size and over devices.

All metrics are computed from one number per pair, the log-probability of its outcome. Intervals are over independent
units, such as users.
"""

from micro_lit.metrics.contract import BUILT_IN, NLL, SCORES, Accuracy, Brier, Metric, scores, values, with_built_in
from micro_lit.metrics.heads import CategoryMetrics, HeadMetrics, WeightMetrics
from micro_lit.metrics.intervals import LEVEL, Clustered, Crossed, Singles, clustered, crossed, quantile, wilson
from micro_lit.metrics.preference import (
    NUM_BINS,
    ExcessMetrics,
    MixedRewardMetrics,
    PreferenceMetrics,
    bernoulli_divergence,
)
from micro_lit.metrics.raters import RaterMetrics
from micro_lit.metrics.sums import Estimate, UnitSums, estimate
from micro_lit.metrics.units import ROWS, Units, units_of

__all__ = [
    "BUILT_IN",
    "LEVEL",
    "NLL",
    "NUM_BINS",
    "ROWS",
    "SCORES",
    "Accuracy",
    "Brier",
    "CategoryMetrics",
    "Clustered",
    "Crossed",
    "Estimate",
    "ExcessMetrics",
    "HeadMetrics",
    "Metric",
    "MixedRewardMetrics",
    "PreferenceMetrics",
    "RaterMetrics",
    "Singles",
    "UnitSums",
    "Units",
    "WeightMetrics",
    "bernoulli_divergence",
    "clustered",
    "crossed",
    "estimate",
    "quantile",
    "scores",
    "units_of",
    "values",
    "wilson",
    "with_built_in",
]
