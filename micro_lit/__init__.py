"""micro_lit: reward models for people who disagree.

Public names are imported at first use: `load` (a trained model), `compose` (settings) and `fit` (a finished run).
"""

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"] and any(each.split(".")[0] == "micro_lit" for each in sys.orig_argv):
    # A command: Python is still looking for the module of `python -m micro_lit.<command>`, and numpy and torch are not
    # imported yet. A program that imports this package keeps its environment and its signals.
    from micro_lit.host import interrupts, threads

    interrupts.in_one_word()
    threads.set_defaults(os.environ)

__all__ = ["compose", "fit", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("micro_lit.score"), name)
