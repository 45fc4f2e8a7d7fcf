"""File formats: reads rows from parquet, JSON and CSV files in columnar chunks, with file and row for errors."""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from micro_lit.data.messages import BadRow, listed
from micro_lit.errors import UserError

Row = tuple[str, dict[str, Any] | BadRow]

JSON_LINES, JSON, CSV, PARQUET = ".jsonl", ".json", (".csv", ".tsv"), ".parquet"
COMPRESSED = ("", ".gz", ".zst")
ENDINGS = (PARQUET, *(kind + packed for kind in (JSON_LINES, JSON, *CSV) for packed in COMPRESSED))
READABLE = (
    "a .parquet, .jsonl, .json, .csv or .tsv file (all but the first also with .gz or .zst), or a folder of them or of "
    "arrow files"
)

CHUNK_ROWS = 2**16
CHUNK_BYTES = 2**24
SLICE_ROWS = 2**10  # rows of a chunk that are converted to dictionaries at once
PEEKED = 100  # rows read in advance to find the columns of a JSON file


@dataclass(frozen=True)
class Chunk:
    """A chunk of consecutive rows.

    Attributes:
        name: of their file or data set.
        numbers: row numbers in it, from 1.
        rows: an Arrow table, or a list of dictionaries and bad rows.
    """

    name: str
    numbers: Sequence[int]
    rows: "pyarrow.Table | Sequence[dict[str, Any] | BadRow]"

    def place(self, at: int) -> str:
        return f"{self.name}, row {self.numbers[at]}"

    def take(self, at: Sequence[int]) -> "Chunk":
        """Selects rows by index."""
        places = pyarrow.array(at, pyarrow.int64())
        if isinstance(self.rows, pyarrow.Table):
            try:
                rows = self.rows.take(places)
            except pyarrow.ArrowNotImplementedError:  # Arrow cannot take from string views
                rows = [_row_of(self.rows.slice(each, 1)) for each in at]
        else:
            rows = [self.rows[each] for each in at]
        return dataclasses.replace(self, numbers=[self.numbers[each] for each in at], rows=rows)

    def __iter__(self) -> Iterator[Row]:
        if not isinstance(self.rows, pyarrow.Table):
            yield from zip(map(self.place, range(len(self.rows))), self.rows, strict=True)
            return
        for first in range(0, len(self.rows), SLICE_ROWS):
            some = self.rows.slice(first, SLICE_ROWS)
            try:
                rows = some.to_pylist()
            except UnicodeDecodeError:
                rows = [_row_of(some.slice(at, 1)) for at in range(len(some))]
            yield from ((self.place(first + at), row) for at, row in enumerate(rows))


def _row_of(table: pyarrow.Table) -> dict[str, Any] | BadRow:
    try:
        return table.to_pylist()[0]
    except UnicodeDecodeError as error:
        return BadRow("a text is no UTF-8", str(error))


@contextlib.contextmanager
def readable(path: Path | str, what: str = "cannot be read") -> Iterator[None]:
    """Context manager that converts read errors to a `UserError` of one line with the path."""
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        shown = path if len(str(path)) < 500 else f"{str(path)[:200]} ..."
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise UserError(f"{shown}: {what} ({reason:.300})") from error


def source_of(path: Path) -> "_Parquet | _JsonLines | _Json | _Csv":
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if path.name.endswith(PARQUET):
        return _Parquet(path)
    if name.endswith(JSON_LINES):
        return _JsonLines(path)
    if name.endswith(JSON):
        return _Json(path) if _first_byte(path) == b"[" else _JsonLines(path)
    if name.endswith(CSV):
        return _Csv(path, "\t" if name.endswith(".tsv") else ",")
    raise UserError(f"{path}: unknown kind of file; give {READABLE}")


def _first_byte(path: Path) -> bytes:
    with readable(path), _stream(path) as file:
        return file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _stream(path: Path) -> io.BufferedReader:
    return io.BufferedReader(pyarrow.input_stream(path, compression="detect"))


def _check_names(path: Path, columns: Sequence[str]) -> None:
    if len(set(columns)) < len(columns):
        raise UserError(f"{path}: two columns have one name; the columns are {listed(columns)}")


def is_text(kind: pyarrow.DataType) -> bool:
    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind)


class _Parquet:
    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path, "not a readable parquet file"), pyarrow.parquet.ParquetFile(path) as file:
            self.columns = file.schema_arrow.names
        _check_names(path, self.columns)

    def chunks(self, wanted: Collection[str] | None) -> Iterator[Chunk]:
        columns = [name for name in self.columns if wanted is None or name in wanted]
        first = 1
        with (
            readable(self.path, "not a readable parquet file"),
            pyarrow.parquet.ParquetFile(self.path) as file,
        ):
            for batch in file.iter_batches(CHUNK_ROWS, columns=columns):
                yield Chunk(str(self.path), range(first, first + len(batch)), pyarrow.Table.from_batches([batch]))
                first += len(batch)


class _JsonLines:
    """JSON lines: text and number columns are parsed in large blocks by Arrow, everything else line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path), _stream(path) as file:
            lines = itertools.islice((line for line in file if line.strip()), PEEKED)
            self._peeked = [row for row in map(_parse_line, lines) if not isinstance(row, BadRow)]
        self.columns = list(dict.fromkeys(name for row in self._peeked for name in row))

    def chunks(self, wanted: Collection[str] | None) -> Iterator[Chunk]:
        schema = None if wanted is None else self._schema(wanted)
        first = 1
        with readable(self.path), _stream(self.path) as file:
            for block in _blocks(file):
                lines = int(np.count_nonzero(np.frombuffer(block, np.uint8) == 10)) + (not block.endswith(b"\n"))
                table = None if schema is None else _parse_block(block, schema, lines)
                if table is not None:
                    table = table.select([name for name in table.column_names if name in self.columns])
                    yield Chunk(str(self.path), range(first, first + lines), table)
                else:
                    found = [
                        (number, _parse_line(line))
                        for number, line in enumerate(block.split(b"\n"), start=first)
                        if line.strip()
                    ]
                    yield Chunk(str(self.path), [number for number, _ in found], [row for _, row in found])
                first += lines

    def _schema(self, wanted: Collection[str]) -> pyarrow.Schema | None:
        """Arrow types of the wanted columns; None if any of them holds anything but text or numbers."""
        fields = {}
        for name in wanted:
            kinds = {type(row[name]) for row in self._peeked if row.get(name) is not None}
            if name not in self.columns:
                fields[name] = pyarrow.null()  # a later block with this column fails here and is parsed line by line
            elif kinds <= {str}:
                fields[name] = pyarrow.string()
            elif kinds == {int}:
                fields[name] = pyarrow.int64()
            elif kinds <= {int, float}:
                fields[name] = pyarrow.float64()
            else:
                return None
        return pyarrow.schema(fields)


def _blocks(file: io.BufferedReader) -> Iterator[bytes]:
    """Blocks of about `CHUNK_BYTES` that end at a line break."""
    start = file.read(3).removeprefix(b"\xef\xbb\xbf")
    while block := start + file.read(CHUNK_BYTES) + file.readline():
        yield block
        start = b""


def _parse_block(block: bytes, schema: pyarrow.Schema, lines: int) -> pyarrow.Table | None:
    """Parses a block with Arrow; None if any line is not an object with these types."""
    try:
        block.decode()  # Arrow does not check the encoding of names and unread fields
        table = pyarrow.json.read_json(
            pyarrow.py_buffer(block),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except (pyarrow.ArrowException, UnicodeDecodeError):
        return None
    return table if len(table) == lines else None


def _parse_line(line: bytes) -> dict[str, Any] | BadRow:
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:  # broken JSON or UTF-8, too many digits, too deep nesting
        return BadRow("broken JSON line", str(error))
    return row if isinstance(row, dict) else BadRow("the line holds no object", f"it holds {type(row).__name__}")


class _Json:
    """A .json file that contains a list of rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with readable(path), _stream(path) as file:
                found = json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: broken JSON ({' '.join(str(error).split()):.300})") from error
        bad = (BadRow("an item of the list is no object", f"it is of type {type(row).__name__}") for row in found)
        self.rows = [row if isinstance(row, dict) else wrong for row, wrong in zip(found, bad, strict=True)]
        self.columns = list(dict.fromkeys(name for row in self.rows if isinstance(row, dict) for name in row))

    def chunks(self, wanted: Collection[str] | None) -> Iterator[Chunk]:
        yield Chunk(str(self.path), range(1, len(self.rows) + 1), self.rows)


class _Csv:
    """A CSV or TSV table; every cell is read as text."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self.path = path
        with readable(path), _stream(path) as file:
            start = file.peek(2**16)[: 2**16].decode("utf-8-sig", errors="replace")
            if delimiter == "," and "," not in (first := start.partition("\n")[0]):
                # Spreadsheets use ";" where the comma is the decimal separator; some .csv files are tab-separated.
                delimiter = next((other for other in ";\t" if other in first), delimiter)
            lines = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
            try:
                self.columns = next(csv.reader(lines, delimiter=delimiter), [])
            except csv.Error as error:
                raise UserError(f"{path}: the first line names no columns ({error})") from error
            self.is_empty = not lines.read(2**16).strip()
        self.delimiter = delimiter
        _check_names(path, self.columns)

    def _open(self, bad: list[Any]) -> pyarrow.csv.CSVStreamingReader:
        def skip(row: pyarrow.csv.InvalidRow) -> str:
            bad.append(row)
            return "skip"

        return pyarrow.csv.open_csv(
            pyarrow.input_stream(self.path, compression="detect"),
            pyarrow.csv.ReadOptions(use_threads=False, block_size=4 * CHUNK_BYTES),
            pyarrow.csv.ParseOptions(
                delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=skip, ignore_empty_lines=True
            ),
            pyarrow.csv.ConvertOptions(
                # `Chunk` turns invalid UTF-8 into bad rows.
                column_types=dict.fromkeys(self.columns, pyarrow.string()),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )

    def _check_quotes(self, batch: pyarrow.RecordBatch) -> None:
        """Raises `UserError` for an unclosed quote, after which all rows would be read as one cell."""
        last = batch.column(batch.num_columns - 1).slice(max(len(batch) - 1, 0))
        if not is_text(last.type) or not any(b"\n" in each for each in last.cast(pyarrow.binary()).to_pylist()):
            return
        with _stream(self.path) as file:
            quotes = sum(piece.count(b'"') for piece in iter(lambda: file.read(CHUNK_BYTES), b""))
        if quotes % 2:
            raise UserError(f"{self.path}: a quote is opened and never closed; close it, or double those in a text")

    def chunks(self, wanted: Collection[str] | None) -> Iterator[Chunk]:
        if self.is_empty:
            return
        bad: list[Any] = []
        next_number, reported = 1, 0
        columns = [name for name in self.columns if wanted is None or name in wanted]
        with readable(self.path, "not a readable table"), self._open(bad) as file:
            for batch in file:
                skipped = {row.number - 1 for row in bad}  # Arrow counts the header as a row
                free = (number for number in itertools.count(next_number) if number not in skipped)
                numbers = list(itertools.islice(free, len(batch)))
                next_number = numbers[-1] + 1 if numbers else next_number
                self._check_quotes(batch)
                yield Chunk(str(self.path), numbers, pyarrow.Table.from_batches([batch]).select(columns))
                yield self._bad_rows(bad[reported:])
                reported = len(bad)
        yield self._bad_rows(bad[reported:])  # bad rows at the end of the file

    def _bad_rows(self, rows: Sequence[Any]) -> Chunk:
        kind = f"a row has not the {len(self.columns)} cells of the header"
        wrong = [BadRow(kind, f"it has {row.actual_columns}") for row in rows]
        return Chunk(str(self.path), [row.number - 1 for row in rows], wrong)


class Dataset:
    """A data set of the `datasets` library, from the hub or from a folder written by `save_to_disk`."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.name, self.dataset, self.columns = name, dataset, dataset.column_names

    def chunks(self, wanted: Collection[str] | None) -> Iterator[Chunk]:
        columns = [name for name in self.columns if wanted is None or name in wanted]
        first = 1
        with readable(self.name):
            for table in self.dataset.select_columns(columns).with_format("arrow").iter(CHUNK_ROWS):
                yield Chunk(self.name, range(first, first + len(table)), table)
                first += len(table)
