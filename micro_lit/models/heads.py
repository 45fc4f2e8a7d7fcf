"""Heads: K scalar rewards from one response representation.

Dimension letters: B rows, D representation width, K heads, H hidden width of a head, C components, F features,
P numbers of a point.

Custom heads extend `Head` (`micro_lit.models.contracts`), are built with (width, num_heads) and map [B, D] to [B, K].
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

# Prior standard deviations per unit of a parameter of `SharedHeads`. The first step of a line search has length 1; with
# a unit of one standard deviation it would hardly move the thousands of weights of a kernel.
UNIT = 128.0


class LinearHeads(nn.Linear, Head):
    """K linear rewards r_k = v_k · φ, without a bias: a constant cancels in every margin."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads, bias=False)


class MLPHeads(Head):
    """K independent rewards with one hidden layer each: r_k = v_k · gelu(W_k φ + b_k)."""

    def __init__(self, width: int, num_heads: int, hidden: Count = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, num_heads * hidden)
        self.output_KH = nn.Parameter(torch.empty(num_heads, hidden).uniform_(-1, 1) / hidden**0.5)

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        hidden_BKH = nn.functional.gelu(self.hidden(response_BD)).unflatten(-1, self.output_KH.shape)
        return (hidden_BKH * self.output_KH).sum(dim=-1)


class NegatedHeads(LinearHeads):
    """Linear rewards v_1 .. v_{K/2} and their negations.

    With weights that do not read the prompt, one head and its negation are Bradley-Terry with a learned rate of flipped
    labels: w σ(Δ) + (1 - w) σ(-Δ). Gains from adaptation then need no second preference, only the negated one.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, _half(num_heads))

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        reward_BC = super().forward(response_BD)
        return torch.cat([reward_BC, -reward_BC], dim=-1)


class SharedHeads(Head):
    """Rewards with a shared part: r_k = (v + u_k) · ψ(φ), where v is common to all heads and u_k is the deviation.

    Args:
        features: number F of features ψ. 0: ψ = φ / √D, linear rewards. Otherwise F random Fourier features,
            √(2/F) cos(Ω φ + b) [Rahimi & Recht 2007]; a reward is then any smooth function of the response, with the
            kernel exp(-|φ - φ'|² / 2ℓ²).
        lengthscale: ℓ / √D; φ should be standardised, so that √D is its typical length.
        base_precision: λ of the term λ/2 |v|², added to the sum of the losses of all training pairs. Thus v ~ N(0, 1/λ)
            a priori, and the shared reward is a Gaussian process.
        deviation_precision: λ of the term λ/2 Σ_k |u_k|², likewise; the deviations are Gaussian processes too.
        draw: seed of Ω and b, which are not in checkpoints.

    The parameters are v and u in units of `UNIT` / √λ: equally scaled for a line search (`model/optimizer=lbfgs`), but
    other optimizers need a small learning rate.
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
        # Drawn from the prior: heads with equal initial values would stay equal.
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
    """r_k = (v_k + p_k) · φ, v_k trained and p_k a fixed random direction, as in randomised prior functions.

    All heads read one representation, like the shared base of HyRe's ensemble [arXiv 2412.08812].

    The prior alone does not keep heads apart: v_k can cancel it, and the BT loss of a linear reward is convex, so all
    heads reach one optimum in every direction that the pairs decide. A penalty that pulls v_k to 0, and so r_k to its
    own p_k, is needed: see `micro_lit.models.controls.SharedBaseEnsemble`.

    Args:
        scale: length of every p_k, whose direction is uniform; 0 gives `LinearHeads`.
    """

    def __init__(self, width: int, num_heads: int, scale: NonNegative = 1.0) -> None:
        super().__init__(width, num_heads)
        self.register_buffer("prior_KD", scale * random_directions(num_heads, width))

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        return nn.functional.linear(response_BD, self.weight + self.prior_KD)


class DirectionHeads(Head):
    """K linear rewards along given directions, trained only if `trained`. Checkpoints store the directions."""

    def __init__(self, directions_KD: Float[Tensor, "K D"], trained: bool = False) -> None:
        super().__init__()
        self.directions_KD = nn.Parameter(directions_KD, requires_grad=trained)

    def forward(self, response_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        return nn.functional.linear(response_BD, self.directions_KD)


class RandomHeads(DirectionHeads):
    """K fixed random directions of unit length: the control for what weights alone achieve without trained heads.

    The control of DRM [arXiv 2502.13131], where 100 reweighted random directions beat a trained head.

    Args:
        distribution: distribution of a direction's entries before normalisation; see `random_directions`.
    """

    def __init__(self, width: int, num_heads: int, distribution: Distribution = "gaussian") -> None:
        super().__init__(random_directions(num_heads, width, distribution))


class PrincipalHeads(DirectionHeads):
    """Decomposed reward models, DRM [arXiv 2502.13131]: principal components of φ(chosen) - φ(rejected), and negations.

    The heads are the K/2 components of largest variance over the training pairs, in that order, then their negations.
    They have unit length, and the entry of largest magnitude is positive. As in DRM's released code the differences are
    centred: this removes their mean, the direction on which all agree, and no component need point along it.

    Meant for a frozen backbone: the representations of a trained one drift away from the components.

    Args:
        trained: whether the components are only the initial values of a mixture's heads. If preferences judge every
            pair both ways, the likelihood of pairs cannot separate the preferences, and heads keep their initial span.
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
        """Computes the components in float64; components from a checkpoint or from stage 1 are kept.

        Args:
            differences: φ(chosen) - φ(rejected) of all training pairs, in batches [B, D].

        Raises:
            UserError: the differences vary in fewer than K/2 directions.
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
        # Variances below float32 rounding error have no meaningful direction.
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
    """Negative squared distance to K prototypes: r_k = -|f(φ) - p_k|², model A of PAL [arXiv 2406.08469].

    Used with link `reward`.

    With weights that sum to one, Σ_k w_k r_k is -|f(φ) - Σ_k w_k p_k|² plus a constant, which cancels in every margin.
    So a user's ideal point is the same weighted mean of prototypes as the user's reward is of the K rewards.

    Args:
        dim: dimension of the points.
        layers: number of layers of f, each `dim` wide, with gelu between them; 1: f is linear. PAL has 2 layers of
            width 512; its released code uses the distance itself, whose margins are not linear in w.
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
    """Prototypes that depend on the prompt, r_k = f(φ) · g_k(prompt): model B of PAL [arXiv 2406.08469], link `reward`.

    Args:
        dim: as in `PrototypeHeads`.
        layers: number of layers of f and of every g_k, as in `PrototypeHeads`. PAL has 2 here too; its released code
            compares only directions, by a cosine times a learned scale.
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
    """Linear layers between the given widths, with gelu between them."""
    layers = [nn.Linear(*sizes) for sizes in itertools.pairwise(widths)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.GELU())))[:-1]


def random_directions(num_heads: int, width: int, distribution: Distribution = "gaussian") -> Float[Tensor, "K D"]:
    """Random unit vectors from torch's global generator.

    Args:
        num_heads: number of vectors, K.
        width: dimension, D.
        distribution: `gaussian` is uniform over directions; `uniform` draws every entry from (-1, 1), which favours
            diagonals.

    Returns:
        [K, D].
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
    """Number of heads that are not negations. Raises `UserError` for an odd number of heads."""
    if num_heads % 2:
        raise UserError(f"model.num_heads={num_heads}: heads come with their negations; give an even number")
    return num_heads // 2
