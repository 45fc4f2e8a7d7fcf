"""Data sources: pairs from files or hub data sets, single or mixed. `load(seed)` returns `PreferenceData`.

Dimension letters: N records, P prompts or other keys of a split.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Predicate
from numpy.typing import NDArray
from pydantic import Field

from micro_lit.config.predicates import is_function
from micro_lit.data.columns import Columns, joined
from micro_lit.data.counts import Counts
from micro_lit.data.gathering import Gathered
from micro_lit.data.layouts import Layout, LayoutRow, LeftOut
from micro_lit.data.leaks import LEAKS, Leak, check_overlap
from micro_lit.data.mapping import ColumnMap
from micro_lit.data.messages import BadRow
from micro_lit.data.pairs import PreferenceData, from_columns
from micro_lit.data.parsed import content_digest, through_cache
from micro_lit.data.reader import Reader, check_reader, identity
from micro_lit.data.readers import Rows, has_split
from micro_lit.data.records import Record
from micro_lit.data.sides import SplitBy, sides, unanimous
from micro_lit.data.splits import SPLITS
from micro_lit.data.verdicts import Coding
from micro_lit.errors import UserError
from micro_lit.ranges import Count, Share

CRITERIA = ("given", "hidden", "shuffled")
MAX_LISTED, BAD_ROW_EXAMPLES = 20, 3
TRAIN = SPLITS.index("train")


LayoutOrNone = Annotated[
    Layout | None,
    Predicate(is_function),
    Field(description="null, or an object with a _target_ and _partial_: true (as in conf/data/rpr.yaml)"),
]


class PairFiles:
    """One data set of pairs, split into train, validation and test.

    Args:
        name: of the set in tables; also the `source` of rows without one.
        train, test: file, folder or hub id. Without `test`, the test split of the `train` folder is used if it has one,
            else a share of the prompts in `train` is held out.
        reader: a `micro_lit.data.reader.Reader` for an additional file format.
        layout, test_layout: convert raw rows of `train` and `test` to our columns (`micro_lit.data.layouts`);
            test_layout defaults to layout.
        columns: our column -> column of the file, where the names differ. `meta.group` reads a field of a JSON column;
            null leaves a column unread. Two responses and a verdict are `first`, `second` and `winner`.
        winner: meaning of the verdict's values, such as {0: first, 1: second, 2: tie}, or {negative: first, positive:
            second} for a signed strength; null if they are names such as a, model_b or tie.
        train_split, test_split, subset, revision: splits, configuration and commit of a folder or hub data set.
        split_by: rows with the same value stay in one split when validation (and test) rows are cut from `train`.
            prompt: rows of one prompt. pair_id: rows of one pair, identified by its two responses if it has no id.
            response: the responses of each user are split, so that no user is tested on a response that was in training
            labels of that user; rows whose responses are in two splits are left out and counted. Choose models of
            people on such splits: preferring A to B and B to C already predicts A against C.
        validation_fraction, test_fraction: shares that are cut; test_fraction only applies without `test`.
        on_bad_row: "error" stops after listing all invalid rows by kind of error; "skip" leaves them out.
        leak: action when test rows are training rows. error: stop if more than half are, or if train and test are the
            same file, else warn. warn: only warn. allow: no action. They are always counted.
        ties: "drop" or "keep" rows with a rating gap of zero; they are always counted.
        unanimous: "drop" leaves out (and counts) training pairs that are judged under every attribute of the training
            rows, without ties and always with the same winner (MiCRo's construction of HelpSteer2).
        criteria: criteria in contexts. given: each row's own. hidden: none, but attributes remain. shuffled: criteria
            and attributes are permuted within each split with the seed, a control under which a model that reads them
            must fail. Rows, splits and order are the same in all three cases.
        criterion_of: attribute -> sentence, the criterion of rows that have an attribute but no criterion.
        limit: read only this many rows of `train` (and of `test`), for quick trials.
        cache_dir: folder for parsed records of large files, which are then parsed only once; null turns it off.

    Raises:
        UserError: for settings out of range, or when train and test are the same file.
    """

    def __init__(
        self,
        name: str,
        train: str,
        test: str | None = None,
        reader: Any = None,
        layout: LayoutOrNone = None,
        test_layout: LayoutOrNone = None,
        columns: Mapping[str, str | None] | None = None,
        winner: Coding | None = None,
        train_split: str = "train",
        test_split: str = "test",
        subset: str | None = None,
        revision: str | None = None,
        split_by: SplitBy = "prompt",
        validation_fraction: Share = 0.05,
        test_fraction: Share = 0.1,
        on_bad_row: Literal["error", "skip"] = "error",
        leak: Leak = "error",
        ties: Literal["drop", "keep"] = "drop",
        unanimous: Literal["drop", "keep"] = "keep",
        criteria: str = "given",
        criterion_of: Mapping[str, str] | None = None,
        limit: Count | None = None,
        cache_dir: str | None = None,
    ) -> None:
        _check_path("train", train)
        if test is not None:
            _check_path("test", test)
        if reader is not None:
            check_reader(reader)
        self.name = name
        self.train = train
        self.test = train if test is None and has_split(train, test_split, reader) else test
        self.reader: Reader | None = reader
        self.layout = layout
        self.test_layout = layout if test_layout is None else test_layout
        self.map = ColumnMap(columns, winner)
        self.train_split, self.test_split = train_split, test_split
        self.subset, self.revision = subset, revision
        self.split_by = split_by
        self.validation_fraction, self.test_fraction = validation_fraction, test_fraction
        self.on_bad_row = on_bad_row
        self.leak = leak
        self.ties = ties
        self.unanimous = unanimous
        self.criteria = criteria
        self.criterion_of = criterion_of
        self.limit = limit
        self.cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
        if criteria not in CRITERIA:
            raise UserError(f"data.criteria={criteria} is for planted populations; give one of {', '.join(CRITERIA)}")
        if leak not in LEAKS:
            raise UserError(f"data.leak={leak} is not allowed; give one of {', '.join(LEAKS)}")
        two_parts = self.test == train and train_split != test_split and has_split(train, test_split, reader)
        if self.test is not None and leak == "error" and not two_parts and _are_one_file(train, self.test):
            raise UserError(
                f"{train}: train and test are one file; set data.test=null to hold out prompts for the test, or "
                "data.leak=allow if this is meant"
            )

    def load(self, seed: int) -> PreferenceData:
        columns, split_N, counts = self.columns(seed)
        return with_leak_note(self.name, from_columns(columns, split_N, {self.name: counts}), self.leak)

    def read(self, seed: int) -> tuple[list[Record], list[str], Counts]:
        """All records as a list, the split of each, and the row counts."""
        columns, split_N, counts = self.columns(seed)
        return columns.records(), [SPLITS[split] for split in split_N.tolist()], counts

    def columns(self, seed: int) -> tuple[Columns, NDArray[np.int8], Counts]:
        """All records, the index of each record's split in `SPLITS`, and the row counts.

        Raises:
            UserError: when data cannot be read, or no training row is left.
        """
        counts = Counts(drops_ties=self.ties == "drop")
        columns = self._read(self.train, self.train_split, self.layout, counts)
        test_fraction = self.test_fraction if self.test is None else 0.0
        split_N = sides(columns, self.split_by, seed, test_fraction, self.validation_fraction)
        if outside := int((split_N < 0).sum()):
            counts.left_out["its two responses are on two sides"] += outside
            columns, split_N = columns.take(split_N >= 0), split_N[split_N >= 0]
        if not (split_N == TRAIN).any():
            raise UserError(
                f"{self.train}: no row is left to train on: all {len(columns)} are in validation or test, because rows "
                "of one prompt stay in one split; set data.split_by=pair_id, or give rows of more prompts"
            )
        if self.unanimous == "drop":
            agreed_N = unanimous(columns, split_N == TRAIN)
            counts.left_out["all attributes agree on the pair"] += int(agreed_N.sum())
            columns, split_N = columns.take(~agreed_N), split_N[~agreed_N]
            if not (split_N == TRAIN).any():
                raise UserError(f"{self.train}: the attributes agree on every pair; set data.unanimous=keep")
        if self.test is not None:
            test = self._read(self.test, self.test_split, self.test_layout, counts)
            columns = joined([columns, test])
            split_N = np.concatenate([split_N, np.full(len(test), SPLITS.index("test"), dtype=np.int8)])
        return self._set_criteria(columns, split_N, seed), split_N, counts

    def _read(self, path: str, split: str, layout: Layout | None, counts: Counts) -> Columns:
        """Reads the records of a path, through the cache, and adds its row counts to `counts`."""
        rows = Rows(path, split, self.subset, self.revision, self.reader)
        spec = {
            "split": split, "columns": self.map.columns, "winner": self.map.winner and list(self.map.winner.items()),
            "name": self.name, "on_bad_row": self.on_bad_row, "ties": self.ties, "limit": self.limit,
        }  # fmt: skip
        ours = layout is None or getattr(layout, "func", layout).__module__.startswith("micro_lit.")
        folder = self.cache_dir if ours else None  # changes in the code of another package would go unnoticed
        if self.reader is not None:
            spec["reader"] = identity(self.reader)
            folder = folder if self.reader.version is not None else None
        if layout is not None:
            spec["layout"] = repr([getattr(layout, "func", layout).__qualname__, getattr(layout, "keywords", {})])
        columns, found = through_cache(folder, rows.files, spec, lambda: self._parse(path, rows, layout))
        counts.add(found)
        return columns

    def _parse(self, path: str, rows: Rows, layout: Layout | None) -> tuple[Columns, Counts]:
        counts, gathered = Counts(drops_ties=self.ties == "drop"), Gathered()
        if layout is not None:
            each_row = itertools.chain.from_iterable(rows.chunks())
            for number, (place, row) in enumerate(layout(each_row)):
                if self._take(place, row, number, gathered, counts):
                    break
        else:
            self._read_chunks(path, rows, gathered, counts)
        if counts.dropped and self.on_bad_row == "error":
            raise UserError(_bad_rows(counts))
        columns = gathered.columns().with_default("source", self.name)
        tie_N = columns.gap_N == 0.0
        counts.ties += int(tie_N.sum())
        if self.ties == "drop" and tie_N.any():
            columns = columns.take(~tie_N)
        if not len(columns):
            first = f"; the first dropped: {counts.reasons[0]}" if counts.reasons else ""
            raise UserError(
                f"{path}: no usable rows ({counts.rows} read, {counts.dropped} dropped, {counts.ties} ties, "
                f"{counts.left_out.total()} left out){first}"
            )
        return columns, counts

    def _read_chunks(self, path: str, rows: Rows, gathered: Gathered, counts: Counts) -> None:
        """Reads rows without a layout: plain rows in whole columns, the rest row by row."""
        found = rows.columns
        if found:
            self.map.check(path, found)
            counts.unread = self.map.unread(found)
        plain = self.map.plain(found) if self.limit is None else None
        number = 0
        for chunk in rows.chunks(self.map.wanted(found) | self.map.late(found)):
            rest = np.arange(len(chunk.rows))
            if plain is not None and not isinstance(chunk.rows, Sequence):
                rest = gathered.add_plain(chunk.rows, plain, number)
                counts.rows += len(chunk.rows) - len(rest)
            some = chunk if len(rest) == len(chunk.rows) else chunk.take(rest.tolist())
            for at, (place, row) in zip(rest.tolist(), some, strict=True):
                if self._take(place, row, number + at, gathered, counts, found):
                    return
            number += len(chunk.rows)

    def _take(
        self,
        place: str,
        row: LayoutRow,
        number: int,
        gathered: Gathered,
        counts: Counts,
        found: Sequence[str] = (),
    ) -> bool:
        """Adds a row to the records, or counts it as bad or left out; returns whether the limit is reached."""
        counts.rows += 1
        if isinstance(row, LeftOut):
            counts.left_out[row.reason] += 1
            return False
        try:
            if isinstance(row, BadRow):
                raise row
            record = self.map.record(row, found)
        except (BadRow, RecursionError) as error:
            if not isinstance(error, BadRow):
                error = BadRow("a value is nested too deeply")
            counts.dropped += 1
            counts.kinds[error.kind] += 1
            if counts.kinds[error.kind] <= BAD_ROW_EXAMPLES and len(counts.reasons) < MAX_LISTED:
                counts.reasons.append(f"{place}: {error}")
            return False
        gathered.add(number, record)
        if self.limit is None:
            return False
        return len(gathered.others) - (0 if self.ties == "keep" else gathered.ties) == self.limit

    def _set_criteria(self, columns: Columns, split_N: NDArray[np.int8], seed: int) -> Columns:
        """Applies the settings `criterion_of` and `criteria` to the criteria of all records."""
        criterion_N, attribute_N = columns.codes["criterion"], columns.codes["attribute"]
        if self.criterion_of is not None:
            named = columns.values["attribute"]
            open_N = (criterion_N < 0) & (attribute_N >= 0)
            missing = {named[code] for code in np.unique(attribute_N[open_N])} - set(self.criterion_of)
            if missing:
                raise UserError(f"{self.name}: data.criterion_of has no sentence for {', '.join(sorted(missing))}")
            known = {sentence: code for code, sentence in enumerate(columns.values["criterion"])}
            of = [known.setdefault(self.criterion_of.get(name), len(known)) for name in named]
            sentences = list(known)
            filled_N = np.array([*of, -1], dtype=np.int64)[attribute_N]
            columns = dataclasses.replace(columns, values=columns.values | {"criterion": sentences})
            criterion_N = np.where(open_N, filled_N, criterion_N)
        if self.criteria == "hidden":
            criterion_N = np.full_like(criterion_N, -1)
        if self.criteria == "shuffled":
            generator = np.random.default_rng([seed, 1])  # separate, so that rows and splits are unchanged
            criterion_N, attribute_N = criterion_N.copy(), attribute_N.copy()
            for split in range(len(SPLITS)):
                rows = np.flatnonzero(split_N == split)
                drawn = generator.permutation(rows)
                criterion_N[rows], attribute_N[rows] = criterion_N[drawn], attribute_N[drawn]
        return columns.with_codes(criterion=criterion_N, attribute=attribute_N)


def _check_path(setting: str, path: Any) -> None:
    if not isinstance(path, str) or not path.strip():
        empty = "; is a variable of the shell empty?" if path == "" else ""
        raise UserError(f"data.{setting}={path!r} is not allowed; give the path of a file or folder{empty}")


def with_leak_note(name: str, data: PreferenceData, leak: Leak) -> PreferenceData:
    note = check_overlap(name, data.overlap, leak)
    return data if note is None else dataclasses.replace(data, notes=(*data.notes, note))


def _bad_rows(counts: Counts) -> str:
    """One-line summary of all bad rows: the first one, then the number of each kind with examples of row numbers."""
    if counts.dropped == 1:
        return f"{counts.reasons[0]}; mend it or set data.on_bad_row=skip"
    kinds = []
    for kind, number in counts.kinds.most_common():
        places = [reason.split(": ")[0].rpartition(", ")[2] for reason in counts.reasons if f": {kind}" in reason]
        kinds.append(f"{number:,} x {kind} ({', '.join(places)}{', ...' if number > len(places) else ''})")
    return (
        f"{counts.reasons[0]}; {counts.dropped:,} of {counts.rows:,} rows are bad: {'; '.join(kinds)}. Mend them or "
        "set data.on_bad_row=skip"
    )


def _are_one_file(train: str, test: str) -> bool:
    """Whether two paths are files of the same content."""
    paths = [Path(path).expanduser() for path in (train, test)]
    try:
        if not all(path.is_file() for path in paths) or len({path.stat().st_size for path in paths}) > 1:
            return False
        return content_digest(paths[0]) == content_digest(paths[1])
    except OSError:
        return False  # reading the files reports the error later
