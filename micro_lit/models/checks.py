"""What heads, gates and links must give, checked on the first training batch and wherever pairs are judged.

A gate without a log-softmax would otherwise report a likelihood above 1, which no later step notices.

Shape letters: B pairs in the batch, K heads.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from micro_lit.errors import UserError

SUM_TOLERANCE = 1e-4  # of the weights of a pair
LOG_TOLERANCE = 1e-6  # of log-probabilities above 0, which float32 sums may round to


def check_rewards(head: nn.Module, rewards_BK: Tensor, num_heads: int) -> None:
    """Raises `UserError` unless a head gives floating-point rewards [.., K]. Reads the shape alone, no value."""
    if rewards_BK.ndim != 2 or rewards_BK.shape[-1] != num_heads or not rewards_BK.is_floating_point():
        found = f"{str(rewards_BK.dtype).removeprefix('torch.')} rewards of shape {list(rewards_BK.shape)}"
        raise UserError(
            f"model.head: {type(head).__name__} gives {found}; give floating-point numbers of shape [rows, {num_heads}]"
        )


@torch.no_grad()
def check_weights(gate: nn.Module, log_weights_BK: Float[Tensor, "B K"]) -> None:
    """Raises `UserError` unless a gate gives the logs of weights that sum to one; a weight of 0 is allowed."""
    sum_B = log_weights_BK.double().exp().sum(dim=-1)
    wrong_B = ~((sum_B - 1.0).abs() <= SUM_TOLERANCE)
    if wrong_B.any():
        raise UserError(
            f"model.gate: the weights of {type(gate).__name__} sum to {float(sum_B[wrong_B][0]):.4g} for "
            f"{int(wrong_B.sum())} of {len(sum_B)} pairs; give log weights that sum to one, as torch.log_softmax makes"
        )


@torch.no_grad()
def check_log_prob(link: object, log_prob_B: Float[Tensor, " B"]) -> None:
    """Raises `UserError` for a log-probability that is NaN, or above 0."""
    wrong_B = ~(log_prob_B <= LOG_TOLERANCE)
    if wrong_B.any():
        raise UserError(
            f"{type(link).__name__} gives the log-probability {float(log_prob_B[wrong_B][0]):.4g} for "
            f"{int(wrong_B.sum())} of {len(log_prob_B)} pairs; log-probabilities are numbers of at most 0: see whether "
            "rewards are NaN, or what the link adds up"
        )
