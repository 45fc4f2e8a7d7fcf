"""Reward models and their parts: mixtures, heads, gates, routers and models of users."""

from micro_lit.models.contracts import Gate, Head
from micro_lit.models.controls import AttributeBT, SharedBaseEnsemble
from micro_lit.models.gates import LinearGate, MLPGate, SourceGate, StaticGate, UniformGate
from micro_lit.models.heads import (
    LinearHeads,
    MLPHeads,
    NegatedHeads,
    PrincipalHeads,
    PriorHeads,
    PromptPrototypeHeads,
    PrototypeHeads,
    RandomHeads,
    SharedHeads,
)
from micro_lit.models.mixture import MixtureBT, SingleBT
from micro_lit.models.people import PAL, VPL, LoRe, MaxMinEM, TiedMixture
from micro_lit.models.router import ContextRouter
from micro_lit.models.sparse import SparseMoE

__all__ = [
    "PAL",
    "VPL",
    "AttributeBT",
    "ContextRouter",
    "Gate",
    "Head",
    "LinearGate",
    "LinearHeads",
    "LoRe",
    "MLPGate",
    "MLPHeads",
    "MaxMinEM",
    "MixtureBT",
    "NegatedHeads",
    "PrincipalHeads",
    "PriorHeads",
    "PromptPrototypeHeads",
    "PrototypeHeads",
    "RandomHeads",
    "SharedBaseEnsemble",
    "SharedHeads",
    "SingleBT",
    "SourceGate",
    "SparseMoE",
    "StaticGate",
    "TiedMixture",
    "UniformGate",
]
