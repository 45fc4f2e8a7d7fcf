"""Builds the objects of a config from nodes with a `_target_`, checked against the allow-list and the rules."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from micro_lit.config.rules import Signature, check, frozen_signature
from micro_lit.config.targets import SPECIAL, find, objects
from micro_lit.errors import UserError


def build(node: Mapping[str, Any], **arguments: Any) -> Any:
    """Builds the object that a node with a `_target_` describes.

    Args:
        node: validated settings; nested nodes are built first.
        arguments: further arguments, passed on unchanged.

    Returns:
        The object; with `_partial_: true`, a partial function that takes the remaining arguments.

    Raises:
        UserError: a node has arguments that its object does not accept.

    Example:

        >>> type(build({"_target_": "micro_lit.models.LinearHeads", "width": 4, "num_heads": 2})).__name__
        'LinearHeads'
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
        # Classes that pass on **settings detect errors only now; library exceptions are about the user's settings.
        ours = node["_target_"].startswith("micro_lit.")
        if ours and not (isinstance(error, TypeError) and "keyword argument" in str(error)):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{node['_target_']}: {reason}") from error


def _settings(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _make(child) for name, child in node.items() if name not in SPECIAL}


def _make(node: Any) -> Any:
    """Builds the objects inside a setting. Hydra's `instantiate` is not used: it interpolates resolved text again."""
    if isinstance(node, list):
        return [_make(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {name: _make(child) for name, child in node.items()}
    return build(node)


def check_objects(node: Mapping[str, Any]) -> None:
    """Imports every `_target_` in a node and checks its settings against the signature, without calling it.

    Raises:
        UserError: a target does not exist, is not allowed, or does not accept a setting.
    """
    for key, inner in objects(node):
        find(inner["_target_"])
        check(key or inner["_target_"], _signature_of(inner["_target_"]), inner)


@functools.cache
def _signature_of(target: str) -> Signature:
    """The rules of an object: from rules.json, or from the annotations of a class outside this library."""
    from micro_lit.config.annotations import signature_of  # pydantic is slow to import

    return frozen_signature(target) or signature_of(find(target), target)
