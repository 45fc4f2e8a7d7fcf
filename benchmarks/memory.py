"""Resident memory of training on a feature store of 2 GB, minus that of a process that has imported torch."""

import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import transformers.modeling_utils  # noqa: F401  a run imports it too: part of the baseline

from micro_lit.data.datamodule import PreferenceDataModule
from micro_lit.data.pairs import Pairs, PreferenceData, Text
from micro_lit.data.records import Message
from micro_lit.features.backbones import CachedBackbone
from micro_lit.features.store import FeatureStore, text_digests
from micro_lit.models import MixtureBT, MLPGate
from micro_lit.run.run import quiet_libraries

WIDTH, SHARDS, SHARD_ROWS, NUM_PAIRS = 384, 8, 175_000, 400_000


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("the kernel does not tell the resident set")


class Peak(threading.Thread):
    """Records the largest resident set, sampled every 20 ms until stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.value, self.running = 0, True

    def run(self) -> None:
        while self.running:
            self.value = max(self.value, resident_bytes())
            time.sleep(0.02)


def texts_of(shard: int) -> list[Text]:
    return [Text((Message("user", ""),), str(number)) for number in range(shard * SHARD_ROWS, (shard + 1) * SHARD_ROWS)]


def main() -> None:
    quiet_libraries()
    torch.randn(512, 512) @ torch.randn(512, 512)
    baseline = resident_bytes()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = FeatureStore(Path(folder), {"benchmark": "memory"})
        for shard in range(SHARDS):
            flags = torch.zeros(SHARD_ROWS, dtype=torch.bool)
            store.add(texts_of(shard), torch.randn(SHARD_ROWS, WIDTH), flags)
        size = sum(path.stat().st_size for path in store.folder.iterdir())
        digests = [text_digests(texts_of(shard)) for shard in range(SHARDS)]
        peak = Peak()
        peak.start()
        train(store, np.concatenate(digests))
        peak.running = False
        peak.join()
    beyond = (peak.value - baseline) / 1e9
    row = {
        "what": f"resident set while training on a store of {size / 1e9:.1f} GB, beyond torch's own",
        "measured": f"{beyond:.2f} GB",
        "bar": "under 1.5 GB",
        "met": beyond < 1.5,
    }
    print(json.dumps(row))


def train(store: FeatureStore, digests_M2) -> None:
    table = store.table(digests_M2)
    pairs = Pairs(
        torch.randint(len(table), (NUM_PAIRS, 3)),
        torch.full((NUM_PAIRS, 4), -1),
        torch.full((NUM_PAIRS,), float("nan")),
        torch.empty(NUM_PAIRS, 0),
    )
    backbone = CachedBackbone(table, standardise=True, train=pairs)
    rows = torch.arange(NUM_PAIRS)
    data = PreferenceData(
        [], pairs, {}, {"train": rows, "validation": rows[:4096], "test": rows[:1]}, {}, torch.zeros(NUM_PAIRS).long()
    )
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(MixtureBT(backbone, {}, 8, gate=MLPGate), PreferenceDataModule(data, 4096, 4096, seed=0))


if __name__ == "__main__":
    main()
