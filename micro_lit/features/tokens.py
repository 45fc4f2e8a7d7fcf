"""From texts to token ids: template, truncation, and where the prompt of each text ends.

Dimension letters: M distinct texts.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from micro_lit.data.pairs import Text
from micro_lit.data.records import Message
from micro_lit.errors import UserError

# When a text is too long, this share of the room goes to the response before the prompt is cut.
RESPONSE_SHARE = 0.75


class TextTokenizer:
    """Renders and tokenises texts, each exactly once, the same way at every use.

    With a chat template the whole conversation is rendered by the template and tokenised without further special
    tokens, so no second BOS can appear. Without one, turns are joined by blank lines and the tokenizer adds its own
    special tokens. Texts over `max_length` tokens keep their response (its beginning, if even that is too long) and
    the tail of their prompt.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if not tokenizer.is_fast:
            raise UserError(f"{tokenizer.name_or_path}: a fast tokenizer is needed to find where a prompt ends")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.is_chat = tokenizer.chat_template is not None
        # What the tokenizer puts around a plain text ([CLS] and [SEP]); a template brings its own.
        ids = [] if self.is_chat else tokenizer("a").input_ids
        bare = tokenizer("a", add_special_tokens=False).input_ids
        start = next((at for at in range(len(ids)) if ids[at : at + len(bare)] == bare), 0)
        self.prefix, self.suffix = ids[:start], ids[start + len(bare) :]
        # The two responses of a pair and the context share a prompt, and many pairs may: render it once.
        self._apply_template = functools.lru_cache(maxsize=4096)(self._apply_template)

    @property
    def fingerprint(self) -> str:
        """Changes when vocabulary, template or truncation do."""
        parts = (self.tokenizer.backend_tokenizer.to_str(), self.tokenizer.chat_template, self.max_length)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def __call__(self, texts: Sequence[Text]) -> "TokenTable":
        rows = [row for start in range(0, len(texts), 4096) for row in self._tokenise(texts[start : start + 4096])]
        ids, prompt_lengths, truncated = zip(*rows, strict=True)
        prompts: dict[bytes, int] = {}
        return TokenTable(
            torch.from_numpy(np.concatenate(ids)),
            torch.tensor([0, *map(len, ids)]).cumsum(0),
            torch.tensor(prompt_lengths),
            torch.tensor(truncated),
            torch.tensor([prompts.setdefault(row[:length].tobytes(), len(prompts)) for row, length, _ in rows]),
        )

    def show(self, text: Text) -> str:
        """The text as the backbone reads it, special tokens included."""
        return self.tokenizer.decode(self([text]).flat_ids)

    def _tokenise(self, texts: Sequence[Text]) -> Iterator[tuple[NDArray[np.int32], int, bool]]:
        rendered = [self.render(text) for text in texts]
        encoded = self.tokenizer(
            [full for full, _ in rendered],
            add_special_tokens=False,
            return_attention_mask=False,
            # The warning about long sequences is moot: they are cut below, where the prompt's end is known.
            verbose=False,
        )
        room = self.max_length - len(self.prefix) - len(self.suffix)
        for row, (text, (full, prompt_characters), ids) in enumerate(
            zip(texts, rendered, encoded["input_ids"], strict=True)
        ):
            # A token that holds the end of the prompt and the start of the response counts as response.
            beyond = (encoded.char_to_token(row, at) for at in range(prompt_characters, len(full)))
            prompt_length = next((token for token in beyond if token is not None), len(ids))
            truncated = len(ids) > room
            prompt, response = ids[:prompt_length], ids[prompt_length:]
            if truncated:
                response = response[: max(int(RESPONSE_SHARE * room), room - prompt_length)]
                prompt = prompt[max(0, prompt_length + len(response) - room) :]
            ids = np.array(self.prefix + prompt + response + self.suffix, dtype=np.int32)
            yield ids, len(self.prefix) + len(prompt) + (len(self.suffix) if text.response is None else 0), truncated

    def render(self, text: Text) -> tuple[str, int]:
        """The text as one string, and how many of its characters belong to the prompt."""
        if not self.is_chat:
            prompt = "\n\n".join(message.content for message in text.prompt) + "\n\n"
            return prompt + (text.response or ""), len(prompt)
        prompt = self._apply_template(text.prompt, add_generation_prompt=True)
        if text.response is None:
            return prompt, len(prompt)
        full = self._apply_template((*text.prompt, Message("assistant", text.response)), add_generation_prompt=False)
        if not full.startswith(prompt):
            # Some templates open a reply in another way than they render one; what both share belongs to the prompt.
            prompt = self._apply_template(text.prompt, add_generation_prompt=False)
        if not full.startswith(prompt):
            raise UserError(f"{self.tokenizer.name_or_path}: its chat template changes a prompt when a reply follows")
        return full, len(prompt)

    def _apply_template(self, messages: tuple[Message, ...], add_generation_prompt: bool) -> str:
        conversation = [message.as_turn() for message in messages]
        return self.tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=add_generation_prompt
        )


@dataclass(frozen=True)
class TokenTable:
    """Token ids of M texts, end to end; text m is flat_ids[offsets[m]:offsets[m + 1]].

    prompt_lengths_M: tokens of each text up to the end of its prompt; all of them when it has no response.
    truncated_M: whether tokens were cut. prompts_M: a number for each distinct prompt, as its tokens after the cut.
    """

    flat_ids: Int32[Tensor, " tokens"]
    offsets: Int64[Tensor, " boundaries"]
    prompt_lengths_M: Int64[Tensor, " M"]
    truncated_M: Bool[Tensor, " M"]
    prompts_M: Int64[Tensor, " M"]

    @property
    def lengths_M(self) -> Int64[Tensor, " M"]:
        return self.offsets.diff()
