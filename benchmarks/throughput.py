"""Throughput of training a transformer through the Trainer: pairs and tokens per second, and MFU.

With a GPU, a Llama with 3B weights in bfloat16, on one device and with FSDP on one; without, one with 25M on the CPU.
MFU (model FLOPs utilisation): operations that the model needs (6 per weight and token, and those of attention), divided
by the rate of a large matrix product on the same device in the same run. Work saved by prompt sharing is not counted.
"""

import json
import tempfile
import time

import pytorch_lightning as pl
import torch
from transformers import AutoModel, LlamaConfig

from micro_lit.data.datamodule import PreferenceDataModule
from micro_lit.data.pairs import Pairs, PreferenceData
from micro_lit.features.backbones import TrainableBackbone
from micro_lit.features.network import PooledTransformer
from micro_lit.features.rows import in_rows
from micro_lit.features.sharding import FullySharded
from micro_lit.features.tokens import TokenTable
from micro_lit.models import MixtureBT
from micro_lit.run.run import quiet_libraries

GPU = torch.cuda.is_available()
SHAPE = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
         "num_key_value_heads": 8, "vocab_size": 128_256} if GPU else {
         "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8,
         "num_key_value_heads": 8, "vocab_size": 4096}  # fmt: skip
PROMPT, RESPONSE = (512, 256) if GPU else (96, 48)
NUM_PAIRS, BATCH_SIZE, STEPS = (512, 16, 12) if GPU else (64, 8, 4)
PRECISION = "bf16-mixed" if GPU else "32-true"


def make_data() -> tuple[PreferenceData, TokenTable]:
    """Pairs of random tokens: each has a prompt and two responses."""
    draw = torch.Generator().manual_seed(0)
    prompts_P = torch.randint(1, SHAPE["vocab_size"], (NUM_PAIRS, PROMPT), generator=draw)
    responses_P2 = torch.randint(1, SHAPE["vocab_size"], (NUM_PAIRS, 2, RESPONSE), generator=draw)
    ids = [torch.cat([prompts_P[pair], responses_P2[pair, side]]) for pair in range(NUM_PAIRS) for side in (0, 1)]
    texts = prompts_P.tolist(), [len(each) for each in ids]
    tokens = TokenTable(
        torch.cat([*ids, *prompts_P]).int(),
        torch.tensor([0, *texts[1], *[PROMPT] * NUM_PAIRS]).cumsum(0),
        torch.full((3 * NUM_PAIRS,), PROMPT),
        torch.zeros(3 * NUM_PAIRS, dtype=torch.bool),
        torch.cat([torch.arange(NUM_PAIRS).repeat_interleave(2), torch.arange(NUM_PAIRS)]),
    )
    rows = torch.arange(NUM_PAIRS)
    pairs = Pairs(
        torch.stack([2 * NUM_PAIRS + rows, 2 * rows, 2 * rows + 1], dim=1),
        torch.full((NUM_PAIRS, 5), -1),
        torch.full((NUM_PAIRS,), float("nan")),
        torch.empty(NUM_PAIRS, 0),
    )
    splits = {"train": rows, "validation": rows[:1], "test": rows[:1]}
    return PreferenceData([], pairs, {}, splits, {}, torch.zeros(NUM_PAIRS).long()), tokens


class Clock(pl.Callback):
    """Measures the seconds of all steps except the first two."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if GPU:
            torch.cuda.synchronize()
        if trainer.global_step == 2:
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - self.started if trainer.global_step > 2 else 0.0


def train(strategy: str | pl.strategies.Strategy) -> tuple[float, int, int]:
    """Trains; returns seconds per step, number of weights without embeddings, and tokens per step."""
    data, tokens = make_data()
    torch.manual_seed(0)
    dtype = torch.bfloat16 if GPU else torch.float32
    network = AutoModel.from_config(LlamaConfig(**SHAPE), dtype=dtype)
    if GPU:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    backbone = TrainableBackbone(PooledTransformer(network, "last", causal=True), tokens, "", None)
    module = PreferenceDataModule(data, BATCH_SIZE, BATCH_SIZE, seed=0)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="gpu" if GPU else "cpu", devices=1, strategy=strategy, precision=PRECISION, max_steps=STEPS,
            callbacks=[clock], logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0, use_distributed_sampler=False,
            default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(MixtureBT(backbone, {}, 8), module)
    weights = sum(weight.numel() for weight in network.parameters()) - network.get_input_embeddings().weight.numel()
    texts = data.pairs.triplets_N3[:BATCH_SIZE, 1:].flatten()
    run = sum(int(rows.mask_BL.sum()) for _, rows in in_rows(tokens, texts, None, backbone.break_even))
    return clock.seconds / (STEPS - 2), weights, run


def matrix_product() -> float:
    """Operations per second of a large matrix product."""
    size = 8192 if GPU else 1536
    left = torch.randn(size, size, dtype=torch.bfloat16 if GPU else torch.float32, device="cuda" if GPU else "cpu")
    rates = []
    for _ in range(5):
        started = time.perf_counter()
        left @ left
        if GPU:
            torch.cuda.synchronize()
        rates.append(2 * size**3 / (time.perf_counter() - started))
    return max(rates)


def main() -> None:
    quiet_libraries()
    peak = matrix_product()
    for name, strategy in {"one device": "auto", "FSDP": FullySharded()}.items():
        seconds, weights, tokens = train(strategy)
        attention = 12 * SHAPE["num_hidden_layers"] * SHAPE["hidden_size"] * (PROMPT + RESPONSE)
        mfu = tokens * (6 * weights + attention) / seconds / peak
        row = {
            "what": f"a transformer of {weights / 1e6:,.0f}M weights in training, {name}: MFU",
            "measured": f"{mfu:.2f} ({BATCH_SIZE / seconds:.1f} pairs/s, {tokens / seconds:,.0f} tokens/s)",
            "bar": "at least 0.3",
            "met": mfu >= 0.3,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
