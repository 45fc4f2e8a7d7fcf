"""Adaptation: computes mixture weights from the margins of labelled pairs."""

from micro_lit.adapt.elicitation import Elicited, Strategy, at_random, disagreement, elicit, information_gain
from micro_lit.adapt.fits import few_shot_logits, mixture_em
from micro_lit.adapt.online import HedgeState, OnlineHedge, online_hedge, regret
from micro_lit.adapt.profiles import Learned, Profiles
from micro_lit.adapt.weights import (
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
    "Elicited",
    "HedgeState",
    "Learned",
    "OnlineHedge",
    "Profiles",
    "Sharpness",
    "Strategy",
    "at_random",
    "best_head_oracle",
    "disagreement",
    "elicit",
    "few_shot_logits",
    "hedge",
    "hedge_targets",
    "hyre",
    "information_gain",
    "mixture_em",
    "online_hedge",
    "posterior",
    "prior",
    "regret",
    "sharpness",
    "uniform",
]
