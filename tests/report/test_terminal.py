"""Tests of `micro_lit.report.terminal`."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from micro_lit.data.pairs import Counts, PreferenceData
from micro_lit.data.planted.population import plant
from micro_lit.floors import raters
from micro_lit.report import terminal


def text_of(table, width: int = 120) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue()


def rows_of(table) -> dict[str, list[str]]:
    """The other cells of each row by its first one."""
    columns = [[str(cell).strip() for cell in column.cells] for column in table.columns]
    return {first: rest for first, *rest in zip(*columns, strict=True)}


def facts(value, se=0.01, n=100):
    return {"value": value, "se": se, "n": n}


def made(**changes):
    test = {"nll": facts(0.5), "accuracy": facts(0.75), "brier": facts(0.2), "ece": facts(0.03)}
    heads = {
        "mean_weight": [0.25, 0.75], "effective": 1.7, "entropy_of_mean": 0.56, "entropy_per_example": 0.31, "dead": [],
    }  # fmt: skip
    results = {
        "experiment": "made", "model": "mixture", "num_heads": 2, "seconds": 12.3, "test": test, "test_by": {},
        "floors": {}, "raters": {}, "heads": heads,
    }  # fmt: skip
    return results | changes


RATERS = {
    "rows": 1234,
    "pairs": 321,
    "agreement": facts(0.66),
    "brier": {"model": facts(0.21), "excess": facts(0.0123, 0.001), "floors": {"brier": facts(0.1977)}},
    "nll": {"model": facts(0.61), "floors": {"lower": facts(0.55), "plug_in": facts(0.56), "upper": facts(0.59)}},
    "accuracy": {"model": facts(0.71), "floors": {"lower": facts(0.72), "upper": facts(0.77)}},
}


def test_in_a_sweep_a_run_is_one_line(capsys):
    terminal.show_results(made(raters=RATERS), Path("runs/model.num_heads=2,y=[test.nll],x=[b]"), brief=True)
    assert capsys.readouterr().out == "model.num_heads=2,y=[test.nll],x=[b]: test NLL 0.5000 ± 0.0196, 12 s\n"


def test_a_run_of_its_own_shows_tables_and_what_it_wrote(tmp_path, capsys):
    (tmp_path / "config.yaml").touch()
    terminal.show_results(made(raters=RATERS), tmp_path)
    printed = capsys.readouterr().out
    for words in ("Test scores of made", "Against the raters' own floor", "1.7 of 2 heads", "model=single_bt"):
        assert words in printed
    assert f"wrote {tmp_path}/ in 12 s: config.yaml\n" in printed
    terminal.show_results(made(), tmp_path)
    assert "raters" not in capsys.readouterr().out


def test_the_table_against_raters_shows_floor_distance_and_bounds():
    table = terminal.against_raters(made(raters=RATERS))
    assert rows_of(table) == {
        "Brier": ["0.2100 ± 0.0196", "0.1977 ± 0.0196", "+0.0123 ± 0.0020"],
        "NLL": ["0.6100 ± 0.0196", "between 0.5500 and 0.5900", ""],
        "accuracy": ["0.7100 ± 0.0196", "between 0.7200 and 0.7700", ""],
    }
    text = " ".join(text_of(table).split())
    assert "1,234 test rows whose 321 pairs two or more raters judged" in text
    assert "probability 0.660" in text


BASELINES = {
    "longer": {**facts(0.662), "difference": facts(-0.112, 0.0158)},
    "majority": {**facts(0.6, 0.0), "difference": facts(-0.05), "known": 0.25},
    "first": {**facts(0.55, n=90), "difference": facts(0.0, 0.1, n=90)},
}


def test_baselines_stand_in_the_table_of_scores_beside_the_accuracy_of_the_model():
    table = terminal.score_table(made(baselines=BASELINES))
    assert rows_of(table) == {
        "all": ["100", "0.500 ± 0.020", "0.750 ± 0.020", "0.200", "0.030"],
        "longer wins": ["100", "", "0.662 ± 0.020", "", ""],
        "majority": ["100", "", "0.600 ± 0.000", "", ""],
        "first wins": ["90", "", "0.550 ± 0.020", "", ""],
    }
    assert "known for 25% of the rows; a coin on the others" in " ".join(text_of(table).split())
    assert max(map(len, text_of(table, width=80).splitlines())) <= 80
    assert "…" not in text_of(table, width=80)


def test_a_model_that_does_not_beat_the_best_baseline_is_told_so(tmp_path, capsys):
    note = "note: this model does not beat 'the longer response wins' (0.662): difference in accuracy -0.112 ± 0.031"
    assert terminal.unbeaten(made(baselines=BASELINES)) == note
    terminal.show_results(made(baselines=BASELINES), tmp_path)
    assert note in " ".join(capsys.readouterr().out.split())
    # Above it by less than the half width of the interval is not above it; as accurate on every row neither.
    for value, se, beaten in ((0.03, 0.0158, False), (0.032, 0.0158, True), (0.0, 0.0, False)):
        baselines = {"longer": {**facts(0.6), "difference": facts(value, se)}}
        assert (terminal.unbeaten(made(baselines=baselines)) is None) == beaten
    few = {"first": BASELINES["first"]}
    assert "does not beat 'the response shown first wins' (0.550) on the 90 rows" in terminal.unbeaten(
        made(baselines=few)
    )
    coin = {"majority": {**facts(0.5, 0.0), "difference": facts(0.01, 0.02), "known": 0.0}}
    assert "does not beat a coin (0.500): " in terminal.unbeaten(made(baselines=coin))
    assert terminal.unbeaten(made()) is terminal.unbeaten(made(baselines={})) is None


@pytest.mark.parametrize(("rows", "told"), [(29, True), (30, False)])
def test_the_table_of_few_test_rows_says_that_it_says_nothing(rows, told):
    test = {name: facts(0.5, n=rows) for name in ("nll", "accuracy", "brier", "ece")}
    text = " ".join(text_of(terminal.score_table(made(test=test))).split())
    assert (f"{rows} test rows, fewer than 30: these numbers say nothing about the model" in text) == told


def test_the_heads_table_says_what_the_gate_does_and_names_dead_heads_with_a_remedy():
    text = " ".join(text_of(terminal.heads(made())).split())
    assert "Of log K = 0.69 nats the entropy of the mean weights is 0.56" in text
    assert "that of an example's weights 0.31" in text
    assert "Dead" not in text
    dead = made(heads=made()["heads"] | {"dead": [1, 4]})
    text = " ".join(text_of(terminal.heads(dead)).split())
    assert "Dead, with less than a tenth of an equal weight: 1, 4; raise model.balance_weight" in text
    many = made(heads=made()["heads"] | {"dead": list(range(90))})
    assert "14, 15 and 74 more; raise" in " ".join(text_of(terminal.heads(many)).split())


CATEGORIES = {
    "group": {"values": ["a", "b", "c"], "purity": 0.9, "nmi": 0.712, "ari": 0.6, "top": [[40, 10], [0, 50], [0, 0]]},
    "source": {"values": ["x", "y"], "purity": 0.5, "nmi": 0.0004, "ari": -0.001, "top": [[25, 25], [24, 26]]},
}


def test_categories_are_shown_beside_one_head_for_all_where_the_gate_knows_something(tmp_path, capsys):
    results = made(heads=made()["heads"] | {"categories": CATEGORIES})
    found = terminal.recovered(results)
    assert set(found) == {"group"}
    # Values without test rows do not count; with one head for all rows the purity is the share of the largest value.
    assert rows_of(terminal.categories(found)) == {"group": ["2", "0.900 (0.500)", "0.712", "0.600"]}
    terminal.show_results(results, tmp_path)
    assert "The head on top against the labels" in capsys.readouterr().out
    for untold in (made(), made(heads=made()["heads"] | {"categories": {"source": CATEGORIES["source"]}})):
        terminal.show_results(untold, tmp_path)
        assert "The head on top" not in capsys.readouterr().out


def test_floors_of_a_population_and_their_gaps_are_shown():
    population = plant(["length", "humour", "warmth"], groups=3, topics=4)
    found = {"floors": population.floors, "gaps": population.gaps, "gradient_norms": population.certificates}
    table = terminal.population_floors(found)
    rows = rows_of(table)
    shown = {name: float(cells[0]) for name, cells in rows.items()}
    floors = dict(sorted(population.floors.items(), key=lambda item: item[1]))
    assert list(shown)[:5] == [terminal.FLOORS[key] for key in floors]
    assert list(shown.values())[:5] == pytest.approx(list(floors.values()), abs=5.1e-5)
    assert list(shown.values())[5:] == pytest.approx([population.gaps[key] for key in terminal.GAPS], abs=5.1e-5)
    assert rows["F2 conditional - F1"][1] == "a mixture"
    assert f"at most {max(population.certificates.values()):.1e}" in text_of(table)


def votes(named: bool):
    """Forty pairs with three votes each, of thirty raters."""
    generator = np.random.default_rng(0)
    rater_N = np.concatenate([generator.choice(30, 3, replace=False) for _ in range(40)]) if named else None
    return raters.gather(np.repeat(np.arange(40), 3), generator.random(120) < 0.7, rater_N)


@pytest.mark.parametrize("named", [True, False])
def test_floors_of_raters_are_shown_with_their_intervals_and_warnings(named):
    found = raters.rater_floors(votes(named), replicates=50)
    table = terminal.rater_table(found)
    rows = rows_of(table)
    assert list(rows) == list(terminal.RATER_FLOORS.values())
    for key, name in terminal.RATER_FLOORS.items():
        floor = found.floors[key]
        over_pairs = f"{floor.over_pairs[0]:.4f} to {floor.over_pairs[1]:.4f}"
        over_raters = f"{floor.over_raters[0]:.4f} to {floor.over_raters[1]:.4f}" if named else ""
        assert rows[name] == [f"{floor.value:.4f}", over_pairs, over_raters]
    text = " ".join(text_of(table).split())
    assert f"120 votes of {'30 raters' if named else 'unnamed raters'} on 40 pairs" in text
    assert "(3.0 a pair, 100% of the rows)" in text
    assert "Warning: Only 40 pairs have two raters" in text
    assert ("Warning: Raters are unnamed" in text) == (not named)


def test_names_of_the_users_data_are_no_markup(capsys):
    """A set, a source or a group may be called [/b], which rich would take for the end of something bold."""
    cell = made()["test"]
    nll = [[0.5, 0.6], [0.7, 0.8]]
    heads = {**made()["heads"], "recovery": {"groups": ["[/b]", "[red]"], "nll": nll, "matching": [0, 1]}}
    results = made(experiment="[/a]", test_by={"source": {"[/b]": cell, "[red]": cell}}, heads=heads)
    assert "Test scores of [/a] (mixture, K = 2)" in text_of(terminal.score_table(results))
    for name in ("source [/b]", "source [red]"):
        assert name in text_of(terminal.score_table(results))
    assert "[/b]" in text_of(terminal.heads(results))
    terminal.show_results(results, Path("[/c]"))
    assert "wrote [/c]/ in 12 s" in capsys.readouterr().out


def test_names_of_the_users_sets_are_no_markup_either(capsys, settings):
    from micro_lit.config import build

    sizes = ("data.train=8", "data.validation=2", "data.test=2")
    data: PreferenceData = build(settings("data=planted_text", *sizes)["data"]).load(0)
    data.counts.clear()
    data.counts["[/b]"] = Counts(rows=12, dropped=1, reasons=["a.jsonl, row 1: [red] is wrong"])
    terminal.show_data(data, "a [/text]")
    printed = capsys.readouterr().out
    assert "[/b]: 12 rows read, 1 bad rows dropped" in printed
    assert "dropped a.jsonl, row 1: [red] is wrong" in printed
    assert "'a [/text]'" in printed


def clustered(value: float, low: float, high: float, units: str = "users", n_units: int = 40) -> dict:
    return {**facts(value), "se_units": 0.03, "units": units, "n_units": n_units, "low": low, "high": high}


def test_intervals_are_over_units_and_few_of_these_are_said():
    test = {**made()["test"], "nll": clustered(0.5, 0.44, 0.56), "accuracy": clustered(0.75, 0.68, 0.81)}
    table = terminal.score_table(made(test=test))
    assert rows_of(table)["all"][1:3] == ["0.500 ± 0.060", ".750 [.680 .810]"]
    assert "40 users as independent" in " ".join(text_of(table).split())
    few = terminal.score_table(made(test={**test, "nll": clustered(0.5, 0.44, 0.56, n_units=7)}))
    assert "Fewer than 20 users: too few for intervals to be exact" in " ".join(text_of(few).split())
    alone = {**facts(0.5), "units": "users", "n_units": 1}
    assert "A single unit" in " ".join(text_of(terminal.score_table(made(test={**test, "nll": alone}))).split())
    old = " ".join(text_of(terminal.score_table(made())).split())
    assert "rows as independent" in old


def test_a_model_beats_a_baseline_by_the_interval_over_units():
    """By the rows the difference is ten standard errors, by the users not one."""
    longer = {**facts(0.65), "difference": clustered(0.1, -0.05, 0.25)}
    assert "does not beat" in terminal.unbeaten(made(baselines={"longer": longer}))
    sure = {**facts(0.65), "difference": clustered(0.1, 0.05, 0.15)}
    assert terminal.unbeaten(made(baselines={"longer": sure})) is None


def test_what_cannot_be_true_is_shown_first(tmp_path, capsys):
    terminal.show_results(made(valid=False, invalid_because="test.nll is below 0."), tmp_path)
    assert capsys.readouterr().out.split("\n")[1].startswith("INVALID: test.nll is below 0.")
