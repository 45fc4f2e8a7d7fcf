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
    partial = path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")
    try:
        write(partial)
        _sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all. Raises `OSError`."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _sync(path: Path) -> None:
    """Has the system put a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
