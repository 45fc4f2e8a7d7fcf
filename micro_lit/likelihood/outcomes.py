"""Outcomes of comparisons: the statistic of the rewards that an outcome depends on, and its log-probability.

A comparison has L responses. An outcome depends on a linear statistic of their rewards, so that heads can be combined
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
    """The kind of label of a comparison: its likelihood given the rewards.

    responses: number of responses, L.
    """

    responses: ClassVar[int]

    @abstractmethod
    def statistic(self, *rewards: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """The linear statistic of the rewards that the outcome depends on.

        Args:
            rewards: of the 1st, 2nd .. Lth response, one tensor [B, K] each, or [B] if a link has combined them.

        Returns:
            [B, K], one number per head; or [B, S, K], several.
        """

    @abstractmethod
    def log_prob(self, statistic: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Log-probability of the outcome, in nats.

        Args:
            statistic: with heads as its last dimension, or without heads if a link has combined them.

        Returns:
            The statistic's shape without S: [B, K], or [B].
        """

    @abstractmethod
    def opposite(self, statistic: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """The statistic of the opposite outcome, which is the true one if the label is wrong; for label smoothing."""

    def array_log_prob(self, statistic: NDArray[np.floating]) -> NDArray[Any]:
        """`log_prob` for a NumPy array."""
        return self.log_prob(torch.from_numpy(np.array(statistic))).numpy()


class Winner(Outcome):
    """The first of two responses is preferred: log σ(r_1 - r_2)  [Bradley & Terry 1952].

    The statistic is the margin. Every method works elementwise, on margins of any shape.
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
