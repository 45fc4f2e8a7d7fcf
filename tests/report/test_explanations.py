"""Tests of `micro_lit.report.explanations`: identities, facts by hand; what is drawn is read back."""

import html
import itertools
import json
import re

import numpy as np
import pytest
from full_disk import assert_whole
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from scipy.special import logsumexp

from micro_lit import adapt
from micro_lit.report import explanations
from micro_lit.report.explanations import evidence, explain

seeds = st.integers(0, 2**32 - 1)


def names_of(num_heads):
    return [f"head {head}" for head in range(num_heads)]


def made(targets=("ada", "bob"), num_heads=4, labels=12, seed=0, rule=adapt.posterior):
    """Arguments of `explain`; weights after are those of the adaptation."""
    generator = np.random.default_rng(seed)
    target_L = np.repeat(np.arange(len(targets)), labels)
    margins_LK = generator.normal(0.2, 1.0, (len(target_L), num_heads))
    before_UK = generator.dirichlet(np.ones(num_heads), len(targets))
    return {
        "margins_LK": margins_LK,
        "target_L": target_L,
        "before_UK": before_UK,
        "after_UK": rule(margins_LK, target_L, before_UK),
        "targets": list(targets),
        "heads": names_of(num_heads),
        "pair_L": 100 + np.arange(len(target_L)),
        "adaptation": f"{rule.__name__}, {labels} labels",
        "texts": [(f"Prompt {row}?", f"Chosen of {row}.", f"Rejected of {row}.") for row in range(len(target_L))],
    }


def as_vectors(inputs):
    return {**inputs, "texts": None}


def readapted(inputs, rule=adapt.posterior):
    return {**inputs, "after_UK": rule(*(inputs[name] for name in ("margins_LK", "target_L", "before_UK")))}


# Evidence


@given(seeds, st.integers(1, 6), st.integers(1, 30), st.floats(0.1, 20.0))
def test_the_posterior_changes_log_weights_by_the_evidence_less_a_normaliser(seed, num_heads, labels, strength):
    generator = np.random.default_rng(seed)
    margins_LK, user_L = generator.normal(0, strength, (labels, num_heads)), np.zeros(labels, dtype=int)
    before_1K = generator.dirichlet(np.ones(num_heads), 1)
    total_K = evidence(margins_LK, before_1K[user_L]).sum(axis=0)
    expected_K = np.log(before_1K[0]) + total_K - logsumexp(total_K, b=before_1K[0])
    after_K = adapt.posterior(margins_LK, user_L, before_1K)[0]
    np.testing.assert_allclose(after_K, np.exp(expected_K), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("rule", "nats"), [(adapt.hedge, 12 * 0.1), (adapt.hyre, 1.0)])
def test_hedge_and_hyre_move_the_odds_of_two_heads_by_the_difference_of_their_evidence(rule, nats):
    inputs = made(rule=rule)
    start_UK = inputs["before_UK"] if rule is adapt.hedge else np.full((2, 4), 1 / 4)
    moved_UK = np.log(inputs["after_UK"]) - np.log(start_UK)
    for code, target in enumerate(explain(**inputs)["targets"].values()):
        total_K = np.array(list(target["evidence"].values())) / nats
        np.testing.assert_allclose(np.diff(moved_UK[code]), np.diff(total_K))


@given(seeds, st.integers(1, 6), st.floats(0.0, 30.0))
def test_no_label_argues_for_all_heads_nor_for_one_without_bound(seed, num_heads, strength):
    """Under the weights before, exp(evidence) has mean 1; nothing can be more probable than by one over a weight."""
    generator = np.random.default_rng(seed)
    before_LK = generator.dirichlet(np.ones(num_heads), 20)
    evidence_LK = evidence(generator.normal(0, strength, (20, num_heads)), before_LK)
    np.testing.assert_allclose((before_LK * np.exp(evidence_LK)).sum(axis=1), 1.0)
    assert (evidence_LK <= -np.log(before_LK) + 1e-9).all()


def test_heads_that_say_the_same_have_no_evidence():
    margins_LK = np.array([[3.0, 3.0], [-2.0, -2.0]])
    np.testing.assert_allclose(evidence(margins_LK, np.full((2, 2), 0.5)), 0.0, atol=1e-15)
    np.testing.assert_allclose(evidence(margins_LK[:, :1], np.ones((2, 1))), 0.0, atol=1e-15)


# Facts


def test_facts_are_those_by_hand():
    """Two heads of weight one half; the first finds the labels of ada as probable as .8, .5, .2 and .8, the other as
    .2, .5, .8 and .2: the first's evidence is log 1.6, 0, log .4, log 1.6, and the odds move to 4."""
    probability_L = np.array([0.8, 0.5, 0.2, 0.8])
    margin_L = np.log(probability_L / (1 - probability_L))
    margins_LK = np.vstack([np.stack([margin_L, -margin_L], axis=1), [[1.0, 1.0]]])
    target_L, before_UK = np.array([0, 0, 0, 0, 1]), np.full((2, 2), 0.5)
    after_UK = np.array([[0.8, 0.2], [0.5, 0.5]])
    np.testing.assert_allclose(adapt.posterior(margins_LK, target_L, before_UK), after_UK)
    found = explain(
        margins_LK, target_L, before_UK, after_UK, ["ada", "bob"], ["one", "other"], 10 * np.arange(5), "posterior"
    )
    more, less = np.log([1.6, 0.4])
    ada, bob = found["targets"].values()
    assert (ada["labels"], bob["labels"]) == (4, 1)
    assert ada["kl"] == pytest.approx(0.8 * np.log(1.6) + 0.2 * np.log(0.4))
    assert ada["total_variation"] == pytest.approx(0.3)
    assert (ada["before"], ada["after"]) == ({"one": 0.5, "other": 0.5}, {"one": 0.8, "other": 0.2})
    assert ada["evidence"] == pytest.approx({"one": 2 * more + less, "other": 2 * less + more})
    [first] = ada["gained"]
    assert (first["head"], first["change"]) == ("one", pytest.approx(0.3))
    assert first["nats"] == pytest.approx([more, 0.0, less, more], abs=1e-12)
    assert [(pair["pair"], pair["nats"]) for pair in first["against"]] == [(20, pytest.approx(less))]
    assert [(pair["pair"], pair["nats"]) for pair in first["for"]] == [
        (0, pytest.approx(more)),
        (30, pytest.approx(more)),
    ]
    assert (first["num_for"], first["num_against"]) == (2, 1)
    assert ada["lost"] == [{"head": "other", "change": pytest.approx(-0.3)}]
    assert (bob["kl"], bob["total_variation"], bob["gained"], bob["lost"]) == (0.0, 0.0, [], [])
    assert found["heads"] == {
        "one": {"rose": {"ada": pytest.approx(0.3)}, "fell": {}},
        "other": {"rose": {}, "fell": {"ada": pytest.approx(-0.3)}},
    }


@given(seeds)
@settings(max_examples=25)
def test_opposite_labels_move_a_head_as_the_labels_moved_its_opposite(seed):
    """Heads 2 and 3 are heads 0 and 1 with their sign changed, and as probable before."""
    inputs = made(num_heads=2, seed=seed)
    opposite = [2, 3, 0, 1]
    inputs["margins_LK"] = np.hstack([inputs["margins_LK"], -inputs["margins_LK"]])
    inputs["before_UK"] = np.tile(inputs["before_UK"] / 2, 2)
    inputs["heads"] = names_of(4)
    found = explain(**readapted(inputs))
    flipped = explain(**readapted({**inputs, "margins_LK": -inputs["margins_LK"]}))
    for one, other in zip(found["targets"].values(), flipped["targets"].values(), strict=True):
        assert other["kl"] == pytest.approx(one["kl"])
        for side in ("gained", "lost"):
            assert [head["head"] for head in other[side]] == [
                f"head {opposite[int(head['head'][-1])]}" for head in one[side]
            ]
        for head, flipped_head in zip(one["gained"], other["gained"], strict=True):
            assert flipped_head["nats"] == pytest.approx(head["nats"])


@given(st.permutations(range(4)), seeds)
@example([0, 2, 3, 1], 128)
@settings(max_examples=25)
def test_permuting_heads_permutes_the_facts(places, seed):
    """Facts name heads, so that they are the same but for the order in which heads are listed."""
    inputs = made(seed=seed)
    permuted = {name: inputs[name][:, places] for name in ("margins_LK", "before_UK", "after_UK")}
    found = explain(**{**inputs, **permuted, "heads": [f"head {place}" for place in places]})
    assert list(found["heads"]) == [f"head {place}" for place in places]
    assert_alike(found, explain(**inputs))


def assert_alike(found, expected):
    """The same facts but for the last bits of numbers: sums over heads depend on their order there."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, fact in expected.items():
            assert_alike(found[name], fact)
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-10) if isinstance(expected, float) else expected)


def test_the_order_of_labels_does_not_matter_but_to_the_list_of_their_evidence():
    inputs, order_L = made(), np.random.default_rng(1).permutation(24)
    columns = {name: inputs[name][order_L] for name in ("margins_LK", "target_L", "pair_L")}
    found, shuffled = (
        explain(**each) for each in (inputs, {**inputs, **columns, "texts": [inputs["texts"][row] for row in order_L]})
    )
    for code, (one, other) in enumerate(zip(*(each["targets"].values() for each in (found, shuffled)), strict=True)):
        place_L = [row - 12 * code for row in order_L if row // 12 == code]
        for head, other_head in zip(one["gained"], other["gained"], strict=True):
            assert other_head["nats"] == [head["nats"][place] for place in place_L]
            assert (other_head["for"], other_head["against"]) == (head["for"], head["against"])


def test_the_pairs_named_are_those_of_most_evidence():
    found = explain(**made(labels=20))
    for code, target in enumerate(found["targets"].values()):
        for head in target["gained"]:
            ranked = sorted(((nats, 100 + 20 * code + row) for row, nats in enumerate(head["nats"])), reverse=True)
            assert [(pair["nats"], pair["pair"]) for pair in head["for"]] == ranked[:3]
            assert [(pair["nats"], pair["pair"]) for pair in head["against"]] == ranked[:-4:-1]
            for pair in (*head["for"], *head["against"]):
                row = pair["pair"] - 100
                assert (pair["prompt"], pair["chosen"]) == (f"Prompt {row}?", f"Chosen of {row}.")
                assert pair["rejected"] == f"Rejected of {row}."


def test_a_target_without_labels_did_not_move():
    inputs = made(targets=("ada", "bob", "eve"))
    kept_L = inputs["target_L"] != 1
    rows = {name: inputs[name][kept_L] for name in ("margins_LK", "target_L", "pair_L")}
    found = explain(**as_vectors(readapted({**inputs, **rows})))
    bob = found["targets"]["bob"]
    assert (bob["labels"], bob["kl"], bob["total_variation"]) == (0, 0.0, 0.0)
    assert bob["before"] == bob["after"]
    assert set(bob["evidence"].values()) == {0.0}
    assert bob["gained"] == bob["lost"] == []
    assert not any("bob" in moves for head in found["heads"].values() for moves in head.values())
    assert found["targets"]["ada"] == explain(**as_vectors(inputs))["targets"]["ada"]


def test_a_dead_head_stays_dead_and_says_nothing_of_the_others():
    """The labels are the most probable under it, and it still has no weight to gain."""
    inputs = made()
    inputs["margins_LK"][:, 1], inputs["before_UK"][:, 1] = 9.0, 0.0
    inputs["before_UK"] /= inputs["before_UK"].sum(axis=1, keepdims=True)
    found = explain(**readapted(inputs))
    assert found["heads"]["head 1"] == {"rose": {}, "fell": {}}
    alive = {name: np.delete(inputs[name], 1, axis=1) for name in ("margins_LK", "before_UK")}
    without = explain(**readapted({**inputs, **alive, "heads": ["head 0", "head 2", "head 3"]}))
    for target, other in zip(found["targets"].values(), without["targets"].values(), strict=True):
        assert target["before"]["head 1"] == target["after"]["head 1"] == 0.0
        for name in ("kl", "total_variation"):
            assert target[name] == pytest.approx(other[name])
        assert_alike(target["gained"], other["gained"])


def test_for_each_head_are_listed_those_for_whom_it_moved_the_furthest_first():
    found = explain(**made(targets=[f"user {number}" for number in range(9)]))
    for name, head in found["heads"].items():
        changes = {target: facts["after"][name] - facts["before"][name] for target, facts in found["targets"].items()}
        assert head["rose"] == {target: change for target, change in changes.items() if change >= 5e-4}
        assert head["fell"] == {target: change for target, change in changes.items() if change <= -5e-4}
        for moves in head.values():
            assert list(moves.values()) == sorted(moves.values(), key=abs, reverse=True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("margins_LK", np.zeros((24, 3)), r"margins have shape \(24, 3\)"),
        ("target_L", np.full(24, 2), "labelled pair 0 is of user 2"),
        ("before_UK", np.full((2, 4), 0.5), "the prior of user 0 sums to 2.0"),
        ("after_UK", np.full((2, 4), -0.25), "the prior of user 0 is -0.25"),
        ("after_UK", np.full((3, 4), 0.25), r"shape \(2, 4\) before and \(3, 4\) after"),
        ("before_UK", np.tile([0.0, 0.5, 0.25, 0.25], (2, 1)), "head 0 of target 0 has no weight before and 0.*after"),
        ("targets", ["ada"], r"2 targets are named \['ada'\]; give each a name"),
        ("targets", ["ada", "ada"], "2 targets are named"),
        ("heads", ["one", "two", "three"], "4 heads are named"),
        ("pair_L", np.arange(3), "there are 3 numbers for 24 labelled pairs"),
        ("texts", [("a", "b", "c")], "there are 1 texts for 24 labelled pairs"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(name, value, message):
    with pytest.raises(ValueError, match=message):
        explain(**{**made(), name: value})


# Page


def page_of(found, title="A title"):
    return explanations.explanations_markdown(found, title, with_figure=True)


def test_the_page_says_for_each_target_what_moved_and_why():
    found = explain(**made())
    page = page_of(found)
    assert page.startswith("# A title\n\n![Change of weights, and the evidence of every label](explanations.png)\n")
    assert "Weights before and after posterior, 12 labels. " in page
    _, *sections = page.split("\n## ")
    for section, (name, target) in zip(sections, found["targets"].items(), strict=True):
        assert section.startswith(f"{name}\n")
        rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| head ")]
        moved = [*target["gained"], *target["lost"][::-1]]
        assert [row[0] for row in rows[1:]] == [head["head"] for head in moved]
        for row, head in zip(rows[1:], moved, strict=True):
            values = [target[column][head["head"]] for column in ("before", "after")]
            assert [float(cell) for cell in row[1:4]] == pytest.approx([*values, head["change"]], abs=5.01e-4)
            assert float(row[4]) == pytest.approx(target["evidence"][head["head"]], abs=5.01e-3)
        first = target["gained"][0]
        counts = [sum(nats > 0 for nats in first["nats"]), sum(nats < 0 for nats in first["nats"])]
        words = "Of 12 labels {} argue for {}, which gained {:.3f}, and {} against it: {:+.2f} nats together."
        assert words.format(counts[0], first["head"], first["change"], counts[1], sum(first["nats"])) in section
        for pair in (*first["for"], *first["against"]):
            texts = [f"  - {part}: {pair[part]}" for part in ("prompt", "chosen", "rejected")]
            assert "\n".join([f"- pair {pair['pair']}, {pair['nats']:+.2f} nats", *texts]) in section


def test_pairs_are_shown_for_heads_that_gained_a_quarter_or_most():
    found = explain(**as_vectors(made(num_heads=4)))
    ada = found["targets"]["ada"]
    ada["total_variation"] = 1.0
    for change, head in zip((0.24, 0.23, 0.1), ada["gained"], strict=False):
        head["change"] = change
    assert page_of(found).split("\n## ")[1].count("Of 12 labels") == 1
    ada["gained"].append({**ada["gained"][0], "change": 0.25})
    assert page_of(found).split("\n## ")[1].count("Of 12 labels") == 2


def test_the_page_of_vectors_has_numbers_alone():
    page = page_of(explain(**as_vectors(made())))
    assert "prompt:" not in page
    assert re.search(r"- pair 1\d\d, \+\d\.\d\d nats\n- pair", page)


def test_no_text_nor_name_breaks_the_page():
    nasty = "a | b\n\n| c |\n# d\n- *e* <b>f</b> `g` [h](i) $j$"
    inputs = made(targets=(nasty, "bob\n## eve"))
    inputs["texts"] = [(nasty, f"{nasty} {row}", "x" * 5000) for row in range(24)]
    found = explain(**inputs)
    tokens = MarkdownIt("commonmark").enable("table").parse(page_of(found, nasty))
    flat = " ".join(nasty.split())
    headings = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert len(headings) == 3
    rendered = html.unescape(MarkdownIt("commonmark").enable("table").render(page_of(found, nasty)))
    assert [line for line in rendered.splitlines() if line.startswith("<h")] == [
        f"<h1>{flat}</h1>", f"<h2>{flat}</h2>", "<h2>bob ## eve</h2>",
    ]  # fmt: skip
    assert sum(token.type == "table_open" for token in tokens) == 4
    widths = [
        sum(token.type in ("td_open", "th_open") for token in row)
        for is_end, row in itertools.groupby(tokens, lambda token: token.type == "tr_close")
        if not is_end
    ]
    assert set(widths[:-1]) == {6, 3, 5}
    for pair in found["targets"][nasty]["gained"][0]["for"]:
        assert f"<li>prompt: {flat}</li>" in rendered
        assert f"<li>chosen: {flat} {pair['pair'] - 100}</li>" in rendered
    assert "x" * 241 not in rendered
    assert "x … x" in rendered


def test_where_nothing_moved_the_page_says_so():
    inputs = made()
    page = page_of(explain(**{**inputs, "after_UK": inputs["before_UK"]}))
    assert page.count("12 labels, and no weight moved.") == 2
    nobody = {"margins_LK": np.zeros((0, 4)), "target_L": np.zeros(0, dtype=int), "pair_L": np.zeros(0, dtype=int)}
    moved = explain(**{**inputs, **nobody, "texts": [], "after_UK": np.full((2, 4), 0.25)})
    assert page_of(moved).count("and no label asked for it.") >= 2


# Picture


@pytest.fixture
def draw():
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    return explanations.draw_explanations


def panels_of(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def numbers_of(axes):
    rows, columns = len(axes.get_yticks()), len(axes.get_xticks())
    return np.array([float(text.get_text().replace("−", "-")) for text in axes.texts]).reshape(rows, columns)


def test_the_picture_shows_the_facts(draw):
    found = explain(**made(targets=("ada", "bob", "eve"), labels=10))
    change, moved, argued = panels_of(draw(found, "A title")).values()
    targets = found["targets"].values()
    expected_UK = [[target["after"][head] - target["before"][head] for head in found["heads"]] for target in targets]
    np.testing.assert_allclose(change.collections[0].get_array(), expected_UK)
    np.testing.assert_allclose(numbers_of(change), expected_UK, atol=0.00501)
    assert [label.get_text() for label in change.get_xticklabels()] == list("0123")
    rows = [label.get_text() for label in change.get_yticklabels()]
    assert rows == [f"{name}\n10 labels" for name in found["targets"]]
    firsts = [target["gained"][0] for target in targets]
    outlined = {(int(patch.get_y()), int(patch.get_x())) for patch in change.patches}
    assert outlined == {(row, int(first["head"][-1])) for row, first in enumerate(firsts)}
    assert [bar.get_width() for bar in moved.patches] == pytest.approx([target["kl"] for target in targets])
    assert [text.get_text() for text in moved.texts] == [f"{target['kl']:.2f}" for target in targets]
    rows_a_nat = []
    for row, (bars, first, text) in enumerate(zip(argued.collections, firsts, argued.texts, strict=True)):
        from_L, to_L = np.array(bars.get_segments())[:, :, 1].T
        nats = np.sort(first["nats"])[::-1]
        rows_a_nat += ((from_L - to_L) / nats).tolist()
        assert row < min(from_L.min(), to_L.min())
        assert max(from_L.max(), to_L.max()) < row + 1
        words = f"{nats.sum():+.1f} nats\n{first['num_for']} for, {first['num_against']} against"
        assert text.get_text() == f"{first['head']}: {words}".replace("-", "−")
    assert rows_a_nat == pytest.approx([rows_a_nat[0]] * 30)


def test_of_many_heads_those_that_moved_most_are_shown_and_the_rest_together(draw):
    found = explain(**made(num_heads=40, labels=30))
    change, *_ = panels_of(draw(found, "A title")).values()
    names = [label.get_text() for label in change.get_xticklabels()]
    assert len(names) == 12
    assert names[-1] == "29\nothers"
    shown = [f"head {name}" for name in names[:-1]]
    np.testing.assert_allclose(change.collections[0].get_array().sum(axis=1), 0.0, atol=1e-12)
    most = {
        name: max(abs(target["after"][name] - target["before"][name]) for target in found["targets"].values())
        for name in found["heads"]
    }
    assert min(most[name] for name in shown) >= max(most[name] for name in found["heads"] if name not in shown)
    assert shown == [name for name in found["heads"] if name in shown]


LONG = ["narrative and storytelling quality above all", "concise", "_$x^2$_ | [a]\nb"]


@pytest.mark.parametrize(("num_heads", "targets"), [(1, ["ada"]), (9, ["ada"]), (8, LONG), (40, [*"abcdefghijkl"])])
def test_no_text_meets_another_and_nothing_is_cut_off(draw, num_heads, targets):
    inputs = made(targets, num_heads)
    if num_heads == 9:
        inputs["heads"][0] = "as trained"
    figure = draw(explain(**inputs), "Whose weights moved")
    figure.draw_without_rendering()
    page = figure.bbox
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [text.get_window_extent() for text in figure.texts]
    for box in boxes:
        assert min(box.x0, box.y0) > 0
        assert box.x1 < page.x1
        assert box.y1 < page.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    change, moved, argued = panels_of(figure).values()
    for axes in (moved, argued):
        assert axes.get_ylim() == change.get_ylim()
        assert axes.get_window_extent().y0 == pytest.approx(change.get_window_extent().y0)
        assert axes.get_window_extent().y1 == pytest.approx(change.get_window_extent().y1)
    for ticks in (change.get_xticklabels(), change.get_yticklabels()):
        shown = [label.get_window_extent() for label in ticks]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(shown, 2))


def test_where_nothing_moved_the_picture_says_so(draw):
    inputs = made()
    *_, argued = panels_of(draw(explain(**{**inputs, "after_UK": inputs["before_UK"]}), "A title")).values()
    assert [text.get_text() for text in argued.texts] == ["no weight moved"] * 2


# Files


def test_the_same_facts_are_the_same_files(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    files = []
    for number in range(2):
        found = explain(**made())
        paths = explanations.write_explanations(tmp_path / "new" / str(number), found, "A title")
        assert [path.name for path in paths] == [f"explanations.{suffix}" for suffix in ("png", "svg", "md", "json")]
        files.append([path.read_bytes() for path in paths])
    assert files[0] == files[1]
    png, _, page, facts_json = files[0]
    assert png.startswith(b"\x89PNG")
    assert b"(explanations.png)" in page
    assert json.loads(facts_json, parse_constant=pytest.fail) == found


def test_facts_as_read_back_are_shown_alike(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    _, svg, page, facts_json = explanations.write_explanations(tmp_path, explain(**made()), "A title")
    _, svg_again, page_again, _ = explanations.write_explanations(
        tmp_path / "again", json.loads(facts_json.read_text()), "A title"
    )
    assert svg_again.read_bytes() == svg.read_bytes()
    assert page_again.read_text() == page.read_text()


def test_without_matplotlib_all_but_the_picture_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(explanations, "sheets", None)
    page, facts_json = explanations.write_explanations(tmp_path, explain(**made()), "A title")
    assert "png" not in page.read_text()
    assert json.loads(facts_json.read_text())["targets"].keys() == {"ada", "bob"}
    assert len(list(tmp_path.iterdir())) == 2


def test_every_file_is_written_whole_or_not_at_all(tmp_path):
    found = explain(**made())
    assert_whole(lambda: explanations.write_explanations(tmp_path, found, "A title"), tmp_path)
