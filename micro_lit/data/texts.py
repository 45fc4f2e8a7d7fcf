"""Texts to encode with a backbone, and their digests.

Dimension letters: M texts.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from micro_lit.data.messages import Prompt, canonical, canonical_text


class Text(NamedTuple):
    """An input of a backbone: a prompt alone (a context), or a prompt with a response."""

    prompt: Prompt
    response: str | None = None


def with_criterion(prompt: Prompt, criterion: str | None) -> Prompt:
    """Appends the criterion to the prompt, as the last paragraph of the last message."""
    if criterion is None:
        return prompt
    last = prompt[-1]
    return (*prompt[:-1], last._replace(content=f"{last.content}\n\n{criterion}"))


def text_digests(texts: Sequence[Text]) -> NDArray[np.uint64]:
    """128-bit digests of the canonical form of texts, as two 64-bit integers each: [M, 2]."""
    write = functools.lru_cache(maxsize=4096)(canonical)  # texts with the same prompt are usually adjacent
    forms = (canonical_text(write(text.prompt), text.response) for text in texts)
    raw = b"".join(hashlib.blake2b(form.encode(), digest_size=16).digest() for form in forms)
    return np.frombuffer(raw, dtype="<u8").reshape(-1, 2)
