"""Growth of time and memory from 10,000 to 1,000,000 pairs: reading, then an epoch and a test on cached vectors.

Pairs pass through the stages of any run: file, records, `PreferenceData`, feature store, datamodule, Trainer. Users
label pairs of the eight responses to a prompt, so there are a tenth as many distinct texts as pairs. Vectors have width
384, K = 8, batches of 4096. Each size runs in its own process.

Growth is the exponent from 100,000 to 1,000,000 pairs, after subtracting the amount at 10,000: 1 is linear, 2 is
quadratic. Time is CPU time, which other processes affect less than wall time. Memory is the peak resident set, minus
that of a process that has imported torch.
"""

import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.json
import pyarrow.parquet
import pytorch_lightning as pl
import torch
import transformers.modeling_utils  # noqa: F401  a run imports it too

from benchmarks.processes import alone, memory
from micro_lit.data.datamodule import PreferenceDataModule
from micro_lit.data.pairs import PreferenceData
from micro_lit.data.parsed import LEAST_BYTES
from micro_lit.data.sources import PairFiles
from micro_lit.features.backbones import CachedBackbone
from micro_lit.features.store import FeatureStore, text_digests
from micro_lit.models import MixtureBT, MLPGate
from micro_lit.run.run import quiet_libraries

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
RESPONSES, PAIRS_PER_PROMPT, PAIRS_PER_USER = 8, 90, 50
WIDTH, NUM_HEADS, BATCH_SIZE, SHARD_ROWS = 384, 8, 4096, 20_000
STAGES = {
    "read": "reading JSON lines",
    "digest": "digests of their texts",
    "look up": "vectors from the store",
    "train": "an epoch and a validation",
    "test": "a test on a tenth",
}


def judgments(num_pairs: int) -> Iterator[dict[str, str]]:
    generator = np.random.default_rng(0)
    prompt_N = generator.integers(num_pairs // PAIRS_PER_PROMPT, size=num_pairs)
    user_N = generator.integers(num_pairs // PAIRS_PER_USER, size=num_pairs)
    chosen_N = generator.integers(RESPONSES, size=num_pairs)
    rejected_N = (chosen_N + generator.integers(1, RESPONSES, size=num_pairs)) % RESPONSES
    for prompt, user, chosen, rejected in np.stack([prompt_N, user_N, chosen_N, rejected_N], axis=1).tolist():
        yield {
            "prompt": f"Question {prompt}: what is to be done, and why?",
            "chosen": f"Answer {chosen} to question {prompt}, in full. " * 6,
            "rejected": f"Answer {rejected} to question {prompt}, in full. " * 6,
            "user_id": f"user {user}",
        }


def write_files(folder: Path, num_pairs: int) -> tuple[Path, Path]:
    lines, table = folder / f"{num_pairs}.jsonl", folder / f"{num_pairs}.parquet"
    with lines.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in judgments(num_pairs))
    pyarrow.parquet.write_table(pyarrow.json.read_json(lines), table)
    return lines, table


@contextlib.contextmanager
def timed(spent: dict[str, Any], stage: str) -> Iterator[None]:
    """Stores CPU and wall time of the context in `spent[stage]`."""
    processor, clock = time.process_time(), time.perf_counter()
    yield
    spent[stage] = time.process_time() - processor, time.perf_counter() - clock


def measure(path: Path) -> None:
    """Prints CPU and wall time of each stage, and the bytes needed for reading and for all stages."""
    quiet_libraries()
    torch.randn(512, 512) @ torch.randn(512, 512)
    start, spent = memory("VmRSS"), {}
    with timed(spent, "read"):
        data = PairFiles("pairs", str(path)).load(seed=0)
    spent["memory to read"] = memory("VmHWM") - start
    cached = PairFiles("pairs", str(path), cache_dir=str(path.with_suffix(".tables")))
    cached.load(seed=0)
    with timed(spent, "read again"):
        digests_M2 = cached.load(seed=0).digests_M2
    if path.stat().st_size >= LEAST_BYTES:
        assert np.array_equal(digests_M2, text_digests(data.texts))
    with timed(spent, "digest"):
        text_digests(data.texts)
    if path.suffix == ".jsonl":
        train(data, path.with_suffix(""), spent)
    print(json.dumps({**spent, "memory": memory("VmHWM") - start}))


def train(data: PreferenceData, folder: Path, spent: dict[str, Any]) -> None:
    store = FeatureStore(folder, {"benchmark": "scaling"})
    for at in range(0, len(data.texts), SHARD_ROWS):
        texts = data.texts[at : at + SHARD_ROWS]
        store.add(texts, torch.randn(len(texts), WIDTH), torch.zeros(len(texts), dtype=torch.bool))
    with timed(spent, "look up"):
        table = store.table(text_digests(data.texts))
        backbone = CachedBackbone(table.resident(), standardise=True, train=data.split("train"))
    model = MixtureBT(backbone, data.names, NUM_HEADS, gate=MLPGate)
    datamodule = PreferenceDataModule(data, BATCH_SIZE, BATCH_SIZE, seed=0)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    with timed(spent, "train"):
        trainer.fit(model, datamodule)
    with timed(spent, "test"):
        trainer.test(model, datamodule, verbose=False)
        model.test_results()


def growth(amounts: Sequence[float]) -> float:
    amount = dict(zip(SIZES, amounts, strict=True))
    base, middle, most = SIZES[0], SIZES[-3], SIZES[-1]
    ratio = (amount[most] - amount[base]) / (amount[middle] - amount[base])
    return math.log(ratio) / math.log((most - base) / (middle - base))


def report(what: str, amounts: Sequence[float], unit: str, most: float = 1.1) -> None:
    exponent = growth(amounts)
    row = {
        "what": f"{what}, {SIZES[0]:,} to {SIZES[-1]:,} pairs: growth",
        "measured": f"{exponent:.2f} ({', '.join(f'{amount:.2f}' for amount in amounts)} {unit})",
        "bar": f"at most {most}",
        "met": exponent <= most,
    }
    print(json.dumps(row), flush=True)


def report_stage(what: str, spent: Sequence[tuple[float, float]]) -> None:
    processors, clocks = zip(*spent, strict=True)
    report(what, processors, f"s of processor; {clocks[-1]:.1f} by the clock", 1.05 if "reading" in what else 1.1)


def report_seconds(what: str, spent: tuple[float, float], most: float) -> None:
    row = {
        "what": f"{what}, {SIZES[-1]:,} pairs: seconds of the processor",
        "measured": f"{spent[0]:.1f}",
        "bar": f"at most {most:g}",
        "met": spent[0] <= most,
    }
    print(json.dumps(row), flush=True)


def main() -> None:
    lines, tables = [], []
    for size in SIZES:
        with tempfile.TemporaryDirectory(dir=".") as name:
            for found, path in zip((lines, tables), write_files(Path(name), size), strict=True):
                found.append(alone("benchmarks.scaling", str(path)))
    report_seconds("reading JSON lines", lines[-1]["read"], 8)
    report_seconds("reading parquet", tables[-1]["read"], 6)
    report_seconds("reading JSON lines from the cache", lines[-1]["read again"], 2)
    report_seconds("reading parquet from the cache", tables[-1]["read again"], 2)
    for stage, what in STAGES.items():
        report_stage(what, [spent[stage] for spent in lines])
    report_stage("reading parquet", [spent["read"] for spent in tables])
    report("memory to read JSON lines", [spent["memory to read"] / 1e9 for spent in lines], "GB")
    report("memory to read parquet", [spent["memory to read"] / 1e9 for spent in tables], "GB")
    report("memory of all of it", [spent["memory"] / 1e9 for spent in lines], "GB")


if __name__ == "__main__":
    measure(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
