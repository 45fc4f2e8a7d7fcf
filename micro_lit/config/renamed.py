"""Settings of earlier versions: refused in commands, read in the folders of finished runs.

A ridge of a mean loss is the prior precision divided by the number of training pairs n. Commands name precisions.
"""

from collections.abc import Mapping
from typing import Any

from micro_lit.errors import UserError

# A stored weight w meant w / √ridge and means 128 w / √precision now (`UNIT` of `micro_lit.models.heads`). A power of
# four: heads of then judge to the bit as they did.
UNIT_SQUARE = 128.0**2

RENAMED = {
    "model.head.base_ridge": "model.head.base_precision",
    "model.head.deviation_ridge": "model.head.deviation_precision",
    "model.prior_weight": "model.prior_precision",
}


def explain(key: str) -> str | None:
    """What to type instead of a setting of an earlier version; None for any other setting."""
    if key not in RENAMED:
        return None
    return f"{key} is no setting any more; give {RENAMED[key]} = {key.rpartition('.')[2]} · n, n the training pairs"


def check_renamed(settings: Mapping[str, Any]) -> None:
    """Raises `UserError` for the first setting of an earlier version, with the conversion."""
    for key in RENAMED:
        *parents, name = key.split(".")
        node = _look_up(settings, parents)
        if name in node:
            raise UserError(explain(key))


def as_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a finished run under the names of today, for judging.

    The values are those under which stored weights of heads give the rewards that they gave. They are no precisions of
    the run's number of pairs, so nothing may be trained with them.
    """
    found = dict(settings)
    for key, new in RENAMED.items():
        *parents, name = key.split(".")
        if name in _look_up(found, parents):
            node = found
            for parent in parents:
                node[parent] = dict(node[parent])
                node = node[parent]
            node[new.rpartition(".")[2]] = float(node.pop(name)) * UNIT_SQUARE
    return found


def _look_up(settings: Any, parents: list[str]) -> Mapping[str, Any]:
    for parent in parents:
        settings = settings.get(parent) if isinstance(settings, Mapping) else None
    return settings if isinstance(settings, Mapping) else {}
