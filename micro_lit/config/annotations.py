"""Rules from annotations: what each parameter of a class or function accepts, by pydantic.

`rank: Annotated[int, Ge(1)]` is the rule of `rank`. Rules of micro_lit are frozen in rules.json, since pydantic and the
classes themselves take time to import. `python -m micro_lit.config.annotations` writes it; a test keeps it current.
"""

import collections.abc
import dataclasses
import functools
import importlib
import inspect
import json
import operator
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any

import annotated_types
from pydantic import ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from micro_lit.config.rules import FROZEN, OBJECT, Rule, Signature, Takes
from micro_lit.config.targets import CLASSES, FUNCTIONS

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null", Any: "any"}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class _Object:
    """In the place of a class: a mapping with a `_target_`."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        return core_schema.typed_dict_schema(
            {"_target_": core_schema.typed_dict_field(core_schema.str_schema())}, extra_behavior="allow"
        )


def signature_of(made: Callable[..., Any], name: str) -> Signature:
    """The rules of a class or function.

    Args:
        made: a class that hands `**settings` on is followed to the classes it extends.
        name: what errors call it.
    """
    rules: dict[str, Rule | None] = {}
    takes_all = False
    for function in _functions(made):
        parameters = inspect.signature(function).parameters.values()
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except (NameError, TypeError, AttributeError):  # of names that are imported for type checkers alone
            hints = {}
        takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        for each in parameters:
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) and each.name not in (*rules, "self"):
                rules[each.name] = rule_of(hints[each.name]) if each.name in hints else None
    return Signature(name, rules, takes_all)


def _functions(made: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The functions that take the arguments: an `__init__`, and the next one where it hands `**settings` on."""
    if not inspect.isclass(made):
        yield made
        return
    for owner in inspect.getmro(made):
        function = vars(owner).get("__init__")
        if inspect.isfunction(function):
            yield function
            if not any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values()):
                return


def rule_of(hint: Any) -> Rule | None:
    """The rule of an annotation; None for one that pydantic does not know."""
    markers = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    tests = [each.func for each in markers if isinstance(each, annotated_types.Predicate)]
    inner = next((_inner(each) for each in markers if isinstance(each, Takes)), None)
    try:
        schema = TypeAdapter(_plain(hint), config=ConfigDict(strict=True)).core_schema
    except PydanticUserError:
        return None
    test = f"{tests[0].__module__}.{tests[0].__qualname__}" if tests else None
    return Rule(allowed_values(hint), _as_data(schema), test, inner)


def _inner(marker: Takes) -> Signature:
    module, _, name = marker.place.rpartition(".")
    found = signature_of(getattr(importlib.import_module(module), name), marker.place)
    return dataclasses.replace(found, takes_all=found.takes_all or marker.more)


def _plain(hint: Any) -> Any:
    """An annotation in terms of what a config can hold: numbers, text, lists, mappings, and nodes for objects."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    kind = origin or hint
    if origin is Annotated:
        markers = [each for each in arguments[1:] if not isinstance(each, Takes | annotated_types.Predicate)]
        return Annotated[_plain(arguments[0]), *markers] if markers else _plain(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _union(map(_plain, arguments))
    if hint in _WORDS or origin is typing.Literal:
        return hint
    if kind in _LISTS:
        inner = [_plain(each) for each in arguments if each is not Ellipsis] or [Any]
        if kind is tuple and arguments and Ellipsis not in arguments:
            return Annotated[_list_of(_union(inner)), annotated_types.Len(len(inner), len(inner))]
        return _list_of(inner[0])
    if kind in _MAPPINGS:
        return types.GenericAlias(dict, (Any, _plain(arguments[1]) if arguments else Any))
    if inspect.isclass(kind) and kind is not object and kind is not collections.abc.Callable:
        return _Object | str if issubclass(kind, os.PathLike) else _Object
    return Any if kind is object or isinstance(kind, typing.TypeVar) else _Object


def _union(hints: Iterable[Any]) -> Any:
    return functools.reduce(operator.or_, hints)


def _list_of(item: Any) -> Any:
    return types.GenericAlias(list, (item,))


def _as_data(schema: Any) -> Any:
    """A schema of pydantic without what cannot be written to a file, none of which decides what is valid."""
    if isinstance(schema, dict):
        return {name: _as_data(each) for name, each in schema.items() if name not in ("metadata", "cls", "ref")}
    return [_as_data(each) for each in schema] if isinstance(schema, list | tuple) else schema


def allowed_values(hint: Any) -> str:
    """What an annotation allows, for an error: `a whole number of at least 1 or null`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        markers = [each for marker in arguments[1:] for each in _flat(marker)]
        told = next((each for each in markers if isinstance(each, str)), None)
        return told or allowed_values(arguments[0]) + _bounds(markers)
    if origin in (typing.Union, types.UnionType):
        told = " or ".join(dict.fromkeys(allowed_values(each) for each in arguments if each is not type(None)))
        return f"{told}, or null" if type(None) in arguments else told
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    kind = origin or hint
    if kind in _WORDS:
        return _WORDS[kind]
    inner = [each for each in arguments if each is not Ellipsis]
    if kind in _LISTS:
        return "a list" + (f" ({', '.join(map(allowed_values, inner))})" if inner else "")
    if kind in _MAPPINGS:
        return "a mapping"
    return f"{OBJECT} (to choose one of a group write group=option, as in model/head=mlp)"


def _flat(marker: Any) -> list[Any]:
    """The parts of a marker: those of a pydantic `Field`, its description as text first."""
    if isinstance(marker, FieldInfo):
        return [*filter(None, [marker.description]), *marker.metadata]
    return list(marker) if isinstance(marker, annotated_types.GroupedMetadata) else [marker]


def _bounds(markers: list[Any]) -> str:
    found = []
    for each in markers:
        if isinstance(each, annotated_types.Ge):
            found.append(f"of at least {_short(each.ge)}")
        elif isinstance(each, annotated_types.Gt):
            found.append(f"above {_short(each.gt)}")
        elif isinstance(each, annotated_types.Le):
            found.append(f"at most {_short(each.le)}")
        elif isinstance(each, annotated_types.Lt):
            found.append(f"below {_short(each.lt)}")
        elif isinstance(each, annotated_types.MinLen) and each.min_length:
            found.append("that is not empty")
    return f" {' and '.join(found)}" if found else ""


def _short(bound: Any) -> str:
    """A bound as text: typing takes `Ge(0)` for `Ge(0.0)` where it has seen that first."""
    return str(int(bound) if bound == int(bound) else bound)


def frozen() -> dict[str, Any]:
    """All rules of micro_lit as JSON: of objects by their `_target_`, of settings that belong to none under `""`."""
    found = {"": _inner(Takes("micro_lit.config.settings.Command", more=True))}
    for package in dict.fromkeys([*CLASSES, *FUNCTIONS]):
        public = importlib.import_module(f"micro_lit.{package}")
        for name in public.__all__:
            made = getattr(public, name)
            if (inspect.isclass(made) and package in CLASSES) or (inspect.isfunction(made) and package in FUNCTIONS):
                found[f"micro_lit.{package}.{name}"] = signature_of(made, f"micro_lit.{package}.{name}")
    return {name: dataclasses.asdict(each) for name, each in found.items()}


def as_json(found: Mapping[str, Any]) -> str:
    """The text of rules.json: a line for each object."""
    lines = (f"{json.dumps(name)}: {json.dumps(each, ensure_ascii=False)}" for name, each in sorted(found.items()))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def freeze() -> None:
    """Writes rules.json."""
    FROZEN.write_text(as_json(frozen()), encoding="utf-8")


if __name__ == "__main__":
    freeze()
