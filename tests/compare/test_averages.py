"""Tests of `micro_lit.compare.averages`: against closed forms, and what an interval over units must not depend on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_lit.compare.averages import Averages

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


def averages(attribute_N, unit_N, keep_RN) -> Averages:
    return Averages(attribute_N, unit_N, keep_RN, "prompts")


def half_width(point) -> float:
    return (point["high"] - point["low"]) / 2


def numbers(point) -> list[float]:
    return [point[part] for part in ("value", "low", "high", "sd")]


@settings(max_examples=30)
@given(seeds)
def test_a_value_is_the_plain_mean_of_the_attributes_means(seed):
    attribute_N, prompt_N, keep_RN, scores_RN, _ = random_case(seed)
    means = averages(attribute_N, prompt_N, keep_RN)
    found = means.summary(scores_RN)
    means_A = [scores_RN[keep_RN & (attribute_N == code)].mean() for code in range(3)]
    assert list(found) == ["mean", "0", "1", "2"]
    assert found["mean"]["value"] == pytest.approx(np.mean(means_A))
    assert [found[str(code)]["value"] for code in range(3)] == pytest.approx(means_A)
    counts_RA = [[(keep_N & (attribute_N == code)).sum() for code in range(3)] for keep_N in keep_RN]
    assert means.counts_A().tolist() == np.rint(np.mean(counts_RA, axis=0)).tolist()
    units = [len(np.unique(prompt_N[keep_RN.any(axis=0) & (attribute_N == code)])) for code in range(3)]
    assert [found[str(code)]["n_units"] for code in range(3)] == units
    assert {point["units"] for point in found.values()} == {"prompts"}


@settings(max_examples=30)
@given(seeds)
def test_sd_is_that_of_the_draws_values(seed):
    attribute_N, prompt_N, keep_RN, scores_RN, _ = random_case(seed)
    means_RA = np.array(
        [[scores_N[keep_N & (attribute_N == code)].mean() for code in range(3)]
         for scores_N, keep_N in zip(scores_RN, keep_RN, strict=True)]
    )  # fmt: skip
    found = averages(attribute_N, prompt_N, keep_RN).summary(scores_RN)
    assert found["mean"]["sd"] == pytest.approx(means_RA.mean(axis=1).std(ddof=1))
    assert found["1"]["sd"] == pytest.approx(means_RA[:, 1].std(ddof=1))
    assert averages(attribute_N, prompt_N, keep_RN).summary(scores_RN[:1])["mean"]["sd"] is None


@settings(max_examples=30)
@given(seeds)
def test_rows_that_are_left_out_or_not_scored_never_count(seed):
    attribute_N, prompt_N, keep_RN, scores_RN, baseline_RN = random_case(seed)
    means = averages(attribute_N, prompt_N, keep_RN)
    unseen_RN = np.where(keep_RN, scores_RN, np.nan)
    assert means.summary(unseen_RN) == means.summary(scores_RN)
    assert means.summary(unseen_RN, baseline_RN) == means.summary(scores_RN, baseline_RN)
    everything = averages(attribute_N, prompt_N, np.ones_like(keep_RN)).summary(unseen_RN)
    assert everything["mean"] == means.summary(scores_RN)["mean"]


@settings(max_examples=30)
@given(seeds)
def test_differences_are_paired(seed):
    """Two systems that judge alike differ by nothing, and one that is better by the same on every row by just that."""
    attribute_N, prompt_N, keep_RN, scores_RN, baseline_RN = random_case(seed)
    means = averages(attribute_N, prompt_N, keep_RN)
    for point in means.summary(scores_RN, scores_RN.copy()).values():
        assert numbers(point) == [0.0, 0.0, 0.0, 0.0]
    shifted = means.summary(scores_RN + 0.25, scores_RN)["mean"]
    assert numbers(shifted) == pytest.approx([0.25, 0.25, 0.25, 0.0], abs=1e-9)
    there, back = means.summary(scores_RN, baseline_RN), means.summary(baseline_RN, scores_RN)
    for name, point in there.items():
        value, low, high, sd = numbers(back[name])
        assert numbers(point) == pytest.approx([-value, -high, -low, sd])


@settings(max_examples=30)
@given(seeds)
def test_the_order_of_rows_and_the_names_of_prompts_do_not_matter(seed):
    attribute_N, prompt_N, keep_RN, scores_RN, _ = random_case(seed)
    order_N = np.random.default_rng(seed).permutation(len(prompt_N))
    plain = averages(attribute_N, prompt_N, keep_RN).summary(scores_RN)
    mixed = averages(attribute_N[order_N], 7 * prompt_N[order_N] + 3, keep_RN[:, order_N])
    for name, point in mixed.summary(scores_RN[:, order_N]).items():
        assert numbers(point) == pytest.approx(numbers(plain[name]), abs=1e-12)


@settings(max_examples=20)
@given(seeds, st.integers(3, 30))
def test_rows_of_equal_score_leave_nothing_uncertain(seed, prompts):
    attribute_N = np.array([0] * (prompts - 1) + [1])
    found = averages(attribute_N, np.arange(prompts), np.ones((2, prompts), dtype=bool))
    for point in found.summary(np.full((2, prompts), 0.7)).values():
        assert numbers(point) == pytest.approx([0.7, 0.7, 0.7, 0.0])


def test_of_a_single_unit_there_is_no_interval_and_its_number_says_so():
    point = averages(np.zeros(5, dtype=int), np.zeros(5, dtype=int), np.ones((1, 5), dtype=bool))
    found = point.summary(np.arange(5.0)[None])["mean"]
    assert (found["value"], found["low"], found["high"], found["se_units"], found["n_units"]) == (
        2.0,
        2.0,
        2.0,
        None,
        1,
    )


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
    point = averages(attribute_N, prompt_N, keep_1N).summary(scores_N[None])["mean"]
    expected = cluster_error(attribute_N, prompt_N, scores_N)
    assert point["se_units"] == pytest.approx(expected, rel=0.02)
    assert half_width(point) == pytest.approx(Z * expected, rel=0.03)
    # As if rows were independent it would be narrower than it may be.
    alone = averages(attribute_N, np.arange(len(prompt_N)), keep_1N).summary(scores_N[None])["mean"]
    assert half_width(alone) < 0.9 * half_width(point)


def test_a_draw_that_leaves_nobody_to_judge_takes_no_part():
    keep_RN = np.array([[True, True, True, True], [False] * 4, [True, False, True, True]])
    scores_RN = np.random.default_rng(0).random((3, 4))
    found, expected = (
        averages(np.array([0, 0, 1, 1]), np.arange(4), keep_RN[rows]).summary(scores_RN[rows])["mean"]
        for rows in ([0, 1, 2], [0, 2])
    )
    assert found["value"] == pytest.approx(expected["value"])
    assert found["sd"] == pytest.approx(expected["sd"])
