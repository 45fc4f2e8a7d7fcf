"""Public names of packages: what `__all__` lists is there, whatever was imported before, and is no module."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import micro_lit

PACKAGES = [
    each.name
    for each in pkgutil.walk_packages(micro_lit.__path__, "micro_lit.")
    if each.ispkg and hasattr(importlib.import_module(each.name), "__all__")
]


def test_no_public_name_is_that_of_a_module():
    """A submodule, once imported, would take the place of a function of its name in the package."""
    for each in pkgutil.walk_packages(micro_lit.__path__, "micro_lit."):
        if not each.name.endswith("__main__"):
            importlib.import_module(each.name)
    assert len(PACKAGES) > 8
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            assert not isinstance(getattr(package, name), ModuleType), f"{package.__name__}.{name}"


def test_public_names_are_found_at_their_first_use():
    """Those of a package that imports them late, one by one in a new process."""
    script = "import micro_lit.data as data\nfor name in data.__all__: assert getattr(data, name).__name__ == name"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_package_with_late_imports_is_light():
    packages = ", ".join(f"micro_lit.{name}" for name in ("data", "features", "run", "track"))
    subprocess.run([sys.executable, "-c", f"import {packages}, sys; assert 'torch' not in sys.modules"], check=True)
