"""Assigns records to splits by prompt, pair or response, and finds pairs on which all attributes agree.

Dimension letters: N records, P keys.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from micro_lit.data.columns import Columns, combined, first_codes, prompts_of
from micro_lit.data.messages import canonical
from micro_lit.data.splits import cut

SplitBy = Literal["prompt", "pair_id", "response"]


def sides(columns: Columns, by: SplitBy, seed: int, test: float, validation: float) -> NDArray[np.int8]:
    """Assigns each record to a split.

    Args:
        columns: N records.
        by: records that agree in this stay in one split, see `split_by` in `micro_lit.data.PairFiles`.
        seed: of the split.
        test, validation: shares of the test and validation split, in [0, 1).

    Returns:
        Index of each record's split in `SPLITS`; -1 if its two responses are in different splits.
    """
    if by == "prompt":
        prompt_N, used = first_codes(columns.codes["prompt"])
        prompts = [canonical(columns.values["prompt"][code]) for code in used.tolist()]
        return cut(prompts, seed, test, validation)[prompt_N]
    keys = list(_of_responses(columns) if by == "response" else _of_pairs(columns))
    known = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    side = cut(list(known), seed, test, validation)[np.array([known[key] for key in keys], dtype=np.int64)]
    first_N, last_N = side[: len(columns)], side[-len(columns) :]
    return np.where(first_N == last_N, first_N, -1).astype(np.int8)


def _of_responses(columns: Columns) -> Iterator[str]:
    """Keys of user, prompt and response: first for all chosen responses, then for all rejected ones."""
    prompts, users = prompts_of(columns, canonical), [*columns.values["user_id"], None]
    names = ("user_id", "prompt")
    for side in ("chosen", "rejected"):
        for user, prompt, response in zip(*(columns.codes[name].tolist() for name in (*names, side)), strict=True):
            yield f"{users[user]} {prompts[prompt]} {columns.values['response'][response]}"


def _of_pairs(columns: Columns) -> Iterator[str]:
    """Keys of pairs: the pair_id of each record, else its prompt with both responses."""
    prompts, texts = prompts_of(columns, canonical), columns.values["response"]
    names = ("pair_id", "prompt", "chosen", "rejected")
    for pair, prompt, *responses in zip(*(columns.codes[name].tolist() for name in names), strict=True):
        both = sorted(texts[response] for response in responses)
        yield columns.values["pair_id"][pair] if pair >= 0 else " ".join([prompts[prompt], *both])


def unanimous(columns: Columns, among_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask of the records among `among_N` whose pair is judged under every attribute, always with the same winner.

    Ties do not count as judgments.
    """
    codes = columns.codes
    pair_N = combined(codes["prompt"], *(each(codes["chosen"], codes["rejected"]) for each in (np.minimum, np.maximum)))
    verdicts = defaultdict(set)
    judges = among_N & (columns.gap_N != 0.0)
    for pair, attribute, chosen in zip(
        pair_N[judges].tolist(), codes["attribute"][judges].tolist(), codes["chosen"][judges].tolist(), strict=True
    ):
        verdicts[pair].add((attribute, chosen))
    attributes = set(codes["attribute"][among_N].tolist())
    agreed = [
        pair
        for pair, found in verdicts.items()
        if {attribute for attribute, _ in found} == attributes and len({chosen for _, chosen in found}) == 1
    ]
    return among_N & np.isin(pair_N, agreed)
