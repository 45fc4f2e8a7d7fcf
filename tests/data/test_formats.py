"""What people have on disk: kinds of files, forms of messages, verdicts, scores, and folders of splits."""

import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from micro_lit.config import build, compose
from micro_lit.data import gathering, parsed
from micro_lit.data.messages import BadRow, Message, canonical
from micro_lit.data.records import parse_record
from micro_lit.data.sources import PairFiles
from micro_lit.data.splits import cut, hashed_fraction, split_of
from micro_lit.data.texts import Text, text_digests
from micro_lit.errors import UserError

WHOLE = {"validation_fraction": 0.0, "test_fraction": 0.0}


def row(number, **changes):
    return {"prompt": f"Question {number}?", "chosen": f"Yes {number}.", "rejected": "No.", **changes}


def records_of(path, **settings):
    return PairFiles("mine", str(path), **WHOLE, **settings).read(0)[0]


def lines(path, rows):
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows))
    return path


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# Files


CELLS = [
    ("prompt", "chosen", "rejected", "user_id"),
    ("Is it so?", "None", "N/A", "001"),
    ('Say "a, b"\nin two lines.', "null", "NaN", "2"),
    ("And?", " yes ", "1.0", ""),
]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";"), ("a.csv.gz", ","), ("bom.csv", ",")]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_table_of_text_stays_text(tmp_path, name, delimiter, newline):
    quoted = ['"' + cell.replace('"', '""') + '"' for cells in CELLS for cell in cells]
    rows = [delimiter.join(quoted[at : at + 4]) for at in range(0, len(quoted), 4)]
    text = (newline.join(rows) + newline).encode("utf-8-sig" if name.startswith("bom") else "utf-8")
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    found = records_of(tmp_path / name)
    assert [(each.prompt[0].content, each.chosen, each.rejected) for each in found] == [each[:3] for each in CELLS[1:]]
    assert [each.user_id for each in found] == ["001", "2", None]


def test_a_row_of_a_table_with_other_cells_than_the_header_is_a_bad_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected\nA?,b,c\nD?,e\nF?,g,h\nI?,,k\n")
    counts = PairFiles("mine", str(path), **WHOLE, on_bad_row="skip").read(0)[2]
    assert (counts.rows, counts.dropped) == (4, 2)
    assert sorted(counts.reasons) == [
        f"{path}, row 2: a row has not the 3 cells of the header (it has 2)",
        f"{path}, row 4: 'chosen' is empty",
    ]


def test_bad_rows_that_no_good_row_follows_are_counted_too(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected\na,b\nc,d,e,f\n")
    with pytest.raises(UserError, match=r"row 1: a row has not the 3 cells of the header .*2 of 2 rows are bad"):
        records_of(path)


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected,chosen\na,b,c,d\n")
    with pytest.raises(UserError, match=r"a\.csv: two columns have one name; the columns are prompt, chosen"):
        records_of(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.json", "b.json"])
def test_a_json_file_holds_a_list_or_lines(tmp_path, name):
    rows = [row(number) for number in range(3)]
    path = tmp_path / name
    path.write_text(json.dumps(rows, indent=1) if name == "a.json" else "\n".join(map(json.dumps, rows)))
    assert [each.chosen for each in records_of(path)] == ["Yes 0.", "Yes 1.", "Yes 2."]


def test_text_that_is_no_utf8_is_a_bad_row_in_any_file(tmp_path):
    texts = pyarrow.Array.from_buffers(
        pyarrow.string(),
        2,
        [None, pyarrow.py_buffer(np.array([0, 4, 9], np.int32)), pyarrow.py_buffer(b"fineba\xffd!")],
    )
    table = pyarrow.table({"prompt": ["A?", "B?"], "chosen": texts, "rejected": ["no", "no"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "A?", "chosen": "fine", "rejected": "no"}\n{"prompt": "\xff"}\n')
    for name in ("a.parquet", "a.jsonl"):
        counts = PairFiles("mine", str(tmp_path / name), **WHOLE, on_bad_row="skip").read(0)[2]
        assert (counts.rows, counts.dropped) == (2, 1)
        assert "row 2: " in counts.reasons[0]


# Folders


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("train_prefs-00000-of-00001.parquet", "train_prefs"),
        ("test.jsonl", "test"),
        ("my-data-dev.csv", "validation"),
        ("eval_2024.json", "test"),
        ("latest.jsonl", None),
        ("trainees.csv", None),
    ],
)
def test_the_split_of_a_file_is_what_the_hub_takes_it_for(name, split):
    assert split_of(name) == split


def test_a_folder_of_splits_of_other_names_trains_on_none_of_its_test_files(tmp_path):
    for at, split in enumerate(("train_prefs", "train_sft", "test_prefs")):
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([row(10 * at), row(10 * at + 1)]), tmp_path / f"{split}-00000-of-00001.parquet"
        )
    (tmp_path / "README.md").write_text("# A set")
    with pytest.raises(
        UserError, match=r"no file of the split 'train'; it has test_prefs, train_prefs, train_sft.*data"
    ):
        records_of(tmp_path)
    source = PairFiles(
        "mine", str(tmp_path), train_split="train_prefs", test_split="test_prefs", validation_fraction=0.0
    )
    records, splits, _ = source.read(0)
    assert [(each.chosen, split) for each, split in zip(records, splits, strict=True)] == [
        ("Yes 0.", "train"), ("Yes 1.", "train"), ("Yes 20.", "test"), ("Yes 21.", "test"),
    ]  # fmt: skip


@pytest.mark.parametrize("names", [("data/train-00000-of-00001.jsonl",), ("train/rows.jsonl",)])
def test_a_downloaded_repository_is_read(tmp_path, names):
    (tmp_path / "README.md").write_text("# A set")
    for name in (*names, names[0].replace("train", "test")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        lines(tmp_path / name, [row(len(name)), row(len(name) + 1)])
    assert PairFiles("mine", str(tmp_path), validation_fraction=0.0).read(0)[1].count("test") == 2


def test_files_with_and_without_a_split_are_no_set(tmp_path):
    lines(tmp_path / "train.jsonl", [row(0)])
    lines(tmp_path / "more.jsonl", [row(1)])
    with pytest.raises(UserError, match=r"more\.jsonl names no split, and other files do \(train\)"):
        records_of(tmp_path)


def test_a_damaged_folder_of_save_to_disk_is_one_line(tmp_path):
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"a damaged folder of save_to_disk \(") as caught:
        records_of(tmp_path)
    assert "\n" not in str(caught.value)


# Messages


PLAIN = ((Message("user", "Tea or coffee?"),), "Tea.", "Coffee.")


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": [user("Tea or coffee?")], "chosen": [assistant("Tea.")], "rejected": [assistant("Coffee.")]},
        {"prompt": user("Tea or coffee?"), "chosen": assistant("Tea."), "rejected": assistant("Coffee.")},
        {
            "prompt": [{"role": "human", "content": [{"type": "text", "text": "Tea or "}, {"text": "coffee?"}]}],
            "chosen": [{"role": "gpt", "content": "Tea."}],
            "rejected": [{"role": "model", "content": "Coffee."}],
        },
        {
            "conversations": [{"from": "human", "value": "Tea or coffee?"}],
            "chosen": {"from": "gpt", "value": "Tea."},
            "rejected": {"from": "gpt", "value": "Coffee."},
        },
        {
            "prompt": json.dumps([user("Tea or coffee?")]),
            "chosen": json.dumps([assistant("Tea.")]),
            "rejected": str([assistant("Coffee.")]),
        },
        {"prompt": '["Tea or coffee?"]', "chosen": '["Tea."]', "rejected": '["Coffee."]'},
        {
            "prompt": "Tea or coffee?",
            "chosen": [user("Tea or coffee?"), assistant("Tea.")],
            "rejected": [user("Tea or coffee?"), assistant("Coffee.")],
        },
        {
            "prompt": "Tea or coffee? ",
            "chosen": [user("Tea or coffee?"), assistant("Tea.")],
            "rejected": [user("Tea or coffee?"), assistant("Coffee.")],
        },
    ],
)
def test_all_forms_of_messages_are_one_record(given):
    assert parse_record(given)[:3] == PLAIN


@pytest.mark.parametrize(
    "given",
    [
        {"system": "Be brief.", "prompt": "Tea or coffee?", "chosen": "Tea.", "rejected": "Coffee."},
        {
            "prompt": [{"role": "developer", "content": "Be brief."}, user("Tea or coffee?")],
            "chosen": "Tea.",
            "rejected": "Coffee.",
        },
        {
            "prompt": "Tea or coffee?",
            "chosen": [{"role": "system", "content": "Be brief."}, user("Tea or coffee?"), assistant("Tea.")],
            "rejected": [{"role": "system", "content": "Be brief."}, user("Tea or coffee?"), assistant("Coffee.")],
        },
    ],
)
def test_a_system_turn_comes_first_wherever_it_stood(given):
    assert parse_record(given).prompt == (Message("system", "Be brief."), *PLAIN[0])


@pytest.mark.parametrize("answer", ['["a", "b"]', "[1, 2]", '{"role": 5', '{"a": 1}', "[not json"])
def test_an_answer_in_json_stays_as_it_is(answer):
    assert parse_record({"prompt": "A list?", "chosen": answer, "rejected": "No."}).chosen == answer


def test_turns_as_a_json_list_are_named_and_never_trained_on():
    with pytest.raises(BadRow, match="JSON lists of texts, one for each turn; give messages"):
        parse_record({"prompt": '["One?", "Two?"]', "chosen": '["a", "b"]', "rejected": '["c", null]'})


def test_calls_of_tools_are_kept_in_a_prompt_and_refused_in_a_response():
    calls = [{"type": "function", "function": {"name": "look_up", "arguments": {"of": "tea"}, "id": None}}]
    called = {"role": "assistant", "content": None, "tool_calls": calls}
    answered = {"role": "tool", "content": "found", "tool_call_id": "c1"}
    prompt = parse_record({"prompt": [user("Tea?"), called, answered], "chosen": "a", "rejected": "b"}).prompt
    assert json.loads(prompt[1].tool_calls)[0]["function"] == {"name": "look_up", "arguments": {"of": "tea"}}
    assert prompt[1].as_turn()["tool_calls"] == json.loads(prompt[1].tool_calls)
    assert (prompt[1].content, prompt[2].tool_call_id) == ("", "c1")
    with pytest.raises(BadRow, match="'chosen' calls tools"):
        parse_record({"prompt": "Tea?", "chosen": [{**called, "content": "x"}], "rejected": [assistant("b")]})


# Verdicts, scores, labels


NAMES = {"first": "answer_a", "second": "answer_b", "winner": "winner"}


@pytest.mark.parametrize(
    ("value", "coding", "chosen", "gap"),
    [
        ("model_a", None, "A.", None),
        ("B", None, "B.", None),
        ("tie (bothbad)", None, "A.", 0.0),
        (0, {0: "first", 1: "second"}, "A.", None),
        (0, {1: "first", 0: "second"}, "B.", None),
        ("0", {0: "first", 1: "second"}, "A.", None),
        (1.0, {0: "first", 1: "second"}, "B.", None),
        (-3, {"negative": "first", "positive": "second"}, "A.", 3.0),
        (2, {"negative": "first", "positive": "second"}, "B.", 2.0),
        (0, {"negative": "first", "positive": "second"}, "A.", 0.0),
        ("both", {"both": "tie", "left": "first"}, "A.", 0.0),
    ],
)
def test_a_verdict_in_any_coding(tmp_path, value, coding, chosen, gap):
    path = lines(tmp_path / "a.jsonl", [{"prompt": "A or B?", "answer_a": "A.", "answer_b": "B.", "winner": value}])
    [found] = records_of(path, columns=NAMES, winner=coding, ties="keep")
    assert (found.chosen, found.rating_gap) == (chosen, gap)
    assert found.first_shown is (None if gap == 0.0 else chosen == "A.")


@pytest.mark.parametrize(("value", "coding"), [(0, None), (1, None), ("yes", None), (2, {0: "first", 1: "second"})])
def test_a_verdict_that_nobody_explained_is_refused(tmp_path, value, coding):
    path = lines(tmp_path / "a.jsonl", [{"prompt": "A or B?", "answer_a": "A.", "answer_b": "B.", "winner": value}])
    with pytest.raises(UserError, match=r"data\.winner does not say what .* data\.winner=\{0: first, 1: second"):
        records_of(path, columns=NAMES, winner=coding)


def test_ties_of_a_verdict_are_counted_and_the_order_shown_is_kept(tmp_path):
    values = ["a", "b", "tie", "a"]
    rows = [{"prompt": f"{n}?", "answer_a": "A.", "answer_b": "B.", "winner": value} for n, value in enumerate(values)]
    data = PairFiles("mine", str(lines(tmp_path / "a.jsonl", rows)), **WHOLE, columns=NAMES).load(0)
    assert data.counts["mine"].ties == 1
    assert data.pairs.first_shown_N.tolist() == [1, 0, 1]


def test_a_mapping_that_ignores_a_verdict_is_refused(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"prompt": "A or B?", "answer_a": "A.", "answer_b": "B.", "label": 1}])
    both = {"chosen": "answer_a", "rejected": "answer_b"}
    with pytest.raises(
        UserError, match=r"the column 'label' may say which of the two won.*first: answer_a, second: ans"
    ):
        records_of(path, columns=both)
    assert records_of(path, columns=both | {"winner": None})[0].chosen == "A."


@pytest.mark.parametrize("names", [("score_chosen", "score_rejected"), ("chosen_rating", "rejected_rating")])
@pytest.mark.parametrize("as_text", [True, False])
def test_scores_of_both_responses_give_the_rating_gap(tmp_path, names, as_text):
    scores = [(8, 8), (8, 5), (7.5, 7), (None, 3)]
    rows = [
        row(n, **{name: str(s) if as_text and s is not None else s for name, s in zip(names, pair, strict=True)})
        for n, pair in enumerate(scores)
    ]
    found = records_of(lines(tmp_path / "a.jsonl", rows), ties="keep")
    assert [each.rating_gap for each in found] == [0.0, 3.0, 0.5, None]
    below = lines(tmp_path / "b.jsonl", [row(0, **dict(zip(names, (1, 2), strict=True)))])
    with pytest.raises(UserError, match=r"is rated below the rejected one; \+data\.columns\.rating_gap=null"):
        records_of(below)
    assert records_of(below, columns={"rating_gap": None})[0].rating_gap is None


@pytest.mark.parametrize("kind", [pyarrow.float64(), pyarrow.int64(), pyarrow.string()])
def test_users_that_are_whole_numbers_are_the_same_in_any_type(tmp_path, kind):
    users = pyarrow.array([1, None, 2]).cast(kind)
    table = pyarrow.table({**{name: [row(n)[name] for n in range(3)] for name in row(0)}, "user_id": users})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [each.user_id for each in records_of(tmp_path / "a.parquet")] == ["1", None, "2"]


@pytest.mark.parametrize(("gap", "read"), [("1", 1.0), ("", None), ("NaN", None), (float("nan"), None), (2, 2.0)])
def test_gaps_as_text_or_no_number(tmp_path, gap, read):
    rows = [row(0, rating_gap=gap), row(1, rating_gap=1)]
    assert records_of(lines(tmp_path / "a.jsonl", rows))[0].rating_gap == read


def test_a_source_that_is_a_list_is_joined_or_left_out(tmp_path):
    path = lines(tmp_path / "a.jsonl", [row(0, source=["web", "wiki"])])
    assert records_of(path)[0].source == "web, wiki"
    assert records_of(path, columns={"source": None})[0].source == "mine"


# Columns that are not there, or not read


def test_wrong_columns_are_one_error_with_the_likely_override(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"question": "A?", "better": "b", "worse": "c"}] * 3)
    with pytest.raises(UserError) as caught:
        records_of(path)
    assert str(caught.value).endswith(
        "no column 'chosen' and 'rejected'; it has question, better, worse. Map them to our columns, perhaps with "
        "'+data.columns={prompt: question, chosen: better, rejected: worse}'"
    )
    assert len(records_of(path, columns={"prompt": "question", "chosen": "better", "rejected": "worse"})) == 3


def test_columns_that_nobody_reads_are_listed_and_not_decoded(tmp_path):
    rows = [row(0, weight=0.5, note=[{"a": 1}]), row(1, weight=1.0, note=None)]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    counts = PairFiles("mine", str(tmp_path / "a.parquet"), **WHOLE).read(0)[2]
    assert counts.unread == ["weight", "note"]


def test_all_bad_rows_are_counted_by_kind_before_the_run_stops(tmp_path):
    rows = [row(0), *[row(n, chosen=" ") for n in range(1, 6)], row(6, rejected="Yes 6."), row(7)]
    path = lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError) as caught:
        records_of(path)
    assert str(caught.value) == (
        f"{path}, row 2: 'chosen' is empty; 6 of 8 rows are bad: 5 x 'chosen' is empty (row 2, row 3, row 4, ...); "
        "1 x chosen and rejected are the same text (row 7). Mend them or set data.on_bad_row=skip"
    )


@pytest.mark.parametrize("train", ["", " ", None, 3, ["a"]])
def test_a_path_that_is_none_is_refused(train):
    with pytest.raises(UserError, match="train"):
        build({"_target_": "micro_lit.data.PairFiles", "name": "mine", "train": train})


def test_a_path_beyond_all_length_is_one_line():
    with pytest.raises(UserError, match="cannot be read") as caught:
        records_of("x" * 5000 + ".jsonl")
    assert len(str(caught.value)) < 1000


LAYOUT = """
def ours(rows):
    for place, raw in rows:
        yield place, {"prompt": raw["q"], "chosen": raw["good"], "rejected": raw["bad"]}
"""


def test_a_layout_of_ones_own_takes_no_plus(tmp_path, monkeypatch):
    (tmp_path / "own_layout.py").write_text(LAYOUT)
    monkeypatch.syspath_prepend(tmp_path)
    path = lines(tmp_path / "a.jsonl", [{"q": f"{n}?", "good": "a", "bad": "b"} for n in range(5)])
    overrides = [f"data.train={path}", "data.layout._target_=own_layout.ours", "packages=[own_layout]"]
    settings = compose("train", ["data=pairs", *overrides, "paths.run_dir=unused"])
    assert build(settings["data"]).load(0).counts["pairs"].rows == 5
    assert compose("train", ["data=pairs", "data.train=x", "paths.run_dir=unused"])["data"]["layout"] is None


# Small data


def test_every_split_has_rows_while_there_are_prompts_enough():
    for size in range(3, 40):
        for seed in range(10):
            side_P = cut([f"prompt {number}" for number in range(size)], seed, test=0.1, validation=0.05)
            assert set(side_P.tolist()) == {0, 1, 2}


def test_a_cut_of_many_keys_is_by_their_hash_alone():
    keys = [f"prompt {number}" for number in range(2000)]
    few = dict(zip(keys[:1000], cut(keys[:1000], 0, 0.1, 0.05).tolist(), strict=True))
    many = dict(zip(keys, cut(keys, 0, 0.1, 0.05).tolist(), strict=True))
    assert all(many[key] == side for key, side in few.items())


def test_one_prompt_for_all_rows_is_cut_by_pairs(tmp_path):
    path = lines(tmp_path / "a.jsonl", [row(0, chosen=f"Yes {n}.") for n in range(20)])
    splits = PairFiles("mine", str(path), split_by="pair_id").read(0)[1]
    assert set(splits) == {"train", "validation", "test"}


# Identity of texts


def test_the_canonical_form_of_a_prompt_stands():
    """Splits and stores hang on it: the form of messages with a role and content never changes."""
    assert canonical((Message("user", 'It\'s "so"\n'),)) == "(Message(role='user', content='It\\'s \"so\"\\n'),)"
    assert canonical((Message("system", "a"), Message("user", "b"))) == (
        "(Message(role='system', content='a'), Message(role='user', content='b'))"
    )
    assert canonical(()) == "()"
    called = canonical((Message("assistant", "", '[{"a": 1}]'), Message("tool", "x", None, "c1")))
    assert called == (
        "(Message(role='assistant', content='', tool_calls='[{\"a\": 1}]'), "
        "Message(role='tool', content='x', tool_call_id='c1'))"
    )


# Prompt, response, the digest of both in a feature store, a seed, and the split of the prompt at .3 and .2 for test and
# validation: as version 0.1 had them, whose users have stores and results that hang on them.
WRITTEN_DOWN = [
    ((("user", "Tea or coffee?"),), None, "91afa682c5a5dab2e2596cc71a65351c", 0, "train"),
    ((("user", 'It\'s "so".\nAnd so.'),), "日本語 😀", "aa7a3d0c9f8bb083c00d1f5505a94630", 1, "test"),
    ((("system", "Be brief."), ("user", "Łódź?")), "Tea.", "d4422904c34db0ec58b8e56a30fb5213", 2, "test"),
    ((("user", "a"), ("assistant", "b"), ("user", "c")), "", "4c0a1631bba2b661e0488ee664414b02", 3, "test"),
    ((("user", " "), ("tool", "x")), "Two\nlines \\ and 'quotes'", "0b48fa347c6e31cff29753e161767791", 4, "validation"),
    ((("user", "Tea or coffee?"),), "Tea.", "5907e0536a09961ee5b72f65b3e56d19", 5, "train"),
    ((("user", 'It\'s "so".\nAnd so.'),), "", "34b8a684604f23dcd2c98f14e98c63c0", 6, "test"),
    (
        (("system", "Be brief."), ("user", "Łódź?")),
        "Two\nlines \\ and 'quotes'",
        "a2d697ecf491a41d4e48077ccde4472f",
        7,
        "train",
    ),
    ((("user", "a"), ("assistant", "b"), ("user", "c")), None, "856629a066f0f5d5eea60fa3e59bebc2", 8, "test"),
    ((("user", " "), ("tool", "x")), "日本語 😀", "f1d81c4cb8d41cf290998dcb330ce33c", 9, "test"),
]


@pytest.mark.parametrize(("turns", "response", "digest", "seed", "split"), WRITTEN_DOWN)
def test_digests_and_splits_are_those_of_always(turns, response, digest, seed, split):
    prompt = tuple(Message(*turn) for turn in turns)
    assert text_digests([Text(prompt, response)]).tobytes().hex() == digest
    place = hashed_fraction(canonical(prompt), seed)
    assert ("test" if place < 0.3 else "validation" if place < 0.5 else "train") == split


# Both ways of reading, and the cache


def same(first, second):
    assert first.texts == second.texts
    assert first.names == second.names
    for name in ("triplets_N3", "labels_NC", "first_shown_N"):
        assert torch.equal(getattr(first.pairs, name), getattr(second.pairs, name))
    assert torch.equal(first.pairs.rating_gap_N.nan_to_num(-1), second.pairs.rating_gap_N.nan_to_num(-1))
    assert all(torch.equal(rows, second.splits[name]) for name, rows in first.splits.items())


MIXED = [
    row(0, user_id="a", rating_gap=1.5),
    row(1, prompt=" \u3000"),
    row(1, user_id=None, group=" "),
    row(2, chosen="[1]", system="Be brief."),
    row(2, chosen=json.dumps([assistant("Yes.")])),
    row(3, chosen="No."),
    row(3, rating_gap=-1.0),
    row(3, rating_gap=0.0),
    row(4, prompt="\x1euser\x1fQuestion 0?"),
    *(row(number, user_id="b") for number in range(5, 60)),
]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("nested", [False, True])
def test_rows_read_as_columns_are_those_read_one_by_one(tmp_path, monkeypatch, ending, nested):
    rows = [{**each, "prompt": [user(each["prompt"])]} if nested else each for each in MIXED]
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([{**dict.fromkeys(MIXED[3]), **each} for each in rows]), path
        )
    else:
        lines(path, rows)
    source = PairFiles("mine", str(path), on_bad_row="skip")
    plain = source.load(0)
    monkeypatch.setattr(gathering.Gathered, "add_plain", lambda self, table, names, first: np.arange(len(table)))
    one_by_one = source.load(0)
    same(plain, one_by_one)
    assert plain.counts == one_by_one.counts
    assert plain.counts["mine"].dropped == 3


def test_the_cache_gives_the_same_and_reads_nothing_again(tmp_path, monkeypatch):
    path = lines(tmp_path / "a.jsonl", MIXED)
    monkeypatch.setattr(parsed, "LEAST_BYTES", 0)
    source = PairFiles("mine", str(path), on_bad_row="skip", cache_dir=str(tmp_path / "tables"))
    first = source.load(0)
    [kept] = (tmp_path / "tables").iterdir()
    monkeypatch.setattr(PairFiles, "_parse", lambda *arguments: pytest.fail("read again"))
    again = source.load(0)
    same(first, again)
    assert first.counts == again.counts
    assert np.array_equal(again.digests_M2, text_digests(again.texts))
    monkeypatch.undo()
    monkeypatch.setattr(parsed, "LEAST_BYTES", 0)
    whole = kept.read_bytes()
    damaged = [whole[:1000], b"", b"short"]
    for at in range(100, len(whole), len(whole) // 40):
        damaged.append(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    for content in damaged:
        kept.write_bytes(content)
        same(first, source.load(0))
    lines(path, MIXED[:30])
    assert len(source.load(0).pairs) < len(first.pairs)
    assert PairFiles("mine", str(path), on_bad_row="skip", ties="keep", cache_dir=str(tmp_path / "tables")).load(0)
    assert len(list((tmp_path / "tables").iterdir())) == 3


def test_kept_digests_are_those_of_the_texts_whatever_settings_make_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(parsed, "LEAST_BYTES", 0)
    train = lines(
        tmp_path / "train.jsonl", [row(n, attribute="short", criterion="Be brief." * (n % 2)) for n in range(30)]
    )
    test = lines(tmp_path / "test.jsonl", [row(n, rejected="Never.") for n in range(20, 40)])
    settings = {"cache_dir": str(tmp_path / "tables"), "criterion_of": {"short": "Be short."}}
    for _ in range(2):
        data = PairFiles("mine", str(train), str(test), **settings).load(0)
    assert np.array_equal(data.digests_M2, text_digests(data.texts))
    [half] = [each for each in (tmp_path / "tables").iterdir() if each.stat().st_size > 0][:1]
    half.unlink()
    data = PairFiles("mine", str(train), str(test), **settings).load(0)
    assert np.array_equal(data.digests_M2, text_digests(data.texts))


# Leaks


def test_test_rows_that_are_training_rows_are_counted_and_refused(tmp_path):
    train = lines(tmp_path / "train.jsonl", [row(n, user_id="a") for n in range(10)])
    turned = {"chosen": "No.", "rejected": "Yes 0."}
    rows = [
        row(0, user_id="a", **turned),  # identical, the other way round
        row(1, user_id="b"),  # by another rater
        row(2, user_id="a", chosen="Other."),  # its prompt and one response
        *(row(n, user_id="a", rejected=f"Never {n}.") for n in range(20, 25)),
    ]
    test = lines(tmp_path / "test.jsonl", rows)
    data = PairFiles("mine", str(train), str(test), validation_fraction=0.0).load(0)
    assert data.overlap == {"rows": 8, "identical": 1, "other_rater": 1, "prompt": 3, "response": 3}
    assert data.notes == ("1 of 8 test rows are training rows; data.leak=allow leaves out this warning",)
    copied = lines(tmp_path / "copy.jsonl", [row(n, user_id="a") for n in range(9)] + [row(50)])
    with pytest.raises(UserError, match="9 of 10 test rows are training rows"):
        PairFiles("mine", str(train), str(copied)).load(0)
    assert PairFiles("mine", str(train), str(copied), leak="warn").load(0).notes
    assert not PairFiles("mine", str(train), str(copied), leak="allow").load(0).notes
    copied.write_bytes(train.read_bytes())
    with pytest.raises(UserError, match="train and test are one file"):
        PairFiles("mine", str(train), str(copied))
