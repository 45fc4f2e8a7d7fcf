"""A transformer with pooling: token rows in, one representation per text out.

Dimension letters: T texts in a pass, B rows of it, L tokens of a row, D representation width.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from micro_lit.errors import UserError
from micro_lit.features.rows import TokenRows, in_rows
from micro_lit.features.tokens import TokenTable
from micro_lit.host.devices import repeatable

Pooling = Literal["last", "mean", "cls"]


def pool(hidden_BLD: Float[Tensor, "B L D"], rows: TokenRows, pooling: Pooling) -> Float[Tensor, "T D"]:
    """Pools hidden states to one vector per text, over the tokens of its prompt and its response.

    Padding and other responses in the same row are never read.

    Args:
        hidden_BLD: hidden states of the last layer.
        rows: the layout of the texts in the rows.
        pooling: `last` takes the text's last token, `mean` averages its tokens, `cls` takes the first.
    """
    num_rows = len(hidden_BLD)
    if pooling == "last":
        return hidden_BLD.flatten(0, 1)[rows.end_T]
    if pooling == "mean":
        wide = torch.promote_types(hidden_BLD.dtype, torch.float32)
        sums_D = torch.zeros(num_rows + len(rows.row_T) + 1, hidden_BLD.shape[-1], dtype=wide, device=hidden_BLD.device)
        with repeatable(hidden_BLD.device):
            sums_D = sums_D.index_add(0, rows.parts_BL.flatten(), hidden_BLD.flatten(0, 1).to(wide))
        sums_TD = sums_D[rows.row_T] + sums_D[num_rows:-1]
        return (sums_TD / rows.length_T[:, None]).to(hidden_BLD.dtype)
    if pooling == "cls":
        return hidden_BLD[rows.row_T, 0]
    raise ValueError(f"pooling is {pooling!r}; allowed are 'last', 'mean' and 'cls'")


class PooledTransformer(nn.Module):
    """A Hugging Face base model (no task head) with pooling.

    Args:
        network: the base model.
        pooling: see `pool`.
        causal: whether attention is causal.
    """

    def __init__(self, network: nn.Module, pooling: Pooling, causal: bool) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling
        self.causal = causal

    @property
    def width(self) -> int:
        return self.network.config.get_text_config().hidden_size

    def forward(self, rows: TokenRows) -> Float[Tensor, "T D"]:
        """Representations of the texts in the rows."""
        # With padding on the right, causal attention needs no mask, and is fastest without one.
        options = {"use_cache": False} if self.causal else {"attention_mask": rows.mask_BL.long()}
        if rows.shared:
            sees_B1LL = rows.sees_BLL[:, None]
            if self.network.config._attn_implementation == "eager":  # eager attention takes an additive mask
                sees_B1LL = torch.where(sees_B1LL, 0.0, torch.finfo(torch.float32).min)
            options |= {"attention_mask": sees_B1LL, "position_ids": rows.positions_BL}
        hidden_BLD = self.network(input_ids=rows.ids_BL, **options).last_hidden_state
        return pool(hidden_BLD, rows, self.pooling)

    @torch.no_grad()
    def break_even(self) -> int | None:
        """Row length at which attention costs as much as the linear layers; None if texts cannot share a row.

        Texts can share a row in a causal network without sliding-window attention that accepts a custom 4-D mask and
        position ids. A trial on a few tokens decides; kernels other than sdpa and eager accept no such mask.

        Returns:
            The length in tokens, or None.

        Raises:
            UserError: when the network is declared causal but is not.
        """
        if not self.causal or self.network.config.get_text_config()._attn_implementation not in ("sdpa", "eager"):
            return None
        training = self.network.training
        self.network.eval()
        try:
            [alone_D], apart_TD = self._try(1, None), self._try(3, None)
            if _far(apart_TD[0], alone_D):
                raise UserError(
                    "backbone.causal=true: in this network a token sees what comes after it; give backbone.causal=false"
                )
            # Per token a layer does 12 D^2 multiplications with its weights, and 2 D for each token attended to: equal
            # at 6 D tokens. The value is lower, because attention multiplies more slowly.
            tokens = 4 * self.width
            try:
                return tokens if self._takes_masks() and not _far(self._try(3, tokens), apart_TD) else None
            except Exception:  # networks that do not support masks or positions raise different exceptions
                return None
        finally:
            self.network.train(training)

    def _takes_masks(self) -> bool:
        """Whether all layers use full attention, so that the mask alone decides what a token attends to."""
        config = self.network.config.get_text_config()
        layers = getattr(config, "layer_types", None)
        windows = getattr(config, "sliding_window", None) if layers is None else set(layers) - {"full_attention"}
        return not windows

    def _try(self, texts: int, break_even: int | None) -> Float[Tensor, "T D"]:
        """Representations of the first `texts` of three: a prompt alone, and with each of two responses."""
        device = next(self.network.parameters()).device
        ids, offsets = torch.tensor([1, 2, 3, 1, 2, 3, 4, 5, 1, 2, 3, 6, 7]), torch.tensor([0, 3, 8, 13])
        same, whole = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
        tokens = TokenTable(ids.int(), offsets, same + 3, whole, same)
        [(places, rows)] = in_rows(tokens, torch.arange(texts), None, break_even)
        return self(rows.to(device))[places.argsort()]


def _far(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors differ by more than rounding: relative norm above the square root of machine epsilon."""
    return bool((found - expected).norm() > expected.norm() * torch.finfo(expected.dtype).eps ** 0.5)
