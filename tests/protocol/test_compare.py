"""Tests of `micro_lit.protocol.compare`: who is judged on what, by which likelihood, knowing which labels."""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_FEATURES
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from micro_lit import adaptation, config, runs, train
from micro_lit.data.pairs import PreferenceData, from_records
from micro_lit.data.records import Message, Record
from micro_lit.errors import UserError
from micro_lit.features.backbones import CachedBackbone
from micro_lit.likelihood import preference_log_prob
from micro_lit.models import MixtureBT
from micro_lit.protocol import compare
from micro_lit.protocol.candidates import Candidate
from micro_lit.protocol.compare import Targets, draw_targets

seeds = st.integers(0, 2**32 - 1)

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


def make_candidate(margins_NK, weights_NK=None, link="probability") -> Candidate:
    """What a model would say of the rows, said outright."""
    backbone = CachedBackbone(torch.zeros(1, 2), standardise=False, train=from_records([], [], {}).pairs)
    model = MixtureBT(backbone, {}, margins_NK.shape[1], link=link)
    weights_NK = np.full(margins_NK.shape, 1 / margins_NK.shape[1]) if weights_NK is None else weights_NK
    with np.errstate(divide="ignore"):
        return Candidate("made", Path(), model, margins_NK, np.log(weights_NK))


def make_targets(draws: int = 2, attributes: int = 3, rows: int = 30, labels: int = 20) -> Targets:
    """Test rows first, then for each draw and attribute labels of its own."""
    first = np.arange(draws * attributes).reshape(draws, attributes) * labels + rows
    return Targets(
        codes=np.arange(attributes),
        row_N=np.arange(rows),
        attribute_N=np.arange(rows) % attributes,
        prompt_N=np.arange(rows),
        keep_RN=np.ones((draws, rows), dtype=bool),
        labels_RA=[[np.arange(start, start + labels) for start in starts_A] for starts_A in first.tolist()],
    )


NUM_ROWS = 30 + 2 * 3 * 20


# Rows and labels


@settings(max_examples=40)
@given(seeds, st.integers(1, 4), st.sampled_from(["train", "test"]))
def test_no_row_and_no_prompt_that_was_adapted_to_is_judged(seed, largest, budget_from):
    data = text_data(seed)
    try:
        targets = draw_targets(data, budget_from, largest, draws=3, seed=seed)
    except UserError:
        assume(False)
    attribute_N, context_N = data.pairs.label_N("attribute").numpy(), data.pairs.context_N.numpy()
    known = [row for row in data.splits["test"].tolist() if attribute_N[row] >= 0]
    assert targets.row_N.tolist() == known
    assert targets.codes[targets.attribute_N].tolist() == attribute_N[known].tolist()
    pool = set(data.splits[budget_from].tolist())
    for keep_N, labels_A in zip(targets.keep_RN, targets.labels_RA, strict=True):
        for code, labels in zip(targets.codes, labels_A, strict=True):
            assert len(labels) >= largest
            assert set(labels.tolist()) <= pool
            assert set(attribute_N[labels].tolist()) == {code}
        used = np.concatenate(labels_A)
        judged = targets.row_N[keep_N]
        assert not set(judged.tolist()) & set(used.tolist())
        assert not set(context_N[judged].tolist()) & set(context_N[used].tolist())
        # Nobody else is left out, and every attribute has somebody.
        left_out = targets.row_N[~keep_N]
        assert set(context_N[left_out].tolist()) <= set(context_N[used].tolist())
        assert set(targets.attribute_N[keep_N].tolist()) == set(range(targets.num_attributes))


@pytest.mark.parametrize("budget_from", ["train", "test"])
def test_a_budget_is_the_first_labels_of_every_target(budget_from):
    targets = draw_targets(text_data(1, prompts=30), budget_from, 5, draws=3, seed=0)
    rows_L, target_L = targets.budget(4)
    assert target_L.tolist() == np.repeat(np.arange(9), 4).tolist()
    for target in range(9):
        draw, code = divmod(target, 3)
        assert rows_L[target_L == target].tolist() == targets.labels_RA[draw][code][:4].tolist()
    few_L, of_L = targets.budget(2)
    assert all(set(few_L[of_L == target]) <= set(rows_L[target_L == target]) for target in range(9))
    assert [len(each) for each in targets.budget(0)] == [0, 0]


def test_draws_differ_and_a_seed_settles_them():
    data = text_data(1, prompts=30)
    first, again, other = (draw_targets(data, "train", 5, draws=2, seed=seed) for seed in (0, 0, 1))
    listed = [[order.tolist() for order in labels_A] for labels_A in first.labels_RA]
    assert listed == [[order.tolist() for order in labels_A] for labels_A in again.labels_RA]
    assert listed[0] != listed[1]
    assert listed != [[order.tolist() for order in labels_A] for labels_A in other.labels_RA]


def test_budgets_beyond_the_rows_name_the_attribute():
    data = text_data(1)
    with pytest.raises(UserError, match=r"budgets: attribute '\w+' has \d+ train rows, and 99 labels"):
        draw_targets(data, "train", 99, draws=2, seed=0)


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
        draw_targets(data, "test", 1 if sharing else 3, draws=3, seed=0)


# The one likelihood


@settings(max_examples=50)
@given(seeds, st.sampled_from(["probability", "reward"]), st.sampled_from([1.0, 30.0, 800.0]))
def test_weights_of_targets_judge_as_the_one_likelihood_does(seed, link, scale):
    generator = np.random.default_rng(seed)
    targets = make_targets()
    candidate = make_candidate(generator.uniform(-scale, scale, (NUM_ROWS, 4)), link=link)
    weights_UK = generator.dirichlet(np.full(4, 0.3), 6) * (generator.random((6, 4)) < 0.7)
    weights_UK[:, 0] += weights_UK.sum(axis=1) == 0
    weights_UK /= weights_UK.sum(axis=1, keepdims=True)
    found_RN = compare.weighted_log_probs(candidate, targets, weights_UK)
    for draw in range(2):
        for row in range(30):
            weights_K = weights_UK[draw * 3 + targets.attribute_N[row]]
            margins_1K = torch.from_numpy(candidate.margins_NK[targets.row_N[row]][None])
            [expected] = preference_log_prob(margins_1K, torch.from_numpy(weights_K[None]).log(), link).tolist()
            if link == "probability":  # heads that are less than 1e-308 as sure as the surest end there
                expected = max(expected, float(logsigmoid(margins_1K).max()) + np.log(np.finfo(np.float64).tiny))
            assert found_RN[draw, row] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_own_weights_judge_as_the_one_likelihood_does():
    generator = np.random.default_rng(0)
    targets = make_targets()._replace(row_N=np.arange(29, -1, -1))
    margins_NK, weights_NK = generator.normal(size=(NUM_ROWS, 4)), generator.dirichlet(np.ones(4), NUM_ROWS)
    found_1N = compare.own_log_probs(make_candidate(margins_NK, weights_NK), targets)
    expected_N = np.log((weights_NK / (1 + np.exp(-margins_NK))).sum(axis=1))[29::-1]
    np.testing.assert_allclose(found_1N, expected_N[None])


def test_a_tie_is_half_right():
    probability_N = np.array([0.5, 0.5 + 1e-9, 0.5 - 1e-9, 0.51, 0.49, 1.0])
    found = compare.scores(np.log(probability_N)[None])
    assert found["accuracy"].tolist() == [[0.5, 0.5, 0.5, 1.0, 0.0, 1.0]]
    np.testing.assert_allclose(found["nll"], -np.log(probability_N)[None])


# Labels in, weights out


@pytest.fixture(scope="module")
def methods() -> dict:
    """Those that the command compares."""
    composed = config.compose("evaluate", ["candidates={a: b}", "baseline=a", "paths.run_dir=x"])
    return {name: config.build(node) for name, node in composed["adaptation"].items()}


def learning(methods: dict) -> list:
    """Those that look at labels."""
    return [method for name, method in methods.items() if name != "uniform"]


def test_no_labels_leave_the_prior(methods):
    generator = np.random.default_rng(0)
    candidate = make_candidate(generator.normal(size=(NUM_ROWS, 4)))
    start_UK = generator.dirichlet(np.ones(4), 6)
    for name, method in methods.items():
        found_UK = compare.adapt(candidate, make_targets(), method, start_UK, 0)
        # These know no prior, but which heads there are.
        expected_UK = np.full((6, 4), 0.25) if name in ("hyre", "uniform") else start_UK
        np.testing.assert_array_equal(found_UK, expected_UK)


def test_labels_of_a_target_are_its_own(methods):
    """Other labels of one target change its weights and no others'."""
    generator = np.random.default_rng(0)
    targets, margins_NK = make_targets(), generator.normal(size=(NUM_ROWS, 4))
    start_UK = np.full((6, 4), 0.25)
    rows_L, target_L = targets.budget(10)
    changed_NK = margins_NK.copy()
    changed_NK[rows_L[target_L == 4]] *= -1
    for method in learning(methods):
        before_UK, after_UK = (
            compare.adapt(make_candidate(each_NK), targets, method, start_UK, 10)
            for each_NK in (margins_NK, changed_NK)
        )
        same_U = np.isclose(before_UK, after_UK, atol=1e-5).all(axis=1)
        assert same_U.tolist() == [True, True, True, True, False, True]


def test_the_prior_is_the_mean_weight_of_training_pairs():
    data = text_data(0)
    generator = np.random.default_rng(0)
    weights_NK = generator.dirichlet(np.ones(3), len(data.pairs))
    targets = draw_targets(data, "train", 1, draws=2, seed=0)
    found_UK = compare.prior_UK(make_candidate(weights_NK, weights_NK), data, targets)
    expected_K = weights_NK[data.splits["train"].numpy()].mean(axis=0)
    np.testing.assert_allclose(found_UK, np.tile(expected_K, (2 * targets.num_attributes, 1)))


def test_opposite_labels_turn_every_prediction_of_a_head_and_its_negation(methods):
    generator = np.random.default_rng(0)
    targets, margin_N = make_targets(), generator.normal(size=NUM_ROWS)
    rows_L, target_L = targets.budget(20)
    # Targets 0, 2, 4 hold with the first head four times in five; the others with the second.
    side_L = np.where((generator.random(len(rows_L)) < 0.8) == (target_L % 2 == 0), 1.0, -1.0)
    margin_N[rows_L] = side_L * np.abs(margin_N[rows_L])
    candidate = make_candidate(np.stack([margin_N, -margin_N], axis=1))
    start_UK = np.full((6, 2), 0.5)
    before_RN = compare.weighted_log_probs(candidate, targets, start_UK)
    for method in learning(methods):
        after_RN, opposite_RN = (
            compare.weighted_log_probs(
                candidate, targets, compare.adapt(candidate, targets, method, start_UK, 20, flipped)
            )
            for flipped in (False, True)
        )
        np.testing.assert_allclose(np.exp(after_RN) + np.exp(opposite_RN), 1.0, atol=1e-4)
        assert compare.turned(before_RN, after_RN, opposite_RN, targets.keep_RN) == 1.0


def test_turned_counts_judged_rows_that_moved():
    before_RN, after_RN, opposite_RN = np.log([[[0.6] * 5], [[0.4, 0.4, 0.4, 0.7, 0.4]], [[0.6, 0.3, 0.6, 0.2, 0.1]]])
    keep_RN = np.array([[True, True, True, True, False]])
    assert compare.turned(before_RN, after_RN, opposite_RN, keep_RN) == pytest.approx(2 / 3)
    assert compare.turned(before_RN, before_RN, opposite_RN, keep_RN) is None


@settings(max_examples=20)
@given(seeds, st.sampled_from(["probability", "reward"]))
def test_no_single_head_loses_less_than_the_oracle(seed, link):
    candidate = make_candidate(np.random.default_rng(seed).normal(size=(NUM_ROWS, 4)), link=link)
    targets = make_targets()
    oracle_RN = compare.best_head_oracle(candidate, targets)
    assert (oracle_RN[0] == oracle_RN[1]).all()
    for head in range(4):
        alone_RN = compare.weighted_log_probs(candidate, targets, np.tile(np.eye(4)[head], (6, 1)))
        for code in range(3):
            own_N = targets.attribute_N == code
            assert oracle_RN[0, own_N].mean() >= alone_RN[0, own_N].mean() - 1e-12


def test_mean_weights_are_those_of_an_attributes_rows():
    weights_NK = np.random.default_rng(0).dirichlet(np.ones(4), 30)
    targets = make_targets()
    expected_AK = [weights_NK[code::3].mean(axis=0) for code in range(3)]
    np.testing.assert_allclose(compare.mean_weights(np.log(weights_NK), targets), expected_AK)


# Asking for labels


def test_elicitation_begins_at_the_prior_and_ends_at_the_posterior_of_all_it_may_ask():
    generator = np.random.default_rng(0)
    targets, candidate = make_targets(), make_candidate(generator.normal(size=(NUM_ROWS, 4)))
    start_UK = generator.dirichlet(np.ones(4), 6)
    strategies = {
        "gain": adaptation.information_gain,
        "chance": partial(adaptation.at_random, generator=np.random.default_rng(0)),
    }
    found = compare.elicit(candidate, targets, strategies, start_UK, pool=8, labels=8)
    all_UK = compare.adapt(candidate, targets, adaptation.posterior, start_UK, 8)
    for judged in found.values():
        assert len(judged) == 9
        np.testing.assert_array_equal(judged[0], compare.weighted_log_probs(candidate, targets, start_UK))
        np.testing.assert_allclose(judged[8], compare.weighted_log_probs(candidate, targets, all_UK))
    assert not np.allclose(found["gain"][3], found["chance"][3])


def test_a_target_is_asked_in_its_own_pool_alone():
    """Labels outside the pool, those of other targets included, do not matter."""
    generator = np.random.default_rng(0)
    targets, margins_NK = make_targets(), generator.normal(size=(NUM_ROWS, 4))
    start_UK = np.full((6, 4), 0.25)
    changed_NK = margins_NK.copy()
    for target, order in enumerate(order for labels_A in targets.labels_RA for order in labels_A):
        changed_NK[order[5:] if target == 0 else order] *= -3
    ask = partial(compare.elicit, strategies={"gain": adaptation.information_gain}, start_UK=start_UK, pool=5, labels=3)
    before, after = (ask(make_candidate(each_NK), targets)["gain"][3] for each_NK in (margins_NK, changed_NK))
    own_N = targets.attribute_N == 0
    np.testing.assert_allclose(after[0, own_N], before[0, own_N])
    assert not np.isclose(after[1], before[1]).all()


# Routers


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Candidate, PreferenceData, Targets, dict]:
    """A mixture that never saw a criterion, the same rows with criteria, targets, and settings of the command."""
    root = tmp_path_factory.mktemp("compare")
    paths = [f"paths.run_dir={root / 'run'}", f"paths.features_dir={root / 'features'}"]
    small = ["+experiment=micro_planted", *SMALL_FEATURES, "data.train=2000", "trainer.max_epochs=2"]
    run = config.compose("train", [*paths, *small])
    train.run(run, brief=True)
    given_data = config.build({**run["data"], "criteria": "given"}).load(run["seed"])
    hidden = config.build(run["data"]).load(run["seed"])
    targets = draw_targets(hidden, "train", 10, draws=2, seed=0)
    model = runs.restore(root / "run", hidden, root / "features")
    candidate = Candidate("mixture", root / "run", model, *compare.judge(model, hidden, 512))
    own = ["candidates={a: b}", "baseline=a", "trainer.max_epochs=3", "router.optimizer.lr=0.02"]
    return candidate, given_data, targets, config.compose("evaluate", [*paths, *own])


@pytest.fixture
def routing(trained):
    """The same, with the libraries as quiet as the command has them."""
    runs.quiet_libraries()
    return trained


def test_without_labels_the_gate_of_stage_1_reads_the_criteria(routing):
    candidate, data, targets, spec = routing
    routed = compare.route(candidate, data, targets, 0, spec)
    with torch.no_grad():
        model = runs.restore(candidate.folder, data, Path())
        pairs = data.pairs[torch.from_numpy(targets.row_N)]
        expected_N = model.log_prob(model(pairs)).numpy()
        weights_NK = model(pairs).log_weights_BK.exp().double().numpy()
    np.testing.assert_allclose(routed.log_prob_RN, np.tile(expected_N, (2, 1)), atol=1e-5)
    means_AK = [weights_NK[targets.attribute_N == code].mean(axis=0) for code in range(targets.num_attributes)]
    np.testing.assert_allclose(routed.weights_AK, means_AK, atol=1e-6)
    hidden_1N = compare.own_log_probs(candidate, targets)
    assert not np.allclose(routed.log_prob_RN, hidden_1N, atol=1e-3)


def test_no_label_beyond_the_budget_is_looked_at(routing):
    """With every other label turned round the routers are the same, and test rows get the opposite probability."""
    candidate, data, targets, spec = routing
    budget, _ = targets.budget(10)
    turned_N = torch.ones(len(data.pairs), dtype=torch.bool)
    turned_N[torch.from_numpy(budget)] = False
    triplets_N3 = data.pairs.triplets_N3.clone()
    triplets_N3[turned_N] = triplets_N3[turned_N][:, [0, 2, 1]]
    opposite = dataclasses.replace(data, pairs=dataclasses.replace(data.pairs, triplets_N3=triplets_N3))
    found, other = (compare.route(candidate, each, targets, 10, spec) for each in (data, opposite))
    np.testing.assert_allclose(np.exp(found.log_prob_RN) + np.exp(other.log_prob_RN), 1.0, atol=1e-6)
    np.testing.assert_array_equal(found.weights_AK, other.weights_AK)
    before = compare.route(candidate, data, targets, 0, spec)
    assert np.abs(found.weights_AK - before.weights_AK).max() > 0.05


def test_routers_leave_the_candidate_as_it_is_and_do_not_depend_on_one_another(routing):
    candidate, data, targets, spec = routing
    weights = {name: value.clone() for name, value in candidate.model.state_dict().items()}
    both = compare.route(candidate, data, targets, 5, spec)
    torch.manual_seed(123)
    again = compare.route(candidate, data, targets, 5, spec)
    np.testing.assert_array_equal(both.log_prob_RN, again.log_prob_RN)
    first = targets._replace(keep_RN=targets.keep_RN[:1], labels_RA=targets.labels_RA[:1])
    alone = compare.route(candidate, data, first, 5, spec)
    np.testing.assert_array_equal(alone.log_prob_RN[0], both.log_prob_RN[0])
    for name, value in candidate.model.state_dict().items():
        assert torch.equal(value, weights[name])
