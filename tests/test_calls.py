"""Calls between packages: how deep they go from a record to the loss, and that none goes up to a profile."""

import functools
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

import pytest
from conftest import REPOSITORY
from test_architecture import PAGE, diagram, homes, line_of

from micro_lit import config, train
from micro_lit.personalise import learning

MOST_MODULES = 10

# They call what they were handed: objects that settings name, a function that is wrapped or that fills a file.
GO_BETWEENS = ("micro_lit/config/building.py", "micro_lit/host/")


class Calls:
    """Calls of micro_lit that were traced. pairs: (file of the caller, file). deepest: most files on one stack."""

    def __init__(self) -> None:
        self.pairs: set[tuple[str, str]] = set()
        self.deepest: list[str] = []

    def trace(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or (here := file_of(frame)) is None:
            return
        stack, caller = [], frame
        while caller is not None:
            if caller.f_code.co_name == "<module>" and file_of(caller) is not None:
                return  # an import
            stack.append(file_of(caller))
            caller = caller.f_back
        files = list(dict.fromkeys(filter(None, stack)))
        self.deepest = max(self.deepest, files, key=len)
        above = next(filter(None, stack[1:]), None)
        if above is not None:
            self.pairs.add((above, here))


def file_of(frame: FrameType) -> str | None:
    return place_of(frame.f_code)


@functools.cache
def place_of(code: CodeType) -> str | None:
    """The path of the file of some code below the repository; None outside of micro_lit."""
    root = f"{REPOSITORY}/"
    return code.co_filename.removeprefix(root) if code.co_filename.startswith(f"{root}micro_lit/") else None


@contextmanager
def traced() -> Iterator[Calls]:
    found, before = Calls(), sys.getprofile()
    sys.setprofile(found.trace)
    try:
        yield found
    finally:
        sys.setprofile(before)


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> dict[str, Calls]:
    """Those of a training run on labels of three users, and of profiles that learn the same labels."""
    folder = tmp_path_factory.mktemp("calls")
    texts = [{"prompt": f"question {n % 7}", "chosen": f"answer {n}", "rejected": f"reply {n}"} for n in range(60)]
    rows = [{**each, "user_id": f"user {n % 3}"} for n, each in enumerate(texts)]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = [
        f"data.train={folder}/labels.jsonl",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "backbone.layers=1",
    ]
    run, warm_up = (
        config.compose("train", ["data=pairs", *small, f"paths.run_dir={folder}/{n}"]) for n in ("run", "0")
    )
    train.run(warm_up)  # imports of libraries take most of the time, and a minute when traced
    given = [f"run={folder}/run", f"profile={folder}/me.sqlite", f"pairs={folder}/labels.jsonl"]
    with traced() as training:
        train.run(run)
    settings = config.compose("personalise", [*given, f"paths.run_dir={folder}/out"])
    with traced() as labels, learning.personalising(settings):
        pass
    return {"record to loss": training, "label to profile": labels}


def listed(path: str) -> list[str]:
    """The modules that docs/architecture.md lists on a path."""
    [line] = re.findall(rf"^\*\*From {path}\.\*\* (.*?)\n\n", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [f"micro_lit/{each}" for each in re.findall(r"`([\w/]+\.py)`", line)]


@pytest.mark.parametrize(
    ("path", "title"), [("record to loss", "a record to the loss"), ("label to profile", "a label to a profile")]
)
def test_a_call_passes_few_modules_and_those_that_the_page_lists(path, title, calls):
    found = calls[path]
    assert len(found.deepest) <= MOST_MODULES, found.deepest
    called = {file for pair in found.pairs for file in pair}
    assert 4 <= len(listed(title)) <= MOST_MODULES
    assert set(listed(title)) <= called


@pytest.mark.parametrize("path", ["record to loss", "label to profile"])
def test_no_call_goes_to_a_package_above_its_callers(path, calls):
    lines, known = list(diagram()), homes()
    up = [
        (caller, file)
        for caller, file in sorted(calls[path].pairs)
        if not caller.startswith(GO_BETWEENS)
        and lines.index(line_of(file, known)) < lines.index(line_of(caller, known))
    ]
    assert up == []


def test_a_setting_is_checked_in_one_function(calls):
    """`check` of `micro_lit.config.rules` alone compares values with rules."""
    callers = {caller for caller, file in calls["record to loss"].pairs if file == "micro_lit/config/rules.py"}
    sources = {path: path.read_text() for path in (REPOSITORY / "micro_lit").rglob("*.py")}
    assert callers <= {f"micro_lit/config/{name}.py" for name in ("building", "composition", "rules")}
    assert [path.name for path, text in sources.items() if ".accepts(" in text] == ["rules.py"]
