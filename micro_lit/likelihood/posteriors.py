"""Posteriors of heads given labels: losses summed over a user, and the resulting weights.

Shape letters: B comparisons in the batch, N rows, K heads, U users.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# A log weight whose exponential is 0 in every precision; minus infinity would make 0 · log 0 of the entropy NaN.
LOG_NEVER = -1e9


def sum_by(values_NK: Float[Tensor, "N K"], user_N: Int64[Tensor, " N"], num_users: int) -> Float[Tensor, "U K"]:
    """Sums of the rows of each user 0 .. U - 1, without padding."""
    return values_NK.new_zeros(num_users, values_NK.shape[1]).index_add_(0, user_N, values_NK)


def hedge_log_targets(
    losses_BK: Float[Tensor, "B K"], log_weights_BK: Float[Tensor, "B K"], tau: float = 1.0
) -> Float[Tensor, "B K"]:
    """Log of the weights w that minimise Σ_k w_k ℓ_k + tau KL(w ‖ ω), w ∝ ω exp(-ℓ / tau)  [MiCRo, §3.3].

    At tau = 1, with ℓ the negative log-likelihood under each head, it is Bayes' rule: the posterior of the heads.

    Args:
        losses_BK: ℓ, in nats.
        log_weights_BK: log ω.
        tau: temperature in nats.
    """
    return torch.log_softmax(log_weights_BK - losses_BK / tau, dim=-1)
