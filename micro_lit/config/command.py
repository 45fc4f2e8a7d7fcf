"""Commands: turns a function of settings into `python -m micro_lit.<name>`."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from micro_lit.config import failures
from micro_lit.config.composition import in_sweep, to_settings
from micro_lit.config.folders import config_dir
from micro_lit.config.redaction import redact_yaml
from micro_lit.config.rules import Settings
from micro_lit.errors import UserError
from micro_lit.host.preemption import stoppable


def entry_point(config_name: str) -> Callable[[Callable[[Settings], Any]], Callable[[], None]]:
    """Decorator factory: composes and validates settings and runs the function; failures are printed in one line.

    The undecorated function remains importable and returns its results.

    Args:
        config_name: name of the command's YAML file, without suffix.
    """

    def decorate(run: Callable[[Settings], Any]) -> Callable[[], None]:
        @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)
        @functools.wraps(run)
        def command(config: DictConfig) -> Any:
            _redact_hydras_files()
            try:
                with stoppable():
                    return run(to_settings(config, config_name))
            except Exception as error:
                if in_sweep() and HydraConfig.get().callbacks:
                    raise  # to `sweeps.Sweep`, which continues with the other jobs
                failures.end(error)

        @functools.wraps(run)
        def main() -> None:
            with _one_line_failures(), _full_errors():
                _check_arguments(config_name)
                command()

        return main

    return decorate


@contextlib.contextmanager
def _one_line_failures() -> Iterator[None]:
    """Ends the process with one line on any failure, and silently if the reader of a pipe has closed it."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except SystemExit as stop:
        # Lightning replaces a Ctrl-C by its own exit.
        if stop.code == 1 and isinstance(stop.__context__, KeyboardInterrupt):
            failures.end(stop.__context__)
        raise
    except BrokenPipeError:
        # Otherwise flushing the remaining buffer at interpreter exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(failures.PIPE_CLOSED)
    except BaseException as error:
        failures.end(_as_user_error(error))


def _as_user_error(error: BaseException) -> BaseException:
    """Converts an exception raised inside Hydra, which is caused by invalid overrides, to a `UserError`."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = "" if last is None else last.tb_frame.f_globals.get("__name__", "")
    if isinstance(error, AssertionError | TypeError | ValueError | AttributeError | KeyError) and module.split(".")[
        0
    ] in ("hydra", "omegaconf", "antlr4"):
        return UserError(f"Hydra cannot compose these overrides ({type(error).__name__}: {error})")
    return error


@contextlib.contextmanager
def _full_errors() -> Iterator[None]:
    """Makes Hydra raise exceptions instead of printing them."""
    name = "HYDRA_FULL_ERROR"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _check_arguments(config_name: str) -> None:
    """Exits with status 2 and one line if a command-line option is not one of Hydra's.

    Abbreviations are refused: Hydra would read `--experiment` as `--experimental-rerun`, which runs code from a file.
    """

    def refuse(message: str) -> NoReturn:
        print(f"error: {message}{_hint(message, config_name)}", file=sys.stderr)
        sys.exit(2)

    parser = get_args_parser()
    parser.allow_abbrev = False
    parser.error = refuse
    if parser.parse_args().experimental_rerun is not None:
        refuse("--experimental-rerun is not allowed: it would run whatever code its file holds")


def _hint(message: str, config_name: str) -> str:
    """The correct form for `--setting value` or `--group=option`, appended to the error message."""
    _, _, named = message.partition("unrecognized arguments: --")
    if not named:
        return ""
    key, _, value = named.split()[0].partition("=")
    after = sys.argv[sys.argv.index(f"--{key}") + 1 :] if f"--{key}" in sys.argv else []
    value = value or (after[0] if after else "<value>")
    defaults = yaml.safe_load((config_dir() / f"{config_name}.yaml").read_text())["defaults"]
    chosen = {name.split("@")[0] for each in defaults if isinstance(each, dict) for name in each}
    plus = "+" if (config_dir() / key).is_dir() and key not in chosen else ""
    return f"; settings are written without dashes: {plus}{key}={value}"


def _redact_hydras_files() -> None:
    """Redacts the secrets of the command line in the files that Hydra has just written."""
    node = HydraConfig.get()
    written = [Path(node.sweep.dir, "multirun.yaml")] if in_sweep() else []
    if node.output_subdir is not None:
        written += Path(node.runtime.output_dir, node.output_subdir).glob("*.yaml")
    for path in written:
        with contextlib.suppress(FileNotFoundError):
            redact_yaml(path)
