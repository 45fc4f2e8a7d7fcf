"""Head cards: accuracy of each head of a mixture by attribute, its nearest head, differing pairs, and its weights.

Everything is computed from margins and weights, so every model and every adaptation can be shown. Accuracy is computed
as in all other reports. Heads are compared by the uncentred correlation of their margins, because the order (chosen,
rejected) fixes the sign. A standardised margin is divided by the root mean square of its head's margins.

Dimension letters: N pairs, K heads, A attributes, P prompts, C columns of a heat map.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from micro_lit.host.files import write_text
from micro_lit.likelihood import WINNER
from micro_lit.metrics import Estimate, estimate, scores
from micro_lit.report import figures, sheets, tables
from micro_lit.report.figures import DPI, Z
from micro_lit.report.sheets import DIVERGING, RISING, Scale
from micro_lit.report.texts import LONGEST_NAME, TEXT_PARTS, PairTexts, escaped, excerpt, shortened

Array = NDArray[np.float64]
Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

CARD_EXAMPLES = 3
WEIGHT_SLACK = 1e-5  # tolerance for rounding of float32 weights

ALL = "all pairs"
INTERVALS = "± is the widest 95 % interval of a head's accuracy, with pairs as independent units."
OUTLINES = (
    "Outlined: the most accurate head on each attribute, selected on these pairs (an oracle), and each head's nearest "
    "head.\nSimilar heads are neighbours."
)
ACCURACY, CORRELATION, WEIGHT = Scale(DIVERGING, 0.0, 1.0), Scale(DIVERGING, -1.0, 1.0), Scale(RISING, 0.0, 1.0)


def facts(
    margins_NK: Floats,
    attribute_N: Integers,
    attributes: Sequence[str],
    prompt_N: Integers,
    weights_AK: Mapping[str, Floats],
) -> dict[str, Any]:
    """Computes the content of the head cards.

    Args:
        margins_NK: reward of the chosen minus reward of the rejected response.
        attribute_N: index into `attributes` of each pair; -1 if unknown.
        attributes: names of attributes.
        prompt_N: code of the prompt of each pair, any integers.
        weights_AK: for each stage, such as before and after adaptation, the mean weight of each head on the pairs of
            each attribute; NaN for attributes without pairs.

    Returns:
        Plain JSON types. `pairs`: number of pairs. `attributes`: number of pairs by attribute. `order`: heads ordered
        by similarity. For each of `heads`:
        `accuracy`, and `accuracy_by` attribute: a tie counts one half; attributes without pairs are omitted;
        `margin_correlation` with every head; `nearest`: the other head with the highest correlation;
        `weights` by stage and attribute;
        `pairs`, at most one per prompt, with the largest difference between the standardised margin of the head
        (`own`) and the mean of the other heads (`others`);
        `prompts` with the largest mean `difference` over their `n` pairs; `pair` is the first of these pairs.
        For a single head `nearest` is None, and `pairs` and `prompts` are empty.

    Raises:
        ValueError: shapes do not match, margins are not finite, or weights are not from 0 to 1.
    """
    _check_facts(margins_NK, attribute_N, attributes, prompt_N, weights_AK)
    margins_NK = margins_NK.astype(np.float64)
    num_pairs, num_heads = margins_NK.shape
    correct_NK = scores(WINNER.log_prob(torch.from_numpy(margins_NK).flatten()))[:, 1].reshape(num_pairs, num_heads)
    standard_NK = margins_NK / np.sqrt(np.square(margins_NK).mean(axis=0)).clip(min=1e-12)
    correlation_KK = standard_NK.T @ standard_NK / num_pairs
    rows = {name: attribute_N == code for code, name in enumerate(attributes)}
    heads = [
        {
            "accuracy": _weighted_mean(correct_N),
            "accuracy_by": {name: _weighted_mean(correct_N[rows_N]) for name, rows_N in rows.items() if rows_N.any()},
            "margin_correlation": correlation_KK[head].tolist(),
            "nearest": None,
            "weights": {stage: _named_heads(weights[:, head], attributes) for stage, weights in weights_AK.items()},
            "pairs": [],
            "prompts": [],
        }
        for head, correct_N in enumerate(correct_NK.T)
    ]
    if num_heads > 1:
        _add_distinctive_pairs(heads, standard_NK, correlation_KK, prompt_N, [*attributes, None], attribute_N)
    return {
        "pairs": num_pairs,
        "attributes": {name: int(rows_N.sum()) for name, rows_N in rows.items()},
        "order": _head_order(correlation_KK, [card["accuracy"]["value"] for card in heads]),
        "heads": heads,
    }


def _add_distinctive_pairs(
    heads: Sequence[dict[str, Any]],
    standard_NK: Array,
    correlation_KK: Array,
    prompt_N: Integers,
    attributes: Sequence[str | None],
    attribute_N: Integers,
) -> None:
    """Adds to each card the nearest head, and the pairs and prompts on which the head differs most from the others."""
    num_heads = len(heads)
    others_NK = (standard_NK.sum(axis=1, keepdims=True) - standard_NK) / (num_heads - 1)
    difference_NK = np.abs(standard_NK - others_NK)
    for head, card in enumerate(heads):
        others = (other for other in range(num_heads) if other != head)
        card["nearest"] = max(others, key=correlation_KK[head].__getitem__)
        card["prompts"] = _furthest_prompts(difference_NK[:, head], prompt_N)
        card["pairs"] = [
            {
                "pair": int(row),
                "prompt": int(prompt_N[row]),
                "attribute": attributes[attribute_N[row]],
                "own": float(standard_NK[row, head]),
                "others": float(others_NK[row, head]),
            }
            for row in _furthest_pairs(difference_NK[:, head], prompt_N)
        ]


def write_cards(
    folder: Path, found: Mapping[str, Any], title: str, texts: Sequence[PairTexts] | None = None
) -> list[Path]:
    """Writes heads.png, heads.svg, heads.md and heads.json, deterministically; returns their paths in this order.

    Args:
        found: result of `facts`.
        texts: prompt, chosen and rejected response of every pair; None for vectors.
    """
    figure, page = draw_cards(found, title), cards_markdown(found, title, texts)
    pictures = figures.save(figure, folder, "heads", sheets.LOOKS)
    md, facts_json = (folder / f"heads.{suffix}" for suffix in ("md", "json"))
    write_text(md, page)
    write_text(facts_json, json.dumps(found, indent=2) + "\n")
    return [*pictures, md, facts_json]


def cards_markdown(found: Mapping[str, Any], title: str, texts: Sequence[PairTexts] | None = None) -> str:
    """Returns a Markdown page: accuracies with 95 % intervals, then for each head the pairs where it differs most.

    Args:
        found: result of `facts`.
        texts: prompt, chosen and rejected response of every pair; None for vectors.

    Raises:
        ValueError: the numbers of texts and pairs differ.
    """
    if texts is not None and len(texts) != found["pairs"]:
        raise ValueError(f"there are {len(texts)} texts for {found['pairs']} pairs; give one a pair, in the same order")
    parts = [
        f"# {escaped(title)}",
        "![Accuracy, margin correlation and weights of each head](heads.png)",
        f"Heads: {len(found['heads'])}, ordered by similarity. Pairs: {found['pairs']:,}. ± is a 95 % "
        "interval that takes pairs as independent. r is the correlation of two heads' margins about zero. A margin is "
        "given in units of the root mean square of its head's margins, positive where the head agrees with the label. "
        "Pairs and prompts have the numbers they have in the data.",
        tables.markdown(_table(found)).rstrip(),
    ]
    for number in found["order"]:
        card = found["heads"][number]
        parts += [f"## Head {number}", _summary(card)]
        if card["pairs"]:
            parts += ["It differs most from the other heads on these pairs:"]
            parts += ["\n".join(_pair_line(pair, texts) for pair in card["pairs"])]
            parts += ["and, in the mean over their pairs, on these prompts:"]
            parts += ["\n".join(_prompt_line(prompt, texts) for prompt in card["prompts"])]
    return "\n\n".join(parts) + "\n"


def draw_cards(found: Mapping[str, Any], title: str) -> Figure:
    """Draws heat maps with a row per head, in the same order: accuracy, margin correlation, weights of each stage.

    The most accurate head of each attribute (also in the weights) and the nearest head of each head are outlined.
    """
    order, attributes = found["order"], found["attributes"]
    cards = [found["heads"][number] for number in order]
    cells = [[card["accuracy"], *(card["accuracy_by"].get(name) for name in attributes)] for card in cards]
    accuracy_KC = np.array([[cell["value"] if cell else np.nan for cell in row] for row in cells])
    several = len(order) > 1
    best_KC = (accuracy_KC == np.fmax.reduce(accuracy_KC)) & several
    names = [shortened(name, LONGEST_NAME) for name in attributes]
    counted = [
        f"{name}\n{_count_note(column)}" for name, column in zip([ALL, *names], zip(*cells, strict=True), strict=True)
    ]
    with rc_context(sheets.LOOKS):
        figure = Figure(dpi=DPI)
        axes = _heat_map(figure, "Accuracy", accuracy_KC, order, counted, ACCURACY, best_KC)
        axes.axvline(1, color=sheets.PAPER, linewidth=4)
        panels = [[axes, sheets.colour_bar(axes)]]
        if several:
            correlation_KK = np.array([card["margin_correlation"] for card in cards])[:, order]
            nearest_KK = np.array([[card["nearest"] == number for number in order] for card in cards])
            axes = _heat_map(figure, "Margin correlation", correlation_KK, order, order, CORRELATION, nearest_KK)
            panels.append([axes, sheets.colour_bar(axes)])
        weights = []
        for stage in cards[0]["weights"] if attributes else ():
            weights_KA = np.array([list(card["weights"][stage].values()) for card in cards], dtype=np.float64)
            axes = _heat_map(figure, f"Weight, {stage}", weights_KA, order, names, WEIGHT, best_KC[:, 1:])
            weights.append([axes])
        if weights:
            weights[-1].append(sheets.colour_bar(axes))
        sheets.caption(figure, title, "\n".join([INTERVALS, OUTLINES] if several else [INTERVALS]))
        sheets.arrange(figure, [panels, weights])
    return figure


def _heat_map(
    figure: Figure,
    title: str,
    values_KC: Array,
    rows: Sequence[int],
    columns: Sequence[str | int],
    scale: Scale,
    outlined_KC: NDArray[np.bool_],
) -> Axes:
    """A heat map with a row per head, and a column per attribute (names rotated) or per head."""
    axes = sheets.heat_map(figure, title, values_KC, rows, columns, scale, outlined_KC)
    named = isinstance(columns[0], str)
    if named:
        axes.set_xticks(axes.get_xticks(), columns, rotation=90, multialignment="right")
    axes.set_xlabel("attribute" if named else "head")
    axes.set_ylabel("head")
    return axes


def _check_facts(
    margins_NK: Floats,
    attribute_N: Integers,
    attributes: Sequence[str],
    prompt_N: Integers,
    weights_AK: Mapping[str, Floats],
) -> None:
    if margins_NK.ndim != 2 or margins_NK.size == 0:
        raise ValueError(f"margins have shape {margins_NK.shape}; give a row a pair and a column a head, one at least")
    num_pairs, num_heads = margins_NK.shape
    bad_NK = ~np.isfinite(margins_NK)
    if bad_NK.any():
        row, head = np.argwhere(bad_NK)[0]
        raise ValueError(f"the margin of pair {row} is {margins_NK[row, head]} for head {head}; give finite numbers")
    for name, code_N in (("attributes", attribute_N), ("prompts", prompt_N)):
        if code_N.shape != (num_pairs,):
            raise ValueError(f"the {name} have shape {code_N.shape} for {num_pairs} pairs; give a code a pair")
    if len(set(attributes)) < len(attributes):
        raise ValueError(f"two of the attributes {list(attributes)} have one name; give each its own")
    bad_N = (attribute_N < -1) | (attribute_N >= len(attributes))
    if bad_N.any():
        row = int(bad_N.argmax())
        raise ValueError(f"pair {row} has attribute {attribute_N[row]} of {len(attributes)}; give -1 where unknown")
    for stage, weights in weights_AK.items():
        if weights.shape != (len(attributes), num_heads):
            raise ValueError(
                f"the weights {stage!r} have shape {weights.shape}; give a row each of the {len(attributes)} "
                f"attributes and a column each of the {num_heads} heads"
            )
        bad_AK = (weights < 0) | (weights > 1 + WEIGHT_SLACK)
        if bad_AK.any():
            row, head = np.argwhere(bad_AK)[0]
            raise ValueError(
                f"the weight {stage!r} of head {head} is {weights[row, head]} for {attributes[row]!r}; "
                "give weights from 0 to 1, not their logs"
            )


def _weighted_mean(values: torch.Tensor) -> Estimate:
    return estimate(values.sum(), values.square().sum(), torch.tensor(len(values)))


def _named_heads(weights_A: Floats, attributes: Sequence[str]) -> dict[str, float | None]:
    """Weights by attribute, with None for NaN, which JSON does not have."""
    pairs = zip(attributes, weights_A.tolist(), strict=True)
    return {name: None if np.isnan(weight) else weight for name, weight in pairs}


def _furthest_pairs(difference_N: Array, prompt_N: Integers) -> Integers:
    """Rows with the largest differences, at most one per prompt, in decreasing order."""
    order_N = np.argsort(-difference_N, kind="stable")
    _, firsts_P = np.unique(prompt_N[order_N], return_index=True)
    return order_N[np.sort(firsts_P)[:CARD_EXAMPLES]]


def _furthest_prompts(difference_N: Array, prompt_N: Integers) -> list[dict[str, Any]]:
    """Prompts with the largest mean difference, in decreasing order."""
    code_P, first_P, prompt_N, count_P = np.unique(prompt_N, return_index=True, return_inverse=True, return_counts=True)
    mean_P = np.bincount(prompt_N, weights=difference_N) / count_P
    return [
        {
            "prompt": int(code_P[row]),
            "pair": int(first_P[row]),
            "difference": float(mean_P[row]),
            "n": int(count_P[row]),
        }
        for row in np.argsort(-mean_P, kind="stable")[:CARD_EXAMPLES]
    ]


def _head_order(correlation_KK: Array, accuracy_K: Sequence[float]) -> list[int]:
    """Orders heads by similarity: leaves of average-linkage clustering, the more accurate end first.

    Subtrees are flipped to maximise the sum of correlations of neighbours (Bar-Joseph et al. 2001).
    """
    if len(accuracy_K) < 2:
        return [0]
    distance = squareform((1.0 - correlation_KK).clip(min=0.0), checks=False)
    order = leaves_list(optimal_leaf_ordering(linkage(distance, "average"), distance)).tolist()
    return order if accuracy_K[order[0]] >= accuracy_K[order[-1]] else order[::-1]


def _count_note(accuracies: Sequence[Mapping[str, float] | None]) -> str:
    """How many pairs an accuracy of each head is of, and how sure they are."""
    first, *_ = accuracies
    return "no pairs" if first is None else f"n = {first['n']:,}, ± {Z * max(each['se'] for each in accuracies):.3f}"


def _table(found: Mapping[str, Any]) -> pd.DataFrame:
    """A row a head: accuracy on all pairs and on those of each attribute, and the nearest head."""
    rows = []
    for number in found["order"]:
        card = found["heads"][number]
        row = {"head": str(number), ALL: _value_with_interval(card["accuracy"])}
        for name in found["attributes"]:
            cell = card["accuracy_by"].get(name)
            row[escaped(name)] = _value_with_interval(cell) if cell else "-"
        rows.append({**row, "nearest (r)": _nearest(card)})
    return pd.DataFrame(rows)


def _summary(card: Mapping[str, Any]) -> str:
    sentences = [f"Accuracy {_value_with_interval(card['accuracy'])}"]
    if len(card["accuracy_by"]) > 1:
        ordered = sorted(card["accuracy_by"].items(), key=lambda item: item[1]["value"])
        least, most = (f"{escaped(name)} ({_value_with_interval(cell)})" for name, cell in (ordered[0], ordered[-1]))
        sentences[0] += f", the highest on {most}, the lowest on {least}"
    if card["nearest"] is not None:
        sentences.append(f"Nearest head: {_nearest(card)}")
    for stage, weights in card["weights"].items():
        if known := {name: weight for name, weight in weights.items() if weight is not None}:
            most = max(known, key=known.__getitem__)
            sentences.append(f"Most weight, {escaped(stage)}: {known[most]:.2f} on {escaped(most)}")
    return "".join(f"{sentence}. " for sentence in sentences).rstrip()


def _pair_line(pair: Mapping[str, Any], texts: Sequence[PairTexts] | None) -> str:
    attribute = "" if pair["attribute"] is None else f", {escaped(pair['attribute'])}"
    margins = f"its margin {pair['own']:+.2f}, the others' mean {pair['others']:+.2f}"
    lines = [f"- pair {pair['pair']}, prompt {pair['prompt']}{attribute}: {margins}"]
    if texts is not None:
        named = zip(TEXT_PARTS, texts[pair["pair"]], strict=True)
        lines += [f"  - {name}: {excerpt(text)}" for name, text in named]
    return "\n".join(lines)


def _prompt_line(prompt: Mapping[str, Any], texts: Sequence[PairTexts] | None) -> str:
    text = "" if texts is None else f": {excerpt(texts[prompt['pair']][0])}"
    return f"- prompt {prompt['prompt']}, by {prompt['difference']:.2f} (n = {prompt['n']:,}){text}"


def _nearest(card: Mapping[str, Any]) -> str:
    nearest = card["nearest"]
    return "-" if nearest is None else f"{nearest} (r = {card['margin_correlation'][nearest]:.2f})"


def _value_with_interval(accuracy: Mapping[str, float]) -> str:
    return f"{accuracy['value']:.3f} ± {Z * accuracy['se']:.3f}"
