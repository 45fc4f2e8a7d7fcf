"""Online adaptation: the Hedge algorithm, one labelled pair at a time, with a regret bound for any label sequence.

At step t head k has the loss ℓ_tk ∈ [0, 1], and the weights w_t, fixed before the label is seen, have the loss w_t·ℓ_t.
The regret after T steps is Σ_t w_t·ℓ_t - min_k Σ_t ℓ_tk. Hedge uses w_tk ∝ π_k exp(-η_t Σ_{s<t} ℓ_sk). With step sizes
η_t that do not increase, its regret to any head k is at most

    log(1/π_k) / η_T + Σ_{t≤T} η_t / 8.

Proof: let m(η, L) = -(1/η) log Σ_k π_k exp(-η L_k), which falls as η grows (power means). Hoeffding's lemma bounds a
step's loss by m(η_t, L_t) - m(η_t, L_{t-1}) + η_t/8; as m(η_t, L_t) ≤ m(η_{t+1}, L_t), the sum telescopes to at most
m(η_T, L_T) + Σ η_t/8, and m(η_T, L_T) ≤ L_Tk + log(1/π_k)/η_T  [Cesa-Bianchi & Lugosi 2006, §2.2-2.3].

Dimension letters: T steps, U users, K heads, S users who give a label at this step.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from micro_lit.adapt import labels
from micro_lit.adapt.labels import Array, Floats, Integers
from micro_lit.adapt.weights import reweigh


class HedgeState(NamedTuple):
    """State of Hedge: prior [U, K], summed losses in [0, 1] of each head [U, K], number of steps [U]."""

    prior_UK: Array
    loss_UK: Array
    steps_U: NDArray[np.int64]

    def to_json(self) -> dict[str, list]:
        """JSON-compatible lists and numbers; `from_json` restores the same state to the last bit."""
        return {name: values.tolist() for name, values in self._asdict().items()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "HedgeState":
        prior_UK, loss_UK = (np.array(saved[name], dtype=np.float64) for name in ("prior_UK", "loss_UK"))
        return cls(prior_UK, loss_UK, np.array(saved["steps_U"], dtype=np.int64))


@dataclass(frozen=True)
class OnlineHedge:
    """Hedge on the losses -log σ(Δ), clipped at `ceiling` nats and divided by it, for many users in parallel.

    Args:
        horizon: number of labels that each user will give, T. The step size sqrt(8 log K / T) then has regret at most
            sqrt(T log K / 2) from equal priors  [Cesa-Bianchi & Lugosi 2006, theorem 2.2]. None ("anytime"): step t has
            size 2 sqrt(log K / t), and the regret is at most sqrt(t log K) at every t.
        ceiling: maximum loss in nats. In nats of the clipped loss, regret and bound are multiplied by it.
    """

    horizon: int | None = None
    ceiling: float = 2.0

    def __post_init__(self) -> None:
        labels.check_setting("ceiling", self.ceiling)
        if self.horizon is not None:
            labels.check_setting("horizon", self.horizon)

    def start(self, prior_UK: Floats) -> HedgeState:
        """The state before any label. Raises `ValueError` for an invalid prior."""
        labels.check_prior(prior_UK)
        prior_UK = prior_UK.astype(np.float64)
        return HedgeState(prior_UK, np.zeros_like(prior_UK), np.zeros(len(prior_UK), dtype=np.int64))

    def weights(self, state: HedgeState) -> Array:
        """[U, K] weights for each user's next pair; initially the prior, to the last bit."""
        return reweigh(
            state.prior_UK, self._step_size(state.steps_U + 1, state.prior_UK.shape[1])[:, None] * state.loss_UK
        )

    def update(self, state: HedgeState, margins_SK: Floats, user_S: Integers) -> HedgeState:
        """The state after one more label of some users.

        Args:
            state: current state; it is not modified.
            margins_SK: margins, chosen minus rejected, one row per user in `user_S`.
            user_S: users, each at most once.

        Raises:
            ValueError: invalid input, or more labels than the horizon.
        """
        labels.check_margins(margins_SK, user_S, state.prior_UK)
        if len(np.unique(user_S)) < len(user_S):
            raise ValueError("a user has two labels in one step; give them one after the other")
        steps_U, loss_UK = state.steps_U.copy(), state.loss_UK.copy()
        steps_U[user_S] += 1
        loss_UK[user_S] += self.losses(margins_SK)
        if self.horizon is not None and (steps_U > self.horizon).any():
            raise ValueError(
                f"user {int(np.argmax(steps_U))} gave more labels than the horizon of {self.horizon}; start with a "
                "larger horizon, or with None for streams of unknown length"
            )
        return HedgeState(state.prior_UK, loss_UK, steps_U)

    def losses(self, margins: Floats) -> Array:
        """min(-log σ(Δ), ceiling) / ceiling, in [0, 1], for margins of any shape."""
        return np.minimum(labels.losses(margins) / self.ceiling, 1.0)

    def play(self, state: HedgeState, margins_TUK: Floats) -> tuple[Array, HedgeState]:
        """The weights before each of T labels of every user [T, U, K], and the state after the last label."""
        weights_TUK, everyone_U = np.empty(margins_TUK.shape), np.arange(len(state.prior_UK))
        for step, margins_UK in enumerate(margins_TUK):
            weights_TUK[step] = self.weights(state)
            state = self.update(state, margins_UK, everyone_U)
        return weights_TUK, state

    def bound(self, steps: int | Integers, num_heads: int, prior_weight: float | None = None) -> Array:
        """Upper bound of the regret after a number of steps, in units of the loss; to plot beside `regret`.

        Args:
            steps: number of steps, of any shape.
            num_heads: K.
            prior_weight: prior weight of the head that the regret is relative to, 1/K by default.
        """
        surprise = np.log(num_heads) if prior_weight is None else -np.log(prior_weight)
        steps = np.asarray(steps, dtype=np.float64)
        if num_heads == 1:
            return np.zeros_like(steps)
        size = self._step_size(np.maximum(steps, 1.0), num_heads)
        # Σ 1/sqrt(t) ≤ 2 sqrt(T): anytime, the step sizes sum to at most twice T times the last.
        return np.where(steps > 0, surprise / size + (1 if self.horizon else 2) * steps * size / 8.0, 0.0)

    def _step_size(self, step: Array | Integers | float, num_heads: int) -> Array | float:
        if self.horizon is not None:
            return np.full(np.shape(step), np.sqrt(8.0 * np.log(num_heads) / self.horizon))
        return 2.0 * np.sqrt(np.log(num_heads) / step)


def online_hedge(margins_NK: Floats, user_N: Integers, prior_UK: Floats, ceiling: float = 2.0) -> Array:
    """The weights of anytime `OnlineHedge` after each user's last label; the order of labels does not matter.

    Example:

        >>> online_hedge(np.array([[2.0, -2.0]]), np.array([0]), np.array([[0.5, 0.5]])).round(2)
        array([[0.75, 0.25]])
    """
    labels.check_labels(margins_NK, user_N, prior_UK)
    rule = OnlineHedge(ceiling=ceiling)
    loss_UK = np.zeros(prior_UK.shape)
    np.add.at(loss_UK, user_N, rule.losses(margins_NK))
    return rule.weights(HedgeState(prior_UK.astype(np.float64), loss_UK, np.bincount(user_N, minlength=len(prior_UK))))


def regret(losses_TUK: Array, weights_TUK: Array) -> Array:
    """[T, U] cumulative regret: excess loss of the weights over the best single head so far, Σ w·ℓ - min_k Σ ℓ_k.

    Args:
        losses_TUK: losses in [0, 1], from `OnlineHedge.losses`.
        weights_TUK: weights before each loss was seen.
    """
    return np.cumsum((weights_TUK * losses_TUK).sum(axis=-1), axis=0) - np.cumsum(losses_TUK, axis=0).min(axis=-1)
