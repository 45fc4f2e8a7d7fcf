"""Converts any exception of a command to a one-line error message and an exit status."""

import os
import re
import sys
import traceback
from typing import NamedTuple, NoReturn

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from micro_lit.config.folders import config_dir
from micro_lit.config.renamed import explain_renamed
from micro_lit.config.spelling import keys_of, suggestion
from micro_lit.errors import UserError

# Environment variable: set to 1, failed commands print the traceback before the error line.
TRACEBACK = "MICRO_LIT_TRACEBACK"

# Exit statuses: EX_SOFTWARE of sysexits.h, and the shell's statuses for SIGINT and SIGPIPE.
INTERNAL, INTERRUPTED, PIPE_CLOSED = 70, 130, 141

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)


class Failure(NamedTuple):
    """Error message in one line, and exit status of a failed command."""

    line: str
    status: int = 1


def describe(error: BaseException) -> Failure:
    """The error message and exit status for any exception except `SystemExit`."""
    if _interrupted(error):
        return Failure("interrupted", INTERRUPTED)
    if isinstance(error, UserError):
        return Failure(f"error: {_one_line(error)}", error.status)
    if isinstance(error, MissingConfigException):  # before OSError, which it extends
        return Failure(f"error: {_missing_config(error)}")
    if isinstance(error, HydraException):
        return Failure(f"error: {_hydra(error)}")
    if isinstance(error, OmegaConfBaseException):
        return Failure(f"error: {error.full_key}: {str(error).splitlines()[0]}")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
        found = _one_line(error)
        return Failure(f"error: out of memory{f' ({found})' if found else ''}; give smaller batches, models or data")
    if isinstance(error, OSError):
        reason = error.strerror or _one_line(error) or type(error).__name__
        return Failure(f"error: {reason}" if error.filename is None else f"error: {error.filename}: {reason}")
    name = _one_line(traceback.format_exception_only(error)[-1])
    return Failure(
        f"error: internal error: {name} (this is a fault of micro_lit; please report it. "
        f"The traceback: {TRACEBACK}=1 <the command>)",
        INTERNAL,
    )


def end(error: BaseException) -> NoReturn:
    """Prints the error line on stderr, preceded by the traceback if requested, and ends the process.

    Raises:
        SystemExit: with the status of `describe`.
    """
    show_traceback(error)
    failure = describe(error)
    print(failure.line, file=sys.stderr, flush=True)
    sys.exit(failure.status)


def show_traceback(error: BaseException) -> None:
    """Prints the traceback of an exception if `MICRO_LIT_TRACEBACK=1` is set."""
    if os.environ.get(TRACEBACK) == "1":
        traceback.print_exception(error)


def _interrupted(error: BaseException | None) -> bool:
    """Whether a Ctrl-C caused an exception: modules interrupted during import raise other exceptions instead."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _missing_config(error: MissingConfigException) -> str:
    if error.missing_cfg_file is None or not error.options:
        return _first_lines(error)
    group, _, option = error.missing_cfg_file.rpartition("/")
    return f"{group}={option}: there is no such option; give one of {', '.join(error.options)}"


def _hydra(error: HydraException) -> str:
    """Hydra's message, with what to type instead."""
    if isinstance(error, OverrideParseException):
        key, equals, value = error.override.partition("=")
        if not equals:
            return f"{key}: no setting; one is written key=value"
        return (
            f"{error.override}: cannot be read; quote a value with spaces or any of = ( ) , : {{ }} [ ], "
            f"as in '{key}=\"{value}\"', and write a list as [a,b]"
        )
    message = _first_lines(error)
    if isinstance(error.__cause__, OmegaConfBaseException) and len(message.splitlines()) == 1:
        reason = str(error.__cause__).splitlines()[0]
        message += "" if reason in message else f"; {reason}"
    if found := re.match(r"Could not override '(.*?)'.*use (\+\S+)", message):
        return explain_renamed(found[1]) or _unknown(found[1], found[2].rstrip(";"))
    return message


def _unknown(key: str, added: str) -> str:
    """The error message for an unknown setting, with a suggestion."""
    is_group = (config_dir() / key.replace(".", "/")).is_dir()
    near = None if is_group else suggestion(key, keys_of(config_dir()) - {key})
    meant = f"did you mean {near}? --cfg job lists all" if near else "check the spelling (--cfg job lists all)"
    return f"{key}: there is no such setting; {meant}, or add it with {added}"


def _first_lines(error: Exception) -> str:
    """Hydra's message without its search path, links and omegaconf's type information."""
    lines = []
    for line in str(error).splitlines():
        if line.startswith("Config search path"):
            break
        if line.strip(" ^") and not line.lstrip().startswith(
            ("See https", "object_type", "reference_type", "full_key")
        ):
            lines.append(line.strip())
    return _one_line("; ".join(line.rstrip(":;") for line in lines))
