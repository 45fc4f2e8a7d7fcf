"""What every adaptation promises, whatever its formula: tests of `micro_lit.adapt`."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from micro_lit import adapt
from micro_lit.adapt import labels

METHODS = {
    "prior": adapt.prior,
    "uniform": adapt.uniform,
    "posterior": adapt.posterior,
    "posterior, warm": partial(adapt.posterior, temperature=3.0),
    "hyre": adapt.hyre,
    "hedge": adapt.hedge,
    "hedge, MiCRo's tau": partial(adapt.hedge, tau=1e-4),
    "few_shot_logits": partial(adapt.few_shot_logits, tolerance=1e-10),
    "few_shot_logits, reward": partial(adapt.few_shot_logits, link="reward", tolerance=1e-10),
    "mixture_em": partial(adapt.mixture_em, tolerance=1e-10),
    "best_head_oracle": adapt.best_head_oracle,
}
FROM_PRIOR = [name for name in METHODS if name not in ("uniform", "hyre")]
# Fits end within a tolerance of the least loss; their weights are as near as the loss is curved.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}

each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def case(seed, num_users=5, num_heads=4, most=12, scale=2.0):
    """Margins, users and a prior; users have from 0 to `most` labels, in a random order of rows; the last has none."""
    generator = np.random.default_rng(seed)
    count_U = generator.integers(0, most + 1, size=num_users)
    count_U[-1] = 0
    user_N = generator.permutation(np.repeat(np.arange(num_users), count_U))
    margins_NK = scale * generator.normal(size=(len(user_N), num_heads))
    return margins_NK, user_N, generator.dirichlet(np.ones(num_heads), size=num_users)


@each_method
@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(0, 6), st.integers(1, 6), st.integers(0, 30), st.sampled_from([0.01, 1, 10]))
def test_weights_are_weights(method, seed, num_users, num_heads, most, scale):
    if num_users == 0:
        given_ = np.zeros((0, num_heads)), np.zeros(0, dtype=int), np.zeros((0, num_heads))
    else:
        given_ = case(seed, num_users, num_heads, most, scale)
    weights_UK = method(*given_)
    assert weights_UK.shape == given_[2].shape
    assert weights_UK.dtype == np.float64
    assert (weights_UK >= 0).all()
    assert_allclose(weights_UK.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("name", FROM_PRIOR)
def test_without_labels_the_prior_is_kept_to_the_last_bit(name):
    margins_NK, user_N, prior_UK = case(0)
    assert_array_equal(METHODS[name](margins_NK, user_N, prior_UK)[-1], prior_UK[-1])
    assert_array_equal(METHODS[name](margins_NK[:0], user_N[:0], prior_UK), prior_UK)


@pytest.mark.parametrize("name", ["uniform", "hyre"])
def test_without_labels_and_prior_heads_are_equal(name):
    margins_NK, user_N, prior_UK = case(0)
    assert_array_equal(METHODS[name](margins_NK, user_N, prior_UK)[-1], np.full(4, 0.25))


@each_method
def test_one_head_has_weight_one(method):
    margins_NK, user_N, _ = case(1, num_heads=1)
    assert_array_equal(method(margins_NK, user_N, np.ones((5, 1))), np.ones((5, 1)))


@each_method
def test_the_prior_handed_in_is_not_changed(method):
    margins_NK, user_N, prior_UK = case(2)
    before_UK = prior_UK.copy()
    weights_UK = method(margins_NK, user_N, prior_UK)
    weights_UK[:] = -1.0
    assert_array_equal(prior_UK, before_UK)


@each_method
@pytest.mark.parametrize("seed", range(5))
def test_order_of_labels_does_not_matter(method, seed):
    margins_NK, user_N, prior_UK = case(seed)
    order_N = np.random.default_rng(seed).permutation(len(user_N))
    found_UK = method(margins_NK[order_N], user_N[order_N], prior_UK)
    assert_allclose(found_UK, method(margins_NK, user_N, prior_UK), **CLOSE)


@each_method
@pytest.mark.parametrize("seed", range(5))
def test_permuting_heads_permutes_weights(method, seed):
    margins_NK, user_N, prior_UK = case(seed)
    order_K = np.random.default_rng(seed).permutation(4)
    found_UK = method(margins_NK[:, order_K], user_N, prior_UK[:, order_K])
    assert_allclose(found_UK, method(margins_NK, user_N, prior_UK)[:, order_K], **CLOSE)


@each_method
@pytest.mark.parametrize("seed", range(5))
def test_many_users_at_once_are_as_each_alone(method, seed):
    margins_NK, user_N, prior_UK = case(seed, num_users=7, most=20)
    together_UK = method(margins_NK, user_N, prior_UK)
    for user in range(7):
        rows = user_N == user
        alone_1K = method(margins_NK[rows], np.zeros(rows.sum(), dtype=int), prior_UK[[user]])
        assert_allclose(alone_1K[0], together_UK[user], **CLOSE)


@each_method
def test_blocks_of_any_size_give_the_same(method, monkeypatch):
    margins_NK, user_N, prior_UK = case(3, num_users=9, most=20)
    whole_UK = method(margins_NK, user_N, prior_UK)
    for values in (1, 10, 100):
        monkeypatch.setattr(labels, "BLOCK_VALUES", values)
        assert_allclose(method(margins_NK, user_N, prior_UK), whole_UK, **CLOSE)


@each_method
@pytest.mark.parametrize("seed", range(5))
def test_a_head_of_prior_zero_is_as_a_head_that_is_not_there(method, seed):
    """Even where it alone would explain the labels, and where it alone would not."""
    margins_NK, user_N, prior_UK = case(seed)
    dead_N1 = np.where(np.arange(len(user_N)) % 2, 50.0, -np.inf)[:, None]
    wider_UK = np.hstack([np.zeros((5, 1)), prior_UK])
    found_UK = method(np.hstack([dead_N1, margins_NK]), user_N, wider_UK)
    assert_array_equal(found_UK[:, 0], np.zeros(5))
    assert_allclose(found_UK[:, 1:], method(margins_NK, user_N, prior_UK), **CLOSE)


@each_method
def test_different_heads_may_be_closed_to_different_users(method):
    margins_NK, user_N, prior_UK = case(4)
    prior_UK[np.arange(5), np.arange(5) % 4] = 0.0
    prior_UK /= prior_UK.sum(axis=1, keepdims=True)
    assert (method(margins_NK, user_N, prior_UK)[prior_UK == 0.0] == 0.0).all()


@each_method
def test_flipping_labels_swaps_a_head_and_its_negation(method):
    """With heads (r, -r) the flip of all labels is a permutation of the heads."""
    margins_NK, user_N, _ = case(5, num_heads=3)
    both_NK, even_UK = np.hstack([margins_NK, -margins_NK]), np.full((5, 6), 1 / 6)
    flipped_UK = method(-both_NK, user_N, even_UK)
    assert_allclose(flipped_UK, np.roll(method(both_NK, user_N, even_UK), 3, axis=1), **CLOSE)


ADAPTING = {name: METHODS[name] for name in METHODS if name not in ("prior", "uniform")}
each_adapting = pytest.mark.parametrize("name", ADAPTING)


@each_adapting
@pytest.mark.parametrize("margin", [0.0, 7.0, -7.0, 800.0, -800.0, 1e300, -1e300])
def test_labels_on_which_all_heads_agree_change_nothing(name, margin):
    prior_UK = np.array([[0.2, 0.3, 0.5]])
    weights_UK = METHODS[name](np.full((4, 3), margin), np.zeros(4, dtype=int), prior_UK)
    assert_allclose(weights_UK[0], np.full(3, 1 / 3) if name == "hyre" else prior_UK[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "margin"),
    [(name, 800.0) for name in ADAPTING]
    # Among such rewards a mixed one is a matter of the last bits of the weights.
    + [(name, margin) for name in ADAPTING if name != "few_shot_logits, reward" for margin in (1e200, np.inf)],
)
def test_huge_margins_name_the_head_that_is_right(name, margin):
    """Head 0 is right without a doubt, head 1 undecided, head 2 wrong without a doubt, head 3 as wrong, once."""
    margins_NK = np.array([[margin, 0.0, -margin, margin], [margin, 0.0, -margin, -margin]])
    weights_K = METHODS[name](margins_NK, np.zeros(2, dtype=int), np.full((1, 4), 0.25))[0]
    assert np.isfinite(weights_K).all()
    assert weights_K.argmax() == 0
    assert weights_K[1] >= weights_K[2]


@each_adapting
def test_single_precision_and_other_integers_are_taken(name):
    margins_NK, user_N, prior_UK = case(6)
    found_UK = METHODS[name](margins_NK.astype(np.float32), user_N.astype(np.int32), prior_UK.astype(np.float32))
    assert_allclose(found_UK, METHODS[name](margins_NK, user_N, prior_UK), **CLOSE)


# Bad input


def bad_inputs():
    margins_NK, user_N, prior_UK = case(7)
    negative_UK, half_UK, nan_UK = prior_UK.copy(), prior_UK.copy(), prior_UK.copy()
    negative_UK[2, 1], nan_UK[3, 0] = -0.1, np.nan
    half_UK[1] /= 2
    nan_NK, far_N, below_N = margins_NK.copy(), user_N.copy(), user_N.copy()
    nan_NK[4, 2], far_N[6], below_N[5] = np.nan, 5, -1
    return {
        "prior of user 2 is -0.1 for head 1; give": (margins_NK, user_N, negative_UK),
        "prior of user 3 is nan for head 0; give": (margins_NK, user_N, nan_UK),
        "prior of user 1 sums to 0.5; divide": (margins_NK, user_N, half_UK),
        r"prior has shape \(5, 0\); give": (margins_NK[:, :0], user_N, prior_UK[:, :0]),
        r"prior has shape \(4,\); give": (margins_NK, user_N, prior_UK[0]),
        "the prior's 4 heads": (margins_NK[:, :3], user_N, prior_UK),
        "give one a pair": (margins_NK, user_N[:-1], prior_UK),
        "pair 6 is of user 5; users count from 0 to 4": (margins_NK, far_N, prior_UK),
        "pair 5 is of user -1; users count from 0 to 4": (margins_NK, below_N, prior_UK),
        "pair 4 is NaN for head 2; leave": (nan_NK, user_N, prior_UK),
    }


@each_method
@pytest.mark.parametrize("message", bad_inputs())
def test_bad_input_is_named_with_its_place_and_a_remedy(method, message):
    with pytest.raises(ValueError, match=message):
        method(*bad_inputs()[message])


BAD_SETTINGS = {
    "temperature": ([adapt.posterior, adapt.hyre], [0.0, -1.0, np.inf, np.nan]),
    "tau": ([adapt.hedge], [0.0, -1e-3, np.inf, np.nan]),
    "strength": ([adapt.few_shot_logits, adapt.mixture_em], [-1.0, np.inf, np.nan]),
    "tolerance": ([adapt.few_shot_logits, adapt.mixture_em], [0.0, -1.0, np.nan]),
}


@pytest.mark.parametrize("setting", BAD_SETTINGS)
def test_bad_settings_are_named(setting):
    methods, values = BAD_SETTINGS[setting]
    for method in methods:
        for value in values:
            with pytest.raises(ValueError, match=f"{setting} is {value}; give a number above 0"):
                method(*case(0), **{setting: value})
