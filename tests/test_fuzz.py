"""A tenth of the cases of the fuzzer, in a process of its own: no case sees what pytest does to warnings and types."""

import json
import os
import subprocess
import sys

from conftest import REPOSITORY

from benchmarks.fuzz.cases import Case, Expect, Outcome, fault


def test_a_tenth_of_the_cases_do_what_they_declare():
    sizes = ("--settings", "50", "--folders", "20", "--stores", "10", "--data", "50", "--seed", "0")
    own = {name: value for name, value in os.environ.items() if name != "MICRO_LIT_TRACEBACK"}
    line = [sys.executable, "-m", "benchmarks.fuzz", *sizes]
    ended = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=own)
    rows = [json.loads(each) for each in ended.stdout.splitlines()]
    assert ended.returncode == 0, f"these cases did something else:\n{ended.stderr}"
    assert [row["measured"] for row in rows] == ["50 of 50", "20 of 20", "10 of 10", "50 of 50"]


def test_what_counts_as_a_fault(tmp_path):
    fails, passes = Case("", Expect.FAIL), Case("", Expect.PASS, check=lambda folder: "wrong numbers")
    warns = Case("", Expect.WARN, note="a note")
    assert fault(fails, Outcome(1, "", "error: seed=-1 is not allowed\n"), tmp_path) is None
    for wrong in (
        Outcome(0, "", ""),
        Outcome(None, "", ""),
        Outcome(1, "", ""),
        Outcome(1, "", "error: one thing\nand another\n"),
        Outcome(70, "", "error: internal error: TypeError: half way\n"),
        Outcome(1, "", "Traceback (most recent call last):\nTypeError: half way\n"),
        Outcome(1, "", "ValueError: half way\n"),
    ):
        assert fault(fails, wrong, tmp_path) is not None
    assert fault(passes, Outcome(0, "", ""), tmp_path) == "wrong numbers"
    assert fault(passes, Outcome(1, "", "error: seed=-1 is not allowed\n"), tmp_path) is not None
    assert fault(warns, Outcome(0, "said: a note", ""), tmp_path) is None
    assert fault(warns, Outcome(0, "said nothing", ""), tmp_path) is not None
