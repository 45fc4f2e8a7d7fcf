"""Converts rows to columns: a fast path for plain rows in whole chunks, a slow path for all others row by row.

The fast path checks and dictionary-encodes rows of plain text and numbers with Arrow. The slow path calls
`parse_record`, which defines what a valid record is. Both give the same columns.

Dimension letters: N records, R rows of a chunk.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute as pc
from numpy.typing import NDArray

from micro_lit.data.columns import CODES, VALUES, Codes, Columns
from micro_lit.data.formats import CHUNK_ROWS, is_text
from micro_lit.data.messages import LISTED, STRINGIFIED, BadRow, Message, Prompt, messages
from micro_lit.data.records import SCORE_COLUMNS, TEXTS, Record

# A character that is not white space in Python.
VISIBLE = r"[^\s\p{Z}\x1c-\x1f\x85\x0b]"
# Separators of the turns of a prompt, and of role and content: Arrow can only compare prompts joined to one text.
TURN, WORDS = "\x1e", "\x1f"
# First characters of texts that need a closer check: white space (in Python), a separator, JSON; or an empty text.
DOUBTFUL = pyarrow.array(
    ["", "[", "{", *(chr(code) for code in range(0x3001) if chr(code).isspace())], pyarrow.large_string()
)
# Texts that may be messages or turns as JSON, or joined turns; these go to the slow path.
STRUCTURED = f"({STRINGIFIED})|({LISTED})|^{TURN}"


def columns_of(records: Sequence[Record]) -> Columns:
    """Converts a list of records to columns; repeated references to one object share a row number."""
    gathered = Gathered()
    for number, record in enumerate(records):
        gathered.add(number, record)
    columns, first = gathered.columns(), {}
    columns.row_N = np.array([first.setdefault(id(record), len(first)) for record in records], dtype=np.int64)
    return columns


class _Index:
    """Dictionary encoding of several columns with one list of distinct texts, in order of appearance.

    Chunks arrive with dictionaries of their own. These are merged whenever they together exceed twice the common list,
    so that memory grows with the number of distinct texts, and time with the number of texts.
    """

    def __init__(self) -> None:
        self.words = pyarrow.array([], pyarrow.large_string())
        self.codes: defaultdict[str, list[NDArray[np.int32]]] = defaultdict(list)
        self._pending: list[tuple[str, pyarrow.DictionaryArray]] = []
        self._size = 0

    def add(self, name: str, array: pyarrow.DictionaryArray) -> None:
        self._pending.append((name, array))
        self._size += len(array.dictionary)
        if self._size > 2 * len(self.words) + CHUNK_ROWS:
            self.unify()

    def unify(self) -> None:
        if not self._pending:
            return
        none = pyarrow.array([], pyarrow.int32())
        chunks = [pyarrow.DictionaryArray.from_arrays(none, self.words), *(array for _, array in self._pending)]
        unified = pyarrow.chunked_array(chunks).unify_dictionaries()
        self.words = unified.chunk(0).dictionary
        for (name, _), chunk in zip(self._pending, unified.chunks[1:], strict=True):
            self.codes[name].append(chunk.indices.fill_null(-1).to_numpy())
        self._pending, self._size = [], 0

    def column(self, name: str) -> Codes:
        self.unify()
        return np.concatenate([np.empty(0, dtype=np.int64), *self.codes[name]]).astype(np.int64)


@dataclass
class Gathered:
    """Accumulates records, in chunks or one by one, and converts them to `Columns` in order of their numbers."""

    plain: list[tuple[Codes, NDArray[np.float64]]] = field(default_factory=list)
    index: dict[str, _Index] = field(default_factory=lambda: {name: _Index() for name in VALUES})
    numbers: list[int] = field(default_factory=list)
    others: list[Record] = field(default_factory=list)
    ties: int = 0  # among `others`
    # Joined text of turns -> prompt; None if it needs the slow path.
    prompts: dict[str, Prompt | None] = field(default_factory=dict)

    def add(self, number: int, record: Record) -> None:
        self.numbers.append(number)
        self.others.append(record)
        self.ties += record.rating_gap == 0.0

    def _prompt(self, text: str) -> Prompt | None:
        """The prompt for a text or for joined turns; None if it needs the slow path."""
        if not text.startswith(TURN):
            return (Message("user", text),)
        if text not in self.prompts:
            turns = (turn.partition(WORDS) for turn in text.split(TURN)[1:])
            try:
                prompt = messages([{"role": role, "content": content} for role, _, content in turns], "prompt")
            except BadRow:
                prompt = ()
            self.prompts[text] = prompt if any(turn.content.strip() for turn in prompt) else None
        return self.prompts[text]

    def columns(self) -> Columns:
        values: dict[str, list[Any]] = {}
        codes: dict[str, Codes] = {}
        for of in VALUES:
            names = [name for name, source in CODES.items() if source == of]
            plain = {name: self.index[of].column(name) for name in names}
            dictionary = self.index[of].words.to_pylist()
            if of == "prompt":
                dictionary = [self._prompt(text) or () for text in dictionary]  # no record uses the empty prompts
                if self.prompts:  # a list with a single user turn is the same prompt as its plain text
                    places: dict[Prompt | None, int] = {}
                    place = [places.setdefault(prompt, len(places)) for prompt in dictionary]
                    dictionary, plain = list(places), {"prompt": np.array(place, dtype=np.int64)[plain["prompt"]]}
            known = {value: code for code, value in enumerate(dictionary)} if self.others else {}
            for name, plain_N in plain.items():
                other_N = [
                    -1 if value is None else known.setdefault(value, len(known))
                    for value in (getattr(record, name) for record in self.others)
                ]
                codes[name] = np.concatenate([plain_N, np.array(other_N, dtype=np.int64)])
            values[of] = list(known) if self.others else dictionary
        numbers = np.concatenate([*(numbers for numbers, _ in self.plain), np.array(self.numbers, dtype=np.int64)])
        gaps = [math.nan if record.rating_gap is None else record.rating_gap for record in self.others]
        shown = [-1 if record.first_shown is None else int(record.first_shown) for record in self.others]
        num_plain = len(numbers) - len(self.others)
        columns = Columns(
            values,
            codes,
            np.concatenate([*(gap_R for _, gap_R in self.plain), np.array(gaps, dtype=np.float64)]),
            np.concatenate([np.full(num_plain, -1, dtype=np.int8), np.array(shown, dtype=np.int8)]),
            np.arange(len(numbers)),
        )
        if self.others and self.plain:
            columns = columns.take(numbers.argsort(kind="stable"))
            columns.row_N = np.arange(len(numbers))
        return columns

    def add_plain(self, table: pyarrow.Table, columns: Mapping[str, str], first: int) -> NDArray[np.int64]:
        """Adds the rows of a table that are certainly valid records (fast path).

        Args:
            table: a chunk of R rows.
            columns: our column -> column of the table.
            first: number of the first row.

        Returns:
            Indices of the other rows, which need the slow path (`parse_record`).
        """
        named = {ours: _plain_column(table, theirs) for ours, theirs in columns.items()}
        named = {ours: column for ours, column in named.items() if column is not None}
        if any(theirs not in table.column_names and ours not in named for ours, theirs in columns.items()):
            return np.arange(len(table))
        found = _plain_rows(named, len(table), self._prompt)
        if found is None:
            return np.arange(len(table))
        arrays, gap_R, plain_R = found
        rows = np.flatnonzero(plain_R)
        if len(rows) < len(table):
            arrays, gap_R = {name: array.take(pyarrow.array(rows)) for name, array in arrays.items()}, gap_R[rows]
        self.plain.append((rows + first, gap_R))
        for name, array in arrays.items():
            self.index[CODES[name]].add(name, array)
        return np.flatnonzero(~plain_R)


def _plain_rows(
    columns: Mapping[str, pyarrow.ChunkedArray], num_rows: int, prompt_of: Callable[[str], Prompt | None]
) -> tuple[dict[str, pyarrow.DictionaryArray], NDArray[np.float64], NDArray[np.bool_]] | None:
    """Encoded texts, rating gaps and a mask of valid records; None if columns hold anything but text and numbers."""
    if not {"prompt", "chosen", "rejected"} <= set(columns) or "winner" in columns:
        return None
    arrays = {}
    plain_R = np.ones(num_rows, dtype=bool)
    for name in ("prompt", "chosen", "rejected"):
        joined_turns = _joined_turns(columns[name]) if name == "prompt" else None
        array = _indexed(columns[name] if joined_turns is None else joined_turns)
        if array is None:
            return None
        words = array.dictionary
        if joined_turns is not None:
            # A list without messages is joined to an empty text.
            found = [text != "" and prompt_of(text) is not None for text in words.to_pylist()]
            sound = pyarrow.array(found, pyarrow.bool_())
        else:
            sound = _is_plain(words)
        plain_R &= _of_rows(sound, array)
        arrays[name] = array
    same_R = pc.equal(*(_decoded(columns[name]) for name in ("chosen", "rejected")))
    plain_R &= ~same_R.fill_null(True).to_numpy(zero_copy_only=False)
    for name in TEXTS:
        array = _indexed(columns[name]) if name in columns else pyarrow.nulls(num_rows, pyarrow.large_string())
        if array is None:
            return None
        if name not in columns:
            array = array.dictionary_encode()
        visible_R = _of_rows(pc.match_substring_regex(array.dictionary, VISIBLE), array)
        indices = pc.if_else(pyarrow.array(visible_R), array.indices, pyarrow.scalar(None, array.indices.type))
        arrays[name] = pyarrow.DictionaryArray.from_arrays(indices, array.dictionary)
    if "system" in columns:
        array = _indexed(columns["system"])
        if array is None:
            return None
        plain_R &= ~_of_rows(pc.match_substring_regex(array.dictionary, VISIBLE), array)
    gap_R = _gaps(columns, num_rows)
    if gap_R is None:
        return None
    # NaN means no gap; the slow path reports gaps that are negative or infinite.
    return arrays, gap_R, plain_R & ~((gap_R < 0) | (gap_R >= 1e30))


def _is_plain(words: pyarrow.LargeStringArray) -> pyarrow.BooleanArray:
    """Which texts are certainly plain: more than white space, and not messages or turns as JSON."""
    doubtful = pc.is_in(pc.utf8_slice_codeunits(words, 0, 1), value_set=DOUBTFUL)
    if not pc.any(doubtful).as_py():
        return pc.invert(doubtful)
    some = words.filter(doubtful)
    sound = pc.and_(pc.match_substring_regex(some, VISIBLE), pc.invert(pc.match_substring_regex(some, STRUCTURED)))
    return pc.replace_with_mask(pc.invert(doubtful), doubtful, sound)


def _plain_column(table: pyarrow.Table, name: str) -> pyarrow.ChunkedArray | None:
    """A column, or a text field of a column of JSON text; None if it is neither."""
    if name in table.column_names:
        return table[name]
    column, _, field_name = name.partition(".")
    array = _indexed(table[column]) if column in table.column_names else None
    if array is None:
        return None
    values = []
    for text in array.dictionary.to_pylist():
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        value = found.get(field_name) if isinstance(found, dict) else 0
        if value is not None and not isinstance(value, str):
            return None
        values.append(value)
    return pyarrow.chunked_array([pyarrow.array(values, pyarrow.large_string()).take(array.indices)])


def _joined_turns(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray | None:
    """Joins each list of messages to one text; None for other columns, and if a message contains a separator."""
    kind = column.type
    if not (pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)):
        return None
    item = kind.value_type
    if not pyarrow.types.is_struct(item) or {each.name for each in item} != {"role", "content"}:
        return None
    joined_chunks = []
    for chunk in column.chunks:
        turns = chunk.flatten()  # skips null lists
        role, content = turns.field("role"), turns.field("content")
        if not (is_text(role.type) and is_text(content.type)) or role.null_count or content.null_count:
            return None
        for text in (role, content):
            if pc.any(pc.match_substring_regex(text, f"[{TURN}{WORDS}]")).as_py():
                return None
        whole = pc.binary_join_element_wise(TURN, pc.binary_join_element_wise(role, content, WORDS), "")
        lists = pyarrow.ListArray.from_arrays(
            np.concatenate([[0], np.cumsum(pc.list_value_length(chunk).fill_null(0))]).astype(np.int32), whole
        )
        texts = pc.binary_join(lists, "")
        joined_chunks.append(pc.if_else(pc.is_valid(chunk), texts, pyarrow.scalar(None, texts.type)))
    return pyarrow.chunked_array(joined_chunks)


def _decoded(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    kind = column.type
    return column.cast(kind.value_type) if pyarrow.types.is_dictionary(kind) else column


def _indexed(column: pyarrow.ChunkedArray) -> pyarrow.DictionaryArray | None:
    """Dictionary-encodes a column of text, or of integers as text; None for other types and invalid UTF-8."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pyarrow.ChunkedArray):
        return None
    kind = array.type
    try:
        if pyarrow.types.is_dictionary(kind):
            if not is_text(kind.value_type):
                return _indexed(pyarrow.chunked_array([array.dictionary_decode()]))
            words = array.dictionary.cast(pyarrow.large_string())
            words.validate(full=True)
            return pyarrow.DictionaryArray.from_arrays(array.indices.cast(pyarrow.int32()), words)
        if pyarrow.types.is_null(kind) or is_text(kind):
            array.validate(full=True)
            return array.cast(pyarrow.large_string()).dictionary_encode()
        if pyarrow.types.is_floating(kind):
            missing = pc.is_nan(array)
            array = pc.if_else(missing, pyarrow.scalar(None, kind), array).cast(pyarrow.int64())
        if pyarrow.types.is_integer(array.type):
            return array.cast(pyarrow.large_string()).dictionary_encode()
    except pyarrow.ArrowException:
        return None
    return None


def _of_rows(flags: pyarrow.BooleanArray, array: pyarrow.DictionaryArray) -> NDArray[np.bool_]:
    """Maps flags of distinct values to rows; False where the value is missing."""
    if not len(flags):
        return np.zeros(len(array), dtype=bool)
    return flags.take(array.indices).fill_null(False).to_numpy(zero_copy_only=False)


def _gaps(columns: Mapping[str, pyarrow.ChunkedArray], num_rows: int) -> NDArray[np.float64] | None:
    """Rating gaps of all rows, NaN if missing; None if a number needs the slow path."""
    gap_R = _score_numbers(columns.get("rating_gap"), num_rows)
    for names in SCORE_COLUMNS:
        chosen_R, rejected_R = (_score_numbers(columns.get(name), num_rows) for name in names)
        if gap_R is None or chosen_R is None or rejected_R is None:
            return None
        gap_R = np.where(np.isnan(gap_R), chosen_R - rejected_R, gap_R)
    return gap_R


def _score_numbers(column: pyarrow.ChunkedArray | None, num_rows: int) -> NDArray[np.float64] | None:
    if column is None:
        return np.full(num_rows, np.nan)
    try:
        if pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pyarrow.types.is_boolean(column.type):
            return None
        if is_text(column.type):
            column = pc.if_else(pc.equal(column, ""), pyarrow.scalar(None, column.type), column)
        numbers = column.cast(pyarrow.float64()).fill_null(math.nan).to_numpy()
    except pyarrow.ArrowException:
        return None
    return None if np.isinf(numbers).any() else numbers
