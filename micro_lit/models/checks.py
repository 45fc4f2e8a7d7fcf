"""Checks of the outputs of heads, gates and links, on the first training batch and whenever pairs are scored.

Without them, a gate that lacks a log-softmax would report a likelihood above 1, which no later step detects.

Shape letters: B pairs in the batch, K heads.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from micro_lit.errors import UserError, name_of
from micro_lit.likelihood import LOG_PROB_TOLERANCE, WEIGHTS_TOLERANCE


def check_rewards(head: nn.Module, rewards_NK: Any, rows: int, num_heads: int) -> None:
    """Raises `UserError` unless a head returns floating-point rewards [rows, K]. Checks type and shape, not values."""
    if not _fits(rewards_NK, (rows,), num_heads):
        raise UserError(
            f"model.head: {type(head).__name__} gives {_described(rewards_NK, 'rewards')} for {rows} responses; give "
            f"floating-point numbers of shape [rows, {num_heads}]"
        )


def check_log_weights(gate: nn.Module, log_weights_BK: Any, rows: int, num_heads: int) -> None:
    """Raises `UserError` unless a gate returns floating-point log weights [B, K] or [1, K]. Does not check values."""
    if not _fits(log_weights_BK, (1, rows), num_heads):
        raise UserError(
            f"model.gate: {type(gate).__name__} gives {_described(log_weights_BK, 'log weights')} for {rows} pairs; "
            f"give floating-point numbers of shape [pairs, {num_heads}], or [1, {num_heads}] for all pairs"
        )


@torch.no_grad()
def check_term(name: str, term: object, value: Any) -> None:
    """Raises `UserError` unless a loss term is a finite floating-point scalar."""
    is_scalar = isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()
    if not is_scalar or not value.isfinite():
        found = f"{float(value)}" if is_scalar else _described(value, "numbers")
        raise UserError(
            f"model.terms.{name}: {name_of(term)} gives {found}; give one finite number in nats a pair, a "
            "floating-point tensor of shape []"
        )


def _fits(found: Any, rows: tuple[int, ...], num_heads: int) -> bool:
    if not isinstance(found, Tensor) or found.ndim != 2 or not found.is_floating_point():
        return False
    return found.shape[0] in rows and found.shape[1] == num_heads


def _described(found: Any, what: str) -> str:
    if not isinstance(found, Tensor):
        return f"an object of {type(found).__name__}"
    return f"{str(found.dtype).removeprefix('torch.')} {what} of shape {list(found.shape)}"


@torch.no_grad()
def check_weights(gate: nn.Module, log_weights_BK: Float[Tensor, "B K"]) -> None:
    """Raises `UserError` unless a gate returns log weights whose exponentials sum to one; a weight of 0 is allowed."""
    sum_B = log_weights_BK.double().exp().sum(dim=-1)
    wrong_B = ~((sum_B - 1.0).abs() <= WEIGHTS_TOLERANCE)
    if wrong_B.any():
        raise UserError(
            f"model.gate: the weights of {type(gate).__name__} sum to {float(sum_B[wrong_B][0]):.4g} for "
            f"{int(wrong_B.sum())} of {len(sum_B)} pairs; give log weights that sum to one, as torch.log_softmax makes"
        )


@torch.no_grad()
def check_log_prob(link: object, log_prob_B: Float[Tensor, " B"]) -> None:
    """Raises `UserError` for a log-probability that is NaN or above 0."""
    wrong_B = ~(log_prob_B <= LOG_PROB_TOLERANCE)
    if wrong_B.any():
        raise UserError(
            f"{type(link).__name__} gives the log-probability {float(log_prob_B[wrong_B][0]):.4g} for "
            f"{int(wrong_B.sum())} of {len(log_prob_B)} pairs; log-probabilities are numbers of at most 0: see whether "
            "rewards are NaN, or what the link adds up"
        )
