"""Drafts of data cases: files to write, overrides that name them, and the expected result."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzz.cases import Expect
from benchmarks.fuzz.pairs import tables
from benchmarks.fuzz.pairs.rows import Row
from micro_lit.data.records import Record

Chance = random.Random
Write = Callable[[random.Random, Path], None]


@dataclass(frozen=True)
class Draft:
    """A case of data.

    Attributes:
        write: writes its files in a folder, the working directory of the reader.
        train: expected records of the training file, in order.
        test: expected records of the test file.
        note: required part of the output (WARN) or of the error (FAIL).
        counts: expected counts of rows.
        by_prompt: whether rows are split by prompt.
    """

    what: str
    expect: Expect
    write: Write
    overrides: tuple[str, ...]
    train: Sequence[Record] = ()
    test: Sequence[Record] = ()
    note: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    by_prompt: bool = True


def passes(what: str, write: Write, *overrides: str, train: Sequence[Record], **known) -> Draft:
    counts = {"rows": len(train) + len(known.get("test", ())), "dropped": 0} | known.pop("counts", {})
    return Draft(what, Expect.PASS, write, overrides, train, counts=counts, **known)


def warns(what: str, note: str, write: Write, *overrides: str, train: Sequence[Record], **known) -> Draft:
    return Draft(what, Expect.WARN, write, overrides, train, note=note, **known)


def fails(what: str, note: str, write: Write, *overrides: str) -> Draft:
    return Draft(what, Expect.FAIL, write, overrides, note=note)


def file_of(rows: Sequence[Row], kind: str, chance: random.Random) -> tuple[Write, str]:
    """A function that writes rows to one file (or folder) of a kind, and the override that names the file."""
    name = chance.choice((*["pairs"] * 9, "my pairs", "Päärchen", "a=b", "(1)")) + tables.ending(kind)
    named = f"data.train={name}" if name.startswith("pairs") else f'data.train="{name}"'
    return lambda own, folder: tables.write(folder / name, rows, kind, own), named


def bytes_of(name: str, content: bytes) -> tuple[Write, str]:
    """A function that writes content to a file, compressed if its suffix says so, and the override that names it."""
    return lambda own, folder: tables.packed(folder / name, content), f"data.train={name}"
