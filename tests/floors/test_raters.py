"""Tests of `micro_lit.floors.raters`."""

from itertools import combinations
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.special import digamma, entr, expit
from scipy.stats import binom

from micro_lit.floors import raters
from micro_lit.floors.raters import BOUNDS, MOST, RATER_FLOORS

GRID_G = (1.0 - np.linspace(0.0, 1.0, 20_001) ** 2) / 4.0


def entropy(share):
    return entr(share) + entr(1.0 - share)


def curves(variance):
    """h(p) and max(p, 1-p) of v = p(1-p), each twice: for its lower and its upper bound."""
    gap = np.sqrt(np.maximum(1.0 - 4.0 * variance, 0.0))
    minority = 2.0 * variance / (1.0 + gap)
    return np.stack([entropy(minority), entropy(minority), 1.0 - minority, 1.0 - minority])


SIDE_K1 = np.array([[1.0], [-1.0], [1.0], [-1.0]])  # +1 where the polynomial must lie below


def drawn(share_P, count_P, seed):
    """Wins and losses of independent raters."""
    wins_P = np.random.default_rng(seed).binomial(count_P, share_P)
    return wins_P, count_P - wins_P


def votes_of(share_P, count_P, seed=0, rater_N=None):
    """The same as `Votes`, in a random order of rows."""
    generator = np.random.default_rng(seed)
    pair_N = generator.permutation(np.repeat(np.arange(len(count_P)), count_P))
    return raters.gather(pair_N, generator.random(len(pair_N)) < share_P[pair_N], rater_N)


def crowd(seed, num_raters=60, num_pairs=150, taste=0.0, votes=6):
    """Raters who answer every question with a common bias of their own, times `taste`; each pair asks some of them."""
    generator = np.random.default_rng(seed)
    rater_N = np.concatenate([generator.choice(num_raters, votes, replace=False) for _ in range(num_pairs)])
    pair_N = np.repeat(np.arange(num_pairs), votes)
    margin_N = generator.normal(size=num_pairs)[pair_N] + taste * generator.normal(size=num_raters)[rater_N]
    return pair_N, generator.random(len(pair_N)) < expit(margin_N), rater_N


def means(wins_P, losses_P):
    terms = raters.floor_terms(wins_P, losses_P)
    return {name: raters.weighted_mean(terms[name], wins_P + losses_P) for name in RATER_FLOORS}


# The estimates of one pair


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.8])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 9])
def test_moments_of_a_pair_are_unbiased(n, share):
    """By the exact distribution of the wins."""
    wins_P = np.arange(n + 1)
    mass_P = binom.pmf(wins_P, n, share)
    brier_P = raters.floor_terms(wins_P, n - wins_P)["brier"]
    assert mass_P @ brier_P == pytest.approx(share * (1 - share), abs=1e-14)
    values = (values_P[:, None].astype(float) for values_P in (wins_P, n - wins_P, np.full_like(wins_P, n)))
    wins_P1, losses_P1, count_P1 = values
    found = raters._floor_estimate(wins_P1, wins_P1, losses_P1, losses_P1, count_P1, count_P1)
    expected = (share * (1 - share)) ** 2 if n >= 4 else 0.0
    assert mass_P @ found.second[:, 0] == pytest.approx(expected, abs=1e-14)
    assert found.two.all()
    assert (found.four == (n >= 4)).all()


def test_terms_by_hand():
    """Three pairs, a thousand times: votes 2:0, 1:2 and 2:2."""
    terms = raters.floor_terms(np.tile([2, 1, 2], 1000), np.tile([0, 2, 2], 1000))
    assert list(terms) == list(RATER_FLOORS)
    terms = {name: terms_P[:3] for name, terms_P in terms.items()}
    assert terms["brier"] == pytest.approx([0.0, 1 / 3, 1 / 3])
    assert terms["agreement"] == pytest.approx([1.0, 1 / 3, 1 / 3])
    assert terms["nll_plug_in"] == pytest.approx([0.0, entropy(1 / 3) + 1 / 6, np.log(2) + 1 / 8])
    assert terms["nll_lower"][:2] == pytest.approx([0.0, 4 * np.log(2) / 3])
    assert terms["accuracy_lower"][:2] == pytest.approx([1.0, 1 / 3])
    # The tangents at the mean v̂ of the first two pairs, (0·2 + 1/3·3)/5 = 1/5.
    gap = np.sqrt(1 / 5)
    slope = 2 * np.arctanh(gap) / gap
    assert terms["nll_upper"][:2] == pytest.approx(entropy((1 - gap) / 2) + slope * np.array([-1 / 5, 1 / 3 - 1 / 5]))
    assert terms["accuracy_upper"][:2] == pytest.approx((1 + gap) / 2 - np.array([-1 / 5, 1 / 3 - 1 / 5]) / gap)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=7, max_size=7).filter(lambda c: sum(map(bool, c)) >= 2), st.integers(1, 6))
def test_weighted_votes_are_compared_between_different_raters_only(weights, wins):
    """Against sums over all pairs and foursomes of raters, each weighing the product of its raters' weights."""
    weight_R, win_R = np.array(weights, dtype=float), np.arange(7) < wins

    def mean(size):
        groups = [list(group) for group in combinations(range(7), size)]
        # v is half the chance that two raters disagree, v² a sixth of the chance that four are split evenly.
        split = [(win_R[group].sum() == size / 2) / (2 if size == 2 else 6) for group in groups]
        mass = np.array([prod(weight_R[group]) for group in groups])
        return mass @ split / mass.sum() if mass.sum() else 0.0

    sums = [(side * weight_R**power).sum() for side in (win_R, ~win_R) for power in (1, 2)]
    found = raters._floor_estimate(
        *(np.array([[value]]) for value in (*sums, (weight_R**3).sum(), (weight_R**4).sum()))
    )
    assert found.first.item() == pytest.approx(mean(2), abs=1e-12)
    assert found.second.item() == pytest.approx(mean(4), abs=1e-12)
    assert found.two.item()
    assert found.four.item() == (np.count_nonzero(weight_R) >= 4)


# The polynomials


@given(st.floats(1e-6, MOST - 1e-6), st.floats(0.0, 1.0), st.booleans(), st.sampled_from([1e-4, 1e-3, 0.02, 0.1]))
def test_polynomials_enclose_entropy_and_ceiling_everywhere(first, spread, parabolas, margin):
    second = first**2 + spread * (first * MOST - first**2)
    polynomials_K3 = raters.bounds(first, second if parabolas else None, margin)
    scale = np.abs(polynomials_K3).max()
    distance_KG = SIDE_K1 * (curves(GRID_G) - polynomials_K3 @ np.stack([GRID_G**0, GRID_G, GRID_G**2]))
    assert distance_KG.min() >= -1e-12 * scale


@pytest.mark.parametrize("second", [None, 0.0112, 0.015, 0.022])
def test_polynomials_are_the_sharpest_that_a_linear_programme_finds(second):
    first, grid_G = 0.1, GRID_G[::10]
    mean_3 = np.array([1.0, first, second or 0.0])
    powers_G3 = np.stack([grid_G**0, grid_G, grid_G**2], axis=1)
    limits = [(None, None), (None, None), (None, None) if second else (0.0, 0.0)]
    for row_3, side, curve_G in zip(raters.bounds(first, second), SIDE_K1[:, 0], curves(grid_G), strict=True):
        best = linprog(-side * mean_3, side * powers_G3, side * curve_G, bounds=limits)
        assert best.status == 0
        assert row_3 @ mean_3 == pytest.approx(-side * best.fun, abs=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_parabolas_are_tighter_than_lines(seed):
    variance_P = np.random.default_rng(seed).beta(1, 1, size=5) / 4
    mean_3 = [1.0, variance_P.mean(), (variance_P**2).mean()]
    lines_K, parabolas_K = (raters.bounds(mean_3[1], second) @ mean_3 for second in (None, mean_3[2]))
    truth_K = curves(variance_P).mean(axis=1)
    side_K = SIDE_K1[:, 0]
    assert (side_K * lines_K <= side_K * parabolas_K + 1e-12).all()
    assert (side_K * parabolas_K <= side_K * truth_K + 1e-12).all()


# Floors of simulated raters


@pytest.mark.parametrize("shape", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("votes", [2, 3, 4, 7, 40])
def test_bounds_enclose_the_truth(votes, shape):
    share_P = np.random.default_rng(1).beta(shape, shape, size=4000)
    found = means(*drawn(share_P, np.full(4000, votes), seed=2))
    truth = curves(share_P * (1 - share_P)).mean(axis=1)
    assert abs(found["brier"].value - (share_P * (1 - share_P)).mean()) < 4 * found["brier"].se
    for name, side, value in zip(BOUNDS, SIDE_K1[:, 0], truth, strict=True):
        assert side * (value - found[name].value) > -4 * found[name].se
    width = found["nll_upper"].value - found["nll_lower"].value
    assert 0 < width < (0.05 if votes >= 4 else 0.3)


def test_rows_weigh_equally_whatever_the_votes_of_a_pair():
    """Unanimous pairs of 12 votes, split ones of 3: means over votes, not over pairs."""
    count_P = np.tile([12, 3], 5000)
    share_P = np.tile([1.0, 0.5], 5000)
    found = means(*drawn(share_P, count_P, seed=3))
    assert found["brier"].value == pytest.approx(0.25 * 3 / 15, abs=0.002)
    assert found["nll_upper"].value == pytest.approx(np.log(2) * 3 / 15, abs=0.01)
    assert found["accuracy_upper"].value == pytest.approx(1 - 0.5 * 3 / 15, abs=0.02)


def test_plug_in_is_less_biased_than_the_raw_one_and_right_with_many_votes():
    share_P = np.random.default_rng(4).beta(1, 1, size=4000)
    truth = entropy(share_P).mean()
    for votes in (4, 200):
        wins_P, losses_P = drawn(share_P, np.full(4000, votes), seed=5)
        plug_in, raw = means(wins_P, losses_P)["nll_plug_in"].value, entropy(wins_P / votes).mean()
        assert raw < plug_in
        assert abs(plug_in - truth) < abs(raw - truth)
    assert plug_in == pytest.approx(truth, abs=0.003 + 3 * entropy(share_P).std() / np.sqrt(4000))


@pytest.mark.parametrize("votes", [2, 3, 6])
def test_unanimous_raters(votes):
    wins_P = np.tile([0, votes], 60)
    expected = {name: 1.0 if name.startswith(("agreement", "accuracy")) else 0.0 for name in RATER_FLOORS}
    for name, (value, se) in means(wins_P, votes - wins_P).items():
        assert value == pytest.approx(expected[name], abs=1e-6)
        assert se == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("votes", "slack"), [(2, 0.08), (4, 0.06), (20, 0.03)])
def test_coins(votes, slack):
    """The upper accuracy nears 1/2 slowly: it is 1/2 + √(1/4 - v), and v has noise."""
    wins_P, losses_P = drawn(np.full(3000, 0.5), np.full(3000, votes), seed=6)
    found = means(wins_P, losses_P)
    for name, expected in {"agreement": 0.5, "brier": 0.25, "nll_lower": np.log(2), "nll_upper": np.log(2)}.items():
        assert found[name].value == pytest.approx(expected, abs=4 * found[name].se + 1e-3)
    assert found["accuracy_lower"].value == pytest.approx(0.5, abs=4 * found["accuracy_lower"].se + 1e-3)
    assert 0.5 - 1e-9 <= found["accuracy_upper"].value <= 0.5 + slack
    assert found["accuracy_upper"].se < 0.055
    assert found["nll_upper"].value <= np.log(2) + 1e-12


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda c: sum(c) >= 2), min_size=1, max_size=8))
def test_bounds_are_ordered_and_possible_whatever_the_votes(outcomes):
    """Few votes give impossible means, such as a v̂ of 1/2; the bounds are then those of the nearest possible ones."""
    found = means(*np.array(outcomes).T)
    assert np.isfinite(list(found.values())).all()
    assert -1e-9 <= found["nll_lower"].value <= found["nll_upper"].value + 1e-9
    assert 0.5 - 1e-9 <= found["accuracy_lower"].value <= found["accuracy_upper"].value + 1e-9
    assert found["nll_lower"].value <= np.log(2) + 1e-9
    assert found["accuracy_lower"].value <= 1 + 1e-9


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_which_response_is_first_and_the_order_of_pairs_do_not_matter(seed):
    generator = np.random.default_rng(seed)
    count_P = generator.integers(2, 8, size=20)
    wins_P, losses_P = drawn(generator.random(20), count_P, seed)
    terms = raters.floor_terms(wins_P, losses_P)
    order_P, swapped_P = generator.permutation(20), generator.random(20) < 0.5
    others = raters.floor_terms(
        np.where(swapped_P, losses_P, wins_P)[order_P], np.where(swapped_P, wins_P, losses_P)[order_P]
    )
    for name in RATER_FLOORS:
        np.testing.assert_allclose(others[name], terms[name][order_P], atol=1e-10)


def test_a_floor_needs_two_votes_a_pair():
    with pytest.raises(ValueError, match=r"pair 1 has 1 vote\(s\).*leave such pairs out"):
        raters.floor_terms(np.array([2, 1, 0]), np.array([0, 0, 0]))


# Comparison with a model


def test_standard_error_is_that_of_a_mean_when_pairs_weigh_the_same():
    terms_P = np.random.default_rng(7).normal(size=50)
    value, se = raters.weighted_mean(terms_P, np.full(50, 3))
    assert value == pytest.approx(terms_P.mean())
    assert se == pytest.approx(terms_P.std(ddof=1) / np.sqrt(50))


def test_excess_of_the_truth_is_nothing_and_of_a_coin_what_it_should_be():
    generator = np.random.default_rng(8)
    share_P, count_P = generator.beta(1, 1, size=5000), generator.integers(2, 9, size=5000)
    wins_P, losses_P = drawn(share_P, count_P, seed=9)
    floor_P = raters.floor_terms(wins_P, losses_P)["brier"]

    def brier(predicted_P):
        return wins_P * (1 - predicted_P) ** 2 + losses_P * predicted_P**2

    truth, coin = (raters.excess(brier(predicted_P), floor_P, count_P) for predicted_P in (share_P, 0.5 + 0 * share_P))
    assert abs(truth.value) < 3 * truth.se
    assert abs(coin.value - count_P @ (share_P - 0.5) ** 2 / count_P.sum()) < 3 * coin.se
    # The luck of the labels is common to score and floor.
    apart = np.hypot(*(raters.weighted_mean(terms_P, count_P).se for terms_P in (brier(share_P) / count_P, floor_P)))
    assert truth.se < 0.7 * apart


# Votes


def test_gather_counts_what_it_leaves_out():
    """Pair 40 has raters 7 and 9 (7 twice), pair 3 one rater (twice), -1 is unknown, pair 8 two unnamed raters."""
    pair_N = np.array([40, 3, 40, -1, 40, 3, 8, -1, 8])
    rater_N = np.array([7, 7, 7, 7, 9, 7, -1, 5, -1])
    first_wins_N = np.array([1, 1, 0, 1, 0, 1, 1, 1, 1])
    votes = raters.gather(pair_N, first_wins_N, rater_N)
    assert (votes.rows, votes.single, votes.repeated) == (9, 4, 1)
    assert votes.row_N.tolist() == [0, 4, 6, 8]
    assert votes.pair_N.tolist() == [1, 1, 0, 0]
    assert votes.first_wins_N.tolist() == [True, False, True, True]
    assert len(set(votes.rater_N.tolist())) == 4
    floors = raters.rater_floors(votes, replicates=50)
    assert (floors.rows, floors.pairs, floors.raters, floors.raters_per_pair) == (4, 2, 4, 2.0)
    assert floors.covered == pytest.approx(5 / 9)
    assert floors.floors["brier"].value == pytest.approx(0.25)


@pytest.mark.parametrize("rater_N", [None, np.full(4, -1)])
def test_unnamed_raters_are_all_different(rater_N):
    votes = raters.gather(np.array([5, 5, 5, 6]), np.array([True, False, True, True]), rater_N)
    assert votes.rater_N is None
    assert (votes.rows, votes.single, votes.repeated) == (4, 1, 0)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_codes_and_order_of_votes_do_not_matter(seed):
    generator = np.random.default_rng(seed)
    pair_N, first_wins_N, rater_N = crowd(seed, num_raters=12, num_pairs=15)
    order_N, pair_codes, rater_codes = generator.permutation(90), generator.permutation(99), generator.permutation(99)
    found = []
    for votes in (
        raters.gather(pair_N, first_wins_N, rater_N),
        raters.gather(pair_codes[pair_N][order_N], first_wins_N[order_N], 1000 * rater_codes[rater_N][order_N]),
    ):
        floors = raters.rater_floors(votes, replicates=20)
        found.append([floors.raters, *(value for interval in floors.floors.values() for value in interval[:2])])
    assert found[0] == pytest.approx(found[1], abs=1e-9)


def test_votes_that_say_nothing_are_refused():
    two = np.array([0, 1])
    with pytest.raises(ValueError, match=r"every pair has one rater; .* check the columns"):
        raters.gather(two, two == 0, two)
    with pytest.raises(ValueError, match="every pair has one rater"):
        raters.gather(np.array([0, 0, -1, -1]), np.ones(4, dtype=bool), np.array([3, 3, 1, 2]))
    with pytest.raises(ValueError, match=r"lengths \[2, 2, 1\]; give one of each"):
        raters.gather(two, two == 0, np.array([0]))
    with pytest.raises(ValueError, match=r"lengths \[2, 1\]"):
        raters.gather(two, np.array([True]))
    with pytest.raises(ValueError, match="there are no votes"):
        raters.gather(two[:0], two[:0] == 0)


# Intervals


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Pairs and raters are new each time. For a Beta(a, a) share E[v] = a / (4a + 2), E[h] = ψ(2a + 1) - ψ(a + 1)."""
    a = 0.7
    brier, nll = a / (4 * a + 2), digamma(2 * a + 1) - digamma(a + 1)
    covered = []
    for seed in range(150):
        generator = np.random.default_rng(seed)
        votes = votes_of(generator.beta(a, a, size=120), generator.integers(2, 7, size=120), seed)
        floors = raters.rater_floors(votes, replicates=200).floors
        low, high = floors["brier"].over_pairs
        lower, upper = floors["nll_lower"].over_pairs[0], floors["nll_upper"].over_pairs[1]
        covered.append([low <= brier <= high, lower <= nll <= upper])
    brier_share, nll_share = np.mean(covered, axis=0)
    assert 0.88 <= brier_share <= 0.99
    assert nll_share >= 0.92


def test_pair_interval_has_the_width_of_the_standard_error():
    votes = votes_of(np.random.default_rng(11).beta(1, 1, size=400), np.tile([2, 3, 5, 8], 100))
    for interval in raters.rater_floors(votes).floors.values():
        low, high = interval.over_pairs
        assert low < interval.value < high
        assert (high - low) / (2 * 1.96 * interval.se) == pytest.approx(1.0, abs=0.12)


def test_rater_interval_of_independent_raters_is_wider_but_not_by_much():
    """Nobody judges two pairs, so the pair interval is right; drawing raters adds the noise of raters lost."""
    count_P = np.tile([2, 3, 5, 8], 100)
    rater_N = np.arange(count_P.sum())
    floors = raters.rater_floors(votes_of(np.random.default_rng(12).beta(1, 1, size=400), count_P, 13, rater_N)).floors
    ratios = {name: np.ptp(interval.over_raters) / np.ptp(interval.over_pairs) for name, interval in floors.items()}
    for interval in floors.values():
        assert np.mean(interval.over_raters) == pytest.approx(interval.value, abs=np.ptp(interval.over_raters) / 10)
    assert 0.8 < ratios.pop("nll_plug_in") < 1.2
    assert min(ratios.values()) > 1.0
    assert ratios["brier"] < 1.6
    assert max(ratios.values()) < 3.0


def test_raters_lost_in_a_replicate_do_not_tilt_the_floors():
    """Pairs of few votes disagree, pairs of many agree: replicates lose the former more often, and make up for it."""
    count_P = np.tile([2, 4, 12], 200)
    votes = votes_of(np.tile([0.5, 0.4, 0.05], 200), count_P, 14, np.arange(count_P.sum()) % 1500)
    floors = raters.rater_floors(votes, replicates=1)
    replicates = raters._resample_raters(votes, 400, np.random.default_rng(15))
    for name in set(RATER_FLOORS) - {"nll_plug_in"}:
        value_B = replicates[name]
        assert value_B.mean() == pytest.approx(floors.floors[name].value, abs=5 * value_B.std() / np.sqrt(400))


def test_one_rater_on_every_pair_widens_the_rater_interval():
    """Each pair is judged by a rater of its own and by one who judges them all, and answers by a side of its own."""
    generator = np.random.default_rng(16)
    pair_N = np.repeat(np.arange(300), 5)
    rater_N = np.where(np.arange(1500) % 5 == 0, 0, generator.integers(1, 4, size=1500) * 500 + np.arange(1500) % 5)
    strange_N = rater_N == 0
    first_wins_N = np.where(strange_N, False, generator.random(1500) < 0.95)
    votes = raters.gather(pair_N, first_wins_N, rater_N)
    for name in ("brier", "nll_lower", "accuracy_upper"):
        interval = raters.rater_floors(votes, replicates=300).floors[name]
        assert np.ptp(interval.over_raters) > 2 * np.ptp(interval.over_pairs)


def test_intervals_repeat_with_the_seed_and_not_with_the_chunks(monkeypatch):
    votes = raters.gather(*crowd(17, taste=1.0))
    first, again, other = (raters.rater_floors(votes, 60, seed).floors for seed in (0, 0, 1))
    assert first == again
    assert first != other
    monkeypatch.setattr(raters, "CHUNK", 1000)
    for name, interval in raters.rater_floors(votes, 60).floors.items():
        assert np.concatenate(interval[2:]) == pytest.approx(np.concatenate(first[name][2:]), abs=1e-12)


def test_replicates_without_a_pair_of_raters_are_left_out():
    """With two raters every second replicate draws one of them twice."""
    votes = raters.gather(np.repeat(np.arange(4), 2), np.arange(8) % 3 == 0, np.tile([0, 1], 4))
    replicates = raters._resample_raters(votes, 400, np.random.default_rng(18))
    assert 0.4 < np.isnan(replicates["brier"]).mean() < 0.6
    interval = raters.rater_floors(votes).floors["brier"]
    assert interval.over_raters == pytest.approx((interval.value, interval.value))
    assert raters._percentile_interval(0.1, np.array([np.nan])) is None


# Warnings


def test_a_good_design_has_no_warning():
    votes = votes_of(np.tile([0.2, 0.7], 60), np.full(120, 60), 19, np.arange(7200) % 200)
    assert raters.rater_floors(votes, 20).warnings == ()


def test_warnings_say_what_to_believe():
    votes = raters.gather(np.array([0, 0, 1, 1, 2, 3, 4, 5, 6]), np.arange(9) % 2 == 0)
    assert raters.rater_floors(votes, 20).warnings == (
        "Pairs have 2.0 raters on average: NLL and accuracy bounds are wide, rely on Brier.",
        "The floors describe the 44% of the rows whose pairs have two raters: compare models on those.",
        "Only 2 pairs have two raters: read the intervals, not the values.",
        "Raters are unnamed: every vote is taken as a rater of its own, and there is no interval over raters.",
    )
    assert raters.rater_floors(votes, 20).floors["brier"].over_raters is None
    votes = raters.gather(*crowd(20, num_raters=8, votes=4))
    sentences = raters.rater_floors(votes, 20).warnings
    assert "There are only 8 raters: the floors describe them, and the interval over raters is rough." in sentences
    assert any("believe the bounds" in sentence for sentence in sentences)


def test_raters_who_agree_less_than_chance_are_no_crowd():
    pair_N = np.arange(400) // 2
    found = raters.rater_floors(raters.gather(pair_N, np.arange(400) % 2 == 0), replicates=20)
    assert found.warnings[0].startswith("Raters agree less often than chance")
    assert not raters.contrary(0.47, 400)
    assert raters.contrary(0.44, 400)
