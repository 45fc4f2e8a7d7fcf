"""Row counts of a data set: read, dropped, tied, truncated."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Row counts of one set, shown before training and written to results.json.

    Attributes:
        rows, dropped, ties: rows read, bad rows dropped, ties.
        truncated: texts truncated to `max_length` tokens, in prompt or response (`cut_prompts`, `cut_responses`).
        same_tokens: pairs dropped because both responses have the same tokens.
        drops_ties: whether ties are dropped.
        kinds: kind of error -> number of bad rows.
        reasons: examples of bad rows, each with its file and row.
        left_out: reason -> number of valid rows not used.
        unread: columns of the file that are not read.
    """

    rows: int = 0
    dropped: int = 0
    ties: int = 0
    truncated: int = 0
    cut_prompts: int = 0
    cut_responses: int = 0
    max_length: int | None = None
    same_tokens: int = 0
    drops_ties: bool = True
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)

    def add(self, other: "Counts") -> None:
        """Adds the counts of another file of the set."""
        for name in ("rows", "dropped", "ties"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.kinds += other.kinds
        self.reasons += other.reasons
        self.left_out += other.left_out
        self.unread = list(dict.fromkeys([*self.unread, *other.unread]))
