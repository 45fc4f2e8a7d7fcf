"""Renders English prompts, responses and criterion sentences from planted attribute levels.

The output depends only on arguments and the state of the `numpy.random.Generator`. The phrases are in
`micro_lit.data.planted.phrases`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np

from micro_lit.data.planted import phrases

ATTRIBUTES: tuple[str, ...] = (
    "length",
    "formality",
    "humour",
    "hedging",
    "citations",
    "warmth",
    "examples",
    "structure",
)
LEVELS: tuple[int, ...] = (-1, 0, 1)
TOPICS: tuple[str, ...] = tuple(topic.name for topic in phrases.TOPIC_TABLE)

SENTENCES_PER_LENGTH: dict[int, int] = {-1: 1, 0: 2, 1: 4}
CUE_ATTRIBUTES: tuple[str, ...] = tuple(attribute for attribute in ATTRIBUTES if attribute != "length")
CUES: dict[str, dict[int, tuple[str, ...]]] = {
    attribute: {
        +1: tuple(plus for plus, _ in phrases.CONTRAST_CUES[attribute]) + phrases.PLAIN_CUES[attribute][+1],
        -1: tuple(minus for _, minus in phrases.CONTRAST_CUES[attribute]) + phrases.PLAIN_CUES[attribute][-1],
    }
    for attribute in CUE_ATTRIBUTES
}
# A filler replaces a cue once in this many level-0 attributes, so that not every additional sentence is a cue.
LEVEL_ZERO_ATTRIBUTES_PER_FILLER = 24

Option = TypeVar("Option")

_DRAW_LIMIT = 2**62
_MOST_CONTENT_SENTENCES = max(len(topic.sentences) for topic in phrases.TOPIC_TABLE)
_MOST_SENTENCES = max(SENTENCES_PER_LENGTH.values()) + len(CUE_ATTRIBUTES)
_DRAWS_PER_RESPONSE = _MOST_CONTENT_SENTENCES + 2 * _MOST_SENTENCES


def render_prompt(topic: int, generator: np.random.Generator) -> str:
    """Returns a question of 6 to 16 words about one topic.

    Args:
        topic: index in `TOPICS`.
        generator: source of randomness.

    Raises:
        ValueError: when the topic is out of range.
    """
    _check_topic(topic)
    draw = int(generator.integers(0, _DRAW_LIMIT))
    draw, opener = _pick(phrases.PROMPT_OPENERS, draw)
    draw, template = _pick(phrases.PROMPT_TEMPLATES, draw)
    draw, activity = _pick(phrases.TOPIC_TABLE[topic].activities, draw)
    return _capitalised(opener + template.format(activity=activity))


def render_response(topic: int, levels: Mapping[str, int], generator: np.random.Generator) -> str:
    """Returns an answer about one topic whose sentences express the given attribute levels.

    The level of "length" determines the number of content sentences. Every other attribute at -1 or +1 adds one cue
    sentence; at 0 it rarely adds a neutral filler. The sentences are shuffled.

    Args:
        topic: index in `TOPICS`.
        levels: attribute -> -1, 0 or +1, for any subset of `ATTRIBUTES`; the others are at 0.
        generator: source of randomness.

    Raises:
        ValueError: when the topic is out of range, an attribute is unknown, or a level is not -1, 0 or +1.
    """
    _check_topic(topic)
    _check_attributes(levels)
    for attribute, level in levels.items():
        if level not in LEVELS:
            raise ValueError(f"level {level!r} of attribute {attribute!r} is not allowed; use one of {LEVELS}")

    draws = generator.integers(0, _DRAW_LIMIT, size=_DRAWS_PER_RESPONSE).tolist()
    content_keys = draws[:_MOST_CONTENT_SENTENCES]
    sentence_draws = draws[_MOST_CONTENT_SENTENCES : _MOST_CONTENT_SENTENCES + _MOST_SENTENCES]
    order_keys = draws[_MOST_CONTENT_SENTENCES + _MOST_SENTENCES :]

    content = phrases.TOPIC_TABLE[topic]
    content_order = sorted(range(len(content.sentences)), key=content_keys.__getitem__)
    sentences = []
    for position in content_order[: SENTENCES_PER_LENGTH[levels.get("length", 0)]]:
        _, item = _pick(content.items, sentence_draws.pop())
        sentences.append(content.sentences[position].format(item=item))
    for attribute in CUE_ATTRIBUTES:
        level = levels.get(attribute, 0)
        draw = sentence_draws.pop()
        if level != 0:
            sentences.append(_render_cue(CUES[attribute][level], draw))
        elif draw % LEVEL_ZERO_ATTRIBUTES_PER_FILLER == 0:
            sentences.append(_pick(phrases.NEUTRAL_FILLERS, draw // LEVEL_ZERO_ATTRIBUTES_PER_FILLER)[1])
    order = sorted(range(len(sentences)), key=order_keys.__getitem__)
    return " ".join([sentences[position] for position in order])


def render_criterion(weights: Mapping[str, float], generator: np.random.Generator) -> str:
    """Returns a sentence that states what a rater with these attribute weights wants.

    Wishes are in order of decreasing absolute weight, except that one may be an adjective in front. If all weights are
    zero the sentence is neutral.

    Args:
        weights: attribute -> weight, for any subset of `ATTRIBUTES`; the sign is the wanted direction, 0 is no wish.
        generator: source of randomness.

    Raises:
        ValueError: when an attribute is unknown or a weight is not finite.
    """
    _check_attributes(weights)
    for attribute, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"weight {weight!r} of attribute {attribute!r} is not finite; use a finite number")

    draws = generator.integers(0, _DRAW_LIMIT, size=1 + 2 * len(ATTRIBUTES)).tolist()
    wanted = [attribute for attribute in ATTRIBUTES if weights.get(attribute, 0) != 0]
    draw = draws.pop()
    if not wanted:
        return _pick(phrases.NEUTRAL_CRITERIA, draw)[1]
    tie_breaks = dict(zip(ATTRIBUTES, draws, strict=False))
    wanted.sort(key=lambda attribute: (-abs(weights[attribute]), tie_breaks[attribute]))
    directions = {attribute: 1 if weights[attribute] > 0 else -1 for attribute in wanted}

    draw, template = _pick(phrases.CRITERION_TEMPLATES, draw)
    draw, noun = _pick(("answers", "responses"), draw)
    draw, with_adjective = _pick((True, False), draw)
    if with_adjective:
        draw, as_adjective = _pick(wanted, draw)
        draw, adjective = _pick(phrases.CRITERION_ADJECTIVES[as_adjective][directions.pop(as_adjective)], draw)
        noun = f"{adjective} {noun}"
    clauses = [
        _render_clause(attribute, directions[attribute], draws.pop()) for attribute in wanted if attribute in directions
    ]
    return template.format(answers=" ".join([noun, _enumeration(clauses)]).strip())


def _render_cue(templates: tuple[str, ...], draw: int) -> str:
    """Returns a random cue template with its slots filled."""
    draw, template = _pick(templates, draw)
    if "{" not in template:
        return template
    draw, name = _pick(phrases.PERSON_NAMES, draw)
    draw, other = _pick(phrases.PERSON_NAMES, draw)
    draw, year = _pick(phrases.YEARS, draw)
    draw, number = _pick(phrases.NUMBERS, draw)
    draw, weekday = _pick(phrases.WEEKDAYS, draw)
    draw, place = _pick(phrases.PLACES, draw)
    return template.format(name=name, other=other, year=year, number=number, weekday=weekday, place=place)


def _render_clause(attribute: str, direction: int, draw: int) -> str:
    """Returns "that ..." for one wish, in a quarter of the cases as the negated opposite."""
    clauses = phrases.CRITERION_CLAUSES[attribute]
    draw, negated = _pick((True, False, False, False), draw)
    if negated:
        return "that are not " + _pick(phrases.CRITERION_ADJECTIVES[attribute][-direction], draw)[1]
    return "that " + _pick(clauses[direction], draw)[1]


def _enumeration(parts: list[str]) -> str:
    """Joins parts as "a, b and c"."""
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _pick(options: Sequence[Option], draw: int) -> tuple[int, Option]:
    """Chooses an option with part of a large random integer; returns the remaining integer and the option."""
    draw, position = divmod(draw, len(options))
    return draw, options[position]


def _capitalised(sentence: str) -> str:
    """Capitalises the first letter and leaves the rest unchanged."""
    return sentence[0].upper() + sentence[1:]


def _check_topic(topic: int) -> None:
    """Raises ValueError unless the topic is an index in `TOPICS`."""
    if not 0 <= topic < len(TOPICS):
        raise ValueError(f"topic {topic} is out of range; use 0 to {len(TOPICS) - 1}, a position in TOPICS")


def _check_attributes(named: Collection[str]) -> None:
    """Raises ValueError if any name is not one of `ATTRIBUTES`."""
    for attribute in named:
        if attribute not in ATTRIBUTES:
            raise ValueError(f"unknown attribute {attribute!r}; use one of {', '.join(ATTRIBUTES)}")
