"""Texts of the data on a page: in words, cut to a length, and as Markdown shows them."""

import re
from collections.abc import Sequence

from micro_lit.data.records import Message

PairTexts = tuple[str, str, str]  # prompt, chosen and rejected response
PARTS = ("prompt", "chosen", "rejected")

LONGEST_NAME, LONGEST_TEXT = 36, 240  # characters of a name in a picture, and of a text on the page


def in_words(prompt: Sequence[Message]) -> str:
    """A prompt without its roles."""
    return "\n".join(message.content for message in prompt)


def excerpt(text: str) -> str:
    """One line of a text, not too long, that Markdown shows as it is."""
    return escaped(shortened(" ".join(text.split()), LONGEST_TEXT))


def shortened(text: str, longest: int) -> str:
    """Both ends of the text: a prompt may begin with its task and end with the criterion."""
    if len(text) <= longest:
        return text
    end = (longest - 3) // 3
    return f"{text[: longest - 3 - end].rstrip()} … {text[-end:].lstrip()}"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, outside tables, which have their own escape for `|`."""
    return re.sub(r"([\\`*_{}\[\]<>~$&#])", r"\\\1", text)
