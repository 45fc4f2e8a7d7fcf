"""A disk without space, for the files that are named."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from micro_lit.errors import UserError
from micro_lit.host import files


@contextlib.contextmanager
def full_disk(ending: str) -> Iterator[None]:
    """While inside, the kernel answers "No space left on device" to what is written to files of that ending."""
    new_name = files._partial

    def partial(path: Path) -> Path:
        name = new_name(path)
        if path.name.endswith(ending):
            name.symlink_to("/dev/full")
        return name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_partial", partial)
        yield


def assert_whole(write: Callable[[], object], folder: Path) -> None:
    """Fills the disk at each file in turn that `write` makes below a folder: that one stays old, and all are whole."""
    write()
    new = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert new
    for path in new:
        for each in new:
            each.write_bytes(b"old")
        with full_disk(path.name), pytest.raises((OSError, UserError), match=r"No space left on device"):
            write()
        assert path.read_bytes() == b"old"
        assert all(each.read_bytes() in (b"old", content) for each, content in new.items())
        assert {each for each in folder.rglob("*") if each.is_file()} == set(new)
