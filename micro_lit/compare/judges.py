"""The judges of a run: the model as everybody gets it, gate and all, and then each of its K heads by itself.

Dimension letters: B pairs in a batch, K heads, J = 1 + K judges.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from micro_lit.adapt.labels import Array
from micro_lit.adapt.profiles import Profiles
from micro_lit.config import build
from micro_lit.data.pairs import Pairs
from micro_lit.errors import UserError
from micro_lit.host import devices
from micro_lit.models import MixtureBT


def nobody(model: MixtureBT, rule: str | Mapping[str, Any]) -> Profiles:
    """Profiles over the judges, without users yet, see `prior`.

    rule: the name of a rule of ours, or the node of an adaptation, which is called by its dotted name and settings.
    """
    if model.num_heads == 1:
        raise UserError("run: a model of one head, nothing to personalise; give the run of a mixture")
    prior_J = prior(model.num_heads)
    if isinstance(rule, str):
        return Profiles(prior_J, fingerprint(model), rule)
    told = ", ".join(f"{name}={value!r}" for name, value in rule.items() if name not in ("_target_", "_partial_"))
    return Profiles(prior_J, fingerprint(model), f"{rule['_target_']}{told and f'({told})'}", build(rule))


def prior(num_heads: int) -> Array:
    """[J] one half of the weight on the model, the other on its heads alike."""
    return np.repeat([0.5, 0.5 / num_heads], [1, num_heads])


def names(model: MixtureBT) -> list[str]:
    """What tables call the judges."""
    return ["as trained", *(f"head {head}" for head in range(model.num_heads))]


def fingerprint(model: MixtureBT) -> str:
    """K and a digest of all that makes the judges of a run: the weights in its checkpoint, and the link."""
    digest = hashlib.sha256(model.link.name.encode())
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
    with devices.judging(model) as device:
        for rows_B in torch.arange(len(pairs)).split(batch_size):
            judgment = model(pairs[rows_B].to(device))
            opposite = judgment._replace(margins_BK=-judgment.margins_BK)
            margin_B = model.log_prob(judgment) - model.log_prob(opposite)
            reward_B = (judgment.log_weights_BK.exp() * judgment.chosen_BK).sum(dim=1)
            columns = ((margin_B, judgment.margins_BK), (reward_B, judgment.chosen_BK))
            parts.append([torch.cat([own_B[:, None], heads_BK], dim=1).double().cpu() for own_B, heads_BK in columns])
    return Judged(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))
