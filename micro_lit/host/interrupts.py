"""Ctrl-C while a command is still importing: one word instead of a traceback."""

import sys
from types import TracebackType


def in_one_word() -> None:
    """From here on, a Ctrl-C that nobody catches ends the process with the word `interrupted` and status 130."""
    before = sys.excepthook

    def end(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            before(kind, error, where)
            return
        print("interrupted", file=sys.stderr)
        sys.exit(130)

    sys.excepthook = end
