"""Encodes texts into the feature store: batches of rows of similar length up to a token budget, each text once.

Dimension letters: M texts, T texts in a pass, D representation width.
"""

import time
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int64
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from micro_lit.data.pairs import Text
from micro_lit.errors import UserError
from micro_lit.features.network import PooledTransformer
from micro_lit.features.rows import in_rows
from micro_lit.features.store import SHARD_BYTES, SHARD_SECONDS, FeatureStore
from micro_lit.features.tokens import SHOWN_CHARACTERS, TokenTable
from micro_lit.host import ranks


def encode_into(
    store: FeatureStore,
    texts: Sequence[Text],
    tokens: TokenTable,
    network: PooledTransformer,
    token_budget: int,
    dtype: torch.dtype,
) -> None:
    """Encodes texts and adds them to the store, shard by shard; an interrupted run keeps the shards it finished.

    The caller must have claimed the texts (`FeatureStore.claim`).

    Args:
        store: where the features are written.
        texts: M texts.
        tokens: their token ids.
        network: the encoder.
        token_budget: most tokens of a batch, padding included.
        dtype: of the stored features.

    Raises:
        UserError: when features are not finite, or a single text does not fit in memory.
    """
    shard_rows = max(1, SHARD_BYTES // (network.width * dtype.itemsize))
    rows, features, stored, since = [], [], 0, time.monotonic()
    with _progress() as progress:
        task = progress.add_task("encoding", total=len(texts))
        for rows_T, features_TD in encode(tokens, network, token_budget):
            rows.append(rows_T)
            features.append(features_TD.to("cpu", dtype))
            _check_finite(features[-1], features_TD, [texts[row] for row in rows_T.tolist()])
            stored += len(rows_T)
            progress.advance(task, len(rows_T))
            if stored >= shard_rows or time.monotonic() - since > SHARD_SECONDS:
                _add(store, texts, tokens, rows, features)
                rows, features, stored, since = [], [], 0, time.monotonic()
        if stored:
            _add(store, texts, tokens, rows, features)


@torch.inference_mode()
def encode(
    tokens: TokenTable, network: PooledTransformer, token_budget: int
) -> Iterator[tuple[Int64[Tensor, " T"], Float[Tensor, "T D"]]]:
    """Encodes all texts of a token table, longest rows first, so that the memory peak comes in the first batch.

    After an out-of-memory error the token budget is halved until a batch fits.

    Args:
        tokens: token ids of M texts.
        network: the encoder; it is set to evaluation mode.
        token_budget: most tokens of a batch, padding included.

    Yields:
        Indices of texts in the table, and their representations.

    Raises:
        UserError: when a single text does not fit in memory.
    """
    network.eval()
    device = next(network.parameters()).device
    break_even = network.break_even()
    waiting_M = torch.arange(len(tokens.truncated_M))
    budget = token_budget
    while len(waiting_M):
        done_M = torch.zeros_like(tokens.truncated_M)
        for places, rows in in_rows(tokens, waiting_M, budget, break_even):
            rows_T = waiting_M[places]
            try:
                features_TD = network(rows.to(device))
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if len(rows.ids_BL) == 1 and not rows.shared:
                    longest = int(rows.length_T.max())
                    raise UserError(
                        f"out of memory on a single text of {longest} tokens; lower backbone.max_length"
                    ) from error
                if budget == token_budget:
                    print(f"out of memory with backbone.token_budget={budget}: continuing with smaller batches")
                budget = max(1, min(budget, rows.ids_BL.numel()) // 2)
                break
            done_M[rows_T] = True
            yield rows_T, features_TD
        waiting_M = waiting_M[~done_M[waiting_M]]


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether the error is an out-of-memory error of an accelerator or the CPU."""
    phrases = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(each in str(error) for each in phrases)


def _add(
    store: FeatureStore, texts: Sequence[Text], tokens: TokenTable, rows: list[Tensor], features: list[Tensor]
) -> None:
    row_M = torch.cat(rows)
    reading = {"cut": tokens.reading.cut_M2[row_M], "tokens": tokens.reading.digests_M[row_M]}
    store.add([texts[row] for row in row_M.tolist()], torch.cat(features), tokens.truncated_M[row_M], reading)


def _check_finite(stored_TD: Float[Tensor, "T D"], features_TD: Float[Tensor, "T D"], texts: Sequence[Text]) -> None:
    """Raises `UserError` for the first text with features that are not finite; stored_TD: after conversion to dtype."""
    finite_T = stored_TD.isfinite().all(dim=1)
    if finite_T.all():
        return
    at = int((~finite_T).nonzero()[0])
    text = texts[at]
    begins = " ".join((text.prompt[-1].content if text.response is None else text.response).split())[:SHOWN_CHARACTERS]
    which = "prompt" if text.response is None else "response"
    if features_TD[at].isfinite().all():
        remedy = f"backbone.store_dtype={_name(stored_TD)} cannot hold them; give backbone.store_dtype=bfloat16"
    elif features_TD.dtype != torch.float32:
        remedy = f"it computes in {_name(features_TD)}; give backbone.dtype=float32"
    else:
        remedy = "it computes in float32 already; its weights are damaged, give another backbone.model"
    raise UserError(
        f"backbone: the features of the text whose {which} begins {begins!r} are not all finite numbers, and are not "
        f"stored: {remedy}"
    )


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} texts"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=ranks.rank() > 0,
    )
