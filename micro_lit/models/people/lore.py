"""LoRe and PAL: each user has one weighted mean of a basis of rewards, the optimum of a convex problem.

Dimension letters: B pairs in the batch, N pairs, K heads, U users.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from micro_lit import adapt
from micro_lit.errors import UserError
from micro_lit.likelihood import LOG_NEVER, sum_by
from micro_lit.models.heads import PrototypeHeads
from micro_lit.models.people.tied import TiedMixture


class LoRe(TiedMixture):
    """A basis of rewards, and one weighted mean of them per user: −log σ(Σ_k w_uk Δ_k)  [LoRe, arXiv 2504.14439].

    The weights lie on the simplex. For given heads they solve a convex problem. So they are not trained with the heads,
    as in the paper, but computed: the loss is

        Σ_u min over w of Σ_i -log σ(Σ_k w_k Δ_ik) + temperature KL(w ‖ π).

    At temperature 0, as in the paper, two labels already select a corner of the simplex; label smoothing is refused
    then.
    """

    own_link = "reward"

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if self.label_smoothing and not self.temperature:
            raise UserError("model.label_smoothing needs a model.temperature above 0 here")

    def user_log_weights(self, margins_NK: Tensor, log_prior_UK: Tensor, user_N: Tensor) -> Float[Tensor, "U K"]:
        if self.label_smoothing:
            # A smoothed label adds ε w·Δ to the loss, which is equivalent to a changed prior.
            margins_UK = sum_by(margins_NK, user_N, len(log_prior_UK))
            log_prior_UK = log_prior_UK - self.label_smoothing * margins_UK / self.temperature
            log_prior_UK = torch.log_softmax(log_prior_UK, dim=-1)
        inputs = (values.detach().cpu().numpy() for values in (margins_NK, user_N, log_prior_UK.double().exp()))
        weights_UK = adapt.few_shot_logits(*inputs, link="reward", strength=self.temperature)
        return torch.from_numpy(weights_UK).log().clamp(min=LOG_NEVER).to(margins_NK)

    def user_nll(self, margins_BK: Tensor, log_weights_BK: Tensor) -> Float[Tensor, " B"]:
        return self.link.loss(margins_BK, log_weights_BK, self.label_smoothing)


class PAL(LoRe):
    """A user's ideal point is a mix of K prototypes; the reward is closeness to it  [PAL, arXiv 2406.08469].

    Both models of the paper are LoRe with special heads: the reward for the mixed point equals the mix of the rewards
    for the prototypes up to a constant, which cancels in every margin. `PrototypeHeads` gives model A,
    `PromptPrototypeHeads` model B. PAL trains the users' weights with the heads; here, as in `LoRe`, they are computed.
    """

    def __init__(self, *arguments: Any, head: Callable[..., nn.Module] = PrototypeHeads, **settings: Any) -> None:
        super().__init__(*arguments, head=head, **settings)
