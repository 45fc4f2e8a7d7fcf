"""Public names of a package, imported at their first use, so that importing the package itself takes no time."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy(package: str, modules: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], list[str]]:
    """The module functions of a package with lazy names.

    Args:
        package: its `__name__`.
        modules: the public names of each of its modules.

    Returns:
        `__getattr__` (PEP 562) and `__all__`.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return __getattr__, sorted(homes)
