"""Ctrl-C while a command is still importing: a one-word message instead of a traceback."""

import sys
from types import TracebackType


def in_one_word() -> None:
    """Installs an exception hook: an uncaught Ctrl-C prints `interrupted` and exits with status 130."""
    before = sys.excepthook

    def end(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            before(kind, error, where)
            return
        print("interrupted", file=sys.stderr)
        sys.exit(130)

    sys.excepthook = end
