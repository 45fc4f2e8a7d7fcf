"""Tests of `micro_lit.metrics.intervals`."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from micro_lit.metrics import Singles, clustered, crossed, quantile, wilson


def sums(value_N: np.ndarray, unit_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    size = int(unit_N.max()) + 1
    counts_U = np.bincount(unit_N, minlength=size).astype(np.float64)
    return np.bincount(unit_N, value_N, size), counts_U, float((value_N**2).sum())


def test_rows_as_units_are_the_textbook_mean():
    value_N = np.random.default_rng(0).gamma(2.0, size=30)
    by_unit = clustered(*sums(value_N, np.arange(30)))
    nothing = np.zeros(0)
    as_singles = clustered(nothing, nothing, 0.0, Singles(30, float(value_N.sum()), float((value_N**2).sum())))
    low, high = stats.t.interval(0.95, 29, value_N.mean(), stats.sem(value_N))
    for found in (by_unit, as_singles):
        assert (found.value, found.se) == pytest.approx((value_N.mean(), stats.sem(value_N)))
        assert (found.df, found.n, found.n_units) == (pytest.approx(29), 30, 30)
        assert (found.low, found.high) == pytest.approx((low, high))


def test_units_of_equal_size_are_the_t_interval_of_their_means():
    value_UN = np.random.default_rng(1).normal(size=(6, 1)) + np.random.default_rng(2).normal(size=(6, 9))
    found = clustered(*sums(value_UN.ravel(), np.repeat(np.arange(6), 9)))
    mean_U = value_UN.mean(axis=1)
    assert found.df == pytest.approx(5)
    low, high = stats.t.interval(0.95, 5, mean_U.mean(), stats.sem(mean_U))
    assert (found.low, found.high) == pytest.approx((low, high))


def dense(value_N: np.ndarray, unit_N: np.ndarray, correlation: float) -> tuple[float, float]:
    """Standard error and degrees of freedom by matrices of rows, as Bell & McCaffrey write them."""
    n, num_units = len(value_N), int(unit_N.max()) + 1
    residual_NN = np.eye(n) - 1.0 / n
    adjusted_UN = []
    for unit in range(num_units):
        own = np.flatnonzero(unit_N == unit)
        values, vectors = np.linalg.eigh(residual_NN[np.ix_(own, own)])
        root = vectors @ np.diag(values**-0.5) @ vectors.T
        adjusted_UN.append((np.ones(len(own)) @ root @ residual_NN[own]) / n)
    adjusted_UN = np.array(adjusted_UN)
    same_NN = unit_N[:, None] == unit_N[None]
    covariance_NN = np.where(same_NN, correlation, 0.0) + (1.0 - correlation) * np.eye(n)
    between_UU = adjusted_UN @ covariance_NN @ adjusted_UN.T
    df = np.trace(between_UU) ** 2 / (between_UU**2).sum()
    return math.sqrt(((adjusted_UN @ value_N) ** 2).sum()), df


@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=8), seed=st.integers(0, 10**6))
def test_sums_are_enough_for_what_the_papers_do_with_matrices_of_rows(sizes, seed):
    generator = np.random.default_rng(seed)
    unit_N = np.repeat(np.arange(len(sizes)), sizes)
    value_N = generator.normal(size=len(sizes))[unit_N] + generator.normal(size=len(unit_N))
    found = clustered(*sums(value_N, unit_N))
    # The analysis of variance, row by row.
    mean, mean_U = value_N.mean(), np.bincount(unit_N, value_N) / np.bincount(unit_N)
    n, num_units = len(value_N), len(sizes)
    if n > num_units:
        within = ((value_N - mean_U[unit_N]) ** 2).sum() / (n - num_units)
        between = ((mean_U[unit_N] - mean) ** 2).sum() / (num_units - 1)
        size = (n - (np.array(sizes) ** 2).sum() / n) / (num_units - 1)
        correlation = min(1.0, max(0.0, (between - within) / (between + (size - 1) * within)))
    else:
        correlation = 0.0
    se, df = dense(value_N, unit_N, correlation)
    assert found.se == pytest.approx(se, rel=1e-6, abs=1e-9)
    assert found.df == pytest.approx(max(1.0, df), rel=1e-5)
    # Units of one row may be given as sums of theirs.
    alone_N = np.isin(unit_N, np.flatnonzero(np.array(sizes) == 1))
    rest = np.unique(unit_N[~alone_N], return_inverse=True)[1]
    nothing = (np.zeros(0), np.zeros(0), 0.0)
    parts = sums(value_N[~alone_N], rest) if len(rest) else nothing
    own = Singles(int(alone_N.sum()), float(value_N[alone_N].sum()), float((value_N[alone_N] ** 2).sum()))
    assert clustered(*parts, own) == pytest.approx(found, rel=1e-9, abs=1e-12)


def test_few_units_that_hold_most_rows_leave_few_degrees_of_freedom():
    generator = np.random.default_rng(3)
    unit_N = np.repeat(np.arange(40), [400, *[2] * 39])
    value_N = generator.normal(size=40)[unit_N] + 0.1 * generator.normal(size=len(unit_N))
    assert clustered(*sums(value_N, unit_N)).df < 2


def test_one_unit_has_no_interval_and_no_rows_have_no_mean():
    found = clustered(np.array([3.0, 0.0]), np.array([6.0, 0.0]), 3.0)
    assert (found.value, found.n_units) == (0.5, 1)
    assert math.isnan(found.se)
    assert (found.low, found.high) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="no rows"):
        clustered(np.zeros(2), np.zeros(2), 0.0)


def test_wilson_with_rows_as_units_is_the_textbook_interval():
    value_N = np.array([1.0] * 37 + [0.0] * 13)
    found = clustered(*sums(value_N, np.arange(50)), proportion=True)
    factor = quantile(49) ** 2 / 49  # s² is p (1 - p) n / (n - 1)
    centre, reach = (0.74 + factor / 2) / (1 + factor), math.sqrt(factor * (0.74 * 0.26 + factor / 4)) / (1 + factor)
    assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach))
    assert quantile(1e9) == pytest.approx(1.959964, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_right_and_all_wrong_are_not_certain(share):
    """By Wilson with n rows a share of 0 reaches up to t² / (n + t²); n is how many units there are, not rows."""
    found = clustered(np.full(10, 7.0 * share), np.full(10, 7.0), 70.0 * share, proportion=True)
    reach = quantile(found.df) ** 2 / (10 + quantile(found.df) ** 2)
    assert (found.low, found.high) == pytest.approx((0.0, reach) if share == 0 else (1.0 - reach, 1.0))


def test_units_that_all_agree_are_not_certain_either():
    low, high = wilson(0.5, 0.0, 39.0, n=40, least=4.0)
    assert 0.3 < low < 0.5 < high < 0.7


@given(num_units=st.integers(2, 12), seed=st.integers(0, 10**6))
def test_a_single_draw_of_units_that_count_alike_is_the_t_interval(num_units, seed):
    value_U = np.random.default_rng(seed).normal(size=num_units)
    found = crossed(value_U[None, :, None], np.ones((1, num_units, 1)))
    low, high = stats.t.interval(0.95, num_units - 1, value_U.mean(), stats.sem(value_U))
    assert (found.low, found.high) == pytest.approx((low, high))
    # Draws that are all the same add nothing.
    again = crossed(np.repeat(value_U[None, :, None], 4, axis=0), np.ones((4, num_units, 1)))
    assert again == pytest.approx(found)


def test_draws_add_their_own_variance_and_not_that_of_the_luck_of_each_unit():
    generator = np.random.default_rng(5)
    of_draw_R1, of_unit_U, luck_RU = (
        generator.normal(size=(50, 1)),
        generator.normal(size=200),
        generator.normal(size=(50, 200)),
    )
    found = crossed((of_draw_R1 + of_unit_U + luck_RU)[..., None], np.ones((50, 200, 1)))
    assert found.se**2 == pytest.approx(1 / 50 + 1 / 200 + 1 / 10_000, rel=0.25)
    alone = crossed((of_unit_U + luck_RU)[..., None], np.ones((50, 200, 1)))
    assert alone.se**2 == pytest.approx(1 / 200 + 1 / 10_000, rel=0.25)


def test_means_over_attributes_leave_out_attributes_without_rows():
    generator = np.random.default_rng(6)
    value_RUA = generator.normal(size=(3, 8, 2))
    counts_RUA = np.ones((3, 8, 2))
    found = crossed(value_RUA, counts_RUA)
    assert found.value == pytest.approx(value_RUA.mean())
    wider = [np.concatenate([each, np.zeros((3, 8, 1))], axis=2) for each in (value_RUA, counts_RUA)]
    assert crossed(*wider) == pytest.approx(found)
