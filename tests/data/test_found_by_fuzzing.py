"""What `python -m benchmarks fuzz` has found in the readers of pairs: each test fails without its mend."""

import json
from collections import Counter

import pytest

from micro_lit.data import parsed
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
