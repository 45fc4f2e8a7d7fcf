"""Controls that train in a way of their own: an ensemble in the manner of HyRe, and one reward for each attribute.

The others (random heads, a head and its negation, principal heads) are mixtures with other heads: see
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
    """K Bradley-Terry rewards trained side by side, each on all pairs: mean_k −log σ(Δ_k)  [HyRe, arXiv 2412.08812].

    Unlike in a mixture no head may leave a pair to another one: each fits the average rater. The weights have no say in
    the loss, so a gate would learn nothing; `UniformGate` is the one to give.

    prior_precision: λ of the term λ/2 |v_k|² beside the sum of a head's losses over all training pairs, v_k the trained
        weights of the head; both are averaged over heads. With `PriorHeads` it draws every head to its own prior: where
        that sum has curvature h a head keeps about λ / (λ + h) of its prior, where the pairs decide nothing all of it.
        At 0 all heads become one; as λ grows they become `RandomHeads`.
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
        """The mean over heads of what a pair costs each of them alone, in nats."""
        return self.link.head_losses(judgment.margins_BK, self.label_smoothing).mean(dim=-1)


class AttributeBT(MixtureBT):
    """ORACLE of the criterion: one Bradley-Terry reward for each attribute, told which attribute a pair is judged by.

    What a router could reach if it always knew. Pairs of unknown attribute are judged by all heads alike.
    K is the number of attributes in the data. Raises `UserError` when they name none.
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
