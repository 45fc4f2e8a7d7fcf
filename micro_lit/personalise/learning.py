"""What a trained run learns of single people: their labels, and responses to rank for them, as its judges see them.

The judges of a run are the model as everybody gets it, gate and all, and then each of its K heads by itself. A user's
weights over the judges are the same for every prompt; they begin with one half on the model and the other half on the
heads alike. So by the rule `posterior` whatever is learned of a user costs at most log 2 = 0.69 nats against the model
as trained, over all labels together, and at most log 2K against any head.

Heads alone would not do: weights that do not read the prompt give up what the gate knows of it. With the model among
the judges it is kept: under the link `probability` a user's model is a mixture of the heads again, with the weights
w_k + w_0 g_k(x), where w are the user's and g(x) those of the gate.

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
from micro_lit.adapt.profile_files import export, locate, open_store
from micro_lit.adapt.profile_store import Labels, Taught
from micro_lit.adapt.profiles import Profiles
from micro_lit.compare import judges
from micro_lit.compare.systems import Profile
from micro_lit.config import Settings
from micro_lit.data.pairs import from_records
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
def sitting(settings: Settings) -> Iterator[dict[str, Any]]:
    """One sitting: profiles learn from labelled pairs, each judged before its label is seen, and rank responses.

    Gives what happened, as plain JSON types. Labels count once the block under `with` has ended without an error;
    until then nobody else learns into the same profiles, so that what is given is what is kept.

    `users` holds labels and weights before and after; with pairs `labels` counts those given, known and learned; with
    labels to learn `stream` holds the log-probability of each, regret and bound (None: unknown) after it, `running`
    mean scores up to so many labels of each user, `scores` those of all with their standard errors; with labels of
    one user `explanation` says which judges' weights they moved; with responses there is `responses`. Raises
    `UserError` for what the user can mend.
    """
    run, profile = Path(str(settings["run"])), Path(str(settings["profile"])).expanduser()
    user = None if settings["user"] is None else str(settings["user"])
    pairs, responses, counts = [], [], {}
    if settings["pairs"] is not None:
        pairs, counts["pairs"] = read_pairs(str(settings["pairs"]), settings["columns"], settings["on_bad_row"])
    if settings["responses"] is not None:
        responses, counts["responses"] = read_responses(str(settings["responses"]))
        if user is None:
            raise UserError("responses are ranked for one user; say for whom with user=<name>")
    users = whose(pairs, user)
    names = list(dict.fromkeys(users)) if user is None else [user]
    sets = [0] * len(pairs) + [len(counts) - 1] * len(responses)
    data = from_records([*pairs, *responses], ["test"] * len(sets), counts, sets)
    trust = Trust.of(settings)
    model = restore(run, data, Path(settings["paths"]["features_dir"]), trust)
    if (reading := model.backbone.reading) is not None:
        data.count_cut(reading.cut_M2, reading.max_length)
    terminal.show_data(data, model.backbone.example)
    with ExitStack() as open_now:
        store = open_now.enter_context(open_store(profile, judges.nobody(model, settings["rule"]), make=bool(pairs)))
        personal.show_newcomers(names, store.users)
        with threads.using(model.backbone):
            judged = judges.judge(model, data.pairs, read_settings(run, trust)["loader"]["eval_batch_size"])
        margins_NJ, rewards_MJ = judged.margins_BJ[: len(pairs)], judged.rewards_BJ[len(pairs) :]
        found: dict[str, Any] = {
            "run": str(run),
            "profile": str(profile),
            "store": str(locate(profile).store),
            "heads": store.heads,
            "rule": store.rule,
            "judges": judges.names(model),
        }
        if pairs:
            digests = [label_digest(*label) for label in zip(users, pairs, strict=True)]
            given = Labels(users, margins_NJ, digests, [record.label_id for record in pairs])
            taught = open_now.enter_context(store.learning(given, settings["repeated_labels"]))
            before, after = taught.before, taught.after
            found |= {"users": states(names, before, after), **lesson(pairs, given, taught, found["judges"])}
        else:
            before = after = store.profiles(names)
            found["users"] = states(names, before, after)
        if responses:
            found["responses"] = rank(responses, rewards_MJ, before.weights(user)[0], after.weights(user)[0])
        if settings["export"] is not None:
            export(store, profile, Path(settings["export"]).expanduser())
        yield found


def states(names: Sequence[str], before: Profiles, after: Profiles) -> dict[str, Any]:
    """Labels and weights of each user before and after."""
    columns = (before.counts(names), after.counts(names), before.weights(names), after.weights(names))
    return {
        name: {"labels": {"before": start, "after": end}, "weights": {"before": old, "after": new}}
        for name, start, end, old, new in zip(names, *(column.tolist() for column in columns), strict=True)
    }


def lesson(pairs: Sequence[Record], given: Labels, taught: Taught, judge_names: list[str]) -> dict[str, Any]:
    """How many labels were new; and of those how they were judged before they were seen, and what they moved."""
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
    """[N] log-probability of each label by its user's profile, in nats, as the comparison judges it."""
    return Profile("run", margins_NJ).log_prob(torch.arange(len(margins_NJ)), torch.from_numpy(weights_NJ)).numpy()


def summarise(stream: dict[str, list]) -> dict[str, Any]:
    """Mean scores of the first 1, 2, 4, ... labels of each user, and of all, every user counting alike.

    Standard errors take users as units; of a single user, labels.
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


def rank(responses: Sequence[Record], rewards_MJ: Array, before_J: Array, after_J: Array) -> list[dict[str, Any]]:
    """A row for each response: its reward, and its rank for the same prompt and criterion, under each weights."""
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
