"""The base class of reader plug-ins: add support for another file format with one class of your own.

Example: `data.reader._target_=mine.XmlReader 'packages=[mine]'`

    class XmlReader(Reader):
        endings = (".xml",)

        def read(self, path, split):
            for number, pair in enumerate(ElementTree.parse(path).iter("pair"), start=1):
                yield f"{path}, pair {number}", {each.tag: each.text for each in pair}
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micro_lit.data.formats import PEEKED, SLICE_ROWS, Chunk, Row
from micro_lit.data.messages import BadRow
from micro_lit.errors import UserError


class Reader:
    """Base class of readers for additional file formats; only `read` must be implemented.

    Attributes:
        endings: file name endings that this reader handles; other files are read as usual. If empty, the reader gets
            every path of the set, folders included.
        version: a text to change whenever the output of `read` changes. It enables the cache for large files, keyed by
            version, attributes of the reader and content of the file. None turns the cache off.
    """

    endings: tuple[str, ...] = ()
    version: str | None = None

    def read(self, path: Path, split: str | None) -> Iterable[tuple[str, Mapping[str, Any] | BadRow]]:
        """Yields the rows of a path.

        Args:
            path: a file or folder.
            split: one of `splits(path)`; None if that is empty.

        Yields:
            A location for error messages, such as "a.xml, pair 3", and the row as a mapping of its columns. A `BadRow`
            instead of a row is counted under its kind.
        """
        raise NotImplementedError

    def splits(self, path: Path) -> Sequence[str]:
        """Names of the splits in one path, such as ["train", "test"]; empty (default) if it has no splits."""
        return ()


def check_reader(reader: Any) -> None:
    """Raises `UserError` unless the object is a valid `Reader`, as far as can be checked without a file."""
    name = type(reader).__name__
    if not isinstance(reader, Reader):
        raise UserError(f"data.reader: {name} is no reader; extend micro_lit.data.reader.Reader")
    if type(reader).read is Reader.read:
        raise UserError(f"data.reader: {name} has no method read(path, split)")
    endings = reader.endings
    if not isinstance(endings, tuple) or not all(isinstance(each, str) and each for each in endings):
        raise UserError(f"data.reader: {name}.endings={endings!r:.100} is not allowed; give a tuple, as ('.xml',)")
    if not isinstance(reader.version, str | None):
        raise UserError(f"data.reader: {name}.version={reader.version!r:.100} is not allowed; give text or None")


def takes(reader: Reader | None, path: Path) -> bool:
    """Whether a path is read by this reader instead of a built-in format."""
    return reader is not None and (not reader.endings or path.name.endswith(reader.endings))


def splits_of(reader: Reader, path: Path) -> list[str]:
    """The splits in a path. Raises `UserError` if the reader fails or returns anything but texts."""
    try:
        found = list(reader.splits(path))
    except Exception as error:
        raise _reader_error(reader, path, error) from error
    if not all(isinstance(name, str) for name in found):
        raise UserError(f"{path}: {type(reader).__name__}.splits gives {found!r:.100}; it must give texts")
    return found


def identity(reader: Reader) -> list[str | None]:
    """Cache key of a reader: class, version and attributes."""
    kind = type(reader)
    return [f"{kind.__module__}.{kind.__qualname__}", reader.version, repr(sorted(vars(reader).items()))]


@dataclass(frozen=True)
class PlacedChunk(Chunk):
    """A chunk with the locations given by the reader; `numbers` are indices into `places`."""

    places: Sequence[str] = ()

    def place(self, at: int) -> str:
        return self.places[self.numbers[at]]


class ReaderRows:
    """The validated rows of one path, a source for `micro_lit.data.readers.Rows`; can be read only once."""

    def __init__(self, reader: Reader, path: Path, split: str) -> None:
        """Raises `UserError` if the path does not have this split."""
        self.reader, self.path = reader, path
        known = splits_of(reader, path)
        if known and split not in known:
            raise UserError(f"{path}: no split {split!r}; it has {', '.join(known)}")
        self._rows = self._checked(split if known else None)
        self._peeked: list[Row] = []

    @property
    def columns(self) -> list[str]:
        """Column names in the first `PEEKED` rows."""
        if not self._peeked:
            self._peeked = list(itertools.islice(self._rows, PEEKED))
        return list(dict.fromkeys(name for _, row in self._peeked if isinstance(row, dict) for name in row))

    def chunks(self, wanted: Collection[str] | None) -> Iterator[Chunk]:
        rows = itertools.chain(self._peeked, self._rows)
        while some := list(itertools.islice(rows, SLICE_ROWS)):
            places, found = zip(*some, strict=True)
            yield PlacedChunk(str(self.path), range(len(found)), list(found), places)

    def _checked(self, split: str | None) -> Iterator[Row]:
        name = type(self.reader).__name__
        try:
            found = self.reader.read(self.path, split)
            if not isinstance(found, Iterable):
                raise UserError(f"{self.path}: {name}.read gives {found!r:.100}; it must yield (place, row)")
            for each in found:
                if not (isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str)):
                    raise UserError(
                        f"{self.path}: {name}.read yields {each!r:.100}; it must yield (place, row), the place a text"
                    )
                yield each[0], self._row(*each)
        except UserError:
            raise
        except Exception as error:
            raise _reader_error(self.reader, self.path, error) from error

    def _row(self, place: str, row: Any) -> dict[str, Any] | BadRow:
        if isinstance(row, BadRow):
            return row
        name = type(self.reader).__name__
        if not isinstance(row, Mapping):
            raise UserError(f"{place}: {name}.read yields a row {row!r:.100}; it must be a mapping")
        for column in row:
            if not isinstance(column, str):
                raise UserError(f"{place}: {name}.read yields a column {column!r:.100}; its name must be text")
        return dict(row)


def _reader_error(reader: Reader, path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"{path}: {type(reader).__name__} cannot read it ({type(error).__name__}: {reason:.300})")
