"""Tests of `micro_lit.data.planted.population`."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from micro_lit import floors
from micro_lit.data.planted.population import REFERENCES, Population, plant
from micro_lit.errors import UserError

FEW = settings(max_examples=25)


def opposed(weight=0.5, strength=2.0):
    """Two groups that want the opposite of one attribute."""
    return plant(
        ["length"], {"long": {"length": 1}, "short": {"length": -1}}, strength=strength, topics=1,
        group_weights=[[weight, 1 - weight]],
    )  # fmt: skip


# Settings of small populations. Built in the tests: type checkers draw random numbers, which strategies must not.
populations = st.fixed_dictionaries(
    {
        "attributes": st.sampled_from([["length", "warmth"], ["length", "warmth", "humour"]]),
        "groups": st.integers(1, 4),
        "relevant": st.integers(1, 2),
        "strength": st.floats(0.1, 4.0),
        "topics": st.integers(1, 3),
        "group_weights": st.floats(0.1, 5.0),
        "seed": st.integers(0, 2**32 - 1),
    }
)


# Floors


@FEW
@given(populations)
def test_floors_are_in_order(chosen):
    population = plant(**chosen)
    assert population.floors["oracle"] > 0
    check_order(population.floors)


def check_order(floors):
    oracle, marginal, static, conditional, linear = (floors[name] for name in REFERENCES)
    assert -1e-12 <= oracle <= marginal + 1e-9
    assert marginal <= min(static, conditional) + 1e-9
    assert max(static, conditional) <= linear + 1e-9
    assert linear <= np.log(2) + 1e-9


@FEW
@given(populations)
def test_groups_that_agree_leave_only_the_noise_of_their_labels(chosen):
    population = plant(**chosen)
    alike = dataclasses.replace(population, rewards_KA=np.repeat(population.rewards_KA[:1], population.num_groups, 0))
    assert list(alike.floors.values()) == pytest.approx([alike.floors["oracle"]] * 5, abs=1e-9)
    assert list(alike.gaps.values()) == pytest.approx([0.0] * 6, abs=1e-9)


@FEW
@given(populations, st.randoms(use_true_random=False))
def test_floors_do_not_depend_on_the_order_of_the_groups(chosen, random):
    population = plant(**chosen)
    order = list(range(population.num_groups))
    random.shuffle(order)
    shuffled = dataclasses.replace(
        population,
        groups=tuple(population.groups[group] for group in order),
        rewards_KA=population.rewards_KA[order],
        group_weights_TK=population.group_weights_TK[:, order],
    )
    assert shuffled.floors == pytest.approx(population.floors, abs=1e-9)
    assert shuffled.gaps == pytest.approx(population.gaps, abs=1e-9)


def test_two_opposed_groups_of_one_size_make_labels_a_coin_toss():
    floors = opposed().floors
    for name in REFERENCES[1:]:
        assert floors[name] == pytest.approx(np.log(2), abs=1e-12)
    assert floors["oracle"] < 0.6


def test_floors_by_hand():
    """Three items of one attribute: of the six ordered pairs four differ by one level and two by two."""

    def entropy(p):
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    near, far = expit(2.0), expit(4.0)
    floors = opposed(weight=0.8).floors
    assert floors["oracle"] == pytest.approx((4 * entropy(near) + 2 * entropy(far)) / 6, abs=1e-12)
    mixed = [0.8 * p + 0.2 * (1 - p) for p in (near, far)]
    assert floors["marginal"] == pytest.approx((4 * entropy(mixed[0]) + 2 * entropy(mixed[1])) / 6, abs=1e-12)
    assert floors["single_bt_conditional"] > floors["marginal"] + 1e-4


@pytest.mark.parametrize("strength", [0.0, 10.0, 15.0, 50.0])
def test_floors_exist_for_raters_who_are_sure_or_not_at_all(strength):
    """Newton's method once lost its way from strength 10 on, where probabilities round to 0 and 1."""
    population = plant(["a", "b", "c", "d"], strength=strength, seed=0)
    check_order(population.floors)
    assert max(population.certificates.values()) <= 1e-10


def test_a_gate_on_the_topic_wins_what_separates_the_two_single_floors():
    """Each topic has its own group: the conditional score knows all, the linear one nothing."""
    population = plant(
        ["length"], {"long": {"length": 1}, "short": {"length": -1}}, topics=2, group_weights=[[1, 0], [0, 1]]
    )
    floors = population.floors
    assert floors["oracle"] == pytest.approx(floors["single_bt_conditional"], abs=1e-9)
    assert floors["single_bt_linear"] == pytest.approx(np.log(2), abs=1e-9)
    assert floors["marginal_static"] == pytest.approx(np.log(2), abs=1e-9)
    assert population.gaps["prompt"] == pytest.approx(np.log(2) - floors["oracle"], abs=1e-9)


# Three groups, of which each topic knows two: weights of zero must not disturb the sums.
PARTLY_UNHEARD = [[0.1, 0.0, 0.9], [0.0, 0.3, 0.7], [0.6, 0.4, 0.0]]


@pytest.mark.parametrize("weights", [1.0, PARTLY_UNHEARD])
def test_floors_and_gaps_are_sums_over_every_topic_and_ordered_pair(weights):
    population = plant(["a", "b"], groups=3, relevant=1, strength=2.0, topics=3, group_weights=weights, seed=3)
    rewards_KI, weights_TK = population.rewards_KI, population.group_weights_TK
    places = list(itertools.product(range(3), itertools.permutations(range(9), 2)))
    rows_TK = np.array([weights_TK[topic] for topic, _ in places])
    probabilities_NK = np.array([expit(rewards_KI[:, first] - rewards_KI[:, second]) for _, (first, second) in places])
    mass_N = np.full(len(places), 1 / len(places))
    mixed_N = (rows_TK * probabilities_NK).sum(axis=1)
    unprompted_N = probabilities_NK @ weights_TK.mean(axis=0)
    context_N, first_N, second_N = np.array([(topic, *pair) for topic, pair in places]).T
    differences_NA = population.items_IA[first_N] - population.items_IA[second_N]
    conditional = floors.conditional_bt(context_N, first_N, second_N, mixed_N, 9, mass_N)
    linear = floors.linear_bt(differences_NA, mixed_N, mass_N)
    expected = {
        "oracle": floors.oracle_floor(rows_TK, probabilities_NK, mass_N).value,
        "marginal": floors.binary_entropy(mixed_N).mean(),
        "marginal_static": floors.binary_entropy(unprompted_N).mean(),
        "single_bt_conditional": conditional.floor.value,
        "single_bt_linear": linear.floor.value,
    }
    assert population.floors == pytest.approx(expected, abs=1e-10)
    assert list(population.floors) == list(REFERENCES)
    np.testing.assert_allclose(population.linear_A, linear.parameters, atol=1e-8)
    assert population.gaps == pytest.approx(
        {
            "mutual_information": expected["marginal"] - expected["oracle"],
            "misspecification": expected["single_bt_conditional"] - expected["marginal"],
            "prompt": expected["single_bt_linear"] - expected["single_bt_conditional"],
            "variance_bound": floors.variance_bound(rows_TK, probabilities_NK, mass_N).value,
            "pinsker_bound": floors.pinsker_bound(rows_TK, probabilities_NK, mass_N).value,
            "printed_bound": 0.0,
        },
        abs=1e-10,
    )


@FEW
@given(populations)
def test_bounds_are_below_what_they_bound(chosen):
    gaps = plant(**chosen).gaps
    assert -1e-12 <= gaps["variance_bound"] <= gaps["pinsker_bound"] + 1e-12
    assert gaps["pinsker_bound"] <= gaps["mutual_information"] + 1e-12
    assert gaps["printed_bound"] == pytest.approx(0.0, abs=1e-24)


def test_certificates_are_those_of_the_floors_that_are_minima():
    population = plant(["a", "b"], groups=3, topics=3)
    assert set(population.certificates) == {"single_bt_conditional", "single_bt_linear"}
    assert all(0 <= norm <= 1e-10 for norm in population.certificates.values())


# Draws


def test_a_draw_repeats_for_a_seed_and_differs_for_another():
    population = plant(["length", "warmth"])
    first, again, other = (population.draw(50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.chosen_N, other.chosen_N)


@pytest.mark.parametrize("raters", [1, 3])
def test_raters_share_pairs_of_distinct_items(raters):
    population = plant(["length", "warmth"], topics=4)
    draw = population.draw(200, np.random.default_rng(0), raters)
    assert all(column.shape == (200 * raters,) for column in draw)
    assert (draw.chosen_N != draw.rejected_N).all()
    assert np.array_equal(np.bincount(draw.pair_N), np.full(200, raters))
    shown = np.column_stack([draw.topic_N, np.sort(np.column_stack([draw.chosen_N, draw.rejected_N]), axis=1)])
    for pair in range(200):
        assert len(np.unique(shown[draw.pair_N == pair], axis=0)) == 1
    if raters > 1:
        of_pair_NR, chosen_NR = draw.group_N.reshape(200, raters), draw.chosen_N.reshape(200, raters)
        assert (of_pair_NR != of_pair_NR[:, :1]).any()
        assert (chosen_NR != chosen_NR[:, :1]).any()


def test_labels_come_as_often_as_the_raters_model_says():
    population = opposed(weight=0.7, strength=0.8)
    draw = population.draw(60_000, np.random.default_rng(0))
    low, high = np.minimum(draw.chosen_N, draw.rejected_N), np.maximum(draw.chosen_N, draw.rejected_N)
    for group, sign in ((0, 1), (1, -1)):
        for first, second in ((0, 1), (0, 2), (1, 2)):
            asked = (draw.group_N == group) & (low == first) & (high == second)
            expected = expit(sign * 0.8 * (second - first))
            error = (expected * (1 - expected) / asked.sum()) ** 0.5
            assert abs((draw.chosen_N[asked] == second).mean() - expected) < 4 * error


def test_raters_come_as_often_as_the_topic_says():
    population = plant(
        ["length"],
        {"a": {"length": 1}, "b": {"length": -1}, "c": {}},
        topics=2,
        group_weights=[[0, 0.3, 0.7], [1, 0, 0]],
    )
    draw = population.draw(40_000, np.random.default_rng(0))
    first, second = (np.bincount(draw.group_N[draw.topic_N == topic], minlength=3) for topic in (0, 1))
    assert first[0] == 0
    assert abs(first[1] / first.sum() - 0.3) < 4 * (0.21 / first.sum()) ** 0.5
    assert second.tolist() == [second.sum(), 0, 0]
    assert abs(first.sum() / 40_000 - 0.5) < 4 * (0.25 / 40_000) ** 0.5


def test_every_ordered_pair_of_distinct_items_is_asked_equally_often():
    draw = opposed(strength=0.0).draw(60_000, np.random.default_rng(0))
    counts = np.bincount(3 * draw.chosen_N + draw.rejected_N, minlength=9).reshape(3, 3)
    share = 1 / 6
    off_diagonal = counts[~np.eye(3, dtype=bool)] / 60_000
    assert np.abs(off_diagonal - share).max() < 4 * (share * (1 - share) / 60_000) ** 0.5
    assert counts.trace() == 0


@pytest.mark.parametrize("weights", [0.3, [[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]])
def test_reference_losses_of_a_large_draw_are_the_floors(weights):
    population = plant(["a", "b"], groups=3, relevant=1, strength=2.0, topics=2, group_weights=weights, seed=3)
    draw = population.draw(100_000, np.random.default_rng(5))
    losses_NF = -population.reference_log_probs(draw)
    assert np.isfinite(losses_NF).all()
    for name, loss_N in zip(REFERENCES, losses_NF.T, strict=True):
        assert abs(loss_N.mean() - population.floors[name]) < 4 * loss_N.std() / len(loss_N) ** 0.5, name


@FEW
@given(populations)
def test_reference_probabilities_of_a_label_and_its_reverse_sum_to_one(chosen):
    population = plant(**chosen)
    draw = population.draw(20, np.random.default_rng(0))
    reverse = draw._replace(chosen_N=draw.rejected_N, rejected_N=draw.chosen_N)
    total_NF = np.exp(population.reference_log_probs(draw)) + np.exp(population.reference_log_probs(reverse))
    np.testing.assert_allclose(total_NF, 1.0, atol=1e-9)


# Settings


def test_items_are_all_combinations_once():
    items_IA = plant(["a", "b", "c"]).items_IA
    assert len({tuple(item) for item in items_IA}) == len(items_IA) == 27
    assert set(items_IA.ravel()) == {-1, 0, 1}


def test_drawn_groups_care_about_as_many_attributes_as_asked_with_the_strength_asked():
    population = plant(["a", "b", "c", "d"], groups=5, relevant=3, strength=1.5, topics=7)
    assert population.groups == tuple(f"group_{number}" for number in range(5))
    assert ((population.rewards_KA != 0).sum(axis=1) == 3).all()
    assert set(np.abs(population.rewards_KA).ravel()) == {0, 1.5}
    assert population.group_weights_TK.shape == (7, 5)


@pytest.mark.parametrize("angle", [0, 30.0, 90, 180])
def test_two_groups_are_the_angle_asked_apart(angle):
    population = plant(["a", "b", "c"], groups=2, angle=angle, strength=2.5, topics=4)
    assert population.groups == ("group_0", "group_1")
    first_A, second_A = population.rewards_KA / 2.5
    assert [np.linalg.norm(first_A), np.linalg.norm(second_A)] == pytest.approx([1.0, 1.0])
    assert first_A @ second_A == pytest.approx(np.cos(np.radians(angle)), abs=1e-12)
    assert (population.rewards_KA[:, 2] == 0).all()


def test_the_angle_is_a_dial_from_one_taste_to_opposite_tastes():
    settings = {"groups": 2, "topics": 1, "group_weights": [[0.5, 0.5]]}
    gaps = [plant(["a", "b"], angle=angle, **settings).gaps for angle in (0, 45, 90, 135, 180)]
    information = [gap["mutual_information"] for gap in gaps]
    assert information[0] == pytest.approx(0.0, abs=1e-12)
    assert information == sorted(information)
    opposite = plant(["a", "b"], angle=180, **settings)
    assert (opposite.rewards_KA[0] == -opposite.rewards_KA[1]).all()
    assert opposite.floors["single_bt_conditional"] == pytest.approx(np.log(2), abs=1e-12)
    assert opposite.floors["marginal"] == pytest.approx(np.log(2), abs=1e-12)


def test_an_angle_leaves_the_weights_of_the_topics_to_the_seed():
    first, again, other = (plant(["a", "b"], groups=2, angle=45, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.group_weights_TK, again.group_weights_TK)
    assert not np.array_equal(first.group_weights_TK, other.group_weights_TK)
    assert np.array_equal(first.rewards_KA, other.rewards_KA)


def test_named_groups_get_their_rewards_in_the_order_of_the_attributes():
    population = plant(["a", "b"], {"x": {"b": -0.5, "a": 2}, "y": {}}, strength=2.0, topics=1)
    assert population.groups == ("x", "y")
    assert population.rewards_KA.tolist() == [[4, -1], [0, 0]]


def test_the_seed_of_a_population_settles_it():
    first, again, other = (plant(["a", "b", "c"], seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.group_weights_TK, again.group_weights_TK)
    assert np.array_equal(first.rewards_KA, again.rewards_KA)
    assert not np.array_equal(first.group_weights_TK, other.group_weights_TK)


@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        ({"topics": 1, "group_weights": [[0.5, 0.4]]}, "sum to 1 for every topic"),
        ({"topics": 1, "group_weights": [[1.5, -0.5]]}, "at least 0"),
        ({"topics": 1, "group_weights": [[float("nan"), 1.0]]}, "sum to 1 for every topic"),
        ({"topics": 2, "group_weights": [[0.5, 0.5]]}, r"shape \(1, 2\); 2 topics and 2 groups need \(2, 2\)"),
        ({"topics": 2, "group_weights": [[0.5], [0.5]]}, r"shape \(2, 1\)"),
        ({"groups": {"x": {"colour": 1}}}, r"groups care about \['colour'\], which are not attributes"),
        ({"relevant": 3}, "cares about 3 attributes; there are 2"),
        ({"relevant": 0}, "cares about 0 attributes"),
        ({"topics": 2, "group_weights": [[1, 0], [1, 0]]}, "without weight on any topic: group_1; leave them out"),
        ({"groups": 3, "angle": 90}, r"data.population.angle=90 .* needs data.population.groups=2"),
        ({"groups": {"x": {"a": 1}, "y": {}}, "angle": 90}, r"angle=90 .* it needs data.population.groups=2"),
        ({"angle": 181}, "data.population.angle=181: .* from 0 to 180 degrees"),
        ({"angle": -1.0}, "data.population.angle=-1.0"),
        ({"angle": float("nan")}, "data.population.angle=nan"),
        ({"attributes": ["a"], "angle": 90}, "needs at least two attributes"),
        ({"attributes": [str(number) for number in range(8)]}, "8 attributes are too many"),
        # 3**40 items: refused before they are listed.
        ({"attributes": [str(number) for number in range(40)]}, "40 attributes are too many"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, trouble):
    with pytest.raises(UserError, match=trouble):
        plant(**{"attributes": ["a", "b"], "groups": 2} | changes)


@pytest.mark.parametrize(("name", "groups"), [("four_tastes", 4), ("three_tastes", 3), ("two_tastes", 2)])
def test_every_population_of_the_tree_can_be_planted_and_its_dials_turned(name, groups, settings):
    planted = plant(**settings("data=planted_features", f"data/population={name}")["data"]["population"])
    assert planted.num_groups == groups
    turned = ["data.population.groups=2", "data.population.angle=60", "data.population.group_weights=1.0"]
    apart = plant(**settings("data=planted_features", f"data/population={name}", *turned)["data"]["population"])
    first_A, second_A = apart.rewards_KA
    assert first_A @ second_A == pytest.approx(0.5 * first_A @ first_A)


def test_thirds_written_with_six_digits_are_thirds():
    written, thirds = (
        plant(["a", "b"], groups=3, relevant=1, topics=1, group_weights=[[third] * 3]) for third in (0.333333, 1 / 3)
    )
    assert written.floors == pytest.approx(thirds.floors, abs=1e-5)
    assert written.gaps == pytest.approx(thirds.gaps, abs=1e-5)


def test_a_population_checks_its_weights_itself():
    with pytest.raises(UserError, match="sum to 1"):
        Population(("a",), ("x",), np.ones((1, 1)), np.array([[0.9]]))


def test_weights_within_the_tolerance_are_brought_to_one():
    population = plant(["length"], groups=2, relevant=1, topics=1, group_weights=[[0.500004, 0.500004]], strength=9.0)
    assert population.group_weights_TK.sum(axis=1).tolist() == [1.0]
    draw = population.draw(200, np.random.default_rng(0))
    assert (population.reference_log_probs(draw) <= 0).all()
