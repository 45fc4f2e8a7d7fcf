"""Random records, the rows that represent them, and forms of conversations."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from micro_lit.data.messages import ALIASES, Message, Prompt
from micro_lit.data.records import Record

Row = dict[str, Any]

TEXT_COLUMNS = ("user_id", "group", "attribute", "source", "pair_id", "label_id", "criterion")

# Beginnings and endings of texts that are difficult for readers of tables, JSON and conversations.
BEFORE = (
    "", "", "", "Tell me, ", '"', "'", "a,b;c\td ", "two\nlines ", "old\r\nlines ", "a\rb ", " ", "\n", "=1+",
    "#", "é ", "🦜 ", "[note] ", '["a" ', '{"role": "x" ', "{x} ", "[", "\u2028", "\x85", "\x1e", "\x1f", "\u200b",
    "\ufeff", "\\n \\", "NaN ", "<b>", "%s ", "\xa0", "\u3000", "Human: ",
)  # fmt: skip
AFTER = ("", "", "", "?", '"', ",", ";", "\n", "  ", "\t", "\\", '"}', "]", "\r\n", "é", "🦜", "\u2029", "'", '""')
# Answers that some readers of tables treat as missing values.
NULLISH = ("None", "N/A", "null", "nan", "NaN", "NA", "true", "False", "0", "1", "1.5", "n/a", "NULL", "#N/A", "inf")
NAMES = ("ann", "001", "1", "Bo é", "7.0", "None", "nan-na", "x y", " z", "a,b", "1e3", "0x1", "true", "2024-01-01")


def size(chance: random.Random) -> int:
    """Random number of rows of a file."""
    return chance.randrange(10, 80)


def some_labels(chance: random.Random) -> list[str]:
    """Random text columns of a file."""
    return chance.sample(TEXT_COLUMNS, chance.randrange(5))


def text(chance: random.Random, number: int, plain: bool = False) -> str:
    """Random text that is unique to the number."""
    words = f"{chance.choice(('word', 'say', 'the cat'))} {number}"
    if plain:
        return words
    long = " and so on" * chance.choice((0, 0, 0, 0, 0, 0, 0, 0, 300))
    return f"{chance.choice(BEFORE)}{words}{long}{chance.choice(AFTER)}"


def records(
    chance: random.Random, number: int, labels: Sequence[str] = (), plain: bool = False, first: int = 0
) -> list[Record]:
    """Random records with single-turn prompts and values of `labels`; other values of `first` give other texts."""
    asked = (text(chance, 10_000 * (first + 1) + each, plain) for each in range(max(number // 2, 4)))
    prompts = [(Message("user", each),) for each in asked]
    found = []
    for row in range(number):
        given = {name: chance.choice((None, *NAMES)) for name in labels}
        given = {name: value if name == "user_id" else value and f"{name} {value}" for name, value in given.items()}
        at = 1_000 * (first + 1) + 2 * row
        prompt = prompts[row] if row < len(prompts) else chance.choice(prompts)
        found.append(Record(prompt, text(chance, at, plain), text(chance, at + 1, plain), **given))
    return found


def row_of(record: Record) -> Row:
    """The row of a record with a single-turn prompt."""
    return {"prompt": record.prompt[0].content, "chosen": record.chosen, "rejected": record.rejected}


def rows_of(all_records: Sequence[Record], labels: Sequence[str] = ()) -> list[Row]:
    """Rows of records with single-turn prompts, with text columns."""
    return [row_of(record) | {name: getattr(record, name) for name in labels} for record in all_records]


def with_turns(record: Record, chance: random.Random, least: int = 1) -> Record:
    """Adds earlier turns, and sometimes a system turn, to the prompt of a record."""
    before: list[Message] = []
    if chance.random() < 0.3:
        before.append(Message("system", text(chance, 5)))
    for turn in range(chance.randrange(least - 1, 3)):
        before += [Message("user", text(chance, 20 + turn)), Message("assistant", text(chance, 30 + turn))]
    return record._replace(prompt=(*before, *record.prompt))


def turns(prompt: Prompt) -> list[Row]:
    """Converts a conversation to a list of objects."""
    return [{"role": turn.role, "content": turn.content} for turn in prompt]


def _answer(words: str) -> Row:
    return {"role": "assistant", "content": words}


def _listed(record: Record) -> Row:
    return {"prompt": turns(record.prompt), "chosen": record.chosen, "rejected": record.rejected}


def _both(make: Callable[[Record, str], Any], prompt: Callable[[Record], Any] | None = None) -> Callable[[Record], Row]:
    """A function that makes a row, with the same form for both responses."""

    def row(record: Record) -> Row:
        asked = {} if prompt is None else {"prompt": prompt(record)}
        return {**asked, "chosen": make(record, record.chosen), "rejected": make(record, record.rejected)}

    return row


def whole(record: Record, words: str) -> list[Row]:
    """The conversation of a record followed by a response."""
    return [*turns(record.prompt), _answer(words)]


def parts(conversation: Any) -> Any:
    """Converts contents to lists of text parts."""
    if isinstance(conversation, list):
        return [parts(turn) for turn in conversation]
    content = conversation["content"]
    middle = len(content) // 2
    pieces = [content[:middle], content[middle:]] if middle else [content]
    return {**conversation, "content": [{"type": "text", "text": piece} for piece in pieces]}


def other_roles(conversation: Any, name: str) -> Any:
    """Replaces role names by aliases."""
    if isinstance(conversation, list):
        return [other_roles(turn, name) for turn in conversation]
    others = [alias for alias, role in ALIASES.items() if role == conversation["role"]]
    return {**conversation, "role": others[len(name) % len(others)]}


def shared(conversation: Any) -> Any:
    """Converts turns to the format of ShareGPT."""
    if isinstance(conversation, list):
        return [shared(turn) for turn in conversation]
    of = {"user": "human", "assistant": "gpt"}
    return {"from": of.get(conversation["role"], conversation["role"]), "value": conversation["content"]}


# Forms of a row with lists and objects.
FORMS: dict[str, Callable[[Record], Row]] = {
    "a prompt of messages": _listed,
    "all three as messages": _both(lambda record, words: [_answer(words)], lambda record: turns(record.prompt)),
    "responses of one object each": _both(lambda record, words: _answer(words), lambda record: turns(record.prompt)),
    "conversations beside the prompt": _both(whole, lambda record: turns(record.prompt)),
    "conversations and no prompt": _both(whole),
    "content parts": _both(lambda record, words: parts(whole(record, words))),
    "content parts beside text": lambda record: _listed(record) | {"prompt": parts(turns(record.prompt))},
    "other roles": _both(lambda record, words: other_roles(whole(record, words), record.chosen)),
    "ShareGPT and no prompt": _both(lambda record, words: shared(whole(record, words))),
    "ShareGPT with conversations": lambda record: {
        "conversations": shared(turns(record.prompt)),
        "chosen": shared(_answer(record.chosen)),
        "rejected": shared(_answer(record.rejected)),
    },
}  # fmt: skip


def as_text(row: Row, how: Callable[[Any], str]) -> Row:
    """Converts lists and objects of a row to text."""
    return {name: value if isinstance(value, str) or value is None else how(value) for name, value in row.items()}


def transcript(record: Record, words: str) -> str:
    """A dialogue in the format of HH-RLHF; texts must have no surrounding white space."""
    of = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{of[turn.role]}: {turn.content}" for turn in (*record.prompt, Message("assistant", words)))


def stripped(record: Record) -> Record:
    """Removes what a transcript cannot represent: system turns and surrounding white space."""
    prompt = tuple(turn._replace(content=turn.content.strip()) for turn in record.prompt if turn.role != "system")
    return record._replace(prompt=prompt, chosen=record.chosen.strip(), rejected=record.rejected.strip())


def json_text(value: Any) -> str:
    """JSON without ASCII escapes."""
    return json.dumps(value, ensure_ascii=False)
