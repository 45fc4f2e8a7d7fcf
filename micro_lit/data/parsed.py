"""The cache of parsed files: columns of records on disk, keyed by the content of the data files.

A cache file is an Arrow file with one row of lists, followed by a checksum; it is memory-mapped. It is written
atomically, and ignored and rewritten if it is damaged. Its name is a digest of the data files, the settings that affect
records, and the code of this package, so that any change to these misses the cache.
"""

import contextlib
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import xxhash

from micro_lit.data.columns import CODES, VALUES, Columns, Digests, first_codes
from micro_lit.data.counts import Counts
from micro_lit.data.messages import Message, Prompt
from micro_lit.data.texts import Text, text_digests
from micro_lit.host.files import write_whole

# For smaller files parsing is as fast as the cache.
LEAST_BYTES = 2**24

CHECKSUM_BYTES = 16  # of a 128-bit xxh3

TEXT, TURNS = "t", "m"  # prefixes of stored prompts: a single user turn as its text, others as JSON


def through_cache(
    folder: Path | None, files: Sequence[Path], spec: Mapping[str, Any], read: Callable[[], tuple[Columns, Counts]]
) -> tuple[Columns, Counts]:
    """Returns the result of `read`, from the cache if it is stored there.

    Args:
        folder: of the cache; None turns it off.
        files: the files that `read` reads; none for hub data sets, which are not cached here.
        spec: the settings that affect records, as JSON types.
        read: parses the files.
    """
    if folder is None or not files or sum(path.stat().st_size for path in files) < LEAST_BYTES:
        return read()
    path = folder / f"{_digest(files, spec)}.arrow"
    # No file, a damaged one, or one with another layout.
    with contextlib.suppress(OSError, pyarrow.ArrowException, ValueError, KeyError, TypeError):
        return _load(path)
    columns, counts = read()
    with contextlib.suppress(OSError):  # full disk or read-only folder: the next run parses again
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, functools.partial(_save_columns, columns, counts))
    return columns, counts


def content_digest(path: Path) -> bytes:
    """xxh3-128 digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).digest()


def _digest(files: Sequence[Path], spec: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True, default=str).encode() + _code_digest())
    for path in files:
        digest.update(f"{path.name}\n".encode() + content_digest(path))
    return digest.hexdigest()[:32]


@functools.cache
def _code_digest() -> bytes:
    """Digest of the modules of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


def _save_columns(columns: Columns, counts: Counts, path: Path) -> None:
    words = {**columns.values, "prompt": [_serialised(prompt) for prompt in columns.values["prompt"]]}
    fields: dict[str, pyarrow.Array] = {f"values.{name}": _one(words[name], pyarrow.large_string()) for name in VALUES}
    fields |= {f"codes.{name}": _one(columns.codes[name].astype(np.int32), pyarrow.int32()) for name in CODES}
    fields |= {
        "gap": _one(columns.gap_N, pyarrow.float64()),
        "first": _one(columns.first_N, pyarrow.int8()),
        "row": _one(columns.row_N, pyarrow.int64()),
    }
    digests = _record_digests(columns)
    fields |= {
        "digests.prompt": _one(digests.prompt_T, pyarrow.int64()),
        "digests.response": _one(digests.response_T, pyarrow.int64()),
        "digests.digest": _one(digests.digest_T2.reshape(-1), pyarrow.uint64()),
    }
    counts_json = json.dumps(vars(counts))
    table = pyarrow.table(fields).replace_schema_metadata({"counts": counts_json})
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    checksum = content_digest(path)
    with path.open("ab") as file:
        file.write(checksum)


def _record_digests(columns: Columns) -> Digests:
    """Digests of all texts except contexts with a criterion, which depend on settings."""
    prompts, responses = columns.values["prompt"], columns.values["response"]
    width = len(responses) + 1
    first_N = columns.codes["prompt"] * width
    keys = [first_N, *(first_N + 1 + columns.codes[name] for name in ("chosen", "rejected"))]
    _, key_T = first_codes(np.concatenate(keys))
    prompt_T, response_T = np.divmod(key_T, width)
    texts = [
        Text(prompts[prompt], responses[response - 1] if response else None)
        for prompt, response in zip(prompt_T.tolist(), response_T.tolist(), strict=True)
    ]
    return Digests(prompt_T, response_T - 1, text_digests(texts))


def _one(values: Any, kind: pyarrow.DataType) -> pyarrow.Array:
    """A list of values as the only row of a column."""
    array = pyarrow.array(values, kind)
    return pyarrow.LargeListArray.from_arrays(pyarrow.array([0, len(array)], pyarrow.int64()), array)


def _load(path: Path) -> tuple[Columns, Counts]:
    whole = pyarrow.memory_map(str(path)).read_buffer()
    end = max(0, whole.size - CHECKSUM_BYTES)
    content, checksum = whole.slice(0, end), whole.slice(end)
    if xxhash.xxh3_128(content).digest() != checksum.to_pybytes():
        raise ValueError("damaged")
    table = pyarrow.ipc.open_file(content).read_all()
    lists = {name: table[name].chunk(0).values for name in table.column_names}
    values = {name: lists[f"values.{name}"].to_pylist() for name in VALUES}
    values["prompt"] = [_prompt(text) for text in values["prompt"]]
    codes = {name: lists[f"codes.{name}"].to_numpy().astype(np.int64) for name in CODES}
    rest = [lists[name].to_numpy().copy() for name in ("gap", "first", "row")]
    of_texts = [lists[f"digests.{name}"].to_numpy() for name in ("prompt", "response", "digest")]
    digests = Digests(*of_texts[:2], of_texts[2].reshape(-1, 2))
    stored = json.loads(table.schema.metadata[b"counts"])
    counters = {name: Counter(stored[name]) for name in ("kinds", "left_out")}
    return Columns(values, codes, *rest, digests), Counts(**stored | counters)


def _serialised(prompt: Prompt) -> str:
    if len(prompt) == 1 and prompt[0] == Message("user", prompt[0].content):
        return TEXT + prompt[0].content
    return TURNS + json.dumps(prompt)


def _prompt(text: str) -> Prompt:
    if text[0] == TEXT:
        return (Message("user", text[1:]),)
    return tuple(Message(*turn) for turn in json.loads(text[1:]))
