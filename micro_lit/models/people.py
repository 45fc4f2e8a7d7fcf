"""Models of people: what somebody's labels say is shared by all of that somebody's pairs.

A user has weights over heads, or another code, that the user's labelled pairs determine. A pair-level mixture draws a
head anew for each pair and so cannot see people; these models judge all pairs of a user by one code. Heads are learned,
codes follow: a new user takes no training, only `learn`.

Dimension letters: B pairs in the batch, N pairs, K heads, U users, u users of a batch, C numbers of a user's code,
E numbers of a pair that codes are learned from.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from micro_lit import adaptation
from micro_lit.errors import UserError
from micro_lit.likelihood import LOG_NEVER, LinkName, hedge_log_targets, sum_by
from micro_lit.models.evidence import EpochEvidence
from micro_lit.models.heads import PrototypeHeads
from micro_lit.models.mixture import Judgment, MixtureBT

SPREAD = 2.0  # standard deviation of the log weights that EM starts from

Estimation = Literal["gradient", "em"]


class PeopleBT(MixtureBT):
    """What all models of people share. Batches hold all training pairs of their users (`by_user`).

    Pairs to validate and test on are judged with the codes that their users' training pairs determine. A user without
    any, or one whom the data do not name, has the code 0: the prior.

    A model gives `evidence` of each labelled pair, and `codes` of users from the evidence of all. Where the backbone is
    trained, validation takes the evidence from the training passes of the epoch, and so reads no text again; a test
    reads them with the weights that it judges by.
    """

    knows = frozenset({"user"})
    by_user = True
    rows_at_once = 4096  # in `learn`; where there is a Trainer, as many as it tests at once

    def __init__(self, backbone: nn.Module, names: Mapping[str, list[str]], *arguments: Any, **settings: Any) -> None:
        super().__init__(backbone, names, *arguments, **settings)
        self.num_users = len(names.get("user_id", []))
        self.register_buffer("codes_UC", torch.zeros(self.num_users, self.code_width), persistent=False)
        self.register_buffer("seen_U", torch.zeros(self.num_users, dtype=torch.bool), persistent=False)
        self.names["user"] = ["seen", "unseen"]
        self.epoch_evidence: EpochEvidence | None = None
        self.measure()

    @property
    def code_width(self) -> int:
        return self.num_heads

    def evidence(self, judgment: Judgment) -> Float[Tensor, "B E"]:
        """The numbers that codes are learned from, a row for each labelled pair: log-odds, votes or the like."""
        raise AssertionError("each model of people says what it learns from")

    def codes(self, evidence_NE: Float[Tensor, "N E"], user_N: Int64[Tensor, " N"], num_users: int) -> Tensor:
        """[U, C] the codes of users 0 .. U - 1 from the evidence of labelled pairs, all zero where there are none.

        user_N: whose label each pair is. The second argument of `forward` is a row of codes for each pair.
        """
        raise AssertionError("each model of people says how it learns")

    @torch.no_grad()
    def learn(self, pairs: Any, user_N: Int64[Tensor, " N"], num_users: int) -> Float[Tensor, "U C"]:
        """The codes of users 0 .. U - 1 from labelled pairs. user_N: whose label each pair is; -1: nobody's."""
        row_N = torch.nonzero(user_N >= 0)[:, 0]
        return self.codes(self.read(pairs[row_N]), user_N[row_N], num_users)

    def read(self, pairs: Any) -> Float[Tensor, "N E"]:
        """The evidence of labelled pairs, `rows_at_once` at a time."""
        return torch.cat(
            [self.evidence(self(pairs[row_B])) for row_B in torch.arange(len(pairs)).split(self.rows_at_once)]
        )

    def judge(self, pairs: Any) -> Judgment:
        return self(pairs, codes_of(self.codes_UC, pairs.label_N("user_id")))

    @torch.no_grad()
    def learn_users(self, epoch: EpochEvidence | None = None) -> None:
        """Learns the codes of all users from the training pairs. epoch: evidence of pairs that need not be read again.

        Raises:
            UserError: codes of another shape than [U, C].
        """
        data = self.trainer.datamodule
        pairs, self.rows_at_once = data.labelled_pairs.to(self.device), data.eval_batch_size
        user_N = pairs.label_N("user_id")
        evidence_NE, read_N = (None, None) if epoch is None else epoch.gathered()
        if evidence_NE is None:
            codes_UC = self.learn(pairs, user_N, self.num_users)
        else:
            missing_M = torch.nonzero(~read_N)[:, 0]
            if len(missing_M):
                evidence_NE = evidence_NE.index_copy(0, missing_M, self.read(pairs[missing_M]))
            codes_UC = self.codes(evidence_NE[user_N >= 0], user_N[user_N >= 0], self.num_users)
        if codes_UC.shape != self.codes_UC.shape:
            raise UserError(
                f"{type(self).__name__} learned codes of shape {list(codes_UC.shape)}; give "
                f"{list(self.codes_UC.shape)}, a row for each user"
            )
        self.codes_UC = codes_UC
        self.seen_U = torch.bincount(user_N[user_N >= 0], minlength=self.num_users) > 0

    def cell_of(self, name: str, pairs: Any) -> Int64[Tensor, " B"]:
        if name != "user":
            return super().cell_of(name, pairs)
        user_B = pairs.label_N("user_id")
        return torch.where(user_B < 0, -1, (~self.seen_U[user_B]).long()) if self.num_users else user_B

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data = self.trainer.datamodule
        num_pairs = len(data.train_pairs)
        if not self.backbone.is_trained or num_pairs != len(data.labelled_pairs):
            self.epoch_evidence = None
        elif self.epoch_evidence is None or len(self.epoch_evidence.read_N) != num_pairs:
            self.epoch_evidence = EpochEvidence(num_pairs)

    def on_train_epoch_start(self) -> None:
        if self.epoch_evidence is not None:
            self.epoch_evidence.begin(self.current_epoch)

    def after_pass(self, judgment: Judgment, pairs: Any) -> None:
        if self.epoch_evidence is not None:
            with torch.no_grad():
                self.epoch_evidence.keep(self.trainer.datamodule.train_batches.row_B, self.evidence(judgment))

    def on_validation_start(self) -> None:
        self.learn_users(self.epoch_evidence)

    def on_test_start(self) -> None:
        super().on_test_start()
        self.learn_users()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.epoch_evidence is not None:
            checkpoint["epoch_evidence"] = self.epoch_evidence.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "epoch_evidence" in checkpoint:
            state = checkpoint["epoch_evidence"]
            self.epoch_evidence = EpochEvidence(len(state["read"]))
            self.epoch_evidence.load_state_dict(state, self.trainer.is_global_zero)


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
        num_heads: int,
        estimation: Estimation = "gradient",
        temperature: float = 1.0,
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


class LoRe(TiedMixture):
    """A basis of rewards, and for each user one mix of them: −log σ(Σ_k w_uk Δ_k)  [LoRe, arXiv 2504.14439].

    The weights lie on the simplex. For given heads they are the optimum of a convex problem, so they are not trained
    beside the heads, as in the paper, but found: the loss is

        Σ_u min over w of Σ_i -log σ(Σ_k w_k Δ_ik) + temperature KL(w ‖ π).

    At temperature 0, the paper's own, two labels already choose a corner; labels cannot be smoothed then.
    """

    own_link = "reward"

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if self.label_smoothing and not self.temperature:
            raise UserError("model.label_smoothing needs a model.temperature above 0 here")

    def user_log_weights(self, margins_NK: Tensor, log_prior_UK: Tensor, user_N: Tensor) -> Float[Tensor, "U K"]:
        if self.label_smoothing:
            # A smoothed label adds ε w·Δ to its loss, which is what another prior would.
            margins_UK = sum_by(margins_NK, user_N, len(log_prior_UK))
            log_prior_UK = log_prior_UK - self.label_smoothing * margins_UK / self.temperature
            log_prior_UK = torch.log_softmax(log_prior_UK, dim=-1)
        inputs = (values.detach().cpu().numpy() for values in (margins_NK, user_N, log_prior_UK.double().exp()))
        weights_UK = adaptation.few_shot_logits(*inputs, link="reward", strength=self.temperature)
        return torch.from_numpy(weights_UK).log().clamp(min=LOG_NEVER).to(margins_NK)

    def user_nll(self, margins_BK: Tensor, log_weights_BK: Tensor) -> Float[Tensor, " B"]:
        return self.link.loss(margins_BK, log_weights_BK, self.label_smoothing)


class PAL(LoRe):
    """A user's ideal point is a mix of K prototypes, and a response is worth its closeness  [PAL, arXiv 2406.08469].

    Both models of the paper are LoRe with heads of their own: what a response is worth to the mixed point and the same
    mix of what it is worth to the prototypes differ by a constant, which no margin shows. `PrototypeHeads` make it
    model A, `PromptPrototypeHeads` model B. PAL trains the users' weights beside the heads; here, as in `LoRe`, they
    are found.
    """

    def __init__(self, *arguments: Any, head: Callable[..., nn.Module] = PrototypeHeads, **settings: Any) -> None:
        super().__init__(*arguments, head=head, **settings)


def codes_of(codes_UC: Float[Tensor, "U C"], user_B: Int64[Tensor, " B"]) -> Float[Tensor, "B C"]:
    """The code of each row's user; 0 for a user -1."""
    return torch.cat([codes_UC, codes_UC.new_zeros(1, codes_UC.shape[1])])[user_B]


def number_users(code_B: Int64[Tensor, " B"]) -> tuple[Int64[Tensor, " B"], int]:
    """The users of a batch, counted from 0, and how many they are; each -1 is a user of its own."""
    alone_B = -1 - torch.arange(len(code_B), device=code_B.device)
    codes, user_B = torch.where(code_B >= 0, code_B, alone_B).unique(return_inverse=True)
    return user_B, len(codes)


def prior_of_users(log_weights_NK: Tensor, user_N: Int64[Tensor, " N"], num_users: int) -> Float[Tensor, "U K"]:
    """The mean over a user's pairs of the log weights, as weights again: even for a user without pairs."""
    count_U1 = torch.bincount(user_N, minlength=num_users).clamp(min=1)[:, None]
    return torch.log_softmax(sum_by(log_weights_NK, user_N, num_users) / count_U1, dim=-1)
