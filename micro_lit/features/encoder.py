"""Filling the feature store: length-sorted batches of a token budget, each distinct text through the backbone once.

Dimension letters: M texts, B texts in a batch, D representation width.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int64
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from micro_lit.data.pairs import Text
from micro_lit.features.network import PooledTransformer
from micro_lit.features.store import SHARD_BYTES, FeatureStore
from micro_lit.features.tokens import TokenTable


def encode_into(
    store: FeatureStore,
    texts: Sequence[Text],
    tokens: TokenTable,
    network: PooledTransformer,
    token_budget: int,
    dtype: torch.dtype,
) -> None:
    """Encodes texts and adds them to the store, shard by shard; an interrupted run keeps the shards it finished.

    token_budget: tokens of a batch, padding included. dtype: of the stored numbers. The caller holds the store's lock.
    """
    shard_rows = max(1, SHARD_BYTES // (network.width * dtype.itemsize))
    rows, features, stored = [], [], 0
    with _progress() as progress:
        task = progress.add_task("encoding", total=len(texts))
        for rows_B, features_BD in encode(texts, tokens, network, token_budget):
            rows.append(rows_B)
            features.append(features_BD.to("cpu", dtype))
            stored += len(rows_B)
            progress.advance(task, len(rows_B))
            if stored >= shard_rows:
                _add(store, texts, tokens, rows, features)
                rows, features, stored = [], [], 0
        if stored:
            _add(store, texts, tokens, rows, features)


@torch.inference_mode()
def encode(
    texts: Sequence[Text], tokens: TokenTable, network: PooledTransformer, token_budget: int
) -> Iterator[tuple[Int64[Tensor, " B"], Float[Tensor, "B D"]]]:
    """Yields (rows, representations) until every text had its turn, longest first so that memory peaks at once.

    A prompt that begins a response's tokens is not run by itself in a causal network: the pass over the response
    has computed it.
    """
    network.eval()
    device = next(network.parameters()).device
    rider_of = _riders(texts, tokens) if network.causal else {}
    run_M = torch.tensor(sorted(set(range(len(texts))) - set(rider_of.values())))
    run_M = run_M[tokens.lengths_M[run_M].argsort(descending=True, stable=True)]
    start = 0
    while start < len(run_M):
        longest = int(tokens.lengths_M[run_M[start]])
        rows_B = run_M[start : start + max(1, token_budget // longest)]
        start += len(rows_B)
        ids_BL, mask_BL = tokens.padded(rows_B)
        text_BD, prompt_BD = network(ids_BL.to(device), mask_BL.to(device), tokens.prompt_lengths_M[rows_B].to(device))
        yield rows_B, text_BD
        carriers = [at for at, row in enumerate(rows_B.tolist()) if row in rider_of]
        if carriers:
            yield torch.tensor([rider_of[int(rows_B[at])] for at in carriers]), prompt_BD[carriers]


def _riders(texts: Sequence[Text], tokens: TokenTable) -> dict[int, int]:
    """Row of a response -> row of the prompt it begins with, each prompt once."""
    waiting = {text.prompt: row for row, text in enumerate(texts) if text.response is None}
    rider_of = {}
    for row, text in enumerate(texts):
        prompt_row = waiting.get(text.prompt) if text.response is not None else None
        if prompt_row is not None and tokens.starts_with(row, prompt_row):
            rider_of[row] = waiting.pop(text.prompt)
    return rider_of


def _add(
    store: FeatureStore, texts: Sequence[Text], tokens: TokenTable, rows: list[Tensor], features: list[Tensor]
) -> None:
    row_M = torch.cat(rows)
    store.add([texts[row] for row in row_M.tolist()], torch.cat(features), tokens.truncated_M[row_M])


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} texts"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
