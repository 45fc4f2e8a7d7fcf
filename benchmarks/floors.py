"""Time and memory (pairs included) to compute each floor of a million sampled pairs."""

import json
import sys
import time

import numpy as np
from scipy.special import expit

from benchmarks.processes import alone, memory
from micro_lit import floors

NUM_PAIRS, NUM_GROUPS, NUM_ATTRIBUTES, NUM_TOPICS = 1_000_000, 8, 8, 8
NUM_ITEMS = 3**6
MIXTURE = ("oracle_floor", "marginal_floor", "mutual_information", "pinsker_bound", "variance_bound", "printed_bound")
SINGLE = ("linear_bt", "conditional_bt")


def arguments(name: str, generator: np.random.Generator) -> tuple:
    """Arguments of a floor function: random pairs, and groups with random rewards and random weights per pair."""
    if name in MIXTURE:
        margins_NK = 3.0 * generator.standard_normal((NUM_PAIRS, NUM_GROUPS))
        return generator.dirichlet(np.ones(NUM_GROUPS), size=NUM_PAIRS), expit(margins_NK)
    if name == "linear_bt":
        differences_ND = generator.integers(-2, 3, size=(NUM_PAIRS, NUM_ATTRIBUTES)).astype(np.float64)
        rewards_KD = generator.choice([-3.0, 0.0, 3.0], size=(NUM_GROUPS, NUM_ATTRIBUTES))
        return differences_ND, sum(expit(differences_ND @ reward_D) for reward_D in rewards_KD) / NUM_GROUPS
    topic_N, first_N = (generator.integers(size, size=NUM_PAIRS) for size in (NUM_TOPICS, NUM_ITEMS))
    second_N = (first_N + generator.integers(1, NUM_ITEMS, size=NUM_PAIRS)) % NUM_ITEMS
    rewards_KTI = 3.0 * generator.standard_normal((NUM_GROUPS, NUM_TOPICS, NUM_ITEMS))
    wins_N = sum(expit(reward_TI[topic_N, first_N] - reward_TI[topic_N, second_N]) for reward_TI in rewards_KTI)
    return topic_N, first_N, second_N, wins_N / NUM_GROUPS, NUM_ITEMS


def measure(name: str) -> None:
    start = memory("VmRSS")
    given = arguments(name, np.random.default_rng(0))
    started = time.perf_counter()
    getattr(floors, name)(*given)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "gigabytes": (memory("VmHWM") - start) / 1e9}))


def main() -> None:
    for name in MIXTURE + SINGLE:
        spent = alone("benchmarks.floors", name)
        row = {
            "what": f"{name} of 1,000,000 pairs, with se",
            "measured": f"{spent['seconds']:.2f} s, {spent['gigabytes']:.2f} GB",
            "bar": "under 10 s, 1 GB",
            "met": spent["seconds"] < 10 and spent["gigabytes"] < 1,
        }
        print(json.dumps(row))


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
