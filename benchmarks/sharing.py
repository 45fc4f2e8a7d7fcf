"""Speed of a training step of a causal transformer with shared prompts and length grouping, relative to neither.

The plain baseline encodes chosen and rejected texts separately, padded to the longest of the batch. It has the same
network and attention, without a mask: padding on the right needs none.

Dimension letters: B pairs in a batch, L tokens, D representation width.
"""

import json
import statistics
import time

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, LlamaConfig

from micro_lit.data.pairs import Pairs
from micro_lit.features.backbones import TrainableBackbone
from micro_lit.features.network import PooledTransformer
from micro_lit.features.tokens import TokenTable

WIDTH, LAYERS, VOCABULARY, TOKEN_BUDGET = 256, 3, 4096, 4096
NUM_PAIRS, BATCH_SIZE, ROUNDS = 32, 16, 5


def make_network() -> PooledTransformer:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=704, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=4, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return PooledTransformer(AutoModel.from_config(config, attn_implementation="sdpa"), "last", causal=True)


def make_backbone(prompts: Int64[Tensor, " N"], responses: Int64[Tensor, "N 2"]) -> TrainableBackbone:
    """Pairs of random tokens; pair n has the texts 2n and 2n + 1, and a unique prompt."""
    generator = torch.Generator().manual_seed(0)
    ids = []
    for prompt, both in zip(prompts.tolist(), responses.tolist(), strict=True):
        shared = torch.randint(VOCABULARY, (prompt,), generator=generator)
        ids += [torch.cat([shared, torch.randint(VOCABULARY, (each,), generator=generator)]) for each in both]
    offsets = torch.tensor([0, *map(len, ids)]).cumsum(0)
    tokens = TokenTable(
        torch.cat(ids).int(),
        offsets,
        prompts.repeat_interleave(2),
        torch.zeros(len(ids), dtype=torch.bool),
        torch.arange(len(ids)) // 2,
    )
    torch.manual_seed(0)
    return TrainableBackbone(make_network(), tokens, "", TOKEN_BUDGET)


def ours(backbone: TrainableBackbone, rows_B: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
    triplets_B3 = torch.stack([2 * rows_B, 2 * rows_B, 2 * rows_B + 1], dim=1)
    nothing_B = torch.full((len(rows_B),), float("nan"))
    pairs = Pairs(triplets_B3, torch.full((len(rows_B), 5), -1), nothing_B, torch.empty(len(rows_B), 0))
    shown = backbone(pairs, with_context=False)
    return shown.chosen_BD - shown.rejected_BD


def plain(backbone: TrainableBackbone, rows_B: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
    tokens = backbone.tokens

    def encode(texts_B: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
        ids = [tokens.flat_ids[tokens.offsets[text] : tokens.offsets[text + 1]].long() for text in texts_B]
        ids_BL = pad_sequence(ids, batch_first=True)
        hidden_BLD = backbone.transformer.network(input_ids=ids_BL, use_cache=False).last_hidden_state
        return hidden_BLD[torch.arange(len(ids)), torch.tensor([len(row) - 1 for row in ids])]

    return encode(2 * rows_B) - encode(2 * rows_B + 1)


def seconds(backbone: TrainableBackbone, difference) -> float:
    """Wall time of forward and backward passes over all pairs."""
    started = time.perf_counter()
    for rows_B in torch.arange(NUM_PAIRS).split(BATCH_SIZE):
        step(backbone, difference, rows_B)
    return time.perf_counter() - started


def step(backbone: TrainableBackbone, difference, rows_B: Int64[Tensor, " B"]) -> Float[Tensor, " weights"]:
    """The gradient of the Bradley-Terry loss, where the reward is the sum of the representation."""
    backbone.zero_grad()
    (-logsigmoid(difference(backbone, rows_B).sum(dim=1)).mean()).backward()
    return torch.cat([weight.grad.flatten() for weight in backbone.parameters()])


def ratio(backbone: TrainableBackbone) -> tuple[float, float]:
    """Speed relative to the plain baseline, from alternating rounds, and our seconds."""
    for difference in (ours, plain):
        step(backbone, difference, torch.arange(BATCH_SIZE))
    rounds = [(seconds(backbone, plain), seconds(backbone, ours)) for _ in range(ROUNDS)]
    return statistics.median(theirs / mine for theirs, mine in rounds), min(mine for _, mine in rounds)


def main() -> None:
    prompt, response = 96, 32
    shared = make_backbone(torch.full((NUM_PAIRS,), prompt), torch.full((NUM_PAIRS, 2), response))
    times, took = ratio(shared)
    found, expected = (step(shared, difference, torch.arange(BATCH_SIZE)) for difference in (ours, plain))
    apart = float((found - expected).abs().max() / expected.abs().max())
    rows = [
        {
            "what": f"training step, prompt of {prompt}, responses of {response} tokens: shared or not; gradients",
            "measured": f"{times:.2f} x ({NUM_PAIRS / took:.0f} pairs/s); within {apart:.0e}",
            "bar": "at least 1.5 x; 1e-6",
            "met": times >= 1.5 and apart <= 1e-6,
        }
    ]
    # Lengths vary by a factor of 16; prompts of one token, so that sharing does not help.
    generator = torch.Generator().manual_seed(1)
    responses = (16 * 16 ** torch.rand(NUM_PAIRS, 2, generator=generator)).long()
    times, took = ratio(make_backbone(torch.ones(NUM_PAIRS, dtype=torch.int64), responses))
    rows.append(
        {
            "what": "training step, texts of 16 to 256 tokens, rows of like length together or padded to the longest",
            "measured": f"{times:.2f} x ({NUM_PAIRS / took:.0f} pairs/s)",
            "bar": "at least 1.3 x",
            "met": times >= 1.3,
        }
    )
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
