"""Tests of `micro_lit.data.layouts`, through the configs of the public sets, on small files of the same columns."""

import itertools
import json
import math
import random
import re
from collections import Counter, defaultdict

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from micro_lit import train
from micro_lit.config import build
from micro_lit.data.layouts import (
    HELPSTEER2_ATTRIBUTES,
    PERSONAL_LLM_SPREAD,
    REWARD_BENCH,
    ULTRAFEEDBACK_ATTRIBUTES,
    LeftOut,
    helpsteer2,
    personal_llm,
    prism,
    rpr,
    ultrafeedback,
)
from micro_lit.data.records import BadRow, Message
from micro_lit.errors import UserError

NINE = [
    "Clarity and Conciseness",
    "Creativity and Originality",
    "Scientific Rigor",
    "User-Friendliness",
    "Narrative and Storytelling Quality",
    "Pedagogical Effectiveness",
    "Linguistic Creativity",
    "Factual Accuracy",
    "Humor & Entertainment Value",
]


def rpr_row(number, **changes):
    return {
        "prompt": f"Question {number}?",
        "response_a": f"Short {number}.",
        "response_b": f"Long {number}, with all that belongs to it.",
        "criteria_x": f"Be brief about {number}.",
        "criteria_y": f"Make me laugh about {number}.",
        "category_x": NINE[number % 8],
        "category_y": "Humor & Entertainment Value",
        "id": number,
        "scenario_x": "A reader in a hurry.",
        "scenario_y": "A bored reader.",
        **{f"profile_{person}": "Anybody." for person in range(5)},
        **changes,
    }


def helpsteer2_rows(number, first=(4, 4, 4, 2, 1), second=(1, 1, 2, 2, 3), prompt=None):
    """Two raw rows. As they are, the first response wins three attributes, the second one verbosity; one is a tie."""
    return [
        {
            "prompt": prompt or f"Question {number}?",
            "response": f"{name} {number}.",
            **dict(zip(HELPSTEER2_ATTRIBUTES, ratings, strict=True)),
        }
        for name, ratings in (("Yes", first), ("No", second))
    ]


def pku_row(number, **changes):
    return {
        "prompt": f"Question {number}?",
        "response_0": f"Do it {number}.",
        "response_1": f"Better not {number}.",
        "prompt_source": "x",
        "is_response_0_safe": False,
        "is_response_1_safe": True,
        "better_response_id": 0,
        "safer_response_id": 1,
        **changes,
    }


def ultrafeedback_row(number, ratings=(("5",) * 4, ("4", "5", "3", "4"), ("2", "N/A", "1", "1"), ("5", "1", "1", "2"))):
    """ratings: of each completion under each attribute."""
    completions = [
        {
            "model": f"model {place}",
            "response": f"Answer {place} to {number}.",
            "annotations": {
                attribute: {"Rating": rating, "Rationale": "Because."}
                for attribute, rating in zip(ULTRAFEEDBACK_ATTRIBUTES, rated, strict=True)
            },
            "overall_score": 10.0,
            "fine-grained_score": 1.0,
        }
        for place, rated in enumerate(ratings)
    ]
    return {"source": "evol_instruct", "instruction": f"Question {number}?", "completions": completions}


def hh_row(number, reply="Yes"):
    start = f"\n\nHuman: Question {number}?\n\nAssistant: What?\n\nHuman: {number}!\n\nAssistant:"
    return {"chosen": f"{start} {reply} {number}.", "rejected": f"{start} Go away."}


def conversations_row(number):
    prompt = [{"role": "user", "content": f"Question {number}?"}]
    chosen, rejected = ([*prompt, {"role": "assistant", "content": text}] for text in (f"Yes {number}.", "No."))
    return {"chosen": chosen, "rejected": rejected, "chosen_score": 0.0, "rejected_score": 0.0}


def reward_bench_row(number, subset):
    texts = {"prompt": f"Task {number}", "chosen": f"Good {number}", "rejected": "Bad"}
    return {**texts, "chosen_model": "a", "rejected_model": "b", "subset": subset, "id": number}


def prism_row(number, turns=((90, 20, 55), (40, 70)), **changes):
    """turns: the scores of each turn's responses. The conversation goes on with the best, the first of equal ones."""
    history = []
    for turn, scores in enumerate(turns):
        question = f"And {turn}, {number}?" if turn else f"Question {number}?"
        history.append({"turn": turn, "role": "user", "content": question})
        history += [
            {
                "turn": turn,
                "role": "model",
                "content": f"Answer {place} of turn {turn} to {number}.",
                "model_provider": "x",
                "model_name": f"model {place}",
                "score": score,
                "if_chosen": place == scores.index(max(scores)),
                "within_turn_id": place,
            }
            for place, score in enumerate(scores)
        ]
    return {
        "conversation_id": f"c{number}",
        "user_id": f"user{number % 4}",
        "conversation_type": ("unguided", "values guided", "controversy guided")[number % 3],
        "opening_prompt": f"Question {number}?",
        "conversation_turns": len(turns),
        "conversation_history": history,
        **changes,
    }


def changed(row, message, **fields):
    """A row of PRISM with some fields of one message changed."""
    history = list(row["conversation_history"])
    history[message] = {**history[message], **fields}
    return {**row, "conversation_history": history}


def personal_llm_row(number, **changes):
    scores = random.Random(number)
    return {
        "prompt": f"Question {number}?",
        "subset": "HelpSteer",
        "prompt_id": number,
        **{f"response_{place}": f"Answer {place} to {number}." for place in range(1, 9)},
        **{f"response_{place}_model": f"model {place}" for place in range(1, 9)},
        **{f"response_{place}_{model}": scores.gauss(4, 3) for place in range(1, 9) for model in PERSONAL_LLM_SPREAD},
        **changes,
    }


def flat(rows):
    return [row for group in rows for row in group]


SUBSETS = flat(REWARD_BENCH.values())
TRAIN, TEST = range(40), range(100, 108)
# For each config the raw files of its settings. No pair of HelpSteer2's is unanimous here.
RAW = {
    "rpr": {"data.train": map(rpr_row, TRAIN), "data.test": map(rpr_row, TEST)},
    "helpsteer2": {"data.train": flat(map(helpsteer2_rows, TRAIN)), "data.test": flat(map(helpsteer2_rows, TEST))},
    "pku_saferlhf": {"data.train": map(pku_row, TRAIN), "data.test": map(pku_row, TEST)},
    "ultrafeedback": {"data.train": map(ultrafeedback_row, TRAIN)},
    "hh_rlhf_official": {
        "data.sets.helpful.train": map(hh_row, TRAIN),
        "data.sets.helpful.test": map(hh_row, TEST),
        "data.sets.harmless.train": [hh_row(number, "No") for number in TRAIN],
        "data.sets.harmless.test": [hh_row(number, "No") for number in TEST],
    },
    "preference_700k": {"data.train": map(conversations_row, TRAIN)},
    "reward_bench": {
        "data.sets.helpsteer2.train": flat(map(helpsteer2_rows, TRAIN)),
        "data.sets.pku_saferlhf.train": map(pku_row, TRAIN),
        "data.sets.helpsteer2.test": [reward_bench_row(*pair) for pair in enumerate(SUBSETS)],
    },
    "prism": {"data.train": map(prism_row, TRAIN)},
    "personal_llm": {"data.train": map(personal_llm_row, TRAIN), "data.test": map(personal_llm_row, TEST)},
}  # fmt: skip
PEOPLE = ("prism", "personal_llm")  # whose judgments are of persons, under no attribute
RAW = {name: {key: list(rows) for key, rows in files.items()} for name, files in RAW.items()}
# The one file that holds the rows of a layout, for trouble with single rows.
FILE = {name: next(iter(files)) for name, files in RAW.items()}


@pytest.fixture
def write(tmp_path):
    def write_file(name, rows):
        path = tmp_path / name
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
        else:
            path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write_file


@pytest.fixture
def source(settings, write):
    """The set of a config, on raw files of its own or those given."""

    def make(name, *overrides, ending=".jsonl", **files):
        raw = RAW[name] | {f"data.{key}": rows for key, rows in files.items()}
        paths = [f"{key}={write(key + ending, rows)}" for key, rows in raw.items()]
        return build(settings(f"data={name}", *paths, *overrides)["data"])

    return make


def records_of(source, seed=0):
    """Split -> records."""
    records, splits, _ = source.read(seed)
    found = {"train": [], "validation": [], "test": []}
    for record, split in zip(records, splits, strict=True):
        found[split].append(record)
    return found


def judged(record):
    return record.attribute, record.chosen, record.rejected


# All sets


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("name", "train_rows", "test_rows", "attributes"),
    [
        ("rpr", 2 * 40, 2 * 8, {category.lower().replace("&", "and").replace(" ", "-") for category in NINE}),
        ("helpsteer2", 4 * 40, 4 * 8, {*HELPSTEER2_ATTRIBUTES} - {"complexity"}),
        ("pku_saferlhf", 2 * 40, 2 * 8, {"helpful", "safe"}),
        ("ultrafeedback", None, None, {*ULTRAFEEDBACK_ATTRIBUTES}),
        ("hh_rlhf_official", 2 * 40, 2 * 8, {"helpful", "harmless"}),
        ("preference_700k", None, None, set()),
        ("reward_bench", (4 + 2) * 40, 23, {*HELPSTEER2_ATTRIBUTES, "helpful", "safe", *REWARD_BENCH} - {"complexity"}),
        ("prism", None, None, set()),
        ("personal_llm", 5 * 40, 5 * 8, set()),
    ],
)
def test_every_set_is_read_through_its_config(source, name, train_rows, test_rows, attributes, ending):
    data = source(name, ending=ending).load(0)
    assert set(data.names["attribute"]) == attributes
    counts = data.counts.values()
    assert [count.dropped for count in counts] == [0] * len(counts)
    if test_rows is not None:
        assert len(data.splits["test"]) == test_rows
        assert len(data.splits["train"]) + len(data.splits["validation"]) == train_rows
    assert all(len(data.splits[split]) > 0 for split in ("train", "test"))


@pytest.mark.parametrize("name", [name for name in RAW if name not in ("hh_rlhf_official", "reward_bench")])
def test_a_local_copy_of_the_hub_set_needs_one_setting(settings, tmp_path, name):
    node = settings(f"data={name}", f"data.train={tmp_path / 'copy'}")["data"]
    parts = {node["train_split"]: RAW[name]["data.train"]}
    if "data.test" in RAW[name]:
        parts[node["test_split"]] = RAW[name]["data.test"]
    folder = datasets.DatasetDict({part: datasets.Dataset.from_list(rows) for part, rows in parts.items()})
    folder.save_to_disk(str(tmp_path / "copy"))
    found = records_of(build(node))
    assert found["train"]
    assert found["test"]
    if "data.test" in RAW[name]:
        assert {record.prompt[0].content for record in found["test"]} == {f"Question {number}?" for number in TEST}


@pytest.mark.parametrize("name", RAW)
def test_a_prompt_is_on_one_side_under_all_its_attributes(source, name):
    whole = source(name)
    for seed in range(3):
        data = whole.load(seed)
        sides = [
            {data.texts[row].prompt for row in data.split(split).chosen_N.tolist()}
            for split in ("train", "validation", "test")
        ]
        assert sum(map(len, sides)) == len(set.union(*sides))
        assert all(len(side) > 1 for side in sides[::2])


@pytest.mark.parametrize("name", RAW)
def test_a_bad_raw_row_stops_the_reading_and_names_its_place_or_is_counted(source, name):
    key = FILE[name].removeprefix("data.")
    on_bad_row = f"data.{key.removesuffix('train')}on_bad_row"
    rows = [{"prompt": "Question?"}, "{broken\n", *RAW[name][FILE[name]]]
    with pytest.raises(UserError, match=r"train.jsonl, row 1: broken JSON line .*; mend it or set data.on_bad"):
        source(name, f"{on_bad_row}=error", **{key: rows[1:]}).load(0)
    data = source(name, f"{on_bad_row}=skip", **{key: rows}).load(0)
    counts = next(iter(data.counts.values()))
    assert counts.dropped == 2
    assert [re.search(r"row \d+: ", reason)[0] for reason in counts.reasons] == ["row 1: ", "row 2: "]
    assert len(data.pairs) == len(source(name).load(0).pairs)


@pytest.mark.parametrize(
    ("name", "trouble", "reason"),
    [
        ("rpr", rpr_row(0, category_x=None), "'category_x' is None; it must be text"),
        ("rpr", {"prompt": "Q", "response_a": "a"}, "no column 'response_b', which the layout reads"),
        ("pku_saferlhf", pku_row(0, safer_response_id=-1), "'safer_response_id' is -1; it must be 0 or 1"),
        ("ultrafeedback", {"instruction": "Q", "completions": "none"}, "'completions' is of type str"),
        (
            "ultrafeedback",
            {"instruction": "Q", "completions": [{"response": "a", "annotations": {}}] * 2},
            "no column 'annotations.instruction_following'",
        ),
        (
            "prism",
            prism_row(0, conversation_history="none"),
            "'conversation_history' is of type str; it must be a list",
        ),
        ("prism", changed(prism_row(0), 0, content=None), "'content' is of type NoneType; it must be text"),
        ("prism", changed(prism_row(0), 1, score=None), "'score' is None; it must be a finite number"),
        ("prism", changed(prism_row(0), 1, if_chosen=False), "turn 0 has 0 different responses with if_chosen"),
        ("prism", changed(prism_row(0), 6, if_chosen="True"), "turn 1 has 0 different responses with if_chosen"),
        ("prism", changed(prism_row(0), 5, if_chosen=True), "turn 1 has 2 different responses with if_chosen"),
        (
            "prism",
            changed(prism_row(0), 4, role="model"),
            r"turn 1 of .* is in place 1 and has the roles \['model', 'mod",
        ),
        ("prism", changed(prism_row(0), 0, turn=1), r"turn 1 of 'conversation_history' is in place 0 .* \['user'\]"),
        (
            "personal_llm",
            personal_llm_row(0, response_8_beaver_7b=None),
            "'response_8_beaver_7b' is None; it must be a",
        ),
        ("personal_llm", personal_llm_row(0, response_3_gemma_2b=math.nan), "'response_3_gemma_2b' is nan; it must be"),
    ],
)
def test_what_is_wrong_with_a_raw_row_is_said(source, name, trouble, reason):
    with pytest.raises(UserError, match=f"data.train.jsonl, row 1: {reason}"):
        source(name, "data.on_bad_row=error", train=[trouble, *RAW[name]["data.train"]]).load(0)


@pytest.mark.parametrize("name", [name for name in RAW if name not in PEOPLE])
def test_every_experiment_of_a_public_set_runs(settings, write, name):
    experiment = f"{name}_micro" if name in ("rpr", "helpsteer2") else name
    raw = RAW[name] | ({"data.test": RAW["rpr"]["data.test"]} if name == "preference_700k" else {})
    paths = [f"{key}={write(key + '.jsonl', rows)}" for key, rows in raw.items()]
    run = settings(f"+experiment={experiment}", *paths, "backbone=tiny", "backbone.hidden=16", "+debug=fast_dev_run")
    sets = run["data"].get("sets", {"": run["data"]}).values()
    assert {node["criteria"] for node in sets} == {"hidden"}
    assert run["model"]["num_heads"] == (10 if name in ("rpr", "preference_700k") else 5)
    assert math.isfinite(train.run(run))


@pytest.mark.parametrize("model", [[], ["model=single_bt"], ["model=mixture_static"]])
@pytest.mark.parametrize("name", PEOPLE)
def test_every_experiment_on_people_and_its_baselines_run(settings, write, name, model):
    paths = [f"{key}={write(key + '.jsonl', rows)}" for key, rows in RAW[name].items()]
    given = ["data.validation_fraction=0.2", "backbone=tiny", "backbone.hidden=16", *model, "+debug=fast_dev_run"]
    assert math.isfinite(train.run(settings(f"+experiment={name}", *paths, *given)))


# RPR


def test_twins_have_opposite_labels_and_their_own_criteria(source):
    long = "Long 101, with all that belongs to it."
    twins = [record for record in records_of(source("rpr"))["test"] if "101" in record.chosen]
    assert [(*judged(record), record.criterion) for record in twins] == [
        ("pedagogical-effectiveness", "Short 101.", long, "Be brief about 101."),
        ("humor-and-entertainment-value", long, "Short 101.", "Make me laugh about 101."),
    ]


def test_without_its_criterion_a_twin_says_nothing(source):
    data = source("rpr", "data.criteria=hidden").load(0)
    for split in ("train", "validation", "test"):
        found = Counter(map(tuple, data.split(split).triplets_N3.tolist()))
        assert all(found[context, rejected, chosen] == times for (context, chosen, rejected), times in found.items())


def test_categories_that_are_not_asked_for_are_left_out_and_counted(source):
    kept = source("rpr", "data.layout.categories=[humor-and-entertainment-value]")
    data = kept.load(0)
    assert data.names["attribute"] == ["humor-and-entertainment-value"]
    assert len(data.pairs) == 48
    assert data.counts["rpr"].left_out == {"their category is not among those asked for": 48}
    assert data.counts["rpr"].rows == 96
    assert data.counts["rpr"].dropped == 0
    with pytest.raises(UserError, match=r"no usable rows .* 80 left out"):
        source("rpr", "data.layout.categories=[humour]").load(0)


# HelpSteer2


def test_ratings_become_judgments_with_their_gap_and_equal_ones_ties(source):
    kept = records_of(source("helpsteer2", "data.ties=keep"))["test"][:5]
    assert [(*judged(record), record.rating_gap) for record in kept] == [
        ("helpfulness", "Yes 100.", "No 100.", 3),
        ("correctness", "Yes 100.", "No 100.", 3),
        ("coherence", "Yes 100.", "No 100.", 2),
        ("complexity", "Yes 100.", "No 100.", 0),
        ("verbosity", "No 100.", "Yes 100.", 2),
    ]
    counts = source("helpsteer2").load(0).counts["helpsteer2"]
    assert (counts.rows, counts.ties, counts.dropped) == (5 * 48, 48, 0)


def test_pairs_that_all_attributes_judge_alike_are_tested_on_but_not_trained_on(source):
    alike = [helpsteer2_rows(number, (3,) * 5, (1,) * 5) for number in range(200, 220)]
    tied = helpsteer2_rows(300, (3, 3, 3, 3, 2), (1, 1, 1, 1, 2))
    rows = [*RAW["helpsteer2"]["data.train"], *flat(alike), *tied]
    found = source("helpsteer2", "data.test=null", "data.validation_fraction=0.2", "data.test_fraction=0.3", train=rows)
    dropped = records_of(found)
    kept = source(
        "helpsteer2", "data.unanimous=keep", "data.test=null", "data.validation_fraction=0.2", "data.test_fraction=0.3",
        train=rows,
    )  # fmt: skip
    everything = records_of(kept)
    unanimous = {f"Question {number}?" for number in range(200, 220)}
    assert {record.prompt[0].content for record in dropped["train"]}.isdisjoint(unanimous)
    assert dropped["train"] == [r for r in everything["train"] if r.prompt[0].content not in unanimous]
    assert any(record.prompt[0].content in unanimous for record in everything["train"])
    assert any(record.prompt[0].content in unanimous for record in dropped["test"])
    assert (dropped["validation"], dropped["test"]) == (everything["validation"], everything["test"])
    gone = len(everything["train"]) - len(dropped["train"])
    assert gone % 5 == 0
    assert found.load(0).counts["helpsteer2"].left_out == {"all attributes agree on the pair": gone}


def test_a_set_of_unanimous_pairs_cannot_be_trained_on(source):
    rows = flat(helpsteer2_rows(number, (3,) * 5, (1,) * 5) for number in range(20))
    with pytest.raises(UserError, match=r"agree on every pair; set data.unanimous=keep"):
        source("helpsteer2", train=rows).load(0)


def test_turns_inside_a_prompt_become_messages(source):
    prompt = "Hello\nthere\n<extra_id_1>Assistant\nHi.\n<extra_id_1>User\nAnd now?"
    rows = helpsteer2_rows(0, prompt=prompt)
    record = records_of(source("helpsteer2", test=rows))["test"][0]
    assert record.prompt == (Message("user", "Hello\nthere"), Message("assistant", "Hi."), Message("user", "And now?"))
    assert (record.chosen, record.rejected) == ("Yes 0.", "No 0.")


def test_a_response_without_the_other_one_is_a_bad_row_and_the_rest_is_read():
    first, second, third = (helpsteer2_rows(number) for number in range(3))
    rows = [*first, second[0], *third, {"prompt": "last"}]
    found = list(helpsteer2((f"row {number}", row) for number, row in enumerate(rows, start=1)))
    bad = [place for place, row in found if isinstance(row, BadRow)]
    assert bad == ["row 3", "row 6"]
    good = [row for _, row in found if not isinstance(row, BadRow)]
    assert {row["prompt"] for row in good} == {"Question 0?", "Question 2?"}
    assert len(good) == 10


@pytest.mark.parametrize("rating", ["4", None, True])
def test_a_rating_that_is_no_number_is_a_bad_row(rating):
    rows = helpsteer2_rows(0, (4, rating, 4, 4, 4))
    [(place, row)] = helpsteer2([("row 1", rows[0]), ("row 2", rows[1])])
    assert place == "row 1"
    assert isinstance(row, BadRow)
    assert "'correctness' is" in str(row)


# UltraFeedback


RATING = st.sampled_from(["1", "2", "3", "4", "5", "N/A"])


@given(ratings=st.lists(st.tuples(RATING, RATING, RATING, RATING), max_size=5))
def test_all_pairs_of_completions_are_compared_by_all_their_ratings(ratings):
    """Against the definition: for each attribute and each two completions, who has the higher number."""
    found = list(ultrafeedback([("row 1", ultrafeedback_row(7, tuple(ratings)))]))
    expected = Counter()
    for column, attribute in enumerate(ULTRAFEEDBACK_ATTRIBUTES):
        for second in range(len(ratings)):
            for first in range(second):
                one, other = ratings[first][column], ratings[second][column]
                if "N/A" in (one, other):
                    expected[LeftOut("one of the two responses has no rating")] += 1
                    continue
                gap = int(one) - int(other)
                better, worse = (first, second) if gap >= 0 else (second, first)
                expected[attribute, f"Answer {better} to 7.", f"Answer {worse} to 7.", abs(gap)] += 1
    judgments = [
        row if isinstance(row, LeftOut) else (row["attribute"], row["chosen"], row["rejected"], row["rating_gap"])
        for _, row in found
    ]
    assert Counter(judgments) == expected


def test_pairs_without_a_rating_and_ties_are_counted(source):
    counts = source("ultrafeedback").load(0).counts["ultrafeedback"]
    assert counts.rows == 24 * 40
    assert counts.left_out == {"one of the two responses has no rating": 3 * 40}
    assert counts.ties == 3 * 40


# PRISM


SCORES = st.lists(st.integers(1, 100), min_size=1, max_size=4)


@given(turns=st.lists(SCORES, min_size=1, max_size=3), chosen_only=st.booleans())
def test_all_pairs_of_a_turn_are_compared_after_what_was_said_before(turns, chosen_only):
    """Against the definition: each better score against each worse one; what was chosen leads to the next turn."""
    row = prism_row(5, turns)
    said = {
        (message["turn"], message.get("within_turn_id")): message["content"] for message in row["conversation_history"]
    }
    expected, left_out, prompt = Counter(), 0, ()
    for turn, scores in enumerate(turns):
        prompt += (("user", said[turn, None]),)
        chosen = scores.index(max(scores))
        for first, second in itertools.combinations(range(len(scores)), 2):
            if chosen_only and chosen not in (first, second):
                left_out += 1
                continue
            better, worse = (first, second) if scores[first] >= scores[second] else (second, first)
            expected[prompt, said[turn, better], said[turn, worse], scores[better] - scores[worse]] += 1
        prompt += (("assistant", said[turn, chosen]),)
    found = [judgment for _, judgment in prism([("row 1", row)], chosen_only=chosen_only)]
    judgments = [judgment for judgment in found if not isinstance(judgment, LeftOut)]
    assert len(found) - len(judgments) == left_out
    assert expected == Counter(
        (
            tuple((message["role"], message["content"]) for message in judgment["prompt"]),
            *(judgment[name] for name in ("chosen", "rejected", "rating_gap")),
        )
        for judgment in judgments
    )
    assert all(judgment["user_id"] == "user1" for judgment in judgments)
    assert all(judgment["source"] == "controversy guided" for judgment in judgments)


def test_pairs_of_responses_that_were_not_chosen_are_left_out_on_demand(source):
    kept = source("prism").load(0)
    assert len(kept.pairs) == (3 + 1) * 40
    assert not kept.counts["prism"].left_out
    fewer = source("prism", "data.layout.chosen_only=true").load(0)
    assert len(fewer.pairs) == (2 + 1) * 40
    assert fewer.counts["prism"].left_out == {"neither of the two responses was chosen": 40}


def test_a_conversation_is_on_one_side_and_so_are_all_that_open_alike(source):
    alike = [changed(prism_row(number), 0, content=f"Hello {number % 20}") for number in range(60)]
    data = source("prism", train=alike).load(0)
    sides = defaultdict(set)
    for split in ("train", "validation", "test"):
        for row in data.split(split).chosen_N.tolist():
            sides[data.texts[row].prompt[0].content].add(split)
    assert len(sides) == 20
    assert all(len(side) == 1 for side in sides.values())
    assert set.union(*sides.values()) >= {"train", "test"}
    assert sorted(data.names["user_id"]) == [f"user{number}" for number in range(4)]


def test_people_who_judge_the_same_pair_are_raters_of_one_pair(source):
    same = [prism_row(7, user_id=f"user{number}", conversation_id=f"c{50 + number}") for number in range(3)]
    data = source("prism", train=[*same, *map(prism_row, range(8, 40))]).load(0)
    raters = Counter(data.pairs.label_N("pair_id").tolist())
    assert sorted(raters.values(), reverse=True)[:5] == [3, 3, 3, 3, 1]


def test_empty_and_equal_responses_cost_their_pairs_only(source):
    empty = changed(prism_row(100), 1, content="EMPTY STRING")  # the chosen one of turn 0
    equal = changed(prism_row(101), 6, content="Answer 0 of turn 1 to 101.")
    equal = changed(equal, 5, if_chosen=True)  # as the released data have it: chosen by its text
    data = source("prism", train=[*RAW["prism"]["data.train"], empty, equal])
    counts = data.load(0).counts["prism"]
    assert [reason.split(", ")[-1] for reason in counts.reasons] == [
        "row 41: 'chosen' is empty",
        "row 41: 'chosen' is empty",
        "row 42: chosen and rejected are the same text",
    ]
    records = flat(records_of(data).values())
    [later] = [record for record in records if record.prompt[-1] == Message("user", "And 1, 100?")]
    assert later.prompt[1] == Message("assistant", "")


# PersonalLLM


def standardised(row):
    """Scores of one row's responses, in standard deviations of each reward model [8, 10]."""
    return np.array(
        [
            [row[f"response_{place}_{model}"] / spread for model, spread in PERSONAL_LLM_SPREAD.items()]
            for place in range(1, 9)
        ]
    )


def extremes(row, scores_A):
    """(chosen, rejected, rating gap) of a user with these scores."""
    best, worst = (row[f"response_{place + 1}"] for place in (scores_A.argmax(), scores_A.argmin()))
    return best, worst, pytest.approx(scores_A.max() - scores_A.min(), rel=1e-6)


def judged_by_users(rows, **settings):
    """prompt -> user -> (chosen, rejected, rating gap)"""
    found = defaultdict(dict)
    for _, row in personal_llm(((f"row {number}", row) for number, row in enumerate(rows)), **settings):
        found[row["prompt"]][row["user_id"]] = row["chosen"], row["rejected"], row["rating_gap"]
    return found


def test_users_with_one_model_each_judge_as_that_model_does_everywhere(source):
    """The limit of no concentration; in training and test rows a user follows the same model."""
    data = source(
        "personal_llm",
        "data.layout.concentration=1e-5",
        "data.layout.users=40",
        "data.layout.users_per_row=20",
    )
    raw = {row["prompt"]: row for rows in RAW["personal_llm"].values() for row in rows}
    followed = defaultdict(lambda: set(range(10)))
    for record in flat(records_of(data).values()):
        row = raw[record.prompt[0].content]
        found = record.chosen, record.rejected, record.rating_gap
        followed[record.user_id] &= {
            model for model in range(10) if extremes(row, standardised(row)[:, model]) == found
        }
    assert set(followed) == {f"user_{number}" for number in range(40)}
    assert {len(models) for models in followed.values()} == {1}
    assert set.union(*followed.values()) == set(range(10))


def test_users_who_weigh_all_models_alike_agree_with_their_mean():
    """The limit of great concentration."""
    rows = [personal_llm_row(number) for number in range(20)]
    found = judged_by_users(rows, concentration=1e16, users=30, users_per_row=4)
    for row in rows:
        judgments = found[row["prompt"]]
        assert len(judgments) == 4
        assert all(judgment == extremes(row, standardised(row).mean(axis=1)) for judgment in judgments.values())


@example_settings(max_examples=25)
@given(shift=st.floats(-50, 50), model=st.sampled_from(list(PERSONAL_LLM_SPREAD)))
def test_the_level_of_a_models_scores_is_nothing_to_users(shift, model):
    plain = [personal_llm_row(number) for number in range(5)]
    names = [f"response_{place}_{model}" for place in range(1, 9)]
    shifted = [row | {name: row[name] + shift for name in names} for row in plain]
    expected = judged_by_users(plain)
    for prompt, judgments in judged_by_users(shifted).items():
        for user, (chosen, rejected, gap) in judgments.items():
            assert (chosen, rejected, pytest.approx(gap)) == expected[prompt][user]


def test_judgments_of_a_row_depend_on_the_settings_and_not_on_other_rows():
    rows = [personal_llm_row(number) for number in range(30)]
    found = judged_by_users(rows, users=50)
    assert judged_by_users(rows, users=50, seed=0) == found
    assert judged_by_users(rows[20:5:-1], users=50) == {row["prompt"]: found[row["prompt"]] for row in rows[20:5:-1]}


def test_the_seed_draws_the_users_and_who_judges_what():
    rows = [personal_llm_row(number) for number in range(30)]
    ones, others = (judged_by_users(rows, users=50, seed=seed) for seed in (0, 1))
    judges = {frozenset(judgments) for found in (ones, others) for judgments in found.values()}
    assert {len(users) for users in judges} == {5}
    assert len(judges) == 60
    everybody = [judged_by_users(rows, users=5, seed=seed) for seed in (0, 1)]
    assert all(set(found["Question 0?"]) == {f"user_{number}" for number in range(5)} for found in everybody)
    assert everybody[0] != everybody[1]


def test_the_subset_is_the_source_where_there_is_one(source):
    [*rows, last] = RAW["personal_llm"]["data.train"]
    last = {name: value for name, value in last.items() if name != "subset"}
    data = source("personal_llm", train=[*rows, last]).load(0)
    assert set(data.names["source"]) == {"HelpSteer", "personal_llm"}


@pytest.mark.parametrize("setting", ["users=4", "users_per_row=0", "concentration=0.0", "concentration=-1"])
def test_users_that_cannot_be_drawn_are_refused(source, setting):
    with pytest.raises(UserError, match=r"data.layout: users_per_row=.* must be from 1 to users=.* above 0"):
        source("personal_llm", f"data.layout.{setting}").load(0)


# The others


def test_what_is_helpful_and_what_is_safe_are_two_judgments(source):
    records = records_of(source("pku_saferlhf"))["test"][:2]
    assert [judged(record) for record in records] == [
        ("helpful", "Do it 100.", "Better not 100."),
        ("safe", "Better not 100.", "Do it 100."),
    ]
    assert records[0].criterion != records[1].criterion


def test_transcripts_get_the_attribute_of_their_folder(source):
    data = source("hh_rlhf_official").load(0)
    test = data.split("test")
    attributes = [data.names["attribute"][code] for code in test.label_N("attribute")]
    chosen = [data.texts[row] for row in test.chosen_N.tolist()]
    assert {(name, text.response[:3]) for name, text in zip(attributes, chosen, strict=True)} == {
        ("helpful", "Yes"),
        ("harmless", "No "),
    }
    assert [message.role for message in chosen[0].prompt] == ["user", "assistant", "user"]
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 80


def test_conversations_share_their_prompt_and_their_scores_are_not_read(source):
    records = records_of(source("preference_700k"))["train"]
    assert {record.rejected for record in records} == {"No."}
    assert all(len(record.prompt) == 1 and record.prompt[0].role == "user" for record in records)
    assert {record.rating_gap for record in records} == {None}


def test_subsets_of_reward_bench_are_sources_and_their_categories_attributes(source):
    data = source("reward_bench").load(0)
    test = data.split("test")
    found = {
        (data.names["source"][one], data.names["attribute"][other])
        for one, other in zip(test.label_N("source").tolist(), test.label_N("attribute").tolist(), strict=True)
    }
    assert found == {(subset, category) for category, subsets in REWARD_BENCH.items() for subset in subsets}
    assert len(SUBSETS) == len(set(SUBSETS)) == 23
    trained = {data.names["source"][code] for code in data.split("train").label_N("source").tolist()}
    assert trained == {"helpsteer2", "pku_saferlhf"}


def test_an_unknown_subset_is_a_bad_row(source):
    rows = [reward_bench_row(0, "poems")]
    with pytest.raises(UserError, match=r"row 1: the subset 'poems' is of no category; known subsets are alpacaeval"):
        source("reward_bench", **{"sets.helpsteer2.test": rows}).load(0)


def test_a_layout_reads_no_more_rows_than_are_asked_for():
    def rows():
        for number in range(2):
            yield f"row {number}", rpr_row(number)
        raise AssertionError("read too far")

    assert [next(found) for found in [rpr(rows())] for _ in range(4)]
