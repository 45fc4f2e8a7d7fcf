"""Tests of `micro_lit.data.planted.rendering`."""

import re

import numpy as np
import pytest

from micro_lit.data.planted import phrases
from micro_lit.data.planted.rendering import (
    ATTRIBUTES,
    CUE_ATTRIBUTES,
    CUES,
    TOPICS,
    render_criterion,
    render_prompt,
    render_response,
)


def tokens(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def slot_free(template: str) -> str:
    return re.sub(r"\{\w+\}", "SLOT", template)


@pytest.fixture(scope="module")
def population() -> tuple[np.ndarray, list[str]]:
    """Return levels, shape (2000, number of attributes), and the responses that show them."""
    generator = np.random.default_rng(7)
    levels = generator.integers(-1, 2, size=(2000, len(ATTRIBUTES)))
    topics = generator.integers(0, len(TOPICS), size=len(levels)).tolist()
    texts = [
        render_response(topic, dict(zip(ATTRIBUTES, row, strict=True)), generator)
        for topic, row in zip(topics, levels.tolist(), strict=True)
    ]
    return levels, texts


def counts_matrix(texts: list[str], span: int) -> np.ndarray:
    """Return counts of all runs of 1 to `span` tokens, one row per text, one column per run."""
    columns: dict[tuple[str, ...], int] = {}
    entries = []
    for row, text in enumerate(texts):
        words = tokens(text)
        for width in range(1, span + 1):
            for start in range(len(words) - width + 1):
                entries.append((row, columns.setdefault(tuple(words[start : start + width]), len(columns))))
    counts = np.zeros((len(texts), len(columns)))
    rows, positions = np.array(entries).T
    np.add.at(counts, (rows, positions), 1.0)
    return counts


def ridge_accuracy(counts: np.ndarray, labels: np.ndarray, penalty: float = 3.0) -> float:
    """Return the accuracy on the last third of a ridge classifier fitted to the first two thirds."""
    cut = len(labels) * 2 // 3
    centre = counts[:cut].mean(axis=0)
    train, held_out = counts[:cut] - centre, counts[cut:] - centre
    dual = np.linalg.solve(train @ train.T + penalty * np.eye(cut), labels[:cut] - labels[:cut].mean())
    scores = held_out @ (train.T @ dual) + labels[:cut].mean()
    return float(np.mean((scores > 0) == (labels[cut:] > 0)))


def mean_cue_accuracy(levels: np.ndarray, texts: list[str], span: int) -> float:
    counts = counts_matrix(texts[:1500], span)
    accuracies = []
    for attribute in CUE_ATTRIBUTES:
        labels = levels[:1500, ATTRIBUTES.index(attribute)]
        accuracies.append(ridge_accuracy(counts[labels != 0], labels[labels != 0]))
    return float(np.mean(accuracies))


def test_a_bag_of_words_reads_cues_above_chance_but_far_from_perfectly(population):
    accuracy = mean_cue_accuracy(*population, span=1)
    assert 0.6 < accuracy < 0.85


def test_word_pairs_read_cues_that_single_words_cannot(population):
    assert mean_cue_accuracy(*population, span=2) > mean_cue_accuracy(*population, span=1) + 0.1


def test_length_is_recoverable_from_the_word_count(population):
    levels, texts = population
    word_counts = np.array([len(text.split()) for text in texts])
    length = levels[:, ATTRIBUTES.index("length")]
    short, medium, long = (word_counts[length == level] for level in (-1, 0, 1))
    assert short.mean() < medium.mean() < long.mean()
    threshold = (short.mean() + long.mean()) / 2
    assert (np.mean(short < threshold) + np.mean(long > threshold)) / 2 > 0.8


def test_responses_are_compact_and_distinct(population):
    _, texts = population
    word_counts = np.array([len(text.split()) for text in texts])
    assert 28 <= np.median(word_counts) <= 46
    assert np.percentile(word_counts, 99) < 80
    assert len(set(texts)) >= 0.95 * len(texts)
    assert not any("{" in text or "}" in text for text in texts)


@pytest.mark.parametrize("attribute", CUE_ATTRIBUTES)
@pytest.mark.parametrize("level", [-1, 1])
def test_every_cue_of_every_level_occurs(attribute, level):
    generator = np.random.default_rng(3)
    texts = [render_response(0, {attribute: level}, generator) for _ in range(400)]
    for template in CUES[attribute][level]:
        pattern = re.compile(re.sub(r"SLOT", r"\\w+", re.escape(slot_free(template))))
        assert any(pattern.search(text) for text in texts), template
    assert all(
        any(re.search(re.sub("SLOT", r"\\w+", re.escape(slot_free(cue))), text) for cue in CUES[attribute][level])
        for text in texts
    )


@pytest.mark.parametrize("attribute", CUE_ATTRIBUTES)
def test_cue_pools_are_large_short_and_half_contrasts(attribute):
    for level in (-1, 1):
        assert len(set(CUES[attribute][level])) >= 16
        assert all(3 <= len(cue.split()) <= 9 for cue in CUES[attribute][level])
    assert not set(CUES[attribute][-1]) & set(CUES[attribute][1])
    for plus, minus in phrases.CONTRAST_CUES[attribute]:
        assert sorted(tokens(plus)) == sorted(tokens(minus))
        assert plus != minus
    assert 2 * len(phrases.CONTRAST_CUES[attribute]) == len(CUES[attribute][1])


@pytest.mark.parametrize(("level", "sentences"), [(-1, 1), (0, 2), (1, 4)])
def test_length_sets_the_number_of_content_sentences(level, sentences):
    levels = dict.fromkeys(CUE_ATTRIBUTES, 1) | {"length": level}
    content = [
        re.compile(re.sub("SLOT", r"\\w+", re.escape(slot_free(line)))) for line in phrases.TOPIC_TABLE[2].sentences
    ]
    text = render_response(2, levels, np.random.default_rng(1))
    assert sum(bool(pattern.search(text)) for pattern in content) == sentences


def test_level_zero_has_no_cue_and_equals_a_missing_attribute():
    zeros = render_response(4, dict.fromkeys(ATTRIBUTES, 0), np.random.default_rng(5))
    assert zeros == render_response(4, {}, np.random.default_rng(5))
    plain_texts = [render_response(4, {}, np.random.default_rng(seed)) for seed in range(200)]
    cues = [cue for levels in CUES.values() for pool in levels.values() for cue in pool if "{" not in cue]
    assert not any(cue in text for cue in cues for text in plain_texts)
    assert any(filler in text for filler in phrases.NEUTRAL_FILLERS for text in plain_texts)


@pytest.mark.parametrize("topic", range(len(TOPICS)))
def test_prompts_are_varied_questions_about_their_topic(topic):
    generator = np.random.default_rng(topic)
    prompts = {render_prompt(topic, generator) for _ in range(500)}
    assert len(prompts) >= 200
    for prompt in prompts:
        assert 6 <= len(prompt.split()) <= 16
        assert prompt.endswith("?")
        assert prompt[0].isupper()
        assert any(activity in prompt for activity in phrases.TOPIC_TABLE[topic].activities)


def test_topics_share_neither_name_nor_activity():
    activities = [activity for topic in phrases.TOPIC_TABLE for activity in topic.activities]
    assert len(set(activities)) == len(activities)
    assert len(set(TOPICS)) == len(TOPICS) >= 12


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_criteria_of_opposite_signs_never_coincide(attribute):
    generator = np.random.default_rng(11)
    wanted = {render_criterion({attribute: 1.5}, generator) for _ in range(200)}
    unwanted = {render_criterion({attribute: -1.5}, generator) for _ in range(200)}
    assert len(wanted) >= 20
    assert len(unwanted) >= 20
    assert not wanted & unwanted


def test_criterion_names_the_stronger_wish_first():
    weights = {"warmth": 0.5, "length": -2.0, "humour": 0.0}
    length_words = phrases.CRITERION_CLAUSES["length"][-1] + tuple(
        f"not {word}" for word in phrases.CRITERION_ADJECTIVES["length"][1]
    )
    for seed in range(100):
        sentence = render_criterion(weights, np.random.default_rng(seed))
        assert sentence.endswith(".")
        if sentence.count(" that ") == 2:
            first_wish = sentence.split(" that ")[1]
            assert any(words in first_wish for words in length_words)


@pytest.mark.parametrize("weights", [{}, {"length": 0.0}])
def test_criterion_without_weights_is_neutral(weights):
    assert render_criterion(weights, np.random.default_rng(0)) in phrases.NEUTRAL_CRITERIA


def test_the_generator_determines_the_text():
    levels = {"hedging": 1, "citations": -1}
    for render in (
        lambda generator: render_prompt(1, generator),
        lambda generator: render_response(1, levels, generator),
        lambda generator: render_criterion({"length": 1.0, "warmth": -1.0}, generator),
    ):
        assert render(np.random.default_rng(9)) == render(np.random.default_rng(9))
        assert len({render(np.random.default_rng(seed)) for seed in range(20)}) > 10


def test_the_order_of_the_attributes_in_the_mapping_does_not_matter():
    forward = {"hedging": 1, "length": -1, "warmth": 1}
    backward = dict(reversed(forward.items()))
    for render in (lambda levels, generator: render_response(3, levels, generator), render_criterion):
        assert render(forward, np.random.default_rng(2)) == render(backward, np.random.default_rng(2))


@pytest.mark.parametrize("topic", [-1, len(TOPICS)])
def test_a_topic_out_of_range_is_refused(topic):
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="use 0 to"):
        render_prompt(topic, generator)
    with pytest.raises(ValueError, match="use 0 to"):
        render_response(topic, {}, generator)


def test_unknown_attributes_levels_and_weights_are_refused():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown attribute 'colour'; use one of length"):
        render_response(0, {"colour": 1}, generator)
    with pytest.raises(ValueError, match="unknown attribute 'colour'; use one of length"):
        render_criterion({"colour": 1.0}, generator)
    with pytest.raises(ValueError, match="level 2 of attribute 'warmth' is not allowed; use one of"):
        render_response(0, {"warmth": 2}, generator)
    with pytest.raises(ValueError, match="finite"):
        render_criterion({"warmth": float("nan")}, generator)
