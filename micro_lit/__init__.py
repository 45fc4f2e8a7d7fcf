"""micro_lit: reward models for people who disagree."""

import os
import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"] and any(each.split(".")[0] == "micro_lit" for each in sys.orig_argv):
    # A command, before it imports numpy and torch; a program that imports this package keeps its environment.
    from micro_lit import threads

    threads.set_defaults(os.environ)
