"""Mixtures of data sets, by sizes or by weights."""

from collections.abc import Mapping

import numpy as np

from micro_lit.data.columns import joined
from micro_lit.data.leaks import LEAKS
from micro_lit.data.pairs import PreferenceData, from_columns
from micro_lit.data.sources import TRAIN, PairFiles, with_leak_note
from micro_lit.errors import UserError


class Mixture:
    """Mixes several data sets by sizes or weights.

    Training rows are drawn without replacement; a set with too few rows is repeated. The draw depends only on the seed.
    All validation and test rows of all sets are kept.

    Args:
        sets: name -> set.
        sizes: number of training rows from each set, null for all; either this or `weights` and `size`.
        weights: share of each set among the training rows; normalised to sum to one.
        size: total number of training rows.
    """

    def __init__(
        self,
        sets: Mapping[str, PairFiles],
        sizes: Mapping[str, int | None] | None = None,
        weights: Mapping[str, float] | None = None,
        size: int | None = None,
    ) -> None:
        self.sets = dict(sets)
        if (sizes is None) == (weights is None) or (weights is None) != (size is None):
            raise UserError("data: give either sizes (rows per set), or weights and the total size")
        shares = sizes if weights is None else weights
        numbers = [1 if share is None and weights is None else share for share in shares.values()]
        if set(shares) != set(self.sets) or min(numbers) < 0 or sum(numbers) <= 0:
            raise UserError(
                f"data: sizes or weights must name {', '.join(self.sets)} and be at least 0; they are {dict(shares)}"
            )
        self.sizes = dict(sizes) if weights is None else _apportion(weights, size)

    def load(self, seed: int) -> PreferenceData:
        parts, splits, sets, counts = [], [], [], {}
        for number, (name, source) in enumerate(self.sets.items()):
            columns, split_N, counts[name] = source.columns(seed)
            generator = np.random.default_rng([seed, number])
            train = np.flatnonzero(split_N == TRAIN)
            wanted = len(train) if self.sizes[name] is None else self.sizes[name]
            rows = np.concatenate([train[_cycle(len(train), wanted, generator)], np.flatnonzero(split_N != TRAIN)])
            parts.append(columns.take(rows))
            splits.append(split_N[rows])
            sets.append(np.full(len(rows), number, dtype=np.int64))
        data = from_columns(joined(parts), np.concatenate(splits), counts, np.concatenate(sets))
        strictest = min((source.leak for source in self.sets.values()), key=LEAKS.index)
        return with_leak_note(" + ".join(self.sets), data, strictest)


def _apportion(weights: Mapping[str, float], size: int) -> dict[str, int]:
    """Integers that sum to `size`, proportional to the weights (largest remainder method)."""
    exact = {name: size * weight / sum(weights.values()) for name, weight in weights.items()}
    sizes = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: sizes[name] - exact[name])
    for name in by_remainder[: size - sum(sizes.values())]:
        sizes[name] += 1
    return sizes


def _cycle(num_rows: int, wanted: int, generator: np.random.Generator) -> list[int]:
    """`wanted` rows out of `num_rows`: concatenated random permutations, cut to length."""
    passes = -(-wanted // num_rows)
    return [row for _ in range(passes) for row in generator.permutation(num_rows).tolist()][:wanted]
