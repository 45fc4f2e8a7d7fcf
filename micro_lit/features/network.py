"""A transformer that turns token rows into representations: hidden states, then pooling.

Dimension letters: B texts in a batch, L tokens, D representation width.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

Pooling = Literal["last", "mean", "cls"]


def pool(hidden_BLD: Float[Tensor, "B L D"], lengths_B: Int64[Tensor, " B"], pooling: Pooling) -> Float[Tensor, "B D"]:
    """One vector a row, from its first `lengths_B` positions; what comes after them, padding or not, is never read.

    `last` reads position length - 1, `mean` averages, `cls` reads position 0. In a causal network the pool of a
    prefix equals the pool of that prefix encoded alone.
    """
    if pooling == "last":
        return hidden_BLD[torch.arange(len(hidden_BLD), device=hidden_BLD.device), lengths_B - 1]
    if pooling == "mean":
        inside_BL = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device) < lengths_B[:, None]
        return torch.einsum("bld,bl->bd", hidden_BLD, inside_BL.to(hidden_BLD.dtype)) / lengths_B[:, None]
    if pooling == "cls":
        return hidden_BLD[:, 0]
    raise ValueError(f"pooling is {pooling!r}; allowed are 'last', 'mean' and 'cls'")


class PooledTransformer(nn.Module):
    """A Hugging Face base model (no task head) and its pooling.

    causal: whether a position sees only what stands before it; a prompt's representation is then read from the pass
    over prompt and response.
    """

    def __init__(self, network: nn.Module, pooling: Pooling, causal: bool) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling
        self.causal = causal

    @property
    def width(self) -> int:
        return self.network.config.get_text_config().hidden_size

    def forward(
        self, ids_BL: Int64[Tensor, "B L"], mask_BL: Bool[Tensor, "B L"], prompt_lengths_B: Int64[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Representations of the whole texts and, when causal, of their prompts (else the texts' again)."""
        options = {"use_cache": False} if self.causal else {}
        hidden_BLD = self.network(input_ids=ids_BL, attention_mask=mask_BL.long(), **options).last_hidden_state
        text_BD = pool(hidden_BLD, mask_BL.sum(dim=1), self.pooling)
        return text_BD, pool(hidden_BLD, prompt_lengths_B, self.pooling) if self.causal else text_BD
