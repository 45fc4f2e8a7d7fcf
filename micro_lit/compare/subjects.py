"""Subjects: attributes or users, their test rows, and the labels from which systems may learn their codes.

Labels are drawn several times. Within a draw, a larger set of labels contains every smaller one.

Dimension letters: N test rows, L labels, U subjects, R draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from micro_lit.data.budgets import draw_orders
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


class Labels(NamedTuple):
    """Labelled rows [L] of the data and their owners: owner r * U + u is subject u in draw r."""

    row_L: Integers
    user_L: Integers
    num_draws: int
    num_subjects: int

    @property
    def num_users(self) -> int:
        """R * U: number of subjects times number of draws."""
        return self.num_draws * self.num_subjects

    def of_draw(self, draw: int) -> Integers:
        """Rows of one draw, ordered by subject."""
        return self.row_L[self.user_L // self.num_subjects == draw]


@dataclass(frozen=True, eq=False)
class Subjects:
    """Subjects, their test rows, and in each draw the rows that may be labelled, in random order.

    Attributes:
        code_U: codes of the subjects in the data.
        row_N: test rows, as indices into the data.
        user_N: subject of each test row, from 0.
        prompt_N: prompt code of each test row.
        keep_RN: whether a test row is scored in a draw; one draw is used for all draws.
        label_RL: rows that may be labelled, ordered by subject.
        user_L: subject of each of these rows, from 0.
        place_L: position of each of these rows among those of its subject, from 0.
    """

    code_U: Integers
    row_N: Integers
    user_N: Integers
    prompt_N: Integers
    keep_RN: NDArray[np.bool_]
    label_RL: Integers
    user_L: Integers
    place_L: Integers

    @property
    def num_users(self) -> int:
        return len(self.code_U)

    def labels(self, size: int | None, every_draw: bool = False) -> Labels:
        """Returns the first labels of every subject in every draw.

        Args:
            size: number of labels of each subject; None: all.
            every_draw: False: returns one draw if the labels of all draws are equal. True: returns all draws.
        """
        given_L = np.ones(len(self.place_L), dtype=bool) if size is None else self.place_L < size
        row_RL = self.label_RL[:, given_L]
        if not every_draw and (np.sort(row_RL) == np.sort(row_RL[:1])).all():
            row_RL = row_RL[:1]
        user_RL = np.arange(len(row_RL))[:, None] * self.num_users + self.user_L[given_L]
        return Labels(row_RL.ravel(), user_RL.ravel(), len(row_RL), self.num_users)

    def mean_by_user(self, values_RN: Array) -> Array:
        """Means [R, U] over the scored rows with a finite value; NaN for subjects without any.

        Args:
            values_RN: value of each test row; one draw is used for all draws. R is 1 if `keep_RN` has one draw too.
        """
        values_RN, keep_RN = np.broadcast_arrays(values_RN, self.keep_RN)
        keep_RN = keep_RN & np.isfinite(values_RN)
        sums_RU, counts_RU = (
            np.stack([np.bincount(self.user_N, weights_N, self.num_users) for weights_N in weights_RN])
            for weights_RN in (np.where(keep_RN, values_RN, 0.0), keep_RN)
        )
        return np.divide(sums_RU, counts_RU, out=np.full(sums_RU.shape, np.nan), where=counts_RU > 0)


def draw_attributes(data: PreferenceData, labels_from: str, largest: int, draws: int, seed: int) -> Subjects:
    """Makes subjects of the attributes of test rows, and draws their labels.

    Args:
        data: the data of the comparison.
        labels_from: split of the labels: `train`; or `test`, when models were trained on other data. With `test`, the
            rows that a draw may label, and all rows with the same prompts, are not scored in that draw.
        largest: largest number of labels of each attribute.
        draws: number of draws R.
        seed: seed of the draws.

    Raises:
        UserError: the data have no attributes, or an attribute has too few rows for `largest` labels or for scores.
    """
    row_N = data.splits["test"].numpy()
    attribute_N = data.pairs.label_N("attribute").numpy()
    row_N = row_N[attribute_N[row_N] >= 0]
    code_U, user_N = np.unique(attribute_N[row_N], return_inverse=True)
    names = data.names["attribute"]
    # Rows with one prompt are not independent. Vectors have no prompts, only topics shared by thousands of rows.
    prompt_of_row = np.arange(len(data.pairs)) if data.is_vectors else data.pairs.context_N.numpy()
    orders_RU = [[draw_orders(data, labels_from, seed, draw)[code] for code in code_U] for draw in range(draws)]
    for code, order in zip(code_U, orders_RU[0], strict=True):
        if len(order) < largest:
            raise UserError(
                f"budgets: attribute {names[code]!r} has {len(order)} {labels_from} rows, and {largest} labels are to "
                "be drawn; give smaller budgets"
            )
    keep_RN = np.ones((1, len(row_N)), dtype=bool)
    if labels_from == "test":
        orders_RU = [[order[:largest] for order in orders] for orders in orders_RU]
        used_R = [prompt_of_row[np.concatenate(orders)] for orders in orders_RU]
        keep_RN = np.stack([~np.isin(prompt_of_row[row_N], used) for used in used_R])
    for number, code in enumerate(code_U):
        if not keep_RN[:, user_N == number].any(axis=1).all():
            raise UserError(
                f"budgets: the labels and their prompts take all test rows of {names[code]!r}; give smaller budgets"
            )
    count_U = [len(order) for order in orders_RU[0]]
    place_L = np.concatenate([np.arange(count) for count in count_U])
    label_RL = np.stack([np.concatenate(orders) for orders in orders_RU])
    user_L = np.repeat(np.arange(len(count_U)), count_U)
    return Subjects(code_U, row_N, user_N, prompt_of_row[row_N], keep_RN, label_RL, user_L, place_L)


def draw_users(
    data: PreferenceData, largest: int, rows_left: int, draws: int, seed: int
) -> tuple[dict[str, Subjects], dict[str, int]]:
    """Makes subjects of users with training pairs (`seen`) and without (`unseen`), and draws their labels.

    Labels of seen users are their training pairs. Labels of unseen users are test rows. An unseen user is scored on
    rows that share no response with the labels, because otherwise recalling the labels would suffice.

    Args:
        data: the data of the comparison.
        largest: number of test rows of each unseen user that a draw sets aside for labels.
        rows_left: least number of remaining rows; an unseen user with fewer is not scored in that draw.
        draws: number of draws R.
        seed: seed of the draws.

    Returns:
        The subjects of each regime that has any, and counts of rows and users that are in neither.
    """
    code_N = data.pairs.label_N("user_id").numpy()
    train_N, test_N = (data.splits[name].numpy() for name in ("train", "test"))
    known_N = np.sort(test_N[code_N[test_N] >= 0])
    seen_N = np.isin(code_N[known_N], code_N[train_N])
    seen, others = known_N[seen_N], known_N[~seen_N]
    found, few = {}, others
    if len(seen):
        pool_N = train_N[np.isin(code_N[train_N], code_N[seen])]
        label_RL, user_L, place_L = _orders(pool_N, code_N, draws, [seed, 0])
        keep_1N = np.ones((1, len(seen)), dtype=bool)
        found["seen"] = _users(data, seen, keep_1N, label_RL, user_L, place_L)
    if len(others):
        label_RL, user_L, place_L = _orders(others, code_N, draws, [seed, 1])
        aside_RN = place_L[np.argsort(label_RL, axis=1)] < largest
        keep_RN = _judged(data.pairs.triplets_N3.numpy()[others, 1:], code_N[others], aside_RN, rows_left)
        judged_N = np.isin(code_N[others], code_N[others[keep_RN.any(axis=0)]])
        unseen, few = others[judged_N], others[~judged_N]
        if len(unseen):
            own_L = np.isin(label_RL[0], unseen)
            user_L = np.unique(user_L[own_L], return_inverse=True)[1]
            label_RL = label_RL[:, np.isin(code_N[label_RL[0]], code_N[unseen])]
            found["unseen"] = _users(data, unseen, keep_RN[:, judged_N], label_RL, user_L, place_L[own_L])
    left_out = {
        "rows of unknown users": len(test_N) - len(known_N),
        "unseen users with too few rows": len(np.unique(code_N[few])),
        "rows of theirs": len(few),
    }
    return found, left_out


def _judged(response_N2: Integers, code_N: Integers, aside_RN: NDArray[np.bool_], rows_left: int) -> NDArray[np.bool_]:
    """Scored rows [R, N]: they share no response with rows set aside for the same user, who has enough of them."""
    user_N = np.unique(code_N, return_inverse=True)[1]
    key_N2 = user_N[:, None] * (response_N2.max(initial=0) + 1) + response_N2
    keep_RN = np.stack([~np.isin(key_N2, key_N2[aside_N]).any(axis=1) for aside_N in aside_RN])
    for keep_N in keep_RN:
        keep_N &= np.bincount(user_N[keep_N], minlength=len(user_N))[user_N] >= rows_left
    return keep_RN


def _users(data: PreferenceData, row_N: Integers, keep_RN: NDArray[np.bool_], *labels: Integers) -> Subjects:
    code_U, user_N = np.unique(data.pairs.label_N("user_id").numpy()[row_N], return_inverse=True)
    return Subjects(code_U, row_N, user_N, data.pairs.context_N.numpy()[row_N], keep_RN, *labels)


def _orders(pool_L: Integers, code_N: Integers, draws: int, seed: Sequence[int]) -> tuple[Integers, Integers, Integers]:
    """Rows of a pool [R, L] by user, in random order within a user; and user_L and place_L of `Subjects`."""
    generators = (np.random.default_rng([*seed, draw]) for draw in range(draws))
    order_RL = np.stack([np.lexsort((generator.random(len(pool_L)), code_N[pool_L])) for generator in generators])
    code_L = np.sort(code_N[pool_L])
    _, first_U, user_L = np.unique(code_L, return_index=True, return_inverse=True)
    return pool_L[order_RL], user_L, np.arange(len(pool_L)) - first_U[user_L]
