"""Preference pairs: a data set as a table of distinct texts, and integer triplets that index into it.

Dimension letters: N pairs, M distinct texts, D representation width, C label columns, F reference predictors.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int8, Int64
from numpy.typing import NDArray
from torch import Tensor

from micro_lit.data.columns import Columns, combined, first_codes
from micro_lit.data.counts import Counts
from micro_lit.data.gathering import columns_of
from micro_lit.data.leaks import overlap
from micro_lit.data.planted.population import REFERENCES, Population
from micro_lit.data.records import LABELS, Record
from micro_lit.data.splits import SPLITS
from micro_lit.data.texts import Text, text_digests, with_criterion


@dataclass(eq=False)
class Pairs:
    """N pairs as columns; indexing with a tensor of rows returns a batch of the same class.

    Attributes:
        triplets_N3: rows of the text table: context, chosen response, rejected response.
        labels_NC: codes of the columns `LABELS` (source, attribute, group, user_id, pair_id); -1 if missing. Rows with
            the same pair_id code are judgments of one pair by different raters; repeated judgments of a rater have -1.
        rating_gap_N: rating of the chosen minus rating of the rejected response; NaN if missing.
        reference_log_probs_NF: log-probability in nats of the label under each reference predictor of a known
            population; F = 0 without one.
        first_shown_N: 1 if the chosen response was shown first, 0 if the rejected one was, -1 (default) if unknown.
    """

    triplets_N3: Int64[Tensor, "N 3"]
    labels_NC: Int64[Tensor, "N C"]
    rating_gap_N: Float32[Tensor, " N"]
    reference_log_probs_NF: Float32[Tensor, "N F"]
    first_shown_N: Int8[Tensor, " N"] | None = None

    def __post_init__(self) -> None:
        if self.first_shown_N is None:
            self.first_shown_N = torch.full((len(self),), -1, dtype=torch.int8, device=self.triplets_N3.device)

    def __len__(self) -> int:
        return len(self.triplets_N3)

    def __getitem__(self, rows: Int64[Tensor, " B"]) -> "Pairs":
        return Pairs(*(column[rows] for column in self._columns()))

    def to(self, device: torch.device, non_blocking: bool = False) -> "Pairs":
        return Pairs(*(column.to(device, non_blocking=non_blocking) for column in self._columns()))

    def pinned(self) -> "Pairs":
        """Copies the pairs to pinned memory, for asynchronous transfer to a GPU."""
        return Pairs(*(column.pin_memory() for column in self._columns()))

    def swapped(self) -> "Pairs":
        """Swaps chosen and rejected responses, which inverts every label."""
        shown_N = self.first_shown_N
        return Pairs(
            self.triplets_N3[:, [0, 2, 1]],
            self.labels_NC,
            -self.rating_gap_N,
            torch.log(-torch.expm1(self.reference_log_probs_NF)),
            torch.where(shown_N >= 0, 1 - shown_N, shown_N),
        )

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
        """Whether the response with the lower row in the text table was chosen; comparable across raters of a pair."""
        return self.chosen_N < self.rejected_N

    def label_N(self, name: str) -> Int64[Tensor, " N"]:
        return self.labels_NC[:, LABELS.index(name)]


@dataclass(frozen=True)
class PreferenceData:
    """A data set ready for training.

    Attributes:
        texts: the M distinct texts, or their representations [M, D] if the data are vectors.
        pairs: N pairs with indices into `texts`.
        names: values of each label column; a code in `pairs.labels_NC` is an index into its list. The values of pair_id
            are generated.
        splits: rows of `pairs`, for each of `SPLITS`.
        counts: per set, the numbers of rows read, dropped and truncated.
        set_N: index of each pair's set in `counts`.
        population: the planted population from which the pairs were drawn, if any.
        bayes: name of the reference predictor that uses exactly the information in the data (the Bayes predictor).
        overlap: overlap of test rows with training, see `micro_lit.data.leaks.overlap`.
        notes: warnings to show before training.
        digests_M2: text digests, if they were cached.
    """

    texts: list[Text] | Float32[Tensor, "M D"]
    pairs: Pairs
    names: dict[str, list[str]]
    splits: dict[str, Int64[Tensor, " rows"]]
    counts: dict[str, Counts]
    set_N: Int64[Tensor, " N"]
    population: Population | None = None
    bayes: str | None = None
    overlap: dict[str, int] | None = None
    notes: tuple[str, ...] = ()
    digests_M2: NDArray[np.uint64] | None = None

    def split(self, name: str) -> Pairs:
        return self.pairs[self.splits[name]]

    @property
    def example(self) -> Text:
        """Chosen response of the first pair (a training pair, if any), to show what the backbone reads."""
        return self.texts[int(self.pairs.chosen_N[torch.cat([self.splits[name] for name in SPLITS])[0]])]

    def count_truncated(self, truncated_M: Bool[Tensor, " M"]) -> None:
        """Stores in `counts` how many distinct texts of each set were truncated."""
        for number, counts in enumerate(self.counts.values()):
            counts.truncated = int(truncated_M[self.pairs.triplets_N3[self.set_N == number].unique()].sum())

    def count_cut(self, cut_M2: Bool[Tensor, "M 2"], max_length: int) -> None:
        """Stores in `counts` how many texts were truncated in the prompt, and how many in the response.

        Args:
            cut_M2: whether prompt, and response, of each text were truncated.
            max_length: most tokens of a text.
        """
        self.count_truncated(cut_M2.any(dim=1))
        for number, counts in enumerate(self.counts.values()):
            cut_T2 = cut_M2[self.pairs.triplets_N3[self.set_N == number].unique()]
            counts.cut_prompts, counts.cut_responses = cut_T2.sum(dim=0).tolist()
            counts.max_length = max_length

    def without_same(self, tokens_M: Int64[Tensor, " M"]) -> "PreferenceData":
        """Removes pairs from all splits whose two responses have the same tokens, and stores their number in `counts`.

        Args:
            tokens_M: digest of each text's tokens.

        Returns:
            A copy of the data; the removed pairs stay in `pairs`, but are in no split.
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
    """Builds a data set from a list of records.

    Args:
        records: N records.
        splits: split of each record, one of `SPLITS`.
        counts, sets: see `from_columns`.
    """
    number = {name: number for number, name in enumerate(SPLITS)}
    split_N = np.array([number[split] for split in splits], dtype=np.int8)
    return from_columns(columns_of(records), split_N, counts, None if sets is None else np.array(sets, dtype=np.int64))


def from_columns(
    columns: Columns, split_N: NDArray[np.int8], counts: dict[str, Counts], set_N: NDArray[np.int64] | None = None
) -> PreferenceData:
    """Builds a data set from columns; distinct texts and label codes are in order of first appearance.

    Args:
        columns: N records.
        split_N: index of each record's split in `SPLITS`.
        counts: row counts of each set.
        set_N: index of each record's set in `counts`; None if there is only one.
    """
    set_N = np.zeros(len(columns), dtype=np.int64) if set_N is None else set_N
    texts, triplets_N3, codes_M2 = _texts(columns)
    coded = {name: first_codes(columns.codes[name]) for name in LABELS if name != "pair_id"}
    names = {name: [columns.values[name][code] for code in old.tolist()] for name, (_, old) in coded.items()}
    pair_N = _pairs_judged(columns, triplets_N3, set_N)
    names["pair_id"] = [str(pair) for pair in range(pair_N.max(initial=-1) + 1)]
    labels = [pair_N if name == "pair_id" else coded[name][0] for name in LABELS]
    pairs = Pairs(
        torch.from_numpy(triplets_N3),
        torch.from_numpy(np.stack(labels, axis=1)),
        torch.from_numpy(columns.gap_N.astype(np.float32)),
        torch.empty(len(columns), 0),
        torch.from_numpy(columns.first_N),
    )
    return PreferenceData(
        texts=texts,
        pairs=pairs,
        names={name: names[name] for name in LABELS},
        splits={name: torch.from_numpy(np.flatnonzero(split_N == number)) for number, name in enumerate(SPLITS)},
        counts=counts,
        set_N=torch.from_numpy(set_N),
        overlap=overlap(columns, split_N),
        digests_M2=None if columns.digests is None else _digests(texts, codes_M2, columns),
    )


def _texts(columns: Columns) -> tuple[list[Text], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct texts; rows of context, chosen and rejected response in them [N, 3]; codes of prompt and response of
    each text [M, 2] (response -1 for none). Prompts with a criterion get codes after those of `columns`."""
    prompts, responses = list(columns.values["prompt"]), columns.values["response"]
    prompt_N, criterion_N = columns.codes["prompt"], columns.codes["criterion"]
    context_N = prompt_N.copy()
    has_criterion = np.flatnonzero(criterion_N >= 0)
    if len(has_criterion):
        known = {prompt: code for code, prompt in enumerate(prompts)}
        keys_T = prompt_N[has_criterion] * len(columns.values["criterion"]) + criterion_N[has_criterion]
        context_T, first = first_codes(keys_T)
        prompt_C, criterion_C = np.divmod(first, len(columns.values["criterion"]))
        contexts = [
            with_criterion(prompts[prompt], columns.values["criterion"][criterion])
            for prompt, criterion in zip(prompt_C.tolist(), criterion_C.tolist(), strict=True)
        ]
        codes = np.array([known.setdefault(context, len(known)) for context in contexts], dtype=np.int64)
        context_N[has_criterion], prompts = codes[context_T], list(known)
    width = len(responses) + 1  # 0 means no response
    keys_N3 = np.stack(
        [context_N * width, *(prompt_N * width + 1 + columns.codes[name] for name in ("chosen", "rejected"))], axis=1
    )
    text_N3, keys = first_codes(keys_N3.reshape(-1))
    prompt_M, response_M = np.divmod(keys, width)
    texts = [
        Text(prompts[prompt], responses[response - 1] if response else None)
        for prompt, response in zip(prompt_M.tolist(), response_M.tolist(), strict=True)
    ]
    return texts, text_N3.reshape(-1, 3), np.stack([prompt_M, response_M - 1], axis=1)


def _digests(texts: Sequence[Text], codes_M2: NDArray[np.int64], columns: Columns) -> NDArray[np.uint64]:
    """Digest of each text [M, 2]: from `columns.digests`, or computed where missing."""
    width = len(columns.values["response"]) + 1
    key_T = columns.digests.prompt_T * width + columns.digests.response_T + 1
    order_T = key_T.argsort(kind="stable")
    key_M = codes_M2[:, 0] * width + codes_M2[:, 1] + 1
    at_M = order_T[np.searchsorted(key_T, key_M, sorter=order_T).clip(max=len(key_T) - 1)]
    digests_M2 = columns.digests.digest_T2[at_M]
    missing = np.flatnonzero(key_T[at_M] != key_M)
    digests_M2[missing] = text_digests([texts[row] for row in missing.tolist()])
    return digests_M2


def _pairs_judged(columns: Columns, triplets_N3: NDArray[np.int64], set_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Code of the pair that each record judges; -1 for repeated judgments of a pair by the same rater.

    Records judge the same pair if set, pair_id, context (with criterion) and both responses are equal. Without user
    ids each row counts as a rater of its own, and copies of a row in a mixture as the same rater.
    """
    low_N, high_N = triplets_N3[:, 1:].min(axis=1), triplets_N3[:, 1:].max(axis=1)
    pair_N, _ = first_codes(combined(set_N, columns.codes["pair_id"], triplets_N3[:, 0], low_N, high_N))
    user_N = columns.codes["user_id"]
    row_N = np.where(user_N >= 0, -1, first_codes(combined(set_N, columns.row_N))[0])
    _, first = np.unique(combined(pair_N, user_N, row_N), return_index=True)
    judged_N = np.full(len(columns), -1, dtype=np.int64)
    judged_N[first] = pair_N[first]
    return first_codes(judged_N)[0]
