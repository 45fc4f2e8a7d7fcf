"""The likelihood of labels: outcomes of comparisons, links that combine heads, and posteriors of heads.

Training, reports and comparisons all use `Link.log_prob`; -log σ is implemented nowhere else.
"""

from micro_lit.likelihood.links import (
    LOG_PROB_TOLERANCE,
    WEIGHTS_TOLERANCE,
    Link,
    LinkName,
    ProbabilityLink,
    RewardLink,
    link_of,
    preference_log_prob,
)
from micro_lit.likelihood.outcomes import WINNER, Outcome, Winner
from micro_lit.likelihood.posteriors import LOG_NEVER, hedge_log_targets, sum_by
from micro_lit.likelihood.regularisers import diversity, imbalance, negative_entropy

__all__ = [
    "LOG_NEVER",
    "LOG_PROB_TOLERANCE",
    "WEIGHTS_TOLERANCE",
    "WINNER",
    "Link",
    "LinkName",
    "Outcome",
    "ProbabilityLink",
    "RewardLink",
    "Winner",
    "diversity",
    "hedge_log_targets",
    "imbalance",
    "link_of",
    "negative_entropy",
    "preference_log_prob",
    "sum_by",
]
