"""Columns of labels, rating gaps, scores and verdicts, and columns with other names."""

import datetime
import decimal
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from benchmarks.fuzz.pairs import tables
from benchmarks.fuzz.pairs.drafts import Chance, Draft, fails, file_of, passes, warns
from benchmarks.fuzz.pairs.rows import (
    TEXT_COLUMNS,
    json_text,
    records,
    row_of,
    rows_of,
    size,
)
from micro_lit.data.records import SCORE_COLUMNS


def users(chance: Chance) -> Draft:
    """User ids as text, integers and floats, with missing values."""
    style = chance.choice(("text", "zeros", "whole", "float", "huge", "mixed", "text and null", "categories"))
    kind = chance.choice(("jsonl", "json", "jsonl.gz") if style in ("huge", "mixed") else tables.KINDS)
    known, rows = [], []
    for record in records(chance, size(chance)):
        number = chance.randrange(1, 9)
        value: Any = {
            "text": f"u{number}", "zeros": f"00{number}", "whole": number, "float": float(number),
            "categories": f"c{number}", "huge": 10 ** chance.choice((17, 18, 19, 20, 30)) + number,
            "text and null": chance.choice((None, "", " ", f"u{number}")),
            "mixed": chance.choice((number, str(number), f"u{number}", None, float(number))),
        }[style]  # fmt: skip
        if style in ("whole", "float") and chance.random() < 0.2:
            value = None
        named = None if value is None or (isinstance(value, str) and not value.strip()) else str(value)
        if isinstance(value, float):
            named = str(int(value))
            if kind in tables.CSVS:  # a table contains only text
                value, named = str(number), str(number)
        known.append(record._replace(user_id=named))
        rows.append(row_of(record) | {"user_id": value})
    write, named = file_of(rows, kind, chance)
    return passes(f"{style} users in {kind}", write, named, train=known)


def bad_labels(chance: Chance) -> Draft:
    """Invalid values of labels."""
    name = chance.choice(("user_id", "group", "attribute", "pair_id", "criterion"))
    value = chance.choice((1.5, True, [1], ["a"], {"a": 1}, [], 0.1))
    known = records(chance, size(chance), plain=True)
    rows = [row_of(record) | {name: value} for record in known]
    if isinstance(value, dict | list) and chance.random() < 0.3:
        for row in rows[::2]:
            row[name] = None
    kind = chance.choice(("jsonl", "json") if value == [] else ("jsonl", "json", "parquet"))
    write, named = file_of(rows, kind, chance)
    if chance.random() < 0.3:
        return passes(f"{name}={value!r} unread", write, named, f"+data.columns.{name}=null", train=known)
    return fails(f"{name}={value!r} in {kind}", "no text, whole number or null", write, named)


def types_of_parquet(chance: Chance) -> Draft:
    """User ids of all types of parquet."""

    known = records(chance, size(chance), plain=True)
    number = [chance.randrange(1, 99) for _ in known]
    good: dict[str, tuple[pyarrow.DataType, Callable[[int], Any], Callable[[int], str]]] = {
        "int8": (pyarrow.int8(), int, str),
        "uint64": (pyarrow.uint64(), lambda each: 2**64 - each, lambda each: str(2**64 - each)),
        "float32": (pyarrow.float32(), float, str),
        "large": (pyarrow.float64(), lambda each: each * 1e17, lambda each: str(int(each * 1e17))),
        "dictionary": (pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), "u{}".format, "u{}".format),
        "string view": (pyarrow.string_view(), "u{}".format, "u{}".format),
        "nulls": (pyarrow.null(), lambda each: None, lambda each: None),
    }  # fmt: skip
    bad: dict[str, tuple[pyarrow.DataType, Callable[[int], Any]]] = {
        "binary": (pyarrow.binary(), lambda each: b"u%d" % each),
        "decimal": (pyarrow.decimal128(9, 2), lambda each: decimal.Decimal(each) / 4),
        "date": (pyarrow.date32(), lambda each: datetime.date(2024, 1, 1 + each % 28)),
        "time": (pyarrow.timestamp("ms"), lambda each: datetime.datetime(2024, 1, 1 + each % 28)),
        "list": (pyarrow.list_(pyarrow.string()), lambda each: [f"u{each}"]),
        "bool": (pyarrow.bool_(), lambda each: each % 2 == 0),
        "fractions": (pyarrow.float64(), lambda each: each + 0.5),
    }
    if chance.random() < 0.6:
        what = chance.choice(list(good))
        kind, make, shown = good[what]
        known = [record._replace(user_id=shown(each)) for record, each in zip(known, number, strict=True)]
    else:
        what = chance.choice(list(bad))
        kind, make = bad[what]
    made = pyarrow.Table.from_pylist(rows_of(known)).append_column(
        "user_id", pyarrow.array([make(each) for each in number], kind)
    )

    def write(own: Chance, folder: Path) -> None:
        pyarrow.parquet.write_table(made, folder / "pairs.parquet")

    if what in good:
        return passes(f"users of type {what}", write, "data.train=pairs.parquet", train=known)
    return fails(f"users of type {what}", "'user_id' is no text", write, "data.train=pairs.parquet")


GOOD_GAPS: tuple[tuple[Any, float | None], ...] = (
    (1, 1.0), (2.5, 2.5), ("1", 1.0), ("1.5", 1.5), (" 2 ", 2.0), ("1e2", 100.0), ("", None), ("nan", None),
    ("NaN", None), (" ", None), (None, None), (math.nan, None), ("+3", 3.0), (".5", 0.5), ("007", 7.0), (1e-3, 1e-3),
    (0.1, 0.1),
)  # fmt: skip
BAD_GAPS = (
    "high", "1,5", True, "inf", math.inf, "1e40", 1e40, [1], {"a": 1}, "1.5 points", "--1", "0x10", -1, "-2",
    10**400, "x" * 10_000, json.loads("[" * 900 + "]" * 900),
)  # fmt: skip


def gaps(chance: Chance) -> Draft:
    """Rating gaps as numbers and text, with ties."""
    keep, typed = chance.random() < 0.5, chance.choice(("text", "number", "mixed"))
    kind = chance.choice(("jsonl", "json") if typed == "mixed" else tables.KINDS)
    pool = [
        each
        for each in (*GOOD_GAPS, (0, 0.0), ("0", 0.0), ("-0", 0.0), (0.0, 0.0))
        if (typed == "mixed" or each[0] is None or isinstance(each[0], str) == (typed == "text"))
        and not (kind in tables.CSVS and isinstance(each[0], float) and math.isnan(each[0]))
    ]
    known, rows = [], []
    for record in records(chance, size(chance)):
        value, gap = chance.choice(pool)
        if kind in ("parquet", "saved") and isinstance(value, int):
            value = float(value)
        rows.append(row_of(record) | {"rating_gap": value})
        known.append(record._replace(rating_gap=gap))
    kept = [record for record in known if keep or record.rating_gap != 0]
    counts = {"rows": len(rows), "ties": sum(record.rating_gap == 0 for record in known)}
    write, named = file_of(rows, kind, chance)
    ties = f"data.ties={'keep' if keep else 'drop'}"
    return passes(f"{typed} gaps in {kind}, {ties}", write, named, ties, train=kept, counts=counts)


def bad_gaps(chance: Chance) -> Draft:
    """Invalid rating gaps."""
    value = chance.choice(BAD_GAPS)
    is_json = isinstance(value, list | dict) or value == 10**400 or chance.random() < 0.5
    kind = chance.choice(("jsonl", "json") if is_json else tables.KINDS)
    known = records(chance, size(chance), plain=True)
    every = kind in ("parquet", "saved")
    bad = [every or chance.random() < 0.3 for _ in known]
    bad[chance.randrange(len(bad))] = True
    rows = [row_of(each) | ({"rating_gap": value} if wrong else {}) for each, wrong in zip(known, bad, strict=True)]
    write, named = file_of(rows, kind, chance)
    good = [record for record, wrong in zip(known, bad, strict=True) if not wrong]
    if len(good) >= 6 and chance.random() < 0.5:
        counts = {"rows": len(rows), "dropped": sum(bad)}
        return passes(f"gap {value!r:.30} skipped", write, named, "data.on_bad_row=skip", train=good, counts=counts)
    return fails(f"gap {value!r:.30} in {kind}", "rating_gap", write, named)


def scores(chance: Chance) -> Draft:
    """Columns with a score of each response."""
    names = chance.choice(SCORE_COLUMNS)
    style, kind = chance.choice(("whole", "float", "text")), chance.choice(tables.KINDS)
    below = chance.random() < 0.3
    known, rows = [], []
    for number, record in enumerate(records(chance, size(chance), plain=True)):
        low, gap = chance.randrange(5), chance.choice((0, 1, 2, 3))
        if below and number == 4:
            low, gap = 5, -2
        pair = [low + gap, low]
        if style != "whole":
            pair = [float(each) for each in pair] if style == "float" else [str(each) for each in pair]
        missing = chance.random() < 0.2 and number != 4
        if missing:
            pair[chance.randrange(2)] = None
        rows.append(row_of(record) | dict(zip(names, pair, strict=True)))
        known.append(record._replace(rating_gap=None if missing else float(gap)))
    write, named = file_of(rows, kind, chance)
    if below:
        if chance.random() < 0.3:
            known = [record._replace(rating_gap=None) for record in known]
            return passes(f"{names[0]} unread", write, named, "+data.columns.rating_gap=null", train=known)
        return fails(f"{names[0]} below the other", "is below", write, named)
    counts = {"rows": len(rows), "ties": sum(record.rating_gap == 0 for record in known)}
    train = [record for record in known if record.rating_gap != 0]
    return passes(f"{style} {names[0]} in {kind}", write, named, train=train, counts=counts)


NAMED = (
    ("a", "b", "tie"), ("A", "B", "TIE"), ("model_a", "model_b", "tie (bothbad)"), ("first", "second", "both"),
    ("left", "Right ", "same"),
)  # fmt: skip


def verdicts(chance: Chance) -> Draft:
    """Two responses and a verdict, in every coding."""
    style = chance.choice(("names", "numbers", "floats", "texts", "strength", "bool", "words"))
    kind = chance.choice(tables.KINDS)
    own = chance.random() < 0.5
    first_name, second_name, winner_name = (
        ("first", "second", "winner") if own else ("response_a", "response_b", "label")
    )
    reverse = chance.random() < 0.5
    names = chance.choice(NAMED)
    known, rows = [], []
    for number, record in enumerate(records(chance, size(chance))):
        verdict = number if number < 3 else chance.randrange(3 if style not in ("bool",) else 2)
        if style == "bool" and verdict == 2:
            verdict = 0
        strength, gap = chance.choice((1, 2, 3)), None
        code = verdict if not reverse or verdict == 2 else 1 - verdict
        value = {
            "names": names[verdict], "numbers": code, "floats": float(code), "texts": str(code), "bool": bool(code),
            "words": ("yes", "no", "no idea")[code], "strength": (-strength, strength, 0)[code],
        }[style]  # fmt: skip
        if style == "strength":
            gap = float(strength)
        gap = 0.0 if verdict == 2 else gap
        first, second = (record.chosen, record.rejected) if verdict != 1 else (record.rejected, record.chosen)
        rows.append({"prompt": row_of(record)["prompt"], first_name: first, second_name: second, winner_name: value})
        known.append(record._replace(rating_gap=gap, first_shown=None if verdict == 2 else verdict == 0))
    one, other = ("second", "first") if reverse else ("first", "second")
    coding = {
        "names": None, "numbers": f"{{0: {one}, 1: {other}, 2: tie}}", "floats": f"{{0: {one}, 1: {other}, 2: tie}}",
        "texts": f"{{0: {one}, 1: {other}, 2: tie}}", "words": f"{{yes: {one}, no: {other}, no idea: tie}}",
        "bool": f"{{false: {one}, true: {other}}}", "strength": f"{{negative: {one}, positive: {other}}}",
    }[style]  # fmt: skip
    mapped = () if own else (f"+data.columns={{first: {first_name}, second: {second_name}, winner: {winner_name}}}",)
    write, named = file_of(rows, kind, chance)
    told = () if coding is None else (f"data.winner={coding}",)
    shown = f"{style} {coding or names} in {kind}"
    if told and kind in ("jsonl", "json") and chance.random() < 0.3:
        rows[5][winner_name] = chance.choice((["a"], {"a": 1}, 10**400 if style != "words" else None, "", math.nan))
        write, named = file_of(rows, kind, chance)
        return fails(f"{shown} and a value of another kind", "row 6: ", write, named, *mapped, *told)
    if told and chance.random() < 0.3:
        wrong = chance.choice((None, "{8: first, 9: second}", "{8: left}", "7", "[first, second]", "abc", "{}"))
        given = () if wrong is None else (f"data.winner={wrong}",)
        return fails(f"{shown} with data.winner={wrong}", "winner", write, named, *mapped, *given)
    if not own and chance.random() < 0.2:
        return fails(f"{shown}, columns not named", "data.columns", write, named, *told)
    keep = chance.random() < 0.5
    train = known if keep else [record for record in known if record.rating_gap != 0.0]
    counts = {"rows": len(rows), "ties": sum(record.rating_gap == 0.0 for record in known)}
    ties = f"data.ties={'keep' if keep else 'drop'}"
    return passes(shown, write, named, *mapped, *told, ties, train=train, counts=counts)


OTHER_NAMES = (
    ("question", "better", "worse"),
    ("Prompt", "Chosen", "Rejected"),
    ("a.b", "good", "bad"),
    ("q", "y w", "y_l"),
)


def other_names(chance: Chance) -> Draft:
    """Columns with other names, mapped or not."""
    kind = chance.choice(tables.KINDS)
    theirs = dict(zip(("prompt", "chosen", "rejected"), chance.choice(OTHER_NAMES), strict=True))
    known = records(chance, size(chance), ("user_id",))
    rows = [
        {theirs.get(name, name): value for name, value in row.items()} | {"rater": row["user_id"], "user_id": "nobody"}
        for row in rows_of(known, ("user_id",))
    ]
    write, named = file_of(rows, kind, chance)
    mapping = ", ".join(f"{ours}: {other}" for ours, other in theirs.items())
    way = chance.choice(("mapped", "mapped", "not mapped", "one mapped", "mapped to none", "unknown"))
    if way == "not mapped":
        return fails(f"{theirs} not mapped", "no column", write, named)
    if way == "one mapped":
        return fails(
            f"{theirs}, one mapped", "no column", write, named, f"+data.columns={{chosen: {theirs['chosen']}}}"
        )
    if way == "mapped to none":
        return fails(
            "a column that is not there", "no column 'nix'", write, named, f"+data.columns={{{mapping}, group: nix}}"
        )
    if way == "unknown":
        return fails(
            "a column of ours that is none", "prompts", write, named, f"+data.columns={{{mapping}, prompts: rater}}"
        )
    if chance.random() < 0.3:
        train = [record._replace(user_id=None) for record in known]
        return passes(
            f"{theirs}, users unread", write, named, f"+data.columns={{{mapping}, user_id: null}}", train=train
        )
    return passes(f"{theirs} in {kind}", write, named, f"+data.columns={{{mapping}, user_id: rater}}", train=known)


def fields(chance: Chance) -> Draft:
    """Labels inside a column of objects, or of objects as JSON text."""
    style = chance.choice(("objects", "JSON", "JSON"))
    kind = chance.choice(tables.NESTED if style == "objects" else tables.KINDS)
    known = records(chance, size(chance), ("group",))
    rows = []
    for record in known:
        meta: Any = {"group": record.group, "other": 1}
        rows.append(row_of(record) | {"meta": json_text(meta) if style == "JSON" else meta})
    trouble = chance.choice((None, None, "broken", "no object", "no field"))
    if trouble == "broken" and style == "JSON":
        rows[3]["meta"] = chance.choice(('{"group": ', '{"group": ' + "[" * 10_000))
        write, named = file_of(rows, kind, chance)
        return fails("a field of broken JSON", "is not JSON", write, named, "+data.columns.group=meta.group")
    if trouble == "no object" and style == "JSON":
        rows[3]["meta"] = "[1]"
        write, named = file_of(rows, kind, chance)
        return fails("a field of no object", "holds no object", write, named, "+data.columns.group=meta.group")
    write, named = file_of(rows, kind, chance)
    if trouble == "no field":
        return fails("a field of no column", "no column", write, named, "+data.columns.group=data.group")
    return passes(f"a field of {style} in {kind}", write, named, "+data.columns.group=meta.group", train=known)


def sources(chance: Chance) -> Draft:
    """Source as a list, columns of nulls, columns that are not read."""
    what = chance.choice(("lists", "nulls", "unread", "weights", "images"))
    kind = chance.choice(("jsonl", "json", "parquet", "saved"))
    known = records(chance, size(chance))
    rows = rows_of(known)
    if what == "lists":
        lists = [[f"s{chance.randrange(3)}" for _ in range(chance.randrange(1, 3))] for _ in known]
        rows = [row | {"source": each} for row, each in zip(rows, lists, strict=True)]
        known = [record._replace(source=", ".join(each)) for record, each in zip(known, lists, strict=True)]
    elif what == "nulls":
        names = chance.sample((*TEXT_COLUMNS, "rating_gap", "system", "conversations", "score_chosen"), 4)
        rows = [row | dict.fromkeys(names) for row in rows]
    else:
        extra = {"unread": "notes", "weights": "weight", "images": "images"}[what]
        rows = [
            row | {extra: {"unread": {"deep": [{"a": [1]}]}, "weights": 0.5, "images": ["x.png"]}[what]} for row in rows
        ]
    write, named = file_of(rows, kind, chance)
    notes = {"unread": "columns not read: notes", "weights": "all rows count alike", "images": "text alone"}
    if what in notes:
        return warns(f"{what} in {kind}", notes[what], write, named, train=known)
    return passes(f"{what} in {kind}", write, named, train=known)
