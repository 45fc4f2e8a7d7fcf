"""The comparison measures what the two commands that it replaced measured, draw for draw."""

import json
import shutil
from pathlib import Path

import pytest

from micro_lit.compare import aliases
from micro_lit.compare.comparison import Comparison
from micro_lit.run.run import quiet_libraries

OLD = Path(__file__).parent.parent / "old_runs"
COMMON = ["resamples=100", "draws=3"]
COMMANDS = {
    "evaluate": [
        "candidates={mixture: runs/mixture}", "baseline=mixture", "routed=[mixture]", "elicited=[mixture]", "budget=3",
        "budgets=[0,3]", "elicitation.labels=2", "elicitation.pool=5", "trainer.max_epochs=2",
    ],
    "people": ["candidates={tied: runs/tied}", "baseline=tied", "labels=[0,2,null]"],
}  # fmt: skip


def measured(command: str, settings, folder: Path, monkeypatch) -> tuple[dict, dict]:
    """What the old command measured, and what the comparison does on the same candidates."""
    shutil.copytree(OLD, folder / "runs")
    monkeypatch.chdir(folder)
    quiet_libraries()
    spec = settings(*COMMANDS[command], *COMMON, config=command)
    found = Comparison(aliases.translated(command, spec)).results()
    return json.loads((OLD / f"{command}.json").read_text()), json.loads(json.dumps(found))


def assert_same(old, new, place: str) -> None:
    """The same to rounding. A standard deviation over draws that are all alike is none, and once was 0."""
    if isinstance(old, dict):
        assert set(old) - {"resamples"} <= set(new), place
        for key, value in old.items():
            assert_same(value, new.get(key), f"{place}.{key}")
    elif isinstance(old, list):
        assert len(old) == len(new), place
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            assert_same(one, other, f"{place}[{number}]")
    elif place.endswith((".low", ".high", ".resamples")):
        return  # intervals are no bootstrap any more
    elif place.endswith(".sd") and new is None:
        assert old is None or old < 1e-12, place
    elif isinstance(old, float):
        # HyRe begins at equal weights, which is what its labels turn.
        assert new == pytest.approx(old, abs=1e-6) or ".turned" in place, place
    else:
        assert old == new, place


@pytest.mark.parametrize("command", list(COMMANDS))
def test_the_tables_are_those_of_before(command, settings, tmp_path, monkeypatch):
    old, new = measured(command, settings, tmp_path, monkeypatch)
    assert_same(old, new, command)
