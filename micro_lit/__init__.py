"""micro_lit: reward models for people who disagree."""

import os
import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"] and any(each.split(".")[0] == "micro_lit" for each in sys.orig_argv):
    # A command: Python is still looking for the module of `python -m micro_lit.<command>`, and numpy and torch are not
    # imported yet. A program that imports this package keeps its environment and its signals.
    from micro_lit.host import interrupts, threads

    interrupts.in_one_word()
    threads.set_defaults(os.environ)
