"""Scores new texts with a loaded model: against its encoder's bare forward pass, and against sentence-transformers.

The second needs `pip install sentence-transformers`; without it only the first is measured.
"""

import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

import micro_lit
from benchmarks.encoding import make_texts
from micro_lit.features.encoder import encode
from micro_lit.features.pretrained import _minilm_folder
from micro_lit.score.loaded import LoadedModel

ROUNDS = 3
MOST_RATIO = 1.2


def bare(model: LoadedModel, texts: list) -> float:
    """Seconds of tokenising and encoding alone."""
    live = model._model.backbone.live
    started = time.perf_counter()
    tokens = live.tokenizer(texts)
    for _ in encode(tokens, live.network, max(1024, int(tokens.lengths_M.max()))):
        pass
    return time.perf_counter() - started


def scored(model: LoadedModel, texts: list) -> float:
    """Seconds of scoring the same responses, with nothing in the memory of recent texts."""
    live = model._model.backbone.live
    live.recent.clear()
    prompts, responses = [text.prompt[0].content for text in texts], [text.response for text in texts]
    started = time.perf_counter()
    model.score(prompts, responses)
    return time.perf_counter() - started


def peers(model: LoadedModel, texts: list) -> list[dict]:
    """Responses a second by `score`, over those of sentence-transformers at its best settings and at its defaults."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return []
    live = model._model.backbone.live
    strings = [live.tokenizer.render(text)[0] for text in texts]
    own = min(scored(model, texts) for _ in range(ROUNDS))
    rows = []
    half = {"model_kwargs": {"dtype": torch.bfloat16}}
    for what, options, sizes, bar in (("its best settings", half, (16, 32, 64), 1.2), ("its defaults", {}, (32,), 3.0)):
        peer = SentenceTransformer(_minilm_folder(), device="cpu", **options)
        peer.max_seq_length = live.tokenizer.max_length
        seconds = []
        for size in sizes:
            started = time.perf_counter()
            peer.encode(strings, batch_size=size, convert_to_numpy=True)
            seconds.append(time.perf_counter() - started)
        ratio = min(seconds) / own
        rows.append(
            {
                "what": f"score {len(texts)} new responses, throughput over sentence-transformers' encode, {what}",
                "measured": f"{ratio:.2f} x ({len(texts) / own:.0f} against {len(texts) / min(seconds):.0f} a second)",
                "bar": f">= {bar} x",
                "met": ratio >= bar,
            }
        )
    return rows


def main() -> None:
    texts = [text for _ in range(2) for text in make_texts()]
    texts = [text._replace(response=f"{number} {text.response}") for number, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            {"prompt": f"q {n % 9}", "chosen": f"a longer answer {n}", "rejected": f"reply {n}"} for n in range(120)
        ]
        labels = Path(folder, "labels.jsonl")
        labels.write_text("\n".join(map(json.dumps, rows)))
        small = ["trainer.max_epochs=1", "logger=none", "model.num_heads=4"]
        paths = [f"data.train={labels}", f"paths.run_dir={folder}/run", f"paths.features_dir={folder}/features"]
        with contextlib.redirect_stdout(sys.stderr):
            done = micro_lit.fit(["data=pairs", "backbone=minilm", *small, *paths])
        model = done.model
        bare(model, texts)
        ratios, rates = [], []
        for _ in range(ROUNDS):
            alone, full = bare(model, texts), scored(model, texts)
            ratios.append(full / alone)
            rates.append(len(texts) / full)
        ratio = statistics.median(ratios)
        row = {
            "what": f"score {len(texts)} new responses, seconds over those of the bare forward pass",
            "measured": f"{ratio:.2f} ({statistics.median(rates):.0f} responses a second)",
            "bar": f"<= {MOST_RATIO}",
            "met": ratio <= MOST_RATIO,
        }
        for each in [row, *peers(model, texts)]:
            print(json.dumps(each))


if __name__ == "__main__":
    main()
