"""Pairs: a data set as a table of distinct texts and rows of integer triplets into it.

Dimension letters: N pairs, M distinct texts, D representation width, C label columns, F reference predictors.
"""

import dataclasses
import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from micro_lit.data.population import REFERENCES, Population
from micro_lit.data.records import LABELS, Message, Record

SPLITS = ("train", "validation", "test")


class Text(NamedTuple):
    """Something a backbone can encode: a prompt alone (a context), or a prompt with a response."""

    prompt: tuple[Message, ...]
    response: str | None = None


@dataclass(eq=False)
class Pairs:
    """N pairs as columns. Indexing with a tensor of rows gives the pairs of a batch: the same class, fewer rows.

    triplets_N3: rows of the text table: context, chosen response, rejected response.
    labels_NC: codes of the columns `LABELS` (source, attribute, group, user_id, pair_id); -1 where the data does not
        say. Rows with one code of pair_id are judgments of one pair by different raters: a rater's second one has -1.
    rating_gap_N: rating of the chosen minus rating of the rejected response, NaN where the data does not say.
    reference_log_probs_NF: log-probability, in nats, that each reference predictor of a known population gives to the
        label; no columns where no population is known.
    """

    triplets_N3: Int64[Tensor, "N 3"]
    labels_NC: Int64[Tensor, "N C"]
    rating_gap_N: Float32[Tensor, " N"]
    reference_log_probs_NF: Float32[Tensor, "N F"]

    def __len__(self) -> int:
        return len(self.triplets_N3)

    def __getitem__(self, rows: Int64[Tensor, " B"]) -> "Pairs":
        return Pairs(*(column[rows] for column in self._columns()))

    def to(self, device: torch.device, non_blocking: bool = False) -> "Pairs":
        return Pairs(*(column.to(device, non_blocking=non_blocking) for column in self._columns()))

    def _columns(self) -> Iterable[Tensor]:
        return (getattr(self, column.name) for column in dataclasses.fields(self))

    @property
    def context_N(self) -> Int64[Tensor, " N"]:
        return self.triplets_N3[:, 0]

    @property
    def chosen_N(self) -> Int64[Tensor, " N"]:
        return self.triplets_N3[:, 1]

    @property
    def rejected_N(self) -> Int64[Tensor, " N"]:
        return self.triplets_N3[:, 2]

    @property
    def first_wins_N(self) -> Bool[Tensor, " N"]:
        """Whether the response that comes first in the text table was chosen: one meaning for all raters of a pair."""
        return self.chosen_N < self.rejected_N

    def label_N(self, name: str) -> Int64[Tensor, " N"]:
        return self.labels_NC[:, LABELS.index(name)]


@dataclass
class Counts:
    """What became of the rows of one set; shown before training, written to results.json.

    truncated: texts that were cut to max_length tokens, of their prompts or their responses.
    same_tokens: pairs that were dropped because their responses are the same tokens.
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
    reasons: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class PreferenceData:
    """A data set ready to train on.

    texts: the M distinct texts, or their representations [M, D] where the data are vectors already.
    names: for each label column its values (for pair_id keys of our own); a code in `pairs.labels_NC` is a position
        in this list.
    splits: rows of `pairs` for each of `SPLITS`.
    counts: per set, what was read, dropped and cut. set_N: which of these sets a pair is from.
    population: the planted population the pairs were drawn from, when there is one.
    bayes: which reference predictor knows all that the data show, and nothing else.
    """

    texts: list[Text] | Float32[Tensor, "M D"]
    pairs: Pairs
    names: dict[str, list[str]]
    splits: dict[str, Int64[Tensor, " rows"]]
    counts: dict[str, Counts]
    set_N: Int64[Tensor, " N"]
    population: Population | None = None
    bayes: str | None = None

    def split(self, name: str) -> Pairs:
        return self.pairs[self.splits[name]]

    @property
    def example(self) -> Text:
        """The first pair's chosen response, of the training pairs if there are any, to see what the backbone reads."""
        return self.texts[int(self.pairs.chosen_N[torch.cat([self.splits[name] for name in SPLITS])[0]])]

    def count_truncated(self, truncated_M: Bool[Tensor, " M"]) -> None:
        """Notes in `counts` how many distinct texts of each set were cut to fit the backbone."""
        for number, counts in enumerate(self.counts.values()):
            counts.truncated = int(truncated_M[self.pairs.triplets_N3[self.set_N == number].unique()].sum())

    def count_cut(self, cut_M2: Bool[Tensor, "M 2"], max_length: int) -> None:
        """Notes in `counts` which end of how many texts was cut.

        cut_M2: whether a text lost tokens of its prompt, and of its response. max_length: tokens a text may have.
        """
        self.count_truncated(cut_M2.any(dim=1))
        for number, counts in enumerate(self.counts.values()):
            cut_T2 = cut_M2[self.pairs.triplets_N3[self.set_N == number].unique()]
            counts.cut_prompts, counts.cut_responses = cut_T2.sum(dim=0).tolist()
            counts.max_length = max_length

    def without_same(self, tokens_M: Int64[Tensor, " M"]) -> "PreferenceData":
        """The data without the pairs whose responses are the same tokens; notes in `counts` how many each set has.

        tokens_M: a number for each text, equal for equal tokens. Such pairs stay in `pairs`, in no split.
        """
        same_N = tokens_M[self.pairs.chosen_N] == tokens_M[self.pairs.rejected_N]
        dropped = [rows[same_N[rows]] for rows in self.splits.values()]
        for number, counts in enumerate(self.counts.values()):
            counts.same_tokens = int((self.set_N[torch.cat(dropped)] == number).sum())
        return dataclasses.replace(self, splits={name: rows[~same_N[rows]] for name, rows in self.splits.items()})

    @property
    def is_vectors(self) -> bool:
        return isinstance(self.texts, Tensor)

    @property
    def references(self) -> tuple[str, ...]:
        """Names of the columns of `pairs.reference_log_probs_NF`."""
        return REFERENCES if self.population is not None else ()


def from_records(
    records: Sequence[Record], splits: Sequence[str], counts: dict[str, Counts], sets: Sequence[int] | None = None
) -> PreferenceData:
    """Indexes records: each distinct text once, each label value a code.

    splits: for each record one of `SPLITS`. sets: for each record the position of its set in `counts`;
    needed when there are several.
    """
    text_rows: dict[Text, int] = {}
    label_codes: dict[str, dict[str, int]] = {name: {} for name in LABELS}
    judged: set[tuple[str, str | int]] = set()
    sets = [0] * len(records) if sets is None else sets
    triplets, labels, gaps = array("q"), array("q"), array("f")
    for record, number in zip(records, sets, strict=True):
        texts = (
            Text(with_criterion(record.prompt, record.criterion)),
            Text(record.prompt, record.chosen),
            Text(record.prompt, record.rejected),
        )
        triplet = [text_rows.setdefault(text, len(text_rows)) for text in texts]
        triplets.extend(triplet)
        record = record._replace(pair_id=_pair_judged(record, number, triplet, judged))
        labels.extend(_code(getattr(record, name), label_codes[name]) for name in LABELS)
        gaps.append(float("nan") if record.rating_gap is None else record.rating_gap)
    pairs = Pairs(
        torch.tensor(np.asarray(triplets)).reshape(-1, 3),
        torch.tensor(np.asarray(labels)).reshape(-1, len(LABELS)),
        torch.tensor(np.asarray(gaps)),
        torch.empty(len(records), 0),
    )
    return PreferenceData(
        texts=list(text_rows),
        pairs=pairs,
        names={name: list(codes) for name, codes in label_codes.items()},
        splits={
            name: torch.tensor([row for row, split in enumerate(splits) if split == name], dtype=torch.int64)
            for name in SPLITS
        },
        counts=counts,
        set_N=torch.tensor(sets, dtype=torch.int64),
    )


def _pair_judged(record: Record, number: int, triplet: list[int], judged: set[tuple[str, str | int]]) -> str | None:
    """What a record judges: its id, if it has one, and its texts; None when `judged` holds it already.

    It does for a second row of the same user, and, where users are not named, for a row that a mixture repeats.
    number: of the record's set, for ids of two sets may be the same. Under another criterion it is another pair.
    """
    pair = f"{number} {record.pair_id} {triplet[0]} {min(triplet[1:])} {max(triplet[1:])}"
    rater = id(record) if record.user_id is None else record.user_id
    if (pair, rater) in judged:
        return None
    judged.add((pair, rater))
    return pair


def _code(value: str | None, codes: dict[str, int]) -> int:
    return -1 if value is None else codes.setdefault(value, len(codes))


def with_criterion(prompt: tuple[Message, ...], criterion: str | None) -> tuple[Message, ...]:
    """The context of a record: its prompt, with the criterion as a last paragraph of the last message."""
    if criterion is None:
        return prompt
    role, content = prompt[-1]
    return (*prompt[:-1], Message(role, f"{content}\n\n{criterion}"))


def hashed_fraction(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on the key and the seed alone, so that a split survives new or reordered rows."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest) / 2**64
