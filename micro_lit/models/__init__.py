"""Reward models under the names people look for."""

from micro_lit.models.gates import LinearGate, MLPGate, StaticGate
from micro_lit.models.heads import LinearHeads, MLPHeads
from micro_lit.models.mixture import MixtureBT, SingleBT

__all__ = ["LinearGate", "LinearHeads", "MLPGate", "MLPHeads", "MixtureBT", "SingleBT", "StaticGate"]
