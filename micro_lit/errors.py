"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in a config, a file or a command. Entry points print its message alone, without a traceback.

    The message says what was wrong, where (file and row, or dotted config key), and what to do about it.
    """
