"""Terminal output of `micro_lit.personalise`: changes of weights, scores against the model as trained, and rankings."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from micro_lit.report import explanations

MODELS = {"personalised": "personalised", "as_trained": "as trained"}
SHOWN_SCORES = {"nll": "NLL", "accuracy": "accuracy"}
WEIGHT_KINDS = {"as_trained": "as trained", "before": "before", "after": "now"}
MAX_NEWCOMERS, ALIKE_USERS = 5, 0.7  # new users listed; least similarity of names, difflib's ratio from 0 to 1
MAX_PROMPTS, MAX_RESPONSES, MAX_EXCERPT = 10, 10, 60
Z = 1.96


def write_figure(stream: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws regret and its bound if matplotlib is installed; returns the names of the written files."""
    try:
        from micro_lit.report import figures, regret
    except ImportError:
        print("no figure: matplotlib is not installed (pip install 'micro-lit[report]')")
        return []
    return [path.name for path in figures.save(regret.draw_regret(stream), folder)]


def write_explanation(found: Mapping[str, Any], folder: Path) -> list[str]:
    """Writes the explanation of changed weights, if labels are of one user; returns the names of the written files."""
    if "explanation" not in found:
        return []
    [user] = found["users"]
    return [
        path.name
        for path in explanations.write_explanations(folder, found["explanation"], f"What moved the weights of {user}")
    ]


def show_newcomers(names: Sequence[str], known: Sequence[str]) -> None:
    """Prints users without a profile, with similar names of known users, to reveal misspelt names."""
    have = set(known)
    new = [name for name in names if name not in have]
    for name in new[:MAX_NEWCOMERS]:
        like = ", ".join(map(printable_user, close_names(name, known)))
        print(f"new user: {printable_user(name)}" + (f" (known: {like})" if like else ""))
    if len(new) > MAX_NEWCOMERS:
        print(f"and {len(new) - MAX_NEWCOMERS:,} more new users")


def close_names(name: str, known: Sequence[str]) -> list[str]:
    """Up to three known names with similar spelling, ignoring case, most similar first."""
    spelt: dict[str, list[str]] = {}
    for other in known:
        spelt.setdefault(other.casefold(), []).append(other)
    alike = difflib.get_close_matches(name.casefold(), spelt, n=3, cutoff=ALIKE_USERS)
    return [other for spelling in alike for other in spelt[spelling]][:3]


def printable_user(name: str) -> str:
    """The name, or its `repr` if it is blank or has characters that cannot be printed in one line."""
    return name if name.isprintable() and name.strip() else repr(name)


def show(found: Mapping[str, Any]) -> None:
    """Prints the results of `micro_lit.personalise.learning.personalising` as tables."""
    console = Console(highlight=False)
    if "labels" in found:
        console.print("", weights(found), "", sep="\n")
        if found["labels"]["known"]:
            print(repeats(found["labels"]), end="\n\n")
    if "stream" in found:
        console.print(*arguments(found), running_table(found), "", sep="\n")
    if "responses" in found:
        console.print("", ranking(found), "", sep="\n")


def repeats(counts: Mapping[str, int]) -> str:
    """Sentence on the number of known labels, which are not learned again."""
    line = f"{counts['known']:,} of {counts['given']:,} labels were known" + (
        "" if counts["learned"] else ": nothing has changed"
    )
    if counts["changed"]:
        line += f"; {counts['changed']:,} of them with the label_id of a label of other content, which stays as it is"
    return line


def weights(found: Mapping[str, Any]) -> Table:
    """Table of weights of judges before and after; for several users the means, and counts of largest weights."""
    users = found["users"]
    several = len(users) > 1
    before_UJ, after_UJ = (np.array([user["weights"][when] for user in users.values()]) for when in ("before", "after"))
    whose = f"{len(users):,} users, on average" if several else next(iter(users))
    table = Table(title=f"Weights of {escape(whose)}", title_justify="left", caption_justify="left")
    seen = sum(user["labels"]["after"] for user in users.values())
    table.caption = f"{seen:,} labels seen, {found['labels']['learned']:,} of them now"
    for column in ("", "before", "after", "first of users")[: 4 if several else 3]:
        table.add_column(column, justify="right")
    firsts_J = np.bincount(after_UJ.argmax(axis=1), minlength=after_UJ.shape[1])
    for name, *cells, firsts in zip(
        found["judges"], before_UJ.mean(axis=0), after_UJ.mean(axis=0), firsts_J, strict=True
    ):
        table.add_row(name, *(f"{cell:.3f}" for cell in cells), *([f"{firsts:,}"] if several else []))
    return table


def arguments(found: Mapping[str, Any]) -> list[Table | str]:
    """Table, and empty line, of labels with most evidence for and against the judge that gained most; one user only."""
    if "explanation" not in found:
        return []
    [target] = found["explanation"]["targets"].values()
    if not target["gained"]:
        return []
    first = target["gained"][0]
    title = f"Labels that argued most for {first['head']} ({first['change']:+.3f}), and against it"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = (
        "Evidence in nats: above 0 if the label is more probable under this judge than under the mixture before. "
        "Labels count from 0"
    )
    for column, justify in (("label", "right"), ("evidence", "right"), ("chosen", "left"), ("rejected", "left")):
        table.add_column(column, justify=justify)
    for side in ("for", "against"):
        table.add_section()
        for pair in first[side]:
            table.add_row(
                str(pair["pair"]), f"{pair['nats']:+.2f}", _excerpt(pair["chosen"]), _excerpt(pair["rejected"])
            )
    return [table, ""]


def running_table(found: Mapping[str, Any]) -> Table:
    """Table of mean scores over the first labels of each user, personalised and as trained."""
    table = Table(title="Each pair judged before its label was seen", title_justify="left", caption_justify="left")
    table.add_column("first labels", justify="right")
    for score in SHOWN_SCORES.values():
        for model in MODELS.values():
            table.add_column(f"{score}\n{model}", justify="right")
    for row in found["running"]:
        cells = (f"{row[model][score]:.4f}" for score in SHOWN_SCORES for model in MODELS)
        table.add_row(f"{row['labels']:,}", *cells)
    gain, stream = found["scores"]["difference"]["nll"], found["stream"]
    interval = f" ± {Z * gain['se']:.4f}, 95 %" if gain["n"] > 1 else ""
    units = "users" if len(found["users"]) > 1 else "labels"
    worst = int(np.argmax(stream["regret"]))
    bound = stream["bound"][worst]
    promise = "." if bound is None else f" (upper bound {bound:.2f})."
    table.caption = (
        f"NLL in nats. Personalised minus as trained: {gain['value']:+.4f}{interval} ({gain['n']:,} {units}). Largest "
        f"regret to the best of model and heads: {stream['regret'][worst]:.2f} nats{promise}"
    )
    return table


def ranking(found: Mapping[str, Any]) -> Table:
    """Table of rewards and ranks of responses, by prompt, best rank first."""
    kinds = {kind: name for kind, name in WEIGHT_KINDS.items() if kind != "before" or "stream" in found}
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for row in found["responses"]:
        by_prompt.setdefault(repr((row["prompt"], row["criterion"])), []).append(row)
    [(user, facts)] = found["users"].items()
    title = f"Rewards for {escape(user)}, after {facts['labels']['after']:,} labels"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = "Reward, and rank among the responses to the same prompt; compare rewards within a prompt only"
    table.add_column("response")
    for name in kinds.values():
        table.add_column(name, justify="right")
    for rows in list(by_prompt.values())[:MAX_PROMPTS]:
        table.add_section()
        table.add_row(f"[bold]{_excerpt(rows[0]['prompt'][-1]['content'])}[/bold]")
        for row in sorted(rows, key=lambda row: row["ranks"]["after"])[:MAX_RESPONSES]:
            cells = (f"{row['rewards'][kind]:+.3f} ({row['ranks'][kind]})" for kind in kinds)
            table.add_row(_excerpt(row["response"]), *cells)
    if len(by_prompt) > MAX_PROMPTS or max(map(len, by_prompt.values())) > MAX_RESPONSES:
        table.caption += f"; the best {MAX_RESPONSES} of at most {MAX_PROMPTS} prompts, all are in the file"
    return table


def _excerpt(text: str) -> str:
    """The text in one line, shortened, with Rich markup escaped."""
    line = " ".join(text.split())
    return escape(line if len(line) <= MAX_EXCERPT else f"{line[: MAX_EXCERPT - 4]} ...")
