"""Links: how heads and their weights combine into one log-probability of an outcome.

Shape letters: B comparisons in the batch, K heads, S the numbers of a statistic beyond the first (none for a winner).
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from micro_lit.likelihood.outcomes import WINNER, Outcome

LinkName = Literal["probability", "reward"]

WEIGHTS_TOLERANCE = 1e-4  # of the sum of weights, for float32 and bfloat16 gates
LOG_PROB_TOLERANCE = 1e-6  # above 0, to which a sum of float32 probabilities may be rounded


class Link(ABC):
    """The likelihood of a model with K heads: training and all reported numbers use its `log_prob`.

    Custom links extend this class and define `log_prob`: `'model.link={_target_: mine.MyLink}' packages=[mine]`.

    Args:
        outcome: kind of the labels.

    Attributes:
        name: name of the link in the model's digest and in error messages.
    """

    name: ClassVar[str] = ""

    def __init__(self, outcome: Outcome = WINNER) -> None:
        self.outcome = outcome

    def __init_subclass__(cls) -> None:
        cls.name = vars(cls).get("name") or f"{cls.__module__}.{cls.__qualname__}"

    def margin(self, *rewards_BK: Float[Tensor, "B K"]) -> Float[Tensor, "B *S K"]:
        """The statistic of the rewards that the outcome depends on: for a winner, chosen minus rejected."""
        return self.outcome.statistic(*rewards_BK)

    @abstractmethod
    def log_prob(
        self, margins_BK: Float[Tensor, "B *S K"], log_weights_BK: Float[Tensor, "B K"]
    ) -> Float[Tensor, " B"]:
        """Log-probability of the outcome, in nats; for a winner, that the chosen response is preferred.

        Args:
            margins_BK: the statistic of each head, as returned by `margin`.
            log_weights_BK: log mixture weights; the weights of each row sum to one.
        """

    def loss(
        self, margins_BK: Float[Tensor, "B *S K"], log_weights_BK: Float[Tensor, "B K"], label_smoothing: float = 0.0
    ) -> Float[Tensor, " B"]:
        """Negative log-likelihood of each comparison, in nats.

        Args:
            margins_BK: as in `log_prob`.
            log_weights_BK: as in `log_prob`.
            label_smoothing: the probability that a label is wrong.
        """
        loss_B = -self.log_prob(margins_BK, log_weights_BK)
        if label_smoothing == 0.0:
            return loss_B
        opposite_BK = self.outcome.opposite(margins_BK)
        return torch.lerp(loss_B, -self.log_prob(opposite_BK, log_weights_BK), label_smoothing)

    def head_losses(self, margins_BK: Float[Tensor, "B *S K"], label_smoothing: float = 0.0) -> Float[Tensor, "B K"]:
        """Negative log-likelihood of each comparison under each head alone, in nats; label_smoothing: as in `loss`."""
        losses_BK = -self.outcome.log_prob(margins_BK)
        if label_smoothing == 0.0:
            return losses_BK
        return torch.lerp(losses_BK, -self.outcome.log_prob(self.outcome.opposite(margins_BK)), label_smoothing)


class ProbabilityLink(Link):
    """A mixture of models: log Σ_k w_k exp ℓ_k, ℓ_k the log-probability under head k  [MiCRo, 2505.24846, eq. 4].

    For a winner, log Σ_k w_k σ(Δ_k). With K = 1 it is log σ(Δ) to the last bit.
    """

    name = "probability"

    def log_prob(
        self, margins_BK: Float[Tensor, "B *S K"], log_weights_BK: Float[Tensor, "B K"]
    ) -> Float[Tensor, " B"]:
        return torch.logsumexp(log_weights_BK + self.outcome.log_prob(margins_BK), dim=-1)


class RewardLink(Link):
    """One model of the weighted mean reward: ℓ(Σ_k w_k s_k), s_k the statistic of head k.

    For a winner, log σ(Σ_k w_k Δ_k). With K = 1 it is log σ(Δ) to the last bit.
    """

    name = "reward"

    def log_prob(
        self, margins_BK: Float[Tensor, "B *S K"], log_weights_BK: Float[Tensor, "B K"]
    ) -> Float[Tensor, " B"]:
        weights_BK = log_weights_BK.exp()
        if margins_BK.ndim > 2:
            weights_BK = weights_BK[:, None]
        return self.outcome.log_prob((weights_BK * margins_BK).sum(dim=-1))


KINDS: dict[LinkName, type[Link]] = {"probability": ProbabilityLink, "reward": RewardLink}


def link_of(link: str | Link) -> Link:
    """The link with a given name, for winners; a `Link` is returned as it is. Raises `ValueError` for unknown names."""
    if isinstance(link, str):
        if link not in KINDS:
            raise ValueError(f"link is {link!r}; allowed are {', '.join(map(repr, KINDS))}, or an object of `Link`")
        return KINDS[link]()
    return link


def preference_log_prob(
    margins_BK: Float[Tensor, "B K"], log_weights_BK: Float[Tensor, "B K"], link: LinkName | Link = "probability"
) -> Float[Tensor, " B"]:
    """Log-probability that the chosen response is preferred, in nats: `Link.log_prob` of a link given by name.

    Example:

        >>> log_weights_BK = torch.tensor([[0.5, 0.5]]).log()
        >>> preference_log_prob(torch.tensor([[2.0, -2.0]]), log_weights_BK).exp()  # (σ(2) + σ(-2)) / 2
        tensor([0.5000])
    """
    return link_of(link).log_prob(margins_BK, log_weights_BK)
