"""Scores of files: rows of prompts and responses in, a table of rewards out."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from micro_lit.data.messages import BadRow
from micro_lit.data.readers import read_rows
from micro_lit.data.records import Record
from micro_lit.data.responses import response_record
from micro_lit.data.texts import Text, text_digests
from micro_lit.errors import UserError
from micro_lit.host.files import write_whole
from micro_lit.score.loaded import ROWS_AT_ONCE, LoadedModel

ENDINGS = (".parquet", ".csv", ".jsonl")


def part_of(out: Path, part: int, parts: int) -> Path:
    """The file of one part: `scores.parquet` becomes `scores-00002-of-00008.parquet`.

    Raises:
        UserError: `out` has another ending than `ENDINGS`.
    """
    if out.suffix not in ENDINGS:
        raise UserError(f"out={out}: give a file that ends in {', '.join(ENDINGS)}")
    return out if parts == 1 else out.with_name(f"{out.stem}-{part:05d}-of-{parts:05d}{out.suffix}")


def score_file(
    model: LoadedModel,
    path: str,
    out: Path,
    part: int = 0,
    parts: int = 1,
    columns: dict[str, str] | None = None,
    select: Literal["all", "best"] = "all",
) -> pd.DataFrame:
    """Scores the rows of a file, or one part of them, and writes a table. The file appears whole or not at all.

    Args:
        model: the loaded model.
        path: file or folder with columns prompt and response, and maybe criterion and user_id.
        out: file to write, of one of `ENDINGS`.
        part, parts: number of this part, from 0, and of all parts. All responses to a prompt are in one part.
        columns: our column -> column of the file, where the names differ.
        select: "best" writes only the best response to each prompt.

    Returns:
        The table: `row` (number in the file, from 0), `reward` (mixed, for the row's criterion and user), `rank` among
        the responses to the same prompt and criterion (1 is best; equal rewards share a rank), and a column per head.

    Raises:
        UserError: a row is not valid, there are none, or the file cannot be written.
    """
    tables = []
    with Progress(TextColumn("scoring"), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn()) as progress:
        task = progress.add_task("scoring", total=None)
        for numbers, records, prompts in _chunks(path, columns or {}, part, parts):
            rewards_NK, reward_N = model.score_records(records)
            heads = {name: rewards_NK[:, head] for head, name in enumerate(model.heads)}
            tables.append(pd.DataFrame({"row": numbers, "prompt": prompts, "reward": reward_N, **heads}))
            progress.advance(task, len(numbers))
    if not tables and parts == 1:
        raise UserError(f"{path}: no rows")
    empty = pd.DataFrame({name: [] for name in ("row", "prompt", "reward", *model.heads)})
    table = pd.concat(tables, ignore_index=True) if tables else empty
    table.insert(3, "rank", table.groupby("prompt")["reward"].rank(method="min", ascending=False).astype(int))
    if select == "best":
        table = table.loc[table.groupby("prompt")["reward"].idxmax()].sort_values("row")
    table = table.drop(columns="prompt")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, lambda place: _write(table, place, out.suffix))
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror})") from error
    return table


def _write(table: pd.DataFrame, place: Path, ending: str) -> None:
    if ending == ".parquet":
        table.to_parquet(place, index=False)
    elif ending == ".csv":
        table.to_csv(place, index=False)
    else:
        table.to_json(place, orient="records", lines=True)


def _chunks(
    path: str, columns: dict[str, str], part: int, parts: int
) -> Iterator[tuple[list[int], list[Record], list[int]]]:
    """Chunks of the rows of a part: their numbers, records, and codes of prompt and criterion."""
    rows = enumerate(read_rows(path))
    while chunk := list(itertools.islice(rows, ROWS_AT_ONCE)):
        numbers, records = [], []
        for number, (place, row) in chunk:
            try:
                records.append(response_record(_renamed(row, columns)))
            except BadRow as error:
                raise UserError(f"{place}: {error}") from error
            numbers.append(number)
        contexts = [Text(record.prompt, record.criterion) for record in records]
        digest_N = text_digests(contexts)[:, 0]
        own = np.flatnonzero(digest_N % parts == part).tolist()
        if own:
            yield [numbers[n] for n in own], [records[n] for n in own], [int(digest_N[n] >> 1) for n in own]


def _renamed(row: Any, columns: dict[str, str]) -> Any:
    if isinstance(row, BadRow):
        return row
    return {**row, **{name: row.get(theirs) for name, theirs in columns.items()}}
