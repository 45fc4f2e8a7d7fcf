"""Train-test leakage: counts test rows that also occur in the training or validation rows.

Dimension letters: N records.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from micro_lit.data.columns import Columns, combined, first_codes
from micro_lit.data.splits import SPLITS
from micro_lit.errors import UserError

Leak = Literal["error", "warn", "allow"]
LEAKS = ("error", "warn", "allow")
TEST = SPLITS.index("test")


def overlap(columns: Columns, split_N: NDArray[np.int8]) -> dict[str, int] | None:
    """Counts the overlap of test rows with training and validation rows.

    Args:
        columns: N records.
        split_N: index of each record's split in `SPLITS`.

    Returns:
        Number of test `rows`, and how many of them also occur in the other splits: `identical` (same prompt, responses
        in either order, user, criterion and attribute), `other_rater` (same prompt and responses, but not identical),
        `prompt` (same prompt), `response` (one of the responses, to any prompt). None if there are only test rows or
        none.
    """
    test_N = split_N == TEST
    if not test_N.any() or test_N.all():
        return None
    codes = columns.codes
    low_N, high_N = (each(codes["chosen"], codes["rejected"]) for each in (np.minimum, np.maximum))
    pair_N, _ = first_codes(combined(codes["prompt"], low_N, high_N))
    row_N, _ = first_codes(combined(pair_N, codes["user_id"], codes["criterion"], codes["attribute"]))

    def known(*columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether any of the test row's codes in these columns occurs in other splits."""
        seen = np.zeros(max(int(code_N.max()) for code_N in columns) + 1, dtype=bool)
        for code_N in columns:
            seen[code_N[~test_N]] = True
        return np.any([seen[code_N[test_N]] for code_N in columns], axis=0)

    return {
        "rows": int(test_N.sum()),
        "identical": int(known(row_N).sum()),
        "other_rater": int((known(pair_N) & ~known(row_N)).sum()),
        "prompt": int(known(codes["prompt"]).sum()),
        "response": int(known(codes["chosen"], codes["rejected"]).sum()),
    }


def check_overlap(name: str, found: dict[str, int] | None, leak: Leak) -> str | None:
    """Returns a warning if test rows are training rows; None if there are none, or `leak` is "allow".

    Args:
        name: of the data set.
        found: result of `overlap`.
        leak: the setting `data.leak`.

    Raises:
        UserError: when `leak` is "error" and more than half of the test rows are training rows.
    """
    if found is None or not found["identical"] or leak == "allow":
        return None
    what = f"{found['identical']:,} of {found['rows']:,} test rows are training rows"
    if leak == "error" and 2 * found["identical"] > found["rows"]:
        raise UserError(
            f"{name}: {what} (same prompt, responses, user and criterion): the test would measure memorisation. "
            "Give another data.test, or data.leak=warn or allow if this is meant"
        )
    return f"{what}; data.leak=allow leaves out this warning"
