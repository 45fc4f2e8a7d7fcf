"""The judges of a run, which a profile weighs: the model as trained, with its gate, and each of its K heads alone.

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


def empty_profiles(model: MixtureBT, rule: str | Mapping[str, Any]) -> Profiles:
    """Creates empty profiles over the judges of a model, with the weights of `judge_prior`.

    Args:
        rule: name of a built-in rule, or config node of an adaptation; a node is recorded as dotted name and settings.

    Raises:
        UserError: the model has one head.
    """
    if model.num_heads == 1:
        raise UserError("run: a model of one head, nothing to personalise; give the run of a mixture")
    prior_J = judge_prior(model.num_heads)
    if isinstance(rule, str):
        return Profiles(prior_J, heads_fingerprint(model), rule)
    arguments = ", ".join(f"{name}={value!r}" for name, value in rule.items() if name not in ("_target_", "_partial_"))
    return Profiles(
        prior_J, heads_fingerprint(model), f"{rule['_target_']}{arguments and f'({arguments})'}", build(rule)
    )


def judge_prior(num_heads: int) -> Array:
    """Prior weights [J]: one half on the model as trained, the other half uniform over its heads."""
    return np.repeat([0.5, 0.5 / num_heads], [1, num_heads])


def names(model: MixtureBT) -> list[str]:
    """Names [J] of the judges in tables."""
    return ["as trained", *(f"head {head}" for head in range(model.num_heads))]


def heads_fingerprint(model: MixtureBT) -> str:
    """Returns K and a SHA-256 digest of the weights and the link, so that profiles are used with one model only."""
    digest = hashlib.sha256(model.link.name.encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{model.num_heads}-{digest.hexdigest()[:32]}"


class Judged(NamedTuple):
    """Margins of every judge on B pairs, chosen minus rejected, and rewards of the chosen responses."""

    margins_BJ: Array
    rewards_BJ: Array


@torch.no_grad()
def judge_pairs(model: MixtureBT, pairs: Pairs, batch_size: int) -> Judged:
    """Computes margins and rewards of all judges, in float64. The model's margin is the log odds of its preference.

    Args:
        pairs: N pairs.
        batch_size: number of pairs per forward pass.

    Returns:
        Margins and rewards of all N pairs.
    """
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
