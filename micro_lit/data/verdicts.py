"""Verdicts: decodes the column that states which of two responses won."""

from collections.abc import Mapping
from typing import Any, Literal

from micro_lit.data.messages import BadRow

Verdict = Literal["first", "second", "tie"]
# A value (or `negative`, `positive` for the sign of a strength) -> its verdict.
Coding = Mapping[Any, Verdict]

MEANINGS = ("first", "second", "tie")
SIGNS = ("negative", "positive")

# Unambiguous values. Numbers are not among them: 0 means the first response in one data set, the loser in another.
KNOWN_CODES: dict[str, Verdict] = {
    **dict.fromkeys(("first", "a", "model_a", "response_a", "answer_a", "left", "human_ref_a"), "first"),
    **dict.fromkeys(("second", "b", "model_b", "response_b", "answer_b", "right", "human_ref_b"), "second"),
    **dict.fromkeys(
        ("tie", "ties", "tie (bothbad)", "tie (both bad)", "both", "both bad", "bothbad", "neither", "equal", "same"),
        "tie",
    ),
}

# Columns that are likely to hold a verdict.
LIKELY = (
    "winner", "label", "labels", "preference", "preferred", "verdict", "choice", "better", "better_response_id",
    "overall_preference", "preference_strength", "winner_id",
)  # fmt: skip


def _spelled(value: Any) -> str | float:
    """Normalises a value, so that 1 equals "1.0" and True equals "true"."""
    words = str(value).strip().casefold()
    try:
        return float(words)
    except ValueError:
        return words


def verdict_of(value: Any, coding: Coding | None = None) -> tuple[Verdict, float | None]:
    """Decodes a verdict.

    Args:
        value: the value of the verdict column.
        coding: value -> verdict, such as {1: first, 0: second}; for a signed strength {negative: first, positive:
            second}, where 0 is a tie. None: the value must be one of `KNOWN_CODES`, in any case.

    Returns:
        The verdict, and the absolute strength if the coding is of a signed strength, else None.

    Raises:
        BadRow: when the value is not in the coding, or not in `KNOWN_CODES`.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if coding:
        for spelled in (str, _spelled):
            for key, verdict in coding.items():
                if spelled(key) == spelled(value):
                    return verdict, None
        if set(coding) & set(SIGNS):
            try:
                strength = float(value)
            except (TypeError, ValueError, OverflowError):
                strength = float("nan")
            if strength == 0:
                return "tie", None
            sign = "negative" if strength < 0 else "positive"
            if strength == strength and sign in coding:
                return coding[sign], abs(strength)
    elif isinstance(value, str) and (known := KNOWN_CODES.get(value.strip().casefold())):
        return known, None
    raise BadRow(
        "data.winner does not say what this value of the winner means; give all values, such as "
        "data.winner={0: first, 1: second, 2: tie}, or data.winner={negative: first, positive: second} for a strength",
        f"the value is {value!r}",
    )
