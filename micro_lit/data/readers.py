"""Readers: rows from files, folders and the hub, in chunks of columns, each row with a place to name in an error."""

import itertools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from micro_lit.data.formats import ENDINGS, READABLE, Chunk, Dataset, Row, readable, source_of
from micro_lit.data.splits import Part, parts_of
from micro_lit.errors import UserError

HUB = "hf://datasets/"  # as in hf://datasets/Anthropic/hh-rlhf/helpful-base, a folder of a hub data set


class Rows:
    """All rows of a path: which columns there are, and the rows themselves.

    Raises:
        UserError: nothing can be read there.
    """

    def __init__(self, path: str, split: str = "train", subset: str | None = None, revision: str | None = None) -> None:
        """split: which part of a folder or hub data set. subset, revision: the hub's configuration name and commit."""
        location = Path(path).expanduser()
        with readable(path):
            is_file, is_folder = location.is_file(), location.is_dir()
        if is_file:
            self.sources = [source_of(location)]
        elif is_folder:
            self.sources = _folder_sources(location, split)
        elif not path.startswith(HUB) and (
            location.is_absolute() or path.endswith((*ENDINGS, ".arrow")) or path.count("/") != 1
        ):
            raise UserError(
                f"{path}: no such file or folder. paths.data_dir or MICRO_LIT_DATA says where known sets lie; "
                f"for your own give {READABLE}, or the id of a hub data set. A path with spaces or any of = ( ) , "
                f"needs two kinds of quotes: 'data.train=\"my pairs.jsonl\"'"
            )
        else:
            self.sources = [Dataset(path, _hub_set(path, split, subset, revision))]

    @property
    def columns(self) -> list[str]:
        """Names of the columns of all files, in the order in which they come."""
        return list(dict.fromkeys(name for source in self.sources for name in source.columns))

    @property
    def files(self) -> list[Path]:
        """The files that are read; none where a library reads them."""
        return [source.path for source in self.sources if not isinstance(source, Dataset)]

    def chunks(self, wanted: Collection[str] | None = None) -> Iterator[Chunk]:
        """The rows. wanted: columns to decode; others may be missing from the rows. None: all."""
        return itertools.chain.from_iterable(source.chunks(wanted) for source in self.sources)


def read_rows(path: str, split: str = "train", subset: str | None = None, revision: str | None = None) -> Iterator[Row]:
    """Yields (place, row) from `path`, see `Rows`; each row with all its columns."""
    for chunk in Rows(path, split, subset, revision).chunks():
        yield from chunk


def _folder_sources(folder: Path, split: str) -> list[Any]:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return [Dataset(str(folder), _saved_set(folder, split))]
    parts = folder_parts(folder)
    if not parts:
        raise UserError(f"{folder}: nothing to read; give {READABLE}")
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
    return [source_of(path) for path in chosen]


def folder_parts(folder: Path) -> list[Part]:
    """The files of a folder that can be read, with their splits."""
    return parts_of(folder, ENDINGS)


def _saved_set(folder: Path, split: str) -> Any:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(folder))
    except Exception as error:  # a damaged folder raises whatever its reading runs into
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{folder}: a damaged folder of save_to_disk ({reason:.300})") from error
    if not isinstance(dataset, DatasetDict):
        return dataset
    if split not in dataset:
        raise UserError(f"{folder}: no split {split!r}; it has {', '.join(dataset)}")
    return dataset[split]


def has_split(path: str, split: str) -> bool:
    """Whether a folder on this machine holds a part of that name, as files or as an arrow split."""
    folder = Path(path).expanduser()
    try:
        if not folder.is_dir():
            return False
    except OSError:
        return False
    return (folder / split / "state.json").is_file() or split in {part.split for part in folder_parts(folder)}


def _hub_set(path: str, split: str, subset: str | None, revision: str | None) -> Any:
    from datasets import load_dataset

    owner, name, *folders = (*path.removeprefix(HUB).split("/"), "")
    folders = [each for each in folders if each]
    if not owner or not name:
        raise UserError(f"{path}: names no hub data set; give owner/name, or a folder of it: {HUB}owner/name/folder")
    folder = {"data_dir": "/".join(folders)} if folders else {}
    try:
        return load_dataset(f"{owner}/{name}", subset, split=split, revision=revision, **folder)
    except Exception as error:  # the hub client raises many kinds; each means: not to be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: neither a file nor a folder here, nor to be had from the hub ({reason})") from error
