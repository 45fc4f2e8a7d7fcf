"""Preference records: parses and validates one row of a data set.

A record is one judgment: of two responses to a prompt, one was chosen. Rows are dictionaries from any source; this
module converts each to a `Record`, or raises `BadRow` with the reason in one line.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from micro_lit.data.messages import (
    BadRow,
    Message,
    Prompt,
    conversation,
    from_json,
    kind_of,
    listed_texts,
    messages,
    sound,
)
from micro_lit.data.verdicts import Coding, verdict_of

__all__ = ["BadRow", "Message", "Prompt", "Record", "parse_record"]

# Known pairs of score columns: (score of the chosen response, score of the rejected one).
SCORE_COLUMNS = tuple(
    (pattern.format("chosen"), pattern.format("rejected"))
    for pattern in ("score_{}", "{}_score", "{}_rating", "rating_{}", "{}-rating", "{}_reward", "reward_{}")
)


SCORE_NAMES = frozenset(name for names in SCORE_COLUMNS for name in names)


class Record(NamedTuple):
    """One preference; only `prompt`, `chosen` and `rejected` are required.

    Attributes:
        criterion: sentence that states what the rater wants.
        attribute: label of the criterion's kind, such as `concise`.
        group: latent sub-population of the rater (planted populations only).
        rating_gap: rating of the chosen minus rating of the rejected response; 0 for a tie.
        label_id: id of the label: rows of a user with equal ids are one label, which a profile learns once.
        first_shown: whether the chosen response was shown first; None if unknown.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    criterion: str | None = None
    attribute: str | None = None
    group: str | None = None
    user_id: str | None = None
    rating_gap: float | None = None
    source: str | None = None
    pair_id: str | None = None
    label_id: str | None = None
    first_shown: bool | None = None


LABELS = ("source", "attribute", "group", "user_id", "pair_id")
TEXTS = ("criterion", "label_id", *LABELS)
# Columns that a file may have; the last three can replace chosen and rejected.
FIELDS = (*Record._fields[:-1], "system", "first", "second", "winner")


def parse_record(row: Mapping[str, Any], coding: Coding | None = None) -> Record:
    """Validates one row and converts it to a `Record`.

    `prompt` is text or messages (or `conversations`, its name in ShareGPT), and `system` a system turn before it.
    `chosen` and `rejected` are text or messages. Without a prompt both must be whole conversations (lists of messages,
    or transcripts with "Human:" and "Assistant:" turns as in HH-RLHF), and the prompt is their common part. The columns
    `first`, `second` and `winner` can replace `chosen` and `rejected`.

    Args:
        row: column -> value.
        coding: meaning of the values of `winner`, see `verdict_of`.

    Raises:
        BadRow: when the row is not a valid record, with the reason.

    Example:

        >>> parse_record({"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away", "user_id": "ada"}).chosen
        'Hello!'
    """
    first_shown, gap = None, _number(row.get("rating_gap"), "rating_gap")
    if "chosen" not in row and "winner" in row:
        for name in ("first", "second", "winner"):
            if row.get(name) is None:
                raise BadRow(f"column {name!r} is missing or null")
        verdict, strength = verdict_of(row["winner"], coding)
        chosen, rejected = ("second", "first") if verdict == "second" else ("first", "second")
        first_shown = None if verdict == "tie" else verdict == "first"
        gap = 0.0 if verdict == "tie" else strength if gap is None else gap
        row = {**row, "chosen": row[chosen], "rejected": row[rejected]}
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            raise BadRow(f"column {name!r} is missing or null")
    prompt, chosen, rejected = _record_texts(row)
    system = _optional_text(row.get("system"), "system")
    if system is not None and prompt[:1] != (Message("system", system),):
        if prompt and prompt[0].role == "system":
            raise BadRow("the prompt has a system turn, and the column 'system' holds another")
        prompt = (Message("system", system), *prompt)
    if not any(message.content.strip() for message in prompt):
        raise BadRow("the prompt is empty")
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if not response.strip():
            raise BadRow(f"{name!r} is empty")
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same text")
    texts = {name: _optional_text(row.get(name), name) for name in TEXTS}
    return Record(prompt, chosen, rejected, rating_gap=_rating_gap(row, gap), first_shown=first_shown, **texts)


def _record_texts(row: Mapping[str, Any]) -> tuple[Prompt, str, str]:
    """Prompt, chosen and rejected text of a row with columns `chosen` and `rejected`."""
    asked = row.get("prompt")
    if asked is None:
        asked = row.get("conversations")
    if asked is None:
        return _implicit_prompt(row["chosen"], row["rejected"])
    turns = (
        [listed_texts(each) for each in (asked, row["chosen"], row["rejected"])] if isinstance(asked, str) else [None]
    )
    if None not in turns:
        if any(len(each) != 1 or each[0] is None for each in turns):
            raise BadRow("prompt, chosen and rejected are JSON lists of texts, one for each turn; give messages")
        return (Message("user", turns[0][0]),), turns[1][0], turns[2][0]
    prompt = messages(asked, "prompt")
    (before, chosen), (also_before, rejected) = (_response(row[name], name) for name in ("chosen", "rejected"))
    if before and also_before and before != also_before:
        raise BadRow("chosen and rejected differ before their last message")
    if repeated := before or also_before:
        if _spoken(repeated) != _spoken(prompt):
            raise BadRow("chosen or rejected holds turns before the reply that are not those of the prompt")
        # The responses may include a system turn that the prompt column lacks, or the other way round.
        prompt = repeated if len(repeated) >= len(prompt) else prompt
    return prompt, chosen, rejected


def _spoken(prompt: Prompt) -> list[tuple[str, str]]:
    """Roles and stripped contents of all turns except system turns."""
    return [(message.role, message.content.strip()) for message in prompt if message.role != "system"]


def _response(value: Any, name: str) -> tuple[Prompt, str]:
    """Turns of the prompt that a response column repeats, and the text of the response."""
    if isinstance(value, str) and from_json(value) is None:
        return (), sound(value, name)
    turns = messages(value, name)
    if not turns or turns[-1].role != "assistant":
        raise BadRow(f"{name!r} does not end with a message of the assistant")
    return turns[:-1], _reply(turns[-1], name)


def _reply(message: Message, name: str) -> str:
    if message.tool_calls is not None:
        raise BadRow(f"{name!r} calls tools; a response is text, so that a call must be written out in it")
    return message.content


def _implicit_prompt(chosen: Any, rejected: Any) -> tuple[Prompt, str, str]:
    both = [conversation(value, name) for value, name in ((chosen, "chosen"), (rejected, "rejected"))]
    for turns, name in zip(both, ("chosen", "rejected"), strict=True):
        if len(turns) < 2 or turns[-1].role != "assistant":
            raise BadRow(f"there is no prompt, and {name!r} is not a conversation that ends with the assistant")
    first, second = both
    if first[:-1] != second[:-1]:
        raise BadRow("there is no prompt, and chosen and rejected differ before their last message")
    return first[:-1], _reply(first[-1], "chosen"), _reply(second[-1], "rejected")


def _optional_text(value: Any, name: str) -> str | None:
    if isinstance(value, str):
        # An empty cell of a table is a missing value.
        return sound(value, name) if value.strip() else None
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return None if value is None else str(value)
    if isinstance(value, float) and value.is_integer():  # pandas writes integer columns with missing values as float
        return str(int(value))
    if name == "source" and isinstance(value, Sequence) and all(isinstance(each, str) for each in value):
        return sound(", ".join(value), name) or None
    remedy = f"; +data.columns.{name}=null leaves it unread"
    raise BadRow(f"{name!r} is no text, whole number or null{remedy}", kind_of(value))


def _number(value: Any, name: str) -> float | None:
    """Parses a number, which may be text; None for missing values, empty cells and NaN."""
    if value is None or (isinstance(value, str) and value.strip().casefold() in ("", "nan")):
        return None
    try:
        number = math.inf if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if math.isnan(number):
        return None
    # The bound keeps it finite in float32.
    if not -1e30 < number < 1e30:
        raise BadRow(f"{name!r} is no finite number or null", f"it is {value!r}")
    return number


def _rating_gap(row: Mapping[str, Any], gap: float | None) -> float | None:
    """The rating gap, or the difference of the two scores; None if the data have neither."""
    if gap is None and not SCORE_NAMES.isdisjoint(row):
        for names in SCORE_COLUMNS:
            scores = [_number(row.get(name), name) for name in names]
            if None not in scores:
                gap = scores[0] - scores[1]
                if gap < 0:
                    raise BadRow(
                        f"{names[0]!r} is below {names[1]!r}: the chosen response is rated below the rejected one; "
                        "+data.columns.rating_gap=null leaves scores unread",
                        f"{scores[0]:g} and {scores[1]:g}",
                    )
                return gap
    if gap is not None and gap < 0:
        raise BadRow("'rating_gap' is below 0: the chosen response is rated below the rejected one", f"it is {gap:g}")
    return gap
