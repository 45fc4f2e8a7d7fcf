"""Heads: K scalar rewards from one response representation.

Dimension letters: B rows, D representation width, K heads, H hidden width of a head.

Your own head is a module built with (width, num_heads) that maps [B, D] to [B, K].
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LinearHeads(nn.Linear):
    """K linear rewards r_k = v_k · φ, without a bias: a constant cancels in every margin."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads, bias=False)


class MLPHeads(nn.Module):
    """K independent rewards of one hidden layer each: r_k = v_k · gelu(W_k φ + b_k)."""

    def __init__(self, width: int, num_heads: int, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, num_heads * hidden)
        self.output_KH = nn.Parameter(torch.empty(num_heads, hidden).uniform_(-1, 1) / hidden**0.5)

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        hidden_BKH = nn.functional.gelu(self.hidden(response_BD)).unflatten(-1, self.output_KH.shape)
        return (hidden_BKH * self.output_KH).sum(dim=-1)
