"""Tests of `micro_lit.compare.resampling`: against closed forms, and what a resample of clusters must not depend on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_lit.compare import resampling
from micro_lit.compare.resampling import Resampling

Z = 1.959963984540054

seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int, draws: int = 3, rows: int = 40, attributes: int = 3):
    """Attributes, prompts, which rows are judged (some of every attribute in every draw), and scores of two systems."""
    generator = np.random.default_rng(seed)
    attribute_N = generator.permutation(np.arange(rows) % attributes)
    keep_RN = generator.random((draws, rows)) < 0.7
    keep_RN[:, np.unique(attribute_N, return_index=True)[1]] = True
    first_RN, second_RN = generator.normal(size=(2, draws, rows))
    return attribute_N, generator.integers(15, size=rows), keep_RN, first_RN, second_RN


def half_width(interval) -> float:
    return (interval.high - interval.low) / 2


@settings(max_examples=30)
@given(seeds)
def test_a_value_is_the_plain_mean_of_the_attributes_means(seed):
    attribute_N, prompt_N, keep_RN, scores_RN, _ = random_case(seed)
    resampling = Resampling(attribute_N, prompt_N, keep_RN, 100, seed=0)
    found = resampling.summary(scores_RN)
    means_A = [scores_RN[keep_RN & (attribute_N == code)].mean() for code in range(3)]
    assert list(found) == ["mean", "0", "1", "2"]
    assert found["mean"].value == pytest.approx(np.mean(means_A))
    assert [found[str(code)].value for code in range(3)] == pytest.approx(means_A)
    counts_RA = [[(keep_N & (attribute_N == code)).sum() for code in range(3)] for keep_N in keep_RN]
    assert resampling.counts_A().tolist() == np.rint(np.mean(counts_RA, axis=0)).tolist()


@settings(max_examples=30)
@given(seeds)
def test_sd_is_that_of_the_draws_values(seed):
    attribute_N, prompt_N, keep_RN, scores_RN, _ = random_case(seed)
    resampling = Resampling(attribute_N, prompt_N, keep_RN, 100, seed=0)
    means_RA = np.array(
        [[scores_N[keep_N & (attribute_N == code)].mean() for code in range(3)]
         for scores_N, keep_N in zip(scores_RN, keep_RN, strict=True)]
    )  # fmt: skip
    found = resampling.summary(scores_RN)
    assert found["mean"].sd == pytest.approx(means_RA.mean(axis=1).std(ddof=1))
    assert found["1"].sd == pytest.approx(means_RA[:, 1].std(ddof=1))
    assert resampling.summary(scores_RN[:1])["mean"].sd is None


@settings(max_examples=30)
@given(seeds)
def test_rows_that_are_left_out_never_count(seed):
    attribute_N, prompt_N, keep_RN, scores_RN, baseline_RN = random_case(seed)
    resampling = Resampling(attribute_N, prompt_N, keep_RN, 100, seed=0)
    unseen_RN = np.where(keep_RN, scores_RN, np.nan)
    assert resampling.summary(unseen_RN) == resampling.summary(scores_RN)
    assert resampling.summary(unseen_RN, baseline_RN) == resampling.summary(scores_RN, baseline_RN)


@settings(max_examples=30)
@given(seeds)
def test_differences_are_paired(seed):
    """Two systems that judge alike differ by nothing, and one that is better by the same on every row by just that."""
    attribute_N, prompt_N, keep_RN, scores_RN, baseline_RN = random_case(seed)
    resampling = Resampling(attribute_N, prompt_N, keep_RN, 100, seed=0)
    for interval in resampling.summary(scores_RN, scores_RN.copy()).values():
        assert interval == (0.0, 0.0, 0.0, 0.0)
    shifted = resampling.summary(scores_RN + 0.25, scores_RN)["mean"]
    assert tuple(shifted) == pytest.approx((0.25, 0.25, 0.25, 0.0), abs=1e-9)
    there, back = resampling.summary(scores_RN, baseline_RN), resampling.summary(baseline_RN, scores_RN)
    for name, interval in there.items():
        assert tuple(interval) == pytest.approx((-back[name].value, -back[name].high, -back[name].low, back[name].sd))


def test_one_draw_stands_for_all():
    attribute_N, prompt_N, keep_RN, scores_RN, baseline_RN = random_case(0)
    resampling = Resampling(attribute_N, prompt_N, keep_RN, 100, seed=0)
    one_1N, all_RN = baseline_RN[:1], np.tile(baseline_RN[:1], (3, 1))
    assert resampling.summary(scores_RN, one_1N) == resampling.summary(scores_RN, all_RN)
    assert resampling.summary(one_1N)["mean"][:3] == resampling.summary(all_RN)["mean"][:3]


@settings(max_examples=30)
@given(seeds)
def test_the_order_of_rows_and_the_names_of_prompts_do_not_matter(seed):
    attribute_N, prompt_N, keep_RN, scores_RN, _ = random_case(seed)
    order_N = np.random.default_rng(seed).permutation(len(prompt_N))
    plain = Resampling(attribute_N, prompt_N, keep_RN, 100, seed=0).summary(scores_RN)
    mixed = Resampling(attribute_N[order_N], 7 * prompt_N[order_N] + 3, keep_RN[:, order_N], 100, seed=0)
    for name, interval in mixed.summary(scores_RN[:, order_N]).items():
        assert tuple(interval) == pytest.approx(tuple(plain[name]), abs=1e-12)


@settings(max_examples=20)
@given(seeds, st.integers(2, 30))
def test_rows_of_equal_score_leave_nothing_uncertain(seed, prompts):
    """Also where an attribute has so few prompts that many resamples hold none of them."""
    attribute_N = np.array([0] * (prompts - 1) + [1])
    resampling = Resampling(attribute_N, np.arange(prompts), np.ones((2, prompts), dtype=bool), 100, seed)
    for interval in resampling.summary(np.full((2, prompts), 0.7)).values():
        assert tuple(interval) == pytest.approx((0.7, 0.7, 0.7, 0.0))


def clusters(seed: int, prompts: int, largest: int = 5):
    """Rows of prompts that share an effect, under two attributes, one rarer than the other; true mean 0."""
    generator = np.random.default_rng(seed)
    prompt_N = np.repeat(np.arange(prompts), generator.integers(1, largest + 1, prompts))
    attribute_N = (generator.random(len(prompt_N)) < 0.3).astype(np.int64)
    attribute_N[:2] = 0, 1
    scores_N = generator.normal(size=prompts)[prompt_N] + generator.normal(size=len(prompt_N))
    return attribute_N, prompt_N, scores_N


def cluster_error(attribute_N, prompt_N, scores_N) -> float:
    """The standard error of a mean of two ratios of sums over prompts, linearised."""
    influence_N = np.zeros(len(scores_N))
    for code in range(2):
        own_N = attribute_N == code
        influence_N[own_N] = (scores_N[own_N] - scores_N[own_N].mean()) / own_N.sum() / 2
    return np.sqrt(np.square(np.bincount(prompt_N, influence_N)).sum())


@pytest.mark.parametrize("seed", range(3))
def test_an_interval_has_the_width_of_the_cluster_standard_error(seed):
    attribute_N, prompt_N, scores_N = clusters(seed, prompts=400)
    keep_1N = np.ones((1, len(scores_N)), dtype=bool)
    interval = Resampling(attribute_N, prompt_N, keep_1N, 4000, seed).summary(scores_N[None])["mean"]
    expected = Z * cluster_error(attribute_N, prompt_N, scores_N)
    assert half_width(interval) == pytest.approx(expected, rel=0.08)
    # As if rows were independent it would be narrower than it may be.
    alone = Resampling(attribute_N, np.arange(len(prompt_N)), keep_1N, 4000, seed).summary(scores_N[None])["mean"]
    assert half_width(alone) < 0.85 * expected


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = []
    for seed in range(300):
        attribute_N, prompt_N, scores_N = clusters(seed, prompts=80)
        keep_1N = np.ones((1, len(scores_N)), dtype=bool)
        interval = Resampling(attribute_N, prompt_N, keep_1N, 300, seed).summary(scores_N[None])["mean"]
        held.append(interval.low <= 0.0 <= interval.high)
    assert 0.90 < np.mean(held) < 0.98


def test_what_only_varies_between_draws_has_the_width_of_their_standard_error():
    draw_R = np.random.default_rng(0).normal(size=60)
    rows = 30
    resampling = Resampling(np.arange(rows) % 2, np.arange(rows), np.ones((60, rows), dtype=bool), 4000, seed=0)
    interval = resampling.summary(np.tile(draw_R[:, None], (1, rows)))["mean"]
    assert half_width(interval) == pytest.approx(Z * draw_R.std() / np.sqrt(60), rel=0.08)


def test_rows_written_twice_are_no_more_evidence():
    attribute_N, prompt_N, scores_N = clusters(0, prompts=60)

    def interval(again_N):
        keep_1N = np.ones((1, 2 * len(scores_N)), dtype=bool)
        resampling = Resampling(np.tile(attribute_N, 2), np.append(prompt_N, again_N), keep_1N, 2000, seed=0)
        return resampling.summary(np.tile(scores_N, 2)[None])["mean"]

    once = Resampling(attribute_N, prompt_N, np.ones((1, len(scores_N)), dtype=bool), 2000, seed=0)
    expected = once.summary(scores_N[None])["mean"]
    assert interval(prompt_N)[:3] == pytest.approx(expected[:3])
    # Were the copies prompts of their own, they would be.
    assert half_width(interval(prompt_N + 60)) == pytest.approx(half_width(expected) / np.sqrt(2), rel=0.1)


def test_many_prompts_in_units_give_the_same_value_and_as_wide_an_interval(monkeypatch):
    attribute_N, prompt_N, scores_N = clusters(0, prompts=4000)
    keep_1N = np.ones((1, len(scores_N)), dtype=bool)
    monkeypatch.setattr(resampling, "MOST_UNITS", 500)
    few = Resampling(attribute_N, prompt_N, keep_1N, 2000, seed=0)
    assert few.shape == (500, 2)
    found = few.summary(scores_N[None])
    assert found["0"].value == pytest.approx(scores_N[attribute_N == 0].mean())
    expected = Z * cluster_error(attribute_N, prompt_N, scores_N)
    assert half_width(found["mean"]) == pytest.approx(expected, rel=0.12)


def test_a_seed_settles_the_interval():
    attribute_N, prompt_N, keep_RN, scores_RN, _ = random_case(0)
    first, again, other = (
        Resampling(attribute_N, prompt_N, keep_RN, 100, seed).summary(scores_RN)["mean"] for seed in (0, 0, 1)
    )
    assert first == again
    assert first.value == other.value
    assert first.low != other.low
