"""Tests of `micro_lit.adapt.elicitation`: what a question is worth, and that asking well saves labels."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import entr, expit, rel_entr

from micro_lit.adapt import labels, posterior
from micro_lit.adapt.elicitation import at_random, disagreement, elicit, information_gain

SCORES = {"information_gain": information_gain, "disagreement": disagreement}
each_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)


def case(seed, num_pairs=9, num_users=4, num_heads=5, scale=2.0):
    generator = np.random.default_rng(seed)
    margins_PK = scale * generator.normal(size=(num_pairs, num_heads))
    return margins_PK, generator.dirichlet(np.full(num_heads, 0.7), size=num_users)


def strategies(seed=0):
    return {**SCORES, "at_random": partial(at_random, generator=np.random.default_rng(seed))}


# Scores


@pytest.mark.parametrize("scale", [0.01, 2.0, 30.0, 1e3])
def test_information_gain_is_the_mutual_information_of_answer_and_head(scale):
    """By enumeration of the joint distribution of both."""
    margins_PK, weights_UK = case(0, scale=scale)
    answer_PK2 = np.stack([expit(margins_PK), expit(-margins_PK)], axis=-1)
    joint_UPK2 = weights_UK[:, None, :, None] * answer_PK2
    apart_UPK2 = joint_UPK2.sum(axis=2, keepdims=True) * joint_UPK2.sum(axis=3, keepdims=True)
    expected_UP = rel_entr(joint_UPK2, apart_UPK2).sum(axis=(2, 3))
    assert_allclose(information_gain(margins_PK, weights_UK), expected_UP, atol=1e-14)


def test_information_gain_is_the_entropy_that_the_posterior_is_expected_to_lose():
    margins_PK, weights_UK = case(1)
    gain_UP = information_gain(margins_PK, weights_UK)
    for user, weights_K in enumerate(weights_UK):
        for pair, margins_K in enumerate(margins_PK):
            expected = 0.0
            for label_K in (margins_K, -margins_K):
                after_1K = posterior(label_K[None], np.zeros(1, dtype=int), weights_K[None])
                expected += (weights_K @ expit(label_K)) * entr(after_1K).sum()
            assert gain_UP[user, pair] == pytest.approx(entr(weights_K).sum() - expected, abs=1e-13)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.integers(0, 12),
    st.integers(1, 5),
    st.integers(1, 8),
    st.sampled_from([1e-6, 0.1, 3, 1e3, 1e200]),
)
def test_a_question_tells_at_most_one_bit_and_at_most_what_is_not_known(seed, num_pairs, num_users, num_heads, scale):
    margins_PK, weights_UK = case(seed, num_pairs, num_users, num_heads, scale)
    gain_UP = information_gain(margins_PK, weights_UK)
    assert gain_UP.shape == (num_users, num_pairs)
    assert (gain_UP >= 0).all()
    unknown_U1 = entr(weights_UK).sum(axis=1, keepdims=True)
    assert (gain_UP <= np.minimum(np.log(2.0), unknown_U1) + 1e-13).all()
    assert np.isfinite(disagreement(margins_PK, weights_UK)).all()
    assert (disagreement(margins_PK, weights_UK) >= 0).all()


def test_both_bounds_are_reached():
    """Sure heads that contradict each other: one bit at equal weights, the entropy of the weights at others."""
    weights_UK = np.array([[0.5, 0.5], [0.9, 0.1]])
    gain_UP = information_gain(np.array([[1e3, -1e3], [np.inf, -np.inf]]), weights_UK)
    assert_allclose(gain_UP, np.repeat(entr(weights_UK).sum(axis=1, keepdims=True), 2, axis=1), rtol=1e-15)


def test_disagreement_is_the_weighted_variance():
    margins_PK, weights_UK = case(2)
    centred_UPK = margins_PK - (weights_UK @ margins_PK.T)[..., None]
    expected_UP = (weights_UK[:, None] * centred_UPK**2).sum(axis=2)
    assert_allclose(disagreement(margins_PK, weights_UK), expected_UP, rtol=1e-12)
    # What all heads share is no disagreement, however large.
    assert_allclose(disagreement(margins_PK + 1e6, weights_UK), expected_UP, rtol=1e-6)


def test_small_margins_tell_an_eighth_of_their_variance():
    margins_PK, weights_UK = case(3, scale=1e-3)
    assert_allclose(information_gain(margins_PK, weights_UK), disagreement(margins_PK, weights_UK) / 8, rtol=1e-5)


@each_score
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), num_heads=st.integers(1, 7), scale=st.sampled_from([0.1, 3, 40]))
def test_swapping_sides_changes_no_score_and_permuting_heads_none_but_by_rounding(score, seed, num_heads, scale):
    margins_PK, weights_UK = case(seed, num_pairs=20, num_heads=num_heads, scale=scale)
    generator = np.random.default_rng(seed)
    sign_P1, order_K = generator.choice([-1.0, 1.0], size=(20, 1)), generator.permutation(num_heads)
    scores_UP = score(margins_PK, weights_UK)
    assert_array_equal(score(sign_P1 * margins_PK, weights_UK), scores_UP)
    assert_allclose(score(margins_PK[:, order_K], weights_UK[:, order_K]), scores_UP, rtol=1e-9, atol=1e-13 * scale**2)


@each_score
def test_nothing_is_asked_of_a_user_whose_head_is_known(score):
    margins_PK, _ = case(4, scale=50.0)
    assert_array_equal(score(margins_PK, np.eye(5)), np.zeros((5, 9)))
    assert_array_equal(score(margins_PK[:, :1], np.ones((3, 1))), np.zeros((3, 9)))


@each_score
def test_rounding_makes_no_score_negative_where_there_is_all_but_nothing_to_ask(score):
    """Heads that agree, in thousands of sums of weights of which some are above 1; and heads all but known."""
    generator = np.random.default_rng(4)
    margin_P1 = np.concatenate([np.linspace(-8, 8, 33), [-1e3, 1e3]])[:, None]
    agreed_UP = score(np.tile(margin_P1, (1, 7)), generator.dirichlet(np.ones(7), size=300))
    assert (agreed_UP >= 0).all()
    assert (agreed_UP < 1e-14).all()
    known_UK = generator.dirichlet(np.full(7, 0.01), size=300)
    assert (score(generator.normal(size=(30, 7)), known_UK) >= 0).all()


@each_score
def test_a_score_is_of_its_pair_and_user_alone_to_the_last_bit(score, monkeypatch):
    """So equal pairs tie, and users of one prior are asked the same; also when the pool comes in blocks."""
    margins_PK, weights_UK = case(5, num_pairs=50, num_users=7)
    scores_UP = score(margins_PK, weights_UK)
    alone_UP = [[score(pair_K[None], user_K[None]).item() for pair_K in margins_PK] for user_K in weights_UK]
    assert_array_equal(scores_UP, alone_UP)
    monkeypatch.setattr(labels, "BLOCK_VALUES", 7 * 8)
    assert_array_equal(score(margins_PK, weights_UK), scores_UP)


@each_score
def test_weights_count_by_their_shares_and_heads_of_weight_0_do_not_count(score):
    margins_PK, weights_UK = case(6)
    expected_UP = score(margins_PK, weights_UK)
    assert_allclose(score(margins_PK, weights_UK * (1 + 5e-6)), expected_UP, rtol=1e-12)
    deaf_PK, deaf_UK = np.hstack([margins_PK, 7 * margins_PK[:, :1]]), np.hstack([weights_UK, np.zeros((4, 1))])
    assert_allclose(score(deaf_PK, deaf_UK), expected_UP, rtol=1e-12)
    single_UP = score(margins_PK.astype(np.float32), weights_UK.astype(np.float32))
    assert single_UP.dtype == np.float64
    assert_allclose(single_UP, expected_UP, rtol=1e-4)


def test_information_gain_asks_what_splits_the_heads():
    """Of pairs that split the heads, all find sure, all toss a coin about, and all find sure by unequal margins."""
    margins_PK = np.array([[2.0, -2.0], [30.0, 30.0], [0.0, 0.0], [50.0, 5.0]])
    split, agreed, coin, lopsided = information_gain(margins_PK, np.full((1, 2), 0.5))[0]
    assert split > 0.3
    assert agreed == pytest.approx(0.0, abs=1e-15)
    assert coin == 0.0
    assert lopsided < 0.01
    # The cheap rival is taken in by the last.
    assert disagreement(margins_PK, np.full((1, 2), 0.5))[0].argmax() == 3


# The loop


def planted(seed, num_users, pairs_each, num_heads=8, scale=2.0):
    """Users who keep to one head, each with pairs of their own in a pool of all: margins, allowed pairs, heads.

    In each pair the heads share a part of their reward, and pairs differ in how much there is to feel about them.
    """
    generator = np.random.default_rng(seed)
    size_UP1 = generator.choice([0.1, 1.0, 2.0], size=(num_users, pairs_each, 1))
    margins_UPK = scale * size_UP1 * generator.normal(size=(num_users, pairs_each, num_heads))
    margins_UPK += 2 * scale * generator.normal(size=(num_users, pairs_each, 1))
    head_U = generator.integers(num_heads, size=num_users)
    first_UP = generator.random((num_users, pairs_each)) < expit(margins_UPK[np.arange(num_users), :, head_U])
    labelled_UPK = np.where(first_UP[..., None], margins_UPK, -margins_UPK)
    allowed_UP = np.repeat(np.eye(num_users, dtype=bool), pairs_each, axis=1)
    return labelled_UPK.reshape(-1, num_heads), allowed_UP, head_U


def test_asking_what_tells_most_finds_the_head_with_half_the_labels_of_asking_at_random():
    """Half is a wide margin: it takes about a fifth."""
    num_users, steps = 80, 30
    margins_PK, allowed_UP, head_U = planted(0, num_users, 60)
    prior_UK = np.full((num_users, 8), 1 / 8)
    needed = {}
    for name, strategy in strategies().items():
        weights_TUK = elicit(margins_PK, allowed_UP, prior_UK, strategy, steps).weights_TUK
        mass_T = weights_TUK[:, np.arange(num_users), head_U].mean(axis=1)
        assert mass_T[-1] > 0.8
        needed[name] = int(np.argmax(mass_T > 0.8))
    assert 2 * needed["information_gain"] <= needed["at_random"]
    assert needed["information_gain"] <= needed["disagreement"]


@pytest.mark.parametrize("name", strategies())
def test_each_question_is_the_best_that_is_left_and_the_weights_are_the_posterior(name):
    generator = np.random.default_rng(7)
    margins_PK, prior_UK = case(7, num_pairs=30, num_users=6)
    allowed_UP = generator.random((6, 30)) < 0.7
    asked_UN, weights_TUK = elicit(margins_PK, allowed_UP, prior_UK, strategies(11)[name], 12)
    assert asked_UN.shape == (6, 12)
    assert_array_equal(weights_TUK[0], prior_UK)
    replayed = strategies(11)[name]
    for step in range(13):
        rows_N = asked_UN[:, :step].ravel()
        expected_UK = posterior(margins_PK[rows_N], np.repeat(np.arange(6), step), prior_UK)
        assert_allclose(weights_TUK[step], expected_UK, rtol=1e-11)
    for step in range(12):
        # Sides at random: the score that chose is blind to which was chosen.
        sign_P1 = generator.choice([-1.0, 1.0], size=(30, 1))
        scores_UP = replayed(sign_P1 * margins_PK, weights_TUK[step])
        for user, asked_N in enumerate(asked_UN):
            left = set(np.flatnonzero(allowed_UP[user])) - set(asked_N[:step])
            assert asked_N[step] in left
            assert scores_UP[user, asked_N[step]] == max(scores_UP[user, pair] for pair in left)


def test_even_a_strategy_that_looks_for_the_side_chosen_cannot_see_it():
    margins_PK, prior_UK = case(8, num_pairs=30)
    margins_PK[:10, 0] = 0.0
    shown = []

    def peeping(margins_PK, weights_UK):
        shown.append(margins_PK)
        return weights_UK @ margins_PK.T

    for sign_P1 in (np.ones((30, 1)), np.random.default_rng(8).choice([-1.0, 1.0], size=(30, 1))):
        elicit(sign_P1 * margins_PK, np.ones((4, 30), dtype=bool), prior_UK, peeping, 1)
    assert_array_equal(shown[0], shown[1])
    assert_array_equal(np.abs(shown[0]), np.abs(margins_PK))


@pytest.mark.parametrize("name", strategies())
def test_a_pool_can_be_asked_to_its_end_each_pair_once(name):
    margins_PK, prior_UK = case(9)
    asked_UN, weights_TUK = elicit(margins_PK, np.ones((4, 9), dtype=bool), prior_UK, strategies()[name], 9)
    assert_array_equal(np.sort(asked_UN, axis=1), np.tile(np.arange(9), (4, 1)))
    everything_UK = posterior(np.tile(margins_PK, (4, 1)), np.repeat(np.arange(4), 9), prior_UK)
    assert_allclose(weights_TUK[-1], everything_UK, rtol=1e-12)


@each_score
def test_ties_go_to_the_first_pair_and_users_side_by_side_are_as_each_alone(score):
    margins_PK, prior_UK = case(10, num_pairs=20)
    twice_PK, allowed_UP = np.vstack([margins_PK, margins_PK]), np.ones((4, 40), dtype=bool)
    allowed_UP[0, :20] = False
    asked_UN, weights_TUK = elicit(twice_PK, allowed_UP, prior_UK, score, 10)
    assert (asked_UN[0] >= 20).all()
    for asked_N in asked_UN[1:]:
        for step, pair in enumerate(asked_N):
            assert pair < 20 or pair - 20 in asked_N[:step]
    for user in range(4):
        one = slice(user, user + 1)
        alone = elicit(twice_PK, allowed_UP[one], prior_UK[one], score, 10)
        assert_array_equal(alone.asked_UN[0], asked_UN[user])
        assert_array_equal(alone.weights_TUK[:, 0], weights_TUK[:, user])


@pytest.mark.parametrize("name", strategies())
def test_one_head_sure_margins_no_question_and_no_pool_are_no_trouble(name):
    margins_PK = np.array([[1e3, -1e3], [-1e3, 1e3], [np.inf, -np.inf], [0.0, 0.0]])
    allowed_UP, strategy = np.ones((1, 4), dtype=bool), strategies()[name]
    _, weights_TUK = elicit(margins_PK, allowed_UP, np.array([[0.5, 0.5]]), strategy, 4)
    assert_allclose(weights_TUK.sum(axis=2), 1.0)
    closed_TUK = elicit(margins_PK, allowed_UP, np.array([[0.0, 1.0]]), strategy, 4).weights_TUK
    assert_array_equal(closed_TUK, np.tile([0.0, 1.0], (5, 1, 1)))
    one_TUK = elicit(margins_PK[:, :1], allowed_UP, np.ones((1, 1)), strategy, 4).weights_TUK
    assert_array_equal(one_TUK, np.ones((5, 1, 1)))
    nothing = elicit(np.zeros((0, 2)), np.ones((1, 0), dtype=bool), np.array([[0.3, 0.7]]), strategy, 0)
    assert nothing.asked_UN.shape == (1, 0)
    assert_array_equal(nothing.weights_TUK, [[[0.3, 0.7]]])


def test_random_questions_are_the_generators_and_leave_no_pair_out():
    margins_PK, prior_UK = np.zeros((5, 2)), np.full((400, 2), 0.5)
    allowed_UP = np.ones((400, 5), dtype=bool)
    first, again, other = (
        elicit(margins_PK, allowed_UP, prior_UK, strategies(seed)["at_random"], 2).asked_UN for seed in (0, 0, 1)
    )
    assert_array_equal(first, again)
    assert (first != other).any()
    # 80 of each pair expected, five standard deviations are 40.
    assert (np.abs(np.bincount(first[:, 1], minlength=5) - 80) < 40).all()


def test_bad_input_is_named_with_a_remedy():
    margins_PK, prior_UK = case(11, num_pairs=3, num_users=2, num_heads=2)
    allowed_UP = np.array([[True, True, True], [True, False, True]])

    def ask(margins_PK=margins_PK, allowed_UP=allowed_UP, prior_UK=prior_UK, strategy=information_gain, number=2):
        return elicit(margins_PK, allowed_UP, prior_UK, strategy, number)

    ask()
    with pytest.raises(ValueError, match="user 1 may be asked 2 pairs, and num_questions is 3; allow more pairs"):
        ask(number=3)
    with pytest.raises(ValueError, match=r"shape \(2, 2\); give a row each of 2 users and a column each of 3 pairs"):
        ask(allowed_UP=allowed_UP[:, :2])
    with pytest.raises(ValueError, match="num_questions is -1"):
        ask(number=-1)
    with pytest.raises(ValueError, match="scores at question 0 are not all finite"):
        ask(strategy=lambda margins_PK, weights_UK: np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="prior of user 0 sums to 2"):
        ask(prior_UK=np.ones((2, 2)))
    missing_PK = margins_PK.copy()
    missing_PK[1, 0] = np.nan
    for bad in (ask, lambda margins_PK: disagreement(margins_PK, prior_UK)):
        with pytest.raises(ValueError, match="pair 1 is NaN for head 0"):
            bad(missing_PK)
    with pytest.raises(ValueError, match="each of the prior's 2 heads"):
        information_gain(np.zeros((3, 5)), prior_UK)
