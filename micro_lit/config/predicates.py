"""Rules that no type expresses: functions of a value, named by `annotated_types.Predicate` in annotations."""

import datetime
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")


def is_storable(value: Any) -> bool:
    """Whether this is no text of half characters, as a command line that is no UTF-8 comes in: no file can hold it."""
    return not isinstance(value, str) or not _HALF.search(value)


def is_function(value: Any) -> bool:
    """Whether this is null, or an object that waits for its arguments."""
    return value is None or (isinstance(value, Mapping) and {"_target_", "_partial_"} <= set(value))


def rises(value: Any) -> bool:
    """Whether whole numbers begin with 0 and each is larger than the one before; the last may be null."""
    numbers = value[:-1] if value[-1:] == [None] else value
    return None not in numbers and numbers[:1] == [0] and all(low < high for low, high in itertools.pairwise(numbers))


def is_length_of_time(value: Any) -> bool:
    """Whether this is null or a time above 0, as Lightning reads it."""
    return value is None or _seconds(value) > 0


def _seconds(value: Any) -> float:
    """A length of time; nan of any other value."""
    if isinstance(value, str):
        parts = value.split(":")
        named = dict(zip(("days", "hours", "minutes", "seconds"), parts, strict=False))
        if len(parts) != 4 or not all(part.isdecimal() for part in parts):
            return math.nan
        value = {name: int(part) for name, part in named.items()}
    if not isinstance(value, Mapping) or not all(type(each) in (int, float) for each in value.values()):
        return math.nan
    try:
        return datetime.timedelta(**value).total_seconds()
    except (TypeError, OverflowError):
        return math.nan


def are_devices(value: Any) -> bool:
    """Whether a Trainer on some machine has such devices: their number, all, or GPUs by number, also as text."""
    if isinstance(value, str) and "," in value:
        value = [each.strip() for each in value.rstrip(", ").split(",")]
    numbers = [str(each) for each in (value if isinstance(value, list) else [value]) if not isinstance(each, bool)]
    if isinstance(value, list):
        return bool(numbers) and all(map(str.isdecimal, numbers)) and len(set(map(int, numbers))) == len(value)
    return numbers in (["auto"], ["-1"]) or (bool(numbers) and numbers[0].isdecimal() and int(numbers[0]) > 0)


def has_processes(value: Mapping[str, Any]) -> bool:
    """Whether these arguments of a Trainer say which processes it needs."""
    return {"_target_", "accelerator", "devices", "num_nodes"} <= set(value)


def starts_no_processes(value: Any) -> bool:
    """Whether a strategy of a Trainer leaves it to the command to start processes."""
    method = value.get("start_method") if isinstance(value, Mapping) else value
    return {"spawn", "fork", "forkserver", "notebook"}.isdisjoint(str(method).split("_"))


def is_limit_of_steps(value: Any) -> bool:
    """Whether this is a number of steps, or -1 for no limit."""
    return type(value) is int and (value == -1 or value > 0)
