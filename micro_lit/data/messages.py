"""Conversations: what people write as prompts and responses, brought to one form, and the canonical bytes of a text."""

import ast
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant", "tool")

# Names of the same roles elsewhere: OpenAI's newer models, ShareGPT, OpenAssistant, Gemma, older function calls.
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
KEYS = (("role", "content"), ("from", "value"))

MAX_SHOWN = 200  # characters of a value in an error

# How the JSON text of a message, or of a list of them, begins.
STRINGIFIED = r"""^\s*(\[\s*)?\{\s*["'](role|content|from|value)["']"""
# How a JSON list of texts begins.
LISTED = r"""^\s*\[\s*["']"""


class BadRow(ValueError):
    """Why one row is not a record; the reader adds file and row.

    kind: what is wrong, the same words for all rows of that kind. found: what this row holds.
    """

    def __init__(self, kind: str, found: str = "") -> None:
        found = found if len(found) <= MAX_SHOWN else f"{found[:MAX_SHOWN]} ..."
        self.kind, self.found = kind, found
        super().__init__(f"{kind} ({found})" if found else kind)


class Message(NamedTuple):
    """One turn of a conversation.

    tool_calls: JSON text of the tools that an assistant called. tool_call_id: which of these a tool's turn answers.
    """

    role: str
    content: str
    tool_calls: str | None = None
    tool_call_id: str | None = None

    @property
    def words(self) -> str:
        """All that the turn says, where nothing renders calls of tools: its content and their JSON text."""
        return self.content if self.tool_calls is None else "\n".join(filter(None, [self.content, self.tool_calls]))

    def as_turn(self) -> dict[str, Any]:
        """The turn as chat templates take it, without the fields that it lacks."""
        turn = {name: value for name, value in self._asdict().items() if value is not None}
        if self.tool_calls is not None:
            turn["tool_calls"] = json.loads(self.tool_calls)
        return turn


Prompt = tuple[Message, ...]


def canonical(prompt: Prompt) -> str:
    """The one form of a prompt that splits and digests hang on; a field that a message lacks is not in it."""
    turns = ", ".join(map(_canonical_message, prompt))
    return f"({turns},)" if len(prompt) == 1 else f"({turns})"


def canonical_text(prompt: str, response: str | None) -> str:
    """The one form of a prompt, itself in its canonical form, with a response; None for the prompt alone."""
    return f"Text(prompt={prompt}, response={response!r})"


def _canonical_message(message: Message) -> str:
    role, content, *optional = message
    added = (f", {name}={value!r}" for name, value in zip(Message._fields[2:], optional, strict=True) if value)
    return f"Message(role={role!r}, content={content!r}{''.join(added)})"


def messages(value: Any, name: str) -> Prompt:
    """A conversation of text (one turn of the user), a message, a list of messages, or their JSON text.

    Raises:
        BadRow: it is none of these, and why.
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
    """A whole conversation: messages, their JSON text, or a transcript with "Human:" and "Assistant:" turns."""
    if isinstance(value, str) and from_json(value) is None:
        return _transcript(sound(value, name))
    return messages(value, name)


def from_json(text: str) -> Any:
    """The message or messages that a text holds as JSON, or as Python prints them; None where it is text of its own."""
    if text.lstrip()[:1] not in ("[", "{") or not re.match(STRINGIFIED, text):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        turns = found if isinstance(found, list) else [found]
        if all(isinstance(turn, dict) and any(key in turn for pair in KEYS for key in pair) for turn in turns):
            return found
    return None


def listed_texts(text: Any) -> list[str | None] | None:
    """The texts (or nulls) of a JSON list, where a text is nothing else."""
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
    keys = next((keys for keys in KEYS if isinstance(item, Mapping) and keys[0] in item), None)
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
    """Text, or the texts of its parts one after another."""
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
    """A value without what a table fills in where an object lacks a field."""
    if isinstance(value, Mapping):
        return {key: _given(child) for key, child in value.items() if child is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_given(child) for child in value]
    return value


def _transcript(text: str) -> Prompt:
    """Splits the plain-text dialogues of HH-RLHF into messages; text without such turns gives no message."""
    before, *turns = text.split("\n\nHuman:")
    if before.strip():
        return ()  # words of nobody: dropping them would change the prompt
    found = []
    for turn in turns:
        human, *assistant = turn.split("\n\nAssistant:")
        found.append(Message("user", human.strip()))
        found.extend(Message("assistant", reply.strip()) for reply in assistant)
    return tuple(found)


def sound(text: str, name: str) -> str:
    """The text itself, once it is known to be writable: JSON can hold half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name!r} holds a lone surrogate, which is no character") from None
    return text


def printable(name: str) -> str:
    """The name of a column on one line, and no longer than a line."""
    name = " ".join(name.encode(errors="backslashreplace").decode().split())
    return name if len(name) <= 60 else f"{name[:60]} ..."


def listed(names: Collection[str]) -> str:
    """Names of columns, or as many as fit into an error."""
    shown = ", ".join(map(printable, itertools.islice(names, 30)))
    return shown if len(names) <= 30 else f"{shown} and {len(names) - 30} more"


def kind_of(value: Any) -> str:
    return f"it is of type {type(value).__name__}"
