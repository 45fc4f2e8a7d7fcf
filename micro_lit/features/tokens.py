"""Tokenises texts: chat template, truncation, and the length of the prompt in each text.

Dimension letters: M distinct texts.
"""

import bisect
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from micro_lit.data.pairs import Text
from micro_lit.data.records import Message
from micro_lit.errors import UserError

# When a text is too long, its response keeps at least this share of the tokens, and the prompt gets the rest.
RESPONSE_SHARE = 0.75

SHOWN_CHARACTERS = 40  # characters of a text that an error message quotes


class Reading(NamedTuple):
    """Truncation and token digests of M texts.

    Attributes:
        cut_M2: whether the prompt, and the response, of each text was truncated.
        digests_M: digest of the remaining tokens of each text; equal tokens have equal digests.
        max_length: most tokens of a text.
    """

    cut_M2: Bool[Tensor, "M 2"]
    digests_M: Int64[Tensor, " M"]
    max_length: int


class Row(NamedTuple):
    """Token ids of one text, the length of its prompt, and whether prompt and response were truncated."""

    ids: list[int]
    prompt_length: int
    cut: tuple[bool, bool] = (False, False)


class TextTokenizer:
    """Renders and tokenises each text exactly once, in the same way for training and scoring.

    With a chat template the whole conversation is rendered by the template and tokenised without further special
    tokens, so that no second BOS can appear. Without one, turns are joined by blank lines and the tokenizer adds its
    own special tokens. If the template does not support system turns, they are merged into the first user turn.

    Texts over `max_length` tokens are truncated: the response keeps its beginning and at least `RESPONSE_SHARE` of the
    tokens, and the prompt keeps its end. Chats are truncated as messages and then rendered again; see `_shorten`.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        max_length: most tokens of a text.
        chat_template: replaces the tokenizer's own: one of its named templates, a .jinja file, or a template as text.

    Raises:
        UserError: when the tokenizer is not fast, the template cannot be rendered, or it rejects a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, chat_template: str | None = None) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"{tokenizer.name_or_path}: a fast tokenizer (tokenizer.json) is needed to find where a prompt ends; "
                "convert it with transformers.convert_slow_tokenizer, or give another backbone.model"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        if chat_template is not None:
            tokenizer.chat_template = find_template(tokenizer, chat_template)
        self.is_chat = tokenizer.chat_template is not None
        # Special tokens that the tokenizer adds around a plain text ([CLS] and [SEP]); a template renders its own.
        ids = [] if self.is_chat else tokenizer("a").input_ids
        bare = tokenizer("a", add_special_tokens=False).input_ids
        start = next((at for at in range(len(ids)) if ids[at : at + len(bare)] == bare), 0)
        self.prefix, self.suffix = ids[:start], ids[start + len(bare) :]
        # The context and both responses of a pair share a prompt, and so may many pairs: render it once.
        self._apply_template = functools.lru_cache(maxsize=4096)(self._apply_template)
        self.folds_system = self.drops_system = False
        if self.is_chat:
            self._try_template()

    @property
    def fingerprint(self) -> str:
        """Digest of vocabulary, template and maximum length.

        It does not depend on the truncation rule, so that stored features of texts that were not truncated stay valid
        when the rule changes. `FeatureStore` then encodes the truncated texts again (`recut`).
        """
        parts = (self.tokenizer.backend_tokenizer.to_str(), self.tokenizer.chat_template, self.max_length)
        # Earlier versions stored features without the system turn for such templates; these must not be reused.
        parts += ("system turn folded",) * self.drops_system
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def __call__(self, texts: Sequence[Text]) -> "TokenTable":
        rows = [row for start in range(0, len(texts), 4096) for row in self._tokenise(texts[start : start + 4096])]
        ids = [np.array(row.ids, dtype=np.int32) for row in rows]
        prompts: dict[bytes, int] = {}
        cut_M2 = torch.tensor([row.cut for row in rows])
        return TokenTable(
            torch.from_numpy(np.concatenate(ids)),
            torch.tensor([0, *map(len, ids)]).cumsum(0),
            torch.tensor([row.prompt_length for row in rows]),
            cut_M2.any(dim=1),
            torch.tensor(
                [
                    prompts.setdefault(ids_m[: row.prompt_length].tobytes(), len(prompts))
                    for ids_m, row in zip(ids, rows, strict=True)
                ]
            ),
            Reading(cut_M2, torch.from_numpy(_token_digests(ids)), self.max_length),
        )

    def show(self, text: Text) -> str:
        """The text decoded from its tokens, with template and special tokens, as the backbone reads it."""
        return self.tokenizer.decode(self([text]).flat_ids)

    def _tokenise(self, texts: Sequence[Text]) -> Iterator[Row]:
        room = self.max_length - len(self.prefix) - len(self.suffix)
        for text, row in zip(texts, self._encode(texts), strict=True):
            if len(row.ids) > room:
                row = self._cut_chat(text, row) if self.is_chat else self._cut_ids(row, room)
            length = len(self.prefix) + row.prompt_length + (len(self.suffix) if text.response is None else 0)
            yield row._replace(ids=self.prefix + row.ids + self.suffix, prompt_length=length)

    def _encode(self, texts: Sequence[Text]) -> Iterator[Row]:
        """Token ids of texts before truncation, without the special tokens of plain texts."""
        rendered = [self.render(text) for text in texts]
        encoded = self.tokenizer(
            [full for full, _ in rendered],
            add_special_tokens=False,
            return_attention_mask=False,
            verbose=False,  # no warning about long sequences: they are truncated later
        )
        for row, ((full, prompt_characters), ids) in enumerate(zip(rendered, encoded["input_ids"], strict=True)):
            # A token that spans the end of the prompt and the start of the response belongs to the response.
            beyond = (encoded.char_to_token(row, at) for at in range(prompt_characters, len(full)))
            yield Row(ids, next((token for token in beyond if token is not None), len(ids)))

    def _cut_ids(self, row: Row, room: int) -> Row:
        """Truncates token ids, ignoring turns."""
        prompt, response = row.ids[: row.prompt_length], row.ids[row.prompt_length :]
        kept = response[: max(int(RESPONSE_SHARE * room), room - len(prompt))]
        tail = prompt[max(0, len(prompt) + len(kept) - room) :]
        return Row(tail + kept, len(tail), (len(tail) < len(prompt), len(kept) < len(response)))

    def _cut_chat(self, text: Text, row: Row) -> Row:
        """Truncates a chat as messages, and renders and tokenises the result."""
        shorter = self._shorten(text, row)
        [found] = self._encode([shorter])
        cut = (shorter.prompt != text.prompt, shorter.response != text.response)
        if len(found.ids) > self.max_length:  # max_length is about the size of the template itself
            found = self._cut_ids(found, self.max_length)
        return found._replace(cut=(cut[0] or found.cut[0], cut[1] or found.cut[1]))

    def _shorten(self, text: Text, row: Row) -> Text:
        """Truncates the messages of a chat that has too many tokens.

        1. The end of the response is cut, down to its share or to what the prompt leaves, whichever is more. If system
           turn and end of the last user turn fit in half of all tokens, they take precedence over that share.
        2. Whole turns of the prompt are dropped, oldest first, until it starts with a user turn and fits. The system
           turn is kept.
        3. The beginning of the last user turn is cut, then of the turns after it.
        4. If the chat still does not fit, the system turn is dropped and step 3 is repeated.
        """
        prompt, response = text
        head = next((at for at, message in enumerate(prompt) if message.role != "system"), len(prompt))
        users = [at for at, message in enumerate(prompt) if message.role == "user"] or [len(prompt) - 1]
        system = prompt[:head]
        response_length = len(row.ids) - row.prompt_length
        share = max(int(RESPONSE_SHARE * self.max_length), self.max_length - row.prompt_length)
        if system and response is not None:
            last = (message._replace(content=self._last_token(message.content)) for message in prompt[users[-1] :])
            [least] = self._encode([Text((*system, *last), response)])
            if least.prompt_length <= self.max_length // 2:
                share = min(share, self.max_length - least.prompt_length)
        if response_length > share:
            response_length = share

            def over(response: str) -> int:
                [cut] = self._encode([text._replace(response=response)])
                return len(cut.ids) - cut.prompt_length - share

            response = self._trim(response, over, from_end=True)
        # Not the tokens of the cut response, which may be one fewer: both prompts of a pair must be cut alike.
        room = self.max_length - response_length

        def excess(messages: tuple[Message, ...]) -> int:
            [cut] = self._encode([Text(messages, response)])
            return cut.prompt_length - room

        if excess(prompt) <= 0:
            return Text(prompt, response)
        begin = bisect.bisect_left(users, True, key=lambda at: excess((*system, *prompt[at:])) <= 0)
        if begin < len(users):
            return Text((*system, *prompt[users[begin] :]), response)
        for first in (system, ()):
            messages = (*first, *prompt[users[-1] :])
            for at in range(len(first), len(messages)):

                def over_with(content: str, at: int = at, messages: tuple[Message, ...] = messages) -> int:
                    return excess((*messages[:at], messages[at]._replace(content=content), *messages[at + 1 :]))

                content = self._trim(messages[at].content, over_with, from_end=False)
                messages = (*messages[:at], messages[at]._replace(content=content), *messages[at + 1 :])
            if excess(messages) <= 0:
                break
        return Text(messages, response)

    def _trim(self, content: str, excess: Callable[[str], int], from_end: bool) -> str:
        """Removes tokens from one end of a text until `excess` is not positive; at least one token is kept."""
        spans = self._spans(content)
        kept, gone = content, 0
        while gone < len(spans) - 1 and (over := excess(kept)) > 0:
            gone = min(gone + over, len(spans) - 1)
            kept = content[: spans[-1 - gone][1]].rstrip() if from_end else content[spans[gone][0] :].lstrip()
        return kept

    def _last_token(self, content: str) -> str:
        return content[self._spans(content)[-1][0] :] if content else content

    def _spans(self, content: str) -> list[tuple[int, int]]:
        """Character span (start, end) of each token of a text."""
        encoded = self.tokenizer(content, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["offset_mapping"]

    def render(self, text: Text) -> tuple[str, int]:
        """Renders a text as one string.

        Returns:
            The string, and the number of its characters that belong to the prompt.

        Raises:
            UserError: when the template rejects the text, or renders its prompt differently before a reply.
        """
        if not self.is_chat:
            prompt = "\n\n".join(message.words for message in text.prompt) + "\n\n"
            return prompt + (text.response or ""), len(prompt)
        prompt = self._apply_template(text.prompt, add_generation_prompt=True)
        if text.response is None:
            return prompt, len(prompt)
        full = self._apply_template((*text.prompt, Message("assistant", text.response)), add_generation_prompt=False)
        if not full.startswith(prompt):
            # Some templates render a generation prompt that differs from the start of a reply; leave it out.
            prompt = self._apply_template(text.prompt, add_generation_prompt=False)
        if not full.startswith(prompt):
            raise self._refusal(text.prompt, "it renders a prompt differently when a reply follows")
        return full, len(prompt)

    def _apply_template(self, messages: tuple[Message, ...], add_generation_prompt: bool) -> str:
        if self.folds_system:
            messages = fold_system(messages)
        try:
            return self._raw_template(messages, add_generation_prompt)
        except Exception as error:  # a Jinja template can raise anything
            raise self._refusal(messages, error) from error

    def _raw_template(self, messages: tuple[Message, ...], add_generation_prompt: bool) -> str:
        # A template without support for tool calls would drop them silently, so they are rendered as text.
        supports_calls = "tool_calls" in str(self.tokenizer.chat_template)
        conversation = [
            message.as_turn() if supports_calls else {"role": message.role, "content": message.words}
            for message in messages
        ]
        return self.tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def _try_template(self) -> None:
        """Checks that the template renders a chat, and sets whether it drops or rejects system turns."""
        question, mark = Message("user", "?"), "0system0"
        try:
            self._raw_template((question,), add_generation_prompt=True)
        except Exception as error:
            raise UserError(
                f"{self.tokenizer.name_or_path}: its chat template cannot be rendered ({_shown_line(error)}); give "
                "another with backbone.chat_template=<name, .jinja file or text>"
            ) from error
        try:
            shown = self._raw_template((Message("system", mark), question), add_generation_prompt=True)
            self.drops_system = mark not in shown
            self.folds_system = self.drops_system
        except Exception:  # templates reject system turns with different exceptions
            self.folds_system = True

    def _refusal(self, messages: tuple[Message, ...], reason: object) -> UserError:
        roles = ", ".join(message.role for message in messages)
        begins = next((message.content for message in messages if message.role == "user"), messages[0].content)
        return UserError(
            f"{self.tokenizer.name_or_path}: its chat template refuses the text that begins "
            f"{begins[:SHOWN_CHARACTERS]!r} (turns: {roles[:200]}): {_shown_line(reason)}; "
            "take such rows out of the data, or give another template with "
            "backbone.chat_template=<name, .jinja file or text>"
        )


def find_template(tokenizer: PreTrainedTokenizerBase, wanted: str) -> str:
    """The chat template for `backbone.chat_template`: a named template, a file's content, or the text itself.

    Raises:
        UserError: when it is none of these.
    """
    named = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    if wanted in named:
        return named[wanted]
    if "{{" in wanted or "{%" in wanted:
        return wanted
    path = Path(wanted).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        known = f"its templates are {', '.join(sorted(named))}" if named else "it names no templates"
        raise UserError(
            f"backbone.chat_template={wanted[:80]}: no named template of {tokenizer.name_or_path} ({known}), no file "
            f"that can be read ({getattr(error, 'strerror', None) or 'no text'}), and no Jinja text"
        ) from error


def fold_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Merges leading system turns into the start of the first user turn.

    If there is no user turn, or an assistant turn precedes it, they become a user turn of their own.
    """
    head = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    if not head:
        return messages
    system, rest = [message.content for message in messages[:head]], messages[head:]
    at = next((at for at, message in enumerate(rest) if message.role == "user"), None)
    if at is None or any(message.role == "assistant" for message in rest[:at]):
        return (Message("user", "\n\n".join(system)), *rest)
    user = rest[at]._replace(content="\n\n".join([*system, rest[at].content]))
    return (*rest[:at], user, *rest[at + 1 :])


def _shown_line(reason: object) -> str:
    return " ".join(str(reason).split())[:200] or type(reason).__name__


def _token_digests(ids: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    """A 64-bit digest of the tokens of each text, never 0."""
    raw = b"".join(hashlib.blake2b(ids_m.tobytes(), digest_size=8).digest() for ids_m in ids)
    digests_M = np.frombuffer(raw, dtype="<i8").astype(np.int64)
    return np.where(digests_M == 0, 1, digests_M)


@dataclass(frozen=True)
class TokenTable:
    """Token ids of M texts, concatenated; text m is `flat_ids[offsets[m]:offsets[m + 1]]`.

    Attributes:
        prompt_lengths_M: number of prompt tokens of each text; all its tokens when it has no response.
        truncated_M: whether the text was truncated.
        prompts_M: index of the distinct prompt, compared by its tokens after truncation.
        reading: truncation and token digests; None for token tables that were not made from texts.
    """

    flat_ids: Int32[Tensor, " tokens"]
    offsets: Int64[Tensor, " boundaries"]
    prompt_lengths_M: Int64[Tensor, " M"]
    truncated_M: Bool[Tensor, " M"]
    prompts_M: Int64[Tensor, " M"]
    reading: Reading | None = None

    @property
    def lengths_M(self) -> Int64[Tensor, " M"]:
        return self.offsets.diff()
