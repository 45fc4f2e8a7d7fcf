"""What `python -m benchmarks fuzz` has found in the readers of pairs: each test fails without its mend."""

import json
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from micro_lit.data import parsed
from micro_lit.data.formats import PEEKED
from micro_lit.data.messages import Message
from micro_lit.data.readers import Rows
from micro_lit.data.records import BadRow
from micro_lit.data.sources import PairFiles
from micro_lit.data.verdicts import verdict_of
from micro_lit.errors import UserError


def row(number, **changes):
    return {"prompt": f"Question {number}?", "chosen": f"Yes {number}.", "rejected": "No.", **changes}


def written(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return str(path)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Loads a file twice: the second time its records come from the cache."""
    monkeypatch.setattr(parsed, "LEAST_BYTES", 0)

    def load(path, **settings):
        source = PairFiles("mine", path, cache_dir=str(tmp_path / "cache"), **settings)
        first, second = source.load(0), source.load(0)
        assert list((tmp_path / "cache").glob("*.arrow"))
        return first, second

    return load


def test_counts_of_bad_rows_are_kept_in_the_cache(tmp_path, cached):
    path = written(tmp_path / "a.jsonl", [row(0), row(1, chosen="No."), row(2), row(3)])
    for data in cached(path, on_bad_row="skip"):
        counts = data.counts["mine"]
        assert (counts.rows, counts.dropped, len(counts.reasons)) == (4, 1, 1)
        assert counts.kinds == Counter({"chosen and rejected are the same text": 1})


def test_prompts_with_the_marks_of_joined_turns_are_kept_in_the_cache(tmp_path, cached):
    prompts = ["\x1eone", "two", "\x1euser\x1fthree", "four"]
    path = written(tmp_path / "a.jsonl", [row(0, prompt=prompt) for prompt in prompts])
    for data in cached(path):
        assert [data.texts[at].prompt for at in data.pairs.context_N.tolist()] == [
            (Message("user", prompt),) for prompt in prompts
        ]


def test_a_cell_that_is_no_utf8_is_one_bad_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"prompt,chosen,rejected\na,b,c\nd,caf\xe9,f\ng,h,i\nj,k,l\n")
    assert [type(each) for chunk in Rows(str(path)).chunks() for _, each in chunk] == [dict, BadRow, dict, dict]
    with pytest.raises(UserError, match=r"a\.csv, row 2: a text is no UTF-8"):
        PairFiles("mine", str(path)).load(0)
    assert len(PairFiles("mine", str(path), on_bad_row="skip").load(0).pairs) == 3


def test_a_line_of_json_that_is_no_utf8_is_a_bad_row_wherever_that_is(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row(number)).encode() for number in range(3)]
    path.write_bytes(b"\n".join([*lines, lines[0][:-1] + b', "note": "\xff"}']))
    with pytest.raises(UserError, match="row 4: broken JSON line"):
        PairFiles("mine", str(path)).load(0)


@pytest.mark.parametrize("path", ["hf://datasets/", "hf://datasets/nobody", "hf://datasets/nobody/"])
def test_half_the_id_of_a_hub_data_set_is_refused(path):
    with pytest.raises(UserError, match="names no hub data set"):
        Rows(path)


@pytest.mark.parametrize(
    ("value", "coding"),
    [
        ("true", {True: "first", False: "second"}),
        ("True", {True: "first", False: "second"}),
        ("1.0", {1: "first", 0: "second"}),
        (" 1", {1: "first", 0: "second"}),
        (1, {"1": "first", "0": "second"}),
        (1.0, {"1": "first", "0": "second"}),
        ("YES", {"yes": "first", "no": "second"}),
        ("b", {"B": "second", "b": "first"}),
    ],
)
def test_a_coding_holds_for_its_values_however_a_table_spells_them(value, coding):
    assert verdict_of(value, coding) == ("first", None)


@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        ({"rating_gap": 10**400}, "'rating_gap' is no finite number"),
        ({"rating_gap": "x" * 10_000}, "'rating_gap' is no finite number"),
        ({"prompt": [{"role": "x" * 10_000, "content": "a"}]}, "has a role that is unknown"),
        (
            {"prompt": [{"role": "user", "content": "a", "tool_calls": json.loads("[" * 900 + "]" * 900)}]},
            "a value is nested too deeply",
        ),
        ({"prompt": "[{'role': 'user', 'content': 'a', 'tool_calls': [{1}]}]"}, "has calls of tools that are no JSON"),
        ({"prompt": [{"role": "tool", "content": "a", "tool_call_id": "\ud800"}]}, "holds a lone surrogate"),
    ],
)
def test_odd_values_are_bad_rows_that_are_named_in_a_short_line(tmp_path, changes, trouble):
    path = written(tmp_path / "a.jsonl", [row(0), row(1, **changes), row(2), row(3)])
    with pytest.raises(UserError, match=rf"row 2: .*{trouble}") as caught:
        PairFiles("mine", path).load(0)
    assert len(str(caught.value)) < 500 + len(path)


@pytest.mark.parametrize("value", [10**400, ["a"], {"a": 1}])
def test_what_is_neither_a_value_nor_a_strength_is_no_verdict(value):
    for coding in (None, {"negative": "first", "positive": "second"}, {1: "first", 0: "second"}):
        with pytest.raises(BadRow):
            verdict_of(value, coding)


def test_a_field_of_json_that_is_nested_too_deeply_is_a_bad_row(tmp_path):
    path = written(tmp_path / "a.jsonl", [row(number, meta="[" * 100_000) for number in range(4)])
    with pytest.raises(UserError, match="row 1: column 'meta'"):
        PairFiles("mine", path, columns={"group": "meta.group"}).load(0)


def test_a_list_without_messages_is_an_empty_prompt_in_parquet_too(tmp_path):
    prompts = [[], *([{"role": "user", "content": f"Question {number}?"}] for number in range(4))]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row(0, prompt=prompt) for prompt in prompts]), path)
    with pytest.raises(UserError, match="row 1: the prompt is empty"):
        PairFiles("mine", str(path)).load(0)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_conversations_are_read_where_a_row_has_no_prompt(tmp_path, ending):
    asked = [{"from": "human", "value": "And this?"}]
    rows = [row(number, conversations=None) for number in range(3)] + [row(3, prompt=None, conversations=asked)]
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        written(path, rows)
    data = PairFiles("mine", str(path)).load(0)
    assert data.counts["mine"].unread == []
    assert data.texts[int(data.pairs.context_N[-1])].prompt == (Message("user", "And this?"),)


def test_columns_that_come_late_in_a_file_are_read(tmp_path):
    rows = [row(number, **({} if number < PEEKED + 9 else {"user_id": f"u{number}"})) for number in range(PEEKED + 19)]
    data = PairFiles("mine", written(tmp_path / "a.jsonl", rows)).load(0)
    assert data.names["user_id"] == [each["user_id"] for each in rows[PEEKED + 9 :]]
    gaps = [row(number, **({} if number < PEEKED + 9 else {"rating_gap": 0})) for number in range(PEEKED + 19)]
    assert PairFiles("mine", written(tmp_path / "b.jsonl", gaps)).load(0).counts["mine"].ties == 10


def test_names_of_columns_are_shown_on_one_line(tmp_path):
    path = written(tmp_path / "a.jsonl", [row(number, **{"\ud800": 1, "a\nb": 2, "c" * 500: 3}) for number in range(4)])
    assert PairFiles("mine", path).load(0).counts["mine"].unread == ["\\ud800", "a b", f"{'c' * 60} ..."]
    table = tmp_path / "a.csv"
    table.write_text(f'"a\nb",{"c" * 500},d\n1,2,3\n')
    with pytest.raises(UserError, match=rf"it has a b, {'c' * 60} \.\.\., d\."):
        PairFiles("mine", str(table)).load(0)


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        (b"x" * 500_000 + b",chosen,rejected\na,b,c\n", "the first line names no columns"),
        (b'prompt,chosen,rejected\na,b,c\nd,e,"f\ng,h,i\nj,k,l\n', "a quote is opened and never closed"),
    ],
)
def test_a_table_with_a_broken_header_or_quote_is_refused(tmp_path, content, trouble):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=trouble):
        PairFiles("mine", str(path)).load(0)


def test_newlines_and_quotes_in_a_last_cell_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt,chosen,rejected\na,b,c\nd,e,f\ng,h,"i ""j""\nk"\n')
    data = PairFiles("mine", str(path)).load(0)
    assert data.texts[int(data.pairs.rejected_N[-1])].response == 'i "j"\nk'


def test_two_columns_of_one_name_are_refused_in_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    names = ["prompt", "chosen", "rejected", "chosen"]
    pyarrow.parquet.write_table(pyarrow.table([["a"], ["b"], ["c"], ["d"]], names=names), path)
    with pytest.raises(UserError, match="two columns have one name"):
        PairFiles("mine", str(path)).load(0)


def test_string_views_are_read_row_by_row_where_some_rows_are_not_plain(tmp_path):
    path = tmp_path / "a.parquet"
    table = pyarrow.Table.from_pylist([row(0), row(1, prompt='["a" '), row(2, chosen="No.")])
    users = pyarrow.array(["ann", "bob", "eve"], pyarrow.string_view())
    pyarrow.parquet.write_table(table.append_column("user_id", users), path)
    assert PairFiles("mine", str(path), on_bad_row="skip").load(0).names["user_id"] == ["ann", "bob"]


def test_a_limit_counts_rows_that_are_no_ties(tmp_path):
    rows = [row(number, rating_gap=number % 2) for number in range(20)]
    path = written(tmp_path / "a.jsonl", rows)
    for ties, read in (("drop", 10), ("keep", 5)):
        data = PairFiles("mine", path, limit=5, ties=ties).load(0)
        assert (len(data.pairs), data.counts["mine"].rows) == (5, read)
