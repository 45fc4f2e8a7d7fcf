"""Tests of `micro_lit.compare.subjects`: who is judged on what, and which labels may be learned from."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from micro_lit.compare.subjects import draw_attributes, draw_users
from micro_lit.data.pairs import SPLITS, PreferenceData, from_records
from micro_lit.data.records import Message, Record
from micro_lit.errors import UserError

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40)
DRAWS = 3


def people_data(seed: int, users: int = 12, rows: int = 150) -> PreferenceData:
    """Users with any number of rows in any split, the first half of them in no training row, and rows of nobody."""
    generator = np.random.default_rng(seed)
    records, splits = [], []
    for _ in range(rows):
        user = int(users * generator.random() ** 2)
        unseen = 2 * user < users
        splits.append("test" if unseen else SPLITS[generator.integers(3)])
        user_id = None if generator.random() < 0.1 else f"user {user}"
        first, second = generator.choice(40, size=2, replace=False)
        asked = (Message("user", "Which?"),)
        records.append(Record(asked, f"Answer {first}.", f"Answer {second}.", user_id=user_id))
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


def responses(data: PreferenceData, rows) -> set[int]:
    return set(data.pairs.triplets_N3[list(rows), 1:].flatten().tolist())


@few
@given(seeds, st.integers(0, 6), st.integers(1, 4))
def test_every_test_row_is_of_seen_or_unseen_users_or_left_out_and_counted(seed, largest, rows_left):
    data = people_data(seed)
    found, left_out = draw_users(data, largest, rows_left, DRAWS, seed)
    train, test = rows_of(data, "train"), rows_of(data, "test")
    unknown = test.pop(-1, set())
    seen = {user for user in test if user in train}
    unseen = set(found["unseen"].code_U.tolist()) if "unseen" in found else set()
    assert unseen <= set(test) - seen
    for name, users in (("seen", seen), ("unseen", unseen)):
        assert (name in found) == bool(users)
        if users:
            subjects = found[name]
            assert subjects.code_U.tolist() == sorted(users)
            assert subjects.row_N.tolist() == sorted(row for user in users for row in test[user])
            codes = data.pairs.label_N("user_id").numpy()[subjects.row_N]
            assert subjects.code_U[subjects.user_N].tolist() == codes.tolist()
    few = set(test) - seen - unseen
    assert list(left_out.values()) == [len(unknown), len(few), sum(len(test[user]) for user in few)]


@few
@given(seeds, st.integers(1, 6), st.integers(1, 3))
def test_no_row_is_both_labelled_and_judged_and_unseen_users_share_no_response(seed, largest, rows_left):
    data = people_data(seed)
    found, _ = draw_users(data, largest, rows_left, DRAWS, seed)
    train, test = rows_of(data, "train"), rows_of(data, "test")
    for name, subjects in found.items():
        for size in (0, 1, largest, *([None] if name == "seen" else [])):
            labels = subjects.labels(size, every_draw=True)
            for (draw, user), rows in by_user(labels, subjects.num_users).items():
                pool = (train if name == "seen" else test)[int(subjects.code_U[user])]
                assert set(rows) <= pool
                assert len(rows) == len(set(rows)) == (len(pool) if size is None else min(size, len(pool)))
                keep_N = subjects.keep_RN[draw % len(subjects.keep_RN)]
                judged = subjects.row_N[keep_N & (subjects.user_N == user)]
                assert not set(rows) & set(judged.tolist())
                if name == "unseen":
                    assert not responses(data, rows) & responses(data, judged)
    if "seen" in found:
        assert found["seen"].keep_RN.all()


@few
@given(seeds, st.integers(1, 4), st.integers(1, 3))
def test_unseen_users_are_judged_on_all_rows_that_share_no_response_with_their_labels(seed, largest, rows_left):
    data = people_data(seed)
    found, _ = draw_users(data, largest, rows_left, DRAWS, seed)
    if "unseen" not in found:
        return
    subjects, test = found["unseen"], rows_of(data, "test")
    most = by_user(subjects.labels(largest, every_draw=True), subjects.num_users)
    for draw, keep_N in enumerate(subjects.keep_RN):
        for user, code in enumerate(subjects.code_U.tolist()):
            aside = responses(data, most[draw, user])
            free = {row for row in test[code] if not responses(data, [row]) & aside}
            judged = set(subjects.row_N[keep_N & (subjects.user_N == user)].tolist())
            assert judged == (free if len(free) >= rows_left else set())
    assert set(subjects.user_N[subjects.keep_RN.any(axis=0)].tolist()) == set(range(subjects.num_users))


@few
@given(seeds)
def test_a_larger_budget_holds_the_smaller_one_of_the_same_draw(seed):
    regimes, _ = draw_users(people_data(seed), 4, 1, DRAWS, seed)
    for regime in regimes.values():
        one, three = (by_user(regime.labels(size), regime.num_users) for size in (1, 3))
        assert all(rows == three[place][:1] for place, rows in one.items() if len(three) == len(one))


def test_draws_that_have_the_same_labels_are_one():
    regimes, _ = draw_users(people_data(0), 4, 1, DRAWS, seed=0)
    seen, unseen = regimes["seen"], regimes["unseen"]
    most = int(seen.place_L.max()) + 1
    draws = {size: seen.labels(size).num_draws for size in (0, 1, most - 1, most, None)}
    assert draws == {0: 1, 1: DRAWS, most - 1: DRAWS, most: 1, None: 1}
    assert [unseen.labels(size).num_draws for size in (0, 1, 4)] == [1, DRAWS, DRAWS]
    assert len(seen.labels(0).row_L) == 0


def test_draws_differ_and_a_seed_settles_them():
    data = people_data(0)
    first, again, other = (draw_users(data, 4, 1, DRAWS, seed)[0] for seed in (0, 0, 1))
    for name in ("seen", "unseen"):
        assert first[name].label_RL.tolist() == again[name].label_RL.tolist()
        assert first[name].label_RL.tolist() != other[name].label_RL.tolist()
        assert len(np.unique(first[name].label_RL, axis=0)) == DRAWS
        np.testing.assert_array_equal(np.sort(first[name].label_RL, axis=1), np.sort(other[name].label_RL, axis=1))


def test_every_label_is_as_likely_to_come_first():
    regimes, _ = draw_users(people_data(3), 4, 1, draws=2000, seed=0)
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
    regimes, _ = draw_users(people_data(1), 3, 1, DRAWS, seed=0)
    regime = regimes[name]
    values_RN = np.random.default_rng(0).normal(size=(draws, len(regime.row_N)))
    found_RU = regime.mean_by_user(values_RN)
    assert found_RU.shape == (max(draws, len(regime.keep_RN)), regime.num_users)
    for draw, found_U in enumerate(found_RU):
        keep_N, values_N = (each_RN[draw % len(each_RN)] for each_RN in (regime.keep_RN, values_RN))
        own = [values_N[keep_N & (regime.user_N == user)] for user in range(regime.num_users)]
        np.testing.assert_allclose(found_U, [each.mean() if len(each) else np.nan for each in own])


# Attributes


NAMES = ("brief", "warm", "bold")


def text_data(seed: int, prompts: int = 12, attributes: int = 3) -> PreferenceData:
    """Each prompt is in one split, judged once or twice by some attributes, and now and then by none."""
    generator = np.random.default_rng(seed)
    records, splits = [], []
    for split, count in (("train", prompts), ("test", prompts)):
        for prompt in range(count):
            for code in generator.permutation(attributes + 1):
                for _ in range(generator.integers(3)):
                    attribute = NAMES[code] if code < attributes else None
                    asked = (Message("user", f"{split} {prompt}"),)
                    records.append(Record(asked, f"A {len(records)}.", "B.", attribute=attribute))
                    splits.append(split)
    return from_records(records, splits, {})


@settings(max_examples=40)
@given(seeds, st.integers(1, 4), st.sampled_from(["train", "test"]))
def test_no_row_and_no_prompt_that_was_adapted_to_is_judged(seed, largest, labels_from):
    data = text_data(seed)
    try:
        subjects = draw_attributes(data, labels_from, largest, DRAWS, seed=seed)
    except UserError:
        assume(False)
    attribute_N, context_N = data.pairs.label_N("attribute").numpy(), data.pairs.context_N.numpy()
    known = [row for row in data.splits["test"].tolist() if attribute_N[row] >= 0]
    assert subjects.row_N.tolist() == known
    assert subjects.code_U[subjects.user_N].tolist() == attribute_N[known].tolist()
    pool = set(data.splits[labels_from].tolist())
    labels = subjects.labels(None if labels_from == "train" else largest, every_draw=True)
    for draw in range(DRAWS):
        keep_N = subjects.keep_RN[draw % len(subjects.keep_RN)]
        for number, code in enumerate(subjects.code_U):
            own = labels.row_L[labels.user_L == draw * subjects.num_users + number]
            assert len(own) >= largest
            assert set(own.tolist()) <= pool
            assert set(attribute_N[own].tolist()) == {code}
        used, judged = labels.of_draw(draw), subjects.row_N[keep_N]
        assert not set(judged.tolist()) & set(used.tolist())
        assert not set(context_N[judged].tolist()) & set(context_N[used].tolist())
        # Nobody else is left out, and every attribute has somebody.
        left_out = subjects.row_N[~keep_N]
        assert set(context_N[left_out].tolist()) <= set(context_N[used].tolist())
        assert set(subjects.user_N[keep_N].tolist()) == set(range(subjects.num_users))


@pytest.mark.parametrize("labels_from", ["train", "test"])
def test_few_labels_are_the_first_of_every_attribute(labels_from):
    subjects = draw_attributes(text_data(1, prompts=30), labels_from, 5, DRAWS, seed=0)
    most, four, two = (by_user(subjects.labels(size), 3) for size in (5, 4, 2))
    assert set(four) == {(draw, number) for draw in range(DRAWS) for number in range(3)}
    for place, rows in four.items():
        assert rows == most[place][:4]
        assert two[place] == rows[:2]
    assert not by_user(subjects.labels(0), 3)


def test_draws_of_attributes_differ_and_a_seed_settles_them():
    data = text_data(1, prompts=30)
    first, again, other = (draw_attributes(data, "train", 5, 2, seed).label_RL.tolist() for seed in (0, 0, 1))
    assert first == again
    assert first[0] != first[1]
    assert first != other


def test_budgets_beyond_the_rows_name_the_attribute():
    data = text_data(1)
    with pytest.raises(UserError, match=r"budgets: attribute '\w+' has \d+ train rows, and 99 labels"):
        draw_attributes(data, "train", 99, draws=2, seed=0)


@pytest.mark.parametrize("sharing", [False, True])
def test_labels_that_leave_an_attribute_nothing_to_judge_are_refused(sharing):
    """As many labels as `warm` has test rows; or fewer, but every test prompt of `warm` is also one of `brief`."""
    rows = [("brief", prompt) for prompt in range(9)] + [("warm", 0 if sharing else 20 + copy) for copy in range(3)]
    records = [
        Record((Message("user", f"{prompt}"),), f"A {row}.", "B.", attribute=name)
        for row, (name, prompt) in enumerate([*rows, ("brief", 100), ("warm", 100)])
    ]
    data = from_records(records, ["test"] * len(rows) + ["train"] * 2, {})
    with pytest.raises(UserError, match=r"budgets: .*'warm'"):
        draw_attributes(data, "test", 1 if sharing else 3, draws=3, seed=0)
