"""What `micro_lit.personalise` reads: labelled pairs, whose they are, and responses to rank.

Dimension letters: N labelled pairs.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from micro_lit.data.pairs import Counts
from micro_lit.data.readers import read_rows
from micro_lit.data.records import BadRow, Record, parse_record
from micro_lit.data.sources import PairFiles
from micro_lit.errors import UserError


def read_pairs(path: str, columns: dict[str, str], on_bad_row: Literal["error", "skip"]) -> tuple[list[Record], Counts]:
    """All pairs of a file or folder, in its order."""
    pairs = PairFiles("pairs", path, columns=columns, on_bad_row=on_bad_row, validation_fraction=0.0, test_fraction=0.0)
    records, _, counts = pairs.read(seed=0)
    return records, counts


def read_responses(path: str) -> tuple[list[Record], Counts]:
    """Rows of prompt and response (and maybe criterion), each as a pair of the response with itself."""
    records = []
    for place, row in read_rows(path):
        try:
            records.append(_response(row))
        except BadRow as error:
            raise UserError(f"{place}: {error}") from error
    if not records:
        raise UserError(f"{path}: no responses")
    return records, Counts(rows=len(records))


def _response(row: dict[str, Any] | BadRow) -> Record:
    if isinstance(row, BadRow):
        raise row
    for name in ("prompt", "response"):
        if row.get(name) is None:
            raise BadRow(f"column {name!r} is missing or null")
    try:
        # A record's two texts differ, so there must be another one for a moment.
        record = parse_record({**row, "chosen": row["response"], "rejected": f"{row['response']} "})
    except BadRow as error:
        raise BadRow(str(error).replace("chosen", "response")) from error
    return record._replace(rejected=record.chosen)


def whose(pairs: Sequence[Record], user: str | None) -> list[str]:
    """The user of each pair: `user`, or else the one its row names."""
    named = {record.user_id for record in pairs}
    if user is None and None in named:
        raise UserError("pairs: a row without user_id; say whose labels these are with user=<name>")
    if user is not None and (others := named - {None, user}):
        raise UserError(f"pairs: labels of {min(others)!r} are not those of user={user}; user=null teaches all users")
    return [record.user_id if user is None else user for record in pairs]


def label_digest(user: str, record: Record) -> bytes:
    """Of a label's content: user, prompt, criterion, both responses and which was chosen. Equal for equal labels."""
    content = {
        "user": user,
        "prompt": [message.as_turn() for message in record.prompt],
        "criterion": record.criterion,
        "chosen": record.chosen,
        "rejected": record.rejected,
    }
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).digest()
