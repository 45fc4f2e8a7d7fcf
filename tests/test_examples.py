"""The examples in docstrings of the functions that people call are run."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest
import torch

import micro_lit

FINDER = doctest.DocTestFinder(exclude_empty=True)


def examples() -> list[doctest.DocTest]:
    found = []
    for each in pkgutil.walk_packages(micro_lit.__path__, "micro_lit."):
        module = None if each.name.endswith("__main__") else importlib.import_module(each.name)
        if module is not None:
            found += [test for test in FINDER.find(module, extraglobs={"np": np, "torch": torch}) if test.examples]
    return found


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_an_example_in_a_docstring_gives_what_it_says(example):
    report: list[str] = []
    failed = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=report.append).failed
    assert not failed, "".join(report)


def test_the_entry_points_have_examples():
    assert len(examples()) >= 20
