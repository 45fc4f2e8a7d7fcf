"""VPL: a model of users in which an encoder infers the code of a user from labelled pairs.

Dimension letters: B pairs in the batch, b those of them that the loss is of, N pairs, D representation width, E numbers
that show a pair (2D), C numbers of a user's code, V numbers of a vote (2C), U users, u users of a batch, K heads.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from micro_lit.likelihood import sum_by
from micro_lit.models.contracts import Head
from micro_lit.models.gates import UniformGate
from micro_lit.models.heads import perceptron
from micro_lit.models.mixture import Judgment
from micro_lit.models.people.base import PeopleBT, number_users
from micro_lit.ranges import Count, NonNegative

# A dimension of the code is active if the variance over users of its mean is larger  [Burda et al. 2016].
ACTIVE = 0.01


class CodeDecoder(Head):
    """Rewards of responses for users: a network with two hidden layers that reads [φ, z]; at z = 0, one of φ alone."""

    def __init__(self, width: int, num_heads: int, code_width: int, hidden: int) -> None:
        super().__init__()
        self.code_width = code_width
        self.response = nn.Linear(width, hidden)
        self.code = nn.Linear(code_width, hidden, bias=False)
        self.reward = nn.Sequential(
            nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, num_heads, bias=False)
        )

    def forward(self, response_BD: Float[Tensor, "B D"], code_BC: Float[Tensor, "B C"]) -> Float[Tensor, "B K"]:
        return self.reward(self.response(response_BD) + self.code(code_BC))


class VPL(PeopleBT):
    """One reward r(φ, z) for all users, z a code of the user inferred from labels  [VPL, arXiv 2408.10075].

    An encoder maps labelled pairs to q(z), independent Gaussians. Each pair [φ(chosen), φ(rejected)] gives a vote, a
    vector of means μ and log variances; q has the mean of the user's votes and one vote for the prior N(0, 1). So a
    user with few labels stays near the prior, and one without labels has the prior. The authors weight pairs by
    attention and include no vote for the prior.

    The loss of a user, divided among the user's pairs, has one z drawn from q per batch:

        Σ_i -log σ(r(chosen_i, z) - r(rejected_i, z)) + kl_weight KL(q ‖ N(0, 1)).

    Users are scored with z = μ. This is not an average over the prior: if preferences differ, a single reward for all
    users fits new users better. Codes may collapse: all users get one code. `code` in the test results measures
    collapse, and validation logs it: active dimensions and mean KL in nats, over users with labels.

    Args:
        code_width: C.
        hidden: width of the two hidden layers of the encoder and of the decoder.
        kl_weight: 1 is the evidence lower bound; the authors set much less.
        kl_warmup: fraction of all steps in which kl_weight rises from 0.
        read_share: fraction of a user's pairs, drawn for each batch, that the encoder reads. The loss is that of the
            other pairs; the authors too draw the pairs to read. At 1 the encoder reads all, and the loss is of all.
    """

    def __init__(
        self,
        backbone: nn.Module,
        names: Mapping[str, list[str]],
        code_width: Count = 16,
        hidden: Count = 64,
        kl_weight: NonNegative = 0.03,
        kl_warmup: Annotated[float, Ge(0.0), Le(1.0)] = 0.5,
        read_share: Annotated[float, Gt(0.0), Le(1.0)] = 0.5,
        **settings: Any,
    ) -> None:
        head = partial(CodeDecoder, code_width=code_width, hidden=hidden)
        super().__init__(backbone, names, num_heads=1, head=head, gate=UniformGate, **settings)
        self.encoder = perceptron(2 * backbone.width, hidden, hidden, 2 * code_width)
        self.kl_weight, self.kl_warmup, self.read_share = kl_weight, kl_warmup, read_share
        self.steps_to_rise = 0.0
        self.noise_seed = torch.initial_seed()
        self.code_facts = code_statistics(torch.zeros(0, code_width), torch.zeros(0, code_width))

    @property
    def code_width(self) -> int:
        return self.head.code_width

    def forward(self, pairs: Any, codes_BC: Float[Tensor, "B C"] | None = None) -> Judgment:
        """Scores pairs with the given codes of users; None: with code 0, the prior mean, as for new users."""
        shown_BE = self._show(pairs)
        return self._decode(shown_BE, shown_BE.new_zeros(len(pairs), self.code_width) if codes_BC is None else codes_BC)

    def _show(self, pairs: Any) -> Float[Tensor, "B E"]:
        shown = self.backbone(pairs, with_context=False)
        return torch.cat([shown.chosen_BD, shown.rejected_BD], dim=-1).float()

    def _decode(self, shown_BE: Float[Tensor, "B E"], codes_BC: Float[Tensor, "B C"]) -> Judgment:
        with torch.autocast(self.device.type, enabled=False):
            chosen_B1, rejected_B1 = (self.head(response_BD, codes_BC) for response_BD in shown_BE.chunk(2, dim=-1))
        log_weights_B1 = self.gate(None).expand_as(chosen_B1)
        margins_B1 = self.link.margin(chosen_B1, rejected_B1)
        return Judgment(margins_B1, log_weights_B1, chosen_B1, rejected_B1, shown_BE, log_weights_B1)

    def _vote(self, shown_BE: Float[Tensor, "B E"]) -> Float[Tensor, "B V"]:
        with torch.autocast(self.device.type, enabled=False):
            return self.encoder(shown_BE)

    def losses(self, judgment: Judgment, pairs: Any) -> dict[str, Tensor]:
        """The training loss terms. Scores the pairs again with their users' codes, not those of `judgment`."""
        shown_BE = judgment.context_BD
        user_B, num_users = number_users(pairs.label_N("user_id"))
        read_B, noise_uC = self._draw(len(pairs), num_users)
        mean_uC, log_variance_uC = code_posterior(self._vote(shown_BE[read_B]), user_B[read_B], num_users)
        code_uC = mean_uC + (log_variance_uC / 2).exp() * noise_uC
        row_b = torch.nonzero(read_B if read_B.all() else ~read_B)[:, 0]
        terms = super().losses(self._decode(shown_BE[row_b], code_uC[user_B[row_b]]), pairs[row_b])
        if self.kl_weight:
            risen = min(1.0, (self.global_step + 1) / self.steps_to_rise) if self.steps_to_rise else 1.0
            terms["kl"] = self.kl_weight * risen * divergence(mean_uC, log_variance_uC).sum() / len(pairs)
        return terms

    def _draw(self, num_pairs: int, num_users: int) -> tuple[Bool[Tensor, " B"], Float[Tensor, "u C"]]:
        """Which pairs of a batch the encoder reads, and the noise of the codes; both depend only on seed and step."""
        generator = torch.Generator().manual_seed(self.noise_seed + self.global_step)
        read_B = torch.rand(num_pairs, generator=generator) < self.read_share
        return read_B.to(self.device), torch.randn(num_users, self.code_width, generator=generator).to(self.device)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.steps_to_rise = self.kl_warmup * self.trainer.estimated_stepping_batches

    def evidence(self, judgment: Judgment) -> Float[Tensor, "B V"]:
        """The votes of the pairs, [B, V]."""
        return self._vote(judgment.context_BD)

    def codes(self, evidence_NE: Float[Tensor, "N V"], user_N: Int64[Tensor, " N"], num_users: int) -> Tensor:
        """The means of the users' codes, [U, C]. Also updates `code_facts` to these users."""
        mean_UC, log_variance_UC = code_posterior(evidence_NE, user_N, num_users)
        labelled_U = torch.bincount(user_N, minlength=num_users) > 0
        self.code_facts = code_statistics(mean_UC[labelled_U], log_variance_UC[labelled_U])
        return mean_UC

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log_dict({f"val/{name}": float(self.code_facts[name]) for name in ("active_units", "kl")})

    def test_results(self) -> dict[str, Any]:
        return super().test_results() | {"code": self.code_facts}


def code_posterior(
    votes_NV: Float[Tensor, "N V"], user_N: Int64[Tensor, " N"], num_users: int
) -> tuple[Float[Tensor, "U C"], Float[Tensor, "U C"]]:
    """Means and log variances of users' codes: mean of the user's votes and one vote for N(0, 1), which is zero."""
    count_U1 = 1 + torch.bincount(user_N, minlength=num_users)[:, None]
    mean_UC, log_variance_UC = (sum_by(votes_NV, user_N, num_users) / count_U1).chunk(2, dim=-1)
    return mean_UC, log_variance_UC


def divergence(mean_UC: Float[Tensor, "U C"], log_variance_UC: Float[Tensor, "U C"]) -> Float[Tensor, " U"]:
    """KL(q ‖ N(0, 1)) of each user's code, in nats: Σ_c (μ² + σ² - 1 - log σ²) / 2."""
    return (mean_UC.square() + log_variance_UC.expm1() - log_variance_UC).sum(dim=-1) / 2


def code_statistics(mean_UC: Float[Tensor, "U C"], log_variance_UC: Float[Tensor, "U C"]) -> dict[str, int | float]:
    """Statistics of users' codes: dimension, number of active dimensions, and mean KL in nats."""
    count = max(1, len(mean_UC))
    variance_C = (mean_UC - mean_UC.sum(dim=0) / count).square().sum(dim=0) / count
    return {
        "width": mean_UC.shape[1],
        "active_units": int((variance_C > ACTIVE).sum()),
        "kl": float(divergence(mean_UC, log_variance_UC).sum() / count),
    }
