"""Base class of models of users, in which all pairs of a user share one code.

The code of a user, weights over heads or another vector, is determined by the user's labelled pairs. A pair-level
mixture draws a head for each pair independently and cannot model users; these models score all pairs of a user with one
code. Only heads are trained; codes are inferred: a new user needs no training, only `learn`.

Dimension letters: B pairs in the batch, N pairs, K heads, U users, u users of a batch, C numbers of a user's code,
E numbers of a pair that codes are learned from.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from micro_lit.errors import UserError
from micro_lit.likelihood import sum_by
from micro_lit.models.mixture import Judgment, MixtureBT
from micro_lit.models.people.evidence import EpochEvidence


class PeopleBT(MixtureBT):
    """Base class of models of users. Batches hold all training pairs of their users (`by_user`).

    Validation and test pairs are scored with codes learned from the training pairs of their users. A user without
    training pairs, or an unnamed user, has the code 0: the prior.

    Subclasses define `evidence` of each labelled pair, and `codes` of users from the evidence of their pairs. If the
    backbone is trained, validation reuses the evidence of the epoch's training passes and encodes no text again. A test
    computes the evidence with the tested weights.
    """

    knows = frozenset({"user"})
    by_user = True
    rows_at_once = 4096  # batch size in `learn`; with a Trainer, the datamodule's eval_batch_size

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
        """[B, E] the numbers that codes are learned from, one row per labelled pair: log-odds, votes or the like."""
        raise AssertionError("a subclass of PeopleBT must define evidence")

    def codes(self, evidence_NE: Float[Tensor, "N E"], user_N: Int64[Tensor, " N"], num_users: int) -> Tensor:
        """Codes of users 0 .. U - 1 from the evidence of labelled pairs, 0 for users without pairs.

        The second argument of `forward` is one row of codes per pair.

        Args:
            evidence_NE: evidence of labelled pairs.
            user_N: the user who labelled each pair, from 0 to U - 1.
            num_users: U.

        Returns:
            [U, C].
        """
        raise AssertionError("a subclass of PeopleBT must define codes")

    @torch.no_grad()
    def learn(self, pairs: Any, user_N: Int64[Tensor, " N"], num_users: int) -> Float[Tensor, "U C"]:
        """Codes of users 0 .. U - 1 from labelled pairs. user_N: user of each pair; pairs with -1 are ignored."""
        row_N = torch.nonzero(user_N >= 0)[:, 0]
        return self.codes(self.read(pairs[row_N]), user_N[row_N], num_users)

    def read(self, pairs: Any) -> Float[Tensor, "N E"]:
        """The evidence of labelled pairs, computed in batches of `rows_at_once`."""
        return torch.cat(
            [self.evidence(self(pairs[row_B])) for row_B in torch.arange(len(pairs)).split(self.rows_at_once)]
        )

    def judge(self, pairs: Any) -> Judgment:
        return self(pairs, codes_of(self.codes_UC, pairs.label_N("user_id")))

    @torch.no_grad()
    def learn_users(self, epoch: EpochEvidence | None = None) -> None:
        """Learns the codes of all users from the training pairs.

        Args:
            epoch: evidence from the training passes of this epoch; only the other pairs are computed.

        Raises:
            UserError: a subclass returned codes of another shape than [U, C].
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


def codes_of(codes_UC: Float[Tensor, "U C"], user_B: Int64[Tensor, " B"]) -> Float[Tensor, "B C"]:
    """The code of each row's user; 0 for user -1."""
    return torch.cat([codes_UC, codes_UC.new_zeros(1, codes_UC.shape[1])])[user_B]


def number_users(code_B: Int64[Tensor, " B"]) -> tuple[Int64[Tensor, " B"], int]:
    """Renumbers the users of a batch from 0, and counts them; each -1 counts as a separate user."""
    alone_B = -1 - torch.arange(len(code_B), device=code_B.device)
    codes, user_B = torch.where(code_B >= 0, code_B, alone_B).unique(return_inverse=True)
    return user_B, len(codes)


def prior_of_users(log_weights_NK: Tensor, user_N: Int64[Tensor, " N"], num_users: int) -> Float[Tensor, "U K"]:
    """The mean of the log weights over each user's pairs, normalised; uniform for a user without pairs."""
    count_U1 = torch.bincount(user_N, minlength=num_users).clamp(min=1)[:, None]
    return torch.log_softmax(sum_by(log_weights_NK, user_N, num_users) / count_U1, dim=-1)
