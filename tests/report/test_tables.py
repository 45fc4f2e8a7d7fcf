"""Tests of `micro_lit.report.tables`."""

import re

import pytest
from run_folders import FLOORS, write_run

from micro_lit.report import tables
from micro_lit.report.collect import collect
from micro_lit.report.results import FLOORS as NAMES


def made(folder, values):
    """Runs of K = 1, 2, ... whose test NLL over seeds is given."""
    for heads, repeated in values.items():
        for seed, nll in enumerate(repeated):
            settings = {"model.num_heads": heads}
            write_run(folder / f"{heads}-{seed}", nll=nll, seed=seed, settings=settings, floors=FLOORS)
    return collect([str(folder)])


@pytest.fixture
def runs(tmp_path):
    return made(tmp_path, {1: [0.5, 0.6, 0.9], 8: [0.4]})


def cells(runs, *metrics):
    return tables.shown(tables.summary_table(runs, metrics), metrics)


def test_mean_sd_and_n_are_those_by_hand(runs):
    """Of 0.5, 0.6, 0.9: mean 2/3, squares of the distances 1/36 + 1/225 + 49/900 = 13/150, half of that 13/300."""
    first, second = tables.summary_table(runs, ["test.nll"]).to_dict("records")
    assert (first["model.num_heads"], first["n"]) == (1, 3)
    assert first["test.nll.mean"] == pytest.approx(2 / 3, rel=1e-12)
    assert first["test.nll.sd"] == pytest.approx((13 / 300) ** 0.5, rel=1e-12)
    assert {key: value for key, value in second.items() if not key.endswith((".low", ".high"))} == {
        "model.num_heads": 8, "n": 1, "invalid": 0, "test.nll.mean": 0.4, "test.nll.sd": None,
    }  # fmt: skip


def test_a_single_run_has_no_spread(runs):
    table = cells(runs, "test.nll")
    assert list(table) == ["heads K", "n", "NLL"]
    assert table.to_numpy().tolist() == [["1", "3", "0.6667 ± 0.2082"], ["8", "1", "0.4000"]]


def test_what_was_not_measured_is_a_dash_and_does_not_enter_the_mean(tmp_path):
    for seed, risk in enumerate((0.1, 0.3, None)):
        measured = {} if risk is None else {"excess_risk": {"value": risk}}
        write_run(tmp_path / f"some{seed}", seed=seed, settings={"lr": 1}, **measured)
        write_run(tmp_path / f"none{seed}", seed=seed, settings={"lr": 2})
    table = cells(collect([str(tmp_path)]), "excess_risk")
    assert table.to_numpy().tolist() == [["1", "3", "0.2000 ± 0.1414"], ["2", "3", "-"]]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([2e-5, 4e-5], "3.0e-05 ± 1.4e-05"),
        ([-2e-5], "-2.0e-05"),
        ([9.99e-4], "1.0e-03"),
        ([1e-3], "0.0010"),
        ([0.0], "0.0000"),
        ([-0.25], "-0.2500"),
    ],
)
def test_tiny_numbers_keep_their_digits(values, shown, tmp_path):
    assert cells(made(tmp_path, {1: values}), "test.nll")["NLL"].tolist() == [shown]


def test_whole_numbers_stay_whole_where_some_runs_have_none(tmp_path):
    """A column of 8 and nothing is no column of floats."""
    made(tmp_path, {8: [0.5]})
    write_run(tmp_path / "single")
    runs = collect([str(tmp_path)])
    assert cells(runs, "test.nll")["heads K"].tolist() == ["8", "-"]
    assert tables.per_run(runs, ["test.nll"])["model.num_heads"].tolist() == [8, None]


def test_without_labels_there_is_one_row(tmp_path):
    table = cells(made(tmp_path, {1: [0.5, 0.7]}), "test.nll")
    assert table.to_numpy().tolist() == [["2", "0.6000 ± 0.1414"]]


def test_only_measured_quantities_have_columns(runs):
    assert tables.measured_paths(runs, None) == ["test.nll"]
    assert tables.measured_paths(runs, ["floors.oracle", "raters.brier.model"]) == ["floors.oracle"]


def test_a_row_a_run_holds_values_errors_floors_and_time(runs):
    frame = tables.per_run(runs, ["test.nll", "seconds", "test.brier"])
    assert frame["seed"].tolist() == [0, 1, 2, 0]
    assert frame["model.num_heads"].tolist() == [1, 1, 1, 8]
    assert frame["test.nll"].tolist() == [0.5, 0.6, 0.9, 0.4]
    assert frame["test.nll.se"].tolist() == [0.01] * 4
    assert frame["test.brier"].tolist() == [None] * 4
    assert frame["floors.marginal"].tolist() == [FLOORS["marginal"]] * 4
    assert frame["seconds"].tolist() == [1.5] * 4


AWKWARD = "a_b|50% & more"


@pytest.fixture
def awkward(tmp_path):
    for word in (AWKWARD, "plain"):
        write_run(tmp_path / word.replace("|", ""), nll=0.5, settings={"a_word": word})
        write_run(tmp_path / (word.replace("|", "") + "2"), nll=0.7, seed=1, settings={"a_word": word})
    return cells(collect([str(tmp_path)]), "test.nll")


def test_markdown_is_well_formed(awkward):
    lines = tables.markdown(awkward).splitlines()
    columns = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert [len(cells) for cells in columns] == [3] * 4
    assert [cell.strip() for cell in columns[0]] == ["a_word", "n", "NLL"]
    assert set(lines[1]) == set("| -")
    assert columns[2][0].strip() == AWKWARD.replace("|", r"\|")
    assert columns[3][2].strip() == "0.6000 ± 0.1414"


def test_latex_uses_booktabs_and_escapes(awkward):
    text = tables.latex(awkward)
    for line in (r"\begin{tabular}{lll}", r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"):
        assert text.count(line) == 1
    assert r"a\_word & n & NLL \\" in text
    assert r"a\_b|50\% \& more & 2 & 0.6000 $\pm$ 0.1414 \\" in text
    assert not re.search(r"(?<!\\)[_%]", text)
    assert "±" not in text


def test_floors_are_said_when_all_runs_share_them(runs, tmp_path):
    line = tables.floors_line(runs, NAMES)
    assert line == (
        "Floors of the NLL: F0 oracle 0.2000, F1 marginal 0.5000, F2 single BT, conditional 0.5300, "
        "F1 marginal, prompt unseen 0.6000, F2 single BT, linear 0.6500"
    )
    write_run(tmp_path / "other", settings={"model.num_heads": 3}, floors={**FLOORS, "oracle": 0.21})
    assert tables.floors_line(collect([str(tmp_path)]), NAMES) is None


def test_runs_without_floors_have_no_line_of_them(tmp_path):
    write_run(tmp_path / "real")
    assert tables.floors_line(collect([str(tmp_path)]), NAMES) is None
    write_run(tmp_path / "planted", settings={"lr": 1}, floors=FLOORS)
    assert tables.floors_line(collect([str(tmp_path)]), NAMES) is None


# Slopes


def test_slopes_of_power_laws_are_their_exponents_seed_by_seed(tmp_path):
    for seed, exponent in enumerate((-1.0, -0.5)):
        for pairs in (1000, 3162, 10000):
            value = (seed + 3) * pairs**exponent
            write_run(tmp_path / f"{seed}{pairs}", nll=value, seed=seed, settings={"data.train": pairs})
    runs = collect([str(tmp_path)])
    assert tables.slopes(runs, "data.train", "test.nll") == pytest.approx([-1.0, -0.5], rel=1e-9)


def test_slopes_are_of_the_last_decade(tmp_path):
    """The curve bends at 1000: x⁻¹ before, x⁻² from there to 10 000."""
    for pairs in (10, 100, 1000, 3162, 10000):
        value = 1 / pairs if pairs < 1000 else 1000 / pairs**2
        write_run(tmp_path / str(pairs), nll=value, settings={"data.train": pairs})
    assert tables.slopes(collect([str(tmp_path)]), "data.train", "test.nll") == pytest.approx([-2.0], rel=1e-9)


def test_what_has_no_logarithm_or_was_not_measured_is_in_no_slope(tmp_path):
    for angle, value in ((0, 5.0), (10, 10.0), (20, -1.0), (30, 0.0), (50, 50.0), (90, 90.0)):
        write_run(tmp_path / str(angle), nll=value, settings={"angle": angle})
    write_run(tmp_path / "unmeasured", settings={"angle": 70}, test={})
    runs = collect([str(tmp_path)])
    assert tables.slopes(runs, "angle", "test.nll") == pytest.approx([1.0], rel=1e-9)
    assert tables.slopes(runs, "angle", "test.brier") == []
    assert tables.slopes(runs[:1], "angle", "test.nll") == []


def test_a_single_run_shows_its_interval_and_what_it_rests_on(tmp_path):
    nll = {"value": 0.5, "se": 0.01, "n": 400, "se_units": 0.03, "units": "users", "low": 0.44, "high": 0.56}
    write_run(tmp_path / "few", settings={"lr": 1}, test={"nll": {**nll, "n_units": 12}})
    write_run(tmp_path / "many", settings={"lr": 2}, test={"nll": {**nll, "n_units": 400}})
    runs = collect([str(tmp_path)])
    assert cells(runs, "test.nll")["NLL"].tolist() == ["0.5000 [0.4400, 0.5600]"] * 2
    assert "12 users are fewer than 20" in tables.interval_line(runs, ["test.nll"])
    assert "fewer" not in tables.interval_line(runs[1:], ["test.nll"])
    row = tables.per_run(runs, ["test.nll"]).to_dict("records")[0]
    assert (row["test.nll.se"], row["test.nll.se_units"], row["test.nll.n_units"]) == (0.01, 0.03, 12)


def test_runs_that_cannot_be_true_enter_no_mean(tmp_path):
    because = {"valid": False, "invalid_because": "test.nll is below 0."}
    for seed, (value, more) in enumerate(((0.5, {}), (0.7, {}), (-0.3, because))):
        write_run(tmp_path / f"run{seed}", seed=seed, settings={"lr": 1}, test={"nll": {"value": value}}, **more)
    runs = collect([str(tmp_path)])
    assert cells(runs, "test.nll").to_numpy().tolist() == [["2 (+ 1 INVALID)", "0.6000 ± 0.1414"]]
    [line] = tables.invalid_lines(runs)
    assert line.startswith("INVALID, left out: ")
    assert "run2: test.nll is below 0." in line
    assert tables.per_run(runs, ["test.nll"])["valid"].tolist() == [True, True, False]
