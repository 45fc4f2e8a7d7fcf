"""LoRe and PAL: for each user one mix of a basis of rewards, found as the optimum of a convex problem.

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
        weights_UK = adapt.few_shot_logits(*inputs, link="reward", strength=self.temperature)
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
