"""From texts to token ids: template, truncation, and where the prompt of each text ends.

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

# When a text is too long, this share of the room goes to the response before the prompt is cut.
RESPONSE_SHARE = 0.75

SHOWN = 40  # characters of a text that an error names


class Reading(NamedTuple):
    """What became of M texts on their way to a backbone.

    cut_M2: whether tokens of its prompt, and of its response, were cut. digests_M: a digest of the tokens that are
    left; of equal tokens, an equal one. max_length: tokens that a text may have.
    """

    cut_M2: Bool[Tensor, "M 2"]
    digests_M: Int64[Tensor, " M"]
    max_length: int


class Row(NamedTuple):
    """The tokens of one text, how many of them are its prompt, and whether its prompt and its response were cut."""

    ids: list[int]
    prompt_length: int
    cut: tuple[bool, bool] = (False, False)


class TextTokenizer:
    """Renders and tokenises texts, each exactly once, the same way at every use.

    With a chat template the whole conversation is rendered by the template and tokenised without further special
    tokens, so no second BOS can appear. Without one, turns are joined by blank lines and the tokenizer adds its own
    special tokens. Texts over `max_length` tokens are cut: their response keeps its beginning and at least
    `RESPONSE_SHARE` of the tokens, then the prompt keeps its end. A chat is cut as a conversation, which the template
    then renders; see `_shorten`.

    chat_template: instead of the tokenizer's own; one of its named templates, a .jinja file, or the template as text.

    A system turn goes into the first user turn where the template takes none. Raises `UserError` when tokenizer or
    template do not serve, and for a text that the template refuses.
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
        # What the tokenizer puts around a plain text ([CLS] and [SEP]); a template brings its own.
        ids = [] if self.is_chat else tokenizer("a").input_ids
        bare = tokenizer("a", add_special_tokens=False).input_ids
        start = next((at for at in range(len(ids)) if ids[at : at + len(bare)] == bare), 0)
        self.prefix, self.suffix = ids[:start], ids[start + len(bare) :]
        # The two responses of a pair and the context share a prompt, and many pairs may: render it once.
        self._apply_template = functools.lru_cache(maxsize=4096)(self._apply_template)
        self.folds_system = self.drops_system = False
        if self.is_chat:
            self._try_template()

    @property
    def fingerprint(self) -> str:
        """Changes when vocabulary, template or length do.

        A new rule of what is cut leaves it as it is, so that features of whole texts stay valid; `FeatureStore` then
        encodes the others again (`recut`).
        """
        parts = (self.tokenizer.backend_tokenizer.to_str(), self.tokenizer.chat_template, self.max_length)
        # Once such a template has lost the system turn, and its features were stored.
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
            Reading(cut_M2, torch.from_numpy(_digests(ids)), self.max_length),
        )

    def show(self, text: Text) -> str:
        """The text as the backbone reads it, special tokens included."""
        return self.tokenizer.decode(self([text]).flat_ids)

    def _tokenise(self, texts: Sequence[Text]) -> Iterator[Row]:
        room = self.max_length - len(self.prefix) - len(self.suffix)
        for text, row in zip(texts, self._encode(texts), strict=True):
            if len(row.ids) > room:
                row = self._cut_chat(text, row) if self.is_chat else self._cut_ids(row, room)
            length = len(self.prefix) + row.prompt_length + (len(self.suffix) if text.response is None else 0)
            yield row._replace(ids=self.prefix + row.ids + self.suffix, prompt_length=length)

    def _encode(self, texts: Sequence[Text]) -> Iterator[Row]:
        """Whole texts, without what the tokenizer puts around plain ones."""
        rendered = [self.render(text) for text in texts]
        encoded = self.tokenizer(
            [full for full, _ in rendered],
            add_special_tokens=False,
            return_attention_mask=False,
            # The warning about long sequences is moot: they are cut, where the prompt's end is known.
            verbose=False,
        )
        for row, ((full, prompt_characters), ids) in enumerate(zip(rendered, encoded["input_ids"], strict=True)):
            # A token that holds the end of the prompt and the start of the response counts as response.
            beyond = (encoded.char_to_token(row, at) for at in range(prompt_characters, len(full)))
            yield Row(ids, next((token for token in beyond if token is not None), len(ids)))

    def _cut_ids(self, row: Row, room: int) -> Row:
        """Cuts tokens, without regard to turns."""
        prompt, response = row.ids[: row.prompt_length], row.ids[row.prompt_length :]
        kept = response[: max(int(RESPONSE_SHARE * room), room - len(prompt))]
        tail = prompt[max(0, len(prompt) + len(kept) - room) :]
        return Row(tail + kept, len(tail), (len(tail) < len(prompt), len(kept) < len(response)))

    def _cut_chat(self, text: Text, row: Row) -> Row:
        """The tokens of a chat that was cut, as the template makes them of any chat."""
        shorter = self._shorten(text, row)
        [found] = self._encode([shorter])
        cut = (shorter.prompt != text.prompt, shorter.response != text.response)
        if len(found.ids) > self.max_length:  # there is hardly room for what the template puts around an empty chat
            found = self._cut_ids(found, self.max_length)
        return found._replace(cut=(cut[0] or found.cut[0], cut[1] or found.cut[1]))

    def _shorten(self, text: Text, row: Row) -> Text:
        """What is left of a chat with too many tokens.

        The response loses its end, as far as it has more than its share and more than the prompt leaves. Then whole
        turns of the prompt go, oldest first, so that it begins with a user turn again; the system turn stays. Then the
        last user turn loses its beginning, and at last the turns behind it. A system turn that needs no more than
        half of all tokens takes them from the response; one that finds no room goes.
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
        # Not what the cut response has, which may be a token less: both prompts of a pair are to be cut alike.
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
        """Takes tokens off one end of a text, but the last one, until there are none in excess."""
        spans = self._spans(content)
        kept, gone = content, 0
        while gone < len(spans) - 1 and (over := excess(kept)) > 0:
            gone = min(gone + over, len(spans) - 1)
            kept = content[: spans[-1 - gone][1]].rstrip() if from_end else content[spans[gone][0] :].lstrip()
        return kept

    def _last_token(self, content: str) -> str:
        return content[self._spans(content)[-1][0] :] if content else content

    def _spans(self, content: str) -> list[tuple[int, int]]:
        """The characters of each token of a text."""
        encoded = self.tokenizer(content, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["offset_mapping"]

    def render(self, text: Text) -> tuple[str, int]:
        """The text as one string, and how many of its characters belong to the prompt."""
        if not self.is_chat:
            prompt = "\n\n".join(message.words for message in text.prompt) + "\n\n"
            return prompt + (text.response or ""), len(prompt)
        prompt = self._apply_template(text.prompt, add_generation_prompt=True)
        if text.response is None:
            return prompt, len(prompt)
        full = self._apply_template((*text.prompt, Message("assistant", text.response)), add_generation_prompt=False)
        if not full.startswith(prompt):
            # Some templates open a reply in another way than they render one; what both share belongs to the prompt.
            prompt = self._apply_template(text.prompt, add_generation_prompt=False)
        if not full.startswith(prompt):
            raise self._refusal(text.prompt, "it changes a prompt when a reply follows")
        return full, len(prompt)

    def _apply_template(self, messages: tuple[Message, ...], add_generation_prompt: bool) -> str:
        if self.folds_system:
            messages = fold_system(messages)
        try:
            return self._raw_template(messages, add_generation_prompt)
        except Exception as error:  # a template is a program
            raise self._refusal(messages, error) from error

    def _raw_template(self, messages: tuple[Message, ...], add_generation_prompt: bool) -> str:
        # A template that knows of no calls would leave them out without a word.
        knows_calls = "tool_calls" in str(self.tokenizer.chat_template)
        conversation = [
            message.as_turn() if knows_calls else {"role": message.role, "content": message.words}
            for message in messages
        ]
        return self.tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def _try_template(self) -> None:
        """Whether the template renders a chat at all, and whether it shows a system turn."""
        question, mark = Message("user", "?"), "0system0"
        try:
            self._raw_template((question,), add_generation_prompt=True)
        except Exception as error:
            raise UserError(
                f"{self.tokenizer.name_or_path}: its chat template cannot be rendered ({_one_line(error)}); give "
                "another with backbone.chat_template=<name, .jinja file or text>"
            ) from error
        try:
            shown = self._raw_template((Message("system", mark), question), add_generation_prompt=True)
            self.drops_system = mark not in shown
            self.folds_system = self.drops_system
        except Exception:  # however a template refuses it
            self.folds_system = True

    def _refusal(self, messages: tuple[Message, ...], reason: object) -> UserError:
        roles = ", ".join(message.role for message in messages)
        begins = next((message.content for message in messages if message.role == "user"), messages[0].content)
        return UserError(
            f"{self.tokenizer.name_or_path}: its chat template refuses the text that begins {begins[:SHOWN]!r} "
            f"(turns: {roles[:200]}): {_one_line(reason)}; take such rows out of the data, or give another template "
            "with backbone.chat_template=<name, .jinja file or text>"
        )


def find_template(tokenizer: PreTrainedTokenizerBase, wanted: str) -> str:
    """The chat template that `backbone.chat_template` names, or is."""
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
    """A conversation without a system turn: what the first turns of the system say opens the first user turn."""
    head = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    if not head:
        return messages
    told, rest = [message.content for message in messages[:head]], messages[head:]
    at = next((at for at, message in enumerate(rest) if message.role == "user"), None)
    if at is None or any(message.role == "assistant" for message in rest[:at]):
        return (Message("user", "\n\n".join(told)), *rest)
    user = rest[at]._replace(content="\n\n".join([*told, rest[at].content]))
    return (*rest[:at], user, *rest[at + 1 :])


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split())[:200] or type(reason).__name__


def _digests(ids: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    """A 64-bit digest of the tokens of each text, never 0."""
    raw = b"".join(hashlib.blake2b(ids_m.tobytes(), digest_size=8).digest() for ids_m in ids)
    digests_M = np.frombuffer(raw, dtype="<i8").astype(np.int64)
    return np.where(digests_M == 0, 1, digests_M)


@dataclass(frozen=True)
class TokenTable:
    """Token ids of M texts, end to end; text m is flat_ids[offsets[m]:offsets[m + 1]].

    prompt_lengths_M: tokens of each text up to the end of its prompt; all of them when it has no response.
    truncated_M: whether tokens were cut. prompts_M: a number for each distinct prompt, as its tokens after the cut.
    reading: what became of the texts, where these are texts.
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
