"""Verdicts: what the value of a column says of two responses, in whatever coding the data have it."""

from collections.abc import Mapping
from typing import Any, Literal

from micro_lit.data.messages import BadRow

Verdict = Literal["first", "second", "tie"]
# A value, or `negative` or `positive` for the sign of a strength -> what it means.
Coding = Mapping[Any, Verdict]

MEANINGS = ("first", "second", "tie")
SIGNS = ("negative", "positive")

# Values whose meaning nobody doubts. Numbers are none of them: 0 is the first response of one set, and the loser of
# another.
KNOWN: dict[str, Verdict] = {
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
    """A value as all its spellings in tables are: 1 and "1.0" are one, and so are True and "true"."""
    words = str(value).strip().casefold()
    try:
        return float(words)
    except ValueError:
        return words


def verdict_of(value: Any, coding: Coding | None = None) -> tuple[Verdict, float | None]:
    """Which response a verdict prefers, and by how much where it is a signed strength.

    coding: what values mean, such as {1: first, 0: second}; of a strength {negative: first, positive: second}, where 0
        is a tie. Without it the value must be one of `KNOWN`, in small letters or capitals.

    Raises:
        BadRow: nobody said what the value means.
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
    elif isinstance(value, str) and (known := KNOWN.get(value.strip().casefold())):
        return known, None
    raise BadRow(
        "data.winner does not say what this value of the winner means; give all values, such as "
        "data.winner={0: first, 1: second, 2: tie}, or data.winner={negative: first, positive: second} for a strength",
        f"the value is {value!r}",
    )
