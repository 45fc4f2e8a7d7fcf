"""Regularisation terms of the training loss, on weights and heads; they do not depend on the labels.

Shape letters: B comparisons in the batch, K heads.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def negative_entropy(log_weights_BK: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Mean over examples of Σ_k w_k log w_k, in nats; from -log K (uniform) to 0 (one head).

    With a positive coefficient in a loss it pulls *every example* towards uniform weights [MiCRo, eq. 5].
    """
    return (log_weights_BK.exp() * log_weights_BK).sum(dim=-1).mean()


def imbalance(log_weights_BK: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """KL divergence of the batch's mean weights from uniform, in nats; 0 if all heads are used equally.

    Unlike `negative_entropy` it allows sharp weights of single examples, as long as the batch uses every head.
    """
    num_heads = log_weights_BK.shape[-1]
    log_mean_K = torch.logsumexp(log_weights_BK, dim=0) - math.log(log_weights_BK.shape[0])
    return (log_mean_K.exp() * (log_mean_K + math.log(num_heads))).sum()


def diversity(margins_BK: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Mean squared correlation of two heads' margins over the batch: 0 if uncorrelated, 1 if all proportional.

    To be minimised. The correlation is about zero, not about the mean, so that it does not depend on which response of
    a pair was chosen; a head and its negation count as equal. In a batch of B pairs independent heads have about 1/B. A
    head whose margins are all 0 has correlation 0 with every other.
    """
    num_heads = margins_BK.shape[-1]
    unit_BK = torch.nn.functional.normalize(margins_BK, dim=0)
    other_KK = 1.0 - torch.eye(num_heads, device=margins_BK.device, dtype=margins_BK.dtype)
    return (other_KK * (unit_BK.T @ unit_BK).square()).sum() / max(1, num_heads * (num_heads - 1))
