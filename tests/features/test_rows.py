import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from small_models import make_table

from micro_lit.features.rows import in_rows

PROMPTS = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(0, 20), min_size=1, max_size=8)), min_size=1, max_size=6
)


@given(
    prompts=PROMPTS,
    token_budget=st.none() | st.integers(1, 200),
    break_even=st.none() | st.integers(1, 500),
    seed=st.integers(0, 99),
)
def test_every_text_stands_once_in_rows_of_the_promised_size(prompts, token_budget, break_even, seed):
    tokens = make_table(prompts)
    texts_T = torch.randperm(len(tokens.prompts_M), generator=torch.Generator().manual_seed(seed))
    found, row_lengths = [], []
    for places, rows in in_rows(tokens, texts_T, token_budget, break_even):
        found += places.tolist()
        row_lengths += rows.mask_BL.sum(dim=1).tolist()
        num_rows, longest = rows.ids_BL.shape
        assert longest == rows.mask_BL.sum(dim=1).max()
        assert token_budget is None or num_rows == 1 or rows.ids_BL.numel() <= token_budget
        assert not rows.ids_BL[~rows.mask_BL].any()
        responses_B = torch.zeros(num_rows)
        for at, text in enumerate(texts_T[places].tolist()):
            row = int(rows.row_T[at])
            own = (rows.parts_BL == row) | (rows.parts_BL == num_rows + at)
            ids = tokens.flat_ids[tokens.offsets[text] : tokens.offsets[text + 1]]
            assert torch.equal(rows.ids_BL[own].int(), ids)
            assert rows.positions_BL[own].tolist() == list(range(len(ids)))
            assert rows.length_T[at] == len(ids)
            assert rows.end_T[at] == own.flatten().nonzero().max()
            sees_L = rows.sees_BLL[row, int(rows.end_T[at]) % longest]
            assert torch.equal(sees_L, own[row])
            responses_B[row] += len(ids) > tokens.prompt_lengths_M[text]
        assert rows.shared == bool((responses_B > 1).any())
        assert not (rows.shared and break_even is None)
    assert sorted(found) == list(range(len(texts_T)))
    assert row_lengths == sorted(row_lengths, reverse=True)
    assert max(row_lengths) <= 2 * tokens.lengths_M.max()


@given(prompts=PROMPTS, break_even=st.integers(1, 500))
def test_a_context_beside_a_response_costs_nothing(prompts, break_even):
    prompts = [(length, [response for response in responses if response] or [1]) for length, responses in prompts]
    told = make_table([(length, [*responses, 0]) for length, responses in prompts])
    plain = make_table(prompts)
    [(_, with_contexts)] = in_rows(told, torch.arange(len(told.prompts_M)), None, break_even)
    [(_, without)] = in_rows(plain, torch.arange(len(plain.prompts_M)), None, break_even)
    assert with_contexts.mask_BL.sum() == without.mask_BL.sum()


@pytest.mark.parametrize("break_even", [100, 2000, 20_000])
@pytest.mark.parametrize(("prompt", "response"), [(10, 50), (100, 10), (100, 100), (600, 40)])
def test_a_row_takes_as_many_responses_as_pay(prompt, response, break_even):
    """The cost of 240 responses is within 10 % of the least, however many of them a row might hold."""
    tokens = make_table([(prompt, [response] * 240)])
    [(_, rows)] = in_rows(tokens, torch.arange(240), None, break_even)

    def cost(count: float) -> float:
        length = prompt + count * response
        return length * (break_even + length) / count

    length_B = rows.mask_BL.sum(dim=1)
    found = float((length_B * (break_even + length_B)).sum()) / 240
    most = max(1, (prompt + response) // response)  # no row is longer than twice the longest text
    assert found <= 1.1 * min(cost(count) for count in range(1, most + 1))


def test_many_responses_to_one_short_prompt_fill_bounded_rows():
    tokens = make_table([(8, [40] * 500)])
    [(_, rows)] = in_rows(tokens, torch.arange(500), None, 100_000)
    assert rows.ids_BL.shape[1] <= 2 * 48
    assert rows.mask_BL.sum() <= 500 * 40 + 8 * math.ceil(500 * 40 / 48)


def test_rows_of_like_length_cost_little_padding():
    tokens = make_table([(length, [1]) for length in range(1, 129)])
    passes = [rows for _, rows in in_rows(tokens, torch.arange(128), 1024, None)]
    padded = sum(rows.ids_BL.numel() for rows in passes)
    assert padded < 1.25 * tokens.lengths_M.sum()
    [(_, at_once)] = in_rows(tokens, torch.arange(128), None, None)
    assert at_once.ids_BL.numel() > 1.9 * tokens.lengths_M.sum()
