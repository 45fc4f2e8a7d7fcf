"""Settings compared with the types in the signature of what they are for."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from micro_lit.errors import UserError

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def check(key: str, made: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Compares settings with the annotations of what takes them, a class or a function, by their names.

    Args:
        key: of the settings, dotted; "" for those at the root.
        made: a class that hands `**settings` on is followed to the classes it extends.
        settings: plain values and nodes with a `_target_`, which no type refuses.

    Raises:
        UserError: for the first that is of another type; it names the key, the value and what is allowed.
    """
    hints = _hints(made)
    for name, value in settings.items():
        if name in hints and not _fits(value, hints[name]):
            dotted = f"{key}.{name}" if key else name
            raise UserError(f"{dotted}={value!r:.120} is not allowed; give {_in_words(hints[name])}")


def check_call(key: str, made: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """The same for settings that are all a function gets. Raises `UserError`, for one that it does not take, too."""
    try:
        inspect.signature(made).bind(**settings)
    except TypeError as error:
        raise UserError(f"{key}: {error}") from error
    check(key, made, settings)


def _hints(made: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of all parameters by name; none where they cannot be read."""
    found: dict[str, Any] = {}
    for function in _functions(made):
        try:
            hints = typing.get_type_hints(function)
        except (NameError, TypeError, AttributeError):  # of names that are imported for type checkers alone
            continue
        parameters = inspect.signature(function).parameters.values()
        named = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        found |= {name: hints[name] for name in named if name in hints and name not in found}
    return found


def _functions(made: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    if not inspect.isclass(made):
        yield made
        return
    for owner in inspect.getmro(made):
        function = vars(owner).get("__init__")
        if inspect.isfunction(function):
            yield function
            kinds = {each.kind for each in inspect.signature(function).parameters.values()}
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                return


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a config is of a type, or the type is none that a config can hold."""
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if hint is Any:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _fits(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is typing.Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    kind = origin or hint
    if kind is type(None) or kind is None:
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if kind in _LISTS:
        return isinstance(value, list) and _all_fit(value, kind, arguments)
    if kind in _MAPPINGS:
        return isinstance(value, Mapping) and all(_fits(each, arguments[1]) for each in value.values() if arguments)
    if kind is collections.abc.Callable:
        return False
    # A class is made of a node with a `_target_`; a path or a device of text.
    return not inspect.isclass(kind) or kind is object or isinstance(value, str)


def _all_fit(values: list[Any], kind: Any, arguments: tuple[Any, ...]) -> bool:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(values) == len(arguments) and all(map(_fits, values, arguments))
    return all(_fits(each, arguments[0]) for each in values if arguments)


def _in_words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _in_words(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_in_words, arguments)))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    kind = origin or hint
    if kind in _NAMES:
        return _NAMES[kind]
    if kind in _LISTS:
        inner = [each for each in arguments if each is not Ellipsis]
        return "a list" + (f" ({', '.join(map(_in_words, inner))})" if inner else "")
    if kind in _MAPPINGS:
        return "a mapping"
    name = getattr(kind, "__name__", str(kind))
    return f"an object with a _target_ ({name})"
