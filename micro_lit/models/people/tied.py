"""Mixtures whose weights are tied to users: one code for all pairs of a user.

Dimension letters: B pairs in the batch, N pairs, K heads, U users, C numbers of a user's code, E numbers of a pair.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from micro_lit.likelihood import LOG_NEVER, LinkName, hedge_log_targets, sum_by
from micro_lit.models.mixture import Judgment
from micro_lit.models.people.base import PeopleBT, number_users, prior_of_users
from micro_lit.ranges import Count, NonNegative

SPREAD = 2.0  # standard deviation of the initial log weights of EM

Estimation = Literal["gradient", "em"]


class TiedMixture(PeopleBT):
    """A mixture in which each user belongs to one latent group: log Σ_k π_k Π_{i of u} σ(Δ_ik) for every user.

    EM in the form of Neal & Hinton [1998]: the loss of a user is the minimum over weights w of

        Σ_k w_k Σ_i -log σ(Δ_ik) + temperature KL(w ‖ π).

    The minimiser is the posterior, at temperature 1 that of Bayes' rule; its gradient with respect to heads and gate is
    that of the marginal likelihood. With one head it is single BT, to the last bit.

    π: the gate's weights. For a gate that reads prompts or sources, their logs are averaged over a user's pairs.

    Args:
        estimation: `gradient` computes w for each batch, and so follows the exact gradient. `em` computes the w of all
            users at the start of an epoch (the E-step; the first is random) and keeps them during the epoch (the
            M-step). With `model/optimizer=lbfgs` and a batch of all pairs, an epoch is one iteration of EM. A pair
            without a named user counts as a separate user.
        temperature: temperature in nats. Above 1, labels have less influence, which reduces overfitting with few labels
            and many heads. At 0, a user has the one head of least loss, π has no effect and the gate learns nothing:
            see `MaxMinEM`.
    """

    weighs_heads = True
    own_link: LinkName = "probability"

    def __init__(
        self,
        backbone: nn.Module,
        names: Mapping[str, list[str]],
        num_heads: Count | None,
        estimation: Estimation = "gradient",
        temperature: NonNegative = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, names, num_heads, link=self.own_link, **settings)
        self.estimation, self.temperature = estimation, temperature
        # State of EM: the number of the epoch, and the log weights of all users in it.
        self.epoch = -1
        self.register_buffer("log_weights_UK", None, persistent=False)

    def user_log_weights(self, margins_NK: Tensor, log_prior_UK: Tensor, user_N: Tensor) -> Float[Tensor, "U K"]:
        """The log weights of each user given the user's labels: the posterior, or the best head at temperature 0."""
        losses_UK = sum_by(self.link.head_losses(margins_NK, self.label_smoothing), user_N, len(log_prior_UK))
        if self.temperature:
            return hedge_log_targets(losses_UK, log_prior_UK, self.temperature)
        best_U1 = losses_UK.argmin(dim=-1, keepdim=True)
        return torch.full_like(losses_UK, LOG_NEVER).scatter(1, best_U1, 0.0)

    def user_nll(self, margins_BK: Tensor, log_weights_BK: Tensor) -> Float[Tensor, " B"]:
        """The loss of each pair under its user's weights, in nats."""
        return (log_weights_BK.exp() * self.link.head_losses(margins_BK, self.label_smoothing)).sum(dim=-1)

    def nll_terms(self, judgment: Judgment, pairs: Any) -> Float[Tensor, " B"]:
        """The loss of each pair, plus its share of the KL term of its user."""
        code_B = pairs.label_N("user_id")
        user_B, num_users = number_users(code_B)
        log_prior_uK = prior_of_users(judgment.log_weights_BK, user_B, num_users)
        with torch.no_grad():
            log_weights_uK = self.user_log_weights(judgment.margins_BK, log_prior_uK, user_B)
            if self.log_weights_UK is not None:
                log_weights_uK[user_B[code_B >= 0]] = self.log_weights_UK[code_B[code_B >= 0]]
        nll_B = self.user_nll(judgment.margins_BK, log_weights_uK[user_B])
        # Kept at temperature 0: distributed training needs a gradient for every weight; the gate's is then 0.
        divergence_u = (log_weights_uK.exp() * (log_weights_uK - log_prior_uK)).sum(dim=-1)
        return nll_B + self.temperature * (divergence_u / torch.bincount(user_B, minlength=num_users))[user_B]

    def evidence(self, judgment: Judgment) -> Float[Tensor, "B E"]:
        """Margins, then the log weights of the gate."""
        return torch.cat([judgment.margins_BK, judgment.log_weights_BK], dim=-1)

    def codes(self, evidence_NE: Float[Tensor, "N E"], user_N: Int64[Tensor, " N"], num_users: int) -> Tensor:
        """The labels' contribution to the log weights: posterior minus prior."""
        log_weights_UK, log_prior_UK = self.weigh_users(evidence_NE, user_N, num_users)
        return log_weights_UK - log_prior_UK

    def weigh_users(self, evidence_NE: Tensor, user_N: Tensor, num_users: int) -> tuple[Tensor, Tensor]:
        """The log weights of users with and without their labels; equal for users without labels."""
        margins_NK, log_weights_NK = evidence_NE.chunk(2, dim=-1)
        log_prior_UK = prior_of_users(log_weights_NK, user_N, num_users)
        log_weights_UK = self.user_log_weights(margins_NK, log_prior_UK, user_N)
        unlabelled_U = torch.bincount(user_N, minlength=num_users) == 0
        return torch.where(unlabelled_U[:, None], log_prior_UK, log_weights_UK), log_prior_UK

    @torch.no_grad()
    def on_train_epoch_start(self) -> None:
        """The E-step; a resumed epoch keeps its weights. In the first epoch the weights are random.

        With weights computed from random heads, users would differ by the heads' scale, not by their preferences.
        """
        super().on_train_epoch_start()
        if self.estimation == "em" and self.epoch != self.current_epoch:
            self.epoch = self.current_epoch
            if self.epoch == 0:
                drawn_UK = torch.randn(self.codes_UC.shape).to(self.codes_UC)  # on the CPU: equal on every device
                self.log_weights_UK = torch.log_softmax(SPREAD * drawn_UK, dim=-1)
            else:
                pairs = self.trainer.datamodule.labelled_pairs.to(self.device)
                pairs = pairs[torch.nonzero(pairs.label_N("user_id") >= 0)[:, 0]]
                self.log_weights_UK, _ = self.weigh_users(self.read(pairs), pairs.label_N("user_id"), self.num_users)
            for optimizer in self.trainer.optimizers:
                if isinstance(optimizer, torch.optim.LBFGS):
                    optimizer.state.clear()  # its curvature estimate belongs to the previous loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["e_step"] = (self.epoch, self.log_weights_UK)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.epoch, log_weights_UK = checkpoint.get("e_step", (-1, None))
        # Some strategies load a checkpoint after the model has moved to its device.
        self.log_weights_UK = None if log_weights_UK is None else log_weights_UK.to(self.device)


class MaxMinEM(TiedMixture):
    """Hard EM: each user has the one head of least loss on all the user's labels  [MaxMin-RLHF, arXiv 2402.08925].

    Implements the paper's first stage, which learns the rewards. The second stage, training a policy for the worst-off
    group, is outside reward modelling. New users have the gate's weights until their first label, then one head.
    """

    def __init__(self, *arguments: Any, estimation: Estimation = "em", **settings: Any) -> None:
        super().__init__(*arguments, estimation=estimation, temperature=0.0, **settings)
