"""Sparse mixture of experts: each pair uses only the top k experts of the gate.

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
    """A mixture of Bradley-Terry experts where each pair uses the k experts of largest weight  [arXiv 2606.04284].

    The outline is the paper's, the terms are ours: w' = w / Σ_{top k} w on the k largest weights w of the gate, and 0
    elsewhere. The likelihood trains the selected experts and, through w', the gate. Sparsity and balance use the dense
    w, so that an expert that is never selected can return. Evidence on the rater (`evidence_BK`) changes w, and thus
    the selection. All heads are computed, since they are cheap: only the weights are sparse.

    Args:
        top_k: experts per pair, from 1 to K. At K without the extra terms it is the dense mixture, to the last bit. At
            1 the selected expert has weight 1 and the likelihood gives the gate no gradient: only the terms train it.
        noise: standard deviation of Gaussian noise on the gate's log weights before the selection, in training only. It
            affects the selection, not the weights, and depends only on the seed and the step.
        sparsity_weight: weight of the mean entropy of each example's dense weights, which makes each pair use few
            experts. `balance_weight` of the mixture makes the data as a whole use all experts.
        diversity_weight: weight of `likelihood.diversity`, the mean squared correlation of two experts, which makes
            experts differ.

    Raises:
        UserError: k is not from 1 to K.
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
                f"model.top_k={top_k}: a pair uses at least 1 and at most model.num_heads={num_heads} experts"
            )
        self.top_k, self.noise = top_k, noise
        self.sparsity_weight, self.diversity_weight = sparsity_weight, diversity_weight
        self.noise_seed = torch.initial_seed()

    def forward(self, pairs: Any, evidence_BK: Float[Tensor, "B K"] | None = None) -> Judgment:
        judgment = super().forward(pairs, evidence_BK)
        if self.top_k == self.num_heads:
            return judgment
        dense_BK = judgment.log_weights_BK
        chosen_BK = self._selection_scores(dense_BK.detach()).topk(self.top_k, dim=-1).indices
        unused_BK = torch.ones_like(dense_BK, dtype=torch.bool).scatter(1, chosen_BK, False)
        sparse_BK = torch.log_softmax(dense_BK.masked_fill(unused_BK, likelihood.LOG_NEVER), dim=-1)
        return judgment._replace(log_weights_BK=sparse_BK)

    def _selection_scores(self, log_weights_BK: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """The scores for the selection: the dense log weights, with noise in training."""
        if not (self.training and self.noise):
            return log_weights_BK
        # Seeded by the step, not by the global state, so that a resumed run draws the same noise.
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
