"""Backbones: frozen ones encode each text once into a feature store; trainable ones run in every training step."""

from micro_lit.host.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "backbones": ["Backbone", "Identity"],
        "pretrained": ["LoRA", "Pretrained"],
        "sharding": ["FullySharded"],
        "tiny": ["Tiny"],
    },
)
