"""Rewards of texts from trained models, in Python and as a command.

A score is a mixed reward, Σ_k w_k r_k; the preference of a mixture is Σ_k w_k σ(Δ_k), which can disagree with it.
"""

from micro_lit.host.lazy import lazy

__getattr__, __all__ = lazy(__name__, {"fitting": ["FinishedFit", "compose", "fit"], "loaded": ["LoadedModel", "load"]})
