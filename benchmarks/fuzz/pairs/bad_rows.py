"""Invalid rows, and broken lines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from benchmarks.fuzz.pairs import tables
from benchmarks.fuzz.pairs.drafts import Chance, Draft, bytes_of, fails, file_of, passes
from benchmarks.fuzz.pairs.rows import (
    records,
    rows_of,
    size,
)

BAD_ROWS: dict[str, dict[str, Any]] = {
    "equal responses": {"chosen": "the same", "rejected": "the same"},
    "no prompt": {"prompt": None},
    "no response": {"chosen": None},
    "an empty response": {"chosen": ""},
    "an empty prompt": {"prompt": ""},
    "white space": {"rejected": " \n\t "},
    "Unicode white space": {"rejected": "\u2003\u3000\xa0\u2028\x85\x1c\x1f"},
    "a prompt of white space": {"prompt": "\u2009 \x0b\x0c"},
    "a number as response": {"chosen": 7},
    "a list of texts as response": {"chosen": ["a"]},
    "JSON lists of texts": {"prompt": '["a", "b"]', "chosen": '["c", "d"]', "rejected": '["e", "f"]'},
    "a lone surrogate": {"chosen": "\ud800 half"},
    "a lone surrogate in the prompt": {"prompt": "half \udfff"},
    "a lone surrogate in a user": {"user_id": "\udc00"},
}


def bad_rows(chance: Chance) -> Draft:
    """Invalid rows among valid ones."""
    what = chance.choice(list(BAD_ROWS))
    change = BAD_ROWS[what]
    is_text = all(value is None or isinstance(value, str) for value in change.values())
    kinds = ("jsonl", "json", "jsonl.gz") if not is_text or "surrogate" in what else tables.KINDS
    kind = chance.choice(kinds)
    known = records(chance, size(chance), plain=chance.random() < 0.5)
    bad = {chance.randrange(len(known)) for _ in range(chance.choice((1, 3, 30)))} - {0, 1, 2, 3}
    bad = bad or {5}
    rows = [row | change if number in bad else row for number, row in enumerate(rows_of(known))]
    write, named = file_of(rows, kind, chance)
    good = [record for number, record in enumerate(known) if number not in bad]
    if chance.random() < 0.5:
        counts = {"rows": len(rows), "dropped": len(bad)}
        return passes(f"{what} in {kind}, skipped", write, named, "data.on_bad_row=skip", train=good, counts=counts)
    return fails(f"{what} in {kind}", "row ", write, named)


def broken_lines(chance: Chance) -> Draft:
    """Broken lines of JSON, or broken rows of a table."""
    known = records(chance, size(chance), plain=True)
    is_table = chance.random() < 0.4
    lines = (tables.table(rows_of(known), "csv", chance) if is_table else tables.lines(rows_of(known), chance)).split(
        b"\n"
    )
    lines = [line for line in lines if line.strip()]
    at = chance.randrange(1 + is_table, len(lines))
    what = chance.choice(
        ("few", "many", "bytes")
        if is_table
        else ("cut", "bytes", "list", "text", "two", "comma", "deep", "number", "key")
    )
    new = {
        "few": b"one,two", "many": b"a,b,c,d,e", "cut": b'{"prompt": "a", "chosen": ', "list": b"[1, 2]",
        "text": b'"text"',
        "bytes": lines[at].replace(b"a" if b"o" not in lines[at] else b"o", b"\xff", 1),
        "two": b'{"prompt": "a"}{"prompt": "b"}', "comma": b'{"prompt": "a",}', "deep": b"[" * 100_000,
        "number": b'{"prompt": ' + b"1" * 5000 + b"}", "key": b"{prompt: a}",
    }[what]  # fmt: skip
    added = what != "bytes"
    if added:
        lines.insert(at, new)
    else:
        lines[at] = new
    write, named = bytes_of(
        f"a.{'csv' if is_table else 'jsonl'}{chance.choice(('', '.gz', '.zst'))}", b"\n".join(lines)
    )
    rows = at - is_table
    train = known if added else [*known[:rows], *known[rows + 1 :]]
    if chance.random() < 0.4:
        counts = {"rows": len(known) + added, "dropped": 1}
        return passes(f"{what} at {at}, skipped", write, named, "data.on_bad_row=skip", train=train, counts=counts)
    return fails(f"{what} at {at} of {'csv' if is_table else 'jsonl'}", f"row {rows + 1}", write, named)


def parquet_bytes(chance: Chance) -> Draft:
    """Texts in a parquet file that are not UTF-8."""
    known = records(chance, size(chance), plain=True)
    at, name = chance.randrange(4, len(known)), chance.choice(("prompt", "chosen", "rejected"))
    columns = {each: [row[each].encode() for row in rows_of(known)] for each in ("prompt", "chosen", "rejected")}
    columns[name][at] = b"\xff\xfe broken"

    def write(own: Chance, folder: Path) -> None:
        arrays = []
        for values in columns.values():
            binary = pyarrow.array(values, pyarrow.binary())
            arrays.append(pyarrow.StringArray.from_buffers(len(binary), *binary.buffers()[1:]))
        made = pyarrow.table(dict(zip(columns, arrays, strict=True)))
        pyarrow.parquet.write_table(made, folder / "a.parquet", use_dictionary=own.random() < 0.5)

    if chance.random() < 0.5:
        train = [*known[:at], *known[at + 1 :]]
        counts = {"rows": len(known), "dropped": 1}
        return passes(
            f"{name} no UTF-8, skipped",
            write,
            "data.train=a.parquet",
            "data.on_bad_row=skip",
            train=train,
            counts=counts,
        )
    return fails(f"{name} no UTF-8", "UTF-8", write, "data.train=a.parquet")


def odd_json(chance: Chance) -> Draft:
    """Valid but unusual JSON."""
    known = records(chance, chance.choice((size(chance), 250)), plain=True)
    written = []
    train = []
    what = chance.choice(
        (
            "twice",
            "deep",
            "NaN",
            "escapes",
            "late column",
            "number keys",
            "half a name",
            "huge float",
            "spaces",
            "int then text",
        )
    )
    for number, (record, row) in enumerate(zip(known, rows_of(known), strict=True)):
        line = json.dumps(row)
        if what == "twice":  # Python's json keeps the last of equal keys
            line = line.replace('{"prompt"', '{"chosen": "another", "prompt"', 1)
        elif what == "deep":
            depth = chance.choice((10, 200, 900))
            line = line[:-1] + f', "notes": {"[" * depth}{"]" * depth}}}'
        elif what == "NaN":
            line = line[:-1] + f', "rating_gap": {chance.choice(("NaN", "null", "NaN"))}}}'
        elif what == "escapes":
            line = "".join(
                f"\\u{ord(char):04x}" if char.isalpha() and in_text else char for char, in_text in _inside(line)
            )
        elif what == "late column" and number > len(known) // 2:
            line = line[:-1] + f', "user_id": "u{number % 3}"}}'
            record = record._replace(user_id=f"u{number % 3}")
        elif what == "number keys":
            line = line[:-1] + f', "": 1, " ": 2, "a.b": {number}}}'
        elif what == "half a name":
            line = line[:-1] + ', "\\ud800": 1, "two\\nlines": 2}'
        elif what == "huge float":
            line = line[:-1] + f', "notes": 1e999, "more": {"9" * 400}}}'
        elif what == "spaces":
            line = f"  {line.replace(': ', '  : ')}\t "
        elif what == "int then text":
            user = number if number < 5 else f"u{number % 3}"
            line = line[:-1] + f', "user_id": {json.dumps(user)}}}'
            record = record._replace(user_id=str(user))
        written.append(line)
        train.append(record)
    write, named = bytes_of("a.jsonl", "\n".join(written).encode())
    return passes(what, write, named, train=train)


def _inside(line: str) -> Sequence[tuple[str, bool]]:
    """Characters of a JSON object, each with whether it is inside a string; never for a line with escapes."""
    found, inside = [], False
    for char in line:
        if char == '"':
            inside = not inside
        found.append((char, inside and char != '"' and "\\" not in line))
    return found
