"""Label budgets: draws the few labelled pairs of each attribute that adaptation may use.

Dimension letters: N pairs.
"""

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError


def draw_orders(data: PreferenceData, split: str, seed: int, draw: int = 0) -> list[NDArray[np.int64]]:
    """Shuffles the rows of each attribute in a split; the first B rows are a budget of B pairs.

    A smaller budget is therefore a subset of a larger one of the same draw. The order depends only on seed, draw, the
    attribute's rows and its index among the attributes.

    Returns:
        Shuffled rows of `data.pairs`, one array per attribute.

    Raises:
        UserError: when the data have no attributes.
    """
    attributes = data.names["attribute"]
    if not attributes:
        raise UserError(
            "a label budget is a number of pairs per attribute, and these data have no attributes; map a column to "
            "them (+data.columns.attribute=theirs), or for a planted population set data.criteria=given"
        )
    rows = data.splits[split]
    attribute_N = data.pairs.label_N("attribute")[rows]
    generators = (np.random.default_rng([seed, draw, code]) for code in range(len(attributes)))
    return [generator.permutation(rows[attribute_N == code].numpy()) for code, generator in enumerate(generators)]


def draw_budget(
    data: PreferenceData, budget: int, seed: int, draw: int = 0, further: int = 0
) -> Int64[Tensor, " rows"]:
    """Draws a budget of training pairs for each attribute.

    Args:
        data: the data set.
        budget: number of pairs of each attribute.
        seed, draw: determine the draw, see `draw_orders`.
        further: number of additional pairs of each attribute; fewer if there are not enough.

    Returns:
        Rows of `data.pairs`, sorted by attribute.

    Raises:
        UserError: when an attribute has training pairs, but fewer than the budget.
    """
    orders = draw_orders(data, "train", seed, draw)
    for name, order in zip(data.names["attribute"], orders, strict=True):
        if 0 < len(order) < budget:
            raise UserError(f"a budget of {budget} pairs: attribute {name!r} has only {len(order)} to draw from")
    return torch.from_numpy(np.concatenate([order[: budget + further] for order in orders]))
