"""The exceptions that mean: the user can mend this; and what errors call a plug-in."""

from typing import Any


class UserError(ValueError):
    """A mistake in a config, a file or a command. Entry points print its message alone, without a traceback.

    The message says what was wrong, where (file and row, or dotted config key), and what to do about it.
    status: with which the command ends.
    """

    status = 1


class ImpossibleResult(UserError):
    """A run has been tested and written, and its results cannot be true."""

    status = 3


def name_of(plug_in: Any) -> str:
    """The name of a function, with settings given to it or not, or of the class of an object."""
    return getattr(getattr(plug_in, "func", plug_in), "__name__", type(plug_in).__name__)
