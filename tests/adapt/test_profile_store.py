"""Tests of `micro_lit.adapt.profile_store`: what it keeps, what it refuses, and many processes at once."""

import multiprocessing
import os
import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.process import BaseProcess

import numpy as np
import profile_processes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from processes import forking

from micro_lit.adapt.profile_store import ProfileLabels, ProfileStore
from micro_lit.adapt.profiles import RULES, Profiles
from micro_lit.errors import UserError
from micro_lit.host import file_systems, sqlite_files

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["pytest", "micro_lit.adapt.profile_store"])

HEADS = "3-abc"
NAMES = ["ada", "Łukasz \"the 3rd\"", "", "ada ", "7", "new\nline"]  # fmt: skip


def nobody(rule="posterior"):
    return Profiles(np.array([0.5, 0.3, 0.2]), HEADS, rule)


def make_labels(users, seed=0, ids=None):
    """Labels of any margins, each of a digest of its own."""
    generator = np.random.default_rng(seed)
    margins_NK = 3 * generator.normal(size=(len(users), 3))
    return ProfileLabels(users, margins_NK, [generator.bytes(16) for _ in users], ids or [None] * len(users))


def cut(labels, rows):
    return ProfileLabels(*(column[rows] for column in labels))


def assert_same(profiles, others):
    assert profiles.users == others.users
    assert (profiles.heads, profiles.rule) == (others.heads, others.rule)
    assert_array_equal(profiles.prior_K, others.prior_K)
    assert_array_equal(profiles.counts(profiles.users), others.counts(profiles.users))
    assert_array_equal(profiles.weights(profiles.users), others.weights(profiles.users))
    for column, other in zip(profiles.kept(profiles.users), others.kept(profiles.users), strict=True):
        assert_array_equal(column, other)


def stored(path, columns):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            f"SELECT {columns} FROM labels JOIN users ON labels.user = users.number ORDER BY labels.number"
        ).fetchall()


def replayed(path, start):
    """Profiles after all labels in the file, learned in memory in their order."""
    rows = stored(path, "users.name, margins")
    margins_NK = np.array([np.frombuffer(margins) for _, margins in rows]).reshape(-1, len(start.prior_K))
    start.learn([name for name, _ in rows], margins_NK)
    return start


@pytest.fixture
def path(tmp_path):
    return tmp_path / "people" / "me.sqlite"


@pytest.fixture
def store(path):
    with ProfileStore.create(path, nobody()) as store:
        yield store


@settings(deadline=None, max_examples=12)
@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(NAMES), max_size=30),
    st.lists(st.integers(0, 30), max_size=2),
    st.sampled_from(list(RULES)),
)
def test_labels_through_the_file_are_as_in_memory_to_the_last_bit(tmp_path_factory, seed, users, cuts, rule):
    path, labels, memory = tmp_path_factory.mktemp("store") / "me", make_labels(users, seed), nobody(rule)
    learned = memory.learn(users, labels.margins_NK)
    parts = []
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True):
        with ProfileStore.create(path, nobody(rule)) as store:
            taught = store.learn(cut(labels, slice(first, last)))
            assert taught.new_N.all()
            parts.append(taught.learned)
            assert_same(taught.after, store.profiles(taught.after.users))
    for column, pieces in zip(learned, zip(*parts, strict=True), strict=True):
        assert_array_equal(column, np.concatenate(pieces))
    with ProfileStore(path) as store:
        assert_same(store.profiles(), memory)
        assert store.users == memory.users
        some = store.profiles(["7", "nobody", "ada"])
        assert_array_equal(some.weights(NAMES[:1]), memory.weights(NAMES[:1]))
        assert set(some.users) <= {"7", "ada"}
    assert_same(replayed(path, nobody(rule)), memory)


def test_each_label_is_learned_once(store):
    labels = make_labels(["ada", "bob", "ada"])
    first = store.learn(labels)
    kept = store.profiles()
    again = store.learn(labels)
    assert first.new_N.all()
    assert not again.new_N.any()
    assert not again.changed_N.any()
    assert_same(store.profiles(), kept)
    more = store.learn(
        ProfileLabels(
            [*labels.users, "ada"],
            np.vstack([labels.margins_NK, [[1.0, 2.0, 3.0]]]),
            [*labels.digests, b"the other way round"],
            [None] * 4,
        )
    )
    assert more.new_N.tolist() == [False, False, False, True]
    assert_array_equal(more.learned.label_N, [3])
    assert_array_equal(more.before.counts(["ada", "bob"]), [2, 1])
    assert_array_equal(more.after.counts(["ada", "bob"]), [3, 1])


def test_a_label_that_stands_twice_in_a_call_is_one(store):
    labels = make_labels(["ada"] * 3)
    twice = ProfileLabels(["ada"] * 3, labels.margins_NK, [b"a", b"b", b"a"], [None] * 3)
    assert store.learn(twice).new_N.tolist() == [True, True, False]
    # Another user's label of the same content is another label.
    assert store.learn(twice._replace(users=["bob"] * 3)).new_N.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("repeated", "news"),
    [("skip", [[1, 1, 0, 0, 1, 0], [0] * 6]), ("count", [[1, 1, 0, 1, 1, 1], [0, 0, 0, 1, 0, 1]])],
)
def test_what_a_label_id_means(repeated, news, store):
    """Equal ids of one user are one label; counting repeats, only they are."""
    digests, ids = [b"a", b"b", b"c", b"a", b"d", b"b"], ["1", "2", "1", None, "3", None]
    labels = ProfileLabels(["ada"] * 6, make_labels(["ada"] * 6).margins_NK, digests, ids)
    for number, new in enumerate(news):
        taught = store.learn(labels, repeated)
        assert taught.new_N.tolist() == list(map(bool, new))
        assert taught.changed_N.tolist() == [False, False, True, False, False, False], number
    assert store.learn(labels._replace(users=["bob"] * 6), repeated).new_N.tolist() == list(map(bool, news[0]))


def test_bad_labels_and_errors_of_the_block_leave_all_as_it_was(store, path):
    store.learn(make_labels(["ada"]))
    kept = store.profiles()
    with pytest.raises(ValueError, match="NaN for head 0"):
        store.learn(make_labels(["ada", "bob"], seed=1)._replace(margins_NK=np.array([[1.0] * 3, [np.nan, 0, 0]])))
    for error in (OSError("no space left"), SystemExit(75)):
        with pytest.raises(type(error)), store.learning(make_labels(["bob"], seed=2)):
            raise error
    assert_same(store.profiles(), kept)
    with ProfileStore(path) as other:
        other.learn(make_labels(["eve"], seed=3))
    assert store.users == ["ada", "eve"]


def test_a_store_begins_with_the_users_it_is_given(path):
    start = nobody("hedge")
    start.learn(["ada", "bob", "ada"], make_labels(["ada"] * 3).margins_NK)
    with ProfileStore.create(path, start, source="a digest") as store, ProfileStore.in_memory(start) as memory:
        for each in (store, memory):
            assert_same(each.profiles(), start)
        assert store.knows_json("a digest")
        assert not store.knows_json("another")
        store.remember_json("another")
        assert store.knows_json("another")
        labels = make_labels(["bob", "eve"], seed=1)
        taught = store.learn(labels)
        assert_array_equal(taught.learned.label_N, [2, 1])
        assert memory.users == ["ada", "bob"]
    start.learn(labels.users, labels.margins_NK)
    with ProfileStore(path) as store:
        assert_same(store.profiles(), start)
        assert stored(path, "COUNT(*)") == [(2,)]


def test_a_store_that_is_there_is_not_made_anew(store, path):
    store.learn(make_labels(["ada"]))
    with ProfileStore.create(path, nobody()) as other:
        assert other.users == ["ada"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["me.sqlite", "me.sqlite-shm", "me.sqlite-wal"]


def test_a_store_is_made_without_hard_links_too(path, monkeypatch):
    def refuse(*paths):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    for names in (["ada"], ["ada", "bob"]):
        with ProfileStore.create(path, nobody()) as store:
            store.learn(make_labels(names[-1:]))
            assert store.users == names
    assert [file.name for file in path.parent.iterdir()] == ["me.sqlite"]


def test_export_is_what_profiles_save_and_load(store, tmp_path):
    store.learn(make_labels(["ada", "bob", "ada"]))
    store.export(tmp_path / "out.json")
    assert_same(Profiles.load(tmp_path / "out.json", HEADS), store.profiles())


def all_bytes(folder):
    return b"".join(file.read_bytes() for file in folder.iterdir())


def test_of_whom_is_forgotten_no_byte_is_left(path):
    """Names are in ids of labels too, and rows of many lengths move between the pages of the file."""
    generator = random.Random(0)
    names = [f"user {number} {'x' * generator.randrange(300)} end" for number in range(300)]
    with ProfileStore.create(path, nobody()) as store, ProfileStore(path) as other:
        for step in range(4):
            users = generator.choices(names, k=150)
            store.learn(make_labels(users, seed=step, ids=[f"{user}: {step} {row}" for row, user in enumerate(users)]))
            *gone, last = generator.sample(store.users, 25)
            digests = [digest for name, digest in stored(path, "name, digest") if name == last]
            for user in gone:
                store.forget(user)
            kept = store.profiles([user for user in store.users if user != last])
            count = int(store.profiles().counts(last)[0])
            assert last.encode() in all_bytes(path.parent)
            assert store.forget(last) == count == len(digests)
            left = all_bytes(path.parent)
            assert not [user for user in names if user.encode() in left and user not in kept.users]
            assert not [digest for digest in digests if digest in left]
            assert_same(other.profiles(), kept)
        with pytest.raises(UserError, match=f"no profile of '{last}'"):
            store.forget(last)
        store.learn(make_labels([last], seed=9))
        assert store.profiles().counts(last) == [1]


def test_forgetting_that_was_cut_short_is_ended_by_the_next(path, monkeypatch):
    """While someone reads, the log cannot be cut."""
    monkeypatch.setattr(sqlite_files, "PATIENT_SECONDS", 0.05)
    with ProfileStore.create(path, nobody()) as store, closing(sqlite3.connect(path)) as reader:
        store.learn(make_labels(["Lady Lovelace", "bob"]))
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM users").fetchall()
        with pytest.raises(UserError, match=r"me.sqlite: forgotten, but another process reads"):
            store.forget("Lady Lovelace")
        assert b"Lovelace" in all_bytes(path.parent)
        reader.execute("COMMIT")
        with ProfileStore(path) as other:
            assert b"Lovelace" not in all_bytes(path.parent)
            assert other.users == ["bob"]
        with ProfileStore(path) as other:
            assert other.users == ["bob"]


def refused(message, path):
    with pytest.raises(UserError, match=message) as caught:
        ProfileStore(path).close()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_store_is_refused(path, tmp_path):
    refused("a folder; give a file", tmp_path)
    refused("No such file", tmp_path / "none")
    path.parent.mkdir()
    for content, message in ((b"", "empty, as of a file that was cut"), (b"not a store", "not a database")):
        path.write_bytes(content)
        refused(message, path)
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
    refused("an SQLite file, but no store of profiles", path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("PRAGMA user_version=2", "a store of version 2, and this release reads 1"),
        ("DROP TABLE facts", "no such table: facts; restore a copy"),
        ("UPDATE facts SET value = 'hedge' WHERE name = 'rule'", "does not fit its checksums"),
        ("DELETE FROM facts WHERE name = 'prior'", "does not fit its checksums"),
        ("DELETE FROM labels WHERE number = 2", "does not fit its checksums"),
        ("UPDATE users SET count = count + 1", "does not fit its checksums"),
    ],
)
def test_an_edited_store_is_refused(change, message, path):
    with ProfileStore.create(path, nobody()) as store:
        store.learn(make_labels(["ada", "bob", "ada"]))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)
    refused(message, path)


@pytest.mark.parametrize("change", ["name = 'eve'", "state = zeroblob(32)", "start_state = zeroblob(8)", "state = '5'"])
def test_an_edited_profile_is_refused(change, path):
    with ProfileStore.create(path, nobody()) as store:
        store.learn(make_labels(["ada", "bob", "ada"]))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE users SET {change} WHERE name = 'ada'")
    with ProfileStore(path) as store:
        for read in (store.profiles, lambda: store.profiles(["ada", "eve"])):
            with pytest.raises(UserError, match="does not fit its checksum: the file is damaged; give the file"):
                read()


def test_damage_is_refused_or_without_effect(path):
    with ProfileStore.create(path, nobody()) as store:
        store.learn(make_labels(["ada", "bob", "eve", "ada"] * 20, ids=list(map(str, range(80)))))
        kept = store.profiles()
    sound, generator, said = path.read_bytes(), random.Random(0), []
    damaged = [sound[: generator.randrange(1, len(sound))] for _ in range(40)]
    for _ in range(160):
        place = generator.randrange(len(sound))
        flipped = bytes([sound[place] ^ (1 << generator.randrange(8))])
        damaged.append(sound[:place] + flipped + sound[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        try:
            with ProfileStore(path) as store:
                assert_same(store.profiles(), kept)
                assert len(content) == len(sound)
        except UserError as error:
            said.append(str(error))
    assert len(said) >= 40
    assert not any("\n" in line for line in said)


def test_a_store_whose_log_alone_is_left_is_not_begun_anew(path):
    with ProfileStore.create(path, nobody()) as store:
        store.learn(make_labels(["ada"]))
        path.rename(path.with_name("lost"))
        with pytest.raises(UserError, match=r"me\.sqlite-wal is, and it may hold labels; bring the file back"):
            ProfileStore.create(path, nobody())
        path.with_name("lost").rename(path)
    with ProfileStore.create(path, nobody()) as store:
        assert store.users == ["ada"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("query_only=ON", "attempt to write a readonly database; see that the file and its folder may be written"),
        ("max_page_count=1", "database or disk is full; see that"),
    ],
)
def test_a_file_that_cannot_be_written_is_said_in_a_line(setting, message, store):
    store.learn(make_labels(["ada"]))
    kept = store.profiles()
    store._connection.execute(f"PRAGMA {setting}").fetchall()
    with pytest.raises(UserError, match=message) as caught:
        store.learn(make_labels(["bob"] * 500, seed=1))
    assert "\n" not in str(caught.value)
    assert_same(store.profiles(), kept)


def test_names_that_no_file_can_hold_are_refused(store):
    with pytest.raises(UserError, match="the name of a user holds an invalid character"):
        store.learn(make_labels(["\ud800"]))
    assert store.users == []


def test_whoever_waits_too_long_is_told_why(path, monkeypatch, capsys):
    monkeypatch.setattr(sqlite_files, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(sqlite_files, "PATIENT_SECONDS", 0.05)
    with ProfileStore.create(path, nobody()) as store, ProfileStore(path) as other:
        with store.learning(make_labels(["ada"])):
            assert other.users == []
            with pytest.raises(UserError, match="database is locked; another process uses it"):
                other.learn(make_labels(["bob"]))
        assert "me.sqlite: another process is writing; waiting" in capsys.readouterr().out
        other.learn(make_labels(["bob"], seed=1))
        assert store.users == ["ada", "bob"]


def test_what_is_kept_is_on_the_disk_and_what_is_deleted_is_overwritten(store):
    settings = ("journal_mode", "synchronous", "secure_delete")
    assert [store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in settings] == ["wal", 2, 1]


def test_on_a_network_file_system_there_is_no_shared_memory(path, tmp_path, monkeypatch):
    """A store that was made on a disk is taken over, with its log."""
    with ProfileStore.create(path, nobody()) as store:
        store.learn(make_labels(["ada"]))
        kept = store.profiles()
        for file in ("me.sqlite", "me.sqlite-wal"):
            (tmp_path / file).write_bytes((path.parent / file).read_bytes())
    (tmp_path / "mounts").write_text(f"none / ext4 rw 0 0\nhost:/home {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "mounts")
    for place in (tmp_path / "me.sqlite", tmp_path / "new"):
        with ProfileStore.create(place, nobody()) as store, ProfileStore(place) as other:
            assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
            if place.name == "me.sqlite":
                assert_same(store.profiles(), kept)
            store.learn(make_labels(["bob"], seed=1))
            other.learn(make_labels(["eve"], seed=2))
            assert store.users[-2:] == ["bob", "eve"]
            store.forget("eve")
        assert not any(file.name.endswith(("-shm", "-wal", "-journal")) for file in tmp_path.iterdir())


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    with forking(FORKSERVER) as fork:
        yield fork


def lines(*files):
    return [line for file in files if file.exists() for line in file.read_text().splitlines()]


def check_all_there(path, acknowledged):
    """Every acknowledged label is in the file once, and the states are those of the labels. Returns all labels."""
    digests = [digest.decode() for (digest,) in stored(path, "digest")]
    assert len(set(digests)) == len(digests)
    assert set(lines(*acknowledged)) <= set(digests)
    with ProfileStore(path) as store:
        assert_same(store.profiles(), replayed(path, profile_processes.nobody()))
    return digests


def test_labels_of_four_processes_are_all_kept(path, tmp_path, start):
    acknowledged = [tmp_path / f"{worker}.txt" for worker in range(4)]
    started = [start(profile_processes.teach, path, worker, 250, acknowledged[worker]) for worker in range(4)]
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4
    assert len(lines(*acknowledged)) == 1000
    assert len(check_all_there(path, acknowledged)) == 1000
    with ProfileStore(path) as store:
        assert_array_equal(store.profiles().counts(["everybody", "user 0", "user 3"]), [500, 125, 125])


def test_labels_outlive_the_death_of_a_process(path, tmp_path, start):
    acknowledged = [tmp_path / f"{worker}.txt" for worker in range(4)]
    victim = start(profile_processes.teach, path, 0, None, acknowledged[0])
    others = [start(profile_processes.teach, path, worker, 250, acknowledged[worker]) for worker in range(1, 4)]
    while len(lines(acknowledged[0])) < 50:
        victim.join(0.005)
        assert victim.exitcode is None
    victim.kill()
    for process in (victim, *others):
        process.join()
    assert [process.exitcode for process in (victim, *others)] == [-signal.SIGKILL, 0, 0, 0]
    digests = check_all_there(path, acknowledged)
    assert len(digests) - len(lines(*acknowledged)) in (0, 1)  # the label that was written and not yet acknowledged
    assert sum(digest.startswith("0 ") for digest in digests) == len(digests) - 750


def test_a_label_that_was_not_committed_is_none(path, start):
    with ProfileStore.create(path, profile_processes.nobody()) as store:
        store.learn(profile_processes.label(0, 1))
        kept = store.profiles()
        victim = start(profile_processes.die_learning, path)
        victim.join()
        assert victim.exitcode == -signal.SIGKILL
        assert_same(store.profiles(), kept)
        assert store.learn(profile_processes.label(9, 1)).new_N.all()
    check_all_there(path, [])
