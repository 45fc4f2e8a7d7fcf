"""Cases of data: small generated files and folders with a known correct result of `data=pairs`.

Each is read as a command reads it, then row by row, in small chunks, and through the cache. All results must be equal.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.fuzz.cases import Case, Expect
from benchmarks.fuzz.pairs.drafts import Draft
from benchmarks.fuzz.pairs.kinds import KINDS
from benchmarks.fuzz.runs import Runs
from micro_lit.config import build, compose
from micro_lit.data import formats, gathering, parsed
from micro_lit.data.pairs import PreferenceData, with_criterion
from micro_lit.data.records import LABELS, Record
from micro_lit.data.splits import SPLITS
from micro_lit.errors import UserError
from micro_lit.report.terminal import show_data

NUMBER = 100_000


def cases(seed: int, shared: Path, runs: Runs) -> "Cases":
    """All cases of a seed; kinds alternate."""
    return Cases(seed)


class Cases(Sequence[Case]):
    """Sequence of cases, each generated on access."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return NUMBER

    def __getitem__(self, number: int) -> Case:
        kind = KINDS[number % len(KINDS)]
        draft = kind(random.Random(f"data {self.seed} {number}"))
        # Files are written in the child process, with a generator seeded for this case.
        chance = random.Random(f"files {self.seed} {number}")
        return Case(
            f"{kind.__name__}: {draft.what}",
            draft.expect,
            act=partial(use, draft, composed(draft.overrides), self.seed),
            prepare=partial(draft.write, chance),
            note=draft.note,
        )


@functools.cache
def composed(overrides: tuple[str, ...]) -> dict[str, Any] | Exception:
    """The node `data` of a composed config, or the exception raised. Cached: it is the slowest part of a case."""
    try:
        return compose("train", ["data=pairs", "paths.run_dir=run", "data.cache_dir=null", *overrides])["data"]
    except Exception as error:
        return error


def use(draft: Draft, node: dict[str, Any] | Exception, seed: int, folder: Path) -> None:
    """Reads the data of a case in every way, and compares the results.

    Raises:
        UserError: the data cannot be read, with the same message in all ways.
        AssertionError: the result is wrong, or differs between the ways.
    """
    if isinstance(node, Exception):
        raise node

    def load(**changes: Any) -> PreferenceData | UserError:
        try:
            return build(node | changes).load(seed)
        except UserError as error:
            return error

    plain, ways = load(), {}
    with mock.patch.object(parsed, "LEAST_BYTES", 0):
        cache = str(folder / "cache")
        ways["the cache, on its first use,"], ways["the cache"] = load(cache_dir=cache), load(cache_dir=cache)
    with row_by_row():
        ways["row by row"] = load()
    with in_pieces():
        ways["in pieces"] = load()
    for name, way in ways.items():
        other = _difference(plain, way)
        assert other is None, f"{name} gives another result: {other}"
    if not isinstance(plain, UserError) and (empty := [name for name in SPLITS if not len(plain.splits[name])]):
        plain = UserError(f"data: the {empty[0]} split is empty, as `micro_lit.run.run` says before it trains")
    if isinstance(plain, UserError):
        assert "\n" not in str(plain), f"more than one line: {str(plain)!r}"
        assert len(str(plain)) < 2500, f"a line of {len(str(plain))} characters"
        raise plain
    if draft.expect != Expect.FAIL:
        _check(draft, plain)
    show_data(plain, None)


@contextlib.contextmanager
def row_by_row() -> Iterator[None]:
    """Makes the reader parse every row as a dictionary, during the context."""
    with (
        mock.patch.object(gathering.Gathered, "add_plain", lambda self, table, *_: np.arange(len(table))),
        mock.patch.object(formats, "_parse_block", return_value=None),
    ):
        yield


@contextlib.contextmanager
def in_pieces() -> Iterator[None]:
    """Makes the reader use chunks of a few rows, during the context."""
    small = {"CHUNK_ROWS": 7, "SLICE_ROWS": 3, "PEEKED": 5, "CHUNK_BYTES": 2**14}
    with mock.patch.multiple(formats, **small), mock.patch.object(gathering, "CHUNK_ROWS", 7):
        yield


def _difference(first: PreferenceData | UserError, second: PreferenceData | UserError) -> str | None:
    if isinstance(first, UserError) or isinstance(second, UserError):
        return None if repr(first) == repr(second) else f"{_brief(second)}, not {_brief(first)}"
    for name in ("texts", "names", "counts", "overlap", "notes"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours != theirs:
            return f"{name} {_brief(theirs)}, not {_brief(ours)}"
    for name in SPLITS:
        if not torch.equal(first.splits[name], second.splits[name]):
            return f"the split {name}"
    for field in dataclasses.fields(first.pairs):
        ours, theirs = (getattr(each.pairs, field.name) for each in (first, second))
        if not np.array_equal(ours.numpy(), theirs.numpy(), equal_nan=ours.is_floating_point()):
            return f"{field.name} {theirs.tolist()}, not {ours.tolist()}"
    return None


def _brief(value: Any) -> str:
    shown = f"error: {value}" if isinstance(value, UserError) else repr(value)
    return shown if len(shown) < 400 else f"{shown[:400]} ..."


def _check(draft: Draft, data: PreferenceData) -> None:
    """Compares the data read with the records from which the files were generated."""
    wanted = [*draft.train, *draft.test]
    found = list(_records(data))
    assert len(found) == len(wanted), f"{len(found)} pairs, not {len(wanted)}"
    for number, (ours, theirs) in enumerate(zip(wanted, found, strict=True)):
        prompt = with_criterion(ours.prompt, ours.criterion)
        ours = ours._replace(prompt=prompt, criterion=None, pair_id=None, label_id=None)  # now in the prompt
        if ours.source is None:
            ours = ours._replace(source="pairs")
        for name in Record._fields:
            mine, other = getattr(ours, name), getattr(theirs, name)
            close = name == "rating_gap" and None not in (mine, other) and math.isclose(mine, other, rel_tol=1e-6)
            assert mine == other or close, f"pair {number}: {name} is {_brief(other)}, not {_brief(mine)}"
    counts = data.counts["pairs"]
    for name, number in draft.counts.items():
        assert getattr(counts, name) == number, f"{name}: {getattr(counts, name)}, not {number}"
    _check_splits(draft, data)


def _check_splits(draft: Draft, data: PreferenceData) -> None:
    rows = {name: data.splits[name].tolist() for name in SPLITS}
    assert sorted(itertools.chain(*rows.values())) == list(range(len(data.pairs))), "splits are no partition"
    if draft.test:
        assert rows["test"] == list(range(len(draft.train), len(data.pairs))), (
            "test rows are not those of the test file"
        )
    if draft.by_prompt:
        sides: dict[Any, set[str]] = {}
        for name in SPLITS[: 2 if draft.test else 3]:
            for row in rows[name]:
                sides.setdefault(draft.train[row].prompt, set()).add(name)
        assert all(len(each) == 1 for each in sides.values()), "a prompt is on two sides"
        if len(sides) >= len(SPLITS):
            assert all(rows.values()), f"a split is empty: { {name: len(each) for name, each in rows.items()} }"


def _records(data: PreferenceData) -> Iterator[Record]:
    """Converts pairs to records; the prompt includes the criterion."""
    pairs = data.pairs
    for row in range(len(pairs)):
        context, chosen, rejected = (data.texts[at] for at in pairs.triplets_N3[row].tolist())
        labels = {
            name: data.names[name][code] if code >= 0 else None
            for name, code in zip(LABELS, pairs.labels_NC[row].tolist(), strict=True)
            if name != "pair_id"
        }
        gap, shown = float(pairs.rating_gap_N[row]), int(pairs.first_shown_N[row])
        yield Record(
            context.prompt,
            chosen.response,
            rejected.response,
            rating_gap=None if math.isnan(gap) else gap,
            first_shown=None if shown < 0 else bool(shown),
            **labels,
        )
        assert context.response is None, "a context with a response"
        assert chosen.prompt == rejected.prompt, "two responses to two prompts"
