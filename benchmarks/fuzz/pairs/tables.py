"""Writes rows (dictionaries) to a file or folder of every kind that can be read."""

import csv
import gzip
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

datasets.disable_progress_bars()

Rows = Sequence[dict[str, Any]]

NESTED = ("jsonl", "json", "json of lines", "jsonl.gz", "json.zst", "parquet", "saved")
CSVS = ("csv", "tsv", "csv.gz", "tsv.zst", "csv with ;", "csv with tabs")
KINDS = (*NESTED, *CSVS)


def ending(kind: str) -> str:
    """Suffix of a file of a kind; empty for a folder."""
    return "" if kind == "saved" else f".{kind.split()[0]}"


def write(path: Path, rows: Rows, kind: str, chance: random.Random) -> None:
    """Writes rows to a file of a kind; details of the format are random."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "parquet":
        _parquet(path, rows, chance)
    elif kind == "saved":
        datasets.Dataset.from_list(list(rows)).save_to_disk(str(path))
    elif kind in CSVS:
        packed(path, table(rows, kind, chance))
    elif kind in ("json", "json.zst"):
        text = json.dumps(list(rows), indent=chance.choice((None, 2)))
        packed(path, _mark(chance) + text.encode())
    else:
        packed(path, lines(rows, chance))


def packed(path: Path, content: bytes) -> None:
    """Writes bytes, compressed according to the suffix of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".gz"):
        content = gzip.compress(content)
    if path.name.endswith(".zst"):
        with pyarrow.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes(content)


def lines(rows: Rows, chance: random.Random) -> bytes:
    """JSON lines with, at random, Windows line ends, blank lines, or no last newline."""
    end = chance.choice(("\n", "\n", "\r\n"))
    is_ascii, mixed, blank = (chance.random() < 0.4 for _ in range(3))
    written = []
    for row in rows:
        items = list(row.items())
        if mixed:
            chance.shuffle(items)
        line = json.dumps(dict(items), ensure_ascii=is_ascii)
        is_half = any("\ud800" <= char <= "\udfff" for char in line)
        written.append(json.dumps(dict(items)) if is_half else line)
        if blank and chance.random() < 0.2:
            written.append("")
    return _mark(chance) + (end.join(written) + end * chance.randrange(2)).encode()


def table(rows: Rows, kind: str, chance: random.Random) -> bytes:
    """A table of text: null is an empty cell, lists and objects are JSON."""
    delimiter = ";" if ";" in kind else "\t" if "tab" in kind or kind.startswith("tsv") else ","
    names = list(dict.fromkeys(name for row in rows for name in row))
    if delimiter != "," and not kind.startswith("tsv"):
        assert not any("," in name for name in names)
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    everywhere = any("\r" in cell or "\n" in cell for row in cells for cell in row) or chance.random() < 0.3
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if everywhere else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=chance.choice(("\n", "\r\n")), quoting=quoting)
    writer.writerows([names, *cells])
    return _mark(chance) + text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _mark(chance: random.Random) -> bytes:
    """A byte order mark, or none."""
    return b"\xef\xbb\xbf" if chance.random() < 0.3 else b""


def _parquet(path: Path, rows: Rows, chance: random.Random) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    made = pyarrow.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    style = chance.choice(("", "large", "dictionary"))
    for at, field in enumerate(made.schema):
        if style and field.type == pyarrow.string():
            kind = pyarrow.large_string() if style == "large" else pyarrow.dictionary(pyarrow.int32(), field.type)
            made = made.set_column(at, field.name, made[field.name].cast(kind))
    pyarrow.parquet.write_table(
        made, path, row_group_size=chance.choice((3, 1000)), compression=chance.choice(("snappy", "zstd", "none"))
    )
