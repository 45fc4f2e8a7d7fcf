"""A mixture of which each pair hears only a few experts: the gate's top k.

Dimension letters: B pairs in the batch, K heads.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from micro_lit import likelihood
from micro_lit.errors import UserError
from micro_lit.models.mixture import Judgment, MixtureBT
from micro_lit.ranges import Count, NonNegative


class SparseMoE(MixtureBT):
    """A mixture of Bradley-Terry experts, each pair judged by the k that its gate weighs most  [arXiv 2606.04284].

    The outline is the paper's, the terms are ours: w' = w / Σ_{top k} w on the k largest weights w of the gate, and 0
    elsewhere. The likelihood teaches the chosen experts and, through w', the gate. Sparsity and balance see the dense
    w, so that an expert whom nobody chooses can come back. Evidence of who judges (`evidence_BK`) changes w, and so the
    choice. All heads are computed, for they are cheap: sparse is who is heard.

    top_k: experts a pair. At K, without the terms, the mixture to the last bit. At 1 the one chosen has all the weight
        and the likelihood tells the gate nothing: only the terms train it.
    noise: standard deviation of Gaussian noise on the gate's log weights before the choice, in training only. It
        decides who is heard, not how loudly, and depends on the seed and the step alone.
    sparsity_weight: of the mean entropy of each example's dense weights: every pair to few experts. That all experts
        are used over the data is what `balance_weight` of the mixture asks for.
    diversity_weight: of `likelihood.diversity`, the mean squared correlation of two experts: a taste of its own for
        each.

    Raises `UserError` when k is not from 1 to K.
    """

    def __init__(
        self,
        backbone: nn.Module,
        names: Mapping[str, list[str]],
        num_heads: Count | None,
        top_k: Count = 2,
        noise: NonNegative = 0.0,
        sparsity_weight: NonNegative = 0.0,
        diversity_weight: NonNegative = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, names, num_heads, **settings)
        if not 1 <= top_k <= num_heads:
            raise UserError(
                f"model.top_k={top_k}: a pair hears at least 1 and at most model.num_heads={num_heads} experts"
            )
        self.top_k, self.noise = top_k, noise
        self.sparsity_weight, self.diversity_weight = sparsity_weight, diversity_weight
        self.noise_seed = torch.initial_seed()

    def forward(self, pairs: Any, evidence_BK: Float[Tensor, "B K"] | None = None) -> Judgment:
        judgment = super().forward(pairs, evidence_BK)
        if self.top_k == self.num_heads:
            return judgment
        dense_BK = judgment.log_weights_BK
        chosen_BK = self._attraction(dense_BK.detach()).topk(self.top_k, dim=-1).indices
        unheard_BK = torch.ones_like(dense_BK, dtype=torch.bool).scatter(1, chosen_BK, False)
        heard_BK = torch.log_softmax(dense_BK.masked_fill(unheard_BK, likelihood.LOG_NEVER), dim=-1)
        return judgment._replace(log_weights_BK=heard_BK)

    def _attraction(self, log_weights_BK: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """What the choice goes by: the dense log weights, in training with their noise."""
        if not (self.training and self.noise):
            return log_weights_BK
        # By the step, not from the global state, so that a run that is resumed goes on with the same choices.
        generator = torch.Generator().manual_seed(self.noise_seed + self.global_step)
        noise_BK = torch.randn(log_weights_BK.shape, generator=generator)
        return log_weights_BK + self.noise * noise_BK.to(log_weights_BK)

    def losses(self, judgment: Judgment, pairs: Any) -> dict[str, Tensor]:
        terms = super().losses(judgment, pairs)
        if self.sparsity_weight:
            terms["sparsity"] = -self.sparsity_weight * likelihood.negative_entropy(judgment.dense_log_weights_BK)
        if self.diversity_weight:
            terms["diversity"] = self.diversity_weight * likelihood.diversity(judgment.margins_BK)
        return terms
