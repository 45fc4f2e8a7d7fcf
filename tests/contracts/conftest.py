"""Plug-ins as a user has them: each one file beside its test, outside micro_lit, named in `packages`."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from micro_lit import train


@pytest.fixture(autouse=True)
def own_folder(request, monkeypatch, tmp_path) -> Path:
    """The folder that a user runs commands from, with the plug-ins of the test's folder on the path."""
    monkeypatch.syspath_prepend(request.path.parent)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., tuple[str, str]]:
    """Runs `python -m micro_lit.train`, or another command, in this process; returns what it printed and its error."""

    def run(*arguments: str, main: Callable[[], None] = train.main) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["micro_lit/command.py", *arguments])
        capsys.readouterr()
        with contextlib.suppress(SystemExit):
            main()
        return capsys.readouterr()

    return run
