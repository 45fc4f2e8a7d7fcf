"""SQLite files shared by several processes: connections, transactions and secure deletion."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from micro_lit.errors import UserError
from micro_lit.host.file_systems import network_file_system

QUIET_SECONDS, PATIENT_SECONDS = 2.0, 600.0  # wait for another process: before printing a line, and at most

UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)
OURS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InternalError)


def journal_mode(path: Path) -> str:
    """WAL, which allows reads during a transaction; DELETE on network file systems, which lack WAL's shared memory."""
    return "WAL" if network_file_system(path.parent) is None else "DELETE"


def connect(path: Path) -> sqlite3.Connection:
    """Opens an existing file. Commits are synced to disk (synchronous=FULL); deleted rows are overwritten."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    try:
        _set(connection, "busy_timeout", 1000 * PATIENT_SECONDS)
        if journal_mode(path) == "DELETE":
            # The file may have been copied here in WAL mode: EXCLUSIVE allows reading it without shared memory.
            _set(connection, "locking_mode", "EXCLUSIVE")
            if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                _set(connection, "journal_mode", "DELETE")
            _set(connection, "locking_mode", "NORMAL")
        for name, value in (("synchronous", "FULL"), ("secure_delete", "ON"), ("temp_store", "MEMORY")):
            _set(connection, name, value)
    except BaseException:
        connection.close()
        raise
    return connection


def is_sqlite(path: Path) -> bool:
    """Whether an existing file is an SQLite file. Uses SQLite: closing the file ourselves would drop its locks."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA schema_version").fetchall()
    except sqlite3.DatabaseError as error:
        return _code(error) != sqlite3.SQLITE_NOTADB
    return True


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Context manager for a write transaction: commits at the end of the block, rolls back on an exception.

    No other process writes meanwhile. Exceptions of the block are re-raised unchanged.

    Raises:
        UserError: the transaction cannot begin or be committed.
    """
    with one_line_errors(path):
        _begin(connection, path)
    try:
        yield
        with one_line_errors(path):
            connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def wipe(connection: sqlite3.Connection) -> bool:
    """Removes the bytes of deleted rows from the file and its log. Returns False if a reader still uses the log.

    VACUUM rewrites the file: when rows move between pages, copies of them remain, even with secure_delete.
    """
    connection.execute("VACUUM")
    [busy, *_] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


@contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Context manager: converts database and file errors of `path` to a one-line `UserError`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, OURS):
            raise
        if _code(error) == sqlite3.SQLITE_BUSY:
            remedy = "another process uses it; let that one end, and try again"
        elif _code(error) in UNWRITABLE:
            remedy = "see that the file and its folder may be written, and that the disk has space"
        else:
            remedy = "restore a copy of the file, or start a new one under another name"
        raise UserError(f"{path}: {error}; {remedy}") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: the name of a user holds an invalid character ({error.reason})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _set(connection: sqlite3.Connection, name: str, value: object) -> None:
    connection.execute(f"PRAGMA {name}={value}").fetchall()


def _begin(connection: sqlite3.Connection, path: Path) -> None:
    for seconds in (QUIET_SECONDS, PATIENT_SECONDS):
        _set(connection, "busy_timeout", int(1000 * seconds))
        try:
            connection.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError as error:
            if seconds == PATIENT_SECONDS or _code(error) != sqlite3.SQLITE_BUSY:
                raise
            print(f"{path}: another process is writing; waiting for at most {PATIENT_SECONDS:.0f} s", flush=True)
    _set(connection, "busy_timeout", int(1000 * PATIENT_SECONDS))


def _code(error: sqlite3.Error) -> int:
    """The primary SQLite error code; 0 for an error raised by Python's module."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
