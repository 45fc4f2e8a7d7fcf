"""The allow-list of configs: the classes and functions that a `_target_` may name."""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hydra

from micro_lit.errors import UserError

# Allowed prefixes of `_target_`; `packages=[...]` adds those of the user.
ALLOWED_TARGETS = ("micro_lit.", "torch.optim.", "torch.nn.", "pytorch_lightning.")

# Packages of micro_lit whose public classes, or public functions, are allowed. Packages that accept code or its
# settings are left out, and so is `compare`, which composes its own settings.
CLASSES = ("data", "features", "likelihood", "metrics", "models", "run", "track")
FUNCTIONS = ("adapt", "data")

# Modules of other packages whose classes are allowed. `LightningCLI` is left out, and so is Lightning's `WandbLogger`,
# which passes on any arguments (`logger=wandb` is ours).
THEIRS = (
    "torch.optim",
    "torch.nn",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers.csv_logs",
    "pytorch_lightning.loggers.mlflow",
    "pytorch_lightning.loggers.tensorboard",
    "pytorch_lightning.profilers",
    "pytorch_lightning.strategies",
    "pytorch_lightning.trainer.trainer.Trainer",
)

# Hydra's `_args_`, `_recursive_` and `_convert_` are excluded: they would bypass the check of names and signatures.
SPECIAL = ("_target_", "_partial_")


def objects(node: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All nodes with a `_target_`, each with its dotted key, outer nodes before inner ones."""
    if isinstance(node, Mapping) and "_target_" in node:
        yield key, node
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from objects(child, f"{key}.{name}" if key else str(name))


def is_public(target: Any) -> bool:
    """Whether this is a dotted name without a private part."""
    parts = target.split(".") if isinstance(target, str) else [""]
    return all(part.isidentifier() and not part.startswith("_") for part in parts)


def check_target(key: str, target: Any, packages: Sequence[str]) -> None:
    """Raises `UserError` unless a target is a public name in an allowed package. Imports nothing."""
    allowed = (*ALLOWED_TARGETS, *(f"{package}." for package in packages))
    if not is_public(target):
        raise UserError(
            f"{key}={target!r} is not allowed; give the dotted name of a class, no part of which is private (begins "
            "with _)"
        )
    if not target.startswith(allowed):
        raise UserError(
            f"{key}={target!r} is not allowed; it must start with one of {', '.join(allowed)} "
            "(name your own package with packages=[yours])"
        )


def check_node(key: str, node: Mapping[str, Any], packages: Sequence[str]) -> None:
    """Raises `UserError` unless a node has an allowed `_target_` and no other special key of Hydra than `_partial_`."""
    check_target(f"{key}._target_", node["_target_"], packages)
    for name in node:
        if not isinstance(name, str) or (name.startswith("_") and name not in SPECIAL):
            raise UserError(
                f"{key}.{name} is not allowed; beside _target_ a node may have _partial_ and arguments by name"
            )
    if not isinstance(node.get("_partial_", False), bool):
        raise UserError(f"{key}._partial_={node['_partial_']!r} is not allowed; give true or false")


def find(target: str) -> Any:
    """Imports a validated target. Raises `UserError` unless it is an allowed class or function.

    The dotted name may go through re-exports of a module; the object itself must be defined in an allowed package.
    """
    found = import_target(target)
    package = target.split(".")[0]
    place = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}."
    ours = target.startswith(ALLOWED_TARGETS)
    if not place.startswith(ALLOWED_TARGETS if ours else f"{package}."):
        raise UserError(f"_target_={target!r} is not allowed: it ends outside {package}")
    if not ours:
        return found
    if not (_is_public_of_ours(found) if package == "micro_lit" else _is_class_of_theirs(found, place)):
        raise UserError(
            f"_target_={target!r} is not allowed: a config may name data, backbones, models, their heads, gates and "
            "links, callbacks, loggers, strategies, profilers, optimizers and layers, rules of adaptation and layouts"
        )
    return found


def _is_public_of_ours(found: Any) -> bool:
    """Whether a class or function is public in a package of micro_lit that configs may use."""
    package = found.__module__.split(".")[1]
    packages = CLASSES if inspect.isclass(found) else FUNCTIONS if inspect.isfunction(found) else ()
    if package not in packages:
        return False
    public = importlib.import_module(f"micro_lit.{package}")
    return found.__name__ in public.__all__ and getattr(public, found.__name__) is found


def _is_class_of_theirs(found: Any, place: str) -> bool:
    return inspect.isclass(found) and place.startswith(tuple(f"{module}." for module in THEIRS))


def import_target(target: str) -> Any:
    """Imports the object with a dotted name. Raises `UserError` if it cannot be imported."""
    try:
        return hydra.utils.get_object(target)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"_target_={target!r} cannot be imported ({reason}); a file of yours is found in the folder you run from, "
            "or on PYTHONPATH"
        ) from error
