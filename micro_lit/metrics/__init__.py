"""Metrics of preference predictions, as sums and counts: exact over batches of any size and over devices.

Everything is computed from one number a pair, the log-probability of its outcome; intervals are over the units that are
independent of each other.
"""

from micro_lit.metrics.heads import CategoryMetrics, HeadMetrics, WeightMetrics
from micro_lit.metrics.intervals import (
    FEW_UNITS,
    LEVEL,
    Clustered,
    Crossed,
    Singles,
    clustered,
    crossed,
    quantile,
    wilson,
)
from micro_lit.metrics.raters import RaterMetrics
from micro_lit.metrics.scores import (
    NUM_BINS,
    SCORES,
    Estimate,
    ExcessMetrics,
    PreferenceMetrics,
    bernoulli_divergence,
    estimate,
    scores,
)

__all__ = [
    "FEW_UNITS",
    "LEVEL",
    "NUM_BINS",
    "SCORES",
    "CategoryMetrics",
    "Clustered",
    "Crossed",
    "Estimate",
    "ExcessMetrics",
    "HeadMetrics",
    "PreferenceMetrics",
    "RaterMetrics",
    "Singles",
    "WeightMetrics",
    "bernoulli_divergence",
    "clustered",
    "crossed",
    "estimate",
    "quantile",
    "scores",
    "wilson",
]
