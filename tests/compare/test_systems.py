"""Tests of `micro_lit.compare.systems`: by which likelihood subjects are judged, knowing which labels."""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from compared import made
from conftest import SMALL_FEATURES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from micro_lit import adapt, config, train
from micro_lit.adapt.profiles import Profiles
from micro_lit.compare import judges
from micro_lit.compare.attributes import elicit_labels
from micro_lit.compare.candidates import Candidate
from micro_lit.compare.router import Router, mean_weights
from micro_lit.compare.subjects import Labels, Subjects, draw_attributes
from micro_lit.compare.systems import (
    AsTrained,
    BestHead,
    Evidence,
    Profile,
    Reweighted,
    System,
    judge,
    learned,
    turned,
)
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError
from micro_lit.likelihood import link_of
from micro_lit.run.restored import restore
from micro_lit.run.run import quiet_libraries

seeds = st.integers(0, 2**32 - 1)

DRAWS, ATTRIBUTES, ROWS, LABELS = 2, 3, 30, 20
NUM_ROWS = ROWS + DRAWS * ATTRIBUTES * LABELS
UNIFORM = np.full(4, 0.25)


def make_subjects() -> Subjects:
    """Test rows first, then for each draw and attribute labels of its own."""
    user_N = np.arange(ROWS) % ATTRIBUTES
    return Subjects(
        code_U=np.arange(ATTRIBUTES),
        row_N=np.arange(ROWS),
        user_N=user_N,
        prompt_N=np.arange(ROWS),
        keep_RN=np.ones((1, ROWS), dtype=bool),
        label_RL=np.arange(ROWS, NUM_ROWS).reshape(DRAWS, -1),
        user_L=np.repeat(np.arange(ATTRIBUTES), LABELS),
        place_L=np.tile(np.arange(LABELS), ATTRIBUTES),
    )


def reweighted(margins_NK, adapt=adapt.posterior, prior_K=UNIFORM, link="probability") -> Reweighted:
    return Reweighted("made", "rule", margins_NK, prior_K, link_of(link), adapt)


def after(system: System, subjects: Subjects, size: int, flipped: bool = False) -> np.ndarray:
    """[R, N] what a system judges after so many labels."""
    return judge(system, subjects, learned(system, subjects.labels(size), flipped), 7)


# The one likelihood


@settings(max_examples=50)
@given(seeds, st.sampled_from(["probability", "reward"]), st.sampled_from([1.0, 30.0, 800.0]))
def test_weights_of_subjects_judge_as_the_one_likelihood_does(seed, link, scale):
    generator = np.random.default_rng(seed)
    subjects, margins_NK = make_subjects(), generator.uniform(-scale, scale, (NUM_ROWS, 4))
    weights_UK = generator.dirichlet(np.full(4, 0.3), 6) * (generator.random((6, 4)) < 0.7)
    weights_UK[:, 0] += weights_UK.sum(axis=1) == 0
    weights_UK /= weights_UK.sum(axis=1, keepdims=True)
    found_RN = judge(reweighted(margins_NK, link=link), subjects, torch.from_numpy(weights_UK), 7)
    for draw in range(DRAWS):
        for row in range(ROWS):
            weights_K = weights_UK[draw * ATTRIBUTES + subjects.user_N[row]]
            sigmoid_K = logsigmoid(torch.from_numpy(margins_NK[row]))
            log_weights_K = torch.from_numpy(weights_K).log()
            mixed = logsigmoid((torch.from_numpy(weights_K) * torch.from_numpy(margins_NK[row])).sum())
            expected = torch.logsumexp(log_weights_K + sigmoid_K, dim=0) if link == "probability" else mixed
            assert found_RN[draw, row] == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


def test_own_weights_judge_as_the_one_likelihood_does():
    generator = np.random.default_rng(0)
    subjects = dataclasses.replace(make_subjects(), row_N=np.arange(29, -1, -1))
    margins_NK, weights_NK = generator.normal(size=(NUM_ROWS, 4)), generator.dirichlet(np.ones(4), NUM_ROWS)
    found_1N = after(AsTrained(made(margins_NK, np.log(weights_NK)), "own weights"), subjects, 0)
    expected_N = np.log((weights_NK / (1 + np.exp(-margins_NK))).sum(axis=1))[29::-1]
    np.testing.assert_allclose(found_1N, expected_N[None])


# Labels in, weights out


@pytest.fixture(scope="module")
def methods() -> dict:
    """Those that the command compares."""
    composed = config.compose("compare", ["candidates={a: b}", "baseline=a", "paths.run_dir=x"])
    return {name: config.build(node) for name, node in composed["subjects"]["attribute"]["adaptation"].items()}


def test_no_labels_leave_the_prior(methods):
    generator = np.random.default_rng(0)
    margins_NK, prior_K = generator.normal(size=(NUM_ROWS, 4)), generator.dirichlet(np.ones(4))
    for name, method in methods.items():
        [found_K, *others] = learned(reweighted(margins_NK, method, prior_K), make_subjects().labels(0)).unique(dim=0)
        assert not others
        # HyRe knows no prior, but which heads there are.
        np.testing.assert_array_equal(found_K, UNIFORM if name == "hyre" else prior_K)


def test_labels_of_a_subject_are_its_own(methods):
    """Other labels of one subject in one draw change its weights and no others'."""
    subjects, margins_NK = make_subjects(), np.random.default_rng(0).normal(size=(NUM_ROWS, 4))
    labels = subjects.labels(10)
    changed_NK = margins_NK.copy()
    changed_NK[labels.row_L[labels.user_L == 4]] *= -1
    for method in methods.values():
        before_UK, after_UK = (learned(reweighted(each_NK, method), labels) for each_NK in (margins_NK, changed_NK))
        same_U = np.isclose(before_UK, after_UK, atol=1e-5).all(axis=1)
        assert same_U.tolist() == [True, True, True, True, False, True]


def test_the_prior_is_the_mean_weight_of_training_pairs():
    weights_NK = np.random.default_rng(0).dirichlet(np.ones(3), 40)
    data = type("Data", (), {"splits": {"train": torch.arange(5, 25)}})()
    candidate = made(weights_NK, np.log(weights_NK))
    candidate.data = data
    np.testing.assert_allclose(candidate.prior_K, weights_NK[5:25].mean(axis=0))


def test_opposite_labels_turn_every_prediction_of_a_head_and_its_negation(methods):
    generator = np.random.default_rng(0)
    subjects, margin_N = make_subjects(), generator.normal(size=NUM_ROWS)
    labels = subjects.labels(20)
    # Subjects 0, 2, 4 hold with the first head four times in five; the others with the second.
    side_L = np.where((generator.random(len(labels.row_L)) < 0.8) == (labels.user_L % 2 == 0), 1.0, -1.0)
    margin_N[labels.row_L] = side_L * np.abs(margin_N[labels.row_L])
    margins_NK = np.stack([margin_N, -margin_N], axis=1)
    for method in methods.values():
        system = reweighted(margins_NK, method, np.full(2, 0.5))
        before_RN = after(system, subjects, 0)
        after_RN, opposite_RN = (after(system, subjects, 20, flipped) for flipped in (False, True))
        np.testing.assert_allclose(np.exp(after_RN) + np.exp(opposite_RN), 1.0, atol=1e-4)
        assert turned(before_RN, after_RN, opposite_RN, subjects.keep_RN) == 1.0


def test_turned_counts_judged_rows_that_moved():
    before_RN, after_RN, opposite_RN = np.log([[[0.6] * 5], [[0.4, 0.4, 0.4, 0.7, 0.4]], [[0.6, 0.3, 0.6, 0.2, 0.1]]])
    keep_RN = np.array([[True, True, True, True, False]])
    assert turned(before_RN, after_RN, opposite_RN, keep_RN) == pytest.approx(2 / 3)
    assert turned(before_RN, before_RN, opposite_RN, keep_RN) is None


@settings(max_examples=20)
@given(seeds, st.sampled_from(["probability", "reward"]))
def test_no_single_head_loses_less_than_the_oracle(seed, link):
    margins_NK, subjects = np.random.default_rng(seed).normal(size=(NUM_ROWS, 4)), make_subjects()
    best = BestHead(made(margins_NK, link=link), subjects)
    assert best.knows == {"test labels"}
    [oracle_N] = after(best, subjects, 0)
    for head in range(4):
        alone = reweighted(margins_NK, prior_K=np.eye(4)[head], link=link)
        [alone_N] = after(alone, subjects, 0)
        for code in range(ATTRIBUTES):
            own_N = subjects.user_N == code
            assert oracle_N[own_N].mean() >= alone_N[own_N].mean() - 1e-12


def test_mean_weights_are_those_of_an_attributes_rows():
    weights_NK = np.random.default_rng(0).dirichlet(np.ones(4), ROWS)
    expected_AK = [weights_NK[code::3].mean(axis=0) for code in range(ATTRIBUTES)]
    np.testing.assert_allclose(mean_weights(np.log(weights_NK), make_subjects()), expected_AK)


def test_a_profile_in_the_comparison_is_the_profile_that_personalise_keeps():
    generator = np.random.default_rng(0)
    subjects, margins_NK = make_subjects(), generator.normal(size=(NUM_ROWS, 4))
    weights_NK = generator.dirichlet(np.ones(4), NUM_ROWS)
    system = Profile.of(made(margins_NK, np.log(weights_NK)))
    labels = subjects.labels(10)
    codes_UJ = learned(system, labels)
    # The model as trained comes first, and without labels has half of the weight.
    expected_N = np.log((weights_NK / (1 + np.exp(-margins_NK))).sum(axis=1))
    first_UJ = torch.eye(5, dtype=torch.float64)[torch.zeros(6, dtype=torch.int64)]
    np.testing.assert_allclose(judge(system, subjects, first_UJ, 7)[0], expected_N[:ROWS])
    np.testing.assert_allclose(learned(system, subjects.labels(0))[0], [0.5, *[0.125] * 4])
    kept = Profiles(judges.judge_prior(4), "made")
    kept.learn([str(user) for user in labels.user_L], system.margins_NK[labels.row_L])
    np.testing.assert_allclose(codes_UJ, kept.weights([str(user) for user in range(6)]), rtol=1e-9)


# Nothing impossible is believed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda margins, user, prior: np.ones_like(prior), r"gave weights that sum to 4"),
        (lambda margins, user, prior: prior[:1], r"gave an array of shape \(1, 4\) for 6 subjects and 4 heads"),
        (lambda margins, user, prior: prior * np.nan, "negative or not finite"),
        (lambda margins, user, prior: prior - np.array([[1.0, -1.0, 0.0, 0.0]]), "gave weights that are negative"),
        (lambda margins, user, prior: prior.tolist(), "gave an array of shape"),
        (lambda margins, user, prior: prior / margins[:, :1], r"failed \(ValueError: operands could not be broadcast"),
    ],
)
@pytest.mark.parametrize("kind", ["reweighted", "evidence"])
def test_an_adaptation_that_gives_no_weights_is_refused_by_name(kind, given, said):
    def liar(margins_NK, user_N, prior_UK):
        return given(margins_NK, user_N, prior_UK)

    margins_NK = np.random.default_rng(0).normal(size=(NUM_ROWS, 4))
    system = reweighted(margins_NK, liar) if kind == "reweighted" else Evidence(made(margins_NK), "rule", liar)
    with pytest.raises(UserError, match=f"adaptation rule .*liar.*{said}") as caught:
        learned(system, make_subjects().labels(5))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda rows: torch.full((len(rows),), 0.1), r"a log-probability of 0\.1; none is above 0"),
        (lambda rows: torch.full((len(rows),), torch.nan), "log-probabilities that are NaN"),
        (lambda rows: torch.zeros(len(rows), 1), r"\(7, 1\) numbers for 7 rows"),
    ],
)
def test_a_system_that_gives_no_log_probabilities_is_refused_by_name(given, said):
    class Liar(System):
        def log_prob(self, row_B, codes_BC):
            return given(row_B)

    with pytest.raises(UserError, match=rf"Liar \(me, my way\) gave {said}"):
        after(Liar("me", "my way", 1), make_subjects(), 0)


def test_a_system_learns_a_code_for_every_subject():
    class Liar(System):
        def learn(self, labels: Labels, flipped: bool = False):
            return torch.zeros(1, 2)

    with pytest.raises(UserError, match=r"Liar \(me\) learned codes of shape \(1, 2\); give a row for each of 6"):
        after(Liar("me", "my way", 1), make_subjects(), 5)


# Asking for labels


def test_elicitation_begins_at_the_prior_and_ends_at_the_posterior_of_all_it_may_ask():
    generator = np.random.default_rng(0)
    subjects, prior_K = make_subjects(), generator.dirichlet(np.ones(4))
    system = reweighted(generator.normal(size=(NUM_ROWS, 4)), prior_K=prior_K)
    strategies = {
        "gain": adapt.information_gain,
        "chance": partial(adapt.at_random, generator=np.random.default_rng(0)),
    }
    found = elicit_labels(system, subjects, strategies, pool=8, labels=8)
    for weights_TUK in found.values():
        assert len(weights_TUK) == 9
        np.testing.assert_array_equal(weights_TUK[0], np.tile(prior_K, (6, 1)))
        np.testing.assert_allclose(weights_TUK[8], learned(system, subjects.labels(8)))
    assert not np.allclose(found["gain"][3], found["chance"][3])


def test_a_subject_is_asked_in_its_own_pool_alone():
    """Labels outside the pool, those of other subjects included, do not matter."""
    subjects, margins_NK = make_subjects(), np.random.default_rng(0).normal(size=(NUM_ROWS, 4))
    labels = subjects.labels(LABELS, every_draw=True)
    own_L = (labels.user_L == 0) & (np.tile(subjects.place_L, DRAWS) < 5)
    changed_NK = margins_NK.copy()
    changed_NK[labels.row_L[~own_L]] *= -3
    ask = partial(elicit_labels, subjects=subjects, strategies={"gain": adapt.information_gain}, pool=5, labels=3)
    before_UK, after_UK = (ask(reweighted(each_NK))["gain"][3] for each_NK in (margins_NK, changed_NK))
    np.testing.assert_allclose(after_UK[0], before_UK[0])
    assert not np.isclose(after_UK[1], before_UK[1]).all()


# Routers


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Candidate, PreferenceData, Subjects, dict]:
    """A mixture that never saw a criterion, the same rows with criteria, subjects, and settings of the command."""
    root = tmp_path_factory.mktemp("compare")
    paths = [f"paths.run_dir={root / 'run'}", f"paths.features_dir={root / 'features'}"]
    small = ["+experiment=micro_planted", *SMALL_FEATURES, "data.train=2000", "trainer.max_epochs=2"]
    run = config.compose("train", [*paths, *small])
    train.run(run, brief=True)
    given_data = config.build({**run["data"], "criteria": "given"}).load(run["seed"])
    hidden = config.build(run["data"]).load(run["seed"])
    subjects = draw_attributes(hidden, "train", 10, draws=2, seed=0)
    model = restore(root / "run", hidden, root / "features")
    candidate = Candidate("mixture", root / "run", model, hidden, 512)
    own = ["candidates={a: b}", "baseline=a", "trainer.max_epochs=3", "router.optimizer.lr=0.02"]
    return candidate, given_data, subjects, config.compose("compare", [*paths, *own])


@pytest.fixture
def routing(trained):
    """The same, with the libraries as quiet as the command has them."""
    quiet_libraries()
    return trained


def route(candidate, data, subjects, size, spec) -> tuple[np.ndarray, np.ndarray]:
    """What routers judge, and their mean weights of each attribute."""
    router = Router(candidate, data, subjects, spec)
    codes_U1 = learned(router, subjects.labels(size, every_draw=True))
    return judge(router, subjects, codes_U1, 512), router.mean_weights(codes_U1, subjects)


def test_without_labels_the_gate_of_stage_1_reads_the_criteria(routing):
    candidate, data, subjects, spec = routing
    log_prob_RN, weights_AK = route(candidate, data, subjects, 0, spec)
    with torch.no_grad():
        model = restore(candidate.folder, data, Path())
        pairs = data.pairs[torch.from_numpy(subjects.row_N)]
        expected_N = model.log_prob(model(pairs)).numpy()
        weights_NK = model(pairs).log_weights_BK.exp().double().numpy()
    np.testing.assert_allclose(log_prob_RN, np.tile(expected_N, (2, 1)), atol=1e-5)
    means_AK = [weights_NK[subjects.user_N == code].mean(axis=0) for code in range(subjects.num_users)]
    np.testing.assert_allclose(weights_AK, means_AK, atol=1e-6)
    hidden_1N = after(AsTrained(candidate, "own weights"), subjects, 0)
    assert not np.allclose(log_prob_RN, hidden_1N, atol=1e-3)


def test_no_label_beyond_the_budget_is_looked_at(routing):
    """With every other label turned round the routers are the same, and test rows get the opposite probability."""
    candidate, data, subjects, spec = routing
    turned_N = torch.ones(len(data.pairs), dtype=torch.bool)
    turned_N[torch.from_numpy(subjects.labels(10).row_L)] = False
    triplets_N3 = data.pairs.triplets_N3.clone()
    triplets_N3[turned_N] = triplets_N3[turned_N][:, [0, 2, 1]]
    opposite = dataclasses.replace(data, pairs=dataclasses.replace(data.pairs, triplets_N3=triplets_N3))
    (found_RN, weights_AK), (other_RN, other_AK) = (
        route(candidate, each, subjects, 10, spec) for each in (data, opposite)
    )
    np.testing.assert_allclose(np.exp(found_RN) + np.exp(other_RN), 1.0, atol=1e-6)
    np.testing.assert_array_equal(weights_AK, other_AK)
    _, before_AK = route(candidate, data, subjects, 0, spec)
    assert np.abs(weights_AK - before_AK).max() > 0.05


def test_routers_leave_the_candidate_as_it_is_and_do_not_depend_on_one_another(routing):
    candidate, data, subjects, spec = routing
    weights = {name: value.clone() for name, value in candidate.model.state_dict().items()}
    both_RN, _ = route(candidate, data, subjects, 5, spec)
    torch.manual_seed(123)
    again_RN, _ = route(candidate, data, subjects, 5, spec)
    np.testing.assert_array_equal(both_RN, again_RN)
    first = dataclasses.replace(subjects, label_RL=subjects.label_RL[:1])
    alone_RN, _ = route(candidate, data, first, 5, spec)
    np.testing.assert_array_equal(alone_RN[0], both_RN[0])
    for name, value in candidate.model.state_dict().items():
        assert torch.equal(value, weights[name])
