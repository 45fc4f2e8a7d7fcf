"""Personalisation of a trained run: learns profiles from labels of users, and ranks responses for a user.

The J judges of a run are the model as trained, with its gate, and each of its K heads alone. A profile is a user's
weights over the judges, the same for every prompt. The prior is one half on the model and the other half uniform over
the heads. With the rule `posterior` the regret over all labels is therefore at most log 2 = 0.69 nats against the model
as trained, and at most log 2K against any head.

The model is among the judges because weights that do not read the prompt lose the information of the gate. Under the
link `probability` a user's model is again a mixture of the heads, with weights w_k + w_0 g_k(x), where w are the
weights of the user and g(x) those of the gate.

Dimension letters: N labelled pairs, M responses to rank, U users, K heads, J = 1 + K judges.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from micro_lit.adapt.labels import Array, losses
from micro_lit.adapt.profile_files import export, open_store, profile_paths
from micro_lit.adapt.profile_store import ProfileLabels, ProfileUpdate
from micro_lit.adapt.profiles import Profiles
from micro_lit.compare import judges
from micro_lit.compare.systems import Profile
from micro_lit.config import Settings
from micro_lit.data.pairs import PreferenceData, from_records
from micro_lit.data.records import Record
from micro_lit.errors import UserError
from micro_lit.host import threads
from micro_lit.metrics import SCORES, Estimate, estimate, scores
from micro_lit.personalise.label_files import label_digest, read_pairs, read_responses, whose
from micro_lit.report import personal, terminal
from micro_lit.report.explanations import explain
from micro_lit.report.texts import in_words
from micro_lit.run.restored import Trust, read_settings, restore


@contextmanager
def personalising(settings: Settings) -> Iterator[dict[str, Any]]:
    """Context manager of one session: updates profiles with labelled pairs, and ranks responses.

    Each pair is scored before its label is learned. Labels are stored when the `with` block ends without an error.
    Until then the profiles are locked for other writers, so that the results describe exactly the stored profiles.

    Args:
        settings: settings of `micro_lit.personalise`.

    Yields:
        Plain JSON types. `users`: number of labels and weights before and after. `labels` (with pairs): counts of
        given, known and learned labels. `stream` (with new labels): for each label its log-probability, and regret and
        bound after it, in nats; a bound is None if unknown. `running`: mean scores over the first labels of each user.
        `scores`: mean scores of all labels, with standard errors. `explanation` (with labels of one user): which
        judges gained weight, and why. `responses`: rewards and ranks.

    Raises:
        UserError: the settings or the files have an error that the user can correct.
    """
    run, profile = Path(str(settings["run"])), Path(str(settings["profile"])).expanduser()
    user = None if settings["user"] is None else str(settings["user"])
    pairs, responses, data = _read(settings, user)
    users = whose(pairs, user)
    names = list(dict.fromkeys(users)) if user is None else [user]
    trust = Trust.of(settings)
    model = restore(run, data, Path(settings["paths"]["features_dir"]), trust)
    if (reading := model.backbone.reading) is not None:
        data.count_cut(reading.cut_M2, reading.max_length)
    terminal.show_data(data, model.backbone.example)
    with ExitStack() as stack:
        store = stack.enter_context(
            open_store(profile, judges.empty_profiles(model, settings["rule"]), make=bool(pairs))
        )
        personal.show_newcomers(names, store.users)
        with threads.using(model.backbone):
            judged = judges.judge_pairs(model, data.pairs, read_settings(run, trust)["loader"]["eval_batch_size"])
        margins_NJ, rewards_MJ = judged.margins_BJ[: len(pairs)], judged.rewards_BJ[len(pairs) :]
        found: dict[str, Any] = {
            "run": str(run),
            "profile": str(profile),
            "store": str(profile_paths(profile).store),
            "heads": store.heads,
            "rule": store.rule,
            "judges": judges.names(model),
        }
        if pairs:
            digests = [label_digest(*label) for label in zip(users, pairs, strict=True)]
            given = ProfileLabels(users, margins_NJ, digests, [record.label_id for record in pairs])
            taught = stack.enter_context(store.learning(given, settings["repeated_labels"]))
            before, after = taught.before, taught.after
            found |= {"users": states(names, before, after), **lesson(pairs, given, taught, found["judges"])}
        else:
            before = after = store.profiles(names)
            found["users"] = states(names, before, after)
        if responses:
            found["responses"] = rank_responses(responses, rewards_MJ, before.weights(user)[0], after.weights(user)[0])
        if settings["export"] is not None:
            export(store, profile, Path(settings["export"]).expanduser())
        yield found


def _read(settings: Settings, user: str | None) -> tuple[list[Record], list[Record], PreferenceData]:
    """Reads the pairs to learn from and the responses to rank, and makes one data set of both."""
    pairs, responses, counts = [], [], {}
    if settings["pairs"] is not None:
        pairs, counts["pairs"] = read_pairs(str(settings["pairs"]), settings["columns"], settings["on_bad_row"])
    if settings["responses"] is not None:
        responses, counts["responses"] = read_responses(str(settings["responses"]))
        if user is None:
            raise UserError("responses are ranked for one user; say for whom with user=<name>")
    sets = [0] * len(pairs) + [len(counts) - 1] * len(responses)
    return pairs, responses, from_records([*pairs, *responses], ["test"] * len(sets), counts, sets)


def states(names: Sequence[str], before: Profiles, after: Profiles) -> dict[str, Any]:
    """Number of labels and weights [J] of each user, before and after."""
    columns = (before.counts(names), after.counts(names), before.weights(names), after.weights(names))
    return {
        name: {"labels": {"before": start, "after": end}, "weights": {"before": old, "after": new}}
        for name, start, end, old, new in zip(names, *(column.tolist() for column in columns), strict=True)
    }


def lesson(
    pairs: Sequence[Record], given: ProfileLabels, taught: ProfileUpdate, judge_names: list[str]
) -> dict[str, Any]:
    """Returns counts of labels, scores of the new labels before they were learned, and the explanation of their effect.

    Args:
        pairs: the labelled pairs.
        given: users, margins and digests of these pairs.
        taught: the result of learning them.
        judge_names: names of the judges.

    Returns:
        The keys `labels`, `stream`, `running`, `scores` and `explanation` of `personalising`, as far as they apply.
    """
    rows_N, learned = np.flatnonzero(taught.new_N), taught.learned
    names = list(dict.fromkeys(given.users))
    found: dict[str, Any] = {
        "labels": {
            "given": len(pairs),
            "known": len(pairs) - len(rows_N),
            "learned": len(rows_N),
            "changed": int(taught.changed_N.sum()),
        }
    }
    if not len(rows_N):
        return found
    margins_NJ = given.margins_NK[rows_N]
    stream = {
        "user": [given.users[row] for row in rows_N],
        "label": learned.label_N.tolist(),
        "personalised": personalised(margins_NJ, learned.weights_NK).tolist(),
        "as_trained": (-losses(margins_NJ[:, 0])).tolist(),
        "regret": learned.regret_N.tolist(),
        "bound": [None if math.isnan(bound) else bound for bound in learned.bound_N.tolist()],
    }
    found |= {"stream": stream, **summarise(stream)}
    if len(names) == 1:
        found["explanation"] = explain(
            margins_NJ,
            np.zeros(len(rows_N), dtype=np.int64),
            taught.before.weights(names),
            taught.after.weights(names),
            names,
            judge_names,
            rows_N,
            f"these labels, by the rule {taught.after.rule}",
            [(in_words(record.prompt), record.chosen, record.rejected) for record in (pairs[row] for row in rows_N)],
        )
    return found


def personalised(margins_NJ: Array, weights_NJ: Array) -> Array:
    """Log-probability [N] of each label under its user's profile, in nats, computed as in `micro_lit.compare`."""
    return Profile("run", margins_NJ).log_prob(torch.arange(len(margins_NJ)), torch.from_numpy(weights_NJ)).numpy()


def summarise(stream: dict[str, list]) -> dict[str, Any]:
    """Mean scores over the first 1, 2, 4, ... labels of each user, and over all labels; users have equal weight.

    Units of standard errors are users; for a single user, labels.
    """
    user_N = pd.Series(stream["user"])
    place_N = user_N.groupby(user_N).cumcount() + 1
    found = {
        name: pd.DataFrame(scores(torch.tensor(stream[name], dtype=torch.float64)), columns=SCORES)
        for name in personal.MODELS
    }
    longest = int(place_N.max())
    running = [
        {
            "labels": labels,
            **{name: rows[place_N <= labels].groupby(user_N).mean().mean().to_dict() for name, rows in found.items()},
        }
        for labels in [*itertools.takewhile(longest.__gt__, (2**power for power in itertools.count())), longest]
    ]
    found["difference"] = found["personalised"] - found["as_trained"]
    if user_N.nunique() > 1:
        found = {name: rows.groupby(user_N).mean() for name, rows in found.items()}
    estimates = {name: {score: _estimate(rows[score]) for score in SCORES} for name, rows in found.items()}
    return {"running": running, "scores": estimates}


def _estimate(values: pd.Series) -> Estimate:
    values_N = torch.tensor(values.to_numpy())
    return estimate(values_N.sum(), values_N.square().sum(), torch.tensor(len(values_N)))


def rank_responses(
    responses: Sequence[Record], rewards_MJ: Array, before_J: Array, after_J: Array
) -> list[dict[str, Any]]:
    """Ranks responses by reward, among those with the same prompt and criterion.

    Args:
        responses: M responses.
        rewards_MJ: reward of each response by each judge.
        before_J, after_J: weights of the user before and after the labels of this session.

    Returns:
        For each response its rewards and ranks (1 is best): as trained, with the weights before, and after.
    """
    rewards = {"as_trained": rewards_MJ[:, 0], "before": rewards_MJ @ before_J, "after": rewards_MJ @ after_J}
    contexts = [repr((record.prompt, record.criterion)) for record in responses]
    table = pd.DataFrame(rewards)
    ranks = table.groupby(contexts).rank(method="min", ascending=False).astype(int)
    return [
        {
            "prompt": [message.as_turn() for message in record.prompt],
            "criterion": record.criterion,
            "response": record.chosen,
            "rewards": reward,
            "ranks": place,
        }
        for record, reward, place in zip(responses, table.to_dict("records"), ranks.to_dict("records"), strict=True)
    ]
