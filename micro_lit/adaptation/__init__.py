"""Adaptation: labelled margins in, mixture weights out."""

from micro_lit.adaptation.fits import few_shot_logits, mixture_em
from micro_lit.adaptation.online import HedgeState, OnlineHedge, regret
from micro_lit.adaptation.weights import (
    Sharpness,
    best_head_oracle,
    hedge,
    hedge_targets,
    hyre,
    posterior,
    prior,
    sharpness,
    uniform,
)

__all__ = [
    "HedgeState",
    "OnlineHedge",
    "Sharpness",
    "best_head_oracle",
    "few_shot_logits",
    "hedge",
    "hedge_targets",
    "hyre",
    "mixture_em",
    "posterior",
    "prior",
    "regret",
    "sharpness",
    "uniform",
]
