"""Phrase tables for `rendering`, from phrases.yaml: topics, cues of attribute levels, criteria.

Cue templates may hold the slots {name}, {other}, {year}, {number}, {weekday} and {place};
topic sentences may hold {item}; prompt templates hold {activity}.
"""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

Levels = dict[int, tuple[str, ...]]


class Topic(NamedTuple):
    """One everyday topic: activities, items, and sentences of advice."""

    name: str
    activities: tuple[str, ...]
    items: tuple[str, ...]
    sentences: tuple[str, ...]


def _fixed(node: Any) -> Any:
    """Converts lists to tuples, recursively."""
    if isinstance(node, dict):
        return {name: _fixed(child) for name, child in node.items()}
    return tuple(map(_fixed, node)) if isinstance(node, list) else node


_TEXT = Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8")
_TABLES = _fixed(yaml.load(_TEXT, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))

TOPIC_TABLE: tuple[Topic, ...] = tuple(Topic(name, **parts) for name, parts in _TABLES["topics"].items())
PROMPT_OPENERS: tuple[str, ...] = _TABLES["prompt_openers"]
PROMPT_TEMPLATES: tuple[str, ...] = _TABLES["prompt_templates"]
PERSON_NAMES: tuple[str, ...] = _TABLES["slots"]["names"]
YEARS: tuple[str, ...] = tuple(str(year) for year in range(1988, 2024))
NUMBERS: tuple[str, ...] = _TABLES["slots"]["numbers"]
WEEKDAYS: tuple[str, ...] = _TABLES["slots"]["weekdays"]
PLACES: tuple[str, ...] = _TABLES["slots"]["places"]
CONTRAST_CUES: dict[str, tuple[tuple[str, str], ...]] = _TABLES["contrast_cues"]
PLAIN_CUES: dict[str, Levels] = _TABLES["plain_cues"]
NEUTRAL_FILLERS: tuple[str, ...] = _TABLES["neutral_fillers"]
CRITERION_CLAUSES: dict[str, Levels] = _TABLES["criterion_clauses"]
CRITERION_ADJECTIVES: dict[str, Levels] = _TABLES["criterion_adjectives"]
CRITERION_TEMPLATES: tuple[str, ...] = _TABLES["criterion_templates"]
NEUTRAL_CRITERIA: tuple[str, ...] = _TABLES["neutral_criteria"]
