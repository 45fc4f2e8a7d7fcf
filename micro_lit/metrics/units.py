"""The independent units of a test, such as users; intervals are computed over these.

Dimension letters: B rows of the batch, M distinct texts, Q pairs of a breakdown's value and a unit.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

NAMED = 0.95  # minimum fraction of rows with a user for users to be the units


class Units:
    """A partition of test rows into independent units.

    Args:
        name: users, pairs, prompts or rows.
        size: exclusive upper bound of the codes; 0 if every row is a unit.
        code: pairs -> unit of each row.
    """

    def __init__(self, name: str, size: int = 0, code: Callable[[Any], Int64[Tensor, " B"]] | None = None) -> None:
        self.name, self.size, self._code = name, size, code
        self.rows: Any = None  # rows of the test, for `keys`

    def code(self, pairs: Any) -> Int64[Tensor, " B"]:
        """The unit of each row; -1 for a row that is a separate unit."""
        return self._code(pairs)

    def keys(self, column: str) -> Int64[Tensor, " Q"]:
        """The combinations of a label column's value and a unit in the test, value * size + unit, ascending."""
        value_N, unit_N = self.rows.label_N(column), self.code(self.rows)
        known_N = (value_N >= 0) & (unit_N >= 0)
        return (value_N[known_N] * self.size + unit_N[known_N]).unique()


ROWS = Units("rows")


def units_of(data: Any, rows: Any) -> Units:
    """Chooses the units of some rows (`Pairs`) of a data set (`PreferenceData`): the first that applies, else rows.

    users: if at least 95 % of the rows name a user, with two users or more; a row without user is a separate unit.
    pairs: if several rows judge the same two responses.
    prompts: if several rows share a prompt, whatever their criterion, with two prompts or more. Not for vectors, whose
        contexts are the few topics of a planted population.
    """
    found = _user_units(data, rows) or _pairs(data, rows) or _prompts(data, rows) or Units("rows")
    found.rows = rows
    return found


def _user_units(data: Any, rows: Any) -> Units | None:
    user_N = rows.label_N("user_id")
    named_N = user_N >= 0
    if not len(rows) or named_N.double().mean() < NAMED or len(user_N[named_N].unique()) < 2:
        return None
    return Units("users", len(data.names["user_id"]), lambda pairs: pairs.label_N("user_id"))


def _pairs(data: Any, rows: Any) -> Units | None:
    pair_N = rows.label_N("pair_id")
    pair_N = pair_N[pair_N >= 0]
    if not 2 <= len(pair_N.unique()) < len(pair_N):
        return None
    return Units("pairs", len(data.names["pair_id"]), lambda pairs: pairs.label_N("pair_id"))


def _prompts(data: Any, rows: Any) -> Units | None:
    if data.is_vectors:
        return None
    codes: dict[Any, int] = {}
    prompt_M = torch.full((len(data.texts),), -1)
    for text in rows.chosen_N.unique().tolist():
        prompt_M[text] = codes.setdefault(data.texts[text].prompt, len(codes))
    if not 2 <= len(codes) < len(rows):
        return None
    return Units("prompts", len(codes), _Lookup(prompt_M))


class _Lookup:
    """The prompt of each row, by its chosen response; the table is moved to the device of the rows."""

    def __init__(self, prompt_M: Int64[Tensor, " M"]) -> None:
        self.prompt_M = prompt_M

    def __call__(self, pairs: Any) -> Int64[Tensor, " B"]:
        if self.prompt_M.device != pairs.chosen_N.device:
            self.prompt_M = self.prompt_M.to(pairs.chosen_N.device)
        return self.prompt_M[pairs.chosen_N]
