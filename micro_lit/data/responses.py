"""Rows of a prompt and one response, which are scored or ranked."""

from typing import Any

from micro_lit.data.messages import BadRow
from micro_lit.data.records import Record, parse_record


def response_record(row: dict[str, Any] | BadRow) -> Record:
    """Validates a row of prompt, response and maybe criterion and user_id; a pair of the response with itself.

    Raises:
        BadRow: the row is not valid, with the reason.
    """
    if isinstance(row, BadRow):
        raise row
    for name in ("prompt", "response"):
        if row.get(name) is None:
            raise BadRow(f"column {name!r} is missing or null")
    try:
        # `parse_record` rejects equal responses, so the second one differs until it is replaced below.
        record = parse_record({**row, "chosen": row["response"], "rejected": f"{row['response']} "})
    except BadRow as error:
        raise BadRow(str(error).replace("chosen", "response")) from error
    return record._replace(rejected=record.chosen)
