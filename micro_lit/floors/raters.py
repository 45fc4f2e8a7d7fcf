"""Irreducible error of real data, estimated from several raters of the same pairs, for predictors without user input.

Let p be the fraction of all raters who prefer the first response of a pair, and v = p(1 - p). A predictor that does not
know the person has a Brier score (y - p̂)² of at least E[v], a negative log-likelihood (nats) of at least E[h(p)], and
an accuracy of at most E[max(p, 1 - p)]. p is unknown, but two raters disagree with probability 2v, so E[v] has an
unbiased estimate. The other two have none; they are enclosed between bounds that have one. Means are over votes, so
that they are comparable with a model's scores on the same rows. The raters of a pair are assumed to be a random sample
of one population.

All functions are pure, in NumPy float64. Dimension letters: N votes, P pairs, R raters, B replicates of a bootstrap
(b in a chunk), K bounds, F floors.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import entr
from scipy.stats import binom

from micro_lit.floors.estimates import Array, FloorEstimate

Integers = NDArray[np.integer]

BOUNDS = ("nll_lower", "nll_upper", "accuracy_lower", "accuracy_upper")
RATER_FLOORS = ("agreement", "brier", "nll_lower", "nll_plug_in", "nll_upper", "accuracy_lower", "accuracy_upper")

MOST = 0.25  # the largest v, at p = 1/2
TINY = 1e-9  # minimum distance of a mean of v from 0 and 1/4
MARGIN = 1e-4  # minimum distance from 1/4 of the point at which a polynomial touches
DRAWN = 1.0 - math.exp(-1.0)  # fraction of raters drawn at least once in a bootstrap replicate
CHUNK = 2**20  # values in an array of a bootstrap


class Interval(NamedTuple):
    """A floor, its standard error over pairs, and the 95 % intervals of two bootstraps."""

    value: float
    se: float
    over_pairs: tuple[float, float]
    over_raters: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Votes:
    """Votes on pairs that at least two different raters judged, one vote per rater and pair.

    Of `rows` input votes, `single` are on pairs with one rater, and `repeated` are by a rater who had judged that pair
    before; both are left out. Codes are renumbered from 0 in the order of the input codes. `row_N` is the input index
    of each vote, to select a model's scores of the same votes.
    """

    pair_N: NDArray[np.int64]
    first_wins_N: NDArray[np.bool_]
    rater_N: NDArray[np.int64] | None
    rows: int
    single: int
    repeated: int
    row_N: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RaterFloors:
    """The floors of `RATER_FLOORS` and their votes; `covered` is the share of input rows on pairs with two raters."""

    rows: int
    pairs: int
    raters: int | None
    raters_per_pair: float
    covered: float
    floors: dict[str, Interval]
    warnings: tuple[str, ...]


def gather(pair_N: Integers, first_wins_N: NDArray, rater_N: Integers | None = None) -> Votes:
    """Selects the votes from which floors can be estimated.

    Args:
        pair_N: integer code of the pair, in any range. A negative code is unknown and counts as a single vote.
        first_wins_N: whether the first response was preferred; "first" is the same response in all votes on a pair.
        rater_N: integer code of the rater, in any range. A negative code is an unnamed rater, different from all
            others; without `rater_N` all raters are unnamed.

    Raises:
        ValueError: lengths differ, there are no votes, or no pair has two raters.

    Example:

        >>> votes = gather(np.array([7, 7, 9, 9]), np.array([True, False, True, True]))
        >>> votes.rows, votes.single
        (4, 0)
    """
    rows = len(pair_N)
    lengths = [len(values) for values in (pair_N, first_wins_N, rater_N) if values is not None]
    if len(set(lengths)) > 1:
        raise ValueError(f"pairs, votes and raters have lengths {lengths}; give one of each for every vote")
    if rows == 0:
        raise ValueError("there are no votes; give at least one pair that two raters judged")
    named = rater_N is not None and bool((rater_N >= 0).any())
    own_N = -1 - np.arange(rows)
    rater_N = np.where(rater_N >= 0, rater_N, own_N) if named else own_N
    code_N, rater_N = (np.unique(codes_N, return_inverse=True)[1] for codes_N in (pair_N, rater_N))
    first_vote_N = np.unique(code_N * rows + rater_N, return_index=True)[1]
    shared_N = (np.bincount(code_N[first_vote_N]) >= 2)[code_N] & (pair_N >= 0)
    row_N = np.sort(first_vote_N[shared_N[first_vote_N]])
    if len(row_N) == 0:
        raise ValueError(
            "every pair has one rater; floors are learned from pairs that several raters judged: check the columns "
            "that name pairs and raters, or do without these floors"
        )
    single = rows - int(shared_N.sum())
    return Votes(
        pair_N=np.unique(code_N[row_N], return_inverse=True)[1],
        first_wins_N=first_wins_N[row_N].astype(bool),
        rater_N=np.unique(rater_N[row_N], return_inverse=True)[1] if named else None,
        rows=rows,
        single=single,
        repeated=rows - single - len(row_N),
        row_N=row_N,
    )


def floor_terms(wins_P: Integers, losses_P: Integers) -> dict[str, Array]:
    """The terms of all pairs for each of `RATER_FLOORS`; their mean, weighted by the votes of each pair, is the floor.

    With w wins in n votes:

    - agreement, brier: 1 - 2v̂ and v̂ = w(n-w)/(n(n-1)), unbiased.
    - nll_lower, nll_upper, accuracy_lower, accuracy_upper: the polynomials of `bounds`, with v̂ for v and
      w(w-1)(n-w)(n-w-1)/(n(n-1)(n-2)(n-3)) for v², both unbiased: parabolas for pairs with four votes or more, lines
      for the others. If noise gives means that no p can have, the bound is that of the nearest possible means. Choosing
      the polynomials on the same votes causes a bias of order 1/P.
    - nll_plug_in: h(w/n) + (outcomes seen - 1)/(2n) (Miller 1955). Not a bound: h(w/n) is too low (Jensen) and the
      correction assumes many votes; with few votes it is often below nll_lower, which holds. Likewise the majority's
      fraction max(w, n-w)/n overestimates the accuracy, and is not reported.

    Args:
        wins_P: number of raters who preferred the first response.
        losses_P: number of raters who preferred the second response.

    Raises:
        ValueError: a pair has fewer than two votes.
    """
    count_P = wins_P + losses_P
    if (count_P < 2).any():
        pair = int(np.argmax(count_P < 2))
        raise ValueError(f"pair {pair} has {count_P[pair]} vote(s); a floor needs two or more: leave such pairs out")
    wins_P1, losses_P1, count_P1 = (values.astype(np.float64)[:, None] for values in (wins_P, losses_P, count_P))
    estimates = _floor_estimate(wins_P1, wins_P1, losses_P1, losses_P1, count_P1, count_P1)
    terms = _terms(estimates, _polynomials(estimates, count_P))
    return {name: term_P1[:, 0] for name, term_P1 in terms.items()}


def weighted_mean(terms_P: Array, count_P: NDArray) -> FloorEstimate:
    """Σ n s / Σ n for terms s of pairs with n votes; standard error by linearisation, with pairs independent."""
    pairs, rows = len(terms_P), count_P.sum()
    value = count_P @ terms_P / rows
    squares = np.square(count_P * (terms_P - value)).sum() * pairs / max(pairs - 1, 1)
    return FloorEstimate(float(value), float(np.sqrt(squares) / rows))


def excess(scores_P: Array, terms_P: Array, count_P: NDArray) -> FloorEstimate:
    """A model's mean score minus a floor, on the same votes: noise of the labels common to both cancels.

    Args:
        scores_P: the model's scores summed over the votes of each pair (`Votes.row_N`).
        terms_P: the floor's terms.
        count_P: number of votes.
    """
    return weighted_mean(scores_P / count_P - terms_P, count_P)


def rater_floors(votes: Votes, replicates: int = 1000, seed: int = 0) -> RaterFloors:
    """All floors, with percentile intervals of two bootstraps, each centred on the value; polynomials are kept fixed.

    Over pairs: assumes that votes on different pairs are independent. Over raters, if they are named: the votes of a
    rater are drawn together, which includes their dependence. Only different raters of a pair are compared. So a pair
    left with fewer than two of them (four, for parabolas) is dropped from the replicate, and the remaining pairs have
    more weight instead. If raters have few pairs in common this interval is too wide, except for the plug-in.

    Args:
        votes: see `gather`.
        replicates: number of bootstrap replicates.
        seed: seed of the bootstraps.
    """
    rows, pairs = len(votes.pair_N), int(votes.pair_N.max()) + 1
    raters = None if votes.rater_N is None else int(votes.rater_N.max()) + 1
    count_P = np.bincount(votes.pair_N)
    wins_P = np.bincount(votes.pair_N[votes.first_wins_N], minlength=pairs)
    terms = floor_terms(wins_P, count_P - wins_P)
    pair_draws, rater_draws = np.random.default_rng(seed).spawn(2)
    over_pairs = _resample_pairs(terms, count_P, replicates, pair_draws)
    over_raters = {} if raters is None else _resample_raters(votes, replicates, rater_draws)
    floors = {}
    for name in RATER_FLOORS:
        estimate = weighted_mean(terms[name], count_P)
        intervals = (
            _percentile_interval(estimate.value, replicates.get(name)) for replicates in (over_pairs, over_raters)
        )
        floors[name] = Interval(*estimate, *intervals)
    covered = 1.0 - votes.single / votes.rows
    warnings = tuple(_warnings(rows / pairs, pairs, raters, covered, floors))
    return RaterFloors(rows, pairs, raters, rows / pairs, covered, floors, warnings)


def contrary(agreement: float, pairs: int) -> bool:
    """Whether raters agree less than chance, by more than two standard errors: they are no sample of one population.

    Two raters of one population agree with probability p² + (1 - p)² ≥ 1/2. The standard error is that of one fair coin
    per pair.
    """
    return agreement < 0.5 - 1.0 / math.sqrt(pairs)


def _warnings(
    raters_per_pair: float, pairs: int, raters: int | None, covered: float, floors: dict[str, Interval]
) -> Iterator[str]:
    if contrary(floors["agreement"].value, pairs):
        yield (
            "Raters agree less often than chance: the raters of a pair are no sample of one population (a label for "
            "each of several criteria?), and none of these floors holds."
        )
    if raters_per_pair < 3:
        yield f"Pairs have {raters_per_pair:.1f} raters on average: NLL and accuracy bounds are wide, rely on Brier."
    if floors["nll_plug_in"].value < floors["nll_lower"].value:
        yield "The plug-in NLL lies below the lower bound: pairs have too few votes for it, believe the bounds."
    if covered < 0.5:
        yield f"The floors describe the {covered:.0%} of the rows whose pairs have two raters: compare models on those."
    if pairs < 100:
        yield f"Only {pairs} pairs have two raters: read the intervals, not the values."
    if raters is None:
        yield "Raters are unnamed: every vote is taken as a rater of its own, and there is no interval over raters."
    elif raters < 20:
        yield f"There are only {raters} raters: the floors describe them, and the interval over raters is rough."


def _gap(v: float) -> float:
    """|1 - 2p|."""
    return math.sqrt(1.0 - 4.0 * v)


def _entropy(v: float) -> float:
    minority = 2.0 * v / (1.0 + _gap(v))  # (1 - gap)/2 without its rounding error at small v
    return float(entr(minority) + entr(1.0 - minority))


# The functions of v that are bounded, and their slopes inside (0, 1/4); both are concave.
ENTROPY = (_entropy, lambda v: 2.0 * math.atanh(_gap(v)) / _gap(v))
MAJORITY = (lambda v: (1.0 + _gap(v)) / 2.0, lambda v: -1.0 / _gap(v))


def bounds(first: float, second: float | None, margin: float = MARGIN) -> Array:
    """Polynomials a0 + a1 v + a2 v² that enclose h(p) and max(p, 1-p) on [0, 1/4]: one row for each of `BOUNDS`.

    No such polynomial is tighter at these means. Lines are the chord and the tangent at `first`. For a parabola q that
    touches f at x and meets it at an end of [0, 1/4], f(v) - q(v) = f'''(ξ)/6 · (v - end)(v - x)². As h''' > 0, end 0
    gives the lower bound and end 1/4 the upper; max(p, 1-p) has f''' < 0. The tightest has the x for which a
    distribution on x and that end has the two means (Karlin & Studden 1966: principal representations).

    Args:
        first: mean of v, 0 < first < 1/4.
        second: mean of v², first² <= second <= first/4. None: a2 is zero.
        margin: minimum distance from 1/4 of the point at which a polynomial touches max(p, 1-p), whose slope is
            infinite there.
    """

    def chord(curve) -> list[float]:
        low, high = curve[0](0.0), curve[0](MOST)
        return [low, (high - low) / MOST, 0.0]

    def touching(curve, x: float, end: float | None = None) -> list[float]:
        x = min(max(x, TINY), MOST - (margin if curve is MAJORITY else MARGIN))
        value, slope = curve[0](x), curve[1](x)
        bend = 0.0 if end is None else (curve[0](end) - value - slope * (end - x)) / (end - x) ** 2
        return [value - slope * x + bend * x**2, slope - 2.0 * bend * x, bend]

    if second is None:
        return np.array([chord(ENTROPY), touching(ENTROPY, first), chord(MAJORITY), touching(MAJORITY, first)])
    with_0, with_most = second / first, MOST - (MOST**2 - 2.0 * MOST * first + second) / (MOST - first)
    entropy = touching(ENTROPY, with_0, 0.0), touching(ENTROPY, with_most, MOST)
    return np.array([*entropy, touching(MAJORITY, with_most, MOST), touching(MAJORITY, with_0, 0.0)])


class _Estimates(NamedTuple):
    """[P, b] estimates of v, v² and h(p), and whether at least two and four raters are left."""

    first: Array
    second: Array
    plug_in: Array
    two: NDArray[np.bool_]
    four: NDArray[np.bool_]


def _floor_estimate(
    wins: Array, wins2: Array, losses: Array, losses2: Array, votes3: Array, votes4: Array
) -> _Estimates:
    """Computes estimates from power sums Σ c, Σ c², ... of raters' integer weights c; c = 1 gives `floor_terms`.

    The elementary symmetric polynomials e2 and e4 (Newton's identities) weight sets of two and four different raters.
    """
    votes, votes2 = wins + losses, wins2 + losses2
    e2 = (votes**2 - votes2) / 2.0
    e4 = (votes**4 - 6.0 * votes**2 * votes2 + 3.0 * votes2**2 + 8.0 * votes * votes3 - 6.0 * votes4) / 24.0
    two, four = e2 > 0.5, e4 > 0.5
    first = wins * losses / np.where(two, 2.0 * e2, np.inf)
    second = (wins**2 - wins2) * (losses**2 - losses2) / np.where(four, 24.0 * e4, np.inf)
    share = wins / np.maximum(votes, 1.0)
    # Weighted votes contain as much information about the share as (Σ c)² / Σ c² votes of weight one (Kish).
    correction = ((wins > 0) & (losses > 0)) * votes2 / np.maximum(2.0 * votes**2, 1.0)
    return _Estimates(first, second, entr(share) + entr(1.0 - share) + correction, two, four)


def _polynomials(estimates: _Estimates, count_P: Integers) -> Array:
    """[3, K, P, 1] coefficients of each pair's bounds; their mean is the bound at the nearest possible means."""
    coefficients_3KP = np.zeros((3, len(BOUNDS), len(count_P)))
    for parabolas in (False, True):
        chosen_P = (count_P >= 4) == parabolas
        if not chosen_P.any():
            continue
        first, se = weighted_mean(estimates.first[chosen_P, 0], count_P[chosen_P])
        second, _ = weighted_mean(estimates.second[chosen_P, 0], count_P[chosen_P])
        possible = min(max(first, TINY), MOST - TINY)
        possible_second = min(max(second, possible**2), possible * MOST)
        # Closer to 1/4 than the noise of the mean, the steep slope of max(p, 1-p) would only amplify that noise.
        margin = min(max(se, MARGIN), MOST / 2.0)
        coefficients_K3 = bounds(possible, possible_second if parabolas else None, margin)
        coefficients_K3[:, 0] += coefficients_K3[:, 1:] @ [possible - first, possible_second - second]
        coefficients_3KP[:, :, chosen_P] = coefficients_K3.T[:, :, None]
    return coefficients_3KP[..., None]


def _terms(estimates: _Estimates, coefficients_3KP1: Array) -> dict[str, Array]:
    constant, slope, bend = coefficients_3KP1
    terms = dict(zip(BOUNDS, constant + slope * estimates.first + bend * estimates.second, strict=True))
    terms |= {"agreement": 1.0 - 2.0 * estimates.first, "brier": estimates.first, "nll_plug_in": estimates.plug_in}
    return {name: terms[name] for name in RATER_FLOORS}


def _draws(units: int, replicates: int, largest: int, generator: np.random.Generator) -> Iterator[Array]:
    """Yields how often each unit is drawn, [b, units], in chunks such that [b, largest] has about CHUNK values."""
    size = max(1, CHUNK // largest)
    for start in range(0, replicates, size):
        chunk = min(size, replicates - start)
        drawn = generator.integers(units, size=(chunk, units)) + units * np.arange(chunk)[:, None]
        yield np.bincount(drawn.ravel(), minlength=chunk * units).reshape(chunk, units).astype(np.float64)


def _resample_pairs(
    terms: dict[str, Array], count_P: Integers, replicates: int, generator: np.random.Generator
) -> dict[str, Array]:
    """The replicates of each floor, [B]."""
    weighted_PF = np.stack(list(terms.values()), axis=1) * count_P[:, None]
    draws = _draws(len(count_P), replicates, len(count_P), generator)
    means_BF = np.concatenate([(drawn_bP @ weighted_PF) / (drawn_bP @ count_P)[:, None] for drawn_bP in draws])
    return dict(zip(terms, means_BF.T, strict=True))


def _resample_raters(votes: Votes, replicates: int, generator: np.random.Generator) -> dict[str, Array]:
    """The replicates of each floor, [B]; NaN if no pair is left."""
    pairs, raters = int(votes.pair_N.max()) + 1, int(votes.rater_N.max()) + 1
    wins_PR, losses_PR = (
        csr_array((np.ones(side_N.sum()), (votes.pair_N[side_N], votes.rater_N[side_N])), shape=(pairs, raters))
        for side_N in (votes.first_wins_N, ~votes.first_wins_N)
    )
    votes_PR = wins_PR + losses_PR

    def estimate(weight_Rb: Array) -> _Estimates:
        sides = (side_PR @ weight_Rb**power for side_PR in (wins_PR, losses_PR) for power in (1, 2))
        return _floor_estimate(*sides, votes_PR @ weight_Rb**3, votes_PR @ weight_Rb**4)

    count_P = np.bincount(votes.pair_N)
    coefficients_3KP1 = _polynomials(estimate(np.ones((raters, 1))), count_P)
    parabolas_P1, others_P1 = (count_P >= 4)[:, None], (count_P - 1)[:, None]
    # A vote counts if one (three) of the others on its pair are also drawn. Dividing by the probability of that keeps
    # the weight of a pair independent of its number of raters.
    chance_two_P1 = binom.sf(0, others_P1, DRAWN)
    chance_bound_P1 = binom.sf(np.where(parabolas_P1, 2, 0), others_P1, DRAWN)
    chunks = []
    for drawn_bR in _draws(raters, replicates, max(pairs, raters), generator):
        weight_Rb = np.ascontiguousarray(drawn_bR.T)
        found, weight_Pb = estimate(weight_Rb), votes_PR @ weight_Rb
        two_Pb = weight_Pb * found.two / chance_two_P1
        bound_Pb = weight_Pb * np.where(parabolas_P1, found.four, found.two) / chance_bound_P1
        weights = {name: bound_Pb if name in BOUNDS else two_Pb for name in RATER_FLOORS}
        terms = _terms(found, coefficients_3KP1)
        with np.errstate(invalid="ignore"):
            chunks.append({name: (weights[name] * terms[name]).sum(0) / weights[name].sum(0) for name in RATER_FLOORS})
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in RATER_FLOORS}


def _percentile_interval(value: float, replicate_B: Array | None) -> tuple[float, float] | None:
    found_B = None if replicate_B is None else replicate_B[np.isfinite(replicate_B)]
    if found_B is None or len(found_B) == 0:
        return None
    low, high = np.quantile(found_B, [0.025, 0.975]) - found_B.mean() + value
    return float(low), float(high)
