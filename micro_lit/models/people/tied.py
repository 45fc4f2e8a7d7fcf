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

SPREAD = 2.0  # standard deviation of the log weights that EM starts from

Estimation = Literal["gradient", "em"]


class TiedMixture(PeopleBT):
    """A mixture whose users each belong to one latent group: log Σ_k π_k Π_{i of u} σ(Δ_ik) for every user.

    Written as Neal & Hinton [1998] write EM: the loss of a user is min over weights w of

        Σ_k w_k Σ_i -log σ(Δ_ik) + temperature KL(w ‖ π),

    whose minimiser is the posterior, at temperature 1 Bayes' own; its gradient by heads and gate is that of the
    marginal likelihood. With one head it is single BT, to the last bit.

    π: the gate's weights, a gate that reads prompts or sources averaged (in logs) over a user's pairs.
    estimation: `gradient` finds w anew for each batch, and so follows the exact gradient. `em` finds the w of all users
        when an epoch begins (the E-step; the first draws them) and keeps them while it lasts (the M-step): with
        `model/optimizer=lbfgs` and a batch of all pairs an epoch is one iteration of EM. A pair of no named user has a
        user of its own.
    temperature: nats. Above 1 labels count for less than they say, which mends what few labels and many heads overfit;
        at 0 a user has the one head that loses least, π has no say and the gate learns nothing: see `MaxMinEM`.
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
        # Of EM: which epoch it is, and the log weights of all users while it lasts.
        self.epoch = -1
        self.register_buffer("log_weights_UK", None, persistent=False)

    def user_log_weights(self, margins_NK: Tensor, log_prior_UK: Tensor, user_N: Tensor) -> Float[Tensor, "U K"]:
        """The weights that the labels of each user call for, as logs."""
        losses_UK = sum_by(self.link.head_losses(margins_NK, self.label_smoothing), user_N, len(log_prior_UK))
        if self.temperature:
            return hedge_log_targets(losses_UK, log_prior_UK, self.temperature)
        best_U1 = losses_UK.argmin(dim=-1, keepdim=True)
        return torch.full_like(losses_UK, LOG_NEVER).scatter(1, best_U1, 0.0)

    def user_nll(self, margins_BK: Tensor, log_weights_BK: Tensor) -> Float[Tensor, " B"]:
        """What each pair costs a user of these weights, in nats."""
        return (log_weights_BK.exp() * self.link.head_losses(margins_BK, self.label_smoothing)).sum(dim=-1)

    def nll_terms(self, judgment: Judgment, pairs: Any) -> Float[Tensor, " B"]:
        """What each pair costs, with its share of what the weights of its user cost."""
        code_B = pairs.label_N("user_id")
        user_B, num_users = number_users(code_B)
        log_prior_uK = prior_of_users(judgment.log_weights_BK, user_B, num_users)
        with torch.no_grad():
            log_weights_uK = self.user_log_weights(judgment.margins_BK, log_prior_uK, user_B)
            if self.log_weights_UK is not None:
                log_weights_uK[user_B[code_B >= 0]] = self.log_weights_UK[code_B[code_B >= 0]]
        nll_B = self.user_nll(judgment.margins_BK, log_weights_uK[user_B])
        # At temperature 0 too: several devices wait for a gradient of every weight, and that of the gate is then 0.
        divergence_u = (log_weights_uK.exp() * (log_weights_uK - log_prior_uK)).sum(dim=-1)
        return nll_B + self.temperature * (divergence_u / torch.bincount(user_B, minlength=num_users))[user_B]

    def evidence(self, judgment: Judgment) -> Float[Tensor, "B E"]:
        """Margins, then the log weights of the gate."""
        return torch.cat([judgment.margins_BK, judgment.log_weights_BK], dim=-1)

    def codes(self, evidence_NE: Float[Tensor, "N E"], user_N: Int64[Tensor, " N"], num_users: int) -> Tensor:
        """What the labels add to the log weights of the gate."""
        log_weights_UK, log_prior_UK = self.weigh_users(evidence_NE, user_N, num_users)
        return log_weights_UK - log_prior_UK

    def weigh_users(self, evidence_NE: Tensor, user_N: Tensor, num_users: int) -> tuple[Tensor, Tensor]:
        """The log weights of users with their labels, and without; the same for users who have none."""
        margins_NK, log_weights_NK = evidence_NE.chunk(2, dim=-1)
        log_prior_UK = prior_of_users(log_weights_NK, user_N, num_users)
        log_weights_UK = self.user_log_weights(margins_NK, log_prior_UK, user_N)
        unheard_U = torch.bincount(user_N, minlength=num_users) == 0
        return torch.where(unheard_U[:, None], log_prior_UK, log_weights_UK), log_prior_UK

    @torch.no_grad()
    def on_train_epoch_start(self) -> None:
        """The E-step; an epoch that is resumed keeps its own. The first gives users weights at random.

        Heads that differ at random would tell users apart by how large the heads are, not by what the users want.
        """
        super().on_train_epoch_start()
        if self.estimation == "em" and self.epoch != self.current_epoch:
            self.epoch = self.current_epoch
            if self.epoch == 0:
                drawn_UK = torch.randn(self.codes_UC.shape).to(self.codes_UC)  # on the CPU: alike on every device
                self.log_weights_UK = torch.log_softmax(SPREAD * drawn_UK, dim=-1)
            else:
                pairs = self.trainer.datamodule.labelled_pairs.to(self.device)
                pairs = pairs[torch.nonzero(pairs.label_N("user_id") >= 0)[:, 0]]
                self.log_weights_UK, _ = self.weigh_users(self.read(pairs), pairs.label_N("user_id"), self.num_users)
            for optimizer in self.trainer.optimizers:
                if isinstance(optimizer, torch.optim.LBFGS):
                    optimizer.state.clear()  # it has learned the curvature of another loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["e_step"] = (self.epoch, self.log_weights_UK)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.epoch, log_weights_UK = checkpoint.get("e_step", (-1, None))
        # Some strategies read a checkpoint when the model is on its device already.
        self.log_weights_UK = None if log_weights_UK is None else log_weights_UK.to(self.device)


class MaxMinEM(TiedMixture):
    """Hard EM: every user has the one head that loses least on all the user's labels  [MaxMin-RLHF, arXiv 2402.08925].

    Its first stage, which learns the rewards; that a policy should then be trained for the worst-off group is not for
    reward models to do. New users get the gate's weights until their first label, and one head from then on.
    """

    def __init__(self, *arguments: Any, estimation: Estimation = "em", **settings: Any) -> None:
        super().__init__(*arguments, estimation=estimation, temperature=0.0, **settings)
