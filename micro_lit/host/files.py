"""Atomic file writes."""

import contextlib
import fcntl
import glob
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file atomically: `path` holds either the old or the new content, even if the process is killed.

    Several processes may write the same path at once: each writes its own temporary file, and the last to finish wins.
    Content and name are synced to disk on return. Temporary files of killed writers of the same path are removed.

    Args:
        path: target path, in an existing folder.
        write: fills the temporary file whose path it is given; the path ends in `.partial`, in the folder of `path`.

    Raises:
        OSError: the file cannot be written; `path` is unchanged, and no temporary file is left.
    """
    _write(path, write, os.replace)


def write_new(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a new file atomically, see `write_whole`. Of several processes, the first to finish wins.

    Raises:
        FileExistsError: the file exists already; it is unchanged.
        OSError: the file cannot be written.
    """
    _write(path, write, _link)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically. Raises `OSError`."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _write(path: Path, write: Callable[[Path], Any], put: Callable[[Path, Path], Any]) -> None:
    with _locked_partial(path) as partial:
        try:
            write(partial)
            _sync(partial)
            put(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    _sync(path.parent)
    remove_partials(path.parent, path.name)


def _link(partial: Path, path: Path) -> None:
    """Gives the temporary file its final name unless it exists; copies it on file systems without hard links."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        with path.open("xb") as file:
            file.write(partial.read_bytes())
        _sync(path)
    partial.unlink()


def remove_partials(folder: Path, name: str = "") -> None:
    """Removes temporary files of killed writers; those of running writers are locked and stay.

    Args:
        folder: folder to clean.
        name: only temporary files of this file name; by default all.
    """
    for partial in folder.glob(f"{glob.escape(name)}.*.partial" if name else "*.partial"):
        with contextlib.suppress(OSError):  # a writer holds its lock, or has just finished
            descriptor = os.open(partial, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_open_as(descriptor, partial):
                    partial.unlink()
            finally:
                os.close(descriptor)


def cut_torn_line(path: Path) -> None:
    """Removes an incomplete last line, left by a killed process or a full disk, from an append-only file."""
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _partial(path: Path) -> Path:
    """A new name for the temporary file of one writer of `path`."""
    return path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")


@contextlib.contextmanager
def _locked_partial(path: Path) -> Iterator[Path]:
    """Creates a locked, empty temporary file beside `path`. The lock is released when the process ends."""
    while True:
        partial = _partial(path)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with contextlib.suppress(OSError):  # without file locks, other processes do not remove it either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_open_as(descriptor, partial):  # not removed by another process between open and flock
                yield partial
                return
        finally:
            os.close(descriptor)


def _is_open_as(descriptor: int, path: Path) -> bool:
    """Whether the path still refers to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    """Syncs a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
