"""Dictionary-encoded records: N records as integer codes into lists of distinct values.

Dimension letters: N records.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from numpy.typing import NDArray

from micro_lit.data.messages import Prompt
from micro_lit.data.records import TEXTS, Record

# The lists of distinct values; chosen and rejected responses share one list.
VALUES = ("prompt", "response", *TEXTS)
CODES = {"prompt": "prompt", "chosen": "response", "rejected": "response", **dict(zip(TEXTS, TEXTS, strict=True))}

Codes = NDArray[np.int64]


class Digests(NamedTuple):
    """Text digests (`text_digests`) with the codes of prompt and response of each text (response -1 for none)."""

    prompt_T: Codes
    response_T: Codes
    digest_T2: NDArray[np.uint64]


@dataclass(eq=False)
class Columns:
    """N dictionary-encoded records.

    Attributes:
        values: distinct values, for each of `VALUES`.
        codes: index of each record's value in its list, for each of `CODES`; -1 for a missing value.
        gap_N: rating gaps; NaN if missing.
        first_N: 1 if the chosen response was shown first, 0 if the rejected one was, -1 if unknown.
        row_N: number of the record in its set; copies of a record in a mixture share it.
        digests: text digests from the cache of parsed files, if any.
    """

    values: dict[str, list[Any]]
    codes: dict[str, Codes]
    gap_N: NDArray[np.float64]
    first_N: NDArray[np.int8]
    row_N: Codes
    digests: Digests | None = None

    def __len__(self) -> int:
        return len(self.row_N)

    def take(self, rows: NDArray[Any]) -> "Columns":
        """Selects records by a mask or by indices; the lists of values are unchanged."""
        codes = {name: code_N[rows] for name, code_N in self.codes.items()}
        numbers = {"gap_N": self.gap_N[rows], "first_N": self.first_N[rows], "row_N": self.row_N[rows]}
        return replace(self, codes=codes, **numbers)

    def with_codes(self, **codes: Codes) -> "Columns":
        return replace(self, codes=self.codes | codes)

    def with_default(self, name: str, value: str) -> "Columns":
        """Replaces missing values of a text column by a default."""
        code_N = self.codes[name]
        if not (code_N < 0).any():
            return self
        values = self.values[name] if value in self.values[name] else [*self.values[name], value]
        filled = self.with_codes(**{name: np.where(code_N < 0, values.index(value), code_N)})
        return replace(filled, values=self.values | {name: values})

    def records(self) -> list[Record]:
        """Converts to a list of `Record`."""
        values = self.values
        columns = [
            [None if code < 0 else values[CODES[name]][code] for code in self.codes[name].tolist()] for name in CODES
        ]
        named = [dict(zip(CODES, row, strict=True)) for row in zip(*columns, strict=True)]
        gaps = (None if math.isnan(gap) else gap for gap in self.gap_N.tolist())
        shown = (None if first < 0 else bool(first) for first in self.first_N.tolist())
        return [
            Record(**row, rating_gap=gap, first_shown=first) for row, gap, first in zip(named, gaps, shown, strict=True)
        ]


def joined(parts: Sequence[Columns]) -> Columns:
    """Concatenates records; `row_N` of different parts never coincide."""
    if len(parts) == 1:
        return parts[0]
    values: dict[str, list[Any]] = {}
    codes: dict[str, list[Codes]] = {name: [] for name in CODES}
    moved: list[dict[str, Codes]] = [{} for _ in parts]
    for name in VALUES:
        known: dict[Any, int] = {}
        for part, moves in zip(parts, moved, strict=True):
            new = (known.setdefault(value, len(known)) for value in part.values[name])
            moves[name] = np.fromiter(new, dtype=np.int64, count=len(part.values[name]))
        values[name] = list(known)
    for part, moves in zip(parts, moved, strict=True):
        for name, of in CODES.items():
            move, code_N = moves[of], part.codes[name]
            codes[name].append(np.where(code_N < 0, -1, move[code_N]) if len(move) else code_N)
    first_row = np.cumsum([0, *(int(part.row_N.max(initial=-1)) + 1 for part in parts)])
    return Columns(
        values,
        {name: np.concatenate(each) for name, each in codes.items()},
        np.concatenate([part.gap_N for part in parts]),
        np.concatenate([part.first_N for part in parts]),
        np.concatenate([part.row_N + first for part, first in zip(parts, first_row, strict=False)]),
        _joined_digests(parts, moved),
    )


def _joined_digests(parts: Sequence[Columns], moved: Sequence[dict[str, Codes]]) -> Digests | None:
    """Concatenates digests with codes of the joined lists; a text in two parts may appear twice."""
    found = [
        Digests(
            moves["prompt"][part.digests.prompt_T],
            np.where(part.digests.response_T < 0, -1, moves["response"][part.digests.response_T]),
            part.digests.digest_T2,
        )
        for part, moves in zip(parts, moved, strict=True)
        if part.digests is not None
    ]
    return Digests(*map(np.concatenate, zip(*found, strict=True))) if found else None


def first_codes(code_N: Codes) -> tuple[Codes, Codes]:
    """Renumbers codes in order of first appearance; -1 stays -1.

    Returns:
        The new codes, and the old code of each new one.
    """
    if code_N.max(initial=-1) < 0:
        return code_N, np.empty(0, dtype=np.int64)
    array = pyarrow.array(code_N, mask=code_N < 0).dictionary_encode()
    return array.indices.fill_null(-1).to_numpy().astype(np.int64), array.dictionary.to_numpy()


def combined(*columns: Codes) -> Codes:
    """One code for each combination of codes, equal if and only if all codes are equal; -1 counts as a value."""
    result, size = np.zeros(len(columns[0]), dtype=np.int64), 1
    for code_N in columns:
        width = int(code_N.max(initial=-1)) + 2
        if size * width >= 2**62:
            result, found = first_codes(result)
            size = len(found)
        if width > 1:
            result, size = result * width + code_N + 1, size * width
    return result


def prompts_of(columns: Columns, write: Callable[[Prompt], str]) -> list[str]:
    """Applies `write` to each distinct prompt that a record uses; unused prompts give an empty text."""
    used = np.zeros(len(columns.values["prompt"]), dtype=bool)
    used[columns.codes["prompt"]] = True
    return [write(prompt) if is_used else "" for prompt, is_used in zip(columns.values["prompt"], used, strict=True)]
