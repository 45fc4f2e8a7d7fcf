"""Control models with their own training: an ensemble after HyRe, and one reward per attribute.

The other controls (random heads, a head and its negation, principal heads) are mixtures with other heads, see
`micro_lit.models.heads`.

Dimension letters: B pairs in the batch, K heads.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from micro_lit.errors import UserError
from micro_lit.likelihood import LOG_NEVER
from micro_lit.models.gates import UniformGate
from micro_lit.models.mixture import Judgment, MixtureBT
from micro_lit.ranges import Count, NonNegative


class SharedBaseEnsemble(MixtureBT):
    """K Bradley-Terry rewards trained independently on all pairs: mean_k −log σ(Δ_k)  [HyRe, arXiv 2412.08812].

    Unlike in a mixture, no head may leave a pair to another: each fits the average rater. The loss does not depend on
    the weights, so a gate would learn nothing; use `UniformGate`.

    Args:
        prior_precision: λ of the term λ/2 |v_k|², added to the sum of a head's losses over all training pairs, where
            v_k are the trained weights of the head; both are averaged over heads. With `PriorHeads` the term draws
            every head to its own prior. Where the summed loss has curvature h, a head keeps about λ / (λ + h) of its
            prior, and all of it where the pairs decide nothing. At 0 all heads become equal; as λ grows they become
            `RandomHeads`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        names: Mapping[str, list[str]],
        num_heads: Count | None,
        prior_precision: NonNegative = 70.0,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, names, num_heads, **settings)
        self.prior_precision = prior_precision

    def losses(self, judgment: Judgment, pairs: Any) -> dict[str, Tensor]:
        terms = super().losses(judgment, pairs)
        if self.prior_precision:
            squares = sum(weight.square().sum() for weight in self.head.parameters())
            terms["prior"] = self.prior_precision / 2 * squares / self.num_heads / self.pairs_of_loss(pairs)
        return terms

    def nll_terms(self, judgment: Judgment, pairs: Any) -> Float[Tensor, " B"]:
        """The loss of each pair in nats, computed for each head separately and averaged over heads."""
        return self.link.head_losses(judgment.margins_BK, self.label_smoothing).mean(dim=-1)


class AttributeBT(MixtureBT):
    """ORACLE of the criterion: one Bradley-Terry reward per attribute; reads the true attribute of each pair.

    Upper reference for routers: a router that always knew the attribute could reach it. Pairs of unknown attribute use
    all heads with equal weights. K is the number of attributes in the data. Raises `UserError` if the data have none.
    """

    knows = frozenset({"attribute"})

    def __init__(self, backbone: nn.Module, names: Mapping[str, list[str]], **settings: Any) -> None:
        if not names.get("attribute"):
            raise UserError(
                "model=attribute_bt has a head for each attribute, and the data name none; name the column that holds "
                "them (+data.columns.attribute=<column>; planted data: data.criteria=hidden), or choose another model"
            )
        super().__init__(backbone, names, num_heads=len(names["attribute"]), gate=UniformGate, **settings)

    def forward(self, pairs: Any, evidence_BK: Float[Tensor, "B K"] | None = None) -> Judgment:
        judgment = super().forward(pairs, evidence_BK)
        attribute_B1 = pairs.label_N("attribute")[:, None]
        own_BK = attribute_B1 == torch.arange(self.num_heads, device=attribute_B1.device)
        log_weights_BK = judgment.log_weights_BK.masked_fill(attribute_B1 >= 0, LOG_NEVER).masked_fill(own_BK, 0.0)
        return judgment._replace(log_weights_BK=log_weights_BK)
