"""A reader from outside the package: its rows are rows like all others, and a lie is one line."""

import json
from pathlib import Path

import pytest

from micro_lit.config import build, compose
from micro_lit.data import parsed
from micro_lit.errors import UserError

OWN = ("data=pairs", "packages=[own_readers]")
SMALL = ("backbone=tiny", "model=single_bt", "trainer.max_epochs=1", "paths.run_dir=run", "paths.features_dir=features")


def pair(number: int, **columns: str) -> str:
    columns = {"prompt": f"Question {number}?", "chosen": f"Yes {number}.", "rejected": f"No {number}."} | columns
    return "<pair>" + "".join(f"<{name}>{text}</{name}>" for name, text in columns.items()) + "</pair>"


def pairs(first: int, number: int, **columns: str) -> str:
    return "".join(pair(each, **columns) for each in range(first, first + number))


def write(path: str, text: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(f"<pairs>{text}</pairs>")
    return path


def load(reader: str, *overrides: str):
    overrides = (*OWN, f"data.reader._target_=own_readers.{reader}", "paths.run_dir=unused", *overrides)
    settings = compose("train", list(overrides))["data"]
    return build(settings)


def test_a_run_is_trained_and_tested_on_files_of_a_kind_of_ones_own(command):
    train, test = write("my/train.xml", pairs(0, 40)), write("my/test.xml", pairs(90, 12))
    _, err = command(
        *OWN, *SMALL, f"data.train={train}", f"data.test={test}", "data.reader._target_=own_readers.XmlReader"
    )
    assert err == ""
    data = json.loads(Path("run/results.json").read_text())["data"]
    assert (data["train"] + data["validation"], data["test"]) == (40, 12)


def test_without_the_reader_the_kind_is_unknown_and_with_it_other_kinds_stay():
    write("a.xml", pairs(0, 5))
    rows = [json.dumps({"prompt": f"{n}?", "chosen": "a", "rejected": "b"}) for n in range(3)]
    Path("b.jsonl").write_text("\n".join(rows))
    assert load("XmlReader", "data.train=a.xml", "data.test=b.jsonl").load(0).counts["pairs"].rows == 8
    plain = build(compose("train", ["data=pairs", "data.train=a.xml", "paths.run_dir=unused"])["data"])
    with pytest.raises(ValueError, match="unknown kind of file"):
        plain.load(0)


def test_files_of_a_folder_belong_to_the_splits_of_their_names():
    write("folder/train.xml", pairs(0, 9))
    write("folder/test.xml", pairs(20, 4))
    Path("folder/notes.txt").write_text("not read")
    records, splits, _ = load("XmlReader", "data.train=folder", "data.validation_fraction=0").read(0)
    assert (len(records), splits.count("test")) == (13, 4)


def test_a_file_may_hold_splits_of_its_own():
    write("parts.data", f"<train>{pairs(0, 9)}</train><test>{pairs(20, 4)}</test>")
    _, splits, _ = load("Parts", "data.train=parts.data", "data.validation_fraction=0").read(0)
    assert (splits.count("train"), splits.count("test")) == (9, 4)
    with pytest.raises(ValueError, match=r"parts\.data: no split 'dev'; it has train, test"):
        load("Parts", "data.train=parts.data", "data.train_split=dev").load(0)


def test_columns_are_mapped_and_a_bad_row_has_its_place():
    write("a.xml", "".join(pair(each).replace("chosen", "better") for each in range(5)))
    assert load("XmlReader", "data.train=a.xml", "+data.columns.chosen=better").load(0).counts["pairs"].rows == 5
    with pytest.raises(ValueError, match="chosen"):
        load("XmlReader", "data.train=a.xml").load(0)
    write("b.xml", pairs(0, 3) + "<pair><prompt>?</prompt><chosen>a</chosen><rejected></rejected></pair>")
    with pytest.raises(ValueError, match=r"b\.xml, pair 4: "):
        load("XmlReader", "data.train=b.xml").load(0)


@pytest.mark.parametrize(("reader", "files"), [("XmlReader", 0), ("Cached", 1)])
def test_records_are_cached_for_a_reader_with_a_version(reader, files, monkeypatch):
    monkeypatch.setattr(parsed, "LEAST_BYTES", 0)
    write("a.xml", pairs(0, 5))
    first = load(reader, "data.train=a.xml", "data.cache_dir=cache")
    assert first.read(0)[0] == load(reader, "data.train=a.xml", "data.cache_dir=cache").read(0)[0]
    assert len(list(Path(".").glob("cache/*.arrow"))) == files
    write("a.xml", pairs(0, 6))
    assert len(load(reader, "data.train=a.xml", "data.cache_dir=cache").read(0)[0]) == 6


LIES = {
    "NoPairs": "a.xml: NoPairs.read yields {'prompt': '?'}; it must yield (place, row)",
    "NoMapping": "a.xml, pair 1: NoMapping.read yields a row ['a', 'b']; it must be a mapping",
    "NoNames": "a.xml, pair 1: NoNames.read yields a column 1; its name must be text",
    "Nothing": "a.xml: Nothing.read gives None; it must yield (place, row)",
    "Raises": "a.xml: Raises cannot read it (KeyError: 'pair')",
    "WrongEndings": "data.reader: WrongEndings.endings='.xml' is not allowed; give a tuple",
    "WrongSplits": "a.xml: WrongSplits.splits gives [1]; it must give texts",
    "NoMethod": "data.reader: NoMethod has no method read(path, split)",
    "NoReader": "data.reader: NoReader is no reader; extend micro_lit.data.reader.Reader",
}


@pytest.mark.parametrize("reader", LIES)
def test_a_lie_is_one_line(reader):
    write("a.xml", pairs(0, 5))
    with pytest.raises(UserError) as caught:
        load(reader, "data.train=a.xml").load(0)
    assert str(caught.value).startswith(LIES[reader])
    assert "\n" not in str(caught.value)


def test_a_lie_ends_the_command_with_one_line(command):
    write("a.xml", pairs(0, 5))
    _, err = command(*OWN, *SMALL, "data.train=a.xml", "data.reader._target_=own_readers.NoMapping")
    assert err.splitlines() == [f"error: {LIES['NoMapping']}"]
