"""Tests of the command `micro_lit.floors`."""

import json
from pathlib import Path

import pytest
from full_disk import assert_whole

from micro_lit.data.planted.population import REFERENCES
from micro_lit.errors import UserError
from micro_lit.floors import __main__ as floors
from micro_lit.floors.raters import RATER_FLOORS

SMALL = ("data.train=60", "data.validation=20", "data.test=20", "replicates=50")


@pytest.fixture
def measure(settings):
    """Runs the command; what it returns is what it writes."""

    def run(*overrides: str) -> dict:
        composed = settings(*overrides, config="floors")
        found = floors.run(composed)
        written = json.loads((Path(composed["paths"]["run_dir"]) / "floors.json").read_text())
        assert written == json.loads(json.dumps(found))
        return written

    return run


def test_a_population_has_its_exact_floors(measure, capsys):
    found = measure("data=planted_features", *SMALL)
    assert set(found) == {"population"}
    population = found["population"]
    assert set(population["floors"]) == set(REFERENCES)
    assert population["floors"]["marginal"] == pytest.approx(0.50148, abs=1e-5)
    gap = population["floors"]["marginal"] - population["floors"]["oracle"]
    assert population["gaps"]["mutual_information"] == pytest.approx(gap, abs=1e-12)
    assert max(population["gradient_norms"].values()) < 1e-6
    printed = capsys.readouterr().out
    for words in ("Floors of the population", "0.5015", "F1 - F0, the mutual information", "floors.json"):
        assert words in printed


def test_raters_of_the_same_pairs_have_their_own_floor_too(measure, capsys):
    texts = ("data=planted_text", "data.raters_per_pair=3", *SMALL)
    found = measure(*texts)
    assert set(found) == {"population", "raters"}
    assert set(found["raters"]["floors"]) == set(RATER_FLOORS)
    facts = {name: found["raters"][name] for name in ("rows", "pairs", "raters", "raters_per_pair", "covered")}
    assert facts == {"rows": 300, "pairs": 100, "raters": None, "raters_per_pair": 3.0, "covered": 1.0}
    printed = capsys.readouterr().out
    assert f"{value_of(found['raters']['floors']['brier']):.4f}" in printed
    assert "300 votes of unnamed raters on 100 pairs" in printed
    assert measure(*texts) == found
    other = measure(*texts, "split=test", "seed=1")
    assert other["raters"]["rows"] == 60
    assert other["population"] == found["population"]


def test_named_raters_are_counted(measure):
    """Of five raters a group some are drawn twice for a pair, and judge it once."""
    found = measure("data=planted_text", "data.raters_per_pair=3", "data.users_per_group=5", *SMALL)
    assert found["raters"]["raters"] == 15
    assert 200 < found["raters"]["rows"] < 300


def test_real_votes_have_the_floor_of_their_raters(measure, data_dir):
    found = measure("data=polis", f"paths.data_dir={data_dir}", "data.limit=2000", "replicates=20")
    assert set(found) == {"raters"}
    assert found["raters"]["rows"] > 1000
    assert found["raters"]["raters"] > 20
    values = {name: value_of(floor) for name, floor in found["raters"]["floors"].items()}
    assert 0.05 < values["brier"] < 0.25
    assert values["nll_lower"] <= values["nll_upper"]
    assert values["agreement"] == pytest.approx(1 - 2 * values["brier"])


def value_of(floor) -> float:
    return next(iter(floor.values() if isinstance(floor, dict) else floor))


def pairs_file(folder, **columns):
    rows = [
        {"prompt": f"q{number}", "chosen": f"good {number}", "rejected": f"bad {number}"} | columns
        for number in range(40)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return f"data.train={path}"


def test_one_rater_a_pair_has_no_floor(measure, tmp_path):
    with pytest.raises(UserError, match=r"^split=all: every pair has one rater; .* check the columns") as caught:
        measure("data=pairs", pairs_file(tmp_path), "data.validation_fraction=0.2", "data.test_fraction=0.2")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "floors.json").exists()


@pytest.mark.quick
def test_a_split_without_rows_is_named(measure, tmp_path):
    with pytest.raises(UserError, match=r"^split=validation: there are no votes"):
        measure("data=pairs", pairs_file(tmp_path), "data.validation_fraction=0.0", "split=validation")


def test_the_file_is_written_whole_or_not_at_all(measure, tmp_path):
    assert_whole(lambda: measure("data=planted_features", *SMALL), tmp_path / "run")
