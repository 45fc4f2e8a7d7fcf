"""A store of profiles: an SQLite file that several processes may read and update, with each label learned once.

For each user it stores the initial state (zeros, or the state imported from a JSON file) and the current state. Each
label has its own row. The current state is, to the last bit, the initial one updated by all labels of the user in their
order. The mathematics is that of `Profiles`. A label is synced to disk when `learn` returns.

Dimension letters: N labels, K heads.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from micro_lit.adapt.checked import Method
from micro_lit.adapt.labels import Array, Floats
from micro_lit.adapt.profiles import REMEDY, RULES, Kept, Learned, Profiles
from micro_lit.errors import UserError
from micro_lit.host.files import write_new
from micro_lit.host.sqlite_files import connect, journal_mode, one_line_errors, transaction, wipe

APPLICATION, VERSION = 0x6D6C7073, 1

TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE json_files (digest TEXT PRIMARY KEY);
CREATE TABLE users (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, start_count INTEGER NOT NULL, start_state BLOB NOT NULL,
    count INTEGER NOT NULL, state BLOB NOT NULL, checksum TEXT NOT NULL
);
CREATE TABLE labels (
    number INTEGER PRIMARY KEY, user INTEGER NOT NULL REFERENCES users (number), digest BLOB NOT NULL, label_id TEXT,
    margins BLOB NOT NULL, time TEXT NOT NULL
);
CREATE INDEX labels_by_digest ON labels (user, digest);
CREATE INDEX labels_by_id ON labels (user, label_id) WHERE label_id IS NOT NULL;
"""
UNWIPED = "unwiped"  # fact that marks a removed user whose bytes may still be in the file

Repeated = Literal["skip", "count"]


class ProfileLabels(NamedTuple):
    """N labels in the order they were given.

    digests: digest of each label's content; equal for equal labels. label_ids: identifiers of the labels, or None.
    """

    users: Sequence[str]
    margins_NK: Floats
    digests: Sequence[bytes]
    label_ids: Sequence[str | None]


class ProfileUpdate(NamedTuple):
    """The result of learning N labels. `new_N` marks those that were learned; `learned` has one row for each of them.

    changed_N: labels with a known label_id whose content differs from the label learned under it. before, after:
        profiles of the labels' users.
    """

    new_N: NDArray[np.bool_]
    changed_N: NDArray[np.bool_]
    learned: Learned
    before: Profiles
    after: Profiles


class ProfileStore:
    """An open store, for use in the process and thread that opened it. Close it, or use it as a context manager.

    Every method raises `UserError`, one line with file and remedy, if the file cannot be read or written, is damaged,
    or is not a store of this version.

    Args:
        path: path of the store.
        adapt: the adaptation that the store's rule names, if it is a custom one.
    """

    def __init__(self, path: Path, adapt: Method | None = None) -> None:
        self.path, self.adapt = path, adapt
        if path.is_dir():
            raise UserError(f"{path}: a folder; give a file")
        with one_line_errors(path):
            if not path.stat().st_size:
                raise UserError(f"{path}: empty, as of a file that was cut; {REMEDY}")
            self._connection = connect(path)
            try:
                self._check()
            except BaseException:
                self._connection.close()
                raise

    @classmethod
    def create(cls, path: Path, start: Profiles, source: str | None = None) -> "ProfileStore":
        """Creates and opens a store with the users of `start`; an existing store is opened unchanged.

        Args:
            path: path of the store.
            start: initial profiles.
            source: digest of the JSON file that `start` was read from.
        """

        def fill(partial: Path) -> None:
            with closing(sqlite3.connect(partial, isolation_level=None)) as connection:
                connection.execute(f"PRAGMA journal_mode={journal_mode(path)}")
                _fill(connection, start, source)

        with one_line_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            left = [other for suffix in ("-wal", "-journal") if (other := Path(f"{path}{suffix}")).exists()]
            # Check `left` before `path`: another process that has just created the store may have created these.
            if left and not path.exists():
                raise UserError(
                    f"{path}: not there, but {left[0].name} is, and it may hold labels; bring the file back "
                    "beside it, or delete it to start anew"
                )
            try:
                write_new(path, fill)
            except FileExistsError:
                if not path.exists():
                    raise
        return cls(path, start.adapt)

    @classmethod
    def in_memory(cls, start: Profiles) -> "ProfileStore":
        """A store in memory, without a file."""
        store = cls.__new__(cls)
        store.adapt = start.adapt
        store.path, store._connection = Path(":memory:"), sqlite3.connect(":memory:", isolation_level=None)
        _fill(store._connection, start, None)
        store._check()
        return store

    def __enter__(self) -> "ProfileStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @property
    def users(self) -> list[str]:
        """Users with a profile, in the order of their first labels."""
        with one_line_errors(self.path):
            return [name for (name,) in self._connection.execute("SELECT name FROM users ORDER BY number")]

    def profiles(self, users: Sequence[str] | None = None) -> Profiles:
        """Reads the profiles of some users, or of all, into memory. Users without a profile stay without one."""
        columns = "SELECT name, start_count, start_state, count, state, checksum FROM users"
        with one_line_errors(self.path):
            if users is None:
                rows = self._connection.execute(f"{columns} ORDER BY number").fetchall()
            else:
                found = (self._connection.execute(f"{columns} WHERE name = ?", (user,)) for user in users)
                rows = [row for answer in found for row in answer]
        profiles, num_heads = self._nobody(), len(self.prior_K)
        states = np.empty((len(rows), num_heads + 1))
        for row, (*facts, checksum) in enumerate(rows):
            if checksum != _facts_checksum(*facts):
                raise UserError(
                    f"{self.path}: the profile of {facts[0]!r} does not fit its checksum: the file is damaged; {REMEDY}"
                )
            states[row] = np.frombuffer(facts[-1], dtype="<f8")
        counts = np.array([row[3] for row in rows], dtype=np.int64)
        profiles.keep([row[0] for row in rows], Kept(states[:, :-1], counts, states[:, -1]))
        if self.adapt is not None:
            for user in profiles.users:
                profiles.keep_margins(user, self._margins(user))
        return profiles

    def _margins(self, user: str) -> Array:
        """[n, K] margins of all labels of a user, in their order."""
        query = "SELECT margins FROM labels WHERE user = (SELECT number FROM users WHERE name = ?) ORDER BY number"
        with one_line_errors(self.path):
            rows = [np.frombuffer(margins, dtype="<f8") for (margins,) in self._connection.execute(query, (user,))]
        return np.array(rows).reshape(-1, len(self.prior_K))

    def learn(self, labels: ProfileLabels, repeated: Repeated = "skip") -> ProfileUpdate:
        """Learns labels in one transaction, synced to disk on return. See `learning`."""
        with self.learning(labels, repeated) as taught:
            return taught

    @contextmanager
    def learning(self, labels: ProfileLabels, repeated: Repeated = "skip") -> Iterator[ProfileUpdate]:
        """Context manager that learns labels: commits when the block ends, rolls back if it raises.

        Other processes that want to learn wait, and then continue from the new state.

        Args:
            labels: labels of any users, with or without a profile. A label that the same user gave before, also one
                earlier in `labels`, is skipped.
            repeated: which labels are repeats. "skip": those with a known digest or a known label_id. "count": only
                those with a known label_id; labels without one are new.

        Yields:
            The result of learning.

        Raises:
            ValueError: invalid margins; nothing has changed.
        """
        with transaction(self._connection, self.path):
            with one_line_errors(self.path):
                names = list(dict.fromkeys(labels.users))
                before, after = self.profiles(names), self.profiles(names)
                new_N, changed_N = self._compare(labels, repeated)
                rows = np.flatnonzero(new_N)
                learned = after.learn([labels.users[row] for row in rows], labels.margins_NK[rows])
                self._write(labels, rows, after)
            yield ProfileUpdate(new_N, changed_N, learned, before, after)

    def forget(self, user: str) -> int:
        """Deletes a user and all their labels, also their bytes in the file. Returns their number of labels."""
        with transaction(self._connection, self.path), one_line_errors(self.path):
            found = self._connection.execute("SELECT number, count FROM users WHERE name = ?", (user,)).fetchone()
            if found is None:
                raise UserError(f"{self.path}: no profile of {user!r}")
            number, count = found
            self._connection.execute("DELETE FROM labels WHERE user = ?", (number,))
            self._connection.execute("DELETE FROM users WHERE number = ?", (number,))
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, '')", (UNWIPED,))
        with one_line_errors(self.path):
            self._wipe()
        return count

    def export(self, path: Path) -> None:
        """Writes all profiles as `Profiles.save` does. Raises `OSError`; `UserError` for custom rules."""
        if self.rule not in RULES:
            raise UserError(
                f"{self.path}: kept by the rule {self.rule}, whose weights follow from labels; these are not exported"
            )
        self.profiles().save(path)

    def knows_json(self, digest: str) -> bool:
        """Whether a JSON file, by its digest, was imported here or exported from here."""
        with one_line_errors(self.path):
            return bool(self._connection.execute("SELECT 1 FROM json_files WHERE digest = ?", (digest,)).fetchone())

    def remember_json(self, digest: str) -> None:
        with one_line_errors(self.path):
            self._connection.execute("INSERT OR IGNORE INTO json_files VALUES (?)", (digest,))

    def _check(self) -> None:
        """Raises `UserError` unless this is an intact store; otherwise reads heads, rule and prior."""
        application, version = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application != APPLICATION:
            raise UserError(f"{self.path}: an SQLite file, but no store of profiles; give another name")
        if version > VERSION:
            raise UserError(
                f"{self.path}: a store of version {version}, and this release reads {VERSION}; use a newer one"
            )
        [sound] = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        if sound != "ok":
            raise UserError(f"{self.path}: damaged ({sound.splitlines()[0]}); {REMEDY}")
        facts = dict(self._connection.execute("SELECT name, value FROM facts"))
        rules = [facts.get(name) for name in ("heads", "rule", "prior")]
        counted = self._connection.execute(
            "SELECT 1 FROM users AS u WHERE count != start_count + (SELECT COUNT(*) FROM labels WHERE user = u.number)"
        ).fetchone()
        if facts.get("checksum") != _facts_checksum(*rules) or counted:
            raise UserError(f"{self.path}: it does not fit its checksums: edited or damaged; {REMEDY}")
        self.heads, self.rule, prior = rules
        self.prior_K: Array = np.array(json.loads(prior))
        if UNWIPED in facts:
            self._wipe()

    def _nobody(self) -> Profiles:
        return Profiles(self.prior_K, self.heads, self.rule, self.adapt)

    def _compare(self, labels: ProfileLabels, repeated: Repeated) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Masks of the labels that are new, and of those with a known label_id but changed content."""
        new_N, changed_N = (np.zeros(len(labels.users), dtype=bool) for _ in range(2))
        digest_of: dict[tuple[str, str], bytes] = {}
        given: set[tuple[str, bytes]] = set()
        stored = "SELECT digest FROM labels WHERE user = (SELECT number FROM users WHERE name = ?)"
        for row, (user, digest, label_id) in enumerate(
            zip(labels.users, labels.digests, labels.label_ids, strict=True)
        ):
            if label_id is not None:
                first = digest_of.get((user, label_id)) or self._find(f"{stored} AND label_id = ?", user, label_id)
                if first is not None:
                    changed_N[row] = first != digest
                    continue
            known = (user, digest) in given or self._find(f"{stored} AND digest = ?", user, digest) is not None
            if repeated == "skip" and known:
                continue
            new_N[row] = True
            given.add((user, digest))
            if label_id is not None:
                digest_of[user, label_id] = digest
        return new_N, changed_N

    def _find(self, query: str, *values: Any) -> bytes | None:
        found = self._connection.execute(query, values).fetchone()
        return found and found[0]

    def _write(self, labels: ProfileLabels, rows: NDArray[np.int64], profiles: Profiles) -> None:
        number_of = {}
        for user in dict.fromkeys(labels.users[row] for row in rows):
            found = self._connection.execute(
                "SELECT number, start_count, start_state FROM users WHERE name = ?", (user,)
            ).fetchone()
            number, *start = found or (None, 0, bytes(8 * (len(self.prior_K) + 1)))
            facts = (user, *start, *_state(profiles, user))
            written = self._connection.execute(
                "INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?, ?, ?, ?)", (number, *facts, _facts_checksum(*facts))
            )
            number_of[user] = written.lastrowid
        time = datetime.now(UTC).isoformat(timespec="seconds")
        self._connection.executemany(
            "INSERT INTO labels (user, digest, label_id, margins, time) VALUES (?, ?, ?, ?, ?)",
            (
                (
                    number_of[labels.users[row]],
                    labels.digests[row],
                    labels.label_ids[row],
                    labels.margins_NK[row].astype("<f8").tobytes(),
                    time,
                )
                for row in rows
            ),
        )

    def _wipe(self) -> None:
        if not wipe(self._connection):
            raise UserError(
                f"{self.path}: forgotten, but another process reads the file, and its log still holds the bytes; the "
                "next command that opens the file removes them"
            )
        self._connection.execute("DELETE FROM facts WHERE name = ?", (UNWIPED,))


def _fill(connection: sqlite3.Connection, start: Profiles, source: str | None) -> None:
    connection.executescript(
        f"BEGIN; PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION}; {TABLES} COMMIT"
    )
    connection.execute("BEGIN")
    rules = (start.heads, start.rule, json.dumps(start.prior_K.tolist()))
    facts = zip(("heads", "rule", "prior", "checksum"), (*rules, _facts_checksum(*rules)), strict=True)
    connection.executemany("INSERT INTO facts VALUES (?, ?)", facts)
    if source is not None:
        connection.execute("INSERT INTO json_files VALUES (?)", (source,))
    for user in start.users:
        row = (user, *_state(start, user), *_state(start, user))
        connection.execute("INSERT INTO users VALUES (NULL, ?, ?, ?, ?, ?, ?)", (*row, _facts_checksum(*row)))
    connection.execute("COMMIT")


def _state(profiles: Profiles, user: str) -> tuple[int, bytes]:
    """A user's number of labels, and as float64 bytes the losses of each head and of the weights."""
    kept = profiles.kept(user)
    return int(kept.count_S[0]), np.append(kept.loss_SK[0], kept.lost_S).astype("<f8").tobytes()


def _facts_checksum(*values: Any) -> str:
    """Checksum of text, numbers and bytes as SQLite returns them."""
    return hashlib.blake2b(ascii(values).encode(), digest_size=16).hexdigest()
