"""GPU speed and memory, relative to reference implementations in the same run: `python -m benchmarks gpu`.

| part | reference |
|---|---|
| encoding with a sentence encoder of MiniLM's shape | sentence-transformers |
| an epoch over cached features | a bare torch loop |
| training a Llama with 135M weights | `AutoModelForSequenceClassification` |

All weights are random.

Dimension letters: B pairs in a batch, L tokens of a row, M texts, N pairs, T texts.
"""

import json
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from benchmarks import encoding, trainer
from micro_lit.data.datamodule import PreferenceDataModule
from micro_lit.data.pairs import Pairs, PreferenceData, Text
from micro_lit.features.backbones import TrainableBackbone
from micro_lit.features.encoder import encode
from micro_lit.features.network import PooledTransformer
from micro_lit.features.pretrained import Pretrained, gpu_budget
from micro_lit.features.tiny import Tiny
from micro_lit.features.tokens import TokenTable
from micro_lit.host.devices import device
from micro_lit.models import MixtureBT, MLPGate
from micro_lit.run.run import quiet_libraries

NUM_TEXTS, TEXTS_AT_ONCE = 20_000, 256
NUM_PAIRS, PROFILED = 200_000, 20
LLAMA = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
         "num_key_value_heads": 3, "vocab_size": 49_152, "bos_token_id": None, "eos_token_id": None,
         "max_position_embeddings": 2048}  # fmt: skip
TRAINED_PAIRS, BATCH_SIZE, PROMPT, RESPONSE = 320, 16, (384, 768), (32, 192)
ROUNDS, WARM = 2, 6


def row(what: str, measured: str, bar: str, met: bool) -> None:
    print(json.dumps({"what": what, "measured": measured, "bar": bar, "met": met}), flush=True)


def seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


# Encoding.


def save_encoder(folder: Path, texts: list[Text]) -> None:
    """Saves a bidirectional encoder of MiniLM's shape with random weights, and a tokenizer trained on the texts."""
    from transformers import AutoModel, BertConfig

    tokenizer = Tiny(vocabulary=4096).learn_tokenizer(texts)
    tokenizer.chat_template, tokenizer.pad_token = None, tokenizer.eos_token
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30_522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def encode_ours(encoder: Pretrained, network: PooledTransformer, texts: list[Text], budget: int) -> Tensor:
    tokens = encoder.tokenizer()(texts)
    out_MD = torch.empty(len(texts), network.width)
    for rows_T, features_TD in encode(tokens, network, budget):
        out_MD[rows_T] = features_TD.float().cpu()
    return out_MD


def measure_encoding(num_texts: int = NUM_TEXTS) -> None:
    encoding.NUM_TEXTS = num_texts
    texts = encoding.make_texts()
    with tempfile.TemporaryDirectory() as folder:
        save_encoder(Path(folder), texts)
        encoder = Pretrained(folder, pooling="mean", causal=False, max_length=256, dtype="bfloat16")
        network = encoder.network(encoder.dtype).to(device())
        encode_ours(encoder, network, texts[:2000], gpu_budget(network.width))
        mine = min(
            seconds(lambda: encode_ours(encoder, network, texts, gpu_budget(network.width))) for _ in range(ROUNDS)
        )
        said = f"{num_texts / mine:,.0f} texts/s"
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            row("encoding, MiniLM's shape in bfloat16 (no sentence-transformers here)", said, "none", True)
            return
        # Without modules.json, sentence-transformers uses mean pooling.
        peer = SentenceTransformer(folder, device="cuda", model_kwargs={"dtype": torch.bfloat16})
        peer.max_seq_length = 256
        strings = [encoder.tokenizer().render(text)[0] for text in texts]

        def theirs() -> object:
            return peer.encode(strings, batch_size=TEXTS_AT_ONCE, show_progress_bar=False, convert_to_tensor=True)

        theirs()
        took = min(seconds(theirs) for _ in range(ROUNDS))
    row(
        f"encoding {num_texts:,} texts, MiniLM's shape in bfloat16, against sentence-transformers in batches of "
        f"{TEXTS_AT_ONCE}",
        f"{took / mine:.2f} x ({said}; theirs {num_texts / took:,.0f})",
        "at least 1 x",
        took >= mine,
    )


# Cached features.


class EpochClock(pl.Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        torch.cuda.synchronize()
        self.started = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        torch.cuda.synchronize()
        self.epochs.append(time.perf_counter() - self.started)


class Calls(pl.Callback):
    """Counts CUDA calls per step, from a profile of `PROFILED` steps."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, at: int) -> None:
        if trainer.global_step == WARM:
            self.profile = torch.profiler.profile(activities=list(torch.profiler.supported_activities()))
            self.profile.__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, at: int
    ) -> None:
        if trainer.global_step == WARM + PROFILED:
            self.profile.__exit__(None, None, None)
            self.count = Counter(event.name for event in self.profile.events())

    def a_step(self, *names: str) -> float:
        return sum(self.count[name] for name in names) / PROFILED


def trainer_for(callbacks: list[pl.Callback], **settings: object) -> pl.Trainer:
    """A Trainer with the settings of `conf/trainer/gpu.yaml` that writes no files."""
    return pl.Trainer(
        accelerator="gpu", devices=1, callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, log_every_n_steps=10,
        use_distributed_sampler=False, gradient_clip_val=1.0, deterministic=True, **settings,
    )  # fmt: skip


def bare_epoch(data: PreferenceData, batch_size: int) -> float:
    """Seconds of an epoch of a bare torch loop with all data on the GPU."""
    features_MD, triplets_N3 = data.texts.cuda(), data.pairs.triplets_N3.cuda()
    torch.manual_seed(0)
    head = torch.nn.Linear(trainer.WIDTH, trainer.NUM_HEADS, bias=False).cuda()
    layers = (torch.nn.Linear(trainer.WIDTH, 128), torch.nn.GELU(), torch.nn.Linear(128, trainer.NUM_HEADS))
    gate = torch.nn.Sequential(*layers).cuda()
    weights = [*head.parameters(), *gate.parameters()]
    optimizer = torch.optim.AdamW(weights)

    def epoch() -> None:
        for rows_B in torch.randperm(len(triplets_N3), device="cuda").split(batch_size):
            context_B, chosen_B, rejected_B = triplets_N3[rows_B].unbind(1)
            margins_BK = head(features_MD[chosen_B]) - head(features_MD[rejected_B])
            log_weights_BK = torch.log_softmax(gate(features_MD[context_B]), dim=-1)
            loss = -torch.logsumexp(log_weights_BK + torch.nn.functional.logsigmoid(margins_BK), dim=-1).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()

    return min(seconds(epoch) for _ in range(ROUNDS))


def epochs_of(data: PreferenceData, batch_size: int) -> tuple[float, Calls]:
    """Seconds of an epoch through the Trainer, and the CUDA calls of its steps."""
    clock, calls = EpochClock(), Calls()
    fit = trainer_for([clock], precision="bf16-mixed", max_epochs=ROUNDS + 1)
    fit.fit(trainer.make_model(data), PreferenceDataModule(data, batch_size, batch_size, seed=0))
    counted = trainer_for([calls], precision="bf16-mixed", max_steps=WARM + PROFILED)
    counted.fit(trainer.make_model(data), PreferenceDataModule(data, batch_size, batch_size, seed=0))
    return min(clock.epochs[1:]), calls


def measure_cached(num_pairs: int = NUM_PAIRS) -> None:
    trainer.NUM_PAIRS = num_pairs
    data = trainer.make_data()
    for batch_size in (512, 4096):
        bare, (ours, calls) = bare_epoch(data, batch_size), epochs_of(data, batch_size)
        copies = calls.a_step("cudaMemcpyAsync", "cudaMemcpy")
        waits = calls.a_step("cudaStreamSynchronize", "cudaDeviceSynchronize")
        row(
            f"epoch of {num_pairs:,} cached pairs, 384 wide, K = 8, batches of {batch_size}, against the bare loop; a "
            "step's copies and waits",
            f"{ours / bare:.2f} x ({num_pairs / ours:,.0f} pairs/s); {copies:.1f}, {waits:.1f}",
            "at most 3 x; none a column",
            ours <= 3 * bare,
        )


# Training.


def make_texts() -> tuple[PreferenceData, TokenTable]:
    """Pairs of random tokens: each has a long prompt and two short responses."""
    draw = torch.Generator().manual_seed(0)

    def lengths(bounds: tuple[int, int], *shape: int) -> Tensor:
        return torch.randint(*bounds, shape, generator=draw)

    prompt_N, response_N2 = lengths(PROMPT, TRAINED_PAIRS), lengths(RESPONSE, TRAINED_PAIRS, 2)
    prompts = [torch.randint(1, LLAMA["vocab_size"], (int(each),), generator=draw) for each in prompt_N]
    ids = [
        torch.cat([prompts[pair], torch.randint(1, LLAMA["vocab_size"], (int(response),), generator=draw)])
        for pair in range(TRAINED_PAIRS)
        for response in response_N2[pair]
    ]
    pair_N = torch.arange(TRAINED_PAIRS)
    tokens = TokenTable(
        torch.cat([*ids, *prompts]).int(),
        torch.tensor([0, *map(len, [*ids, *prompts])]).cumsum(0),
        torch.cat([prompt_N.repeat_interleave(2), prompt_N]),
        torch.zeros(3 * TRAINED_PAIRS, dtype=torch.bool),
        torch.cat([pair_N.repeat_interleave(2), pair_N]),
    )
    pairs = Pairs(
        torch.stack([2 * TRAINED_PAIRS + pair_N, 2 * pair_N, 2 * pair_N + 1], dim=1),
        torch.full((TRAINED_PAIRS, 5), -1),
        torch.full((TRAINED_PAIRS,), float("nan")),
        torch.empty(TRAINED_PAIRS, 0),
    )
    splits = {"train": pair_N, "validation": pair_N[:1], "test": pair_N[:1]}
    return PreferenceData([], pairs, {}, splits, {}, torch.zeros(TRAINED_PAIRS).long()), tokens


class StepClock(pl.Callback):
    """Measures seconds per step after `WARM` steps, and peak memory."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == WARM:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.started = time.perf_counter()
        elif trainer.global_step == trainer.max_steps:
            torch.cuda.synchronize()
            self.seconds = (time.perf_counter() - self.started) / (trainer.max_steps - WARM)
            self.gigabytes = torch.cuda.max_memory_allocated() / 1e9


def train_ours(
    data: PreferenceData, tokens: TokenTable, budget: int = gpu_budget(LLAMA["hidden_size"]), **settings: object
) -> tuple[float, float]:
    """Seconds per step, and gigabytes, of a mixture of eight heads with a gate on the prompt, through the Trainer."""
    from transformers import AutoModel, LlamaConfig

    torch.manual_seed(0)
    network = AutoModel.from_config(LlamaConfig(**LLAMA), attn_implementation="sdpa")
    backbone = TrainableBackbone(PooledTransformer(network, "last", causal=True), tokens, "", budget)
    clock = StepClock()
    fit = trainer_for([clock], precision="bf16-mixed", max_steps=TRAINED_PAIRS // BATCH_SIZE, **settings)
    optimizer = {"optimizer": lambda weights: torch.optim.AdamW(weights, lr=1e-5)}
    fit.fit(
        MixtureBT(backbone, {}, 8, gate=MLPGate, **optimizer),
        PreferenceDataModule(data, BATCH_SIZE, BATCH_SIZE, seed=0),
    )
    return clock.seconds, clock.gigabytes


def train_theirs(data: PreferenceData, tokens: TokenTable) -> tuple[float, float]:
    """Seconds per step, and gigabytes, of one reward; texts are padded to the longest of the batch."""
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(**LLAMA, num_labels=1, pad_token_id=0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa").cuda().train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def ids(texts_T: Int64[Tensor, " T"]) -> Int64[Tensor, "T L"]:
        spans = zip(tokens.offsets[texts_T].tolist(), tokens.offsets[texts_T + 1].tolist(), strict=True)
        return pad_sequence([tokens.flat_ids[start:stop].long() for start, stop in spans], batch_first=True)

    order_N = torch.randperm(TRAINED_PAIRS, generator=torch.Generator().manual_seed(0))
    for step, row_B in enumerate(order_N.split(BATCH_SIZE)):
        if step == WARM:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
        ids_TL = ids(data.pairs.triplets_N3[row_B, 1:].T.flatten()).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            rewards_T = model(input_ids=ids_TL, attention_mask=(ids_TL != 0).long()).logits[:, 0]
        chosen_B, rejected_B = rewards_T.float().chunk(2)
        loss = -torch.nn.functional.logsigmoid(chosen_B - rejected_B).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    torch.cuda.synchronize()
    steps = TRAINED_PAIRS // BATCH_SIZE - WARM
    return (time.perf_counter() - started) / steps, torch.cuda.max_memory_allocated() / 1e9


def measure_training() -> None:
    data, tokens = make_texts()
    theirs, ours = train_theirs(data, tokens), train_ours(data, tokens)
    ratio = theirs[0] / ours[0]
    row(
        f"training a Llama of 135M, batches of {BATCH_SIZE} pairs, prompts of {PROMPT[0]} to {PROMPT[1]} and responses "
        f"of {RESPONSE[0]} to {RESPONSE[1]} tokens, bf16-mixed, against AutoModelForSequenceClassification; memory",
        f"{ratio:.2f} x ({BATCH_SIZE / ours[0]:.0f} pairs/s; theirs {BATCH_SIZE / theirs[0]:.0f}); "
        f"{ours[1]:.1f} GB, theirs {theirs[1]:.1f}",
        "at least 1 x; no more",
        ratio >= 1 and ours[1] <= theirs[1],
    )


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks gpu: PyTorch finds no GPU here; run it on a machine with one")
    quiet_libraries()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    device()
    print(f"on one {torch.cuda.get_device_name()}, PyTorch {torch.__version__}", file=sys.stderr)
    measure_encoding()
    measure_cached()
    measure_training()


if __name__ == "__main__":
    main()
