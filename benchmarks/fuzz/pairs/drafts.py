"""What a case of data is made of: files to write, the command line that names them, and what has to come of them."""

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

    write: makes its files in a folder, which is the working directory of what reads them. train, test: the records
    that come of it, in order; test: those of a test file. note: of WARN part of the output, of FAIL part of the error.
    counts: what became of the rows. by_prompt: whether rows are split by their prompts.
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
    """What writes rows to one file (or folder) of a kind, and the override that names it."""
    name = chance.choice((*["pairs"] * 9, "my pairs", "Päärchen", "a=b", "(1)")) + tables.ending(kind)
    named = f"data.train={name}" if name.startswith("pairs") else f'data.train="{name}"'
    return lambda own, folder: tables.write(folder / name, rows, kind, own), named


def bytes_of(name: str, content: bytes) -> tuple[Write, str]:
    """What writes a file of any content, compressed as its name says."""
    return lambda own, folder: tables.packed(folder / name, content), f"data.train={name}"
