"""Measures the coverage of 95 % intervals on simulated users with different tastes and unequal numbers of rows.

A row is a pair of responses whose difference x has two features, N(0, 1). User u prefers the first response with
probability σ(x·θ_u), θ_u ~ N(μ, τ²). The number of rows per user is log-normal. Two systems have the margins x·a and
x·b; nothing is trained. Three kinds of means:

- rows: over all rows, as in the test of a run.
- users: over the means of each user.
- users x draws: over the means of each user in several draws of the labels, as in a comparison of systems. Each draw
  adds N(0, s²) to a, independently for each user.

Exact values are expectations over user, x, draw and outcome (integrated analytically), over 2^20 Sobol points. Their
error is about 1 % of the smallest standard error. Each interval is compared with the usual one: for independent rows,
with z instead of t, or the percentiles of a bootstrap over users and draws.

`python -m benchmarks coverage` takes some minutes; `--write` also writes benchmarks/coverage.md.

Dimension letters: U users, N rows, R draws, Q quantities, D features, S resamples.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit
from scipy.stats import norm, qmc

from micro_lit.metrics import clustered, crossed

Array = NDArray[np.float64]

TASTE_D, SPREAD = np.array([1.2, 0.6]), 1.0  # μ, τ
SYSTEM_A, SYSTEM_B = np.array([1.0, 0.4]), np.array([0.5, 0.9])
MOVED = 0.4  # s
MEAN_ROWS, SPREAD_OF_ROWS, LEAST_ROWS = 20, 1.0, 2
NUM_DRAWS, RESAMPLES = 5, 300
UNITS = (5, 20, 100, 1000)
SIMULATIONS = 2000
QUANTITIES = ("accuracy", "NLL", "accuracy, a - b", "NLL, a - b")
BAR = (0.93, 0.97)
USUAL = {"rows": "rows as independent", "users": "z for t", "users x draws": "percentiles of a bootstrap"}


def scores(a_N: Array, b_N: Array) -> Array:
    """The four quantities [..., Q], from the margins of both systems for the outcome."""
    right_N, nll_N = (a_N > 0).astype(np.float64), -log_expit(a_N)
    return np.stack([right_N, nll_N, right_N - (b_N > 0), nll_N + log_expit(b_N)], axis=-1)


def exact(moved: float) -> Array:
    """The exact expectations of the four quantities, with standard deviation `moved` of the draws."""
    point_N6 = norm.ppf(qmc.Sobol(6, seed=0).random_base2(20))
    x_ND, taste_ND, draw_ND = point_N6[:, :2], TASTE_D + SPREAD * point_N6[:, 2:4], SYSTEM_A + moved * point_N6[:, 4:]
    first_N1 = expit((x_ND * taste_ND).sum(axis=1))[:, None]
    a_N, b_N = (x_ND * draw_ND).sum(axis=1), x_ND @ SYSTEM_B
    return (first_N1 * scores(a_N, b_N) + (1.0 - first_N1) * scores(-a_N, -b_N)).mean(axis=0)


def draw(num_users: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], Array, Array]:
    """Draws rows: user and feature difference (chosen minus rejected) of each row, and number of rows per user."""
    location = math.log(MEAN_ROWS) - SPREAD_OF_ROWS**2 / 2
    rows_U = np.maximum(LEAST_ROWS, np.rint(generator.lognormal(location, SPREAD_OF_ROWS, num_users))).astype(np.int64)
    user_N = np.repeat(np.arange(num_users), rows_U)
    taste_UD = TASTE_D + SPREAD * generator.standard_normal((num_users, 2))
    x_ND = generator.standard_normal((len(user_N), 2))
    first_N = generator.random(len(user_N)) < expit((x_ND * taste_UD[user_N]).sum(axis=1))
    return user_N, np.where(first_N[:, None], x_ND, -x_ND), rows_U.astype(np.float64)


def sums_by(user_N: NDArray[np.int64], values_NQ: Array, num_users: int) -> Array:
    return np.stack([np.bincount(user_N, column, num_users) for column in values_NQ.T], axis=1)


Ends = tuple[float, float]


def of_rows(num_users: int, generator: np.random.Generator) -> list[tuple[Ends, Ends]]:
    """For each quantity the interval clustered by users, and the usual one."""
    user_N, x_ND, rows_U = draw(num_users, generator)
    values_NQ = scores(x_ND @ SYSTEM_A, x_ND @ SYSTEM_B)
    sums_UQ, squares_Q = sums_by(user_N, values_NQ, num_users), (values_NQ**2).sum(axis=0)
    found = []
    for column, name in enumerate(QUANTITIES):
        mean = clustered(sums_UQ[:, column], rows_U, float(squares_Q[column]), proportion=name == "accuracy")
        reach = 1.96 * values_NQ[:, column].std(ddof=1) / math.sqrt(len(user_N))
        found.append(((mean.low, mean.high), (mean.value - reach, mean.value + reach)))
    return found


def of_users(num_users: int, generator: np.random.Generator) -> list[tuple[Ends, Ends]]:
    user_N, x_ND, rows_U = draw(num_users, generator)
    means_UQ = sums_by(user_N, scores(x_ND @ SYSTEM_A, x_ND @ SYSTEM_B), num_users) / rows_U[:, None]
    found = []
    for column, name in enumerate(QUANTITIES):
        mean_U = means_UQ[:, column]
        mean = clustered(mean_U, np.ones(num_users), float((mean_U**2).sum()), proportion=name == "accuracy")
        found.append(((mean.low, mean.high), (mean.value - 1.96 * mean.se, mean.value + 1.96 * mean.se)))
    return found


def of_draws(num_users: int, generator: np.random.Generator) -> list[tuple[Ends, Ends]]:
    user_N, x_ND, rows_U = draw(num_users, generator)
    system_RUD = SYSTEM_A + MOVED * generator.standard_normal((NUM_DRAWS, num_users, 2))
    b_N = x_ND @ SYSTEM_B
    means_RUQ = np.stack(
        [
            sums_by(user_N, scores((x_ND * own_UD[user_N]).sum(axis=1), b_N), num_users) / rows_U[:, None]
            for own_UD in system_RUD
        ]
    )
    users_SU, draws_SR = (
        generator.multinomial(size, np.full(size, 1.0 / size), RESAMPLES) / size for size in (num_users, NUM_DRAWS)
    )
    resampled_SRQ = np.tensordot(users_SU, means_RUQ, axes=(1, 1))
    resampled_SQ = (resampled_SRQ * draws_SR[:, :, None]).sum(axis=1)
    found = []
    for column, name in enumerate(QUANTITIES):
        ones = np.ones((NUM_DRAWS, num_users, 1))
        mean = crossed(means_RUQ[:, :, column : column + 1], ones, proportion=name == "accuracy")
        low, high = np.percentile(resampled_SQ[:, column], [2.5, 97.5])
        found.append(((mean.low, mean.high), (float(low), float(high))))
    return found


KINDS: dict[str, Callable[[int, np.random.Generator], list[tuple[Ends, Ends]]]] = {
    "rows": of_rows,
    "users": of_users,
    "users x draws": of_draws,
}


def coverage(kind: str, num_users: int, simulations: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """For each quantity the share of simulations in which our interval, and the usual one, cover the exact value."""
    generator = np.random.default_rng([seed, num_users, list(KINDS).index(kind)])
    exact_Q = exact(MOVED if kind == "users x draws" else 0.0)
    hits: Counter[tuple[str, int]] = Counter()
    for _ in range(simulations):
        for name, value, intervals in zip(QUANTITIES, exact_Q, KINDS[kind](num_users, generator), strict=True):
            for which, (low, high) in enumerate(intervals):
                hits[name, which] += bool(low <= value <= high)
    return {name: (hits[name, 0] / simulations, hits[name, 1] / simulations) for name in QUANTITIES}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    given = parser.parse_args()
    lines = []
    for kind in KINDS:
        for num_users in UNITS:
            found = coverage(kind, num_users, given.simulations)
            for name, (own, usual) in found.items():
                row = {
                    "what": f"mean over {kind}, {num_users:,} users: {name}",
                    "measured": f"{own:.1%} ({USUAL[kind]}: {usual:.1%})",
                    "bar": f"{BAR[0]:.0%} to {BAR[1]:.0%} of {given.simulations:,}",
                    "met": BAR[0] <= own <= BAR[1],
                }
                print(json.dumps(row), flush=True)
            cells = (f"{100 * own:.1f} ({100 * usual:.1f})" for own, usual in found.values())
            lines.append(f"| {kind} | {num_users:,} | {' | '.join(cells)} |")
    if given.write:
        names = " | ".join(QUANTITIES)
        usual = "; ".join(f"{kind}: {name}" for kind, name in USUAL.items())
        text = (
            "# Coverage of 95 % intervals\n\n"
            f"`python -m benchmarks coverage --write` writes this table: per cent of {given.simulations:,} simulations "
            f"in which the interval covers the exact value; in brackets, the usual interval ({usual}). The target "
            f"is {100 * BAR[0]:.0f} to {100 * BAR[1]:.0f}. `benchmarks/coverage.py` describes the simulation.\n\n"
            f"| mean over | users | {names} |\n|---|---|{'---|' * len(QUANTITIES)}\n" + "\n".join(lines) + "\n"
        )
        (Path(__file__).parent / "coverage.md").write_text(text)


if __name__ == "__main__":
    main()
