"""Tests of `micro_lit.compare.report` on attributes: pages and files are read back; what must not be mixed is not."""

import csv
import itertools
import json
import runpy
import sys

import pytest
import yaml
from full_disk import assert_whole
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import micro_lit.compare
from micro_lit.compare import report
from micro_lit.compare import sections as made_sections
from micro_lit.errors import UserError

FILES = ["compare.json", "curves.csv", "figure.png", "figure.svg", "systems.csv", "tables.md"]
PICTURES = ["figure.png", "figure.svg"]
ODD = "$a$ | [b]*c*_d_ <e>"
ACCURACY = {"posterior": 0.70, "hedge": 0.72, "router": 0.69}


def interval(value, sd=0.01, half=0.02):
    return {"value": value, "low": value - half, "high": value + half, "sd": sd}


def system(candidate, method, accuracy, heads, oracle=False, attributes=("academy", "business"), sd=0.01, **facts):
    """A row of a table; the baseline has accuracy 0.6, and attributes differ a little from their mean."""
    nll, difference = 1.2 - accuracy, accuracy - 0.6
    return {
        "candidate": candidate,
        "method": method,
        "heads": heads,
        "oracle": oracle,
        **facts,
        "accuracy": interval(accuracy, sd),
        "accuracy_by": {name: interval(accuracy + number / 1000, sd) for number, name in enumerate(attributes)},
        "accuracy_difference": interval(difference, sd, half=0.02 if difference else 0.0),
        "nll": interval(nll, sd),
        "nll_by": {name: interval(nll - number / 1000, sd) for number, name in enumerate(attributes)},
        "nll_difference": interval(-difference, sd, half=0.02 if difference else 0.0),
    }


def curve(candidate, method, labels, start, end):
    values = [start + (end - start) * number / (len(labels) - 1) for number in range(len(labels))]
    return {
        "candidate": candidate,
        "method": method,
        "labels": list(labels),
        "accuracy": [interval(value) for value in values],
        "nll": [interval(1.2 - value) for value in values],
    }


def made(attributes=("academy", "business"), mixture="mixture", routed=True, elicited=True, rivals=("negation", "drm")):
    """Results as a `Comparison` returns them: a baseline, a mixture, rivals that are better by hedge, an oracle."""
    several = {mixture: 8, **dict.fromkeys(rivals, 4)}

    def row(*arguments, **facts):
        return system(*arguments, attributes=attributes, **facts)

    none = [row("single_bt", "own weights", 0.6, 1, sd=None)]
    none += [row(name, "own weights", 0.59 + heads / 400, heads, sd=None) for name, heads in several.items()]
    none.append(row("attribute_bt", "told the attribute", 0.8, 2, oracle=True, sd=None))
    criterion, labels = [], [row("single_bt", "nothing to adapt", 0.6, 1, sd=None)]
    if routed:
        criterion.append(row(mixture, "router, criteria shuffled", 0.605, 8, check=True))
        criterion.append(row(mixture, "router", ACCURACY["router"], 8, check=False))
    curves, budgets = [], [0, 1, 2, 5, 10]
    for name, heads in several.items():
        gains = {"posterior": 0.0, "hedge": 0.0} if name == mixture else {"posterior": -0.13, "hedge": 0.03}
        for method, gain in gains.items():
            end = ACCURACY[method] + gain
            labels.append(row(name, method, end, heads, turned=None if name == "drm" else 0.875))
            curves.append(curve(name, method, budgets, 0.6, end))
        labels.append(row(name, "best head", 0.74 + gains["hedge"], heads, oracle=True))
    asked = []
    if routed:
        curves.append(curve(mixture, "router", budgets, 0.6, ACCURACY["router"]))
    if elicited:
        asked = [curve(mixture, way, range(31), 0.6, 0.68) for way in ("information gain", "at random")]
    return {
        "name": "made",
        "seed": 3,
        "baseline": "single_bt",
        "budget": 10,
        "budgets": budgets,
        "budget_from": "train",
        "draws": 5,
        "candidates": {
            name: {"run": f"runs/{name}", "heads": heads}
            for name, heads in {"single_bt": 1, **several, "attribute_bt": 2}.items()
        },
        "attributes": {name: 1200 + number for number, name in enumerate(attributes)},
        "tables": {"none": none, "criterion": criterion, "labels": labels},
        "curves": curves,
        "elicitation": asked,
        "seconds": 12.3,
    }


@pytest.fixture
def spec(settings, tmp_path):
    """Settings of the command, as composed, with two methods; keyword arguments replace some."""
    composed = settings("candidates={single_bt: runs/a}", "baseline=single_bt", "subjects=attribute", config="compare")
    own = composed["subjects"]["attribute"]
    own["adaptation"] = {name: own["adaptation"][name] for name in ("posterior", "hedge")}
    return lambda **replaced: {**composed, "routed": ["mixture"], "out": str(tmp_path / "out"), **replaced}


@pytest.fixture
def write(spec, monkeypatch):
    """Writes results as the command does, but without the figure, which takes a second."""

    def make(results, **replaced):
        monkeypatch.setattr(report, "figure", None)
        return report.write_comparison(results, spec(**replaced))

    return make


def page_of(results, with_figure):
    """tables.md, as the command writes it."""
    settings = {"routed": ["mixture"], "subjects": {"attribute": {"adaptation": {"posterior": {}, "hedge": {}}}}}
    return report.comparison_markdown(results, report.sections_of(results, settings), with_figure)


def rendered(page):
    """Headings, paragraphs and tables of a Markdown page as people see them, in order."""
    parts, kind = [], None
    for token in MarkdownIt("commonmark").enable("table").parse(page):
        if token.type in ("heading_open", "paragraph_open", "table_open"):
            kind = token.type.removesuffix("_open")
            parts.append((kind, []))
        elif token.type == "tr_open":
            parts[-1][1].append([])
        elif token.type == "inline":
            text = "".join(child.content for child in token.children)
            (parts[-1][1][-1] if kind == "table" else parts[-1][1]).append(text)
    return [(kind, content if kind == "table" else content[0]) for kind, content in parts]


def sections(page):
    """{"(a)": its tables, ...}"""
    found, current = {}, None
    for kind, content in rendered(page):
        if kind == "heading":
            current = found.setdefault(content[:3], [])
        elif kind == "table":
            current.append(content)
    return {name: found[name] for name in ("(a)", "(b)", "(c)")}


# Files


def test_all_files_are_written_and_named_and_the_same_for_the_same_results(spec, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    folder = report.write_comparison(made(), spec())
    assert folder == tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == f"wrote {folder}/ in 12 s: {', '.join(FILES)}"
    assert lines[-1].startswith("next: python -m micro_lit.personalise run=runs/mixture ")
    assert json.loads((folder / "compare.json").read_text()) == made()
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == spec()
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    report.write_comparison(made(), spec())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written


def test_without_out_the_files_lie_in_the_folder_of_the_run(write, tmp_path):
    assert write(made(), out=None) == tmp_path / "run"
    assert (tmp_path / "run" / "tables.md").is_file()


def test_tables_of_numbers_read_back_to_the_last_bit(write):
    results = made()
    folder = write(results)
    rows = list(csv.DictReader((folder / "systems.csv").read_text().splitlines()))
    expected = [(table, row) for table, rows in results["tables"].items() for row in rows]
    assert len(rows) == len(expected)
    for found, (table, row) in zip(rows, expected, strict=True):
        assert [found[key] for key in ("table", "candidate", "method")] == [table, row["candidate"], row["method"]]
        assert int(found["heads"]) == row["heads"]
        assert (found["oracle"], found["check"]) == (str(row["oracle"]), str(row.get("check", False)))
        assert found["turned"] == ("" if row.get("turned") is None else str(row["turned"]))
        for score in ("accuracy", "nll"):
            cells = {score: row[score], f"{score}_difference": row[f"{score}_difference"]}
            cells |= {f"{score}_by.{name}": cell for name, cell in row[f"{score}_by"].items()}
            for key, cell in cells.items():
                read = {part: found[f"{key}.{part}"] for part in cell}
                assert {part: float(text) if text else None for part, text in read.items()} == cell
    columns = list(rows[0])
    assert all("_by." in name for name in columns[columns.index("accuracy_by.academy.value") :])


def test_curves_read_back_to_the_last_bit(write):
    results = made()
    folder = write(results)
    rows = list(csv.DictReader((folder / "curves.csv").read_text().splitlines()))
    for kind, name in (("curve", "curves"), ("elicitation", "elicitation")):
        for each in results[name]:
            own = [
                row
                for row in rows
                if (row["kind"], row["candidate"], row["method"]) == (kind, each["candidate"], each["method"])
            ]
            assert [int(row["labels"]) for row in own] == each["labels"]
            for score in ("accuracy", "nll"):
                for row, cell in zip(own, each[score], strict=True):
                    assert {part: float(row[f"{score}.{part}"]) for part in cell} == cell
    assert len(rows) == sum(len(each["labels"]) for each in (*results["curves"], *results["elicitation"]))


@pytest.mark.parametrize("out", [True, False])
def test_a_folder_that_cannot_be_written_is_named_by_its_setting(out, spec, tmp_path):
    folder = tmp_path / ("out" if out else "run")
    folder.touch()
    with pytest.raises(UserError, match=rf"^{'out' if out else 'paths.run_dir'}={folder}: cannot be written \(.+\)"):
        report.write_comparison(made(), spec() if out else spec(out=None))


# Tables


def test_the_page_has_facts_then_three_tables_in_two_blocks_then_the_meaning_of_columns():
    parts = rendered(page_of(made(), with_figure=True))
    assert [content for kind, content in parts if kind == "heading"] == [
        "made",
        "(a) No side information",
        "(b) Criterion and 10 labels of each attribute",
        "(c) 10 labels of the target alone",
        "Columns",
    ]
    assert parts[1][1] == "2 attributes (test rows judged): academy 1,200, business 1,201."
    assert parts[2][1] == (
        "Budget: 10 labels of each attribute, drawn 5 times from the training rows. Baseline: single_bt. Seed 3. "
        "Measured in 12 s."
    )
    tables = sections(page_of(made(), with_figure=True))
    header = ["model", "adaptation", "K", "accuracy", "sd", "difference", "NLL"]
    header += ["academy (n = 1,200)", "business (n = 1,201)"]
    for name, blocks in tables.items():
        assert len(blocks) == 2
        assert [block[0] for block in blocks] == [header + (["turned"] if name == "(c)" else [])] * 2
    explained = [content.split(":")[0] for kind, content in parts[-8:] if kind == "paragraph"]
    assert explained[:-1] == ["K", "accuracy", "sd", "difference", "NLL", "turned"]
    assert "academy" not in explained[-1]


def test_a_row_says_what_was_measured():
    tables = sections(page_of(made(), with_figure=False))
    first, second = tables["(a)"][0][1:3]
    assert first[:5] == ["mixture", "own weights", "8", "0.610 [0.590, 0.630]", "-"]
    assert first[5:] == ["+0.010 [-0.010, +0.030]", "0.590", "0.610", "0.611"]
    assert second[:5] == ["single_bt", "own weights", "1", "0.600 [0.580, 0.620]", "-"]
    assert second[5:] == ["baseline", "0.600", "0.600", "0.601"]
    assert tables["(b)"][0][1][3:6] == ["0.690 [0.670, 0.710]", "0.010", "+0.090 [+0.070, +0.110]*"]
    assert [row[-1] for row in tables["(c)"][0][1:]] == ["0.88", "-", "0.88", "0.88", "-", "0.88", "-"]


def test_checks_and_oracles_are_marked_and_never_among_the_others():
    tables = sections(page_of(made(), with_figure=False))
    names = {name: [[row[:2] for row in block[1:]] for block in blocks] for name, blocks in tables.items()}
    assert names["(a)"][1] == [["ORACLE: attribute_bt", "told the attribute"]]
    assert names["(b)"] == [[["mixture", "router"]], [["CHECK: mixture", "router, criteria shuffled"]]]
    assert names["(c)"][1] == [[f"ORACLE: {name}", "best head"] for name in ("negation", "drm", "mixture")]
    assert names["(c)"][0] == [
        ["negation", "hedge"],
        ["drm", "hedge"],
        ["mixture", "hedge"],
        ["mixture", "posterior"],
        ["single_bt", "nothing to adapt"],
        ["negation", "posterior"],
        ["drm", "posterior"],
    ]


def test_what_cannot_be_true_is_marked_apart_and_said(write, capsys):
    results = made()
    [best] = [row for row in results["tables"]["labels"] if (row["candidate"], row["method"]) == ("mixture", "hedge")]
    best |= {"valid": False, "invalid_because": "test.nll is -0.37 nats, below 0"}
    folder = write(results)
    fair, apart = sections((folder / "tables.md").read_text())["(c)"]
    assert ["mixture", "hedge"] not in [row[:2] for row in fair]
    assert ["INVALID: mixture", "hedge"] in [row[:2] for row in apart]
    assert "INVALID: mixture, hedge: test.nll is -0.37 nats, below 0" in capsys.readouterr().out


def test_few_units_are_said_and_nothing_is_starred(write):
    results = made()
    for rows in results["tables"].values():
        for row in rows:
            for key, point in row.items():
                if isinstance(point, dict) and "value" in point:
                    row[key] = {**point, "n_units": 19, "units": "users"}
    page = (write(results) / "tables.md").read_text()
    assert "Only 19 users: too few for intervals to be exact, and nothing is starred." in page
    assert "]*" not in page


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans(), st.booleans()), min_size=1, max_size=12))
@checked(max_examples=50)
def test_whatever_the_scores_blocks_hold_every_row_once_in_order(drawn):
    rows = [
        system(f"m{number}", "posterior", accuracy, 4, oracle, check=check)
        for number, (accuracy, oracle, check) in enumerate(drawn)
    ]
    fair, apart = (frame["model"].tolist() for frame in made_sections.as_blocks(rows, made()))
    kinds = [name.split(":")[0] if ":" in name else "" for name in apart]
    assert not any(":" in name for name in fair)
    assert set(kinds) <= {"CHECK", "ORACLE"}
    assert kinds == sorted(kinds)
    assert sorted(name.split()[-1] for name in (*fair, *apart)) == sorted(row["candidate"] for row in rows)
    assert {name.split()[-1] for name in apart} == {f"m{i}" for i, (_, *marks) in enumerate(drawn) if any(marks)}
    accuracy = {row["candidate"]: row["accuracy"]["value"] for row in rows}
    for names in (fair, *([name for name in apart if name.startswith(kind)] for kind in ("CHECK", "ORACLE"))):
        values = [accuracy[name.split()[-1]] for name in names]
        assert values == sorted(values, reverse=True)


@given(st.floats(-1.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
@checked(max_examples=50)
def test_a_star_is_there_when_the_interval_excludes_zero_and_only_then(value, below, above):
    row = system("mixture", "posterior", 0.7, 8)
    row["accuracy_difference"] = {"value": value, "low": value - below, "high": value + above, "sd": None}
    [cell] = made_sections.as_blocks([row], made())[0]["difference"]
    assert cell.endswith("*") == (not value - below <= 0.0 <= value + above)


@pytest.mark.parametrize(("low", "high", "starred"), [(0.0, 0.1, False), (-0.1, 0.0, False), (1e-9, 0.1, True)])
def test_an_interval_that_ends_at_zero_holds_it(low, high, starred):
    row = system("mixture", "posterior", 0.7, 8)
    row["accuracy_difference"] = {"value": (low + high) / 2, "low": low, "high": high, "sd": None}
    assert made_sections.as_blocks([row], made())[0]["difference"][0].endswith("*") == starred


def test_a_rival_that_never_differs_is_not_called_the_baseline():
    twin = system("twin", "own weights", 0.6, 1)
    assert made_sections.as_blocks([twin], made())[0]["difference"].tolist() == ["+0.000 [+0.000, +0.000]"]


def test_many_attributes_have_no_columns_but_their_numbers():
    attributes = [f"attribute {number}" for number in range(9)]
    page = page_of(made(attributes), with_figure=False)
    for blocks in sections(page).values():
        assert all(len(block[0]) <= 8 for block in blocks)
    assert "attribute 8 1,208." in page
    assert rendered(page)[-1][1] == "The accuracy of each attribute is in systems.csv."
    assert "accuracy_by.attribute 8.value" in report.systems(made(attributes))
    page = page_of(made(attributes[:8]), with_figure=False)
    assert sections(page)["(a)"][0][0][-1] == "attribute 7 (n = 1,207)"


def test_names_are_shown_as_they_are(write, capsys):
    results = made(attributes=(ODD, "business"), mixture=ODD)
    folder = write(results, routed=[ODD])
    tables = sections((folder / "tables.md").read_text())
    assert tables["(a)"][0][0][7] == f"{ODD} (n = 1,200)"
    assert tables["(a)"][0][1][0] == ODD
    assert tables["(c)"][1][-1][0] == f"ORACLE: {ODD}"
    assert {len(row) for blocks in tables.values() for row in blocks[0]} == {9, 10}
    assert f" {ODD} " in capsys.readouterr().out


def test_a_table_that_no_candidate_is_in_says_so(write, capsys):
    page = page_of(made(routed=False), with_figure=False)
    assert sections(page)["(b)"] == []
    assert "\nNo router: `routed` names no candidate.\n" in page
    write(made(routed=False), routed=[])
    assert "No router: `routed` names no candidate.\n" in capsys.readouterr().out


def test_labels_taken_from_test_rows_are_said_to_be():
    page = page_of({**made(), "budget_from": "test"}, with_figure=False)
    assert "(test rows judged, on average over draws): academy 1,200" in page
    assert "drawn 5 times from the test rows, which nobody is judged on in that draw." in page


# Terminal


def printed_rows(text):
    """Cells of the last table that was printed."""
    table = text.split("┏")[-1].split("└")[0]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line[0] == "│"]


@pytest.mark.parametrize("routed", [["mixture"], []])
def test_of_many_systems_those_shown_are_chosen_without_a_look_at_scores(routed, write, capsys):
    """The rivals are best by hedge; shown is how they do by the first method, and of the leader every method."""
    write(made(routed=bool(routed)), routed=routed)
    text = capsys.readouterr().out
    assert [row[:2] for row in printed_rows(text)] == [
        ["mixture", "hedge"],
        ["mixture", "posterior"],
        ["single_bt", "nothing to adapt"],
        ["negation", "posterior"],
        ["drm", "posterior"],
        ["ORACLE: mixture", "best head"],
    ]
    assert "posterior of every candidate, every method of mixture; 4 more rows are in tables.md." in " ".join(
        text.split()
    )


def test_when_all_rows_are_shown_none_are_said_to_be_elsewhere(write, capsys):
    write(made(rivals=()))
    text = capsys.readouterr().out
    assert len(printed_rows(text)) == 4
    assert "more rows" not in text


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({"elicited": False}, "the same command with elicited=[mixture]"),
        ({}, "python -m micro_lit.personalise run=runs/mixture"),
    ],
)
def test_the_next_step_is_one_not_taken(replaced, words, write, capsys):
    write(made(**replaced))
    assert f"next: {words}" in capsys.readouterr().out


def alone():
    """Results of the baseline and nobody else."""
    results = made(routed=False, elicited=False, rivals=())
    results["candidates"] = {"single_bt": {"run": "runs/single_bt", "heads": 1}}
    for name, rows in results["tables"].items():
        results["tables"][name] = [row for row in rows if row["candidate"] == "single_bt"]
    return {**results, "curves": []}


def test_one_candidate_alone_is_shown(write, capsys):
    folder = write(alone(), routed=[])
    assert sorted(path.name for path in folder.iterdir()) == [name for name in FILES if name not in PICTURES]
    text = capsys.readouterr().out
    assert "no figure: nothing was measured over the number of labels" in text
    assert "next: the same command with a mixture among the candidates, to compare" in text
    assert "figure.png" not in (folder / "tables.md").read_text()


@pytest.mark.parametrize("missing", [None, []])
def test_without_curves_there_is_a_heading_and_no_figure(missing, write):
    folder = write({**made(), "curves": missing, "elicitation": missing})
    assert not (folder / "figure.png").exists()
    assert (folder / "curves.csv").read_text() == (
        "kind,candidate,method,labels,accuracy.value,accuracy.low,accuracy.high,accuracy.sd,"
        "nll.value,nll.low,nll.high,nll.sd\n"
    )


def test_without_matplotlib_all_but_the_figure_comes(spec, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "micro_lit.compare.figure", raising=False)
    monkeypatch.delattr(micro_lit.compare, "figure", raising=False)
    folder = runpy.run_path(report.__file__)["write_comparison"](made(), spec())
    assert sorted(path.name for path in folder.iterdir()) == [name for name in FILES if name not in PICTURES]
    assert "no figure: matplotlib is not installed (pip install 'micro-lit[report]')" in capsys.readouterr().out
    assert "figure.png" not in (folder / "tables.md").read_text()


# Figure


@pytest.fixture
def drawn(spec):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")

    def draw(results, **replaced):
        """{title: (accuracy panel, NLL panel)}"""
        figure = report.draw_figure(results, spec(**replaced))
        pairs = zip(figure.axes[::2], figure.axes[1::2], strict=True)
        return {left.get_title(loc="left"): (left, right) for left, right in pairs}

    return draw


def curves_in(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def names_in(axes):
    return [text.get_text() for text in axes.texts]


def test_panels_are_methods_candidates_and_ways_to_ask(drawn):
    panels = drawn(made())
    names = {title: list(curves_in(axes)) for title, (axes, _) in panels.items()}
    assert names == {
        "mixture: every method": ["posterior", "hedge", "router"],
        "posterior: every candidate": ["mixture", "negation", "drm"],
        "mixture: which label to ask for next": ["at random", "information gain"],
    }
    for title, axes_pair in panels.items():
        for axes in axes_pair:
            assert names_in(axes) == [*names[title], "baseline single_bt", "ORACLE attribute_bt"]


def test_curves_intervals_and_lines_are_what_was_measured(drawn):
    results = made()
    for axes, score in zip(drawn(results)["mixture: every method"], ("accuracy", "nll"), strict=True):
        lines = curves_in(axes)
        for each in results["curves"]:
            if each["candidate"] == "mixture":
                line = lines[each["method"]]
                assert line.get_xdata().tolist() == each["labels"]
                assert line.get_ydata().tolist() == [cell["value"] for cell in each[score]]
        bands = [band.get_paths()[0].vertices for band in axes.collections]
        assert len(bands) == 2  # of the first method and of the router
        posterior = next(each for each in results["curves"] if each["method"] == "posterior")
        for cell, labels in zip(posterior[score], posterior["labels"], strict=True):
            edges = bands[0][bands[0][:, 0] == labels, 1]
            assert (edges.min(), edges.max()) == pytest.approx((cell["low"], cell["high"]))
        level = [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
        rows = results["tables"]["none"]
        assert level == [rows[0][score]["value"], rows[-1][score]["value"]]


def test_the_curve_that_panels_share_looks_the_same_in_all(drawn):
    shared = ("posterior", "mixture", "at random")
    lines = [curves_in(axes)[name] for (axes, _), name in zip(drawn(made()).values(), shared, strict=True)]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 1


def test_no_two_names_or_ticks_meet(drawn):
    from matplotlib.text import Text

    panels = drawn(made(rivals=[f"a_rival_with_a_long_name_{number}" for number in range(20)]))
    [figure] = {axes.figure for pair in panels.values() for axes in pair}
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in (*axes.texts, *axes.get_xticklabels(), axes.xaxis.label)]
    texts += [axes.yaxis.label for axes in figure.axes]
    boxes = [Text.get_window_extent(text) for text in texts if text.get_text()]
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=10))
@checked(max_examples=50)
def test_names_stay_in_order_in_the_panel_and_where_their_values_are_when_there_is_room(values):
    from micro_lit.report import curves

    places = curves._spread(values, 0.0, 1.0, 0.1)
    ordered = [place for _, place in sorted(zip(values, places, strict=True))]
    assert all(high - low > 0.1 - 1e-9 for low, high in itertools.pairwise(ordered))
    assert all(-1e-9 < place < 1.0 + 1e-9 for place in places)
    if all(high - low >= 0.1 for low, high in itertools.pairwise(sorted(values))):
        assert places == pytest.approx(values)


def test_two_equal_values_are_the_middle_of_their_names():
    from micro_lit.report import curves

    assert curves._spread([0.5, 0.2, 0.5], 0.0, 1.0, 0.1) == pytest.approx([0.45, 0.2, 0.55])


def test_a_curve_that_is_far_worse_than_a_coin_leaves_the_panel_and_its_name_says_where_to(drawn):
    results = made()
    worst = next(each for each in results["curves"] if each["candidate"] == "drm" and each["method"] == "posterior")
    worst["nll"][-1] = interval(3.0)
    accuracy, nll = drawn(results)["posterior: every candidate"]
    assert "drm (to 3.00)" in names_in(nll)
    assert "drm" in names_in(accuracy)
    assert nll.get_ylim()[1] < 1.2


@pytest.mark.parametrize(
    ("results", "replaced", "titles"),
    [
        ({"elicited": False}, {}, ["mixture: every method", "posterior: every candidate"]),
        ({"routed": False, "elicited": False}, {"routed": []}, ["mixture: every method", "posterior: every candidate"]),
        ({"rivals": (), "elicited": False}, {}, ["mixture: every method"]),
        (
            {"elicited": False},
            {"routed": ["drm", "mixture"]},
            ["drm: every method", "mixture: every method", "posterior: every candidate"],
        ),
    ],
)
def test_panels_are_there_when_there_is_something_to_show(results, replaced, titles, drawn):
    assert list(drawn(made(**results), **replaced)) == titles


def test_a_mixture_that_is_its_own_baseline_is_drawn(drawn):
    results = {**made(rivals=(), routed=False, elicited=False), "baseline": "mixture"}
    [(axes, _)] = drawn(results, routed=[]).values()
    assert names_in(axes)[-2:] == ["baseline mixture", "ORACLE attribute_bt"]


def test_a_dollar_in_a_name_is_no_equation(drawn, tmp_path):
    [figure] = {axes.figure for axes, _ in drawn(made(mixture=ODD), routed=[ODD]).values()}
    from micro_lit.report import figures

    _, svg = figures.save(figure, tmp_path)
    assert "$a$ | [b]*c*_d_ &lt;e&gt;: every method</text>" in svg.read_text()


# W&B


def test_wandb_offline_gets_three_tables_and_the_figure(spec):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    import wandb

    target = "micro_lit.track.WandbLogger"
    logger = {"wandb": {"_target_": target, "project": "micro_lit", "offline": True, "save_dir": "elsewhere"}}
    out = report.write_comparison(made(), spec(logger=logger))
    assert wandb.run is None
    [folder] = out.glob("wandb/offline-run-*")
    tables = {
        path.name.split("_")[0]: json.loads(path.read_text()) for path in folder.glob("files/media/table/compare/*")
    }
    assert sorted(tables) == ["criterion", "labels", "none"]
    assert tables["criterion"]["columns"][:4] == ["model", "adaptation", "K", "accuracy"]
    assert [row[0] for row in tables["criterion"]["data"]] == ["mixture", "CHECK: mixture"]
    assert [len(tables[name]["data"]) for name in ("none", "labels")] == [5, 10]
    [image] = folder.glob("files/media/images/compare/figure*.png")
    assert image.read_bytes() == (out / "figure.png").read_bytes()


def test_wandb_takes_a_table_without_rows(write):
    target = "micro_lit.track.WandbLogger"
    logger = {"wandb": {"_target_": target, "project": "micro_lit", "offline": True, "save_dir": "elsewhere"}}
    out = write(made(routed=False), logger=logger, routed=[])
    [criterion] = out.glob("wandb/offline-run-*/files/media/table/compare/criterion*.json")
    assert json.loads(criterion.read_text())["data"] == []


@pytest.mark.full
def test_every_file_is_written_whole_or_not_at_all(spec, tmp_path):
    assert_whole(lambda: report.write_comparison(made(), spec()), tmp_path)


def test_no_file_holds_a_secret(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "secret-of-the-environment")
    report.write_comparison(
        {**made(), "name": "of secret-of-the-environment"}, {**spec(), "name": "of secret-of-the-environment"}
    )
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"config.yaml", "compare.json", "figure.svg", "tables.md"}
    assert not [path for path in files if b"secret-of" in path.read_bytes()]
