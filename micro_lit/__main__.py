"""`python -m micro_lit`, or `micro-lit`: lists the commands, and becomes the one that is named.

A command is a module, or the `__main__` of a package, whose docstring begins with how it is typed. Nothing is imported
to list them.
"""

import ast
import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from micro_lit import __version__

_TYPED = re.compile(r"`python -m micro_lit\.(\w+)[^`]*`: (.+)", re.DOTALL)


def commands() -> dict[str, str]:
    """The name of each command and what it does, those that stand for others last."""
    package, found = Path(__file__).parent, {}
    for path in sorted([*package.glob("*.py"), *package.glob("*/__main__.py")]):
        told = _TYPED.match(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
        if told:
            found[told[1]] = " ".join(told[2].split("\n\n")[0].split())
    return dict(sorted(found.items(), key=lambda item: item[1].startswith("now ")))


def usage(found: Mapping[str, str]) -> str:
    """The list of commands as text."""
    width = max(map(len, found))
    lines = [f"  {name:{width}}  {what.replace('`', '').rstrip('.')}" for name, what in found.items()]
    return "\n".join(
        [
            f"micro_lit {__version__}: reward models for people who disagree",
            "",
            "  micro-lit <command> <setting>=<value> ...   the same as: python -m micro_lit.<command> ...",
            "  micro-lit <command> --help                  all groups and settings of a command",
            "",
            *lines,
            "",
            "begin with: micro-lit train +experiment=mixture_k8",
        ]
    )


def main() -> None:
    """Lists the commands, or becomes the one that is named: a process of its own keeps its threads and signals.

    Raises:
        SystemExit: with status 2 for a name that is no command.
    """
    found, given = commands(), sys.argv[1:]
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage(found))
    elif given[0] == "--version":
        print(__version__)
    elif given[0] in found:
        line = [sys.executable, "-m", f"micro_lit.{given[0]}", *given[1:]]
        sys.stdout.flush()
        os.execv(sys.executable, line)
    else:
        near = difflib.get_close_matches(given[0], found, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        print(f"error: {given[0]}: no such command; {meant}`micro-lit` lists all", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
