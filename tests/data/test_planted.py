"""Tests of `micro_lit.data.planted`."""

import numpy as np
import pytest
import torch
from scipy.special import log_expit

from micro_lit.data import PlantedFeatures, PlantedText
from micro_lit.data.pairs import SPLITS
from micro_lit.data.planted.population import REFERENCES
from micro_lit.data.planted.rendering import TOPICS
from micro_lit.errors import UserError

POPULATION = {"attributes": ["length", "warmth", "humour"], "groups": 3, "topics": 4, "strength": 2.0, "seed": 1}
SIZES = {"train": 120, "validation": 30, "test": 50}
FACES = [PlantedFeatures, PlantedText]


def make(face, **changes):
    return face(**{"population": POPULATION, **SIZES} | changes)


def column(data, name):
    """A label column as names, None where unknown."""
    return [data.names[name][code] if code >= 0 else None for code in data.pairs.label_N(name).tolist()]


def shown(data):
    """(context, chosen, rejected) of every pair."""
    return [tuple(data.texts[row] for row in triplet) for triplet in data.pairs.triplets_N3.tolist()]


def as_lists(data):
    texts = data.texts.tolist() if data.is_vectors else data.texts
    pairs = data.pairs
    references = pairs.reference_log_probs_NF.tolist()
    return texts, pairs.triplets_N3.tolist(), pairs.labels_NC.tolist(), references, data.names


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("changes", [{}, {"criteria": "given", "users_per_group": 3, "raters_per_pair": 2}])
def test_a_seed_settles_the_data(face, changes):
    first, again, other = (make(face, **changes).load(seed) for seed in (0, 0, 1))
    assert as_lists(first) == as_lists(again)
    assert as_lists(first)[1] != as_lists(other)[1]


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("raters", [1, 2])
def test_splits_have_the_sizes_asked_for_and_cover_every_row_once(face, raters):
    data = make(face, raters_per_pair=raters).load(0)
    assert {name: len(rows) for name, rows in data.splits.items()} == {k: raters * n for k, n in SIZES.items()}
    assert sorted(torch.cat(list(data.splits.values())).tolist()) == list(range(len(data.pairs)))
    assert next(iter(data.counts.values())).rows == len(data.pairs)
    assert data.pairs.rating_gap_N.isnan().all()
    assert data.is_vectors == (face is PlantedFeatures)


@pytest.mark.parametrize("face", FACES)
def test_references_belong_to_the_population(face):
    data = make(face).load(0)
    assert data.references == REFERENCES
    assert data.pairs.reference_log_probs_NF.shape == (200, len(REFERENCES))
    assert data.pairs.reference_log_probs_NF.dtype == torch.float32
    assert (data.pairs.reference_log_probs_NF < 0).all()


def test_both_faces_show_one_population():
    features, text = make(PlantedFeatures).load(0), make(PlantedText).load(0)
    assert features.population.floors == text.population.floors
    torch.testing.assert_close(features.pairs.reference_log_probs_NF, text.pairs.reference_log_probs_NF)
    assert column(features, "group") == column(text, "group")
    assert column(text, "source") == [TOPICS[int(name.removeprefix("topic_"))] for name in column(features, "source")]


@pytest.mark.parametrize("criteria", ["none", "given"])
def test_vectors_labels_and_references_are_those_of_the_same_draw(criteria):
    """The oracle reference is σ of the group's reward of the chosen vector minus that of the rejected one."""
    data = make(PlantedFeatures, criteria=criteria).load(0)
    population = data.population
    group_N = [population.groups.index(name) for name in column(data, "group")]
    topic_N = [int(name.removeprefix("topic_")) for name in column(data, "source")]
    levels_NA = (data.texts[data.pairs.chosen_N] - data.texts[data.pairs.rejected_N])[:, :3].double().numpy()
    log_prob_NK = log_expit(levels_NA @ population.rewards_KA.T)
    weights_NK = population.group_weights_TK[topic_N]
    reference_NF = data.pairs.reference_log_probs_NF.numpy()
    np.testing.assert_allclose(reference_NF[:, 0], log_prob_NK[np.arange(200), group_N], atol=1e-5)
    np.testing.assert_allclose(reference_NF[:, 1], np.log((weights_NK * np.exp(log_prob_NK)).sum(axis=1)), atol=1e-5)
    linear_N = reference_NF[:, REFERENCES.index("single_bt_linear")]
    np.testing.assert_allclose(linear_N, log_expit(levels_NA @ population.linear_A), atol=1e-5)


def test_vectors_of_contexts_and_responses_share_no_dimension():
    data = make(PlantedFeatures, criteria="given").load(0)
    context_MD = data.texts[data.pairs.context_N.unique()]
    response_MD = data.texts[torch.cat([data.pairs.chosen_N, data.pairs.rejected_N]).unique()]
    assert (context_MD.abs().sum(0) * response_MD.abs().sum(0) == 0).all()
    assert (context_MD.abs().sum(1) > 0).all()


def test_without_criteria_a_context_vector_is_the_topic():
    data = make(PlantedFeatures).load(0)
    topics_NT = data.texts[data.pairs.context_N][:, 3:]
    assert torch.equal(topics_NT, torch.eye(4)[data.pairs.label_N("source")])
    assert column(data, "attribute") == [None] * 200
    assert column(data, "user_id") == [None] * 200


def test_with_criteria_a_context_vector_is_the_topic_and_the_direction_of_the_groups_rewards():
    data = make(PlantedFeatures, criteria="given").load(0)
    context_ND = data.texts[data.pairs.context_N][:, 3:]
    assert torch.equal(context_ND[:, :4], torch.eye(4)[data.pairs.label_N("source")])
    rewards_NA = torch.from_numpy(data.population.rewards_KA).float()[data.pairs.label_N("group")]
    torch.testing.assert_close(context_ND[:, 4:].norm(dim=1), torch.ones(200))
    torch.testing.assert_close((context_ND[:, 4:] * rewards_NA).sum(1), rewards_NA.norm(dim=1))
    assert column(data, "attribute") == column(data, "group")


@pytest.mark.parametrize("face", FACES)
def test_a_group_that_wants_nothing_can_be_shown(face):
    population = POPULATION | {"groups": {"any": {}, "long": {"length": 1}}, "group_weights": 5.0}
    data = make(face, population=population, criteria="given").load(0)
    assert set(column(data, "group")) == {"any", "long"}
    if data.is_vectors:
        assert data.texts.isfinite().all()


def test_no_prompt_is_in_two_splits():
    data = make(PlantedText, train=600, validation=200, test=400, criteria="given").load(0)
    prompts = {}
    for split in SPLITS:
        rows = data.split(split).chosen_N.tolist()
        prompts[split] = {data.texts[row].prompt for row in rows}
    assert all(len(found) > 20 for found in prompts.values())
    assert not prompts["train"] & prompts["validation"]
    assert not prompts["train"] & prompts["test"]
    assert not prompts["validation"] & prompts["test"]


@pytest.mark.parametrize("criteria", ["none", "given"])
def test_the_context_differs_from_the_prompt_only_by_a_criterion(criteria):
    data = make(PlantedText, criteria=criteria).load(0)
    for context, chosen, rejected in shown(data):
        assert chosen.prompt == rejected.prompt
        assert chosen.response
        assert rejected.response
        assert chosen.response != rejected.response
        assert context.response is None
        if criteria == "given":
            said = context.prompt[-1].content.removeprefix(chosen.prompt[-1].content)
            assert said.startswith("\n\n")
            assert said.strip()
            assert len(said) < len(context.prompt[-1].content)
        else:
            assert context.prompt == chosen.prompt
    assert column(data, "attribute") == (column(data, "group") if criteria == "given" else [None] * 200)


def test_text_shows_the_levels_of_its_items():
    """Longer answers for those who want them long: length is the only attribute, and nearly without noise."""
    population = {"attributes": ["length"], "groups": {"long": {"length": 1}}, "topics": 2, "strength": 5.0}
    data = make(PlantedText, population=population).load(0)
    longer = [len(chosen.response) > len(rejected.response) for _, chosen, rejected in shown(data)]
    assert np.mean(longer) > 0.9


@pytest.mark.parametrize("face", FACES)
def test_raters_of_a_pair_see_the_same_two_texts(face):
    data = make(face, raters_per_pair=3).load(0)
    triplets_N3 = data.pairs.triplets_N3
    seen_PR3 = torch.cat([triplets_N3[:, :1], triplets_N3[:, 1:].sort(dim=1).values], dim=1).reshape(-1, 3, 3)
    assert (seen_PR3 == seen_PR3[:, :1]).all()
    chosen_PR = triplets_N3[:, 1].reshape(-1, 3)
    assert (chosen_PR != chosen_PR[:, :1]).any()


@pytest.mark.parametrize("face", FACES)
def test_every_user_belongs_to_one_group(face):
    data = make(face, users_per_group=4).load(0)
    groups = {}
    for user, group in zip(column(data, "user_id"), column(data, "group"), strict=True):
        groups.setdefault(user, set()).add(group)
    assert None not in groups
    assert all(len(found) == 1 for found in groups.values())
    of_group = [next(iter(found)) for found in groups.values()]
    assert {of_group.count(group) for group in data.population.groups} == {4}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(("share", "unseen"), [(0.25, 1), (0.5, 2), (0.6, 2)])
def test_a_share_of_users_is_in_test_pairs_alone(face, share, unseen):
    data = make(face, users_per_group=4, unseen_share=share, test=200).load(0)
    users, groups = column(data, "user_id"), dict(zip(column(data, "user_id"), column(data, "group"), strict=True))
    of_split = {name: {users[row] for row in rows.tolist()} for name, rows in data.splits.items()}
    assert of_split["validation"] <= of_split["train"]
    assert of_split["train"] < of_split["test"]
    alone = [groups[user] for user in of_split["test"] - of_split["train"]]
    assert {alone.count(group) for group in data.population.groups} == {unseen}
    assert len(set(groups)) == 4 * 3


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(("users", "share"), [(0, 0.5), (4, 0.1), (4, 0.9), (4, 1.0), (4, -0.5)])
def test_a_share_that_leaves_no_user_of_either_kind_is_refused(face, users, share):
    with pytest.raises(UserError, match=rf"data\.unseen_share={share} of data\.users_per_group={users}"):
        make(face, users_per_group=users, unseen_share=share)


@pytest.mark.parametrize("face", FACES)
def test_users_change_nothing_but_their_column(face):
    without, with_users = make(face).load(0), make(face, users_per_group=4).load(0)
    torch.testing.assert_close(without.pairs.reference_log_probs_NF, with_users.pairs.reference_log_probs_NF)
    assert column(without, "group") == column(with_users, "group")


@pytest.mark.parametrize("face", FACES)
def test_judgments_of_one_pair_share_its_code(face):
    data = make(face, raters_per_pair=3).load(0)
    pair_PR = data.pairs.label_N("pair_id").reshape(-1, 3)
    assert (pair_PR == pair_PR[:, :1]).all()
    assert len(pair_PR[:, 0].unique()) == len(pair_PR)
    assert {int(code) for code in pair_PR.unique()} < set(range(len(data.names["pair_id"]) + 1))


@pytest.mark.parametrize("face", FACES)
def test_raters_who_were_told_different_criteria_judge_different_pairs(face):
    data = make(face, raters_per_pair=3, criteria="given").load(0)
    seen = {}
    for pair, context in zip(data.pairs.label_N("pair_id").tolist(), data.pairs.context_N.tolist(), strict=True):
        assert seen.setdefault(pair, context) == context
    assert 200 < len(seen) <= 600  # more than the 200 that were asked, at most one a row


@pytest.mark.parametrize("face", FACES)
def test_a_users_second_judgment_of_a_pair_has_no_pair(face):
    """With one user a group, raters of one pair and group are the same person."""
    data = make(face, raters_per_pair=4, users_per_group=1).load(0)
    pair_N, user_N = data.pairs.label_N("pair_id").tolist(), data.pairs.label_N("user_id").tolist()
    seen = set()
    for row, (pair, user) in enumerate(zip(pair_N, user_N, strict=True)):
        assert (pair == -1) == ((row // 4, user) in seen)
        seen.add((row // 4, user))
    assert -1 in pair_N


def test_a_response_can_hold_its_prompt_as_texts_do():
    plain, holding = make(PlantedFeatures).load(0), make(PlantedFeatures, prompt_in_response=True).load(0)
    torch.testing.assert_close(plain.pairs.reference_log_probs_NF, holding.pairs.reference_log_probs_NF)
    for (context, *responses), (same, *others) in zip(shown(plain), shown(holding), strict=True):
        assert torch.equal(context, same)
        for response, other in zip(responses, others, strict=True):
            assert torch.equal(other, response + context)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("criteria", "bayes"), [("none", "marginal"), ("hidden", "marginal"), ("given", "oracle"), ("shuffled", "marginal")]
)
def test_the_data_name_the_reference_that_knows_what_they_show(face, criteria, bayes):
    assert make(face, criteria=criteria).load(0).bayes == bayes


def test_text_refuses_attributes_and_topics_it_has_no_words_for():
    with pytest.raises(UserError, match=r"planted text has the attributes .*; not \['colour'\]"):
        make(PlantedText, population=POPULATION | {"attributes": ["length", "colour"]})
    with pytest.raises(UserError, match=f"planted text has {len(TOPICS)} topics, not 99"):
        make(PlantedText, population=POPULATION | {"topics": 99})


@pytest.mark.parametrize("face", FACES)
def test_criteria_told_hidden_or_shuffled_leave_the_rows_as_they_are(face):
    """Only contexts and attributes differ, so that what was trained on one judges the rows of the others."""
    shown = {criteria: make(face, criteria=criteria).load(0) for criteria in ("hidden", "given", "shuffled")}
    for data in shown.values():
        assert column(data, "group") == column(shown["hidden"], "group")
        for ours, theirs in ((data.pairs.chosen_N, shown["hidden"].pairs.chosen_N),):
            if data.is_vectors:
                assert torch.equal(data.texts[ours], shown["hidden"].texts[theirs])
            else:
                assert [data.texts[row] for row in ours] == [shown["hidden"].texts[row] for row in theirs]
    for criteria in ("hidden", "given"):
        assert column(shown[criteria], "attribute") == column(shown[criteria], "group")
    shuffled, groups = column(shown["shuffled"], "attribute"), column(shown["shuffled"], "group")
    for split in SPLITS:
        rows = shown["shuffled"].splits[split].tolist()
        assert sorted(shuffled[row] for row in rows) == sorted(groups[row] for row in rows)
        assert [shuffled[row] for row in rows] != [groups[row] for row in rows]


def test_hidden_criteria_leave_room_in_the_vectors():
    none, hidden, given = (make(PlantedFeatures, criteria=criteria).load(0) for criteria in ("none", "hidden", "given"))
    assert none.texts.shape[1] + 3 == hidden.texts.shape[1] == given.texts.shape[1]
    assert (hidden.texts[hidden.pairs.context_N][:, -3:] == 0).all()


def test_the_columns_of_group_weights_are_the_groups_in_the_order_they_are_named():
    settings = {
        "attributes": ["length", "warmth"],
        "groups": {"zealots": {"length": 1}, "aesthetes": {"warmth": 1}},
        "topics": 1,
        "group_weights": [[0.9, 0.1]],
    }
    data = PlantedFeatures(settings, train=80, validation=10, test=10).load(0)
    assert data.names["group"] == ["zealots", "aesthetes"]
    assert data.pairs.label_N("group").float().mean() < 0.3
