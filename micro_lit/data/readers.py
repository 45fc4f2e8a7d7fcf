"""Reads rows from files, folders and the Hugging Face hub, in columnar chunks with locations for error messages."""

import itertools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from micro_lit.data.formats import ENDINGS, READABLE, Chunk, Dataset, Row, readable, source_of
from micro_lit.data.reader import Reader, ReaderRows, splits_of, takes
from micro_lit.data.splits import Part, parts_of
from micro_lit.errors import UserError

HUB = "hf://datasets/"  # as in hf://datasets/Anthropic/hh-rlhf/helpful-base, a folder of a hub data set


class Rows:
    """The columns and rows of a file, a folder or a hub data set."""

    def __init__(
        self,
        path: str,
        split: str = "train",
        subset: str | None = None,
        revision: str | None = None,
        reader: Reader | None = None,
    ) -> None:
        """Opens the path.

        Args:
            path: file, folder or hub id.
            split: of a folder or hub data set.
            subset, revision: configuration name and commit of a hub data set.
            reader: reader of an additional file format.

        Raises:
            UserError: when nothing can be read there.
        """
        endings = _endings(reader)
        location = Path(path).expanduser()
        with readable(path):
            is_file, is_folder = location.is_file(), location.is_dir()
        if is_file:
            self.sources = [_file_source(location, split, reader)]
        elif is_folder:
            self.sources = _folder_sources(location, split, reader)
        elif not path.startswith(HUB) and (
            location.is_absolute() or path.endswith((*endings, ".arrow")) or path.count("/") != 1
        ):
            raise UserError(
                f"{path}: no such file or folder. paths.data_dir or MICRO_LIT_DATA is the folder of known sets; "
                f"for your own give {_readable(reader)}, or the id of a hub data set. A path with spaces or any of "
                f"= ( ) , needs two kinds of quotes: 'data.train=\"my pairs.jsonl\"'"
            )
        else:
            self.sources = [Dataset(path, _hub_set(path, split, subset, revision))]

    @property
    def columns(self) -> list[str]:
        """Column names of all files, in order of appearance."""
        return list(dict.fromkeys(name for source in self.sources for name in source.columns))

    @property
    def files(self) -> list[Path]:
        """The files that are read; empty for data sets of the `datasets` library."""
        return [each.path for each in self.sources if not isinstance(each, Dataset) and each.path.is_file()]

    def chunks(self, wanted: Collection[str] | None = None) -> Iterator[Chunk]:
        """All rows in chunks. wanted: columns to decode, None for all; other columns may be missing from the rows."""
        return itertools.chain.from_iterable(source.chunks(wanted) for source in self.sources)


def read_rows(path: str, split: str = "train", subset: str | None = None, revision: str | None = None) -> Iterator[Row]:
    """Yields (location, row) from a path, with all columns; arguments as in `Rows`."""
    for chunk in Rows(path, split, subset, revision).chunks():
        yield from chunk


def _endings(reader: Reader | None) -> tuple[str, ...]:
    return ENDINGS if reader is None else (*ENDINGS, *reader.endings)


def _readable(reader: Reader | None) -> str:
    """The readable formats, for an error message."""
    own = "" if reader is None else f"a {', '.join(reader.endings)} file for {type(reader).__name__}, "
    return f"{own}{READABLE}"


def _file_source(path: Path, split: str, reader: Reader | None) -> Any:
    if reader is not None and takes(reader, path):
        return ReaderRows(reader, path, split)
    return source_of(path)


def _folder_sources(folder: Path, split: str, reader: Reader | None) -> list[Any]:
    if reader is not None and not reader.endings:
        return [ReaderRows(reader, folder, split)]
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return [Dataset(str(folder), _saved_set(folder, split))]
    parts = folder_parts(folder, reader)
    if not parts:
        raise UserError(f"{folder}: nothing to read; give {_readable(reader)}")
    names = sorted({part.split for part in parts if part.split is not None})
    unnamed = [part.path for part in parts if part.split is None]
    if names and unnamed:
        raise UserError(
            f"{folder}: {unnamed[0].relative_to(folder)} names no split, and other files do ({', '.join(names)}); give "
            "one file, or the folder of those that belong together"
        )
    chosen = [part.path for part in parts if not names or part.split == split]
    if not chosen:
        like = [name for name in names if name.startswith(split)] or names
        raise UserError(
            f"{folder}: no file of the split {split!r}; it has {', '.join(names)}. Say which to read with "
            f"data.train_split and data.test_split, such as data.train_split={like[0]}"
        )
    return [_file_source(path, split, reader) for path in chosen]


def folder_parts(folder: Path, reader: Reader | None = None) -> list[Part]:
    """The readable files of a folder, with their splits."""
    return parts_of(folder, _endings(reader))


def _saved_set(folder: Path, split: str) -> Any:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(folder))
    except Exception as error:  # damaged folders raise many kinds of exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{folder}: a damaged folder of save_to_disk ({reason:.300})") from error
    if not isinstance(dataset, DatasetDict):
        return dataset
    if split not in dataset:
        raise UserError(f"{folder}: no split {split!r}; it has {', '.join(dataset)}")
    return dataset[split]


def has_split(path: str, split: str, reader: Reader | None = None) -> bool:
    """Whether a local path has this split: as files, as an Arrow folder, or according to the reader."""
    folder = Path(path).expanduser()
    try:
        if not folder.is_dir() and not folder.is_file():
            return False
        if reader is not None and takes(reader, folder):
            return split in splits_of(reader, folder)
        if folder.is_file():
            return False
    except OSError:
        return False
    return (folder / split / "state.json").is_file() or split in {part.split for part in folder_parts(folder, reader)}


def _hub_set(path: str, split: str, subset: str | None, revision: str | None) -> Any:
    from datasets import load_dataset

    owner, name, *folders = (*path.removeprefix(HUB).split("/"), "")
    folders = [each for each in folders if each]
    if not owner or not name:
        raise UserError(f"{path}: names no hub data set; give owner/name, or a folder of it: {HUB}owner/name/folder")
    folder = {"data_dir": "/".join(folders)} if folders else {}
    try:
        return load_dataset(f"{owner}/{name}", subset, split=split, revision=revision, **folder)
    except Exception as error:  # the hub client raises many kinds of exceptions
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: no local file or folder, and not available from the hub ({reason})") from error
