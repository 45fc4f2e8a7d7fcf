"""Conversations: parses prompts and responses in the usual formats to `Message` tuples, and to a canonical text."""

import ast
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant", "tool")

# Role names in other formats: OpenAI's newer models, ShareGPT, OpenAssistant, Gemma, older function calls.
ALIASES = {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
}

# Keys of a message: OpenAI's, then ShareGPT's.
MESSAGE_KEYS = (("role", "content"), ("from", "value"))

MAX_SHOWN = 200  # characters of a value in an error message

# Start of a message, or a list of messages, as JSON text.
STRINGIFIED = r"""^\s*(\[\s*)?\{\s*["'](role|content|from|value)["']"""
# Start of a JSON list of texts.
LISTED = r"""^\s*\[\s*["']"""


class BadRow(ValueError):
    """Error for a row that is not a valid record; the reader adds file and row.

    Args:
        kind: description of the error, the same for all rows with it, so that bad rows can be counted by kind.
        found: the value in this row.
    """

    def __init__(self, kind: str, found: str = "") -> None:
        found = found if len(found) <= MAX_SHOWN else f"{found[:MAX_SHOWN]} ..."
        self.kind, self.found = kind, found
        super().__init__(f"{kind} ({found})" if found else kind)


class Message(NamedTuple):
    """One turn of a conversation.

    Attributes:
        role: one of `ROLES`.
        content: the text.
        tool_calls: tool calls of an assistant turn, as JSON text.
        tool_call_id: id of the call that a tool turn answers.
    """

    role: str
    content: str
    tool_calls: str | None = None
    tool_call_id: str | None = None

    @property
    def words(self) -> str:
        """Content and tool calls (as JSON text), for renderers without support for tool calls."""
        return self.content if self.tool_calls is None else "\n".join(filter(None, [self.content, self.tool_calls]))

    def as_turn(self) -> dict[str, Any]:
        """The turn as a dictionary for chat templates, without missing fields."""
        turn = {name: value for name, value in self._asdict().items() if value is not None}
        if self.tool_calls is not None:
            turn["tool_calls"] = json.loads(self.tool_calls)
        return turn


Prompt = tuple[Message, ...]


def canonical(prompt: Prompt) -> str:
    """Canonical text of a prompt, without missing fields; changing it would change all splits and digests."""
    turns = ", ".join(map(_canonical_message, prompt))
    return f"({turns},)" if len(prompt) == 1 else f"({turns})"


def canonical_text(prompt: str, response: str | None) -> str:
    """Canonical text of a prompt (already in canonical form) with a response, or None for the prompt alone."""
    return f"Text(prompt={prompt}, response={response!r})"


def _canonical_message(message: Message) -> str:
    role, content, *optional = message
    added = (f", {name}={value!r}" for name, value in zip(Message._fields[2:], optional, strict=True) if value)
    return f"Message(role={role!r}, content={content!r}{''.join(added)})"


def messages(value: Any, name: str) -> Prompt:
    """Parses a conversation: plain text (one user turn), a message, a list of messages, or these as JSON text.

    Args:
        value: the value of the column.
        name: of the column, for the error message.

    Raises:
        BadRow: when the value is none of these.
    """
    if isinstance(value, str):
        listed = from_json(value)
        return (Message("user", sound(value, name)),) if listed is None else messages(listed, name)
    if isinstance(value, Mapping):
        return (_message(value, name),)
    if isinstance(value, Sequence):
        return tuple(_message(item, name) for item in value)
    raise BadRow(f"{name!r} is no text and no list of messages", kind_of(value))


def conversation(value: Any, name: str) -> Prompt:
    """Parses a whole conversation: messages, messages as JSON text, or a "Human:", "Assistant:" transcript."""
    if isinstance(value, str) and from_json(value) is None:
        return _transcript(sound(value, name))
    return messages(value, name)


def from_json(text: str) -> Any:
    """Parses a message or list of messages from JSON or a Python literal; None for any other text."""
    if text.lstrip()[:1] not in ("[", "{") or not re.match(STRINGIFIED, text):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        turns = found if isinstance(found, list) else [found]
        if all(isinstance(turn, dict) and any(key in turn for pair in MESSAGE_KEYS for key in pair) for turn in turns):
            return found
    return None


def listed_texts(text: Any) -> list[str | None] | None:
    """Parses a JSON list of texts or nulls; None for any other value."""
    if not isinstance(text, str) or text.lstrip()[:1] != "[" or not re.match(LISTED, text):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(each is None or isinstance(each, str) for each in found) else None


def _message(item: Any, name: str) -> Message:
    if isinstance(item, Message):
        return item
    keys = next((keys for keys in MESSAGE_KEYS if isinstance(item, Mapping) and keys[0] in item), None)
    if keys is None:
        raise BadRow(f"{name!r} holds a message without role and content", kind_of(item))
    given, content = (item.get(key) for key in keys)
    role = ALIASES.get(given, given) if isinstance(given, str) else given
    if role not in ROLES:
        known = ", ".join((*ROLES, *ALIASES))
        raise BadRow(f"{name!r} has a role that is unknown; known roles are {known}", repr(given))
    calls = _given(item.get("tool_calls")) or None
    if content is None and calls is None:
        raise BadRow(f"{name!r} has a message without content")
    answered = item.get("tool_call_id")
    return Message(
        role,
        sound(_content(content, name), name),
        None if calls is None else sound(_as_json(calls, name), name),
        None if answered is None or role != "tool" else sound(str(answered), name),
    )


def _content(content: Any, name: str) -> str:
    """The content as text; a list of text parts is concatenated."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        for part in content:
            if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
                raise BadRow(f"{name!r} has a message with a part that is no text", repr(part.get("type")))
        return "".join(part["text"] for part in content)
    raise BadRow(f"{name!r} has a message whose content is no text", kind_of(content))


def _as_json(calls: Any, name: str) -> str:
    try:
        return json.dumps(calls, ensure_ascii=False)
    except TypeError as error:
        raise BadRow(f"{name!r} has calls of tools that are no JSON", str(error)) from None


def _given(value: Any) -> Any:
    """Removes null fields, which tables fill in for fields that an object lacks."""
    if isinstance(value, Mapping):
        return {key: _given(child) for key, child in value.items() if child is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_given(child) for child in value]
    return value


def _transcript(text: str) -> Prompt:
    """Splits an HH-RLHF transcript into messages; empty if the text is not such a transcript."""
    before, *turns = text.split("\n\nHuman:")
    if before.strip():
        return ()  # text without a speaker: dropping it would change the prompt
    found = []
    for turn in turns:
        human, *assistant = turn.split("\n\nAssistant:")
        found.append(Message("user", human.strip()))
        found.extend(Message("assistant", reply.strip()) for reply in assistant)
    return tuple(found)


def sound(text: str, name: str) -> str:
    """Returns the text if it can be encoded as UTF-8; JSON can contain lone surrogates. Raises `BadRow`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name!r} holds a lone surrogate, which is no character") from None
    return text


def printable(name: str) -> str:
    """A column name shortened to at most 60 characters on one line."""
    name = " ".join(name.encode(errors="backslashreplace").decode().split())
    return name if len(name) <= 60 else f"{name[:60]} ..."


def listed(names: Collection[str]) -> str:
    """Column names for an error message, at most 30."""
    shown = ", ".join(map(printable, itertools.islice(names, 30)))
    return shown if len(names) <= 30 else f"{shown} and {len(names) - 30} more"


def kind_of(value: Any) -> str:
    return f"it is of type {type(value).__name__}"
