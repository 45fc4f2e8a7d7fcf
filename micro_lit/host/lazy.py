"""Lazy imports of a package's public names, so that importing the package itself is fast."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy(package: str, modules: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], list[str]]:
    """Creates the module-level `__getattr__` and `__all__` of a package with lazy names.

    Args:
        package: `__name__` of the package.
        modules: module name -> public names in it.

    Returns:
        `__getattr__` (PEP 562) and `__all__`.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return __getattr__, sorted(homes)
