"""Tests of `micro_lit.protocol.regimes`: who is judged on what, and which labels may be learned from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_lit.data.pairs import SPLITS, PreferenceData, from_records
from micro_lit.data.records import Message, Record
from micro_lit.protocol.regimes import draw_regimes

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40)
DRAWS = 3


def people_data(seed: int, users: int = 12, rows: int = 150) -> PreferenceData:
    """Users with any number of rows in any split, the first half of them in no training row, and rows of nobody."""
    generator = np.random.default_rng(seed)
    records, splits = [], []
    for row in range(rows):
        user = int(users * generator.random() ** 2)
        unseen = 2 * user < users
        splits.append("test" if unseen else SPLITS[generator.integers(3)])
        user_id = None if generator.random() < 0.1 else f"user {user}"
        records.append(Record((Message("user", f"Question {row}"),), "A.", "B.", user_id=user_id))
    return from_records(records, splits, {})


def rows_of(data: PreferenceData, split: str) -> dict[int, set[int]]:
    """The rows of each user in a split."""
    found: dict[int, set[int]] = {}
    user_N = data.pairs.label_N("user_id").tolist()
    for row in data.splits[split].tolist():
        found.setdefault(user_N[row], set()).add(row)
    return found


def by_user(labels, num_users: int) -> dict[tuple[int, int], list[int]]:
    """The labelled rows of each draw and user."""
    found: dict[tuple[int, int], list[int]] = {}
    for row, user in zip(labels.row_L.tolist(), labels.user_L.tolist(), strict=True):
        found.setdefault(divmod(user, num_users), []).append(row)
    return found


@few
@given(seeds, st.integers(0, 6), st.integers(1, 4))
def test_every_test_row_is_of_seen_or_unseen_users_or_left_out_and_counted(seed, largest, rows_left):
    data = people_data(seed)
    regimes, left_out = draw_regimes(data, largest, rows_left, DRAWS, seed)
    train, test = rows_of(data, "train"), rows_of(data, "test")
    unknown = test.pop(-1, set())
    expected = {
        "seen": {user for user in test if user in train},
        "unseen": {user for user, rows in test.items() if user not in train and len(rows) >= largest + rows_left},
    }
    for name, users in expected.items():
        assert (name in regimes) == bool(users)
        if users:
            regime = regimes[name]
            assert regime.code_U.tolist() == sorted(users)
            assert regime.row_N.tolist() == sorted(row for user in users for row in test[user])
            codes = data.pairs.label_N("user_id").numpy()[regime.row_N]
            assert regime.code_U[regime.user_N].tolist() == codes.tolist()
    few = set(test) - expected["seen"] - expected["unseen"]
    rows = sum(len(test[user]) for user in few)
    assert list(left_out.values()) == [len(unknown), len(few), rows]


@few
@given(seeds, st.integers(1, 6))
def test_no_row_is_both_labelled_and_judged(seed, largest):
    data = people_data(seed)
    regimes, _ = draw_regimes(data, largest, 2, DRAWS, seed)
    train, test = rows_of(data, "train"), rows_of(data, "test")
    for name, regime in regimes.items():
        for size in (0, 1, largest, *([None] if name == "seen" else [])):
            labels = regime.labels(size)
            for (draw, user), rows in by_user(labels, regime.num_users).items():
                pool = (train if name == "seen" else test)[int(regime.code_U[user])]
                assert set(rows) <= pool
                assert len(rows) == len(set(rows)) == (len(pool) if size is None else min(size, len(pool)))
                judged = regime.row_N[regime.keep_RN[draw if name == "unseen" else 0]]
                assert not set(rows) & set(judged.tolist())
        if name == "unseen":
            for keep_N in regime.keep_RN:
                count_U = np.bincount(regime.user_N[keep_N], minlength=regime.num_users)
                assert count_U.tolist() == [len(test[code]) - largest for code in regime.code_U.tolist()]
                assert count_U.min() >= 2
        else:
            assert regime.keep_RN.all()


@few
@given(seeds)
def test_a_larger_budget_holds_the_smaller_one_of_the_same_draw(seed):
    regimes, _ = draw_regimes(people_data(seed), 4, 1, DRAWS, seed)
    for regime in regimes.values():
        one, three = (by_user(regime.labels(size), regime.num_users) for size in (1, 3))
        assert all(rows == three[place][:1] for place, rows in one.items() if len(three) == len(one))


def test_draws_that_have_the_same_labels_are_one():
    regimes, _ = draw_regimes(people_data(0), 4, 1, DRAWS, seed=0)
    seen, unseen = regimes["seen"], regimes["unseen"]
    most = int(seen.place_L.max()) + 1
    draws = {size: seen.labels(size).num_draws for size in (0, 1, most - 1, most, None)}
    assert draws == {0: 1, 1: DRAWS, most - 1: DRAWS, most: 1, None: 1}
    assert [unseen.labels(size).num_draws for size in (0, 1, 4)] == [1, DRAWS, DRAWS]
    assert len(seen.labels(0).row_L) == 0


def test_draws_differ_and_a_seed_settles_them():
    data = people_data(0)
    first, again, other = (draw_regimes(data, 4, 1, DRAWS, seed)[0] for seed in (0, 0, 1))
    for name in ("seen", "unseen"):
        assert first[name].label_RL.tolist() == again[name].label_RL.tolist()
        assert first[name].label_RL.tolist() != other[name].label_RL.tolist()
        assert len(np.unique(first[name].label_RL, axis=0)) == DRAWS
        np.testing.assert_array_equal(np.sort(first[name].label_RL, axis=1), np.sort(other[name].label_RL, axis=1))


def test_every_label_is_as_likely_to_come_first():
    regimes, _ = draw_regimes(people_data(3), 4, 1, draws=2000, seed=0)
    regime = regimes["seen"]
    user = int(np.bincount(regime.user_L).argmax())
    first_R = regime.label_RL[:, (regime.user_L == user) & (regime.place_L == 0)][:, 0]
    counts = np.unique(first_R, return_counts=True)[1]
    assert len(counts) == (regime.user_L == user).sum()
    expected = 2000 / len(counts)
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected)).all()


@pytest.mark.parametrize("name", ["seen", "unseen"])
@pytest.mark.parametrize("draws", [1, DRAWS])
def test_a_mean_by_user_is_over_the_users_judged_rows(name, draws):
    """One draw of values stands for all draws of judged rows, and the other way round."""
    regimes, _ = draw_regimes(people_data(1), 3, 1, DRAWS, seed=0)
    regime = regimes[name]
    values_RN = np.random.default_rng(0).normal(size=(draws, len(regime.row_N)))
    found_RU = regime.mean_by_user(values_RN)
    assert found_RU.shape == (max(draws, len(regime.keep_RN)), regime.num_users)
    for draw, found_U in enumerate(found_RU):
        keep_N, values_N = (each_RN[draw % len(each_RN)] for each_RN in (regime.keep_RN, values_RN))
        expected = [values_N[keep_N & (regime.user_N == user)].mean() for user in range(regime.num_users)]
        np.testing.assert_allclose(found_U, expected)
