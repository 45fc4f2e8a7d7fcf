"""Rules of settings: every setting is compared with the parameter that takes it, here alone.

The rules of micro_lit are read from rules.json, those of other packages from their annotations, once imported.
"""

import dataclasses
import functools
import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import SchemaValidator, ValidationError

from micro_lit.config.names import check_names
from micro_lit.config.renamed import check_renamed
from micro_lit.config.spelling import suggestion
from micro_lit.config.targets import SPECIAL, check_node, objects
from micro_lit.errors import UserError

Settings = dict[str, Any]

FROZEN = Path(__file__).with_name("rules.json")
OBJECT = "an object with a _target_"


@dataclasses.dataclass(frozen=True)
class Takes:
    """Marks a parameter whose value is a mapping: its keys are the parameters of the class or function at `place`.

    more: other keys are allowed.
    """

    place: str
    more: bool = False


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a parameter accepts.

    allowed: in words. schema: of pydantic-core. test: dotted name of a function that accepts values besides, from
    `micro_lit.config.predicates`. inner: the rules of a mapping's own keys.
    """

    allowed: str
    schema: Mapping[str, Any]
    test: str | None = None
    inner: "Signature | None" = None

    def accepts(self, value: Any) -> bool:
        try:
            _validator(json.dumps(self.schema)).validate_python(value, strict=True)
        except ValidationError:
            return False
        return self.test is None or _function(self.test)(value)


@dataclasses.dataclass(frozen=True)
class Signature:
    """The rules of a class or function by parameter; None for one without. takes_all: it takes other names as well."""

    name: str
    rules: Mapping[str, Rule | None]
    takes_all: bool


@functools.cache
def _validator(schema: str) -> SchemaValidator:
    return SchemaValidator(json.loads(schema))


@functools.cache
def _function(place: str) -> Callable[[Any], bool]:
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(module), name)


@functools.cache
def _frozen() -> Mapping[str, Any]:
    return json.loads(FROZEN.read_text(encoding="utf-8"))


@functools.cache
def frozen_signature(target: str) -> Signature | None:
    """The rules of an object of micro_lit by its public name, `""` those of settings; None for any other name."""
    found = _frozen().get(target)
    return None if found is None else _signature(found)


def _signature(found: Mapping[str, Any]) -> Signature:
    return Signature(found["name"], {name: _rule(each) for name, each in found["rules"].items()}, found["takes_all"])


def _rule(found: Mapping[str, Any] | None) -> Rule | None:
    if found is None:
        return None
    inner = found["inner"]
    return Rule(found["allowed"], found["schema"], found["test"], None if inner is None else _signature(inner))


def check(key: str, signature: Signature, settings: Mapping[str, Any]) -> None:
    """Compares settings with the parameters that take them.

    Args:
        key: of the settings, dotted; "" for those at the root.

    Raises:
        UserError: for the first that no parameter takes, or whose value it does not accept. It names the key, the value
            and what is allowed, and where a name is misspelt the nearest one.
    """
    for name, value in settings.items():
        if name in SPECIAL:
            continue
        dotted = f"{key}.{name}" if key else str(name)
        if name not in signature.rules:
            if signature.takes_all:
                continue
            near = suggestion(str(name), signature.rules)
            meant = f"; did you mean {near}?" if near else ""
            raise UserError(f"{dotted} is not a setting of {signature.name}{meant}")
        rule = signature.rules[name]
        if rule is None:
            continue
        is_object = isinstance(value, Mapping) and "_target_" in value
        if not (is_object and not rule.test) and not rule.accepts(value):
            raise UserError(f"{dotted}={value!r:.120} is not allowed; give {rule.allowed}")
        if rule.inner is not None and isinstance(value, Mapping):
            check(dotted, rule.inner, value)


def validate(settings: Settings) -> None:
    """Raises `UserError` for the first setting that breaks a rule: key, what was given, what is allowed."""
    check_renamed(settings)
    for key, value in _numbers(settings):
        if not math.isfinite(value):
            raise UserError(f"{key}={value!r} is not allowed; no setting is nan or infinite")
    found = list(objects(settings))
    packages = settings.get("packages")
    for key, node in found:
        check_node(key, node, packages if isinstance(packages, list) else [])
    check("", frozen_signature(""), settings)
    for key, node in found:
        if signature := frozen_signature(node["_target_"]):
            check(key, signature, node)
    check_names(settings)


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All broken numbers of settings, those in lists too."""
    if isinstance(value, float):
        yield key, value
    children = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from _numbers(child, f"{key}.{name}" if key else str(name))
