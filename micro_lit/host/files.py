"""Files that are there whole or not at all."""

import contextlib
import fcntl
import glob
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file so that `path` holds the old content or the new one, whatever ends the process.

    Any number of processes may write the same path at once: each fills a file of its own beside it, and the last to
    finish wins. The bytes and the new name are on the disk when this returns. What killed writers of the same path have
    left is removed.

    Args:
        path: in a folder that exists.
        write: fills the file whose path it is given; that path ends in `.partial`, and its folder is that of `path`.

    Raises:
        OSError: the file cannot be written; `path` is as it was, and nothing is left beside it.
    """
    _write(path, write, os.replace)


def write_new(path: Path, write: Callable[[Path], Any]) -> None:
    """As `write_whole`, for a file that does not exist yet: of several processes the first to finish wins.

    Raises:
        FileExistsError: there is such a file by now; it is as it was.
        OSError: the file cannot be written.
    """
    _write(path, write, _link)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all. Raises `OSError`."""
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
    """Gives a file its name, unless the name is taken. A file system without hard links gets a copy."""
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
    """Removes the temporary files of writers that were killed; those of writers at work stay.

    name: of the file that they wrote; all files without it.
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
    """Removes what a killed process or a full disk has left of the last line of a file to which lines are added."""
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _partial(path: Path) -> Path:
    """A new name for the temporary file of one writer of `path`."""
    return path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")


@contextlib.contextmanager
def _locked_partial(path: Path) -> Iterator[Path]:
    """An empty temporary file beside `path`, locked: the lock ends with the process, however that ends."""
    while True:
        partial = _partial(path)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: then nobody removes it either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_open_as(descriptor, partial):  # nobody has removed it between the two lines above
                yield partial
                return
        finally:
            os.close(descriptor)


def _is_open_as(descriptor: int, path: Path) -> bool:
    """Whether a path still names the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    """Has the system put a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
