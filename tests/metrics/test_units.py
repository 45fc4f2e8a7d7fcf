"""Tests of the units of a test, and of means whose intervals are over them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro_lit.data.counts import Counts
from micro_lit.data.messages import Message
from micro_lit.data.pairs import Pairs, from_records
from micro_lit.data.records import LABELS, Record
from micro_lit.metrics import PreferenceMetrics, Units, clustered, units_of


def asked(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def record(number: int, prompt: str = "", **columns) -> Record:
    return Record(asked(prompt or f"q{number}"), f"a{number}", f"b{number}", **columns)


def units(*records: Record) -> tuple[str, int, list[int]]:
    data = from_records(records, ["test"] * len(records), {"made": Counts()})
    test = data.split("test")
    found = units_of(data, test)
    return found.name, found.size, found.code(test).tolist() if found.size else []


def test_users_are_the_units_where_nearly_all_rows_name_one():
    named = [record(number, user_id=f"u{number % 3}") for number in range(20)]
    assert units(*named) == ("users", 3, [number % 3 for number in range(20)])
    assert units(*named, record(20))[2][-1] == -1  # of nobody: a unit of its own
    assert units(*named, record(20), record(21))[0] == "rows"  # more than one row in twenty
    assert units(*(record(number, user_id="alone") for number in range(4)))[0] == "rows"


def test_without_users_rows_of_one_pair_belong_together_then_those_of_one_prompt():
    twice = [Record(asked("q"), *responses) for responses in ("ab", "ba", "ac")]
    assert units(*twice) == ("pairs", 2, [0, 0, 1])
    shared = [record(0, "p"), record(1, "p"), record(2, "q")]
    assert units(*shared) == ("prompts", 2, [0, 0, 1])
    # Under another criterion a prompt is the same prompt.
    wished = [record(0, "p", criterion="Be brief."), record(1, "p", criterion="Be kind."), record(2, "q")]
    assert units(*wished)[0] == "prompts"
    assert units(*wished)[2] == [0, 0, 1]
    assert units(record(0), record(1))[0] == "rows"
    assert units(record(0, "p"), record(1, "p"))[0] == "rows"  # a single unit tells nothing


def batch(unit_N: torch.Tensor, group_N: torch.Tensor) -> Pairs:
    labels_NC = torch.full((len(unit_N), len(LABELS)), -1)
    labels_NC[:, LABELS.index("user_id")] = unit_N
    labels_NC[:, LABELS.index("group")] = group_N
    return Pairs(
        torch.zeros(len(unit_N), 3, dtype=torch.int64), labels_NC, torch.zeros(len(unit_N)), torch.empty(len(unit_N), 0)
    )


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    num_units=st.integers(2, 6),
    keyed=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_batches_and_devices_do_not_matter_and_a_cell_is_as_its_rows_alone(sizes, num_units, keyed, seed):
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    unit_N = torch.randint(-1, num_units, (n,), generator=generator)
    group_N = torch.randint(-1, 3, (n,), generator=generator)
    log_prob_N = torch.nn.functional.logsigmoid(torch.randn(n, generator=generator)).double()
    pairs = batch(unit_N, group_N)
    users = Units("users", num_units, lambda rows: rows.label_N("user_id"))
    users.rows = pairs
    column = "group" if keyed else None
    whole = PreferenceMetrics(3, units=users, column=column)
    whole.update(log_prob_N, pairs, group_N)
    # Each part on a device of its own: their states are added.
    parts = [PreferenceMetrics(3, units=users, column=column) for _ in sizes]
    for part, rows in zip(parts, torch.arange(n).split(sizes), strict=True):
        part.update(log_prob_N[rows], pairs[rows], group_N[rows])
    for name in whole._defaults:
        setattr(parts[0], name, sum(getattr(part, name) for part in parts))
    for cell, (left, right) in enumerate(zip(whole.compute(), parts[0].compute(), strict=True)):
        own_N = group_N == cell
        assert bool(left) == bool(own_N.any())
        for name in left:
            assert left[name].keys() == right[name].keys()
            for key, value in left[name].items():
                assert right[name][key] == (value if key == "units" else pytest.approx(value, abs=1e-9))
        if left:
            nll_N, own_unit_N = -log_prob_N[own_N].numpy(), unit_N[own_N].numpy()
            own_unit_N = np.where(own_unit_N < 0, num_units + np.arange(len(nll_N)), own_unit_N)
            code_N = np.unique(own_unit_N, return_inverse=True)[1]
            counts_U = np.bincount(code_N).astype(np.float64)
            expected = clustered(np.bincount(code_N, nll_N), counts_U, float((nll_N**2).sum()))
            found = left["nll"]
            assert (found["value"], found["n"], found["n_units"]) == (pytest.approx(expected.value), *expected[3:5])
            assert ("se_units" in found) == (expected.n_units > 1)
            if "se_units" in found:
                assert [found[key] for key in ("se_units", "low", "high")] == pytest.approx(
                    [expected.se, expected.low, expected.high], rel=1e-5, abs=1e-7
                )


def test_rows_of_one_user_are_worth_less_than_as_many_users():
    """Every user's rows are copies: the standard error over rows is too small by the root of their number."""
    generator = torch.Generator().manual_seed(0)
    log_prob_U = torch.nn.functional.logsigmoid(torch.randn(40, generator=generator))
    unit_N = torch.arange(40).repeat_interleave(9)
    users = Units("users", 40, lambda rows: rows.label_N("user_id"))
    metrics = PreferenceMetrics(units=users)
    metrics.update(log_prob_U[unit_N], batch(unit_N, torch.full_like(unit_N, -1)))
    [found] = metrics.compute()
    assert found["nll"]["se_units"] == pytest.approx(3.0 * found["nll"]["se"], rel=0.02)
    assert (found["nll"]["units"], found["nll"]["n_units"]) == ("users", 40)
    assert 0 < found["accuracy"]["low"] < found["accuracy"]["value"] < found["accuracy"]["high"] < 1
