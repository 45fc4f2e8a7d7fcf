"""Column mapping: maps the columns of a file to ours, and suggests overrides when columns are missing."""

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from micro_lit.data.messages import BadRow, listed, printable
from micro_lit.data.records import FIELDS, SCORE_COLUMNS, Record, parse_record
from micro_lit.data.verdicts import LIKELY, MEANINGS, Coding
from micro_lit.errors import UserError

VERDICT = ("first", "second", "winner")

# Common names of our columns in other data, in lower case and without punctuation.
USUAL = {
    "prompt": ("question", "instruction", "query", "input", "history", "context", "post", "task", "text", "userinput"),
    "chosen": (
        "preferred", "better", "accepted", "positive", "good", "chosenresponse", "responsechosen", "winning",
        "preferredresponse", "yw",
    ),
    "rejected": (
        "dispreferred", "worse", "declined", "negative", "bad", "rejectedresponse", "responserejected", "losing",
        "dispreferredresponse", "yl",
    ),
    "first": (
        "responsea", "response1", "answera", "answer1", "completiona", "conversationa", "humanrefa", "outputa",
        "output1", "response0",
    ),
    "second": (
        "responseb", "response2", "answerb", "answer2", "completionb", "conversationb", "humanrefb", "outputb",
        "output2", "response1",
    ),
    "winner": tuple(name.replace("_", "") for name in LIKELY),
}  # fmt: skip


# Unread columns that change the meaning of a row -> the consequence, or how to read them.
MEANING = {
    **dict.fromkeys(("weight", "weights", "sample_weight"), "all rows count alike"),
    **dict.fromkeys(("p_chosen", "prob_chosen", "soft_label", "label_confidence"), "every label counts as certain"),
    **dict.fromkeys(("margin", "margins"), "+data.columns.rating_gap={name} would take it for the rating gap"),
    "tools": "calls of tools are read as they stand in the messages",
    "images": "responses and prompts are read as text alone",
}


def meanings(unread: Sequence[str]) -> list[str]:
    """One note for each unread column that changes the meaning of a row."""
    return [
        f"{name} is not read: {MEANING[name.lower()].format(name=name)}" for name in unread if name.lower() in MEANING
    ]


class ColumnMap:
    """Maps the columns of a file to ours.

    Args:
        columns: our column -> column of the file, where the names differ. `meta.group` reads a field of a column of
            objects or JSON text; None leaves a column unread.
        winner: coding of the verdict column, see `micro_lit.data.verdicts`.

    Raises:
        UserError: for an unknown column of ours, or a verdict that is not first, second or tie.
    """

    def __init__(self, columns: Mapping[str, str | None] | None = None, winner: Coding | None = None) -> None:
        self.columns = dict(columns or {})
        self.winner = None if winner is None else dict(winner)
        if unknown := set(self.columns) - set(FIELDS):
            raise UserError(f"data.columns names {sorted(unknown)}; our columns are {', '.join(FIELDS)}")
        if wrong := [value for value in (self.winner or {}).values() if value not in MEANINGS]:
            raise UserError(f"data.winner gives the meaning {wrong[0]!r}; give {', '.join(MEANINGS)}")
        self.explicit = {ours: theirs for ours, theirs in self.columns.items() if theirs is not None}
        self.has_verdict = bool(set(VERDICT) & set(self.explicit))
        self.dropped = {ours for ours, theirs in self.columns.items() if theirs is None}
        if "rating_gap" in self.dropped:
            self.dropped |= {name for names in SCORE_COLUMNS for name in names}
        if self.has_verdict:
            self.dropped |= {"chosen", "rejected"}

    def used(self, found: Collection[str]) -> dict[str, str]:
        """Our column -> the column of the file it is read from."""
        native = {name: name for name in self._native(found) if name in found}
        return native | self.explicit

    def _native(self, found: Collection[str]) -> list[str]:
        """Columns that are read by default, under their own names."""
        names = ["conversations", *FIELDS, *(name for names in SCORE_COLUMNS for name in names)]
        is_pair = not self.has_verdict and "chosen" in (*found, *self.explicit)
        return [name for name in names if name not in self.dropped and not (is_pair and name in VERDICT)]

    def wanted(self, found: Collection[str]) -> set[str]:
        """Columns of the file to decode."""
        return {_root(theirs, found) for theirs in self.used(found).values()}

    def late(self, found: Collection[str]) -> set[str]:
        """Columns to read if they first appear after the rows from which the columns of a file were found."""
        return {name for name in self._native(found) if name not in found and name not in self.explicit}

    def unread(self, found: Collection[str]) -> list[str]:
        wanted = self.wanted(found)
        return [printable(name) for name in found if name not in wanted]

    def plain(self, found: Collection[str]) -> dict[str, str] | None:
        """The mapping of `used` for the fast path; None if there is a verdict column, which needs the slow path."""
        used = self.used(found)
        return None if "winner" in used else used

    def check(self, path: str, found: Sequence[str]) -> None:
        """Raises `UserError`, with an override to type, if columns are missing or a verdict would be ignored."""
        shown = listed(found)
        used = self.used(found)
        for ours, theirs in self.explicit.items():
            if theirs not in found and _root(theirs, found) not in found:
                raise UserError(
                    f"{path}: no column {theirs!r}, which data.columns.{ours} names; it has {shown}"
                    f"{_close(theirs, found)}"
                )
        needed = VERDICT if self.has_verdict or (not {"chosen", "rejected"} & set(used) and "winner" in used) else None
        missing = [ours for ours in needed or ("chosen", "rejected") if ours not in used]
        if missing:
            names = " and ".join(map(repr, missing))
            raise UserError(f"{path}: no column {names}; it has {shown}. {self._advice(found, missing)}")
        verdicts = [name for name in self.unread(found) if name.casefold() in LIKELY]
        if verdicts and "winner" not in self.columns and {"chosen", "rejected"} & set(self.explicit):
            first, second = (used[name] for name in ("chosen", "rejected"))
            raise UserError(
                f"{path}: data.columns says that {first} was chosen in every row, and the column {verdicts[0]!r} may "
                f"say which of the two won. Read it by {_override(first=first, second=second, winner=verdicts[0])}, or "
                f"leave it unread by +data.columns.winner=null"
            )

    def record(self, row: Mapping[str, Any], found: Collection[str] = ()) -> Record:
        """Parses one row; `found` lists the columns of the file, some of which a row may lack. Raises `BadRow`."""
        mapped = {
            ours: _column(row, ours, theirs)
            for ours, theirs in self.explicit.items()
            if _root(theirs, row) in row or _root(theirs, found) not in found
        }
        if self.dropped or mapped:
            row = {name: value for name, value in row.items() if name not in self.dropped} | mapped
        return parse_record(row, self.winner)

    def _advice(self, found: Sequence[str], missing: Sequence[str]) -> str:
        found = [name for name in found if name == printable(name)]  # others cannot be typed in an override
        plain = {re.sub(r"[^a-z0-9]", "", name.casefold()): name for name in found}
        likely = {
            ours: next((plain[name] for name in names if name in plain), None) or _like(ours, found)
            for ours, names in USUAL.items()
        }
        both = {ours: likely[ours] for ours in ("chosen", "rejected")}
        either = {ours: likely[ours] for ours in VERDICT}
        prompt = {} if "prompt" in found or likely["prompt"] is None else {"prompt": likely["prompt"]}
        for guess in (both, either):
            if None not in guess.values() and len(set(guess.values())) == len(guess):
                return f"Map them to our columns, perhaps with {_override(**prompt, **guess)}"
        return (
            f"Map them to our columns, as in {_override(**dict.fromkeys(missing, '<theirs>'))}; or, for two "
            f"responses and a verdict, {_override(first='<theirs>', second='<theirs>', winner='<theirs>')}"
        )


def _override(**columns: str) -> str:
    return f"'+data.columns={{{', '.join(f'{ours}: {theirs}' for ours, theirs in columns.items())}}}'"


def _like(ours: str, found: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(ours, found, n=1, cutoff=0.75)
    return close[0] if close else None


def _close(name: str, found: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, found, n=1)
    return f"; do you mean {printable(close[0])}?" if close else ""


def _root(theirs: str, found: Collection[str]) -> str:
    return theirs if theirs in found else theirs.partition(".")[0]


def _column(row: Mapping[str, Any], ours: str, theirs: str) -> Any:
    """The value of a column, or of a field in a column of objects or JSON text."""
    if theirs in row:
        return row[theirs]
    column, _, field = theirs.partition(".")
    if not field or column not in row:
        raise BadRow(f"no column {theirs!r}, which data.columns.{ours} names; it has {listed(row)}")
    try:
        value = json.loads(row[column]) if isinstance(row[column], str) else row[column]
    except (ValueError, RecursionError) as error:
        raise BadRow(
            f"column {column!r}, of which data.columns.{ours} reads a field, is not JSON", str(error)
        ) from error
    if value is not None and not isinstance(value, Mapping):
        raise BadRow(f"column {column!r}, of which data.columns.{ours} reads a field, holds no object")
    return None if value is None else value.get(field)
