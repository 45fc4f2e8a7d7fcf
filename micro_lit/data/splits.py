"""Splits: finds the split of each file in a folder, and cuts keys into splits by hashing.

Dimension letters: N rows, P distinct keys.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")

# Shard names of the hub, such as train-00000-of-00001.parquet; any split name is possible.
SHARD = re.compile(r"^(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5,}\b")
# Words that name a split, by the rules of the hub.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}
WORD = re.compile(rf"(?:^|[-._ 0-9/])({'|'.join(SPLIT_OF)})(?=$|[-._ 0-9/])")


class Part(NamedTuple):
    """A file of a folder, and its split; None if the file name contains none."""

    path: Path
    split: str | None


def parts_of(folder: Path, endings: Sequence[str]) -> list[Part]:
    """Finds the files in a folder, else in its `data/` folder, else in subfolders named after splits.

    The split of a file follows the rules of the hub: `train_prefs` for train_prefs-00000-of-00001.parquet, `test` for
    my-test.jsonl, eval.csv or test/rows.parquet.

    Args:
        folder: the folder.
        endings: file name endings to include.
    """
    for here in (folder, folder / "data"):
        files = _files(here, endings)
        if files:
            return [Part(path, split_of(path.name)) for path in files]
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.lower() in SPLIT_OF)
    return [Part(path, SPLIT_OF[each.name.lower()]) for each in inside for path in _files(each, endings)]


def split_of(name: str) -> str | None:
    """The split in a file name (the first, if there are several words); None if there is none."""
    if shard := SHARD.match(name):
        return shard["split"]
    word = WORD.search(name.split(".")[0].lower())
    return SPLIT_OF[word[1]] if word else None


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(tuple(endings)) and not path.name.startswith((".", "_")) and path.is_file()
    )


def hashed_fraction(key: str, seed: int) -> float:
    """Hashes key and seed to [0, 1), so that splits do not change when rows are added or reordered."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest) / 2**64


def cut(keys: Sequence[str], seed: int, test: float, validation: float) -> NDArray[np.int8]:
    """Assigns keys to splits by `hashed_fraction`; the lowest go to the test split.

    If a split would be empty, it gets the nearest key, provided there are enough keys for all splits. Small files
    therefore have every split, and in large files the split of a key never changes.

    Args:
        keys: P distinct keys.
        seed: of the hash.
        test, validation: shares of the test and validation split, in [0, 1).

    Returns:
        Index of each key's split in `SPLITS`, [P].
    """
    place_P = np.array([hashed_fraction(key, seed) for key in keys])
    side_P = np.where(place_P < test, 2, np.where(place_P < test + validation, 1, 0))
    counts = np.bincount(side_P, minlength=len(SPLITS))
    wanted = [split for split, share in ((2, test), (1, validation), (0, 1.0)) if share > 0]
    if len(side_P) >= len(wanted):
        for split in wanted:
            if not counts[split]:
                counts[counts.argmax()] -= 1
                counts[split] = 1
    side_P[place_P.argsort(kind="stable")] = np.repeat([2, 1, 0], counts[::-1])
    return side_P.astype(np.int8)
