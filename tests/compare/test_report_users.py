"""Tests of `micro_lit.compare.report` on users: what is shown and drawn is what was measured."""

import csv
import itertools
import json
import runpy
import sys

import numpy as np
import pytest
import yaml
from full_disk import assert_whole
from markdown_it import MarkdownIt

import micro_lit.compare
from micro_lit.compare import report
from micro_lit.compare.diagnostics import BAYES
from micro_lit.compare.sections import DIAGNOSTIC, NOBODY, ORACLE, TITLES

FILES = ["compare.json", "curves.csv", "figure.png", "figure.svg", "systems.csv", "tables.md"]
PICTURES = ["figure.png", "figure.svg"]
SEEN, UNSEEN = [0, 1, 4, None], [0, 1, 4]
FLOOR, CEILING = "floor, person unknown", "ceiling, person unknown"
ODD = "$a$ | [b]*c*_d_ <e>"
SYSTEMS = (
    ("single_bt", "nothing", 1, 0.6, 0.6),
    ("mixture", "posterior", 8, 0.61, 0.66),
    ("mixture", "mixture_em", 8, 0.61, 0.65),
    ("tied", "its own", 4, 0.605, 0.75),
    ("vpl", "its own", 1, 0.60, 0.72),
)


def interval(value, half=0.02, sd=0.01):
    return {"value": value, "low": value - half, "high": value + half, "sd": sd}


def estimate(value, se=0.002):
    return {"value": value, "se": se}


def system(candidate, method, heads, start, end, points, raters, groups):
    """A row that rises from `start` to `end`; the baseline has accuracy 0.6."""
    values = np.linspace(start, end, points).tolist()
    row = {
        "candidate": candidate,
        "method": method,
        "heads": heads,
        "accuracy": [interval(value) for value in values],
        "accuracy_difference": [interval(value - 0.6, 0.02 * (method != "nothing")) for value in values],
        "nll": [interval(1.2 - value) for value in values],
        "nll_difference": [interval(0.6 - value, 0.02 * (method != "nothing")) for value in values],
    }
    if raters:
        row["shared_accuracy"] = [estimate(value + 0.02) for value in values]
        row["shared_brier"] = [estimate(0.5 - value / 2) for value in values]
        row["shared_above"] = [estimate(0.5 - value / 2 - 0.15) for value in values]
    if groups and heads > 1:
        row["matched"] = [interval(value - 0.1) for value in values]
    return row


def made(raters=True, groups="planted", unseen=True, systems=SYSTEMS, tied="tied"):
    """Results as a `Comparison` returns them. groups: of a planted population, of real data (`named`), or none."""
    regimes = {}
    for name, labels in (("seen", SEEN), *([("unseen", UNSEEN)] if unseen else [])):
        own = raters and name == "seen"
        rows = [
            system(tied if candidate == "tied" else candidate, *rest, len(labels), own, bool(groups))
            for candidate, *rest in systems
        ]
        regimes[name] = {
            "users": 1234 if name == "seen" else 56,
            "rows": 9876 if name == "seen" else 543,
            "labels": labels,
            "given": [0.0, 1.0, 3.5, 7.25][: len(labels)] if name == "seen" else [0.0, 1.0, 4.0],
            "systems": rows,
        }
        if own:
            names = ("agreement", "brier", "nll_lower", "nll_plug_in", "nll_upper", "accuracy_lower", "accuracy_upper")
            floors = dict(zip(names, (0.7, 0.15, 0.41, 0.42, 0.43, 0.74, 0.81), strict=True))
            regimes[name]["raters"] = {
                "rows": 4321, "pairs": 987, "floors": {key: estimate(value) for key, value in floors.items()},
            }  # fmt: skip
        if groups:
            regimes[name]["groups"] = {"users": 1200 if name == "seen" else 50, "sources": 1}
        if groups == "planted":
            regimes[name]["groups"]["oracle"] = [interval(value) for value in (0.25, 0.5, 0.9, 1.0)[: len(labels)]]
        if groups == "named":
            regimes[name]["groups"]["sources"] = 9
    return {
        "name": "made",
        "seed": 3,
        "baseline": "single_bt",
        "draws": 5,
        "resamples": 100,
        "rows_left": 1,
        "candidates": {candidate: {"run": f"runs/{candidate}", "heads": heads} for candidate, _, heads, *_ in systems},
        "left_out": {"rows of unknown users": 0, "unseen users with too few rows": 12, "rows of theirs": 34},
        "floors": {"oracle": 0.3, "marginal": 0.58} if groups == "planted" else {},
        "regimes": regimes,
        "seconds": 12.3,
    }


@pytest.fixture
def spec(settings, tmp_path):
    """Settings of the command; keyword arguments replace some."""
    composed = settings("candidates={single_bt: runs/a}", "baseline=single_bt", "subjects=user", config="compare")
    return lambda **replaced: {**composed, "out": str(tmp_path / "out"), **replaced}


@pytest.fixture
def write(spec, monkeypatch):
    """Writes results as the command does, but without the figure, which takes a second."""

    def make(results, **replaced):
        monkeypatch.setattr(report, "figure", None)
        return report.write_comparison(results, spec(**replaced))

    return make


def sections(page):
    """{heading: (paragraphs, tables)} of a Markdown page, as people see them."""
    found, kind, current = {}, None, ([], [])
    for token in MarkdownIt("commonmark").enable("table").parse(page):
        if token.type in ("heading_open", "paragraph_open", "table_open"):
            kind = token.type.removesuffix("_open")
            if kind == "table":
                current[1].append([])
        elif token.type == "tr_open":
            current[1][-1].append([])
        elif token.type == "inline":
            text = "".join("\n" if child.type == "softbreak" else child.content for child in token.children)
            if kind == "heading":
                current = found.setdefault(text, ([], []))
            else:
                (current[1][-1][-1] if kind == "table" else current[0]).append(text)
    return found


# Files


@pytest.mark.full
def test_all_files_are_written_and_named_and_the_same_for_the_same_results(spec, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    folder = report.write_comparison(made(), spec())
    assert folder == tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == f"wrote {folder}/ in 12 s: {', '.join(FILES)}"
    assert lines[-1] == "next: the same command with another seed and out, to see how much of this is luck"
    assert json.loads((folder / "compare.json").read_text()) == made()
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == spec()
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    report.write_comparison(made(), spec())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written


def test_curves_read_back_to_the_last_bit(write):
    results = made()
    folder = write(results)
    rows = list(csv.DictReader((folder / "curves.csv").read_text().splitlines()))
    expected = 0
    for regime, found in results["regimes"].items():
        for row in found["systems"]:
            mine = [
                each
                for each in rows
                if (each["regime"], each["candidate"], each["method"]) == (regime, row["candidate"], row["method"])
            ]
            expected += len(mine)
            assert [each["labels"] for each in mine] == [
                "all" if size is None else str(size) for size in found["labels"]
            ]
            assert [float(each["given"]) for each in mine] == found["given"]
            for key, points in row.items():
                if isinstance(points, list):
                    read = [{part: float(each[f"{key}.{part}"]) for part in points[0]} for each in mine]
                    assert read == points
            for key in ("matched", "shared_brier"):
                if key not in row:
                    assert {each[f"{key}.value"] for each in mine} == {""}
        oracle = [each for each in rows if each["regime"] == regime and each["candidate"] == "ORACLE: Bayes"]
        expected += len(oracle)
        assert [float(each["matched.value"]) for each in oracle] == [
            point["value"] for point in found["groups"]["oracle"]
        ]
        assert {each["accuracy.value"] for each in oracle} == {""}
    assert len(rows) == expected


def test_systems_are_the_last_points_of_the_curves(write):
    folder = write(made())
    systems, curves = (
        list(csv.DictReader((folder / name).read_text().splitlines())) for name in ("systems.csv", "curves.csv")
    )
    last = {(row["regime"], row["candidate"], row["method"]): row for row in curves}
    assert systems == list(last.values())


# Tables


def test_tables_show_every_system_the_best_at_the_most_labels_first(write):
    folder = write(made())
    found = sections((folder / "tables.md").read_text())
    assert list(found) == [
        "made", "Users seen in training", "Users never seen", "Pairs that several seen users judged",
        "Users whose head matches their group", "Columns",
    ]  # fmt: skip
    order = ["tied", "vpl", "mixture", "mixture", "single_bt"]
    for name, sizes in (("Users seen in training", ["0", "1", "4", "all"]), ("Users never seen", ["0", "1", "4"])):
        accuracy, nll = found[name][1]
        assert accuracy[0] == ["model", "adaptation", "K", *sizes, "difference", "NLL"]
        assert nll[0] == ["model", "adaptation", "K", *sizes, "difference"]
        assert [row[0] for row in accuracy[1:]] == [row[0] for row in nll[1:]] == order
        assert accuracy[1][1:4] == ["its own", "4", "0.605"]
        assert accuracy[1][-3:] == ["0.750", "+0.150 [+0.130, +0.170]*", "0.450"]
        assert accuracy[-1][-3:] == ["0.600", "baseline", "0.600"]
        assert nll[1][-2:] == ["0.450", "-0.150 [-0.170, -0.130]*"]


def test_pairs_of_several_raters_stand_beside_their_floor(write):
    folder = write(made())
    words, [rows] = sections((folder / "tables.md").read_text())["Pairs that several seen users judged"]
    assert rows[0][3:] == ["accuracy, 0", "accuracy, all", "Brier, 0", "Brier, all", "above floor"]
    assert rows[1] == ["tied", "its own", "4", "0.625", "0.770", "0.1975", "0.1250", "-0.0250 ± 0.0039"]
    assert "4,321 test rows of 987 pairs" in words[0]
    assert "at least 0.1500 ± 0.0039, an accuracy of at most 0.740 to 0.810" in words[0]
    assert "a model that knows the rater may be better" in words[0]


@pytest.mark.parametrize("groups", ["planted", "named"])
def test_the_right_group_is_told_by_heads_and_by_bayes_apart(groups, write):
    folder = write(made(groups=groups))
    words, [rivals, *apart] = sections((folder / "tables.md").read_text())["Users whose head matches their group"]
    assert rivals[0] == ["model", "adaptation", "K", "users", "0", "1", "4", "all"]
    assert [(row[0], row[3]) for row in rivals[1:]] == [
        (name, users) for users in ("seen", "unseen") for name in ("tied", "mixture", "mixture")
    ]
    assert [row[-1] for row in rivals[4:]] == ["-"] * 3
    assert "Share of 1,200 seen and 50 unseen users" in words[0]
    if groups == "planted":
        [oracle] = apart
        assert [row[:4] for row in oracle[1:]] == [
            ["ORACLE: Bayes", "true rewards", "-", users] for users in ("seen", "unseen")
        ]
        assert oracle[1][4:] == ["0.250", "0.500", "0.900", "1.000"]
        assert words[0].endswith(ORACLE)
    else:
        assert apart == []
        assert "this share within each of 9 sources;" in words[0]
        assert words[0].endswith(DIAGNOSTIC)


def test_facts_say_who_was_left_out_and_who_had_fewer_labels(write):
    found = sections((write(made()) / "tables.md").read_text())
    assert "Baseline: single_bt. Seed 3. Measured in 12 s." in found["made"][0][0]
    assert found["made"][0][1] == "Left out: 12 unseen users with too few rows, 34 rows of theirs."
    assert "Some have fewer: on average 3.5 at 4, 7.2 at all." in found["Users seen in training"][0][0]
    assert "Some have fewer" not in found["Users never seen"][0][0]


def test_users_of_a_kind_that_nobody_is_of_are_missed_in_words(write, capsys):
    found = sections((write(made(raters=False, groups=None, unseen=False)) / "tables.md").read_text())
    assert list(found) == ["made", "Users seen in training", "Users never seen", "Columns"]
    assert found["Users never seen"] == ([NOBODY["unseen"]], [])
    assert f"Users never seen\n{NOBODY['unseen']}\n" in capsys.readouterr().out


def test_without_any_user_all_but_the_figure_is_written(spec, capsys):
    folder = report.write_comparison({**made(), "regimes": {}}, spec())
    assert sorted(path.name for path in folder.iterdir()) == [name for name in FILES if name not in PICTURES]
    text = capsys.readouterr().out
    assert "no figure: nothing was measured over the number of labels" in text
    assert "next: the same command with a model of people among the candidates" in text


def test_names_are_shown_as_they_are(write, capsys):
    folder = write(made(tied=ODD))
    found = sections((folder / "tables.md").read_text())
    assert found["Users seen in training"][1][0][1][0] == ODD
    assert f" {ODD} " in capsys.readouterr().out


def test_tables_on_a_terminal_are_not_broken_by_usual_names(write, capsys):
    write(made())
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert all(row[0] for row in rows)
    assert max(len(line) for line in lines[:-2]) <= 120


def test_without_matplotlib_all_but_the_figure_comes(spec, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "micro_lit.compare.figure", raising=False)
    monkeypatch.delattr(micro_lit.compare, "figure", raising=False)
    folder = runpy.run_path(report.__file__)["write_comparison"](made(), spec())
    assert sorted(path.name for path in folder.iterdir()) == [name for name in FILES if name not in PICTURES]
    assert "no figure: matplotlib is not installed (pip install 'micro-lit[report]')" in capsys.readouterr().out
    assert "figure.png" not in (folder / "tables.md").read_text()


# Figure


def drawn(results):
    """{title: (left panel, right panel)}"""
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    figure = report.draw_figure(results, {"subjects": {}})
    pairs = zip(figure.axes[::2], figure.axes[1::2], strict=True)
    return {left.get_title(loc="left"): (left, right) for left, right in pairs}


def curves_in(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def level_of(axes, name):
    """The height of the line across the panel whose name this is."""
    levels = [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    named = [text.get_text() for text in axes.texts if text.get_text() not in curves_in(axes)]
    return dict(zip(named, levels, strict=False))[name]


def test_curves_and_lines_are_what_was_measured():
    results = made()
    panels = drawn(results)
    assert list(panels) == list(TITLES.values())
    keys = {
        "seen": ("accuracy", "nll"), "unseen": ("accuracy", "nll"), "shared": ("shared_accuracy", "shared_brier"),
    }  # fmt: skip
    for kind, scores in keys.items():
        found = results["regimes"]["seen" if kind == "shared" else kind]
        for axes, score in zip(panels[TITLES[kind]], scores, strict=True):
            lines = curves_in(axes)
            assert list(lines) == ["mixture, posterior", "mixture, mixture_em", "tied", "vpl"]
            for row, line in zip(found["systems"][1:], lines.values(), strict=True):
                assert list(line.get_xdata()) == list(range(len(found["labels"])))
                assert list(line.get_ydata()) == [point["value"] for point in row[score]]
            baseline = found["systems"][0][score][0]["value"]
            assert level_of(axes, "baseline single_bt") == baseline
            assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "4", "all"]
    assert level_of(panels[TITLES["seen"]][1], "F1 marginal") == 0.58
    assert level_of(panels[TITLES["shared"]][1], FLOOR) == 0.15
    for axes, regime in zip(panels[TITLES["matched"]], ("seen", "unseen"), strict=True):
        lines = curves_in(axes)
        assert list(lines) == ["mixture, posterior", "mixture, mixture_em", "tied", BAYES]
        oracle = results["regimes"][regime]["groups"]["oracle"]
        assert list(lines[BAYES].get_ydata()) == [point["value"] for point in oracle]
        assert axes.get_ylabel() == f"share of {regime} users"


def test_bands_are_the_ceiling_and_the_intervals_of_floor_and_of_models_of_people():
    accuracy, brier = drawn(made())[TITLES["shared"]]
    [ceiling] = accuracy.patches
    assert (ceiling.get_y(), ceiling.get_y() + ceiling.get_height()) == pytest.approx((0.74, 0.81))
    [floor] = brier.patches
    assert (floor.get_y(), floor.get_height()) == pytest.approx((0.15 - 1.96 * 0.002, 2 * 1.96 * 0.002))
    assert CEILING in [text.get_text() for text in accuracy.texts]
    for axes, half in ((accuracy, 1.96 * 0.002), (drawn(made())[TITLES["seen"]][0], 0.02)):
        tied, vpl = axes.collections
        assert np.ptp(tied.get_paths()[0].vertices[:, 1]) == pytest.approx(0.145 + 2 * half)
        assert np.ptp(vpl.get_paths()[0].vertices[:, 1]) == pytest.approx(0.12 + 2 * half)


def test_a_system_looks_the_same_in_all_panels():
    looks = {}
    for axes in itertools.chain(*drawn(made()).values()):
        for name, line in curves_in(axes).items():
            looks.setdefault(name, set()).add((line.get_color(), line.get_marker(), line.get_linestyle()))
    assert {len(look) for look in looks.values()} == {1}
    assert len({next(iter(look)) for look in looks.values()}) == len(looks)


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ({"raters": False, "groups": None}, ["seen", "unseen"]),
        ({"groups": "named", "unseen": False}, ["seen", "shared", "matched"]),
        ({"systems": SYSTEMS[:1]}, ["seen", "unseen", "shared"]),
    ],
)
def test_panels_are_there_when_there_is_something_to_show(changed, kinds):
    assert list(drawn(made(**changed))) == [TITLES[kind] for kind in kinds]


def test_a_mixture_that_is_its_own_baseline_is_drawn():
    axes, _ = drawn({**made(), "baseline": "mixture"})[TITLES["seen"]]
    assert list(curves_in(axes)) == ["single_bt", "mixture, posterior", "mixture, mixture_em", "tied", "vpl"]
    assert level_of(axes, "baseline mixture") == 0.61


def test_no_two_names_or_ticks_meet():
    from matplotlib.text import Text

    many = (*SYSTEMS, *((f"a_rival_with_a_long_name_{number}", "its own", 4, 0.6, 0.7) for number in range(12)))
    panels = drawn(made(systems=many))
    [figure] = {axes.figure for pair in panels.values() for axes in pair}
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in (*axes.texts, *axes.get_xticklabels(), axes.xaxis.label)]
    boxes = [Text.get_window_extent(text) for text in texts if text.get_text()]
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)


def test_a_dollar_in_a_name_is_no_equation(tmp_path):
    panels = drawn(made(tied=ODD))
    [figure] = {axes.figure for pair in panels.values() for axes in pair}
    from micro_lit.report import figures

    _, svg = figures.save(figure, tmp_path)
    assert "$a$ | [b]*c*_d_ &lt;e&gt;</text>" in svg.read_text()


# W&B


@pytest.mark.full
def test_wandb_offline_gets_the_tables_and_the_figure(spec):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    import wandb

    target = "micro_lit.track.WandbLogger"
    logger = {"wandb": {"_target_": target, "project": "micro_lit", "offline": True, "save_dir": "elsewhere"}}
    out = report.write_comparison(made(), spec(logger=logger))
    assert wandb.run is None
    [folder] = out.glob("wandb/offline-run-*")
    tables = {
        path.name.rsplit("_", 2)[0]: json.loads(path.read_text()) for path in folder.glob("files/media/table/compare/*")
    }
    assert sorted(tables) == [
        "matched_share", "seen_accuracy", "seen_nll", "shared_brier", "unseen_accuracy", "unseen_nll",
    ]  # fmt: skip
    assert tables["seen_accuracy"]["columns"][:4] == ["model", "adaptation", "K", "0"]
    assert [row[0] for row in tables["matched_share"]["data"]][-2:] == ["ORACLE: Bayes"] * 2
    [image] = folder.glob("files/media/images/compare/figure*.png")
    assert image.read_bytes() == (out / "figure.png").read_bytes()


@pytest.mark.full
def test_every_file_is_written_whole_or_not_at_all(spec, tmp_path):
    assert_whole(lambda: report.write_comparison(made(), spec()), tmp_path)
