"""Checks that names used in paths do not lead out of their folder."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from micro_lit.errors import UserError

NAME_RULE = (
    "a name that stays inside its folder: no .. or leading / in it, no control character, at most 255 bytes a part"
)

# Arguments of callbacks, loggers and profilers that are used in a path.
PATH_SETTINGS = ("filename", "name", "version", "sub_dir")


def is_inside(name: Any, empty: bool = False) -> bool:
    """Whether a name, joined to a folder, stays inside it. empty: also accept the folder itself."""
    if empty and name in ("", None):
        return True
    if not isinstance(name, str | int | float) or not str(name).isprintable():
        return False
    parts = re.split(r"[/\\]", str(name))
    leads_out = not parts[0] or any(part == ".." or part.endswith(":") or len(part.encode()) > 255 for part in parts)
    return not leads_out and not {*parts} <= {"", "."}


def check_name(key: str, name: Any) -> None:
    """Raises `UserError` for a name that leads out of its folder."""
    if not is_inside(name):
        raise UserError(f"{key}={name!r} is not allowed; give {NAME_RULE}")


def check_names(settings: Mapping[str, Any]) -> None:
    """Raises `UserError` for the first setting that is used in a path and leads out of its folder."""
    if "name" in settings:
        check_name("name", settings["name"])
    candidates = settings.get("candidates")
    for name in candidates if isinstance(candidates, Mapping) else ():
        if not is_inside(name):
            raise UserError(f"candidates: {name!r} is not allowed; give {NAME_RULE}")
    paths = settings.get("paths")
    folder = paths.get("run_dir") if isinstance(paths, Mapping) else None
    for group in ("callbacks", "logger", "trainer"):
        for key, name, value in _strings(settings.get(group), group):
            if name in PATH_SETTINGS and not is_inside(value, empty=True):
                raise UserError(f"{key}={value!r} is not allowed; give {NAME_RULE}")
            if name == "dirpath" and folder is not None and not _lies_in(value, str(folder)):
                raise UserError(f"{key}={value!r} is not allowed; give a folder inside paths.run_dir={folder}")


def _strings(node: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """All texts in a tree of settings, each with its dotted key and the last part of the key."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        if isinstance(child, str):
            yield f"{key}.{name}", str(name), child
        yield from _strings(child, f"{key}.{name}")


def _lies_in(path: str, folder: str) -> bool:
    if not path.isprintable():
        return False
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
