"""Packs texts into token rows with prefix sharing: each prompt once, followed by several responses to it.

A response attends only to its prompt and itself. In a causal network all responses to one prompt can therefore share a
row:

    row        p p p a a b b b
    position   0 1 2 3 4 3 4 5      as if each response followed the prompt directly
    part       0 0 0 1 1 2 2 2      a token attends to the prompt and its own part, up to itself

A context (a prompt without a response) is part of the row already and costs nothing. Rows of similar length form a
forward pass.

Dimension letters: M texts of a token table, T texts of a pass, B rows, L tokens of a row.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from micro_lit.features.tokens import TokenTable


class TokenRows(NamedTuple):
    """T texts in B rows of L tokens, padded on the right with id 0.

    Attributes:
        ids_BL: token ids.
        positions_BL: position ids.
        parts_BL: part of each token: b for the prompt of row b, B + t for the response of text t, B + T for padding.
        row_T: the row of each text.
        end_T: index of the last token of each text in the flattened rows.
        length_T: number of tokens of each text.
        shared: whether any row holds more than one response; if not, default positions and masks are right.
    """

    ids_BL: Int64[Tensor, "B L"]
    positions_BL: Int64[Tensor, "B L"]
    parts_BL: Int64[Tensor, "B L"]
    row_T: Int64[Tensor, " T"]
    end_T: Int64[Tensor, " T"]
    length_T: Int64[Tensor, " T"]
    shared: bool

    def to(self, device: torch.device) -> "TokenRows":
        return TokenRows(*(column.to(device) for column in self[:-1]), self.shared)

    @property
    def mask_BL(self) -> Bool[Tensor, "B L"]:
        """True for tokens, False for padding."""
        return self.parts_BL < len(self.ids_BL) + len(self.row_T)

    @property
    def sees_BLL(self) -> Bool[Tensor, "B L L"]:
        """Attention mask: a token attends to tokens of its own part and of the prompt, up to itself."""
        part_BL1, part_B1L = self.parts_BL[:, :, None], self.parts_BL[:, None, :]
        return ((part_BL1 == part_B1L) | (part_B1L < len(self.parts_BL))).tril()


def in_rows(
    tokens: TokenTable, texts_T: Int64[Tensor, " T"], token_budget: int | None, break_even: int | None
) -> Iterator[tuple[Int64[Tensor, " t"], TokenRows]]:
    """Packs texts into rows, and yields the rows in forward passes, longest rows first.

    A row with a prompt of P tokens and n responses of s tokens saves the prompt n - 1 times, but attention costs the
    squared row length. The cost per response is (P + ns)(break_even + P + ns) / n, least at ns = sqrt(P (P +
    break_even)). A row takes responses up to that many tokens, but no more than the longest text or the token budget.

    Args:
        tokens: the token table.
        texts_T: indices of texts in it.
        token_budget: most tokens of a pass, padding included; None puts everything in one pass.
        break_even: row length in tokens at which attention costs as much as the linear layers; None gives each text a
            row of its own.

    Yields:
        Indices into `texts_T`, and the rows of these texts.
    """
    prompt_T = tokens.prompt_lengths_M[texts_T]
    response_T = tokens.offsets[texts_T + 1] - tokens.offsets[texts_T] - prompt_T
    if break_even is None:
        prompt_id_T, break_even, most = torch.arange(len(texts_T), device=texts_T.device), 0, 1
    else:
        prompt_id_T, most = tokens.prompts_M[texts_T], int((prompt_T + response_T).max())
    # Sort by prompt, contexts before responses.
    order_T = response_T.argsort(stable=True)
    order_T = order_T[prompt_id_T[order_T].argsort(stable=True)]
    prompt_id_T, prompt_T, response_T = prompt_id_T[order_T], prompt_T[order_T], response_T[order_T]

    before_T = response_T.cumsum(0) - response_T
    fresh_T = torch.ones_like(prompt_T, dtype=torch.bool)
    fresh_T[1:] = prompt_id_T.diff() != 0
    most = most if token_budget is None else min(most, token_budget)
    room_T = (prompt_T * (prompt_T + break_even)).sqrt().long().clamp(1, most)
    nth_T = (before_T - _latest(before_T, fresh_T)) // room_T
    fresh_T[1:] |= nth_T.diff() != 0
    start_T = before_T - _latest(before_T, fresh_T)
    first_B = fresh_T.nonzero()[:, 0]
    rest_B = torch.cat([before_T[first_B], response_T.sum(0, keepdim=True)]).diff()
    length_B = prompt_T[first_B] + rest_B
    # Longest rows first; texts are put in the order of their rows.
    by_length_B = length_B.argsort(descending=True, stable=True)
    row_T = by_length_B.argsort()[fresh_T.cumsum(0) - 1]
    by_row_T = row_T.argsort(stable=True)
    row_T, order_T, prompt_T, response_T, start_T = (
        column[by_row_T] for column in (row_T, order_T, prompt_T, response_T, start_T)
    )
    lengths = length_B[by_length_B].tolist()
    last = torch.searchsorted(row_T, torch.arange(len(lengths) + 1, device=row_T.device)).tolist()
    row = 0
    while row < len(lengths):
        count = len(lengths) if token_budget is None else max(1, token_budget // lengths[row])
        texts = slice(last[row], last[min(row + count, len(lengths))])
        places_T, row_of_T = order_T[texts], row_T[texts] - row
        rows = _lay_out(
            tokens, texts_T[places_T], row_of_T, start_T[texts], prompt_T[texts], response_T[texts], lengths[row]
        )
        yield places_T, rows
        row += count


def _latest(values_T: Int64[Tensor, " T"], where_T: Bool[Tensor, " T"]) -> Int64[Tensor, " T"]:
    """At each position, the last marked value so far; values_T must be non-decreasing."""
    return torch.where(where_T, values_T, 0).cummax(0).values


def _lay_out(
    tokens: TokenTable,
    texts_T: Int64[Tensor, " T"],
    row_T: Int64[Tensor, " T"],
    start_T: Int64[Tensor, " T"],
    prompt_T: Int64[Tensor, " T"],
    response_T: Int64[Tensor, " T"],
    longest: int,
) -> TokenRows:
    """Builds rows padded to `longest`; the response of a text begins `start_T` tokens after the prompt of its row."""
    first_B = torch.searchsorted(row_T, torch.arange(int(row_T[-1]) + 1, device=row_T.device))
    begin_T, offset_T = row_T * longest + prompt_T + start_T, tokens.offsets[texts_T]
    # P counts parts: the prompts of the rows, then the responses of the texts.
    source_P = torch.cat([offset_T[first_B], offset_T + prompt_T])
    target_P = torch.cat([torch.arange(len(first_B), device=row_T.device) * longest, begin_T])
    position_P = torch.cat([torch.zeros_like(first_B), prompt_T])
    length_P = torch.cat([prompt_T[first_B], response_T])
    part = torch.arange(len(length_P), device=row_T.device).repeat_interleave(length_P)
    within = torch.arange(len(part), device=row_T.device) - (length_P.cumsum(0) - length_P)[part]
    target = target_P[part] + within

    def spread(values: Int64[Tensor, " tokens"], padding: int) -> Int64[Tensor, "B L"]:
        flat = torch.full((len(first_B) * longest,), padding, device=row_T.device)
        flat[target] = values
        return flat.view(len(first_B), longest)

    return TokenRows(
        ids_BL=spread(tokens.flat_ids[source_P[part] + within].long(), 0),
        positions_BL=spread(position_P[part] + within, 0),
        parts_BL=spread(part, len(length_P)),
        row_T=row_T,
        end_T=torch.where(response_T > 0, begin_T + response_T, row_T * longest + prompt_T) - 1,
        length_T=prompt_T + response_T,
        shared=bool((start_T > 0).any()),
    )
