"""What became of the rows of a set."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """What became of the rows of one set; shown before training, written to results.json.

    truncated: texts that were cut to max_length tokens, of their prompts or their responses.
    same_tokens: pairs that were dropped because their responses are the same tokens.
    kinds: of what is wrong with the bad rows -> how many have it. reasons: examples, each with its place. unread: the
    columns that nobody reads.
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
        """Adds what became of the rows of another file of the set."""
        for name in ("rows", "dropped", "ties"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.kinds += other.kinds
        self.reasons += other.reasons
        self.left_out += other.left_out
        self.unread = list(dict.fromkeys([*self.unread, *other.unread]))
