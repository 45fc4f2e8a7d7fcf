"""Files that are there whole or not at all."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file so that `path` holds the old content or the new one, whatever ends the process.

    Any number of processes may write the same path at once: each fills a file of its own beside it, and the last to
    finish wins. The bytes and the new name are on the disk when this returns.

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
    partial = path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")
    try:
        write(partial)
        _sync(partial)
        put(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


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


def _sync(path: Path) -> None:
    """Has the system put a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
