"""Tests of `python -m micro_lit`: it lists every command, and becomes the one that is named."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from micro_lit.__main__ import commands


def run(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "micro_lit", *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


def test_every_command_of_the_readme_is_listed():
    named = set(re.findall(r"python -m micro_lit\.(\w+)", (REPOSITORY / "README.md").read_text()))
    listed = run()
    assert listed.returncode == 0
    assert named <= commands().keys()
    for name in named:
        assert re.search(rf"^  {name} +\S", listed.stdout, re.MULTILINE)
    assert "rank" not in commands()
    assert all(len(line) <= 120 for line in listed.stdout.splitlines())


def test_every_command_is_one_that_python_finds():
    for name in commands():
        paths = (REPOSITORY / "micro_lit" / f"{name}.py", REPOSITORY / "micro_lit" / name / "__main__.py")
        assert [path.is_file() for path in paths].count(True) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"), [(["trian"], 2, "did you mean train?"), (["zzz"], 2, "lists all")]
)
def test_a_name_that_is_no_command_is_one_line(arguments, status, said):
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (status, "")
    [line] = ended.stderr.splitlines()
    assert said in line


def test_a_command_gets_its_arguments_and_keeps_its_status(tmp_path):
    refused = run("train", "seed=-1", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: seed=-1 is not allowed")
    assert "python -m micro_lit.train" in run("train", "--help", cwd=tmp_path).stdout
