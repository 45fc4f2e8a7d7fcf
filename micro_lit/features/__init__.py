"""Features: texts through a backbone once, as vectors in a store; or a backbone that trains."""

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
