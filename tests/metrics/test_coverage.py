"""Intervals cover as often as they promise: the benchmark `coverage`, with fewer simulations and users."""

import pytest

from benchmarks.coverage import coverage

SIMULATIONS = 300
# Four standard errors of a share of 95 % of so many simulations, and the point by which small samples may miss it.
LEAST, MOST = 0.95 - 4 * (0.95 * 0.05 / SIMULATIONS) ** 0.5 - 0.01, 0.995


@pytest.mark.parametrize("kind", ["rows", "users", "users x draws"])
def test_intervals_over_users_cover_and_those_over_rows_do_not(kind):
    for name, (own, usual) in coverage(kind, 30, SIMULATIONS, seed=1).items():
        assert LEAST <= own <= MOST, name
        if kind == "rows":
            assert usual < 0.85, name
