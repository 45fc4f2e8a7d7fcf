"""Objects of a config: nodes with a `_target_`, checked against an allow-list and signatures, made in one function."""

import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import hydra

from micro_lit.config import types
from micro_lit.errors import UserError

# `_target_` may name these and nothing else; `packages=[...]` adds the user's own.
ALLOWED_TARGETS = ("micro_lit.", "torch.optim.", "torch.nn.", "pytorch_lightning.")


def objects(node: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node that names a `_target_`, with its dotted key, the outer before the inner."""
    if isinstance(node, Mapping) and "_target_" in node:
        yield key, node
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from objects(child, f"{key}.{name}" if key else str(name))


def check_target(key: str, target: str, packages: list[str]) -> None:
    allowed = (*ALLOWED_TARGETS, *(f"{package}." for package in packages))
    if not str(target).startswith(allowed):
        raise UserError(
            f"{key}={target!r} is not allowed; it must start with one of {', '.join(allowed)} "
            "(name your own package with packages=[yours])"
        )


def build(node: Mapping[str, Any], **arguments: Any) -> Any:
    """Makes the object that a validated node describes; `arguments` are passed on as they are.

    A node with `_partial_: true` gives a function that waits for the rest of its arguments.

    Raises `UserError` when the node, or one inside it, gives what its object does not take.
    """
    check_objects(node)
    make = hydra.utils.instantiate(dict(node), _partial_=True, _convert_="all")
    if node.get("_partial_"):
        return functools.partial(make, **arguments)
    try:
        inspect.signature(make.func).bind(*make.args, **make.keywords, **arguments)
    except TypeError as error:
        raise UserError(f"{node['_target_']}: {error}") from error
    try:
        return make(**arguments)
    except UserError:
        raise
    except Exception as error:
        # A class that hands **settings on shows its mistakes only now; what libraries raise is about our settings.
        ours = node["_target_"].startswith("micro_lit.")
        if ours and not (isinstance(error, TypeError) and "keyword argument" in str(error)):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{node['_target_']}: {reason}") from error


def check_objects(node: Mapping[str, Any]) -> None:
    """Imports what every `_target_` in a node names and checks it against the settings given for it, without a call.

    Raises `UserError` for a target that is not there, leads out of its package, or does not take a setting.
    """
    for key, inner in objects(node):
        _check_call(key, inner["_target_"], {name: each for name, each in inner.items() if not name.startswith("_")})


def _check_call(key: str, target: str, settings: Mapping[str, Any]) -> None:
    try:
        found = hydra.utils.get_object(target)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"_target_={target!r} cannot be imported ({reason}); a file of yours is found in the folder you run from, "
            "or on PYTHONPATH"
        ) from error
    # A path may wander off through a module's own imports; what it ends at must be of an allowed package itself.
    package = target.split(".")[0]
    own = () if any(allowed.startswith(f"{package}.") for allowed in ALLOWED_TARGETS) else (f"{package}.",)
    if not f"{getattr(found, '__module__', '')}.".startswith((*ALLOWED_TARGETS, *own)):
        raise UserError(f"_target_={target!r} is not allowed: it ends outside {package}")
    try:
        inspect.signature(found).bind_partial(**settings)
    except TypeError as error:
        raise UserError(f"{target}: {error}") from error
    types.check(key, found, settings)
