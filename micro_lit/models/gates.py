"""Gates: log mixture weights over K heads.

Dimension letters: B rows, D representation width, K heads, S sources.

Custom gates extend `Gate` (`micro_lit.models.contracts`), are built with (width, num_heads) and declare `reads`.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from micro_lit.models.contracts import Gate
from micro_lit.ranges import Count


class StaticGate(Gate):
    """The same weights for every prompt: softmax(b)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.logits_K = nn.Parameter(torch.zeros(num_heads))

    def forward(self, context_BD: None) -> Float[Tensor, "1 K"]:
        return torch.log_softmax(self.logits_K, dim=-1)[None]

    def zero_(self) -> bool:
        for weight in self.parameters():
            nn.init.zeros_(weight)
        return True


class UniformGate(Gate):
    """Equal weights, not trained."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.register_buffer("log_weights_1K", torch.full((1, num_heads), -math.log(num_heads)), persistent=False)

    def forward(self, context_BD: None) -> Float[Tensor, "1 K"]:
        return self.log_weights_1K

    def zero_(self) -> bool:
        return True


class SourceGate(StaticGate):
    """Weights per source of the data, such as a conversation, as differences from the weights of an unknown source.

    With the argument None it returns [1, K], like `StaticGate`: the weights of an unknown source.
    """

    reads = ("source",)

    def make_room(self, counts: Mapping[str, int]) -> None:
        """Creates the differences of all sources, initially 0."""
        self.difference_SK = nn.Parameter(torch.zeros(counts["source"], len(self.logits_K)))

    def forward(self, source_B: Int64[Tensor, " B"] | None) -> Float[Tensor, "B K"]:
        if source_B is None:
            return super().forward(None)
        padded_SK = torch.cat([self.difference_SK, torch.zeros_like(self.logits_K)[None]])
        return torch.log_softmax(self.logits_K + padded_SK[source_B], dim=-1)


class LinearGate(Gate):
    """softmax(W φ(prompt) + b)."""

    reads = ("prompt",)

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.logits = nn.Linear(width, num_heads)

    def forward(self, context_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        return torch.log_softmax(self.logits(context_BD), dim=-1)

    def zero_(self) -> bool:
        *_, last = (layer for layer in self.logits.modules() if isinstance(layer, nn.Linear))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return True


class MLPGate(LinearGate):
    """Linear gate after one hidden layer; MiCRo uses width 128 [arXiv 2505.24846]."""

    def __init__(self, width: int, num_heads: int, hidden: Count = 128) -> None:
        super().__init__(hidden, num_heads)
        self.logits = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), self.logits)
