"""Objects of a config: made in one function of nodes with a `_target_` that the allow-list and the rules accept."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from micro_lit.config.rules import Signature, check, frozen_signature
from micro_lit.config.targets import SPECIAL, find, objects
from micro_lit.errors import UserError


def build(node: Mapping[str, Any], **arguments: Any) -> Any:
    """Makes the object that a validated node describes; `arguments` are passed on as they are.

    A node with `_partial_: true` gives a function that waits for the rest of its arguments.

    Raises `UserError` when the node, or one inside it, gives what its object does not take.
    """
    check_objects(node)
    found, settings = find(node["_target_"]), _settings(node)
    if node.get("_partial_"):
        return functools.partial(found, **settings, **arguments)
    try:
        inspect.signature(found).bind(**settings, **arguments)
    except TypeError as error:
        raise UserError(f"{node['_target_']}: {error}") from error
    try:
        return found(**settings, **arguments)
    except UserError:
        raise
    except Exception as error:
        # A class that hands **settings on shows its mistakes only now; what libraries raise is about our settings.
        ours = node["_target_"].startswith("micro_lit.")
        if ours and not (isinstance(error, TypeError) and "keyword argument" in str(error)):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{node['_target_']}: {reason}") from error


def _settings(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _make(child) for name, child in node.items() if name not in SPECIAL}


def _make(node: Any) -> Any:
    """A setting with the objects inside it made. Hydra's `instantiate` would interpolate resolved text once more."""
    if isinstance(node, list):
        return [_make(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {name: _make(child) for name, child in node.items()}
    return build(node)


def check_objects(node: Mapping[str, Any]) -> None:
    """Imports what every `_target_` in a node names and checks the settings given for it, without a call.

    Raises:
        UserError: a target does not exist, is of no allowed kind, or does not take a setting.
    """
    for key, inner in objects(node):
        find(inner["_target_"])
        check(key or inner["_target_"], _signature(inner["_target_"]), inner)


@functools.cache
def _signature(target: str) -> Signature:
    """The rules of an object: from rules.json, or from the annotations of a class of another package."""
    from micro_lit.config.annotations import signature_of  # pydantic takes time to import

    return frozen_signature(target) or signature_of(find(target), target)
