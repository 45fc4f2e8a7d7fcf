"""The allow-list of a config: which classes and functions a node with a `_target_` may name."""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hydra

from micro_lit.errors import UserError

# `_target_` may name these and nothing else; `packages=[...]` adds the user's own.
ALLOWED_TARGETS = ("micro_lit.", "torch.optim.", "torch.nn.", "pytorch_lightning.")

# Of micro_lit: the public classes of these packages, and the public functions of these. Packages that take code or
# settings of code are left out, as is `compare`, which composes settings of its own.
CLASSES = ("data", "features", "likelihood", "metrics", "models", "run", "track")
FUNCTIONS = ("adapt", "data")

# Of the other packages: classes of these modules. Left out are `LightningCLI` and Lightning's `WandbLogger`, which
# passes on what it is given (`logger=wandb` is ours).
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

# Hydra's `_args_`, `_recursive_` and `_convert_` would pass by the check of names and signatures.
SPECIAL = ("_target_", "_partial_")


def objects(node: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node that names a `_target_`, with its dotted key, the outer before the inner."""
    if isinstance(node, Mapping) and "_target_" in node:
        yield key, node
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from objects(child, f"{key}.{name}" if key else str(name))


def is_public(target: Any) -> bool:
    """Whether this is a dotted name of which no part is private."""
    parts = target.split(".") if isinstance(target, str) else [""]
    return all(part.isidentifier() and not part.startswith("_") for part in parts)


def check_target(key: str, target: Any, packages: Sequence[str]) -> None:
    """Raises `UserError` unless a target is a public name of an allowed package. Nothing is imported."""
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
    """Raises `UserError` unless a node with a `_target_` names an allowed one and uses no other key of Hydra's."""
    check_target(f"{key}._target_", node["_target_"], packages)
    for name in node:
        if not isinstance(name, str) or (name.startswith("_") and name not in SPECIAL):
            raise UserError(
                f"{key}.{name} is not allowed; beside _target_ a node may have _partial_ and arguments by name"
            )
    if not isinstance(node.get("_partial_", False), bool):
        raise UserError(f"{key}._partial_={node['_partial_']!r} is not allowed; give true or false")


def find(target: str) -> Any:
    """Imports what a validated target names. Raises `UserError` unless it is a class, or function, of an allowed kind.

    A path may lead through the imports of a module; what it ends at must be of an allowed package itself.
    """
    found = locate(target)
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
    """Whether a package of micro_lit that configs may name lists this class or function among its public names."""
    package = found.__module__.split(".")[1]
    packages = CLASSES if inspect.isclass(found) else FUNCTIONS if inspect.isfunction(found) else ()
    if package not in packages:
        return False
    public = importlib.import_module(f"micro_lit.{package}")
    return found.__name__ in public.__all__ and getattr(public, found.__name__) is found


def _is_class_of_theirs(found: Any, place: str) -> bool:
    return inspect.isclass(found) and place.startswith(tuple(f"{module}." for module in THEIRS))


def locate(target: str) -> Any:
    """Imports what a dotted name stands for. Raises `UserError` when it cannot be imported."""
    try:
        return hydra.utils.get_object(target)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"_target_={target!r} cannot be imported ({reason}); a file of yours is found in the folder you run from, "
            "or on PYTHONPATH"
        ) from error
