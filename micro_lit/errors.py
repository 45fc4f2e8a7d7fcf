"""The exceptions that mean: the user can mend this."""


class UserError(ValueError):
    """A mistake in a config, a file or a command. Entry points print its message alone, without a traceback.

    The message says what was wrong, where (file and row, or dotted config key), and what to do about it.
    status: with which the command ends.
    """

    status = 1


class ImpossibleResult(UserError):
    """A run has been tested and written, and its results cannot be true."""

    status = 3
