"""Outcomes of comparisons: which statistic of the rewards an outcome depends on, and its log-probability.

A comparison has L responses. An outcome depends on a linear statistic of their rewards, so that heads can be mixed
before the log-probability (link `reward`) or after it (link `probability`). For a winner of two responses the statistic
is the margin. It would be the reward itself for an approval, and all L rewards for an order.

Shape letters: B comparisons, L responses of each, K heads, S the numbers of a statistic beyond the first, if any.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid


class Outcome(ABC):
    """What a rater said of the responses of one comparison.

    responses: L, how many responses it takes.
    """

    responses: ClassVar[int]

    @abstractmethod
    def statistic(self, *rewards: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """The linear statistic of the rewards that the outcome depends on.

        Args:
            rewards: of the 1st, 2nd .. Lth response, one tensor [B, K] each, or [B] where a link has mixed them.

        Returns:
            [B, K], one number a head; or [B, S, K], several.
        """

    @abstractmethod
    def log_prob(self, statistic: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Log-probability of the outcome, in nats.

        Args:
            statistic: with heads as its last dimension, or without heads where a link has mixed them.

        Returns:
            The statistic's shape without S: [B, K], or [B].
        """

    @abstractmethod
    def opposite(self, statistic: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """The statistic of the outcome that a wrong label would have hidden; label smoothing needs it."""

    def array_log_prob(self, statistic: NDArray[np.floating]) -> NDArray[Any]:
        """`log_prob` of a NumPy array."""
        return self.log_prob(torch.from_numpy(np.array(statistic))).numpy()


class Winner(Outcome):
    """The first of two responses is preferred: log σ(r_1 - r_2)  [Bradley & Terry 1952].

    The statistic is the margin. Every method works elementwise, so that margins may have any shape.
    """

    responses = 2

    def statistic(self, *rewards: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        chosen, rejected = rewards
        return chosen - rejected

    def log_prob(self, statistic: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        return logsigmoid(statistic)

    def opposite(self, statistic: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        return -statistic


WINNER = Winner()
