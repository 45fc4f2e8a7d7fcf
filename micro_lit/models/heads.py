"""Heads: K scalar rewards from one response representation.

Dimension letters: B rows, D representation width, K heads, H hidden width of a head, C components, F features,
P numbers of a point.

Your own head is a `Head` (`micro_lit.models.contracts`), built with (width, num_heads), that maps [B, D] to [B, K].
"""

import itertools
from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from micro_lit.errors import UserError
from micro_lit.models.contracts import Head
from micro_lit.ranges import Count, Index, NonNegative, Positive

Distribution = Literal["gaussian", "uniform"]

# Standard deviations a priori that a parameter of `SharedHeads` counts as one. The first step of a line search is of
# length 1, and the thousands of weights of a kernel would hardly move if it were one standard deviation.
UNIT = 128.0


class LinearHeads(nn.Linear, Head):
    """K linear rewards r_k = v_k · φ, without a bias: a constant cancels in every margin."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads, bias=False)


class MLPHeads(Head):
    """K independent rewards of one hidden layer each: r_k = v_k · gelu(W_k φ + b_k)."""

    def __init__(self, width: int, num_heads: int, hidden: Count = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, num_heads * hidden)
        self.output_KH = nn.Parameter(torch.empty(num_heads, hidden).uniform_(-1, 1) / hidden**0.5)

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        hidden_BKH = nn.functional.gelu(self.hidden(response_BD)).unflatten(-1, self.output_KH.shape)
        return (hidden_BKH * self.output_KH).sum(dim=-1)


class NegatedHeads(LinearHeads):
    """Linear rewards v_1 .. v_{K/2}, then their negations.

    Under weights that do not read the prompt one head and its negation are Bradley-Terry with labels that are wrong at
    a learned rate: w σ(Δ) + (1 - w) σ(-Δ). What it gains by adaptation needs no second taste, only one turned round.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, _half(num_heads))

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        reward_BC = super().forward(response_BD)
        return torch.cat([reward_BC, -reward_BC], dim=-1)


class SharedHeads(Head):
    """r_k = (v + u_k) · ψ(φ): what all heads have in common, and what each adds, so that heads borrow strength.

    features: ψ. 0: ψ = φ / √D, linear rewards. Otherwise so many random Fourier features, √(2/F) cos(Ω φ + b) [Rahimi &
        Recht 2007], under which a reward is any smooth function of the response: its kernel is exp(-|φ - φ'|² / 2ℓ²).
    lengthscale: ℓ / √D; φ should be standardised, so that √D is the usual length of φ.
    base_precision, deviation_precision: λ of the terms λ/2 |v|² and λ/2 Σ_k |u_k|² beside the sum of the losses of all
        training pairs. So v ~ N(0, 1/λ) a priori: the reward of everybody is a Gaussian process, and so is what sets a
        head apart. The parameters are v and u in units of `UNIT` / √λ: alike to a line search
        (`model/optimizer=lbfgs`), and in need of a small learning rate.
    draw: seed of Ω and b, which no checkpoint holds.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        features: Index = 0,
        lengthscale: Positive = 0.5,
        base_precision: Positive = 0.3,
        deviation_precision: Positive = 0.3,
        draw: Index = 0,
    ) -> None:
        super().__init__()
        self.base_precision, self.deviation_precision = base_precision, deviation_precision
        self.features, self.root_width = features, width**0.5
        if features:
            generator = torch.Generator().manual_seed(draw)
            frequencies_FD = torch.randn(features, width, generator=generator) / (lengthscale * self.root_width)
            self.register_buffer("frequencies_FD", frequencies_FD, persistent=False)
            phases_F = 2 * torch.pi * torch.rand(features, generator=generator)
            self.register_buffer("phases_F", phases_F, persistent=False)
        self.base_F = nn.Parameter(torch.zeros(features or width))
        # Drawn from the prior: heads that start alike would stay alike.
        self.deviation_KF = nn.Parameter(torch.randn(num_heads, features or width) / UNIT)

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        if self.features:
            waves_BF = torch.cos(nn.functional.linear(response_BD, self.frequencies_FD, self.phases_F))
            shown_BF = (2 / self.features) ** 0.5 * waves_BF
        else:
            shown_BF = response_BD / self.root_width
        base_F, deviation_KF = (
            self.base_precision**-0.5 * self.base_F,
            self.deviation_precision**-0.5 * self.deviation_KF,
        )
        weights_KF = UNIT * (base_F + deviation_KF)
        return nn.functional.linear(shown_BF, weights_KF)

    def penalty(self) -> Float[Tensor, ""]:
        return UNIT**2 / 2 * (self.base_F.square().sum() + self.deviation_KF.square().sum())


class PriorHeads(LinearHeads):
    """r_k = (v_k + p_k) · φ, v_k trained and p_k a random direction that stays, as in randomised prior functions.

    Both read one representation, the shared base of HyRe's ensemble [arXiv 2412.08812]. scale: length of every p_k,
    which points anywhere alike; 0 gives `LinearHeads`.

    The prior alone keeps no heads apart: v_k can undo it, and the BT loss of a linear reward is convex, so that in
    every direction that the pairs decide all heads end at one optimum. It takes a pull of v_k to 0, which is one of r_k
    to its own p_k: see `micro_lit.models.controls.SharedBaseEnsemble`.
    """

    def __init__(self, width: int, num_heads: int, scale: NonNegative = 1.0) -> None:
        super().__init__(width, num_heads)
        self.register_buffer("prior_KD", scale * random_directions(num_heads, width))

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        return nn.functional.linear(response_BD, self.weight + self.prior_KD)


class DirectionHeads(Head):
    """K linear rewards along given directions, which training moves only if `trained`. The checkpoint holds them."""

    def __init__(self, directions_KD: Float[Tensor, "K D"], trained: bool = False) -> None:
        super().__init__()
        self.directions_KD = nn.Parameter(directions_KD, requires_grad=trained)

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        return nn.functional.linear(response_BD, self.directions_KD)


class RandomHeads(DirectionHeads):
    """K random directions of unit length: what weights alone can do when no head has learned anything.

    The control of DRM [arXiv 2502.13131], where 100 of them, reweighted, beat a trained head.
    distribution: of a direction's entries before it is brought to unit length; see `random_directions`.
    """

    def __init__(self, width: int, num_heads: int, distribution: Distribution = "gaussian") -> None:
        super().__init__(random_directions(num_heads, width, distribution))


class PrincipalHeads(DirectionHeads):
    """Decomposed reward models, DRM [arXiv 2502.13131]: principal components of φ(chosen) - φ(rejected), and negations.

    trained: whether they are only where the heads of a mixture start. Where tastes judge every pair both ways the
    likelihood of pairs cannot tell the tastes apart, and what heads can span is where they started.

    The K/2 components of largest variance over the training pairs, in that order, then their negations; of unit length,
    the entry of largest magnitude positive. As in the released code of DRM the differences are centred: their mean,
    the direction in which all agree, is taken out, and no component need point along it.

    Made for representations that stay: those of a backbone in training move on from the components.
    """

    def __init__(self, width: int, num_heads: int, trained: bool = False) -> None:
        if _half(num_heads) > width:
            raise UserError(
                f"model.num_heads={num_heads}: representations {width} wide have {width} principal components; "
                f"give at most {2 * width}"
            )
        super().__init__(torch.full((num_heads, width), torch.nan), trained)

    @property
    def is_prepared(self) -> bool:
        return not self.directions_KD[0, 0].isnan()

    @torch.no_grad()
    def prepare(self, differences: Iterable[Float[Tensor, "B D"]]) -> None:
        """Finds the components, in float64; heads that have theirs, from a checkpoint or another stage, keep them.

        differences: φ(chosen) - φ(rejected) of all training pairs, a batch at a time. Raises `UserError` when they
        vary in fewer than K/2 directions.
        """
        if self.is_prepared:
            return
        count = 0
        total_D: Any = 0.0
        products_DD: Any = 0.0
        for difference_BD in differences:
            difference_BD = difference_BD.double()
            count += len(difference_BD)
            total_D += difference_BD.sum(dim=0)
            products_DD += difference_BD.T @ difference_BD
        mean_D, moments_DD = total_D / count, products_DD / count
        variance_D, components_DD = torch.linalg.eigh(moments_DD - mean_D.outer(mean_D))
        # A smaller variance than that of float32's rounding has no direction.
        found = int((variance_D > torch.finfo(torch.float32).eps ** 2 * moments_DD.trace()).sum())
        wanted = len(self.directions_KD) // 2
        if found < wanted:
            raise UserError(
                f"model.num_heads={2 * wanted}: the differences between responses vary in {found} directions only; "
                f"give at most {2 * found}"
            )
        components_CD = components_DD.T.flip(0)[:wanted]
        largest_C1 = components_CD.abs().argmax(dim=1, keepdim=True)
        components_CD = components_CD * components_CD.gather(1, largest_C1).sign()
        self.directions_KD.copy_(torch.cat([components_CD, -components_CD]))

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        if not self.is_prepared:
            raise ValueError("PrincipalHeads have no components yet: call prepare(differences) or load a checkpoint")
        return super().forward(response_BD)


class PrototypeHeads(Head):
    """Closeness to K prototypes, r_k = -|f(φ) - p_k|²: model A of PAL [arXiv 2406.08469] under link `reward`.

    With weights that sum to one Σ_k w_k r_k is -|f(φ) - Σ_k w_k p_k|² and a constant, which cancels in every margin: a
    user's ideal point is the same mix of the prototypes as the user's reward is of theirs.

    dim: how many numbers a point has. layers: of f, each `dim` wide, gelu between them; 1: f is linear. PAL takes 2 of
        width 512; its released code takes the distance itself, whose margins are not linear in w.
    """

    def __init__(self, width: int, num_heads: int, dim: Count = 32, layers: Count = 2) -> None:
        super().__init__()
        self.map = perceptron(width, *[dim] * layers)
        self.prototypes_KP = nn.Parameter(torch.randn(num_heads, dim) / dim**0.5)

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        point_BP = self.map(response_BD)
        squares_BK = point_BP.square().sum(dim=-1, keepdim=True) + self.prototypes_KP.square().sum(dim=-1)
        return 2 * point_BP @ self.prototypes_KP.T - squares_BK


class PromptPrototypeHeads(Head):
    """Prototypes that the prompt sets, r_k = f(φ) · g_k(prompt): model B of PAL [arXiv 2406.08469] under link `reward`.

    dim, layers: of f and of every g_k, as in `PrototypeHeads`. PAL has 2 layers here too; its released code compares
        directions alone, by a cosine times a learned scale.
    """

    reads_context = True

    def __init__(self, width: int, num_heads: int, dim: Count = 32, layers: Count = 1) -> None:
        super().__init__()
        self.map = perceptron(width, *[dim] * layers)
        self.prototypes = nn.ModuleList(perceptron(width, *[dim] * layers) for _ in range(num_heads))

    def forward(self, response_BD: Float[Tensor, "B D"], context_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        point_BP = self.map(response_BD)
        return torch.stack([(point_BP * prototype(context_BD)).sum(dim=-1) for prototype in self.prototypes], dim=-1)


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers from each width to the next, gelu between them."""
    layers = [nn.Linear(*sizes) for sizes in itertools.pairwise(widths)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.GELU())))[:-1]


def random_directions(num_heads: int, width: int, distribution: Distribution = "gaussian") -> Float[Tensor, "K D"]:
    """Vectors of unit length from torch's global generator.

    distribution: `gaussian` points anywhere alike; `uniform` draws every entry from (-1, 1), which favours diagonals.
    """
    directions_KD = torch.empty(num_heads, width)
    if distribution == "gaussian":
        directions_KD.normal_()
    elif distribution == "uniform":
        directions_KD.uniform_(-1, 1)
    else:
        raise ValueError(f"distribution is {distribution!r}; allowed are 'gaussian' and 'uniform'")
    return nn.functional.normalize(directions_KD, dim=-1)


def _half(num_heads: int) -> int:
    """How many of the heads are no negation of another."""
    if num_heads % 2:
        raise UserError(f"model.num_heads={num_heads}: heads come with their negations; give an even number")
    return num_heads // 2
