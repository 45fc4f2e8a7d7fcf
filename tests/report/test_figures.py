"""Tests of `micro_lit.report.figures`: what is drawn is read back from matplotlib's artists."""

import itertools
import json
import statistics

import numpy as np
import pytest
from run_folders import FLOORS, write_run

pytest.importorskip("matplotlib", reason="the extra report is not installed")

from matplotlib.colors import to_hex

from micro_lit.errors import UserError
from micro_lit.report import figures
from micro_lit.report.collect import collect
from micro_lit.report.results import FLOORS as NAMES

OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}


def draw(folder, **spec):
    default = {"title": None, "y": ["test.nll"], "x": None, "panels": None, "log": False}
    return figures.draw_runs(collect([str(folder)]), default | spec)


def series_of(axes):
    """Label, x and y of the means, and the half lengths of their bars, of every dot or curve."""
    for container in axes.containers:
        line, _, [bars] = container.lines
        lengths = [float(np.ptp(segment, axis=0).max()) / 2 for segment in bars.get_segments()]
        yield container.get_label(), list(map(float, line.get_xdata())), list(map(float, line.get_ydata())), lengths


def rows_of(axes):
    """The mean and half bar of each row by its name."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    return {names[int(y)]: (x, bar) for _, [x], [y], [bar] in series_of(axes)}


def floors_of(axes):
    """x and y of the lines of floors by the names beside them, which stand in the same order."""
    lines = [line for line in axes.lines if line.get_color() == figures.FLOOR_COLOUR]
    names = [text.get_text() for text in axes.texts]
    return {name: (list(line.get_xdata()), list(line.get_ydata())) for name, line in zip(names, lines, strict=True)}


MODELS = {"mixture": [0.50, 0.52], "single_bt": [0.65, 0.66], "mixture_static": [0.61]}


@pytest.fixture
def models(tmp_path):
    """Three models, seeds, two data sets, two quantities; the order of accuracies is not that of losses."""
    for data, harder in (("polis", 0.0), ("ukp", 0.1)):
        for model, values in MODELS.items():
            for seed, nll in enumerate(values):
                accuracy = {"accuracy": {"value": 0.7 + (model == "mixture_static") / 10}}
                write_run(
                    tmp_path / f"{data}{model}{seed}",
                    seed=seed,
                    options={"model": model, "data": data},
                    floors={name: value + harder for name, value in FLOORS.items()},
                    test={"nll": {"value": nll + harder}, **accuracy},
                )
    return tmp_path


# Dots


def test_dots_are_the_means_with_their_spread(tmp_path):
    for model, values in MODELS.items():
        for seed, nll in enumerate(values):
            write_run(tmp_path / f"{model}{seed}", nll=nll, seed=seed, options={"model": model})
    [axes] = draw(tmp_path).axes
    rows = rows_of(axes)
    assert list(rows) == ["single_bt", "mixture_static", "mixture"]
    for model, values in MODELS.items():
        sd = statistics.stdev(values) if len(values) > 1 else 0.0
        assert rows[model] == pytest.approx((statistics.mean(values), sd))
    repetitions = [list(line.get_xdata()) for line in axes.lines if line.get_alpha() == 0.35]
    assert sorted(repetitions) == sorted(MODELS.values())
    assert axes.get_xlabel() == "NLL (nats)"


def test_panels_and_quantities_make_a_grid_with_one_order_of_rows(models):
    figure = draw(models, panels="data", y=["test.nll", "test.accuracy"], title="Models")
    assert figure.get_suptitle() == "Models"
    grid = np.reshape(figure.axes, (2, 2))
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["polis", "ukp"]
    for axes_row, harder in zip(grid, (0.0, 0.1), strict=True):
        assert [axes.get_xlabel() for axes in axes_row] == ["NLL (nats)", "accuracy"]
        for axes in axes_row:
            assert list(rows_of(axes)) == ["single_bt", "mixture_static", "mixture"]
        assert rows_of(axes_row[0])["mixture"][0] == pytest.approx(0.51 + harder)
        assert rows_of(axes_row[1])["mixture_static"][0] == pytest.approx(0.8)


def test_a_row_keeps_its_place_where_a_quantity_was_not_measured(tmp_path):
    for model, risk in (("a", {"excess_risk": {"over": "marginal", "value": 0.1}}), ("b", {})):
        write_run(tmp_path / model, options={"model": model}, **risk)
    [first, second] = draw(tmp_path, y=["excess_risk", "test.nll"]).axes
    assert list(rows_of(first)) == ["a"]
    assert set(rows_of(second)) == {"a", "b"}
    assert [label.get_text() for label in first.get_yticklabels()] == ["b", "a"]


def test_runs_that_differ_in_nothing_are_one_row(tmp_path):
    for seed in range(2):
        write_run(tmp_path / str(seed), seed=seed, nll=0.5 + seed / 10)
    [axes] = draw(tmp_path).axes
    assert rows_of(axes)["all runs"] == pytest.approx((0.55, 0.1 / 2**0.5))


# Curves


@pytest.fixture
def curves(tmp_path):
    """Power laws of two models over four sizes: exponents -1 and -1/2, the same on two data sets but for a factor."""
    for model, exponent in (("mixture", -1.0), ("single_bt", -0.5)):
        for data, factor in (("one", 1.0), ("two", 2.0)):
            for pairs, seed in itertools.product((16, 100, 1000, 10000), range(2)):
                write_run(
                    tmp_path / f"{model}{data}{pairs}{seed}",
                    nll=factor * (1 + seed) * pairs**exponent,
                    seed=seed,
                    settings={"data.train": pairs},
                    options={"model": model, "data": data},
                )
    return tmp_path


def test_curves_are_the_means_over_a_setting(curves):
    [axes] = draw(curves, x="data.train").axes
    found = {label: (x, y, bars) for label, x, y, bars in series_of(axes)}
    assert list(found) == ["one, mixture", "one, single_bt", "two, mixture", "two, single_bt"]
    x, y, bars = found["two, single_bt"]
    assert x == [16, 100, 1000, 10000]
    assert y == pytest.approx([3 * pairs**-0.5 for pairs in x])
    assert bars == pytest.approx([2 * pairs**-0.5 / 2**0.5 for pairs in x])
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("training pairs", "NLL (nats)", "linear")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(found)


def test_slopes_stand_in_the_legend_of_each_panel(curves):
    figure = draw(curves, x="data.train", panels="data", log=True)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    for axes, factor in zip(figure.axes, (1.0, 2.0), strict=True):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        legend = [text.get_text() for text in axes.get_legend().get_texts()]
        assert legend == ["mixture  (slope -1.00)", "single_bt  (slope -0.50)"]
        [_, _, y, _] = next(series_of(axes))
        assert y[-1] == pytest.approx(1.5 * factor / 10000)


def test_a_single_curve_has_no_legend_but_its_slope(tmp_path):
    for pairs in (10, 100):
        write_run(tmp_path / str(pairs), nll=1 / pairs, settings={"data.train": pairs})
    assert draw(tmp_path, x="data.train").axes[0].get_legend() is None
    [text] = draw(tmp_path, x="data.train", log=True).axes[0].get_legend().get_texts()
    assert text.get_text() == "(slope -1.00)"


def test_a_setting_that_does_not_differ_may_be_drawn_over(models):
    """As when a study is run at one of its settings."""
    for path in models.glob("ukp*/results.json"):
        path.unlink()
    assert draw(models, panels="data").axes[0].get_ylabel() == "polis"


# Floors


def test_floors_of_a_population_are_lines_at_their_values(models):
    figure = draw(models, panels="data", y=["test.nll", "test.accuracy"])
    for (nll, accuracy), harder in zip(np.reshape(figure.axes, (2, 2)), (0.0, 0.1), strict=True):
        assert {name: x for name, (x, _) in floors_of(nll).items()} == {
            NAMES[key]: pytest.approx([value + harder] * 2) for key, value in FLOORS.items()
        }
        assert not nll.patches
        assert floors_of(accuracy) == {}


def rater_scores(brier, se):
    floors = {
        "lower": {"value": 0.4, "se": se},
        "plug_in": {"value": 0.45, "se": se},
        "upper": {"value": 0.5, "se": se},
    }
    return {
        "brier": {"model": {"value": 0.3}, "floors": {"brier": {"value": brier, "se": se}}},
        "nll": {"model": {"value": 0.6}, "floors": floors},
    }


def test_floors_of_raters_have_bands_of_95_percent(tmp_path):
    for seed in range(2):
        write_run(tmp_path / str(seed), seed=seed, raters=rater_scores(0.2, 0.01))
    brier, nll = draw(tmp_path, y=["raters.brier.model", "raters.nll.model"]).axes
    assert {name: x for name, (x, _) in floors_of(brier).items()} == {"Brier floor": [0.2, 0.2]}
    [band] = brier.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((0.2 - 0.0196, 2 * 0.0196))
    assert {name: x for name, (x, _) in floors_of(nll).items()} == {
        "NLL floor, lower bound": [0.4, 0.4],
        "NLL floor, upper bound": [0.5, 0.5],
    }
    assert len(nll.patches) == 2


def test_floors_of_other_test_rows_are_drawn_at_their_mean_and_other_floors_not_at_all(tmp_path):
    """Seeds may differ in their test split, by as much as the standard error says; data sets differ by more."""
    for seed, floor in enumerate((0.19, 0.20, 0.21)):
        write_run(tmp_path / str(seed), seed=seed, raters=rater_scores(floor, 0.01))
    [axes] = draw(tmp_path, y=["raters.brier.model"]).axes
    assert floors_of(axes)["Brier floor"][0] == pytest.approx([0.2, 0.2])
    write_run(tmp_path / "other", options={"data": "other"}, raters=rater_scores(0.1, 0.01))
    [axes] = draw(tmp_path, y=["raters.brier.model"]).axes
    assert floors_of(axes) == {}


def test_results_of_an_older_version_do_not_hide_the_floors_of_others(tmp_path):
    older = write_run(tmp_path / "older", options={"data": "older"}) / "results.json"
    results = json.loads(older.read_text())
    older.write_text(json.dumps({name: results[name] for name in results if name != "raters"}))
    write_run(tmp_path / "newer", options={"data": "newer"}, raters=rater_scores(0.2, 0.01))
    [axes] = draw(tmp_path, y=["raters.brier.model"]).axes
    assert list(floors_of(axes)) == ["Brier floor"]


def test_floors_above_an_excess_risk_are_differences(tmp_path):
    """Of the floor that applies; a floor that is equal to it, but for rounding, is not drawn."""
    floors = {**FLOORS, "marginal_static": FLOORS["marginal"] + 2e-15}
    write_run(tmp_path / "run", floors=floors, excess_risk={"over": "marginal", "value": 0.1})
    [axes] = draw(tmp_path, y=["excess_risk"]).axes
    assert {name: x[0] for name, (x, _) in floors_of(axes).items()} == {
        "F2 single BT, conditional - F1": pytest.approx(0.03),
        "F2 single BT, linear - F1": pytest.approx(0.15),
    }


def test_floors_follow_the_setting_of_a_curve(tmp_path):
    for angle, model in itertools.product((0, 90, 180), ("mixture", "single_bt")):
        floors = {"marginal": 0.5, "single_bt_linear": 0.5 + angle / 1000}
        write_run(tmp_path / f"{angle}{model}", settings={"angle": angle}, options={"model": model}, floors=floors)
    found = floors_of(draw(tmp_path, x="angle").axes[0])
    assert list(found) == ["F1 marginal", "F2 single BT, linear"]
    assert [x for x, _ in found.values()] == [[0, 90, 180]] * 2
    assert found["F1 marginal"][1] == [0.5, 0.5, 0.5]
    assert found["F2 single BT, linear"][1] == pytest.approx([0.5, 0.59, 0.68])


def test_floors_of_raters_have_bands_along_a_curve(tmp_path):
    for heads in (1, 2):
        write_run(tmp_path / str(heads), settings={"heads": heads}, raters=rater_scores(0.2 + heads / 100, 0.01))
    [axes] = draw(tmp_path, x="heads", y=["raters.brier.model"]).axes
    assert floors_of(axes)["Brier floor"][1] == pytest.approx([0.21, 0.22])
    [band] = axes.collections[len(axes.containers) :]
    height = band.get_paths()[0].vertices[:, 1]
    assert (height.min(), height.max()) == pytest.approx((0.21 - 0.0196, 0.22 + 0.0196))


# Mistakes


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"y": ["test.nll", "test.nlll"]}, r"report.y: no run has measured 'test.nlll'"),
        ({"x": "model"}, r"report.x=model: .* has no number there; the runs differ in: .*model"),
        ({"x": "model.heads"}, r"report.x=model.heads: .* has no number there"),
        ({"x": "model.heads", "log": True}, r"report.x=model.heads: .* has no number there"),
        ({"panels": "dat"}, r"report.panels=dat: no run has such a setting"),
    ],
)
def test_what_no_run_has_is_a_users_mistake(spec, message, models):
    with pytest.raises(UserError, match=message) as caught:
        draw(models, **spec)
    assert "\n" not in str(caught.value)


# Looks


def test_the_palette_is_one_that_all_eyes_tell_apart():
    assert set(figures.COLOURS) <= OKABE_ITO
    assert len(set(figures.COLOURS)) == len(figures.COLOURS) == 7
    assert len(set(figures.MARKERS)) == len(figures.MARKERS)


@pytest.fixture
def many(tmp_path):
    for model, heads in itertools.product("abcdefghij", (1, 2)):
        write_run(tmp_path / f"{model}{heads}", options={"model": model}, settings={"model.num_heads": heads})
    return tmp_path


@pytest.mark.parametrize("x", [None, "model.num_heads"])
def test_every_series_has_its_own_look_and_the_same_one_everywhere(x, many):
    looks = []
    for axes in draw(many, x=x, y=["test.nll", "test.nll"]).axes:
        lines = [container.lines[0] for container in axes.containers]
        looks.append([(to_hex(line.get_color()), line.get_marker()) for line in lines])
    assert len(set(looks[0])) == len(looks[0]) == (20 if x is None else 10)
    assert looks[0] == looks[1]
    assert len({marker for _, marker in looks[0][:7]}) == len({colour for colour, _ in looks[0][:7]}) == 7


def test_a_series_keeps_its_look_where_others_are_missing(models):
    for path in models.glob("polismixture[01]/results.json"):
        path.unlink()
    figure = draw(models, panels="data")
    looks = []
    for axes in figure.axes:
        names = [label.get_text() for label in axes.get_yticklabels()]
        lines = [container.lines[0] for container in axes.containers]
        looks.append({name: (line.get_color(), line.get_marker()) for name, line in zip(names, lines, strict=True)})
    assert set(looks[1]) - set(looks[0]) == {"mixture"}
    assert looks[0].items() <= looks[1].items()


CLOSE = {**FLOORS, "marginal": 0.5, "marginal_static": 0.5004, "single_bt_conditional": 0.5001, "oracle": 0.4999}


@pytest.mark.parametrize("log", [False, True])
def test_names_of_close_floors_do_not_overlap_beside_curves(log, tmp_path):
    for heads in (1, 10):
        write_run(tmp_path / str(heads), settings={"heads": heads}, floors=CLOSE)
    figure = draw(tmp_path, x="heads", log=log)
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert len(boxes) == 5
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))


def test_names_of_close_floors_stand_apart_above_dots(models, tmp_path):
    for path in models.glob("*/results.json"):
        path.unlink()
    write_run(tmp_path / "run", floors=CLOSE)
    figure = draw(tmp_path)
    figure.draw_without_rendering()
    [axes] = figure.axes
    feet = sorted(axes.transData.transform((text.get_position()[0], 0.0))[0] for text in axes.texts)
    # A line of 7.5 points, turned by 40°, needs 7.5 / sin 40° = 11.7 points of width.
    assert all(right - left > 11 / 72 * figure.dpi for left, right in itertools.pairwise(feet))
    order = sorted(axes.texts, key=lambda text: text.get_position()[0])
    assert [text.get_text() for text in order] == [NAMES[key] for key in sorted(CLOSE, key=CLOSE.get)]


@pytest.mark.parametrize("x", [None, "size"])
def test_nothing_is_cut_off(x, models):
    for folder in list(models.iterdir()):
        config = folder / "config.yaml"
        config.write_text(config.read_text() + f"size: {len(folder.name)}\n")
    fits(draw(models, x=x, panels="data", y=["test.nll", "test.accuracy"], title="Models and floors"))


def test_a_single_row_has_room_for_the_names_of_its_floors(tmp_path):
    write_run(tmp_path / "run", nll=0.7, floors=FLOORS, excess_risk={"over": "marginal", "value": 0.1})
    fits(draw(tmp_path, y=["test.nll", "excess_risk"], title="One run"))


def fits(figure):
    figure.draw_without_rendering()
    box, page = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0) > -0.02
    assert box.x1 < page[0] + 0.02
    assert box.y1 < page[1] + 0.02
    assert min(axes.get_window_extent().height for axes in figure.axes) > 0.2 * figure.dpi


@pytest.mark.parametrize("x", [None, "data.train"])
def test_the_same_figure_is_the_same_file(x, curves, tmp_path):
    files = []
    for number in range(2):
        folder = tmp_path / f"out{number}"
        folder.mkdir()
        paths = figures.save(draw(curves, x=x, title="A title"), folder)
        assert [path.name for path in paths] == ["figure.png", "figure.svg"]
        files.append([path.read_bytes() for path in paths])
    assert files[0] == files[1]
    assert files[0][0].startswith(b"\x89PNG")
    assert b"A title" in files[0][1]
