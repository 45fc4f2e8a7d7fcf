"""Speed of training through the feature store, relative to the loop of the published code, on UKPConvArg1.

The loop keeps MiniLM frozen but runs it again, in float32, for every batch of 8 pairs: on both responses, padded to the
longest of the batch, and on the prompts, which the gate reads. Everything else is equal: 5,000 pairs, token ids, mean
pooling without standardisation, eight linear heads, and a gate with one hidden layer of 128. Training is as in MiCRo
[arXiv 2505.24846]: three epochs, AdamW at 2e-3, 5 % warm-up, 32 pairs per step, entropy 0.5; then a test. Times are
those of whole processes, including the start of Python.

The loop really computes its first epoch and the test of 1,000 pairs. The other epochs would compute the same vectors
again: they use stored vectors and count with the time of the first. MICRO_LIT_DATA must name the folder of the real
data sets. It takes 15 minutes on two cores; `python -m benchmarks.published 100` tries it on 100 pairs.
"""

import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid
from torch.nn.utils.rnn import pad_sequence

from micro_lit.config import Settings, build, compose

NUM_PAIRS, FURTHER_RUNS = 5_000, 5
TESTED = 1_000  # number of test pairs of the loop; ours tests all
RUN_EPOCHS = 1  # epochs that the loop computes; the others use stored vectors and count with the time of these
BATCH_SIZE, STEP_SIZE, EPOCHS, NUM_HEADS = 8, 32, 3, 8
LEARNING_RATE, WARMUP, ENTROPY_WEIGHT = 0.002, 0.05, 0.5


def overrides(num_pairs: int, folder: Path) -> list[str]:
    return [
        "+experiment=ukp_mixture_k8",
        f"data.limit={num_pairs}",
        f"loader.batch_size={STEP_SIZE}",
        f"trainer.max_epochs={EPOCHS}",
        f"model.num_heads={NUM_HEADS}",
        f"model.entropy_weight={ENTROPY_WEIGHT}",
        f"model.warmup={WARMUP}",
        f"model.optimizer.lr={LEARNING_RATE}",
        "backbone.standardise=false",
        f"paths.features_dir={folder / 'features'}",
        f"paths.run_dir={folder / 'run'}",
    ]


def loop(settings: Settings, path: Path) -> None:
    """Trains and tests the published loop, saves the NLL of each test pair to `path`, and prints the training time."""
    from transformers import AutoModel

    data, source = build(settings["data"]).load(settings["seed"]), build(settings["backbone"])
    tokens = source.tokenizer()(data.texts)
    ids_M = tokens.flat_ids.long().split(tokens.lengths_M.tolist())
    backbone = AutoModel.from_pretrained(source.model, dtype=torch.float32).eval()
    width = backbone.config.hidden_size
    torch.manual_seed(settings["seed"])
    head = nn.Linear(width, NUM_HEADS, bias=False)
    gate = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, NUM_HEADS))

    @torch.no_grad()
    def represent(rows_B: Tensor) -> Tensor:
        if known:
            return known[0][rows_B]
        ids_BL = pad_sequence([ids_M[row] for row in rows_B.tolist()], batch_first=True)
        mask_BL = (torch.arange(ids_BL.shape[1]) < tokens.lengths_M[rows_B, None]).long()
        hidden_BLD = backbone(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        return (hidden_BLD * mask_BL[..., None]).sum(dim=1) / mask_BL.sum(dim=1, keepdim=True)

    def judge(triplets_B3: Tensor) -> tuple[Tensor, Tensor]:
        context_B, chosen_B, rejected_B = triplets_B3.unbind(dim=1)
        chosen_BK, rejected_BK = head(represent(torch.cat([chosen_B, rejected_B]))).chunk(2)
        log_weights_BK = log_softmax(gate(represent(context_B)), dim=-1)
        return torch.logsumexp(log_weights_BK + logsigmoid(chosen_BK - rejected_BK), dim=-1), log_weights_BK

    known: list[Tensor] = []
    triplets_N3 = data.split("train").triplets_N3
    total = EPOCHS * math.ceil(len(triplets_N3) / STEP_SIZE)
    rising = max(1, round(WARMUP * total))

    def factor(step: int) -> float:
        return min((step + 1) / rising, 0.5 + 0.5 * math.cos(math.pi * (step - rising) / (total - rising)))

    weights = [*head.parameters(), *gate.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    started = time.perf_counter()
    for epoch in range(EPOCHS):
        if epoch == RUN_EPOCHS:
            seconds = (time.perf_counter() - started) / RUN_EPOCHS
            used = triplets_N3.unique()
            vectors_MD = torch.zeros(len(ids_M), width)
            for rows_B in used.split(2 * BATCH_SIZE):
                vectors_MD[rows_B] = represent(rows_B)
            known.append(vectors_MD)
        for step_B in torch.randperm(len(triplets_N3)).split(STEP_SIZE):
            for rows_B in step_B.split(BATCH_SIZE):
                log_prob_B, log_weights_BK = judge(triplets_N3[rows_B])
                negative_entropy_B = (log_weights_BK.exp() * log_weights_BK).sum(dim=-1)
                ((ENTROPY_WEIGHT * negative_entropy_B - log_prob_B).sum() / len(step_B)).backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    known.clear()
    charged = EPOCHS * seconds - (time.perf_counter() - started)
    with torch.no_grad():
        batches = data.split("test").triplets_N3[:TESTED].split(BATCH_SIZE)
        torch.save(torch.cat([-judge(triplets_B3)[0] for triplets_B3 in batches]), path)
    print(json.dumps({"seconds": EPOCHS * seconds, "charged": charged}))


def ours(settings: Settings) -> tuple[Tensor, float]:
    """Trains and tests our run; returns the NLL of each test pair and the seconds of training."""
    from micro_lit.run.run import Run

    with Run(settings) as run:
        started = time.perf_counter()
        run.fit()
        seconds = time.perf_counter() - started
        run.test()
        with torch.no_grad():
            return -run.model.log_prob(run.model.judge(run.data.split("test"))), seconds


def process(*command: str) -> tuple[str, float]:
    """Runs `python -m command`; returns its output and its wall time in seconds."""
    started = time.perf_counter()
    printed = subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.PIPE, text=True).stdout
    return printed, time.perf_counter() - started


def standard_error(values_N: Tensor) -> float:
    return float(values_N.double().std()) / math.sqrt(len(values_N))


def report(what: str, measured: str, bar: str, met: bool) -> None:
    print(json.dumps({"what": what, "measured": measured, "bar": bar, "met": met}), flush=True)


def main(num_pairs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ("micro_lit.train", *overrides(num_pairs, folder))
        _, first = process(*command)
        further = statistics.median(process(*command)[1] for _ in range(FURTHER_RUNS))
        with contextlib.redirect_stdout(io.StringIO()):
            our_nll_N, our_training = ours(compose("train", overrides(num_pairs, folder)))
        printed, theirs = process("benchmarks.published", str(num_pairs), name)
        their_nll_N, loop_says = torch.load(folder / "nll.pt", weights_only=True), json.loads(printed)
        theirs, their_training = theirs + loop_says["charged"], loop_says["seconds"]
    for what, our_seconds, seconds, bar in (
        (f"{num_pairs:,} UKP pairs, three epochs: first run, encoding included, against the loop", first, theirs, 5),
        ("a further run on the same store, start of Python included, against the loop", further, theirs, 100),
        ("its training alone, against the loop's", our_training, their_training, 100),
    ):
        ratio = seconds / our_seconds
        report(what, f"{ratio:.0f} x ({our_seconds:.1f} s, {seconds:.0f} s)", f"at least {bar} x", ratio >= bar)
    our_nll_N = our_nll_N[: len(their_nll_N)]
    difference_N = our_nll_N - their_nll_N
    means = [float(values_N.mean()) for values_N in (our_nll_N, their_nll_N, difference_N)]
    errors = [standard_error(values_N) for values_N in (our_nll_N, their_nll_N, difference_N)]
    measured = [f"{mean:.4f} ± {error:.4f}" for mean, error in zip(means, errors, strict=True)]
    report(
        "test NLL of the run, of the loop, and their difference pair by pair (± one se)",
        ", ".join(measured),
        "within 2 se of any",
        abs(means[2]) <= 2 * max(errors),
    )


if __name__ == "__main__":
    size, *folder = sys.argv[1:] or [NUM_PAIRS]
    if folder:
        loop(compose("train", overrides(size, Path(*folder))), Path(*folder) / "nll.pt")
    elif Path(os.environ.get("MICRO_LIT_DATA", "data"), "ukp_convarg1").is_dir():
        main(int(size))
    else:
        print("benchmarks.published: skipped; set MICRO_LIT_DATA to the folder of the real sets", file=sys.stderr)
