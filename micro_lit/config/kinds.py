"""Kinds of settings: each gives the rule of a key."""

import datetime
import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_HALF = re.compile("[\ud800-\udfff]")


class Rule(NamedTuple):
    """What a key may hold: a sentence for the error, and the test behind it."""

    allowed: str
    test: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(least: int, most: float = math.inf, null: bool = False) -> Rule:
    """A whole number."""
    """A whole number."""
    allowed = f"a whole number of at least {least}" + (f" and at most {most}" if most < math.inf else "")
    return Rule(
        allowed + (", or null" if null else ""),
        lambda value: (null and value is None) or (type(value) is int and least <= value <= most),
    )


def number(least: float, below: float = math.inf, most: float = math.inf, null: bool = False) -> Rule:
    """A number."""
    allowed = f"a number of at least {least}"
    allowed += (f" and below {below}" if below < math.inf else "") + (f" and at most {most}" if most < math.inf else "")
    return Rule(
        allowed + (", or null" if null else ""),
        lambda value: (null and value is None) or (_is_number(value) and least <= value <= most and value < below),
    )


def one_of(*values: Any) -> Rule:
    """One of a few values."""
    return Rule("one of " + ", ".join(map(str, values)), lambda value: value in values)


def yes_or_no() -> Rule:
    """A switch."""
    return Rule("true or false", lambda value: isinstance(value, bool))


def user_name() -> Rule:
    # A command line that is no UTF-8 comes in as half characters, which no file can hold.
    return Rule(
        "a name, a whole number or null; other numbers in two kinds of quotes, as '\"1.5\"'",
        lambda value: (
            value is None or type(value) is int or (isinstance(value, str) and value != "" and not _HALF.search(value))
        ),
    )


def node(*keys: str) -> Rule:
    """An object that others than its class read `keys` of."""
    needed = "".join(f", {key}" for key in keys)
    return Rule(
        f"an object with a _target_{needed} (to choose one of a group write group=option, as in model/head=mlp)",
        lambda value: isinstance(value, Mapping) and {"_target_", *keys} <= set(value),
    )


def nodes() -> Rule:
    """Objects by their names."""
    return Rule(
        "a mapping from names to objects with a _target_, or null",
        lambda value: (
            value is None
            or (
                isinstance(value, Mapping)
                and all(each is None or (isinstance(each, Mapping) and "_target_" in each) for each in value.values())
            )
        ),
    )


def text(null: bool = False, digits: bool = False) -> Rule:
    """digits: a whole number is read as the text that it is written with, as a name of a user may be."""
    return Rule(
        "text that is not empty" + (", or null" if null else ""),
        lambda value: (
            (null and value is None) or (isinstance(value, str) and value != "") or (digits and type(value) is int)
        ),
    )


def texts(what: str, null: bool = False, empty: bool = True) -> Rule:
    """A list of texts."""
    return Rule(
        f"a list of {what}" + (", or null" if null else ""),
        lambda value: (
            (null and value is None)
            or (isinstance(value, list) and (empty or bool(value)) and all(isinstance(each, str) for each in value))
        ),
    )


def length_of_time() -> Rule:
    """A length of time, as Lightning reads it."""
    return Rule(
        "a time above 0, as '00:12:00:00' (days, hours, minutes, seconds) or {hours: 12}, or null",
        lambda value: value is None or _seconds(value) > 0,
    )


def _seconds(value: Any) -> float:
    """A length of time; nan of what is none."""
    if isinstance(value, str):
        parts = value.split(":")
        named = dict(zip(("days", "hours", "minutes", "seconds"), parts, strict=False))
        if len(parts) != 4 or not all(part.isdecimal() for part in parts):
            return math.nan
        value = {name: int(part) for name, part in named.items()}
    if not isinstance(value, Mapping) or not all(map(_is_number, value.values())):
        return math.nan
    try:
        return datetime.timedelta(**value).total_seconds()
    except (TypeError, OverflowError):
        return math.nan


def share_or_count(none: bool = False, null: bool = True) -> Rule:
    """Of batches: how many, or which share. none: whether it may be 0."""
    return Rule(
        f"a whole number of at least {int(not none)}, a share above 0 and at most 1.0" + (", or null" if null else ""),
        lambda value: (
            (null and value is None)
            or (type(value) is int and value >= int(not none))
            or (type(value) is float and (none or value > 0) and 0 <= value <= 1)
        ),
    )


def rise_from_0(values: list[Any]) -> bool:
    """Whether values are whole numbers, the first of them 0 and each larger than the one before."""
    numbers = all(type(value) is int for value in values)
    return numbers and values[:1] == [0] and all(low < high for low, high in itertools.pairwise(values))


def layout() -> Rule:
    """What brings raw rows to our columns."""
    return Rule(
        "null, or an object with a _target_ and _partial_: true (as in conf/data/rpr.yaml)",
        lambda value: value is None or (isinstance(value, Mapping) and {"_target_", "_partial_"} <= set(value)),
    )


def devices() -> Rule:
    """Devices of a Trainer, of some machine."""
    return Rule(
        "how many there are to be, as 2, or auto; on GPUs also -1 for all, or a list of their numbers, as [0,1]",
        _are_devices,
    )


def _are_devices(value: Any) -> bool:
    """Whether a Trainer on some machine has such devices: how many, all, or GPUs by number, also as text."""
    if isinstance(value, str) and "," in value:
        value = [each.strip() for each in value.rstrip(", ").split(",")]
    numbers = [str(each) for each in (value if isinstance(value, list) else [value]) if not isinstance(each, bool)]
    if isinstance(value, list):
        return bool(numbers) and all(map(str.isdecimal, numbers)) and len(set(map(int, numbers))) == len(value)
    return numbers in (["auto"], ["-1"]) or (bool(numbers) and numbers[0].isdecimal() and int(numbers[0]) > 0)
