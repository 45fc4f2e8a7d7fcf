"""Splits: which files of a folder belong to which split, and on which side of a cut a row is.

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

# As the hub names the files of a split: train-00000-of-00001.parquet, and any other name in the same form.
SHARD = re.compile(r"^(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5,}\b")
# Words that name a split, as the hub knows them.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
WORD = re.compile(rf"(?:^|[-._ 0-9/])({'|'.join(SPLIT_OF)})(?=$|[-._ 0-9/])")


class Part(NamedTuple):
    """A file of a folder, and the split it belongs to; None where its name says nothing."""

    path: Path
    split: str | None


def parts_of(folder: Path, endings: Sequence[str]) -> list[Part]:
    """The files of a folder, or of its `data/`, or of the folders in it that are named by splits.

    The split of a file is what the hub would take it for: `train_prefs` of train_prefs-00000-of-00001.parquet, `test`
    of my-test.jsonl, eval.csv or test/rows.parquet.
    """
    for here in (folder, folder / "data"):
        files = _files(here, endings)
        if files:
            return [Part(path, split_of(path.name)) for path in files]
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.lower() in SPLIT_OF)
    return [Part(path, SPLIT_OF[each.name.lower()]) for each in inside for path in _files(each, endings)]


def split_of(name: str) -> str | None:
    """The split that a file's name tells; of several words in it the first."""
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
    """A number in [0, 1) that depends on the key and the seed alone, so that a split survives new or reordered rows."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest) / 2**64


def cut(keys: Sequence[str], seed: int, test: float, validation: float) -> NDArray[np.int8]:
    """The split of each of P different keys, as its number in `SPLITS`: by `hashed_fraction`, the lowest to the test.

    A split that none falls to takes the key nearest to it, while there are keys enough for all: a small file has every
    split, and of a large one each key is where it has always been.
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
