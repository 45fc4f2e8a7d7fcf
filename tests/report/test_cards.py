"""Tests of `micro_lit.report.cards`: facts by hand and by other means; what is drawn is read back."""

import itertools
import json
import re

import numpy as np
import pytest
import torch
from full_disk import assert_whole
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

pytest.importorskip("matplotlib", reason="the extra report is not installed")

from matplotlib.colors import to_hex, to_rgb

from micro_lit.metrics import HeadMetrics, PreferenceMetrics
from micro_lit.report import cards, sheets

LONG = ["narrative and storytelling quality", "concise", "pedagogical effectiveness above all", "_$x^2$_ | [a]"]


def made(num_heads=4, attributes=("concise", "formal"), num_pairs=120, seed=0, stages=("before", "after 50 labels")):
    """Inputs of `facts`: a fifth of the attributes unknown, about four pairs a prompt, weights that sum to one."""
    generator = np.random.default_rng(seed)
    attributes = list(attributes)
    shape = (len(attributes), num_heads)
    return {
        "margins_NK": generator.normal(0.3, 1.0, (num_pairs, num_heads)),
        "attribute_N": np.where(
            generator.random(num_pairs) < 0.2, -1, generator.integers(-1, len(attributes), num_pairs)
        ),
        "attributes": attributes,
        "prompt_N": generator.integers(0, max(1, num_pairs // 4), num_pairs),
        "weights_AK": {stage: generator.dirichlet(np.ones(num_heads), shape[0]).reshape(shape) for stage in stages},
    }


def texts_of(inputs):
    rows = enumerate(inputs["prompt_N"])
    return [(f"Prompt {prompt}?", f"Chosen of {row}.", f"Rejected of {row}.") for row, prompt in rows]


# Facts


def test_facts_are_those_by_hand():
    """Root mean squares 2, 1, 4: the standardised margins are those of `standard`, of which most follows by eye."""
    standard = np.array([[1, 1, 1], [1, 1, -1], [-1, -1, -1], [1, 1, 1], [0, 1, -1], [2**0.5, -1, 1]])
    found = cards.facts(
        standard * [2.0, 1.0, 4.0],
        np.array([0, 0, 0, 1, 1, -1]),
        ["concise", "formal", "playful"],
        np.array([7, 7, 7, 8, 8, 9]),
        {"before": np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [np.nan] * 3])},
    )
    assert found["pairs"] == 6
    assert found["attributes"] == {"concise": 3, "formal": 2, "playful": 0}
    first, second, _ = found["heads"]
    # Right on 1, 1, 0, 1, a tie, 1: squares of the distances from 3/4 sum to 7/8, a fifth of it over six pairs.
    assert first["accuracy"] == {"value": 0.75, "se": pytest.approx((7 / 8 / 5 / 6) ** 0.5), "n": 6}
    assert first["accuracy_by"] == {
        "concise": {"value": pytest.approx(2 / 3), "se": pytest.approx(1 / 3), "n": 3},
        "formal": {"value": 0.75, "se": pytest.approx(0.25), "n": 2},
    }
    root = 2**0.5
    assert first["margin_correlation"] == pytest.approx([1, (4 - root) / 6, (2 + root) / 6])
    assert second["margin_correlation"] == pytest.approx([(4 - root) / 6, 1, 0])
    assert [head["nearest"] for head in found["heads"]] == [2, 0, 0]
    assert second["weights"] == {"before": {"concise": 0.3, "formal": 0.3, "playful": None}}
    # The second head differs from the mean of the others by 0, 1, 0 | 0, 3/2 | 1 + (1 + √2)/2, prompt by prompt.
    assert second["pairs"] == [
        {"pair": 5, "prompt": 9, "attribute": None, "own": -1.0, "others": pytest.approx((1 + root) / 2)},
        {"pair": 4, "prompt": 8, "attribute": "formal", "own": 1.0, "others": pytest.approx(-0.5)},
        {"pair": 1, "prompt": 7, "attribute": "concise", "own": 1.0, "others": pytest.approx(0.0)},
    ]
    assert second["prompts"] == [
        {"prompt": 9, "pair": 5, "difference": pytest.approx(1.5 + root / 2), "n": 1},
        {"prompt": 8, "pair": 3, "difference": pytest.approx(0.75), "n": 2},
        {"prompt": 7, "pair": 0, "difference": pytest.approx(1 / 3), "n": 3},
    ]


def test_accuracies_and_correlations_are_those_of_the_other_reports():
    inputs = made()
    inputs["margins_NK"][:10] = 0.0
    found = cards.facts(**inputs)
    margins_NK, attribute_N = (torch.from_numpy(inputs[name]) for name in ("margins_NK", "attribute_N"))
    log_weights = torch.full_like(margins_NK, 0.25).log()
    agreement = HeadMetrics(4)
    agreement.update(margins_NK, log_weights, log_weights, torch.full_like(attribute_N, -1))
    expected = agreement.compute()["margin_correlation"]
    for number, head in enumerate(found["heads"]):
        assert head["margin_correlation"] == pytest.approx(expected[number])
        for cells, codes in (([head["accuracy"]], None), (head["accuracy_by"].values(), attribute_N)):
            metrics = PreferenceMetrics(len(cells))
            metrics.update(torch.nn.functional.logsigmoid(margins_NK[:, number]), cell_B=codes)
            for cell, scores in zip(cells, metrics.compute(), strict=True):
                assert cell == pytest.approx({key: scores["accuracy"][key] for key in cell})


def test_a_tie_counts_one_half():
    inputs = made()
    inputs["margins_NK"][:] = 0.0
    for head in cards.facts(**inputs)["heads"]:
        assert head["accuracy"] == {"value": 0.5, "se": 0.0, "n": 120}
        assert {cell["value"] for cell in head["accuracy_by"].values()} == {0.5}
        assert head["margin_correlation"] == [0.0] * 4


@given(st.permutations(range(5)), st.integers(0, 3))
@settings(max_examples=25)
def test_permuting_heads_permutes_the_facts(places, seed):
    """New head `number` is the old head `places[number]`."""
    inputs = made(5, seed=seed)
    found = cards.facts(**inputs)
    permuted = cards.facts(
        **{
            **inputs,
            "margins_NK": inputs["margins_NK"][:, places],
            "weights_AK": {stage: weights[:, places] for stage, weights in inputs["weights_AK"].items()},
        }
    )
    assert [places[number] for number in permuted["order"]] == found["order"]
    for number, head in enumerate(permuted["heads"]):
        old = found["heads"][places[number]]
        assert places[head["nearest"]] == old["nearest"]
        assert head["margin_correlation"] == pytest.approx([old["margin_correlation"][place] for place in places])
        for pair, old_pair in zip(head["pairs"], old["pairs"], strict=True):
            assert pair == pytest.approx(old_pair)
        for name in ("accuracy", "accuracy_by", "weights"):
            assert head[name] == old[name]
        assert [prompt["prompt"] for prompt in head["prompts"]] == [prompt["prompt"] for prompt in old["prompts"]]


def test_the_scale_of_a_heads_rewards_does_not_matter():
    inputs = made()
    found = cards.facts(**inputs)
    scaled = cards.facts(**{**inputs, "margins_NK": inputs["margins_NK"] * [1.0, 8.0, 0.25, 1024.0]})
    assert scaled == found


def test_swapping_chosen_and_rejected_turns_accuracies_and_margins_over():
    inputs = made()
    found = cards.facts(**inputs)
    swapped = cards.facts(**{**inputs, "margins_NK": -inputs["margins_NK"]})
    for head, old in zip(swapped["heads"], found["heads"], strict=True):
        assert head["accuracy"]["value"] == pytest.approx(1 - old["accuracy"]["value"])
        assert (head["nearest"], head["margin_correlation"]) == (old["nearest"], old["margin_correlation"])
        assert [(pair["pair"], pair["own"]) for pair in head["pairs"]] == [
            (pair["pair"], -pair["own"]) for pair in old["pairs"]
        ]


@given(st.integers(0, 1000))
@settings(max_examples=25)
def test_a_head_differs_most_where_no_other_pair_or_prompt_does_more(seed):
    inputs = made(3, num_pairs=20, seed=seed)
    margins_NK, prompt_N = inputs["margins_NK"], inputs["prompt_N"].tolist()
    standard_NK = margins_NK / np.sqrt((margins_NK**2).mean(axis=0))
    for number, head in enumerate(cards.facts(**inputs)["heads"]):
        others = [other for other in range(3) if other != number]
        difference_N = np.abs(standard_NK[:, number] - standard_NK[:, others].mean(axis=1)).tolist()
        by_prompt: dict[int, list[tuple[float, int]]] = {}
        for row, (prompt, difference) in enumerate(zip(prompt_N, difference_N, strict=True)):
            by_prompt.setdefault(prompt, []).append((difference, row))
        most = sorted((max(rows) for rows in by_prompt.values()), reverse=True)
        assert [pair["pair"] for pair in head["pairs"]] == [row for _, row in most[:3]]
        means = sorted(((float(np.mean([d for d, _ in rows])), p) for p, rows in by_prompt.items()), reverse=True)
        assert [prompt["prompt"] for prompt in head["prompts"]] == [prompt for _, prompt in means[:3]]
        assert [prompt["difference"] for prompt in head["prompts"]] == pytest.approx([mean for mean, _ in means[:3]])


def test_two_heads_differ_on_the_same_pairs_and_are_nearest_to_each_other():
    first, second = cards.facts(**made(2))["heads"]
    assert (first["nearest"], second["nearest"]) == (1, 0)
    assert [pair["pair"] for pair in first["pairs"]] == [pair["pair"] for pair in second["pairs"]]
    assert [pair["own"] for pair in first["pairs"]] == pytest.approx([pair["others"] for pair in second["pairs"]])


def test_heads_that_are_alike_stand_together_and_the_more_accurate_end_is_first():
    """Three tastes: heads 0, 3; 1, 4; 2, 5. Taste 0 opposes taste 1 and is always right."""
    generator = np.random.default_rng(0)
    taste_N = np.abs(generator.normal(size=400))
    tastes = np.stack([taste_N, -taste_N, generator.normal(size=400)], axis=1)
    margins_NK = np.tile(tastes, 2) + generator.normal(0, 0.1, (400, 6))
    inputs = made(6, num_pairs=400)
    order = cards.facts(**{**inputs, "margins_NK": margins_NK})["order"]
    assert [set(order[start : start + 2]) for start in (0, 2, 4)] == [{0, 3}, {2, 5}, {1, 4}]


def test_attributes_may_be_unknown_or_have_no_pairs():
    inputs = made(attributes=["concise", "formal"])
    inputs["attribute_N"][:] = -1
    found = cards.facts(**inputs)
    assert found["attributes"] == {"concise": 0, "formal": 0}
    assert [head["accuracy_by"] for head in found["heads"]] == [{}] * 4
    assert {pair["attribute"] for head in found["heads"] for pair in head["pairs"]} == {None}
    assert found["heads"][0]["accuracy"]["n"] == 120


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("margins_NK", np.zeros((0, 4)), r"margins have shape \(0, 4\); give a row a pair"),
        ("margins_NK", np.zeros((120, 0)), "a column a head, one at least"),
        ("margins_NK", np.where(np.arange(480).reshape(120, 4) == 9, np.inf, 0.0), "pair 2 is inf for head 1"),
        ("attribute_N", np.zeros(3, dtype=int), r"attributes have shape \(3,\) for 120 pairs"),
        ("prompt_N", np.zeros(3, dtype=int), r"prompts have shape \(3,\) for 120 pairs"),
        ("attribute_N", np.arange(120) - 1, "pair 3 has attribute 2 of 2; give -1"),
        ("attributes", ["concise", "concise"], "have one name"),
        ("weights_AK", {"router": np.zeros((4, 2))}, r"'router' have shape \(4, 2\); give a row each of the 2"),
        ("weights_AK", {"router": np.full((2, 4), -1.4)}, "'router' of head 0 is -1.4 for 'concise'.*not their logs"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(name, value, message):
    with pytest.raises(ValueError, match=message):
        cards.facts(**{**made(), name: value})


# Picture


def panels_of(figure):
    """The heat maps by their titles, in the order they were drawn."""
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def numbers_of(axes):
    """What is written in the cells, as rows from the top; NaN where nothing is."""
    columns, rows = len(axes.get_xticks()), len(axes.get_yticks())
    written = np.full((rows, columns), np.nan)
    for text in axes.texts:
        column, row = (int(place) for place in text.get_position())
        written[row, column] = float(text.get_text().replace("−", "-"))
    return written


def outlined_in(axes):
    return {(int(patch.get_y()), int(patch.get_x())) for patch in axes.patches}


def labels(ticks):
    return [label.get_text() for label in ticks]


def test_cells_are_the_facts_with_one_order_of_heads():
    found = cards.facts(**made())
    figure = cards.draw_cards(found, "mixture_k4")
    assert figure.get_suptitle() == "mixture_k4"
    panels = panels_of(figure)
    assert list(panels) == ["Accuracy", "Margin correlation", "Weight, before", "Weight, after 50 labels"]
    heads = [found["heads"][number] for number in found["order"]]
    expected = {
        "Accuracy": [
            [head["accuracy"]["value"], *(cell["value"] for cell in head["accuracy_by"].values())] for head in heads
        ],
        "Margin correlation": [[head["margin_correlation"][number] for number in found["order"]] for head in heads],
        "Weight, before": [list(head["weights"]["before"].values()) for head in heads],
        "Weight, after 50 labels": [list(head["weights"]["after 50 labels"].values()) for head in heads],
    }
    for title, axes in panels.items():
        np.testing.assert_allclose(numbers_of(axes), expected[title], atol=0.00501)
        np.testing.assert_allclose(axes.collections[0].get_array(), expected[title])
        assert labels(axes.get_yticklabels()) == [str(number) for number in found["order"]]
        assert axes.get_ylabel() == "head"
        assert axes.get_xlabel() == ("head" if title == "Margin correlation" else "attribute")
        top, bottom = (axes.transData.transform((0, row))[1] for row in (0, 4))
        assert top > bottom
    n = found["attributes"]
    first, concise, formal = labels(panels["Accuracy"].get_xticklabels())
    assert re.fullmatch(r"all pairs\nn = 120, ± 0\.\d{3}", first)
    assert concise.startswith(f"concise\nn = {n['concise']}, ± ")
    widest = max(head["accuracy_by"]["formal"]["se"] for head in heads)
    assert formal == f"formal\nn = {n['formal']}, ± {1.96 * widest:.3f}"
    assert labels(panels["Margin correlation"].get_xticklabels()) == [str(number) for number in found["order"]]
    assert labels(panels["Weight, before"].get_xticklabels()) == ["concise", "formal"]


def test_colours_of_a_quantity_mean_the_same_everywhere():
    """One half, no correlation and no weight are pale; a bar says so beside accuracy, correlation and the weights."""
    figure = cards.draw_cards(cards.facts(**made()), "title")
    limits = {title: axes.collections[0].get_clim() for title, axes in panels_of(figure).items()}
    assert limits == {
        "Accuracy": (0, 1),
        "Margin correlation": (-1, 1),
        "Weight, before": (0, 1),
        "Weight, after 50 labels": (0, 1),
    }
    bars = [axes for axes in figure.axes if not axes.get_title(loc="left")]
    assert [list(bar.get_yticks()) for bar in bars] == [[0, 0.5, 1], [-1, 0, 1], [0, 0.5, 1]]
    for scale, value in ((cards.ACCURACY, 0.5), (cards.CORRELATION, 0.0), (cards.WEIGHT, 0.0)):
        assert luminance(scale.colours((value - scale.low) / (scale.high - scale.low))) > 0.9


def test_the_best_head_of_an_attribute_and_the_nearest_of_a_head_are_outlined():
    inputs = made()
    inputs["margins_NK"][inputs["attribute_N"] == 1, 2] = 1.0
    inputs["margins_NK"][inputs["attribute_N"] == 1, 3] = 2.0
    found = cards.facts(**inputs)
    panels = panels_of(cards.draw_cards(found, "title"))
    place = {number: row for row, number in enumerate(found["order"])}
    tied = {(place[2], 2), (place[3], 2)}
    accuracy = outlined_in(panels["Accuracy"])
    assert {cell for cell in accuracy if cell[1] == 2} == tied
    assert {column for _, column in accuracy} == {0, 1, 2}
    shifted = {(row, column - 1) for row, column in accuracy if column > 0}
    assert outlined_in(panels["Weight, before"]) == outlined_in(panels["Weight, after 50 labels"]) == shifted
    nearest = {(place[number], place[head["nearest"]]) for number, head in enumerate(found["heads"])}
    assert outlined_in(panels["Margin correlation"]) == nearest


def test_an_attribute_without_pairs_is_an_empty_column():
    inputs = made(attributes=["concise", "formal", "playful"])
    inputs["attribute_N"][inputs["attribute_N"] == 1] = -1
    for weights in inputs["weights_AK"].values():
        weights[1] = np.nan
    panels = panels_of(cards.draw_cards(cards.facts(**inputs), "title"))
    assert labels(panels["Accuracy"].get_xticklabels())[2] == "formal\nno pairs"
    for axes, column in ((panels["Accuracy"], 2), (panels["Weight, before"], 1)):
        empty = np.isnan(numbers_of(axes))
        assert empty[:, column].all()
        assert not np.delete(empty, column, axis=1).any()
        assert column not in {cell[1] for cell in outlined_in(axes)}


def test_without_attributes_or_stages_or_other_heads_their_panels_are_not_there():
    assert list(panels_of(cards.draw_cards(cards.facts(**made(stages=())), "t"))) == ["Accuracy", "Margin correlation"]
    nameless = panels_of(cards.draw_cards(cards.facts(**made(attributes=())), "t"))
    assert list(nameless) == ["Accuracy", "Margin correlation"]
    assert numbers_of(nameless["Accuracy"]).shape == (4, 1)
    found = cards.facts(**made(1))
    assert found["order"] == [0]
    assert found["heads"][0]["nearest"] is None
    assert found["heads"][0]["pairs"] == found["heads"][0]["prompts"] == []
    single = panels_of(cards.draw_cards(found, "t"))
    assert list(single) == ["Accuracy", "Weight, before", "Weight, after 50 labels"]
    assert not any(outlined_in(axes) for axes in single.values())


SHEETS = [(1, ["concise"]), (3, ["concise", "formal"]), (8, LONG), (16, [f"{LONG[0]} {number}" for number in range(9)])]


@pytest.mark.parametrize(("num_heads", "attributes"), SHEETS)
def test_no_text_meets_another_and_nothing_is_cut_off(num_heads, attributes):
    figure = cards.draw_cards(cards.facts(**made(num_heads, attributes)), "The heads of a mixture, and who weighs them")
    figure.draw_without_rendering()
    page = figure.bbox
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [text.get_window_extent() for text in figure.texts]
    for box in boxes:
        assert min(box.x0, box.y0) > 0
        assert box.x1 < page.x1
        assert box.y1 < page.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for axes in figure.axes:
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            shown = [label.get_window_extent() for label in ticks]
            assert not any(one.overlaps(other) for one, other in itertools.combinations(shown, 2))
    for axes in panels_of(figure).values():
        cell = axes.get_window_extent().size / (len(axes.get_xticks()), len(axes.get_yticks()))
        np.testing.assert_allclose(cell / figure.dpi, sheets.CELL)
        assert all((text.get_window_extent().size < cell - 4).all() for text in axes.texts)


def test_a_long_sheet_continues_below():
    """Weights stand beside the other panels where they fit, else all below."""

    def tops(num_heads, attributes):
        panels = panels_of(cards.draw_cards(cards.facts(**made(num_heads, attributes)), "title"))
        return [round(axes.get_position().y1, 6) for axes in panels.values()]

    assert len(set(tops(3, ["concise", "formal"]))) == 1
    accuracy, correlation, before, after = tops(2, [str(number) for number in range(15)])
    assert accuracy == correlation > before == after


def luminance(colour):
    """Relative luminance of WCAG 2."""
    parts = np.array(colour[:3])
    return np.where(parts > 0.04045, ((parts + 0.055) / 1.055) ** 2.4, parts / 12.92) @ [0.2126, 0.7152, 0.0722]


def test_every_number_can_be_read_on_its_colour():
    found = cards.facts(**made(6, [str(number) for number in range(4)], num_pairs=40))
    for axes in panels_of(cards.draw_cards(found, "title")).values():
        colours = axes.collections[0].to_rgba(axes.collections[0].get_array())
        for text in axes.texts:
            column, row = (int(place) for place in text.get_position())
            dark, light = sorted((luminance(colours[row, column]), luminance(to_rgb(text.get_color()))))
            assert (light + 0.05) / (dark + 0.05) > 3.9


def test_colours_are_in_order_for_eyes_that_see_no_hue():
    """Weights darken as they grow; accuracy and correlation as they leave the middle, in hues all eyes tell apart."""
    rising, diverging = (
        [luminance(colours(place)) for place in np.linspace(0, 1, 101)] for colours in (sheets.RISING, sheets.DIVERGING)
    )
    assert (np.diff(rising) < 0).all()
    assert (np.diff(diverging[:50]) > 0).all()
    assert (np.diff(diverging[51:]) < 0).all()
    assert [to_hex(sheets.DIVERGING(end)).upper() for end in (0.0, 1.0)] == ["#D55E00", "#0072B2"]


# Page


def test_the_page_says_for_each_head_what_it_is_and_where_it_differs():
    inputs = made(attributes=["concise", "a|b*"])
    found, texts = cards.facts(**inputs), texts_of(inputs)
    page = cards.cards_markdown(found, "mixture_k4", texts)
    sections = page.split("\n## Head ")
    assert [section.split("\n")[0] for section in sections[1:]] == [str(number) for number in found["order"]]
    rendered = MarkdownIt("commonmark").enable("table").render(page)
    table = re.findall("<t[dh]>(.*?)</t[dh]>", rendered)
    assert table[:5] == ["head", "all pairs", "concise", "a|b*", "nearest (r)"]
    for section, number in zip(sections[1:], found["order"], strict=True):
        head = found["heads"][number]
        accuracy = f"{head['accuracy']['value']:.3f} ± {1.96 * head['accuracy']['se']:.3f}"
        nearest = f"{head['nearest']} (r = {head['margin_correlation'][head['nearest']]:.2f})"
        assert f"Accuracy {accuracy}, the highest on " in section
        assert f"Nearest head: {nearest}." in section
        row = table.index(str(number), 5)
        assert (table[row + 1], table[row + 4]) == (accuracy, nearest)
        for pair in head["pairs"]:
            prompt, chosen, rejected = texts[pair["pair"]]
            margins = f"its margin {pair['own']:+.2f}, the others' mean {pair['others']:+.2f}"
            assert f"{margins}\n  - prompt: {prompt}\n  - chosen: {chosen}\n  - rejected: {rejected}" in section
        for prompt in head["prompts"]:
            named = f"- prompt {prompt['prompt']}, by {prompt['difference']:.2f} (n = {prompt['n']}): "
            assert f"{named}Prompt {prompt['prompt']}?" in section
        weights = head["weights"]["after 50 labels"]
        most = max(weights, key=weights.get)
        assert f"Most weight, after 50 labels: {weights[most]:.2f} on {most.replace('*', chr(92) + '*')}." in section


def test_the_page_of_vectors_has_numbers_alone():
    found = cards.facts(**made())
    page = cards.cards_markdown(found, "vectors")
    assert "prompt:" not in page
    assert page.count("- pair ") == page.count("- prompt ") == 12
    lines = page.split("\n")
    assert all(line.endswith(")") for line in lines if line.startswith("- prompt "))


def test_texts_of_other_pairs_are_refused():
    inputs = made()
    with pytest.raises(ValueError, match="there are 119 texts for 120 pairs; give one a pair"):
        cards.cards_markdown(cards.facts(**inputs), "title", texts_of(inputs)[1:])


@pytest.mark.parametrize("attributes", [[], ["concise"], ["concise", "formal"]])
def test_a_page_needs_neither_attributes_nor_known_ones_nor_other_heads(attributes):
    inputs = made(1, attributes)
    inputs["attribute_N"][:] = -1
    for weights in inputs["weights_AK"].values():
        weights[:] = np.nan
    page = cards.cards_markdown(cards.facts(**inputs), "single BT", texts_of(inputs))
    assert "Most weight" not in page
    assert "highest" not in page
    assert "Nearest" not in page
    assert page.count("\n| 0 | ") == 1


# Files


def test_the_same_facts_are_the_same_files(tmp_path):
    inputs = made(attributes=LONG)
    files = []
    for number in range(2):
        found = cards.facts(**inputs)
        paths = cards.write_cards(tmp_path / "new" / str(number), found, "A title", texts_of(inputs))
        assert [path.name for path in paths] == ["heads.png", "heads.svg", "heads.md", "heads.json"]
        files.append([path.read_bytes() for path in paths])
    assert files[0] == files[1]
    png, svg, page, facts_json = files[0]
    assert png.startswith(b"\x89PNG")
    assert b"A title" in svg
    assert b"(heads.png)" in page
    assert json.loads(facts_json, parse_constant=pytest.fail) == found


def test_facts_as_read_back_are_drawn_alike(tmp_path):
    found = cards.facts(**made())
    _, svg, page, facts_json = cards.write_cards(tmp_path, found, "A title")
    again = json.loads(facts_json.read_text())
    _, svg_again, page_again, _ = cards.write_cards(tmp_path / "again", again, "A title")
    assert svg_again.read_bytes() == svg.read_bytes()
    assert page_again.read_text() == page.read_text()


def test_every_file_is_written_whole_or_not_at_all(tmp_path):
    found = cards.facts(**made())
    assert_whole(lambda: cards.write_cards(tmp_path, found, "A title"), tmp_path)
