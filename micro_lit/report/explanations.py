"""Explanations of adaptation: which head weights changed for which target, and which labelled pairs were evidence.

A target has weights of its own: an attribute, or a person. Everything is computed from labelled margins and weights, so
every adaptation can be explained  [evaluated with people, for a sparse gate: arXiv 2606.04284].

Dimension letters: L labelled pairs, U targets, K heads, C columns of a heat map.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import kl_div, logsumexp

from micro_lit.adapt import labels
from micro_lit.adapt.labels import Array, Floats, Integers
from micro_lit.host.files import write_text
from micro_lit.report import tables
from micro_lit.report.texts import LONGEST_NAME, TEXT_PARTS, PairTexts, excerpt, shortened

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from micro_lit.report import figures, sheets
    from micro_lit.report.figures import DPI, FLOOR_COLOUR
except ImportError:  # the extra `report` is not installed: everything but the figure is written
    figures, sheets, Axes, Figure = None, None, Any, Any

Facts = Mapping[str, Any]

EXAMPLES = 3  # pairs shown for a head, and as many against it
MOST_MOVED = 3  # heads listed that gained most, and as many that lost most
LEAST_MOVE = 5e-4  # smaller changes are rounded to .000 in tables
ROUNDING = 1e-9  # nats: smaller evidence counts neither for nor against
SHARE = 0.25  # of all moved weight: heads that gained less get no pairs on the page, except the first
LISTED_PAIRS = 4  # targets listed per head in a table
MOST_COLUMNS = 12  # heads in the figure; further heads, those that changed least, share the last column

CELL_WIDTH, ROWS_HEIGHT, ROW_HEIGHT = 0.48, 1.1, 0.55  # inches: cell width, least total height, least row height
MOVED_WIDTH, EVIDENCE_WIDTH = 0.8, 3.8  # inches
FILLED = 0.8  # share of the row height that the longest bars up and down use

INTRODUCTION = (
    "Weights before and after {adaptation}. Moved: KL(after ‖ before), in nats. Weight that moved: sum of the gains of "
    "all heads. The evidence of a label for a head is its log-probability under the head minus that under the mixture "
    "with the weights before, in nats. The posterior (temperature 1) changes the log weight of a head by the evidence "
    "of all labels, minus one number that all heads share: a head gains if it has more evidence than the rest, even if "
    "it is below 0. Pairs have the numbers they have in the data."
)
NOTE = (
    "After {adaptation}. Outlined: the head that gained most. Moved: KL(after ‖ before).\n"
    "A bar is one label. Blue: more probable under this head than under the mixture before, by up to {most:.2f} nats.\n"
    "Vermilion: less probable, by up to {least:.2f} nats."
)


def evidence(margins_LK: Floats, before_LK: Floats) -> Array:
    """Returns the evidence of each label for each head, in nats: e_ik = log σ(Δ_k) - log Σ_j w_j σ(Δ_j), [L, K].

    Under w, exp(evidence) has mean 1 for every label. So no label is evidence for all heads, and the evidence for
    head k is at most -log w_k. Summed over the labels of a target it is the change of a head's log weight by
    `adaptation.posterior` at temperature 1, up to a normaliser shared by all heads:

        log w'_k - log w_k = Σ_i e_ik - log Σ_j w_j exp(Σ_i e_ij).

    HyRe starts from equal weights instead, and Hedge divides the sum by n·tau. There, too, the odds of two heads change
    by the difference of their evidence.

    Args:
        margins_LK: reward of the chosen minus reward of the rejected response.
        before_LK: w, the weights of the target of each label before adaptation.
    """
    log_prob_LK = -labels.losses(margins_LK)
    return log_prob_LK - logsumexp(log_prob_LK, b=before_LK, axis=1, keepdims=True)


def explain(
    margins_LK: Floats,
    target_L: Integers,
    before_UK: Floats,
    after_UK: Floats,
    targets: Sequence[str],
    heads: Sequence[str],
    pair_L: Integers,
    adaptation: str,
    texts: Sequence[PairTexts] | None = None,
) -> dict[str, Any]:
    """Explains changes of weights by the evidence of labelled pairs.

    Args:
        margins_LK: reward of the chosen minus reward of the rejected response of every labelled pair.
        target_L: target of each label, as an index into `targets`.
        before_UK, after_UK: weights before and after adaptation; rows sum to one.
        targets, heads: names of targets and heads.
        pair_L: index of each pair in the data, for reference.
        adaptation: description of the adaptation, for captions.
        texts: prompt, chosen and rejected response of every pair; None for vectors.

    Returns:
        Plain JSON types. `targets`, by name: number of `labels`; change of weights as `kl` (nats) and
        `total_variation`; by head the weights `before` and `after`, and the `evidence` summed over labels, in nats;
        heads that `gained` and `lost` most. Each gaining head has the evidence of each label (`nats`), counts
        `num_for` and `num_against`, and the pairs with most evidence `for` and `against` it. `heads`, by name: the
        targets for which its weight `rose` or `fell`, with the change. Changes below `LEAST_MOVE` are ignored.

    Raises:
        ValueError: shapes or names do not match, or a weight rises from 0.
    """
    _check_inputs(margins_LK, target_L, before_UK, after_UK, targets, heads, pair_L, texts)
    before_UK, after_UK = before_UK.astype(np.float64), after_UK.astype(np.float64)
    evidence_LK = evidence(margins_LK, before_UK[target_L])
    change_UK = after_UK - before_UK
    pairs = [{"pair": number} for number in pair_L.tolist()]
    if texts is not None:
        pairs = [pair | dict(zip(TEXT_PARTS, shown, strict=True)) for pair, shown in zip(pairs, texts, strict=True)]
    found = {}
    for code, target in enumerate(targets):
        own_L = np.flatnonzero(target_L == code)
        own = [pairs[row] for row in own_L]
        found[target] = _of_target(before_UK[code], after_UK[code], evidence_LK[own_L], own, heads)
    by_head = {name: _moves(change_UK[:, head], targets) for head, name in enumerate(heads)}
    return {"adaptation": adaptation, "heads": by_head, "targets": found}


def _of_target(
    before_K: Array, after_K: Array, evidence_LK: Array, pairs: Sequence[Facts], heads: Sequence[str]
) -> dict[str, Any]:
    """The facts of one target, from the evidence of its labelled pairs."""
    change_K = after_K - before_K
    order_K = np.argsort(-change_K, kind="stable")
    gained = [head for head in order_K if change_K[head] >= LEAST_MOVE][:MOST_MOVED]
    lost = [head for head in order_K[::-1] if change_K[head] <= -LEAST_MOVE][:MOST_MOVED]
    return {
        "labels": len(pairs),
        "kl": float(kl_div(after_K, before_K).sum()),
        "total_variation": float(np.abs(change_K).sum() / 2),
        "before": _named_targets(before_K, heads),
        "after": _named_targets(after_K, heads),
        "evidence": _named_targets(evidence_LK.sum(axis=0), heads),
        "gained": [
            {"head": heads[head], "change": float(change_K[head]), **_arguments(evidence_LK[:, head].tolist(), pairs)}
            for head in gained
        ],
        "lost": [{"head": heads[head], "change": float(change_K[head])} for head in lost],
    }


def write_explanations(folder: Path, found: Facts, title: str) -> list[Path]:
    """Writes explanations.md and explanations.json, and with matplotlib a .png and .svg, deterministically.

    Args:
        found: result of `explain`.

    Returns:
        The paths, those of pictures first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = figures.save(draw_explanations(found, title), folder, "explanations", sheets.LOOKS) if sheets else []
    page, facts_json = (folder / f"explanations.{suffix}" for suffix in ("md", "json"))
    write_text(page, explanations_markdown(found, title, with_figure=bool(pictures)))
    write_text(facts_json, json.dumps(found, indent=2) + "\n")
    return [*pictures, page, facts_json]


def explanations_markdown(found: Facts, title: str, with_figure: bool) -> str:
    """Returns a Markdown page: changes by target and by head, then for each target its heads and the evidence.

    Args:
        found: result of `explain`.
        with_figure: whether to include explanations.png.
    """
    targets = found["targets"]
    parts = [f"# {excerpt(title)}"]
    parts += ["![Change of weights, and the evidence of every label](explanations.png)"] if with_figure else []
    parts += [
        INTRODUCTION.format(adaptation=excerpt(found["adaptation"])),
        tables.markdown(pd.DataFrame([_target_row(*item) for item in targets.items()])).rstrip(),
        tables.markdown(pd.DataFrame([_head_row(*item) for item in found["heads"].items()])).rstrip(),
    ]
    for name, target in targets.items():
        parts.append(f"## {excerpt(name)}")
        if not target["gained"]:
            parts.append(f"{_counted(target['labels'])}, and no weight moved.")
            continue
        parts.append(tables.markdown(_moved_heads(target)).rstrip())
        for rank, head in enumerate(target["gained"]):
            if rank == 0 or head["change"] >= SHARE * target["total_variation"]:
                parts += _argued(head)
    return "\n\n".join(parts) + "\n"


def draw_explanations(found: Facts, title: str) -> Figure:
    """Draws a row per target: change of each head's weight, KL divergence, and evidence of each label for one head.

    This is the head that gained most, which is outlined. Its labels are sorted by evidence, in decreasing order.
    """
    targets = found["targets"]
    columns, change_UC = _heat_columns(found)
    firsts = [target["gained"][0] if target["gained"] else None for target in targets.values()]
    outlined_UC = np.array([[first is not None and first["head"] == column for column in columns] for first in firsts])
    rows = [_with_count(name, target["labels"]) for name, target in targets.items()]
    cell = (CELL_WIDTH, max(ROW_HEIGHT, ROWS_HEIGHT / len(targets)))
    nats = [0.0, *(nats for first in firsts if first for nats in first["nats"])]
    least, most = min(nats), max(nats)
    with rc_context(sheets.LOOKS):
        figure = Figure(dpi=DPI)
        short = [column.removeprefix("head ").replace(" ", "\n") for column in columns]
        change = sheets.Scale(sheets.DIVERGING, -1.0, 1.0)
        axes = sheets.heat_map(figure, "Change of weight", change_UC, rows, short, change, outlined_UC, cell, "+z.2f")
        axes.set_xlabel("head")
        panels = [[axes, sheets.colour_bar(axes)], [_draw_moved(axes, list(targets.values()))]]
        panels.append([_draw_evidence(axes, firsts, least, most)])
        sheets.caption(figure, title, NOTE.format(adaptation=found["adaptation"], most=most, least=abs(least)))
        sheets.arrange(figure, [panels])
    return figure


def _draw_moved(beside: Axes, targets: Sequence[Facts]) -> Axes:
    """Draws the KL divergence of each target as a bar in its row of the heat map."""
    axes = _rows_of(beside, "Moved (nats)", MOVED_WIDTH)
    middles, kl = np.arange(len(targets)) + 0.5, [target["kl"] for target in targets]
    most = max(kl) or 1.0
    axes.barh(middles, kl, height=0.2, color=FLOOR_COLOUR)
    axes.set_xlim(0.0, 1.6 * most)  # room for the numbers
    axes.set_xticks([])
    for middle, nats in zip(middles, kl, strict=True):
        axes.text(nats + 0.06 * most, middle, f"{nats:.2f}", va="center", fontsize=7.5, color=sheets.SHEET_INK)
    return axes


def _draw_evidence(beside: Axes, firsts: Sequence[Facts | None], least: float, most: float) -> Axes:
    """Draws the evidence of each label as a bar in the row of its target. least, most: range over all rows, in nats."""
    axes = _rows_of(beside, "Evidence of each label for the head that gained most", EVIDENCE_WIDTH)
    longest = max([1, *(len(first["nats"]) for first in firsts if first)])
    axes.set_xlim(0, longest)
    axes.set_xticks([])
    scale = FILLED / ((most - least) or 1.0)
    for row, first in enumerate(firsts):
        if first is None:
            axes.text(0.0, row + 0.5, "no weight moved", va="center", fontsize=7.5, color=sheets.SHEET_INK)
            continue
        nats, base = np.sort(first["nats"])[::-1], row + (1 - FILLED) / 2 + scale * most
        colours = np.where(nats > 0, sheets.BLUE, sheets.VERMILLION)
        ends = base - scale * nats  # rows count downwards
        axes.vlines(np.arange(len(nats)) + 0.5, base, ends, colours, linewidth=0.84 * 72 * EVIDENCE_WIDTH / longest)
        axes.plot([0, longest], [base, base], color=sheets.SHEET_INK, linewidth=0.5)
        total = f"{nats.sum():+z.1f}".replace("-", "−")
        words = f"{first['head']}: {total} nats\n{first['num_for']} for, {first['num_against']} against"
        axes.annotate(
            words, (1.0, row + 0.5), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", fontsize=7.5, color=sheets.SHEET_INK, annotation_clip=False,
        )  # fmt: skip
    return axes


def _rows_of(beside: Axes, title: str, inches: float) -> Axes:
    """Adds axes with the rows of a heat map and a width in inches."""
    figure, box = beside.figure, beside.get_position()
    axes = figure.add_axes((0.0, 0.0, inches / figure.get_size_inches()[0], box.height))
    axes.set_ylim(beside.get_ylim())
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    return axes


def _heat_columns(found: Facts) -> tuple[list[str], Array]:
    """Names of the heads in the figure, and changes of their weights [U, C]; heads beyond `MOST_COLUMNS` are summed."""
    names = list(found["heads"])
    before_UK, after_UK = (
        np.array([list(target[when].values()) for target in found["targets"].values()]) for when in ("before", "after")
    )
    change_UK = after_UK - before_UK
    if len(names) <= MOST_COLUMNS:
        return names, change_UK
    order_K = np.argsort(-np.abs(change_UK).max(axis=0), kind="stable")
    shown, others = np.sort(order_K[: MOST_COLUMNS - 1]), order_K[MOST_COLUMNS - 1 :]
    together_U1 = change_UK[:, others].sum(axis=1, keepdims=True)
    return [*(names[head] for head in shown), f"{len(others)} others"], np.hstack([change_UK[:, shown], together_U1])


def _target_row(name: str, target: Facts) -> dict[str, str]:
    row = {"target": excerpt(name), "labels": f"{target['labels']:,}", "moved (nats)": f"{target['kl']:.3f}"}
    row["weight that moved"] = f"{target['total_variation']:.3f}"
    for side in ("gained", "lost"):
        row[f"{side} most"] = _listed({head["head"]: head["change"] for head in target[side][:1]})
    return row


def _head_row(name: str, head: Facts) -> dict[str, str]:
    return {"head": excerpt(name), **{f"{way} for": _listed(head[way]) for way in ("rose", "fell")}}


def _listed(moves: Mapping[str, float]) -> str:
    """Formats up to `LISTED_PAIRS` names with their changes, in decreasing order of size."""
    words = [f"{excerpt(name)} {change:+.3f}" for name, change in list(moves.items())[:LISTED_PAIRS]]
    words += [f"and {len(moves) - LISTED_PAIRS} more"] if len(moves) > LISTED_PAIRS else []
    return ", ".join(words) or "-"


def _moved_heads(target: Facts) -> pd.DataFrame:
    """A row per head of those that changed most, from the largest gain to the largest loss."""
    rows = []
    for head in [*target["gained"], *reversed(target["lost"])]:
        before, after, nats = (target[column][head["head"]] for column in ("before", "after", "evidence"))
        cells = {"before": f"{before:.3f}", "after": f"{after:.3f}", "change": f"{head['change']:+.3f}"}
        rows.append({"head": excerpt(head["head"]), **cells, "evidence (nats)": f"{nats:+.2f}"})
    return pd.DataFrame(rows)


def _argued(head: Facts) -> list[str]:
    """Paragraphs on a head that gained: counts of labels for and against it, and the pairs with most evidence."""
    if not head["nats"]:
        return [f"{excerpt(head['head'])} gained {head['change']:.3f}, and no label asked for it."]
    parts = [
        f"Of {_counted(len(head['nats']))} {head['num_for']} argue for {excerpt(head['head'])}, which gained "
        f"{head['change']:.3f}, and {head['num_against']} against it: {sum(head['nats']):+z.2f} nats together."
    ]
    for side in ("for", "against"):
        if head[side]:
            parts += [f"Most {side} it:", "\n".join(map(_pair_lines, head[side]))]
    return parts


def _pair_lines(pair: Facts) -> str:
    lines = [f"- pair {pair['pair']}, {pair['nats']:+.2f} nats"]
    lines += [f"  - {part}: {excerpt(pair[part])}" for part in TEXT_PARTS if part in pair]
    return "\n".join(lines)


def _with_count(name: str, num_labels: int) -> str:
    return f"{shortened(' '.join(name.split()), LONGEST_NAME)}\n{_counted(num_labels)}"


def _counted(number: int) -> str:
    return f"{number:,} label{'' if number == 1 else 's'}"


def _arguments(nats: Sequence[float], pairs: Sequence[Facts]) -> dict[str, Any]:
    """Evidence of a target's labels for one head: counts for and against, and the pairs with most evidence."""
    named = [{"nats": each, **pair} for each, pair in zip(nats, pairs, strict=True)]
    best = sorted(named, key=lambda pair: -pair["nats"])
    on_its_side = [pair for pair in best if pair["nats"] > ROUNDING]
    against_it = [pair for pair in reversed(best) if pair["nats"] < -ROUNDING]
    return {
        "nats": nats,
        "num_for": len(on_its_side),
        "num_against": len(against_it),
        "for": on_its_side[:EXAMPLES],
        "against": against_it[:EXAMPLES],
    }


def _moves(change_U: Array, targets: Sequence[str]) -> dict[str, dict[str, float]]:
    """Targets for which the weight of one head rose or fell, in decreasing order of change."""
    order_U = np.argsort(-np.abs(change_U), kind="stable")
    ways = {"rose": change_U >= LEAST_MOVE, "fell": change_U <= -LEAST_MOVE}
    return {
        way: {targets[code]: float(change_U[code]) for code in order_U if moved_U[code]}
        for way, moved_U in ways.items()
    }


def _named_targets(values_K: Array, heads: Sequence[str]) -> dict[str, float]:
    return dict(zip(heads, values_K.tolist(), strict=True))


def _check_inputs(
    margins_LK: Floats,
    target_L: Integers,
    before_UK: Floats,
    after_UK: Floats,
    targets: Sequence[str],
    heads: Sequence[str],
    pair_L: Integers,
    texts: Sequence[PairTexts] | None,
) -> None:
    labels.check_labels(margins_LK, target_L, before_UK)
    labels.check_prior(after_UK)
    if after_UK.shape != before_UK.shape:
        raise ValueError(f"weights have shape {before_UK.shape} before and {after_UK.shape} after; give them one shape")
    if (risen_UK := (before_UK == 0) & (after_UK > 0)).any():
        target, head = np.argwhere(risen_UK)[0]
        raise ValueError(
            f"head {head} of target {target} has no weight before and {after_UK[target, head]} after, which no labels "
            "can cause; give the weights that adaptation started from"
        )
    for what, names, number in (("targets", targets, len(before_UK)), ("heads", heads, before_UK.shape[1])):
        if len(names) != number or number == 0 or len(set(names)) < number:
            raise ValueError(f"{number} {what} are named {list(names)}; give each a name of its own, and one at least")
    for what, values in (("numbers", pair_L), ("texts", texts)):
        if values is not None and len(values) != len(margins_LK):
            raise ValueError(f"there are {len(values)} {what} for {len(margins_LK)} labelled pairs; give one a pair")
