"""Tests of `micro_lit.adapt.profiles`: what is learned and promised, what a file gives back and refuses."""

import itertools
import json
import os
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from micro_lit import likelihood
from micro_lit.adapt import OnlineHedge, posterior, regret
from micro_lit.adapt.profiles import RULES, Profiles, checksum, log_prob

HEADS = "3-abc"
rules = st.sampled_from(list(RULES))
NAMES = ["ada", "Łukasz \"the 3rd\"", "", "ada ", "7", "new\nline"]  # fmt: skip


def draw_labels(seed, num_heads, num_labels):
    """A prior, whose label each is, and margins of all sizes."""
    generator = np.random.default_rng(seed)
    users = generator.choice(NAMES, size=num_labels).tolist()
    scale = generator.choice([0.1, 2.0, 30.0])
    return generator.dirichlet(np.ones(num_heads)), users, scale * generator.normal(size=(num_labels, num_heads))


def assert_same(profiles, others):
    assert profiles.users == others.users
    assert (profiles.heads, profiles.rule) == (others.heads, others.rule)
    assert_array_equal(profiles.prior_K, others.prior_K)
    for values, other in zip(vars(profiles).values(), vars(others).values(), strict=True):
        if isinstance(values, np.ndarray):
            assert_array_equal(values, other)
            assert values.dtype == other.dtype
    assert_array_equal(profiles.weights(NAMES), others.weights(NAMES))


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 9), st.lists(st.integers(0, 40), min_size=1, max_size=5), rules)
def test_sittings_with_files_between_end_as_one_without_to_the_last_bit(tmp_path_factory, seed, num_heads, cuts, rule):
    size = max(cuts)
    prior_K, users, margins_NK = draw_labels(seed, num_heads, size)
    path = tmp_path_factory.mktemp("profiles") / "all.json"
    whole, parted = Profiles(prior_K, HEADS, rule), Profiles(prior_K, HEADS, rule)
    at_once = whole.learn(users, margins_NK)
    edges = [0, *sorted(cuts)]
    learned = []
    for first, last in itertools.pairwise(edges):
        learned.append(parted.learn(users[first:last], np.asfortranarray(margins_NK[first:last])))
        parted.save(path)
        parted = Profiles.load(path, HEADS)
    for column, parts in zip(at_once, zip(*learned, strict=True), strict=True):
        assert_array_equal(column, np.concatenate(parts))
    assert_same(whole, parted)


def stream_of(user, users, margins_NK):
    """The rows of one user's labels and their margins."""
    rows = [row for row, name in enumerate(users) if name == user]
    return rows, margins_NK[rows]


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 40))
def test_by_hedge_each_user_among_many_is_as_online_hedge_has_it_alone(seed, num_heads, size):
    prior_K, users, margins_NK = draw_labels(seed, num_heads, size)
    profiles, hedge = Profiles(prior_K, HEADS, "hedge"), OnlineHedge()
    learned = profiles.learn(users, margins_NK)
    for user in profiles.users:
        rows, margins_TK = stream_of(user, users, margins_NK)
        weights_T1K, state = hedge.play(hedge.start(prior_K[None]), margins_TK[:, None])
        assert_array_equal(learned.weights_NK[rows], weights_T1K[:, 0])
        assert_array_equal(profiles.weights(user), hedge.weights(state))
        regret_T = regret(hedge.losses(margins_TK[:, None]), weights_T1K)[:, 0]
        assert_allclose(learned.regret_N[rows], hedge.ceiling * regret_T, rtol=0, atol=1e-11)


def test_by_hedge_the_first_label_of_a_user_counts_as_theory_has_it():
    """In closed form: before label t the weights are π exp(-η_t L), with η_t = 2 sqrt(log K / t), and L of losses at
    most 1 in the unit of the ceiling, 2 nats."""
    prior_K, margins_2K = np.array([0.5, 0.3, 0.2]), np.array([[1.5, -0.5, -9.0], [0.2, 0.1, -1.0]])
    loss_2K = np.minimum(np.log1p(np.exp(-margins_2K)), 2.0) / 2.0
    profiles = Profiles(prior_K, HEADS, "hedge")
    learned = profiles.learn("ada", margins_2K[:1])
    assert_array_equal(learned.weights_NK, [prior_K])
    assert_array_equal(learned.label_N, [1])
    assert_allclose(learned.regret_N, 2.0 * (prior_K @ loss_2K[0] - loss_2K[0].min()), rtol=1e-12)
    assert_allclose(
        learned.bound_N, 2.0 * (np.log(2) / 2 / np.sqrt(np.log(3)) + 4 * np.sqrt(np.log(3)) / 8), rtol=1e-12
    )
    for step, loss_K in ((2, loss_2K[0]), (3, loss_2K.sum(axis=0))):
        weights_K = prior_K * np.exp(-2 * np.sqrt(np.log(3) / step) * loss_K)
        assert_allclose(profiles.weights("ada"), [weights_K / weights_K.sum()], rtol=1e-12)
        assert_array_equal(profiles.counts("ada"), [step - 1])
        profiles.learn("ada", margins_2K[1:])


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 40))
def test_by_posterior_each_user_among_many_is_as_bayes_rule_has_it_alone(seed, num_heads, size):
    prior_K, users, margins_NK = draw_labels(seed, num_heads, size)
    profiles = Profiles(prior_K, HEADS)
    learned = profiles.learn(users, margins_NK)
    for user in profiles.users:
        rows, margins_TK = stream_of(user, users, margins_NK)
        for step, row in enumerate(rows):
            [weights_K] = posterior(margins_TK[:step], np.zeros(step, dtype=int), prior_K[None])
            assert_allclose(learned.weights_NK[row], weights_K, rtol=1e-9, atol=1e-300)
        assert_array_equal(learned.label_N[rows], np.arange(1, len(rows) + 1))
        assert profiles.counts(user) == [len(rows)]
        losses_TK = np.logaddexp(0.0, -margins_TK).cumsum(axis=0)
        mixed_T = -np.log(np.sum(prior_K * np.exp(losses_TK.min(axis=1)[:, None] - losses_TK), axis=1))
        assert_allclose(learned.regret_N[rows], mixed_T, rtol=0, atol=1e-9)


def test_without_labels_there_is_the_prior_and_reading_makes_no_profile():
    prior_K = np.array([0.5, 0.3, 0.2], dtype=np.float32)
    profiles = Profiles(prior_K, HEADS)
    assert_array_equal(profiles.weights(["ada", "bob"]), np.tile(prior_K.astype(np.float64), (2, 1)))
    assert_array_equal(profiles.counts("ada"), [0])
    assert profiles.learn([], np.empty((0, 3))).weights_NK.shape == (0, 3)
    assert profiles.users == []
    profiles.learn("bob", np.ones((1, 3)))
    assert profiles.users == ["bob"]
    assert_array_equal(profiles.weights("ada"), prior_K[None].astype(np.float64))


def heaviest_errs(weights_UK, losses_UK):
    return weights_UK.argmax(axis=1)


def leader_errs(weights_UK, losses_UK):
    return losses_UK.argmin(axis=1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("adversary", [heaviest_errs, leader_errs])
def test_regret_stays_below_its_bound_against_adversaries(adversary, rule):
    """For 50 users at once, from a prior under which one head is near to closed and one is closed."""
    prior_K, users = np.array([0.6, 0.3, 0.0999, 0.0001, 0.0]), [f"user {number}" for number in range(50)]
    profiles, losses_UK = Profiles(prior_K, HEADS, rule), np.zeros((50, 5))
    generator = np.random.default_rng(0)
    surprise_K = -np.log(prior_K[:4])
    for step in range(60):
        wrong_U1 = adversary(profiles.weights(users), losses_UK)[:, None]
        margins_UK = np.where(np.arange(5) == wrong_U1, -9.0, generator.normal(size=(50, 5)))
        learned = profiles.learn(users, margins_UK)
        losses_UK += np.minimum(np.logaddexp(0.0, -margins_UK), 2.0 if rule == "hedge" else np.inf)
        assert (learned.regret_N <= learned.bound_N + 1e-9).all()
        size = 2 * np.sqrt(np.log(5) / (step + 1))
        bound_K = 2.0 * (surprise_K / size + 2 * (step + 1) * size / 8) if rule == "hedge" else surprise_K
        assert_allclose(learned.bound_N, bound_K[losses_UK[:, :4].argmin(axis=1)], rtol=1e-12)
    assert (profiles.weights(users)[:, 4] == 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_thousands_of_users_find_the_head_they_answer_like(rule):
    generator = np.random.default_rng(1)
    num_users, num_heads = 2000, 5
    head_U, users = generator.integers(num_heads, size=num_users), list(map(str, range(num_users)))
    profiles, log_prob_T = Profiles(np.full(num_heads, 0.2), HEADS, rule), []
    for _ in range(150):
        margins_UK = 3.0 * generator.normal(size=(num_users, num_heads))
        own_U = np.take_along_axis(margins_UK, head_U[:, None], axis=1)[:, 0]
        label_U = np.where(generator.random(num_users) < expit(own_U), 1, -1)
        learned = profiles.learn(users, label_U[:, None] * margins_UK)
        log_prob_T.append(log_prob(label_U[:, None] * margins_UK, learned.weights_NK).mean())
    assert (profiles.weights(users).argmax(axis=1) == head_U).mean() > 0.99
    assert np.mean(log_prob_T[-20:]) > np.mean(log_prob_T[:5]) + 0.1
    assert len(profiles.users) == num_users


def test_with_a_head_that_suits_everybody_nobody_loses_more_than_its_surprise():
    """Users who toss a coin over every label, and one head that says so: the others cost log 2 nats, in all."""
    margins_NK = 5.0 * np.random.default_rng(3).normal(size=(300, 4)) * np.array([0.0, 1.0, 1.0, 1.0])
    learned = Profiles(np.array([0.5, 0.2, 0.2, 0.1]), HEADS).learn(["ada"] * 300, margins_NK)
    cost_N = np.cumsum(np.log(0.5) - log_prob(margins_NK, learned.weights_NK))
    assert cost_N.max() <= np.log(2.0) + 1e-9
    assert cost_N[-1] == pytest.approx(np.log(2.0), abs=1e-6)


def test_rewards_and_probabilities_are_those_of_the_weights():
    profiles = Profiles(np.array([0.5, 0.5]), HEADS)
    profiles.learn(["ada"] * 2, np.tile([1.0, -1.0], (2, 1)))
    [[first, second]] = profiles.weights("ada")
    assert first / second == pytest.approx(np.exp(2.0))
    rewards_2K = np.array([[1.0, 3.0], [1.0, 3.0]])
    assert_allclose(profiles.rewards(["ada", "bob"], rewards_2K), [first + 3 * second, 2.0], rtol=1e-15)
    margins_2K = np.array([[0.7, -1.3], [-40.0, 5.0]])
    mixed = first * expit(0.7) + second * expit(-1.3), 0.5 * expit(-40.0) + 0.5 * expit(5.0)
    assert_allclose(profiles.log_prob(["ada", "bob"], margins_2K), np.log(mixed), rtol=1e-12)


def test_probabilities_are_those_of_the_one_likelihood_also_with_closed_heads():
    generator = np.random.default_rng(2)
    margins_NK, weights_NK = 9 * generator.normal(size=(20, 4)), generator.dirichlet(np.ones(4), size=20)
    expected_N = likelihood.preference_log_prob(torch.tensor(margins_NK), torch.tensor(weights_NK).log())
    assert_allclose(log_prob(margins_NK, weights_NK), expected_N.numpy(), rtol=1e-12)
    one_head = np.tile([0.0, 1.0, 0.0, 0.0], (20, 1))
    assert_allclose(log_prob(margins_NK, one_head), np.log(expit(margins_NK[:, 1])), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("users", "margins_NK", "message"),
    [
        (["ada", "bob"], np.array([[1.0, 2.0], [np.nan, 0.0]]), "pair 1 is NaN for head 0"),
        (["ada"], np.ones((1, 3)), r"shape \(1, 3\); .* 2 heads"),
        (["ada"], np.ones((2, 2)), r"users have shape \(1,\) for 2 labelled pairs"),
    ],
)
def test_bad_labels_change_nothing(users, margins_NK, message):
    profiles, untouched = Profiles(np.array([0.4, 0.6]), HEADS), Profiles(np.array([0.4, 0.6]), HEADS)
    for each in (profiles, untouched):
        each.learn("ada", np.array([[1.0, -1.0]]))
    with pytest.raises(ValueError, match=message):
        profiles.learn(users, margins_NK)
    assert_same(profiles, untouched)


def test_a_bad_prior_or_rule_is_refused():
    with pytest.raises(ValueError, match="sums to"):
        Profiles(np.array([0.5, 0.6]), HEADS)
    with pytest.raises(ValueError, match="rule is 'majority'; allowed are posterior, hedge"):
        Profiles(np.array([0.5, 0.5]), HEADS, "majority")


@pytest.fixture
def saved(tmp_path):
    """A file of two profiles over three heads."""
    profiles = Profiles(np.array([0.5, 0.3, 0.2]), HEADS)
    profiles.learn(["ada", "bob", "ada"], np.array([[1.0, -1.0, 0.2], [0.3, 2.0, -0.5], [0.0, 0.4, 3.0]]))
    profiles.save(tmp_path / "people" / "all.json")
    return tmp_path / "people" / "all.json"


def test_a_file_says_weights_and_counts_in_plain_words(saved):
    content = json.loads(saved.read_text())
    assert {name: profile["labels"] for name, profile in content["users"].items()} == {"ada": 2, "bob": 1}
    profiles = Profiles.load(saved, HEADS)
    for name, profile in content["users"].items():
        assert_array_equal(profiles.weights(name), [profile["weights"]])
    assert [path.name for path in saved.parent.iterdir()] == ["all.json"]


def test_a_file_laid_out_anew_is_the_same_file(saved):
    before = Profiles.load(saved, HEADS)
    saved.write_text(json.dumps(dict(reversed(json.loads(saved.read_text()).items())), indent=4))
    assert_same(Profiles.load(saved, HEADS), before)


def test_a_save_that_fails_leaves_the_file_as_it_was(saved, monkeypatch):
    profiles, before = Profiles.load(saved, HEADS), saved.read_bytes()
    profiles.learn("ada", np.ones((1, 3)))

    def full(*paths):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        profiles.save(saved)
    assert saved.read_bytes() == before


def at(*keys):
    """A change of what lies under the keys; to nothing, of the key itself."""

    def change(content, value):
        *outer, last = keys
        for key in outer:
            content = content[key]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "value", "message"),
    [
        (at("format"), "something else", "it is no file of profiles"),
        (at("format"), None, "it is no file of profiles"),
        (at("version"), 2, "of version 2, and this release reads 1"),
        (at("version"), None, "of version None"),
        *((at(key), None, f"the file: lacks {key}") for key in ("heads", "rule", "prior", "users")),
        (at("heads"), "3-xyz", r"of other heads \(3-xyz\) than the run's \(3-abc\)"),
        (at("rule"), "majority", "rule is 'majority'"),
        (at("rule"), 1, "rule is '1'"),
        (at("rule"), "hedge", "weights of 'ada': not those that the prior and the losses give"),
        (at("prior"), [0.5, 0.3, 0.3], "sums to 1.1"),
        (at("prior"), [1.3, -0.3, 0.0], "the prior: -0.3 is no finite number of at least 0"),
        (at("prior"), [], "give a row a user and a column a head"),
        (at("prior"), 1.0, "the prior has shape"),
        (at("prior"), [0.5, 0.5], r"weights of 'ada': of shape \(3,\), not \(2,\)"),
        (at("prior"), [0.4, 0.4, 0.2], "weights of 'ada': not those that the prior and the losses give"),
        (at("users"), [], "the users: not an object"),
        (at("users", "bob"), [1, 2], "the profile of 'bob': not an object"),
        *((at("users", "bob", key), None, f"'bob': lacks {key}") for key in ("labels", "weights", "losses", "lost")),
        (at("users", "bob", "labels"), -1, "labels of 'bob': -1.0 is no finite number of at least 0"),
        (at("users", "bob", "labels"), 0, "labels of 'bob': 0.0 is no count"),
        (at("users", "bob", "labels"), 1.5, "labels of 'bob': 1.5 is no count"),
        (at("users", "bob", "labels"), [1], r"labels of 'bob': of shape \(1,\), not \(\)"),
        (at("users", "bob", "weights"), [0.5, 0.3, -0.2], "weights of 'bob': -0.2 is no finite number"),
        (at("users", "bob", "weights"), [0.5, 0.3, 0.3], "weights of 'bob': not those"),
        (at("users", "bob", "weights"), [0.5, 0.5], r"weights of 'bob': of shape \(2,\), not \(3,\)"),
        (at("users", "bob", "losses"), [0.5, [0.5], 1.0], "losses of 'bob': .*inhomogeneous"),
        (at("users", "bob", "losses"), [1.0, 1.0, 0.1], "weights of 'bob': not those"),
        (at("users", "bob", "losses"), [1.0, 1.0, 10**400], "losses of 'bob': "),
        (at("users", "bob", "lost"), "much", "lost of 'bob': could not convert"),
    ],
)
def test_what_is_no_sound_profile_is_refused_even_with_a_fitting_checksum(change, value, message, saved):
    content = json.loads(saved.read_text())
    change(content, value)
    saved.write_text(json.dumps(content | {"checksum": checksum(content)}))
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(saved))}: .*{message}.*; give the file and the run"
    ) as caught:
        Profiles.load(saved, HEADS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("off", "fits"), [(1e-8, False), (-1e-8, False), (1e-10, True), (-1e-10, True)])
def test_weights_of_a_file_may_differ_by_rounding_and_no_more(off, fits, saved):
    before = Profiles.load(saved, HEADS)
    content = json.loads(saved.read_text())
    content["users"]["bob"]["weights"][1] += off
    saved.write_text(json.dumps(content | {"checksum": checksum(content)}))
    if fits:
        assert_same(Profiles.load(saved, HEADS), before)
    else:
        with pytest.raises(ValueError, match="weights of 'bob': not those that the prior and the losses give"):
            Profiles.load(saved, HEADS)


def test_a_file_is_read_for_whichever_heads_it_is_of_when_none_are_named(saved):
    assert_same(Profiles.load(saved), Profiles.load(saved, HEADS))


def test_what_is_kept_of_a_user_makes_the_profile_again(saved):
    profiles, other = Profiles.load(saved, HEADS), Profiles(np.array([0.5, 0.3, 0.2]), HEADS)
    for user in profiles.users:
        other.keep([user], profiles.kept(user))
    assert_same(other, profiles)
    assert [column.sum() for column in profiles.kept("nobody")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-20], "Unterminated string|Expecting"),
        (lambda text: "", "Expecting value"),
        (lambda text: "[1, 2]", "it is no file of profiles"),
        (lambda text: text.replace('"labels": 1,', '"labels": NaN,'), "NaN is no number"),
        (lambda text: text.replace('"lost": ', '"lost": -Infinity, "was": '), "-Infinity is no number"),
        (lambda text: text.replace('"labels": 1,', '"labels": 3,'), "does not fit its checksum"),
        (lambda text: text.replace('"bob"', '"eve"'), "does not fit its checksum"),
        (lambda text: text.replace('"checksum"', '"check"'), "the file: lacks checksum"),
        (lambda text: "[" * 100_000, "recursion"),
    ],
)
def test_a_damaged_or_edited_file_is_refused(damage, message, saved):
    text = damage(saved.read_text())
    assert text != saved.read_text()
    saved.write_text(text)
    with pytest.raises(ValueError, match=message):
        Profiles.load(saved, HEADS)


def test_bytes_that_are_no_text_and_folders_are_refused(saved):
    saved.write_bytes(b"\xff\xfe\x00")
    for path in (saved, saved.parent, saved.parent / "none.json"):
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: "):
            Profiles.load(path, HEADS)


def test_numbers_beyond_floats_are_refused(saved):
    saved.write_text(saved.read_text().replace('"prior": [0.5', '"prior": [1e999'))
    content = json.loads(saved.read_text())
    saved.write_text(saved.read_text().replace(content["checksum"], checksum(content)))
    with pytest.raises(ValueError, match="the prior: inf is no finite number"):
        Profiles.load(saved, HEADS)
