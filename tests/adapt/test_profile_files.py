"""Tests of `micro_lit.adapt.profile_files`: which file is in use, and what becomes of files of JSON."""

import json
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from conftest import REPOSITORY
from numpy.testing import assert_array_equal

from micro_lit.adapt.profile_files import export, open_store, profile_paths
from micro_lit.adapt.profile_store import ProfileLabels, ProfileStore
from micro_lit.adapt.profiles import Profiles
from micro_lit.errors import UserError
from micro_lit.host import file_systems

HEADS = "2-" + "ab" * 16
OLD_RUNS = REPOSITORY / "tests" / "old_runs"


def nobody(rule="posterior", heads=HEADS, prior=(0.5, 0.25, 0.25)):
    return Profiles(np.array(prior), heads, rule)


def labels_of(*users, seed=0):
    generator = np.random.default_rng(seed)
    margins_NK = generator.normal(size=(len(users), 3))
    return ProfileLabels(list(users), margins_NK, [generator.bytes(16) for _ in users], [None] * len(users))


@pytest.fixture
def old(tmp_path):
    """Profiles that an older version has written."""

    def copy(rule="posterior", name="me.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        return shutil.copy(OLD_RUNS / f"profiles_{rule}.json", tmp_path / name)

    return copy


@pytest.mark.parametrize("rule", ["posterior", "hedge"])
def test_profiles_of_older_versions_go_on_to_the_last_bit(rule, old, tmp_path, capsys):
    path = old(rule)
    before, written = path.read_bytes(), json.loads(path.read_text())["users"]
    memory, labels = Profiles.load(path, HEADS), labels_of("eve", "ada", "eve", "new")
    with open_store(path, nobody(rule), make=True) as store:
        for name, facts in written.items():
            assert_array_equal(store.profiles().weights(name), [facts["weights"]])
            assert store.profiles().counts(name) == [facts["labels"]]
        taught = store.learn(labels)
    told = capsys.readouterr().out
    assert f"profiles: {tmp_path / 'me.sqlite'}, with 3 users imported from {path}, which is left as it is" in told
    assert "labels before the import cannot be recognised as repeats" in told
    learned = memory.learn(labels.users, labels.margins_NK)
    for column, other in zip(taught.learned, learned, strict=True):
        assert_array_equal(column, other)
    with open_store(path, nobody(rule), make=True) as store:
        assert capsys.readouterr().out == f"profiles: {tmp_path / 'me.sqlite'}\n"
        assert store.users == memory.users == ["ada", "bob", "eve", "new"]
        assert_array_equal(store.profiles().weights(store.users), memory.weights(memory.users))
        assert not store.learn(labels).new_N.any()
        export(store, path, tmp_path / "out.json")
    memory.save(tmp_path / "expected.json")
    assert (tmp_path / "out.json").read_text() == (tmp_path / "expected.json").read_text()
    assert path.read_bytes() == before


def test_a_name_with_another_ending_is_the_store_unless_it_holds_json(old, tmp_path):
    assert profile_paths(tmp_path / "me.json") == (tmp_path / "me.sqlite", tmp_path / "me.json")
    assert profile_paths(tmp_path / "a.b.JSON") == (tmp_path / "a.b.sqlite", tmp_path / "a.b.JSON")
    for name in ("me.sqlite", "me", "me.profiles"):
        assert profile_paths(tmp_path / name) == (tmp_path / name, None)
    path = old(name="my.profiles")
    assert profile_paths(path) == (tmp_path / "my.profiles.sqlite", path)
    for _ in range(2):
        with open_store(path, nobody(), make=True) as store:
            assert store.path == tmp_path / "my.profiles.sqlite"
            assert store.users == ["ada", "bob", "eve"]
            assert profile_paths(store.path) == (store.path, None)


def test_a_file_that_changed_since_its_import_is_said_not_to_be_read(old, tmp_path, capsys):
    path = old()
    open_store(path, nobody(), make=True).close()
    path.write_text(path.read_text() + "\n")
    capsys.readouterr()
    with open_store(path, nobody(), make=True) as store:
        lines = capsys.readouterr().out.splitlines()
        assert lines[1].startswith(f"{path}: not what {store.path} was imported from; it is not read.")
        assert len(lines) == 2
        export(store, path, path)
        assert capsys.readouterr().out == f"exported 3 users to {path}\n"
    open_store(path, nobody(), make=True).close()
    assert len(capsys.readouterr().out.splitlines()) == 1
    path.unlink()
    open_store(path, nobody(), make=True).close()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_file_beside_a_store_that_did_not_come_from_it_is_not_read(old, tmp_path, capsys):
    with open_store(tmp_path / "me.sqlite", nobody(), make=True) as store:
        store.learn(labels_of("zoe"))
    with open_store(old(), nobody(), make=True) as store:
        assert store.users == ["zoe"]
    assert "it is not read" in capsys.readouterr().out


def test_reading_makes_no_file(old, tmp_path, capsys):
    with open_store(tmp_path / "none" / "me.json", nobody(), make=False) as store:
        assert store.users == []
    assert capsys.readouterr().out == f"profiles: {tmp_path / 'none' / 'me.sqlite'}, which is not there yet\n"
    path = old()
    for start in (nobody(), None):
        with open_store(path, start, make=False) as store:
            assert store.users == ["ada", "bob", "eve"]
            assert store.heads == HEADS
        shown = f"profiles: {path}; the first labels import it into {tmp_path / 'me.sqlite'}\n"
        assert capsys.readouterr().out == shown
    assert list(tmp_path.iterdir()) == [path]


def test_what_does_not_fit_the_run_is_refused(old, tmp_path):
    path, store = old(), old(name="stores/me.json")
    open_store(store, nobody(), make=True).close()
    cases = [
        ({"heads": "2-other"}, rf"its profiles are of other heads \({HEADS}\) than the run's \(2-other\); give"),
        ({"rule": "hedge"}, "kept by the rule posterior; give rule=posterior, or another file"),
        ({"prior": (0.5, 0.3, 0.2)}, "its profiles began with other weights"),
    ]
    for start, message in cases:
        for file, shown in ((path, path), (store, store.with_suffix(".sqlite"))):
            with pytest.raises(UserError, match=message) as caught:
                open_store(file, nobody(**start), make=True)
            assert str(caught.value).startswith(f"profile={shown}: ")
    assert not (tmp_path / "me.sqlite").exists()


@pytest.mark.parametrize("name", ["me.json", "me.sqlite", "me"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"format": "micro_lit profiles"}', b"[]", b"\xff\xfe", b"SQLite format 3\0", b"name,votes\n" * 99],
)
def test_files_of_other_kinds_are_refused_in_one_line(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    for start in (nobody(), None):
        for make in (True, False):
            with pytest.raises(UserError, match=rf"^profile={path}: ") as caught:
                open_store(path, start, make)
            assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == content


def test_other_databases_and_folders_are_refused(tmp_path):
    for name in ("me.json", "me.sqlite"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        with pytest.raises(UserError, match=rf"^profile={tmp_path / 'folder' / name}: "):
            open_store(tmp_path / "folder" / name, nobody(), make=True)
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
    with pytest.raises(UserError, match="an SQLite file, but no store of profiles; give another name"):
        open_store(tmp_path / "other.db", nobody(), make=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^profile=.*file/me.sqlite: cannot be written \(File exists\)"):
        open_store(tmp_path / "file" / "me.json", nobody(), make=True)
    with pytest.raises(UserError, match=r"^profile=.*none.sqlite: no such file"):
        open_store(tmp_path / "none.sqlite", None, make=True)


def test_a_cut_import_is_refused_and_leaves_nothing(old, tmp_path):
    path = old()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"^profile={path}: .*; give the file and the run that belong together"):
        open_store(path, nobody(), make=True)
    assert list(tmp_path.iterdir()) == [path]


def test_a_network_file_system_is_said(old, tmp_path, monkeypatch, capsys):
    path = old()
    (tmp_path / "mounts").write_text(f"host:/home {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "mounts")
    for _ in range(2):
        open_store(path, nobody(), make=True).close()
        shown = f"{tmp_path / 'me.sqlite'} is on a network file system (nfs4): journal_mode=DELETE instead of WAL"
        assert capsys.readouterr().out.splitlines()[-1] == shown


def test_an_export_that_cannot_be_written_is_said_in_one_line(tmp_path):
    with ProfileStore.in_memory(nobody()) as store:
        (tmp_path / "out.json").mkdir()
        with pytest.raises(UserError, match=r"^export=.*out.json: cannot be written \("):
            export(store, tmp_path / "me.sqlite", tmp_path / "out.json")
