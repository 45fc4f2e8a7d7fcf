"""Plug-ins as a user has them: each one file beside its test, outside micro_lit, named in `packages`."""

import contextlib
import sys
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


@pytest.fixture(autouse=True)
def plug_in(request, tmp_path, monkeypatch) -> None:
    """The file of a user, of the text that a test module holds as PLUG_IN, in a folder from which Python imports."""
    text, name = (getattr(request.module, each, None) for each in ("PLUG_IN", "NAME"))
    if text is not None:
        folder = tmp_path / "of_the_user"
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, name, raising=False)


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
