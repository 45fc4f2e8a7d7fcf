"""The record contract: what one preference must hold, and what is wrong with it when it does not.

A record is one judgment: of two responses to a prompt, one was chosen. Rows come from anywhere as dictionaries; this
module turns each into a `Record` or says in one line why it cannot.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant", "tool")


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


class Record(NamedTuple):
    """One preference. Only `prompt`, `chosen` and `rejected` are required of the data.

    label_id: names the label itself: rows of one user with equal ids are one label, which a profile learns once.
    """

    prompt: tuple[Message, ...]
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


FIELDS = Record._fields
LABELS = ("source", "attribute", "group", "user_id", "pair_id")


class BadRow(ValueError):
    """Why one row is not a record; the reader adds file and row."""


def parse_record(row: Mapping[str, Any]) -> Record:
    """Checks one row and brings it to the contract.

    `prompt` is text or a list of {role, content}. `chosen` and `rejected` are text, or lists of messages. Without a
    prompt both are whole conversations (lists of messages, or transcripts with "Human:" and "Assistant:" turns as in
    HH-RLHF) and the prompt is what they share. Raises `BadRow`.
    """
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            raise BadRow(f"column {name!r} is missing or null")
    if row.get("prompt") is None:
        prompt, chosen, rejected = _implicit_prompt(row["chosen"], row["rejected"])
    else:
        prompt = _messages(row["prompt"], "prompt")
        chosen, rejected = (_response(row[name], prompt, name) for name in ("chosen", "rejected"))
    if not any(message.content.strip() for message in prompt):
        raise BadRow("the prompt is empty")
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if not response.strip():
            raise BadRow(f"{name!r} is empty")
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same text")
    texts = {name: _optional_text(row.get(name), name) for name in ("criterion", "label_id", *LABELS)}
    return Record(prompt, chosen, rejected, rating_gap=_rating_gap(row.get("rating_gap")), **texts)


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", _sound(value, name)),)
    if isinstance(value, Sequence):
        return tuple(_message(item, name) for item in value)
    raise BadRow(f"{name!r} is {_kind(value)}; it must be text or a list of messages")


def _message(item: Any, name: str) -> Message:
    if not isinstance(item, Mapping) or "role" not in item or "content" not in item:
        raise BadRow(f"{name!r} holds a message without role and content")
    if item["role"] not in ROLES:
        raise BadRow(f"{name!r} has the unknown role {item['role']!r}; known roles are {', '.join(ROLES)}")
    if not isinstance(item["content"], str):
        raise BadRow(f"{name!r} has a message whose content is {_kind(item['content'])}, not text")
    return Message(item["role"], _sound(item["content"], name))


def _response(value: Any, prompt: tuple[Message, ...], name: str) -> str:
    """The response's text. A list of messages may repeat the prompt before the assistant's reply, and nothing else."""
    if isinstance(value, str):
        return _sound(value, name)
    messages = _messages(value, name)
    if not messages or messages[-1].role != "assistant":
        raise BadRow(f"{name!r} does not end with a message of the assistant")
    if messages[:-1] not in ((), prompt):
        raise BadRow(f"{name!r} holds turns before the reply that are not those of the prompt")
    return messages[-1].content


def _implicit_prompt(chosen: Any, rejected: Any) -> tuple[tuple[Message, ...], str, str]:
    first, second = _conversation(chosen, "chosen"), _conversation(rejected, "rejected")
    if first[:-1] != second[:-1]:
        raise BadRow("there is no prompt, and chosen and rejected differ before their last message")
    return first[:-1], first[-1].content, second[-1].content


def _conversation(value: Any, name: str) -> tuple[Message, ...]:
    messages = _transcript(_sound(value, name)) if isinstance(value, str) else _messages(value, name)
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise BadRow(f"there is no prompt, and {name!r} is not a conversation that ends with the assistant")
    return messages


def _transcript(text: str) -> tuple[Message, ...]:
    """Splits the plain-text dialogues of HH-RLHF into messages; text without such turns gives no message."""
    before, *turns = text.split("\n\nHuman:")
    if before.strip():
        return ()  # words of nobody: dropping them would change the prompt
    messages = []
    for turn in turns:
        human, *assistant = turn.split("\n\nAssistant:")
        messages.append(Message("user", human.strip()))
        messages.extend(Message("assistant", reply.strip()) for reply in assistant)
    return tuple(messages)


def _optional_text(value: Any, name: str) -> str | None:
    if isinstance(value, str):
        # An empty cell of a table means that the data do not say.
        return _sound(value, name) if value.strip() else None
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return None if value is None else str(value)
    raise BadRow(f"{name!r} is {_kind(value)}; it must be text, a whole number or null")


def _rating_gap(value: Any) -> float | None:
    if value is None:
        return None
    # The bound keeps the gap finite in float32; NaN fails every comparison.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e30 < value < 1e30:
        raise BadRow(f"'rating_gap' is {value!r}; it must be a finite number or null")
    if value < 0:
        raise BadRow(f"'rating_gap' is {value!r}: the chosen response is rated below the rejected one")
    return float(value)


def _sound(text: str, name: str) -> str:
    """The text itself, once it is known to be writable: JSON can smuggle in half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name!r} holds a lone surrogate, which is no character") from None
    return text


def _kind(value: Any) -> str:
    return f"of type {type(value).__name__}"
