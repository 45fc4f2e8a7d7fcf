"""Tests of `micro_lit.data.readers`."""

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from micro_lit.data.readers import read_rows
from micro_lit.data.records import BadRow
from micro_lit.errors import UserError

ROWS = [
    {"prompt": f"Question {number}?", "chosen": "Yes.", "rejected": "No.", "rating_gap": float(number)}
    for number in range(3)
]
BROKEN_LINE = b'{"prompt": "Question?", "chosen": '


def write(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines))
    elif path.suffix == ".zst":
        with pyarrow.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(lines)
    else:
        path.write_bytes(lines)
    return path


def rows_of(path, *arguments, **settings):
    return [row for _, row in read_rows(str(path), *arguments, **settings)]


def refusal(path, *arguments, **settings):
    with pytest.raises(UserError) as caught:
        list(read_rows(str(path), *arguments, **settings))
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_every_kind_of_file_gives_the_same_rows_and_names_their_place(tmp_path, ending):
    path = write(tmp_path / f"pairs{ending}")
    assert list(read_rows(str(path))) == [(f"{path}, row {number}", row) for number, row in enumerate(ROWS, start=1)]


def test_parquet_rows_are_counted_across_row_groups(tmp_path):
    path = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=1)
    assert [place for place, _ in read_rows(str(path))] == [f"{path}, row {number}" for number in (1, 2, 3)]


def test_messages_come_back_as_lists_of_objects(tmp_path):
    row = {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "a", "rejected": "b"}
    assert rows_of(write(tmp_path / "pairs.parquet", [row])) == [row]
    datasets.Dataset.from_list([row]).save_to_disk(str(tmp_path / "arrow"))
    assert rows_of(tmp_path / "arrow") == [row]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_only_a_newline_ends_a_json_line(tmp_path, separator):
    row = {"prompt": f"one{separator}two", "chosen": "a", "rejected": "b"}
    text = json.dumps(row, ensure_ascii=ord(separator) < 32)
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{text}\n{text}\n", encoding="utf-8", newline="")
    assert rows_of(path) == [row, row]


def test_json_lines_may_have_blank_lines_windows_ends_and_no_last_newline(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert list(read_rows(str(path))) == [(f"{path}, row 1", {"a": 1}), (f"{path}, row 3", {"a": 2})]


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        (BROKEN_LINE, "broken JSON line"),
        (b'{"prompt": "\xff"}', "broken JSON line"),
        (b'{"user_id": ' + b"1" * 5000 + b"}", "broken JSON line"),
        (b"[1, 2]", "the line holds no object (it holds list)"),
        (b'"text"', "the line holds no object (it holds str)"),
    ],
)
def test_a_bad_line_is_reported_in_its_place_and_reading_goes_on(tmp_path, line, trouble):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    (_, first), (place, second), (_, third) = read_rows(str(path))
    assert (first, third) == ({"a": 1}, {"a": 3})
    assert place == f"{path}, row 2"
    assert isinstance(second, BadRow)
    assert trouble in str(second)
    assert "\n" not in str(second)


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.jsonl.gz", "pairs.jsonl.zst"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"this is neither parquet nor compressed")
    assert "read" in refusal(path)


@pytest.mark.parametrize("ending", [".parquet", ".jsonl.gz"])
def test_a_file_cut_short_is_refused(tmp_path, ending):
    path = write(tmp_path / f"pairs{ending}")
    path.write_bytes(path.read_bytes()[:-20])
    assert "read" in refusal(path)


@pytest.mark.parametrize("name", ["pairs.xlsx", "pairs.txt", "pairs"])
def test_an_unknown_kind_of_file_is_refused_with_the_known_kinds(tmp_path, name):
    (tmp_path / name).write_text("prompt,chosen,rejected")
    message = refusal(tmp_path / name)
    assert "unknown kind of file" in message
    assert ".parquet" in message
    assert ".jsonl" in message


@pytest.mark.parametrize(
    "path", ["/nowhere/at/all", "nowhere", "a/b/c", "data/pairs.parquet", "data/pairs.jsonl.gz", "~/nowhere"]
)
def test_a_path_that_does_not_exist_is_refused_without_asking_the_hub(monkeypatch, path):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    assert "no such file or folder" in refusal(path)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "notes.md").write_text("nothing")
    assert "nothing to read" in refusal(tmp_path)


def test_a_folder_of_parts_is_read_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "part-2.jsonl", ROWS[2:])
    write(tmp_path / "part-1.parquet", ROWS[1:2])
    write(tmp_path / "part-0.jsonl.gz", ROWS[:1])
    assert rows_of(tmp_path) == ROWS


@pytest.mark.parametrize("names", [("train.jsonl", "test.jsonl"), ("train-00000-of-00002.parquet", "test-0.parquet")])
def test_a_folder_with_train_and_test_files_gives_the_split_asked_for(tmp_path, names):
    write(tmp_path / names[0], ROWS[:2])
    write(tmp_path / names[1], ROWS[2:])
    assert rows_of(tmp_path, "train") == ROWS[:2]
    assert rows_of(tmp_path, "test") == ROWS[2:]
    message = refusal(tmp_path, "validation")
    assert "no file of the split 'validation'; it has test, train" in message


def test_a_folder_with_splits_of_other_names_gives_the_split_asked_for(tmp_path):
    write(tmp_path / "train_prefs-00000-of-00001.parquet", ROWS[:2])
    write(tmp_path / "test_prefs-00000-of-00001.parquet", ROWS[2:])
    assert rows_of(tmp_path, "train_prefs") == ROWS[:2]
    assert rows_of(tmp_path, "test_prefs") == ROWS[2:]


def test_an_arrow_folder_is_read(tmp_path):
    folder = tmp_path / "arrow"
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder))
    assert list(read_rows(str(folder))) == [(f"{folder}, row {number}", row) for number, row in enumerate(ROWS, 1)]


def test_an_arrow_folder_with_splits_gives_the_split_asked_for(tmp_path):
    parts = {"train": datasets.Dataset.from_list(ROWS[:2]), "test": datasets.Dataset.from_list(ROWS[2:])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "arrow"))
    assert rows_of(tmp_path / "arrow") == ROWS[:2]
    assert rows_of(tmp_path / "arrow", "test") == ROWS[2:]
    assert "no split 'validation'; it has train, test" in refusal(tmp_path / "arrow", "validation")


@pytest.mark.usefixtures("offline")
def test_a_made_up_hub_id_is_refused_without_a_connection():
    message = refusal("nobody-at-all/no-such-pairs")
    assert "no local file or folder, and not available from the hub" in message
    assert "\n" not in message


@pytest.mark.parametrize("path", ["nobody/pairs", "Skywork/Skywork-Reward-Preference-80K-v0.2"])
def test_a_hub_data_set_is_asked_for_by_id_subset_split_and_revision(monkeypatch, path):
    asked = []

    def load_dataset(*arguments, **settings):
        asked.append((arguments, settings))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = list(read_rows(path, "test", subset="harmless", revision="abc123"))
    assert asked == [((path, "harmless"), {"split": "test", "revision": "abc123"})]
    assert found == [(f"{path}, row {number}", row) for number, row in enumerate(ROWS, start=1)]


def test_a_folder_of_a_hub_data_set_is_asked_for_by_its_path(monkeypatch):
    asked = []

    def load_dataset(*arguments, **settings):
        asked.append((arguments, settings))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    path = "hf://datasets/Anthropic/hh-rlhf/helpful-base"
    assert list(read_rows(path, "test")) == [(f"{path}, row {number}", row) for number, row in enumerate(ROWS, start=1)]
    assert asked == [(("Anthropic/hh-rlhf", None), {"split": "test", "revision": None, "data_dir": "helpful-base"})]
