"""Suggestions for misspelt settings."""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

# Minimum similarity of two keys, from 0 to 1: difflib's ratio.
ALIKE = 0.75

_PACKAGE = re.compile(r"^# @package (\S+)", re.MULTILINE)


def suggestion(key: str, known: Collection[str]) -> str | None:
    """The known key most similar to a misspelt one; None if there is none.

    Also finds keys given without their group: `num_heads` suggests `model.num_heads`.
    """
    name = key.rpartition(".")[2]
    same = sorted(each for each in known if each.rpartition(".")[2] == name)
    if close := difflib.get_close_matches(key, [*same, *known], n=1, cutoff=ALIKE):
        return close[0]
    if same:
        return min(same, key=len)
    by_name: dict[str, str] = {}
    for each in sorted(known, key=len, reverse=True):
        by_name[each.rpartition(".")[2]] = each
    close = difflib.get_close_matches(name, by_name, n=1, cutoff=ALIKE)
    return by_name[close[0]] if close else None


def keys_of(config_dir: Path) -> set[str]:
    """The dotted keys of all YAML files of a Hydra tree, each below the package of its file."""
    found: set[str] = set()
    for path in config_dir.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        header = _PACKAGE.search(text)
        group = path.parent.relative_to(config_dir).as_posix().replace("/", ".").removeprefix(".")
        package = header[1] if header else group
        prefix = "" if package in ("_global_", "") else f"{package}."
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        found.update(f"{prefix}{key}" for key in _dotted_keys(content if isinstance(content, Mapping) else {}))
    return found


def _dotted_keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, child in node.items():
        if isinstance(name, str) and name != "defaults" and not name.startswith("_"):
            yield f"{prefix}{name}"
            if isinstance(child, Mapping):
                yield from _dotted_keys(child, f"{prefix}{name}.")
