"""Texts of the data in reports: joined, shortened, and escaped for Markdown."""

import re
from collections.abc import Sequence

from micro_lit.data.records import Message

PairTexts = tuple[str, str, str]  # prompt, chosen and rejected response
TEXT_PARTS = ("prompt", "chosen", "rejected")

LONGEST_NAME, LONGEST_TEXT = 36, 240  # characters: of a name in a figure, and of a text in Markdown


def in_words(prompt: Sequence[Message]) -> str:
    """Joins the messages of a prompt with newlines, without roles."""
    return "\n".join(message.content for message in prompt)


def excerpt(text: str) -> str:
    """A text in one line, shortened and escaped for Markdown."""
    return escaped(shortened(" ".join(text.split()), LONGEST_TEXT))


def shortened(text: str, longest: int) -> str:
    """Shortens a text to `longest` characters by dropping its middle, since prompts may end with the criterion."""
    if len(text) <= longest:
        return text
    end = (longest - 3) // 3
    return f"{text[: longest - 3 - end].rstrip()} … {text[-end:].lstrip()}"


def escaped(text: str) -> str:
    """Escapes Markdown, except `|`, which tables escape."""
    return re.sub(r"([\\`*_{}\[\]<>~$&#])", r"\\\1", text)
