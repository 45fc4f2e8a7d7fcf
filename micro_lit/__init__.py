"""micro_lit: reward models for people who disagree."""

import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:  # Python is still looking for the module of `python -m micro_lit.<command>`
    from micro_lit import interrupts

    interrupts.in_one_word()
