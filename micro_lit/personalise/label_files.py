"""Input files of `micro_lit.personalise`: labelled pairs with their users, and responses to rank.

Dimension letters: N labelled pairs.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Literal

from micro_lit.data.pairs import Counts
from micro_lit.data.readers import read_rows
from micro_lit.data.records import BadRow, Record
from micro_lit.data.responses import response_record
from micro_lit.data.sources import PairFiles
from micro_lit.errors import UserError


def read_pairs(path: str, columns: dict[str, str], on_bad_row: Literal["error", "skip"]) -> tuple[list[Record], Counts]:
    """Reads all pairs of a file or folder, in file order.

    Args:
        columns: names of the columns in the file, by our names.
        on_bad_row: `skip` counts bad rows instead of raising.

    Returns:
        The pairs, and counts of rows.
    """
    pairs = PairFiles("pairs", path, columns=columns, on_bad_row=on_bad_row, validation_fraction=0.0, test_fraction=0.0)
    records, _, counts = pairs.read(seed=0)
    return records, counts


def read_responses(path: str) -> tuple[list[Record], Counts]:
    """Reads rows of prompt, response and optional criterion, each as a pair of the response with itself.

    Raises:
        UserError: a row is bad, or there are no rows.
    """
    records = []
    for place, row in read_rows(path):
        try:
            records.append(response_record(row))
        except BadRow as error:
            raise UserError(f"{place}: {error}") from error
    if not records:
        raise UserError(f"{path}: no responses")
    return records, Counts(rows=len(records))


def whose(pairs: Sequence[Record], user: str | None) -> list[str]:
    """Returns the user of each pair: `user`, or the `user_id` of its row if `user` is None.

    Raises:
        UserError: a row has no user, or has another user than `user`.
    """
    named = {record.user_id for record in pairs}
    if user is None and None in named:
        raise UserError("pairs: a row without user_id; say whose labels these are with user=<name>")
    if user is not None and (others := named - {None, user}):
        raise UserError(f"pairs: labels of {min(others)!r} are not those of user={user}; user=null teaches all users")
    return [record.user_id if user is None else user for record in pairs]


def label_digest(user: str, record: Record) -> bytes:
    """BLAKE2b digest (16 bytes) of user, prompt, criterion, chosen and rejected response, to detect repeated labels."""
    content = {
        "user": user,
        "prompt": [message.as_turn() for message in record.prompt],
        "criterion": record.criterion,
        "chosen": record.chosen,
        "rejected": record.rejected,
    }
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).digest()
