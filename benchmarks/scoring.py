"""Scoring new texts by a loaded model, against the bare forward pass of its encoder on the same texts."""

import json
import statistics
import tempfile
import time
from pathlib import Path

import micro_lit
from benchmarks.encoding import make_texts
from micro_lit.features.encoder import encode
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


def main() -> None:
    texts = make_texts()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            {"prompt": f"q {n % 9}", "chosen": f"a longer answer {n}", "rejected": f"reply {n}"} for n in range(120)
        ]
        labels = Path(folder, "labels.jsonl")
        labels.write_text("\n".join(map(json.dumps, rows)))
        small = ["trainer.max_epochs=1", "logger=none", "model.num_heads=4"]
        paths = [f"data.train={labels}", f"paths.run_dir={folder}/run", f"paths.features_dir={folder}/features"]
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
    print(json.dumps(row))


if __name__ == "__main__":
    main()
