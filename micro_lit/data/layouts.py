"""Layouts: convert the raw columns of public preference data sets to ours.

A layout is a generator function: it takes (location, raw row) and yields (location, row in our columns), one row per
judgment. An unreadable row becomes a `BadRow`; a row without a judgment, or with one that was not requested, a
`LeftOut`. Raw columns that a layout does not name are not read.

Dimension letters: U users, A responses (answers) to a prompt, R reward models.
"""

import functools
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from micro_lit.data.formats import Row
from micro_lit.data.records import BadRow
from micro_lit.errors import UserError


class LeftOut(NamedTuple):
    """A valid judgment that is not used; counted under its reason."""

    reason: str


LayoutRow = dict[str, Any] | BadRow | LeftOut
Layout = Callable[[Iterable[Row]], Iterator[tuple[str, LayoutRow]]]

LONE = "the next row answers another prompt; the two responses to a prompt must stand in rows that follow each other"

HELPSTEER2_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
ULTRAFEEDBACK_ATTRIBUTES = ("instruction_following", "honesty", "truthfulness", "helpfulness")

PRISM_EMPTY = "EMPTY STRING"  # marks an empty text in PRISM

# The ten reward models of PersonalLLM, and the standard deviations by which the authors' evaluation divides scores.
PERSONAL_LLM_SPREAD = {
    "beaver_7b": 3.0126,
    "gemma_2b": 2.0386,
    "gemma_7b": 2.6097,
    "llama3_sfairx": 2.9530,
    "mistral_raft": 3.0728,
    "mistral_ray": 1.6903,
    "mistral_weqweasdas": 2.5786,
    "oasst_deberta_v3": 1.7208,
    "oasst_pythia_1b": 2.3018,
    "oasst_pythia_7b": 1.3659,
}
PERSONAL_LLM_RESPONSES = [f"response_{number}" for number in range(1, 9)]

REWARD_BENCH = {
    "Chat": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med"),
    "Chat Hard": (
        "mt-bench-hard",
        "llmbar-natural",
        "llmbar-adver-neighbor",
        "llmbar-adver-GPTInst",
        "llmbar-adver-GPTOut",
        "llmbar-adver-manual",
    ),
    "Safety": (
        "refusals-dangerous",
        "refusals-offensive",
        "xstest-should-refuse",
        "xstest-should-respond",
        "donotanswer",
    ),
    "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"),
}
REWARD_BENCH_CATEGORY = {subset: category for category, subsets in REWARD_BENCH.items() for subset in subsets}


def row_by_row(judgments: Callable[..., Iterable[LayoutRow]]) -> Callable[..., Iterator[tuple[str, LayoutRow]]]:
    """Decorator that makes a layout of a function which yields the judgments of one raw row, or raises `BadRow`."""

    @functools.wraps(judgments)
    def layout(rows: Iterable[Row], **settings: Any) -> Iterator[tuple[str, LayoutRow]]:
        for place, row in rows:
            try:
                found = [row] if isinstance(row, BadRow) else list(judgments(row, **settings))
            except BadRow as error:
                found = [error]
            yield from ((place, judgment) for judgment in found)

    return layout


@row_by_row
def rpr(row: Mapping[str, Any], categories: Sequence[str] | None = None) -> Iterator[LayoutRow]:
    """RPR, reasonable preference reversal [2407.14916; hub: microsoft/rpr]: two judgments per row with opposite labels.

    Reads prompt, response_a, response_b, criteria_x, criteria_y, category_x, category_y. Under criterion x response_a
    is better, under criterion y response_b, so a model without the criterion gets exactly one of the two right. The
    attribute is the criterion's category in lower case with hyphens, such as clarity-and-conciseness.

    Args:
        categories: attributes to keep; None keeps all. Judgments are filtered one by one, so opposite labels no longer
            cancel, and a model without the criterion can exceed an accuracy of 1/2.
    """
    prompt, first, second = (_value(row, name) for name in ("prompt", "response_a", "response_b"))
    for twin, chosen, rejected in (("x", first, second), ("y", second, first)):
        criterion, category = _value(row, f"criteria_{twin}"), _value(row, f"category_{twin}")
        if not isinstance(category, str):
            raise BadRow(f"'category_{twin}' is {category!r}; it must be text")
        attribute = category.strip().lower().replace("&", "and").replace(" ", "-")
        if categories is not None and attribute not in categories:
            yield LeftOut("their category is not among those asked for")
        else:
            yield _judgment(prompt, chosen, rejected, attribute, criterion=criterion)


def helpsteer2(rows: Iterable[Row]) -> Iterator[tuple[str, LayoutRow]]:
    """HelpSteer2 [2406.08673; hub: nvidia/HelpSteer2]: one judgment per attribute for each two consecutive raw rows.

    Reads prompt, response and ratings of five attributes, integers from 0 to 4. Rows 1 and 2, 3 and 4, ... answer the
    same prompt, so a shuffled copy cannot be read. For complexity and verbosity more is not better: chosen is the more
    complex or longer response. Equal ratings give a rating gap of zero, a tie. Earlier turns are part of the prompt,
    after lines such as <extra_id_1>Assistant. The folders `preference` and `disagreements` have other columns.
    """
    waiting: tuple[str, Mapping[str, Any]] | None = None
    for place, row in rows:
        if waiting is not None and not isinstance(row, BadRow) and waiting[1].get("prompt") == row.get("prompt"):
            yield from ((waiting[0], judgment) for judgment in _rated_twice(waiting[1], row))
            waiting = None
            continue
        if waiting is not None:
            yield waiting[0], BadRow(LONE)
        waiting = None if isinstance(row, BadRow) else (place, row)
        if isinstance(row, BadRow):
            yield place, row
    if waiting is not None:
        yield waiting[0], BadRow(LONE)


def _rated_twice(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[LayoutRow]:
    try:
        prompt = _turns(_value(first, "prompt"))
        responses = _value(first, "response"), _value(second, "response")
        ratings = {name: [_rating(row, name) for row in (first, second)] for name in HELPSTEER2_ATTRIBUTES}
    except BadRow as error:
        return [error]
    return [_compared(prompt, responses, rated, attribute) for attribute, rated in ratings.items()]


def _turns(prompt: Any) -> Any:
    """Parses a prompt in NeMo's markup into turns; a prompt with one turn is returned unchanged."""
    if not isinstance(prompt, str) or "<extra_id_1>" not in prompt:
        return prompt
    first, *rest = re.split(r"\n?<extra_id_1>(User|Assistant)\n", prompt)
    turns = zip(["User", *rest[::2]], [first, *rest[1::2]], strict=True)
    return [{"role": speaker.lower(), "content": content} for speaker, content in turns]


def _rating(row: Mapping[str, Any], attribute: str) -> float:
    rating = _value(row, attribute)
    if isinstance(rating, bool) or not isinstance(rating, int | float) or not -1e30 < rating < 1e30:
        raise BadRow(f"{attribute!r} is {rating!r}; it must be a finite number")
    return rating


@row_by_row
def pku_saferlhf(row: Mapping[str, Any]) -> Iterator[LayoutRow]:
    """PKU-SafeRLHF [2406.15513; hub: PKU-Alignment/PKU-SafeRLHF]: two judgments per row, helpful and safe.

    Reads prompt, response_0, response_1, better_response_id, safer_response_id. One response is marked as safer even if
    both or neither are safe. Some of the data are offensive.
    """
    prompt, *responses = (_value(row, name) for name in ("prompt", "response_0", "response_1"))
    for attribute, column in (("helpful", "better_response_id"), ("safe", "safer_response_id")):
        winner = _value(row, column)
        if winner not in (0, 1):
            raise BadRow(f"{column!r} is {winner!r}; it must be 0 or 1")
        yield _judgment(prompt, responses[int(winner)], responses[1 - int(winner)], attribute)


@row_by_row
def ultrafeedback(row: Mapping[str, Any]) -> Iterator[LayoutRow]:
    """UltraFeedback [2310.01377; hub: openbmb/UltraFeedback]: all pairs of a row's completions under four attributes.

    Reads instruction, and response and annotations.<attribute>.Rating of each completion: four completions give 6 pairs
    and 24 judgments. Ratings are text, 1 to 5 or N/A; pairs with N/A are left out. Equal ratings are ties. The ratings
    are by GPT-4, not by people.
    """
    prompt = _value(row, "instruction")
    for pair in itertools.combinations(_list(row, "completions"), 2):
        responses = [_value(completion, "response") for completion in pair]
        for attribute in ULTRAFEEDBACK_ATTRIBUTES:
            rated = [_rating_number(_value(completion, "annotations", attribute, "Rating")) for completion in pair]
            if None in rated:
                yield LeftOut("one of the two responses has no rating")
            else:
                yield _compared(prompt, responses, rated, attribute)


def _rating_number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


@row_by_row
def hh_rlhf(row: Mapping[str, Any], attribute: str) -> Iterator[LayoutRow]:
    """HH-RLHF [2204.05862; hub: Anthropic/hh-rlhf]: one judgment per row, under the attribute of the row's folder.

    Reads chosen and rejected, whole transcripts. Only the folder name contains the raters' task (helpful-base,
    helpful-online, helpful-rejection-sampled, harmless-base), so read each folder with its own `attribute`. Transcripts
    that end without a reply, or differ before the last one, are bad rows. Some of the data are offensive.

    Args:
        attribute: attribute of all rows.
    """
    yield {"chosen": _value(row, "chosen"), "rejected": _value(row, "rejected"), "attribute": attribute}


@row_by_row
def reward_bench(row: Mapping[str, Any]) -> Iterator[LayoutRow]:
    """RewardBench [2403.13787; hub: allenai/reward-bench, split filtered]: one judgment per row, for testing only.

    Reads prompt, chosen, rejected, subset. The attribute is the category (Chat, Chat Hard, Safety, Reasoning), the
    source is the subset. The official score of a category is the mean over its rows, except for Reasoning: there it is
    the mean of two means, over the 447 rows of math-prm and the 984 rows of code.
    """
    prompt, chosen, rejected, subset = (_value(row, name) for name in ("prompt", "chosen", "rejected", "subset"))
    category = REWARD_BENCH_CATEGORY.get(str(subset))
    if category is None:
        raise BadRow(f"the subset {subset!r} is of no category; known subsets are {', '.join(REWARD_BENCH_CATEGORY)}")
    yield _judgment(prompt, chosen, rejected, category, source=subset)


@row_by_row
def prism(row: Mapping[str, Any], chosen_only: bool = False) -> Iterator[LayoutRow]:
    """PRISM [2404.16019; hub: HannahRoseKirk/prism-alignment, subset conversations]: users rate the replies they get.

    Reads user_id, conversation_type and conversation_history, a list of messages with turn, role and content. Each turn
    (0, 1, ...) has a user message and then the responses (role model) with score, 1 to 100, and if_chosen: up to four
    models in turn 0, two responses of the chosen model in later turns. All pairs of a turn are compared; equal scores
    are ties. The prompt is the conversation so far, with the response chosen in each turn. Some of the data are
    offensive.

    The source is the type of the conversation. The pair_id is its opening message: with split_by=pair_id all
    conversations with the same opening are in one split. A pair with an empty response is a bad row.

    Args:
        chosen_only: leave out pairs in which neither response was chosen.
    """
    user_id, source = _value(row, "user_id"), _value(row, "conversation_type")
    prompt: list[dict[str, str]] = []
    turns = itertools.groupby(_list(row, "conversation_history"), key=lambda message: _value(message, "turn"))
    for number, (turn, messages) in enumerate(turns):
        question, *answers = messages
        roles = [_value(message, "role") for message in (question, *answers)]
        if turn != number or roles != ["user", *["model"] * len(answers)]:
            raise BadRow(
                f"turn {turn!r} of 'conversation_history' is in place {number} and has the roles {roles}; turns 0, 1, "
                "... must each hold a message of the user and then those of the model"
            )
        prompt = [*prompt, {"role": "user", "content": _response_content(question)}]
        chosen = {_response_content(answer) for answer in answers if _value(answer, "if_chosen") is True}
        if len(chosen) != 1:
            raise BadRow(f"turn {turn} has {len(chosen)} different responses with if_chosen; it must have one")
        for pair in itertools.combinations(answers, 2):
            responses, scores = (
                [_response_content(answer) for answer in pair],
                [_rating(answer, "score") for answer in pair],
            )
            if chosen_only and chosen.isdisjoint(responses):
                yield LeftOut("neither of the two responses was chosen")
            else:
                opening = prompt[0]["content"]
                yield _compared(prompt, responses, scores, user_id=user_id, source=source, pair_id=opening)
        prompt = [*prompt, {"role": "assistant", "content": chosen.pop()}]


def _response_content(message: Any) -> str:
    content = _value(message, "content")
    if not isinstance(content, str):
        raise BadRow(f"'content' is of type {type(content).__name__}; it must be text")
    return "" if content == PRISM_EMPTY else content


def personal_llm(
    rows: Iterable[Row], users: int = 1000, users_per_row: int = 5, concentration: float = 0.05, seed: int = 0
) -> Iterator[tuple[str, LayoutRow]]:
    """PersonalLLM [2409.20296; hub: namkoong-lab/PersonalLLM]: simulated users compare the best and worst of eight.

    Reads prompt, response_1 to response_8, the scores of ten reward models for each, such as response_1_gemma_2b, and
    subset (the source) if present. A user's score is a weighted sum of the models' scores in standard deviations;
    chosen is the user's best response, rejected the worst. For beaver_7b too higher is better: the data contain its
    negated cost. The prompts are from HH-RLHF, HelpSteer and RewardBench, so do not train on this set and test on
    those.

    Args:
        users: number of users, named user_0, user_1, ...
        users_per_row: number of users who judge a row.
        concentration: of the symmetric Dirichlet distribution of user weights, 0.05 in the paper's experiments. Near 0
            each user follows one reward model; for large values all users agree.
        seed: of the weights and of the assignment of users to prompts. Training and test rows have the same users, and
            the judgments of a row do not depend on other rows.

    Raises:
        UserError: for settings out of range.
    """
    if not 1 <= users_per_row <= users or not concentration > 0:
        raise UserError(
            f"data.layout: users_per_row={users_per_row} must be from 1 to users={users}, "
            f"and concentration={concentration} above 0"
        )
    spread_R = np.array(list(PERSONAL_LLM_SPREAD.values()))
    weights_UR = np.random.default_rng(seed).dirichlet(np.full(len(spread_R), concentration), size=users)
    return _best_against_worst(rows, weights_UR=weights_UR / spread_R, users_per_row=users_per_row, seed=seed)


@row_by_row
def _best_against_worst(
    row: Mapping[str, Any], weights_UR: NDArray[np.float64], users_per_row: int, seed: int
) -> Iterator[LayoutRow]:
    prompt, *responses = (_value(row, name) for name in ("prompt", *PERSONAL_LLM_RESPONSES))
    scores_AR = np.array(
        [[_rating(row, f"{response}_{model}") for model in PERSONAL_LLM_SPREAD] for response in PERSONAL_LLM_RESPONSES]
    )
    for user in random.Random(f"{seed} {prompt}").sample(range(len(weights_UR)), users_per_row):
        scores_A = scores_AR @ weights_UR[user]
        best, worst = scores_A.argmax(), scores_A.argmin()
        yield _judgment(
            prompt,
            responses[best],
            responses[worst],
            rating_gap=float(scores_A[best] - scores_A[worst]),
            user_id=f"user_{user}",
            source=row.get("subset"),
        )


def _compared(
    prompt: Any, responses: Sequence[Any], ratings: Sequence[float], attribute: str | None = None, **columns: Any
) -> LayoutRow:
    """The judgment implied by the ratings of two responses; in a tie the first response counts as chosen."""
    gap = ratings[0] - ratings[1]
    chosen, rejected = responses if gap >= 0 else reversed(responses)
    return _judgment(prompt, chosen, rejected, attribute, rating_gap=abs(gap), **columns)


def _judgment(prompt: Any, chosen: Any, rejected: Any, attribute: str | None = None, **columns: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "attribute": attribute, **columns}


def _list(row: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = _value(row, name)
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise BadRow(f"{name!r} is of type {type(found).__name__}; it must be a list")
    return found


def _value(row: Any, *names: str) -> Any:
    """The value in a raw row under a name, or under a path of nested names. Raises `BadRow` if it is missing."""
    for depth, name in enumerate(names, start=1):
        if not isinstance(row, Mapping) or name not in row:
            raise BadRow(f"no column {'.'.join(names[:depth])!r}, which the layout reads")
        row = row[name]
    return row
