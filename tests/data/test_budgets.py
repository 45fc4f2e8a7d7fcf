"""Tests of `micro_lit.data.budgets`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_lit.data.budgets import draw_budget, draw_orders
from micro_lit.data.pairs import PreferenceData, from_records
from micro_lit.data.records import Message, Record
from micro_lit.errors import UserError

NAMES = ("brief", "warm", "bold")

seeds = st.integers(0, 2**32 - 1)


def made(rows: list[tuple[str | None, str]]) -> PreferenceData:
    """A pair for each (attribute, split)."""
    prompt = (Message("user", "Question?"),)
    records = [Record(prompt, f"Yes {row}.", "No.", attribute=attribute) for row, (attribute, _) in enumerate(rows)]
    return from_records(records, [split for _, split in rows], {})


@pytest.fixture(scope="module")
def data() -> PreferenceData:
    """60 training rows whose attributes take turns, one in four without any; then 12 test rows."""
    return made([((*NAMES, None)[row % 4], "train" if row < 60 else "test") for row in range(72)])


def rows_of(data: PreferenceData, name: str, split: str) -> list[int]:
    rows = data.splits[split]
    code = data.names["attribute"].index(name)
    return rows[data.pairs.label_N("attribute")[rows] == code].tolist()


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_order_holds_the_attributes_rows_of_the_split_once(split, data):
    orders = draw_orders(data, split, seed=0)
    assert data.names["attribute"] == list(NAMES)
    for name, order in zip(NAMES, orders, strict=True):
        assert sorted(order.tolist()) == rows_of(data, name, split)
    assert any(order.tolist() != sorted(order.tolist()) for order in orders)


@settings(max_examples=20)
@given(seeds, st.integers(0, 50))
def test_seed_and_draw_settle_the_order_and_others_are_others(seed, draw):
    data = made([("brief", "train")] * 40 + [("warm", "train")] * 40)
    first, second = draw_orders(data, "train", seed, draw)
    again, _ = draw_orders(data, "train", seed, draw)
    assert first.tolist() == again.tolist()
    assert first.tolist() != (second - 40).tolist()
    for other in (draw_orders(data, "train", seed + 1, draw), draw_orders(data, "train", seed, draw + 1)):
        assert other[0].tolist() != first.tolist()


def test_the_global_generators_have_no_say(data):
    np.random.seed(0)
    torch.manual_seed(0)
    first = draw_budget(data, 5, seed=3)
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(draw_budget(data, 5, seed=3), first)


def test_rows_of_another_attribute_change_nothing():
    alone = made([("brief", "train")] * 30)
    joined = made([("brief", "train")] * 30 + [("warm", "train")] * 9 + [(None, "train")] * 5)
    [order] = draw_orders(alone, "train", seed=1, draw=2)
    assert draw_orders(joined, "train", seed=1, draw=2)[0].tolist() == order.tolist()


@settings(max_examples=20)
@given(seeds, st.integers(0, 7), st.integers(0, 8), st.integers(0, 3))
def test_a_smaller_budget_is_part_of_a_larger_one(seed, small, more, draw):
    data = made([(NAMES[row % 3], "train") for row in range(45)])
    few, many = (
        draw_budget(data, budget, seed, draw).reshape(3, budget) if budget else torch.empty(3, 0, dtype=torch.int64)
        for budget in (small, small + more)
    )
    assert torch.equal(many[:, :small], few)
    further = draw_budget(data, small, seed, draw, further=more).reshape(3, -1)
    assert torch.equal(further, many)


def test_a_budget_has_as_many_of_each_attribute_in_their_order(data):
    rows_N = draw_budget(data, 4, seed=0)
    assert data.pairs.label_N("attribute")[rows_N].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(set(rows_N.tolist())) == 12
    assert set(rows_N.tolist()) <= set(data.splits["train"].tolist())


def test_further_rows_are_as_many_as_there_are(data):
    rows_N = draw_budget(data, 4, seed=0, further=1000)
    named = data.pairs.label_N("attribute")[data.splits["train"]] >= 0
    assert sorted(rows_N.tolist()) == data.splits["train"][named].tolist()


def test_data_without_attributes_are_refused():
    with pytest.raises(UserError, match=r"data\.columns\.attribute"):
        draw_orders(made([(None, "train")] * 3), "train", seed=0)


def test_an_attribute_with_fewer_pairs_is_named(data):
    few = made([("brief", "train")] * 9 + [("warm", "train")] * 3)
    with pytest.raises(UserError, match=r"a budget of 4 pairs: attribute 'warm' has only 3"):
        draw_budget(few, 4, seed=0)
    assert len(draw_budget(few, 3, seed=0, further=6)) == 12


def test_an_attribute_of_test_rows_alone_has_no_budget_and_asks_for_none():
    data = made([("brief", "train")] * 9 + [("warm", "test")] * 3)
    assert sorted(draw_budget(data, 9, seed=0).tolist()) == list(range(9))
