"""Settings of earlier versions: moved classes, and keys that commands refuse and folders of finished runs may hold.

A ridge of a mean loss is the prior precision divided by the number of training pairs n. Commands name precisions.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from micro_lit.errors import UserError

# Packages and classes that moved: `micro_lit.<old>` -> `micro_lit.<new>`.
PACKAGES = {"adaptation": "adapt", "callbacks": "run", "sharding": "features", "sweeps": "run"}
CLASS_NAMES = {"HarmlessWandbLogger": "WandbLogger"}

# Modules whose names a `_target_` held before it named the public package: `micro_lit.features.pretrained.Pretrained`.
MODULES = (
    "data.datamodule", "data.layouts", "data.planted", "data.sources", "features.backbones", "features.pretrained",
    "features.tiny", "metrics.contract", "models.people", "models.variational", "track.csv", "track.jsonl",
    "track.tensorboard", "track.wandb", *PACKAGES,
)  # fmt: skip

# A stored weight w meant w / √ridge and means 128 w / √precision now (`UNIT` of `micro_lit.models.heads`). A power of
# four: heads of then judge to the bit as they did.
UNIT_SQUARE = 128.0**2

RENAMED = {
    "model.head.base_ridge": "model.head.base_precision",
    "model.head.deviation_ridge": "model.head.deviation_precision",
    "model.prior_weight": "model.prior_precision",
}


# Groups of options that are one now, `variant`, and the options that have another name there.
GROUPS = {
    "rung": {},
    "regulariser": {},
    "ablation": {each: f"no_{each}" for each in ("balance", "diversity", "noise", "sparsity")},
}

_noted: set[str] = set()


def with_public_targets(settings: Any, warn: bool = True) -> Any:
    """The same settings with every `_target_` of an earlier version under its name of today.

    Args:
        warn: prints one line on stderr that lists those names, each once in a process.
    """
    moved: dict[str, str] = {}
    found = _with_public_targets(settings, moved)
    if warn:
        _note(moved)
    return found


def _with_public_targets(node: Any, moved: dict[str, str]) -> Any:
    if isinstance(node, list):
        return [_with_public_targets(each, moved) for each in node]
    if not isinstance(node, Mapping):
        return node
    found = {name: _with_public_targets(each, moved) for name, each in node.items()}
    if isinstance(old := found.get("_target_"), str) and (new := _public_target(old)) != old:
        found["_target_"] = moved[old] = new
    return found


def _public_target(target: str) -> str:
    """The name of today of an object of micro_lit; any other name as it is."""
    package, _, rest = target.partition(".")
    module, _, name = rest.rpartition(".")
    if package != "micro_lit" or not any(f"{module}.".startswith(f"{each}.") for each in MODULES):
        return target
    old = module.split(".")[0]
    return f"micro_lit.{PACKAGES.get(old, old)}.{CLASS_NAMES.get(name, name)}"


def with_new_groups(overrides: Sequence[str]) -> list[str]:
    """Overrides of a command with groups of an earlier version under their names of today, noted on stderr."""
    moved = {}
    for each in overrides:
        group, _, option = each.lstrip("+").partition("=")
        if group in GROUPS:
            moved[each] = f"+variant={GROUPS[group].get(option, option)}"
    _note(moved)
    return [moved.get(each, each) for each in overrides]


def _note(moved: Mapping[str, str]) -> None:
    new = {old: today for old, today in moved.items() if old not in _noted}
    _noted.update(new)
    if new:
        named = ", ".join(f"{old} is {today} now" for old, today in new.items())
        print(f"note: {named}; old names will go in version 1.0", file=sys.stderr)


def explain_renamed(key: str) -> str | None:
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
            raise UserError(explain_renamed(key))


def as_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a finished run under the names of today, for judging.

    The values are those under which stored weights of heads give the rewards that they gave. They are no precisions of
    the run's number of pairs, so nothing may be trained with them.
    """
    found = with_public_targets(settings)
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
