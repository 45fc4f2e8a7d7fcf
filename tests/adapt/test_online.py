"""Tests of `micro_lit.adapt.online`: what it promises, on streams at random and against adversaries."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from micro_lit.adapt import HedgeState, OnlineHedge, regret

STEPS = 120
HORIZONS = [STEPS, None]
RIGHT, WRONG = 1e9, -1e9  # margins whose loss is 0 and, at any ceiling, 1


def even(num_users, num_heads):
    return np.full((num_users, num_heads), 1 / num_heads)


def promise(hedge, losses_TUK, weights_TUK):
    """Regret over bound at every step, which must not be above 1."""
    bound_T = hedge.bound(np.arange(1, len(losses_TUK) + 1), losses_TUK.shape[-1])
    return regret(losses_TUK, weights_TUK) / bound_T[:, None]


# Adversaries: from the weights [U, K] about to be used, the losses so far [U, K] and the step, a loss of 0 or 1 a head


def only(head_U, num_heads):
    return np.arange(num_heads) == head_U[:, None]


def heaviest_head_errs(weights_UK, loss_UK, step):
    return only(weights_UK.argmax(axis=1), weights_UK.shape[1])


def only_the_lightest_head_is_right(weights_UK, loss_UK, step):
    return ~only(weights_UK.argmin(axis=1), weights_UK.shape[1])


def leader_errs(weights_UK, loss_UK, step):
    return only(loss_UK.argmin(axis=1), loss_UK.shape[1])


def only_the_last_is_right(weights_UK, loss_UK, step):
    return ~only(loss_UK.argmax(axis=1), loss_UK.shape[1])


def leaders_alternate(weights_UK, loss_UK, step):
    return np.broadcast_to(np.arange(weights_UK.shape[1]) % 2 == step % 2, weights_UK.shape)


def leader_falls_behind_halfway(weights_UK, loss_UK, step):
    return ~only(np.full(len(loss_UK), 0 if step < STEPS // 2 else -1) % loss_UK.shape[1], loss_UK.shape[1])


def heavier_half_errs(weights_UK, loss_UK, step):
    return weights_UK.argsort(axis=1).argsort(axis=1) >= weights_UK.shape[1] // 2


def coins(weights_UK, loss_UK, step):
    return np.random.default_rng(step).random(weights_UK.shape) < 0.5


def heaviest_head_errs_often(weights_UK, loss_UK, step):
    return heaviest_head_errs(weights_UK, loss_UK, step) & (np.random.default_rng(step).random() < 0.7)


def a_new_head_is_right_each_step(weights_UK, loss_UK, step):
    return ~only(np.full(len(loss_UK), step % loss_UK.shape[1]), loss_UK.shape[1])


ADVERSARIES = [
    heaviest_head_errs,
    only_the_lightest_head_is_right,
    leader_errs,
    only_the_last_is_right,
    leaders_alternate,
    leader_falls_behind_halfway,
    heavier_half_errs,
    coins,
    heaviest_head_errs_often,
    a_new_head_is_right_each_step,
]


def against(adversary, hedge, prior_UK, steps=STEPS):
    """Losses and weights [T, U, K] of streams that an adversary makes up as it goes."""
    state, losses, weights = hedge.start(prior_UK), [], []
    for step in range(steps):
        weights.append(hedge.weights(state))
        margins_UK = np.where(adversary(weights[-1], state.loss_UK, step), WRONG, RIGHT)
        losses.append(hedge.losses(margins_UK))
        state = hedge.update(state, margins_UK, np.arange(len(prior_UK)))
    return np.stack(losses), np.stack(weights)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("num_heads", [2, 10])
def test_regret_is_as_promised_on_a_thousand_random_streams(horizon, num_heads):
    """500 streams a number of heads: heads of all qualities, margins of all sizes; at every step of each."""
    generator = np.random.default_rng(num_heads)
    quality_UK = generator.normal(size=(500, num_heads)) * generator.choice([0.1, 1.0, 5.0], size=(500, 1))
    spread_UK = generator.choice([0.1, 2.0, 20.0], size=(500, num_heads))
    margins_TUK = quality_UK + spread_UK * generator.normal(size=(STEPS, 500, num_heads))
    hedge = OnlineHedge(horizon)
    weights_TUK, _ = hedge.play(hedge.start(even(500, num_heads)), margins_TUK)
    assert promise(hedge, hedge.losses(margins_TUK), weights_TUK).max() <= 1.0


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_regret_is_as_promised_on_a_hundred_adversarial_streams(adversary, horizon):
    """Ten numbers of heads an adversary, and for each horizon; at every step of each."""
    hedge = OnlineHedge(horizon)
    for num_heads in (2, 3, 4, 5, 6, 8, 12, 16, 32, 100):
        assert promise(hedge, *against(adversary, hedge, even(1, num_heads))).max() <= 1.0


def test_the_promise_is_not_an_empty_one():
    """An adversary uses nine tenths of it, and following the leader breaks it."""
    hedge = OnlineHedge(STEPS)
    assert promise(hedge, *against(leader_falls_behind_halfway, hedge, even(1, 10))).max() > 0.9

    losses_TUK, leader_TUK = np.zeros((STEPS, 1, 2)), np.zeros((STEPS, 1, 2))
    for step in range(STEPS):
        leader_TUK[step] = losses_TUK[step] = np.eye(2)[losses_TUK.sum(axis=0).argmin(axis=1)]
    assert promise(hedge, losses_TUK, leader_TUK)[-1, 0] > 2.0


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_with_a_prior_every_head_has_a_bound_of_its_own(adversary, horizon):
    hedge, prior_UK = OnlineHedge(horizon), np.array([[0.9, 0.06, 0.03, 0.01]])
    losses_TUK, weights_TUK = against(adversary, hedge, prior_UK)
    own_T = np.cumsum((weights_TUK * losses_TUK).sum(axis=-1)[:, 0])
    for head in range(4):
        bound_T = hedge.bound(np.arange(1, STEPS + 1), 4, prior_UK[0, head])
        assert (own_T - np.cumsum(losses_TUK[:, 0, head]) <= bound_T).all()


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_the_posterior_regrets_at_most_log_heads_in_nats(adversary):
    """What the docstring of `posterior` says of its use online, here of losses up to 4 nats."""
    num_heads = 5
    loss_1K, own = np.zeros((1, num_heads)), 0.0
    for step in range(STEPS):
        weights_1K = np.exp(loss_1K.min() - loss_1K)
        weights_1K /= weights_1K.sum()
        margins_1K = np.where(adversary(weights_1K, loss_1K, step), -4.0, 4.0)
        own -= np.log(weights_1K @ expit(margins_1K[0])).item()
        loss_1K += np.logaddexp(0.0, -margins_1K)
        assert own <= loss_1K.min() + np.log(num_heads) + 1e-9


def test_bounds_by_their_formulas():
    assert OnlineHedge(200).bound(200, 8) == pytest.approx(np.sqrt(200 * np.log(8) / 2), rel=1e-14)
    assert_allclose(
        OnlineHedge().bound(np.array([0, 1, 7, 500]), 8), np.sqrt(np.array([0, 1, 7, 500]) * np.log(8)), rtol=1e-14
    )
    # A head of more prior is regretted less.
    assert OnlineHedge(200).bound(200, 8, 0.5) < OnlineHedge(200).bound(200, 8) < OnlineHedge(200).bound(200, 8, 0.01)
    # And no sum of step sizes is above what the bound takes it for.
    steps = np.arange(1, 1000)
    assert (np.cumsum(2 * np.sqrt(np.log(8) / steps)) <= 4 * np.sqrt(np.log(8) * steps)).all()


@pytest.mark.parametrize("horizon", HORIZONS)
def test_weights_by_hand(horizon):
    """Two labels of one user, three heads, from a prior."""
    prior_1K, ceiling = np.array([[0.5, 0.3, 0.2]]), 1.5
    margins_2K = np.array([[1.0, -0.5, -20.0], [0.2, 0.0, 3.0]])
    hedge = OnlineHedge(horizon, ceiling)
    weights_TUK, state = hedge.play(hedge.start(prior_1K), margins_2K[:, None])
    assert_array_equal(weights_TUK[0], prior_1K)
    loss_2K = np.minimum(np.logaddexp(0.0, -margins_2K), ceiling) / ceiling
    for step, found_1K in ((2, weights_TUK[1]), (3, hedge.weights(state))):
        size = np.sqrt(8 * np.log(3) / STEPS) if horizon else 2 * np.sqrt(np.log(3) / step)
        expected_1K = prior_1K * np.exp(-size * loss_2K[: step - 1].sum(axis=0))
        assert_allclose(found_1K, expected_1K / expected_1K.sum(), rtol=1e-13)
    assert_array_equal(state.steps_U, [2])
    assert_allclose(state.loss_UK[0], loss_2K.sum(axis=0), rtol=1e-15)


def test_losses_are_scaled_and_clipped_into_0_and_1():
    hedge = OnlineHedge(ceiling=np.log(2.0) * 4)
    margin = np.array([np.inf, 1e9, 0.0, -1e9, -np.inf])
    assert_allclose(hedge.losses(margin), [0.0, 0.0, 0.25, 1.0, 1.0], atol=1e-15)


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 6), st.integers(0, 12), st.booleans())
def test_a_state_goes_to_json_and_back_to_the_last_bit_and_goes_on(seed, num_users, num_heads, steps, known):
    generator = np.random.default_rng(seed)
    hedge = OnlineHedge(40 if known else None)
    prior_UK = generator.dirichlet(np.ones(num_heads), size=num_users)
    margins_TUK = generator.normal(size=(20, num_users, num_heads))
    _, state = hedge.play(hedge.start(prior_UK), margins_TUK[:steps])
    restored = HedgeState.from_json(json.loads(json.dumps(state.to_json())))
    for before, after in zip(state, restored, strict=True):
        assert_array_equal(after, before)
        assert after.dtype == before.dtype
    for went_on, never_stopped in zip(
        hedge.play(restored, margins_TUK[steps:])[1], hedge.play(hedge.start(prior_UK), margins_TUK)[1], strict=True
    ):
        assert_array_equal(went_on, never_stopped)


@pytest.mark.parametrize("horizon", HORIZONS)
def test_users_side_by_side_are_as_each_alone_whoever_labels_when(horizon):
    generator = np.random.default_rng(0)
    hedge, prior_UK = OnlineHedge(horizon), generator.dirichlet(np.ones(3), size=4)
    state, alone = hedge.start(prior_UK), [hedge.start(prior_UK[[user]]) for user in range(4)]
    for _ in range(50):
        user_S = np.flatnonzero(generator.random(4) < 0.5)
        margins_SK = generator.normal(size=(len(user_S), 3))
        state = hedge.update(state, margins_SK, user_S)
        for user, margins_K in zip(user_S, margins_SK, strict=True):
            alone[user] = hedge.update(alone[user], margins_K[None], np.zeros(1, dtype=int))
    assert_array_equal(hedge.weights(state), np.concatenate([hedge.weights(one) for one in alone]))


@pytest.mark.parametrize("horizon", HORIZONS)
def test_permuting_heads_permutes_weights_and_closed_heads_stay_closed(horizon):
    generator = np.random.default_rng(1)
    margins_TUK, prior_UK = generator.normal(size=(30, 2, 4)), np.array([[0.5, 0.0, 0.3, 0.2], [0.0, 0.0, 0.0, 1.0]])
    hedge, order_K = OnlineHedge(horizon), [2, 0, 3, 1]
    weights_TUK, _ = hedge.play(hedge.start(prior_UK), margins_TUK)
    permuted_TUK, _ = hedge.play(hedge.start(prior_UK[:, order_K]), margins_TUK[..., order_K])
    assert_allclose(permuted_TUK, weights_TUK[..., order_K], rtol=1e-12)
    assert ((weights_TUK == 0) == (prior_UK == 0)).all()
    assert_array_equal(weights_TUK[:, 1], np.tile(prior_UK[1], (30, 1)))


@pytest.mark.parametrize("horizon", HORIZONS)
def test_one_head_has_weight_one_and_nothing_to_regret(horizon):
    hedge = OnlineHedge(horizon)
    margins_TUK = np.random.default_rng(2).normal(size=(30, 2, 1))
    weights_TUK, _ = hedge.play(hedge.start(np.ones((2, 1))), margins_TUK)
    assert_array_equal(weights_TUK, np.ones((30, 2, 1)))
    assert_array_equal(regret(hedge.losses(margins_TUK), weights_TUK), np.zeros((30, 2)))
    assert_array_equal(hedge.bound(np.arange(31), 1), np.zeros(31))


def test_update_changes_no_state_but_makes_a_new_one():
    hedge = OnlineHedge()
    state = hedge.start(even(2, 3))
    hedge.update(state, np.ones((1, 3)), np.array([1]))
    assert_array_equal(state.steps_U, [0, 0])
    assert_array_equal(state.loss_UK, np.zeros((2, 3)))


def test_bad_input_is_named_with_a_remedy():
    hedge = OnlineHedge(horizon=2)
    state = hedge.start(even(3, 2))
    label = np.ones((1, 2))
    with pytest.raises(ValueError, match="two labels in one step; give them one after the other"):
        hedge.update(state, np.ones((2, 2)), np.array([1, 1]))
    with pytest.raises(ValueError, match="pair 0 is of user 3; users count from 0 to 2"):
        hedge.update(state, label, np.array([3]))
    with pytest.raises(ValueError, match="pair 0 is NaN for head 1"):
        hedge.update(state, np.array([[0.0, np.nan]]), np.array([0]))
    for _ in range(2):
        state = hedge.update(state, label, np.array([1]))
    with pytest.raises(ValueError, match="user 1 gave more labels than the horizon of 2; start with"):
        hedge.update(state, label, np.array([1]))
    with pytest.raises(ValueError, match="prior of user 0 sums to 2"):
        hedge.start(np.ones((1, 2)))
    for settings_ in ({"horizon": 0}, {"horizon": -5}, {"ceiling": 0.0}, {"ceiling": np.inf}):
        with pytest.raises(ValueError, match="give a number above 0"):
            OnlineHedge(**settings_)
