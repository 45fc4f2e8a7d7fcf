"""CPU time, wall time and memory of each adaptation method for 10,000 users with 50 labels and 64 heads."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.processes import alone, memory
from micro_lit import adapt

NUM_USERS, NUM_LABELS, NUM_HEADS, NUM_FEATURES = 10_000, 50, 64, 16
METHODS = {
    "posterior": adapt.posterior,
    "hyre": adapt.hyre,
    "hedge": adapt.hedge,
    "best_head_oracle": adapt.best_head_oracle,
    "few_shot_logits": adapt.few_shot_logits,
    "few_shot_logits, link reward": partial(adapt.few_shot_logits, link="reward"),
    "mixture_em": adapt.mixture_em,
}
ONLINE = "OnlineHedge, a label at a time"


def labels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Margins, users and a uniform prior. For each label a user draws one of three heads of their own."""
    generator = np.random.default_rng(0)
    user_N = np.repeat(np.arange(NUM_USERS), NUM_LABELS)
    rewards_KD = generator.normal(size=(NUM_HEADS, NUM_FEATURES)) * 2.0 / NUM_FEATURES**0.5
    difference_ND = generator.normal(size=(len(user_N), NUM_FEATURES))
    heads_U3 = generator.integers(NUM_HEADS, size=(NUM_USERS, 3))
    head_N = heads_U3[user_N, generator.integers(3, size=len(user_N))]
    chance_N = 1.0 / (1.0 + np.exp(-(difference_ND * rewards_KD[head_N]).sum(axis=1)))
    difference_ND *= np.where(generator.random(len(user_N)) < chance_N, 1.0, -1.0)[:, None]
    return difference_ND @ rewards_KD.T, user_N, np.full((NUM_USERS, NUM_HEADS), 1 / NUM_HEADS)


def online(margins_NK: np.ndarray, user_N: np.ndarray, prior_UK: np.ndarray) -> None:
    hedge = adapt.OnlineHedge()
    state = hedge.start(prior_UK)
    for step in range(NUM_LABELS):
        hedge.weights(state)
        state = hedge.update(state, margins_NK[step::NUM_LABELS], user_N[step::NUM_LABELS])


def measure(method: Callable) -> None:
    start = memory("VmRSS")
    given = labels()
    clock, processor = time.perf_counter(), time.process_time()
    method(*given)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    gigabytes = (memory("VmHWM") - start) / 1e9
    print(json.dumps({"clock": clock, "processor": processor, "gigabytes": gigabytes}))


def main() -> None:
    for name in (*METHODS, ONLINE):
        spent = alone("benchmarks.adaptation", name)
        row = {
            "what": f"{name}: 10,000 users, 50 labels, 64 heads",
            "measured": f"{spent['processor']:.2f} s ({spent['clock']:.2f} by the clock), {spent['gigabytes']:.2f} GB",
            "bar": "under 2 s of processor, 1 GB",
            "met": spent["processor"] < 2 and spent["gigabytes"] < 1,
        }
        print(json.dumps(row))


if __name__ == "__main__":
    measure({**METHODS, ONLINE: online}[sys.argv[1]]) if len(sys.argv) > 1 else main()
