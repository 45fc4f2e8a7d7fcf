"""What a trained run learns of single people: their labels, and responses to rank for them, as its judges see them.

The judges of a run are the model as everybody gets it, gate and all, and then each of its K heads by itself. A user's
weights over the judges are the same for every prompt; they begin with one half on the model and the other half on the
heads alike. So by the rule `posterior` whatever is learned of a user costs at most log 2 = 0.69 nats against the model
as trained, over all labels together, and at most log 2K against any head.

Heads alone would not do: weights that do not read the prompt give up what the gate knows of it. With the model among
the judges it is kept: under the link `probability` a user's model is a mixture of the heads again, with the weights
w_k + w_0 g_k(x), where w are the user's and g(x) those of the gate.

Dimension letters: N labelled pairs, M responses to rank, B pairs in a batch, U users, K heads, J = 1 + K judges.
"""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from micro_lit import threads
from micro_lit.adaptation.labels import Array, losses
from micro_lit.adaptation.profiles import Profiles, log_prob
from micro_lit.config import Settings
from micro_lit.data.pairs import Counts, Pairs, from_records
from micro_lit.data.readers import read_rows
from micro_lit.data.records import BadRow, Record, parse_record
from micro_lit.data.sources import PairFiles
from micro_lit.errors import UserError
from micro_lit.metrics import SCORES, Estimate, estimate, scores
from micro_lit.models import MixtureBT
from micro_lit.reporting import personal, terminal
from micro_lit.reporting.explanations import explain
from micro_lit.reporting.texts import in_words
from micro_lit.runs import read_settings, restore


def sit(settings: Settings) -> tuple[dict[str, Any], Profiles]:
    """One sitting: profiles learn from labelled pairs, each judged before its label is seen, and rank responses.

    Returns what happened, as plain JSON types, and the profiles, which are not saved yet: `users` holds labels and
    weights before and after; with pairs `stream` holds the log-probability of each label, regret and bound after it,
    `running` mean scores up to so many labels of each user, `scores` those of all with their standard errors; with
    pairs of one user `explanation` says which judges' weights they moved; with responses there is `responses`. Raises
    `UserError` for what the user can mend.
    """
    run, path = Path(str(settings["run"])), Path(str(settings["profile"])).expanduser()
    user = None if settings["user"] is None else str(settings["user"])
    pairs, responses, counts = [], [], {}
    if settings["pairs"] is not None:
        pairs, counts["pairs"] = read_pairs(str(settings["pairs"]), settings["columns"], settings["on_bad_row"])
    if settings["responses"] is not None:
        responses, counts["responses"] = read_responses(str(settings["responses"]))
        if user is None:
            raise UserError("responses are ranked for one user; say for whom with user=<name>")
    if not counts:
        raise UserError("nothing to do: give pairs=<labels to learn from>, responses=<candidates to rank>, or both")
    users = whose(pairs, user)
    sets = [0] * len(pairs) + [len(counts) - 1] * len(responses)
    data = from_records([*pairs, *responses], ["test"] * len(sets), counts, sets)
    model = restore(run, data, Path(settings["paths"]["features_dir"]))
    data.count_truncated(model.backbone.truncated_M)
    terminal.show_data(data, model.backbone.example)
    profiles = open_profiles(path, model, settings["rule"])
    with threads.using(model.backbone):
        judged = judge(model, data.pairs, read_settings(run)["loader"]["eval_batch_size"])

    names = list(dict.fromkeys(users)) if user is None else [user]
    count_U, before_UJ = profiles.counts(names), profiles.weights(names)
    margins_NJ, rewards_MJ = judged.margins_BJ[: len(pairs)], judged.rewards_BJ[len(pairs) :]
    learned = profiles.learn(users, margins_NJ)
    after_UJ = profiles.weights(names)
    columns = (count_U, profiles.counts(names), before_UJ, after_UJ)
    found: dict[str, Any] = {
        "run": str(run),
        "profile": str(path),
        "heads": profiles.heads,
        "rule": profiles.rule,
        "judges": ["as trained", *(f"head {head}" for head in range(model.num_heads))],
        "users": {
            name: {"labels": {"before": start, "after": end}, "weights": {"before": before, "after": after}}
            for name, start, end, before, after in zip(names, *(column.tolist() for column in columns), strict=True)
        },
    }
    if pairs:
        stream = {
            "user": users,
            "label": learned.label_N.tolist(),
            "personalised": log_prob(margins_NJ, learned.weights_NK).tolist(),
            "as_trained": (-losses(margins_NJ[:, 0])).tolist(),
            "regret": learned.regret_N.tolist(),
            "bound": learned.bound_N.tolist(),
        }
        found |= {"stream": stream, **summarise(stream)}
    if pairs and len(names) == 1:
        found["explanation"] = explain(
            margins_NJ,
            np.zeros(len(pairs), dtype=np.int64),
            before_UJ,
            after_UJ,
            names,
            found["judges"],
            np.arange(len(pairs)),
            f"these labels, by the rule {profiles.rule}",
            [(in_words(record.prompt), record.chosen, record.rejected) for record in pairs],
        )
    if responses:
        rewards = {
            "as_trained": rewards_MJ[:, 0],
            "before": rewards_MJ @ before_UJ[0],
            "after": rewards_MJ @ after_UJ[0],
        }
        found["responses"] = rank(responses, rewards)
    return found, profiles


def read_pairs(path: str, columns: dict[str, str], on_bad_row: str) -> tuple[list[Record], Counts]:
    """All pairs of a file or folder, in its order."""
    whole = {"validation_fraction": 0.0, "test_fraction": 0.0}
    records, _, counts = PairFiles("pairs", path, columns=columns, on_bad_row=on_bad_row, **whole).read(seed=0)
    return records, counts


def read_responses(path: str) -> tuple[list[Record], Counts]:
    """Rows of prompt and response (and maybe criterion), each as a pair of the response with itself."""
    records = []
    for place, row in read_rows(path):
        try:
            records.append(_response(row))
        except BadRow as error:
            raise UserError(f"{place}: {error}") from error
    if not records:
        raise UserError(f"{path}: no responses")
    return records, Counts(rows=len(records))


def _response(row: dict[str, Any] | BadRow) -> Record:
    if isinstance(row, BadRow):
        raise row
    for name in ("prompt", "response"):
        if row.get(name) is None:
            raise BadRow(f"column {name!r} is missing or null")
    try:
        # A record's two texts differ, so there must be another one for a moment.
        record = parse_record({**row, "chosen": row["response"], "rejected": f"{row['response']} "})
    except BadRow as error:
        raise BadRow(str(error).replace("chosen", "response")) from error
    return record._replace(rejected=record.chosen)


def whose(pairs: Sequence[Record], user: str | None) -> list[str]:
    """The user of each pair: `user`, or else the one its row names."""
    named = {record.user_id for record in pairs}
    if user is None and None in named:
        raise UserError("pairs: a row without user_id; say whose labels these are with user=<name>")
    if user is not None and (others := named - {None, user}):
        raise UserError(f"pairs: labels of {min(others)!r} are not those of user={user}; user=null teaches all users")
    return [record.user_id if user is None else user for record in pairs]


def open_profiles(path: Path, model: MixtureBT, rule: str) -> Profiles:
    """The profiles in a file, or none yet. Raises `UserError` when they are not to be used with this model and rule."""
    if model.num_heads == 1:
        raise UserError("run: a model of one head, nothing to personalise; give the run of a mixture")
    if not path.exists():
        return Profiles(np.repeat([0.5, 0.5 / model.num_heads], [1, model.num_heads]), fingerprint(model), rule)
    try:
        profiles = Profiles.load(path, fingerprint(model))
    except ValueError as error:
        raise UserError(f"profile={error}") from error
    if profiles.rule != rule:
        raise UserError(f"rule={rule}: {path} is kept by the rule {profiles.rule}; give that, or another file")
    return profiles


def fingerprint(model: MixtureBT) -> str:
    """K and a digest of all that makes the judges of a run: the weights in its checkpoint, and the link."""
    digest = hashlib.sha256(model.link.encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{model.num_heads}-{digest.hexdigest()[:32]}"


class Judged(NamedTuple):
    """Of B pairs: margins of every judge, chosen minus rejected, and the rewards of the chosen responses."""

    margins_BJ: Array
    rewards_BJ: Array


@torch.no_grad()
def judge(model: MixtureBT, pairs: Pairs, batch_size: int) -> Judged:
    """What the judges say of all pairs. The model's own margin is the log odds of the preference that it expects."""
    parts = []
    for rows_B in torch.arange(len(pairs)).split(batch_size):
        judgment = model(pairs[rows_B])
        opposite = judgment._replace(margins_BK=-judgment.margins_BK)
        margin_B = model.log_prob(judgment) - model.log_prob(opposite)
        reward_B = (judgment.log_weights_BK.exp() * judgment.chosen_BK).sum(dim=1)
        columns = ((margin_B, judgment.margins_BK), (reward_B, judgment.chosen_BK))
        parts.append([torch.cat([own_B[:, None], heads_BK], dim=1).double() for own_B, heads_BK in columns])
    return Judged(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))


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


def rank(responses: Sequence[Record], rewards: dict[str, Array]) -> list[dict[str, Any]]:
    """A row for each response: its reward, and its rank for the same prompt and criterion, under each weights."""
    contexts = [repr((record.prompt, record.criterion)) for record in responses]
    table = pd.DataFrame(rewards)
    ranks = table.groupby(contexts).rank(method="min", ascending=False).astype(int)
    return [
        {
            "prompt": [message._asdict() for message in record.prompt],
            "criterion": record.criterion,
            "response": record.chosen,
            "rewards": reward,
            "ranks": place,
        }
        for record, reward, place in zip(responses, table.to_dict("records"), ranks.to_dict("records"), strict=True)
    ]
