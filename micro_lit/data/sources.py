"""Sources of real pairs: files or hub data sets, one at a time or mixed. `load(seed)` gives `PreferenceData`."""

import functools
import gc
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from micro_lit.data.layouts import Judgment, Layout, LeftOut
from micro_lit.data.pairs import SPLITS, Counts, PreferenceData, from_records, hashed_fraction
from micro_lit.data.readers import has_split, read_rows
from micro_lit.data.records import FIELDS, BadRow, Message, Record, parse_record
from micro_lit.errors import UserError

Split = Literal["train", "validation", "test"]
Judged = tuple[tuple[Message, ...], frozenset[str]]

CRITERIA = ("given", "hidden", "shuffled")
MAX_LISTED = 20


def _uncollected(load: Callable[..., PreferenceData]) -> Callable[..., PreferenceData]:
    """Loads without looking for garbage: rows make none, and to look takes longer the more rows are there."""

    @functools.wraps(load)
    def uncollected(*arguments: Any, **settings: Any) -> PreferenceData:
        collects = gc.isenabled()
        gc.disable()
        try:
            return load(*arguments, **settings)
        finally:
            if collects:
                gc.enable()

    return uncollected


class PairFiles:
    """One set of pairs, split by prompt.

    name: what tables call the set; also the `source` of rows that name none.
    train, test: file, folder or hub id. Without `test` it is the folder's own test part, when `train` is a folder that
        has one; otherwise a share of the prompts in `train` is set aside for it.
    layout: brings raw rows to our columns (micro_lit.data.layouts); test_layout: that of `test`, where it is another.
    columns: our column -> theirs, for the columns whose names differ; `meta.group` reads a field of a JSON column.
    split_by: rows that agree in this column stay on one side when validation (and test) rows are cut from `train`.
        response: every user's responses are put on a side, so that whoever is judged was never heard on either of the
        two; rows whose responses are on two sides are left out, and counted. So are models of people to be chosen: who
        prefers A to B and B to C need not be asked about A and C.
    validation_fraction, test_fraction: the shares cut; test_fraction only applies without `test`.
    on_bad_row: "error" stops at the first row that breaks the contract; "skip" counts and lists such rows.
    ties: "drop" or "keep" rows whose rating gap is zero; either way they are counted.
    unanimous: "drop" leaves out of the training rows, and counts, pairs on which every attribute of the training rows
        has a judgment that is no tie, and all the same one (MiCRo's construction of HelpSteer2).
    criteria: what contexts hold of criteria. given: each its row's own. hidden: nothing, but attributes stay. shuffled:
        criteria, and the attributes that name their kind, are permuted over the rows of a split with the seed, which a
        model that reads them must not survive. Rows, their splits and their order are the same under all three.
    criterion_of: attribute -> sentence: the criterion of rows that name an attribute and no criterion.
    limit: read only this many rows of `train` (and of `test`), for quick looks.
    """

    def __init__(
        self,
        name: str,
        train: str,
        test: str | None = None,
        layout: Layout | None = None,
        test_layout: Layout | None = None,
        columns: Mapping[str, str] | None = None,
        train_split: str = "train",
        test_split: str = "test",
        subset: str | None = None,
        revision: str | None = None,
        split_by: Literal["prompt", "pair_id", "response"] = "prompt",
        validation_fraction: float = 0.05,
        test_fraction: float = 0.1,
        on_bad_row: Literal["error", "skip"] = "error",
        ties: Literal["drop", "keep"] = "drop",
        unanimous: Literal["drop", "keep"] = "keep",
        criteria: str = "given",
        criterion_of: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> None:
        self.name = name
        self.train = train
        self.test = train if test is None and has_split(train, test_split) else test
        self.layout = layout
        self.test_layout = layout if test_layout is None else test_layout
        self.columns = dict(columns or {})
        self.train_split, self.test_split = train_split, test_split
        self.subset, self.revision = subset, revision
        self.split_by = split_by
        self.validation_fraction, self.test_fraction = validation_fraction, test_fraction
        self.on_bad_row = on_bad_row
        self.ties = ties
        self.unanimous = unanimous
        self.criteria = criteria
        self.criterion_of = criterion_of
        self.limit = limit
        unknown = set(self.columns) - set(FIELDS)
        if unknown:
            raise UserError(f"data.columns names {sorted(unknown)}; our columns are {', '.join(FIELDS)}")
        if criteria not in CRITERIA:
            raise UserError(f"data.criteria={criteria} is for planted populations; give one of {', '.join(CRITERIA)}")
        if self.test == train and Path(train).expanduser().is_file():
            raise UserError(
                f"{train}: train and test are one file; set data.test=null to set prompts aside for the test"
            )

    @_uncollected
    def load(self, seed: int) -> PreferenceData:
        records, splits, counts = self.read(seed)
        return from_records(records, splits, {self.name: counts})

    def read(self, seed: int) -> tuple[list[Record], list[Split], Counts]:
        """All records with their split. Raises `UserError` for what cannot be read, and when no train row is left."""
        counts = Counts(drops_ties=self.ties == "drop")
        records = self._records(self.train, self.train_split, self.layout, counts)
        test_fraction = self.test_fraction if self.test is None else 0.0
        places = [self._cut(record, seed, test_fraction) for record in records]
        records = [record for record, place in zip(records, places, strict=True) if place is not None]
        splits = [place for place in places if place is not None]
        if len(records) < len(places):
            counts.left_out["its two responses are on two sides"] += len(places) - len(records)
        if "train" not in splits:
            raise UserError(
                f"{self.train}: no row is left to train on, all {len(records)} fell to validation or test; "
                "lower data.validation_fraction and data.test_fraction, or set data.split_by=pair_id"
            )
        if self.unanimous == "drop":
            agreed = _unanimous([record for record, split in zip(records, splits, strict=True) if split == "train"])
            rows = [row for row, split in enumerate(splits) if split != "train" or _pair(records[row]) not in agreed]
            counts.left_out["all attributes agree on the pair"] += len(records) - len(rows)
            records, splits = [records[row] for row in rows], [splits[row] for row in rows]
            if "train" not in splits:
                raise UserError(f"{self.train}: the attributes agree on every pair; set data.unanimous=keep")
        if self.test is not None:
            test_records = self._records(self.test, self.test_split, self.test_layout, counts)
            records += test_records
            splits += ["test"] * len(test_records)
        return self._tell_criteria(records, splits, seed), splits, counts

    def _records(self, path: str, split: str, layout: Layout | None, counts: Counts) -> list[Record]:
        records = []
        known: dict[Any, Any] = {}  # texts occur in many rows, and each is to be held once
        rows = read_rows(path, split, self.subset, self.revision)
        for place, row in rows if layout is None else layout(rows):
            counts.rows += 1
            if isinstance(row, LeftOut):
                counts.left_out[row.reason] += 1
                continue
            try:
                record = self._record(row)
            except BadRow as error:
                if self.on_bad_row == "error":
                    raise UserError(f"{place}: {error}; mend it or set on_bad_row=skip") from error
                counts.dropped += 1
                if len(counts.reasons) < MAX_LISTED:
                    counts.reasons.append(f"{place}: {error}")
                continue
            if record.rating_gap == 0.0:
                counts.ties += 1
                if self.ties == "drop":
                    continue
            records.append(Record._make(map(known.setdefault, record, record)))
            if self.limit is not None and len(records) == self.limit:
                break
        if not records:
            first = f"; the first dropped: {counts.reasons[0]}" if counts.reasons else ""
            raise UserError(
                f"{path}: no usable rows ({counts.rows} read, {counts.dropped} dropped, {counts.ties} ties, "
                f"{sum(counts.left_out.values())} left out){first}"
            )
        return records

    def _record(self, row: Judgment) -> Record:
        if isinstance(row, BadRow):
            raise row
        renamed = {ours: _column(row, ours, theirs) for ours, theirs in self.columns.items()}
        record = parse_record({**row, **renamed})
        return record if record.source is not None else record._replace(source=self.name)

    def _cut(self, record: Record, seed: int, test_fraction: float) -> Split | None:
        """The side that a row is on; None where its responses are on two."""
        if self.split_by == "response":
            keys = [f"{record.user_id} {record.prompt!r} {text}" for text in (record.chosen, record.rejected)]
        elif self.split_by == "pair_id" and record.pair_id is not None:
            keys = [record.pair_id]
        else:
            keys = [repr(record.prompt)]
        sides = {self._side(hashed_fraction(key, seed), test_fraction) for key in keys}
        return sides.pop() if len(sides) == 1 else None

    def _side(self, place: float, test_fraction: float) -> Split:
        if place < test_fraction:
            return "test"
        return "validation" if place < test_fraction + self.validation_fraction else "train"

    def _tell_criteria(self, records: list[Record], splits: list[Split], seed: int) -> list[Record]:
        """The records with the criterion that `criterion_of` and `criteria` leave them."""
        if self.criteria == "given" and self.criterion_of is None:
            return records
        told = [(record.criterion, record.attribute) for record in records]
        if self.criterion_of is not None:
            named = {record.attribute for record in records if record.criterion is None} - {None}
            if missing := named - set(self.criterion_of):
                raise UserError(f"{self.name}: data.criterion_of has no sentence for {', '.join(sorted(missing))}")
            told = [(criterion or self.criterion_of.get(attribute), attribute) for criterion, attribute in told]
        if self.criteria == "hidden":
            told = [(None, attribute) for _, attribute in told]
        if self.criteria == "shuffled":
            generator = np.random.default_rng([seed, 1])  # of its own: the rows are those of the other settings
            for name in SPLITS:
                rows = [row for row, split in enumerate(splits) if split == name]
                drawn = [told[row] for row in generator.permutation(rows)]
                for row, wish in zip(rows, drawn, strict=True):
                    told[row] = wish
        return [
            record._replace(criterion=criterion, attribute=attribute)
            for record, (criterion, attribute) in zip(records, told, strict=True)
        ]


class Mixture:
    """Several sets in one, by weight.

    sets: name -> set.
    sizes: train rows to take from each set, null for all it has; or instead
    weights: share of each set among `size` train rows (they are normalised to sum to one).
    Rows are drawn without replacement, and again from the start when a set has fewer rows than asked for; the draw
    depends on the seed alone. Validation and test rows of all sets are kept whole.
    """

    def __init__(
        self,
        sets: Mapping[str, PairFiles],
        sizes: Mapping[str, int | None] | None = None,
        weights: Mapping[str, float] | None = None,
        size: int | None = None,
    ) -> None:
        self.sets = dict(sets)
        if (sizes is None) == (weights is None) or (weights is None) != (size is None):
            raise UserError("data: give either sizes (rows per set), or weights and the total size")
        shares = sizes if weights is None else weights
        numbers = [1 if share is None and weights is None else share for share in shares.values()]
        if set(shares) != set(self.sets) or min(numbers) < 0 or sum(numbers) <= 0:
            raise UserError(
                f"data: sizes or weights must name {', '.join(self.sets)} and be at least 0; they are {dict(shares)}"
            )
        self.sizes = dict(sizes) if weights is None else _apportion(weights, size)

    @_uncollected
    def load(self, seed: int) -> PreferenceData:
        records, splits, sets, counts = [], [], [], {}
        for number, (name, source) in enumerate(self.sets.items()):
            set_records, set_splits, counts[name] = source.read(seed)
            generator = np.random.default_rng([seed, number])
            train = [record for record, split in zip(set_records, set_splits, strict=True) if split == "train"]
            wanted = len(train) if self.sizes[name] is None else self.sizes[name]
            drawn = [train[row] for row in _cycle(len(train), wanted, generator)]
            kept = [pair for pair in zip(set_records, set_splits, strict=True) if pair[1] != "train"]
            records += drawn + [record for record, _ in kept]
            splits += ["train"] * len(drawn) + [split for _, split in kept]
            sets += [number] * (len(drawn) + len(kept))
        return from_records(records, splits, counts, sets)


def _pair(record: Record) -> Judged:
    """What a record judges, whichever of the two responses it chose."""
    return record.prompt, frozenset((record.chosen, record.rejected))


def _unanimous(records: Sequence[Record]) -> set[Judged]:
    """The pairs that every attribute of the records judges, and all judge alike. A tie is no judgment."""
    verdicts = defaultdict(set)
    for record in records:
        if record.rating_gap != 0.0:
            verdicts[_pair(record)].add((record.attribute, record.chosen))
    attributes = {record.attribute for record in records}
    return {
        pair
        for pair, found in verdicts.items()
        if {attribute for attribute, _ in found} == attributes and len({chosen for _, chosen in found}) == 1
    }


def _column(row: Mapping[str, Any], ours: str, theirs: str) -> Any:
    """The value of a column, or of a field inside a column that holds an object or its JSON text."""
    if theirs in row:
        return row[theirs]
    column, _, field = theirs.partition(".")
    if not field or column not in row:
        raise BadRow(f"no column {theirs!r}, which data.columns.{ours} names; it has {', '.join(row)}")
    try:
        value = json.loads(row[column]) if isinstance(row[column], str) else row[column]
    except ValueError as error:
        raise BadRow(f"column {column!r}, of which data.columns.{ours} reads a field, is not JSON ({error})") from error
    if value is not None and not isinstance(value, Mapping):
        raise BadRow(f"column {column!r}, of which data.columns.{ours} reads a field, holds no object")
    return None if value is None else value.get(field)


def _apportion(weights: Mapping[str, float], size: int) -> dict[str, int]:
    """Whole numbers of rows that sum to `size` and are nearest to the weights (largest remainders)."""
    exact = {name: size * weight / sum(weights.values()) for name, weight in weights.items()}
    sizes = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: sizes[name] - exact[name])
    for name in by_remainder[: size - sum(sizes.values())]:
        sizes[name] += 1
    return sizes


def _cycle(num_rows: int, wanted: int, generator: np.random.Generator) -> list[int]:
    """`wanted` rows out of `num_rows`: permutation after permutation, cut at the end."""
    passes = -(-wanted // num_rows)
    return [row for _ in range(passes) for row in generator.permutation(num_rows).tolist()][:wanted]
