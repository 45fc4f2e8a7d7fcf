"""Terms that a training loss may add: what heads and weights should look like, whatever the labels.

Shape letters: B comparisons in the batch, K heads.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def negative_entropy(log_weights_BK: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Mean over examples of Σ_k w_k log w_k, in nats; from -log K (uniform) to 0 (one head).

    Added to a loss with a positive coefficient it pulls *every example* towards uniform weights [MiCRo, eq. 5].
    """
    return (log_weights_BK.exp() * log_weights_BK).sum(dim=-1).mean()


def imbalance(log_weights_BK: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """KL divergence of the batch's mean weights from uniform, in nats; 0 when all heads are used alike.

    Unlike `negative_entropy` it lets each example choose sharply, as long as the batch uses every head.
    """
    num_heads = log_weights_BK.shape[-1]
    log_mean_K = torch.logsumexp(log_weights_BK, dim=0) - math.log(log_weights_BK.shape[0])
    return (log_mean_K.exp() * (log_mean_K + math.log(num_heads))).sum()


def diversity(margins_BK: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Mean squared correlation of two heads' margins over the batch; 0 when all are unrelated, 1 when all say the same.

    To be minimised. About zero, not about the mean, so that which response of a pair was chosen does not matter; the
    opposite of a head is as like it as the head itself. In a batch of B pairs unrelated heads show about 1/B. A head
    without margins is like no other.
    """
    num_heads = margins_BK.shape[-1]
    unit_BK = torch.nn.functional.normalize(margins_BK, dim=0)
    other_KK = 1.0 - torch.eye(num_heads, device=margins_BK.device, dtype=margins_BK.dtype)
    return (other_KK * (unit_BK.T @ unit_BK).square()).sum() / max(1, num_heads * (num_heads - 1))
