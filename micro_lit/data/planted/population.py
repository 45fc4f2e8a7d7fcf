"""Planted populations: groups of raters with known rewards, for which the irreducible error is known exactly.

Responses differ in a few attributes with three levels (-1, 0, +1). The reward of a group is linear in the levels. The
probability that a rater belongs to a group depends on the topic of the prompt.

Dimension letters: N pairs, K groups, A attributes, T topics, I items (all combinations of levels), F references.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from scipy.special import cosdg, logsumexp, sindg

from micro_lit.errors import UserError
from micro_lit.floors import (
    MASS_TOLERANCE,
    FloorEstimate,
    Solution,
    bt_projection,
    linear_bt,
    marginal_floor,
    oracle_floor,
    pinsker_bound,
    printed_bound,
    variance_bound,
)
from micro_lit.likelihood import WINNER
from micro_lit.ranges import Count, Index, NonNegative

LEVELS = (-1, 0, 1)
MAX_ITEMS = 3**7

REFERENCES = ("oracle", "marginal", "marginal_static", "single_bt_conditional", "single_bt_linear")


class Draw(NamedTuple):
    """N judgments: topic of the prompt, chosen and rejected item, group of the rater, and number of the pair."""

    topic_N: NDArray[np.int64]
    chosen_N: NDArray[np.int64]
    rejected_N: NDArray[np.int64]
    group_N: NDArray[np.int64]
    pair_N: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Population:
    """A population of rater groups with known rewards.

    Attributes:
        attributes, groups: their names.
        rewards_KA: reward of each group per level of each attribute.
        group_weights_TK: P(group | topic); rows sum to 1.

    Raises:
        UserError: when weights are invalid, a group has no weight, or there are more than 7 attributes.
    """

    attributes: tuple[str, ...]
    groups: tuple[str, ...]
    rewards_KA: NDArray[np.float64]
    group_weights_TK: NDArray[np.float64]

    def __post_init__(self) -> None:
        sums_T = self.group_weights_TK.sum(axis=1)
        if (self.group_weights_TK < 0).any() or not (abs(sums_T - 1.0) <= MASS_TOLERANCE).all():
            raise UserError(f"group weights must be at least 0 and sum to 1 for every topic; the sums are {sums_T}")
        unweighted = [
            name for name, most in zip(self.groups, self.group_weights_TK.max(axis=0), strict=True) if most == 0
        ]
        if unweighted:
            raise UserError(
                f"groups without weight on any topic: {', '.join(unweighted)}; leave them out or give them weight"
            )
        object.__setattr__(self, "group_weights_TK", self.group_weights_TK / sums_T[:, None])  # exact sums
        if len(LEVELS) ** len(self.attributes) > MAX_ITEMS:
            raise UserError(f"{len(self.attributes)} attributes are too many for exact floors; use at most 7")

    @property
    def num_groups(self) -> int:
        return len(self.groups)

    @property
    def num_topics(self) -> int:
        return len(self.group_weights_TK)

    @cached_property
    def items_IA(self) -> NDArray[np.float64]:
        """All combinations of levels."""
        return np.array(list(itertools.product(LEVELS, repeat=len(self.attributes))), dtype=np.float64)

    @cached_property
    def rewards_KI(self) -> NDArray[np.float64]:
        return self.rewards_KA @ self.items_IA.T

    def draw(self, num_pairs: int, generator: np.random.Generator, raters_per_pair: int = 1) -> Draw:
        """Draws topics and pairs of distinct items uniformly, raters given the topic, labels by the rater's BT model.

        Args:
            num_pairs: number of pairs.
            generator: source of randomness.
            raters_per_pair: number of raters who judge each pair.

        Returns:
            N = num_pairs * raters_per_pair judgments; raters of one pair share its number in `pair_N`.
        """
        num_items = len(self.items_IA)
        topic_N = generator.integers(self.num_topics, size=num_pairs).repeat(raters_per_pair)
        first_N = generator.integers(num_items, size=num_pairs)
        second_N = (first_N + generator.integers(1, num_items, size=num_pairs)) % num_items
        first_N, second_N = first_N.repeat(raters_per_pair), second_N.repeat(raters_per_pair)
        cumulative_NK = self.group_weights_TK.cumsum(axis=1)[topic_N]
        group_N = (generator.random(len(topic_N))[:, None] >= cumulative_NK[:, :-1]).sum(axis=1)
        margin_N = self.rewards_KI[group_N, first_N] - self.rewards_KI[group_N, second_N]
        first_wins_N = np.log(generator.random(len(topic_N))) < WINNER.array_log_prob(margin_N)
        return Draw(
            topic_N,
            np.where(first_wins_N, first_N, second_N),
            np.where(first_wins_N, second_N, first_N),
            group_N,
            np.arange(num_pairs).repeat(raters_per_pair),
        )

    @cached_property
    def floors(self) -> dict[str, float]:
        """The floor of each of `REFERENCES`, in nats, by exact summation over all topics and pairs of distinct items.

        marginal_static is E[h(Σ_k g_k σ_k)], with g the mean weights over topics: the floor of a predictor that reads
        the pair but not the prompt, which a static mixture can reach.
        """
        probability_NK, mass_N, mean_1K = self._probability_NK, self._mass_II.ravel(), self._mean_weights_K[None]
        floors = (
            # Topic and pair are independent, so the oracle's mean over topics is its mean over groups.
            oracle_floor(mean_1K, probability_NK, mass_N).value,
            self._mean_over_topics(marginal_floor),
            marginal_floor(mean_1K, probability_NK, mass_N).value,
            float(np.mean([solution.floor.value for solution in self._conditional_solutions])),
            self._linear_solution.floor.value,
        )
        return dict(zip(REFERENCES, floors, strict=True))

    @cached_property
    def gaps(self) -> dict[str, float]:
        """Differences between the floors, in nats, and lower bounds of the first difference; exact sums.

        mutual_information: F1 - F0, the gain from the person's identity alone. misspecification: F2 (conditional) - F1,
        the gain of a mixture over any single reward. prompt: F2 (linear) - F2 (conditional), the gain of a gate on the
        prompt, which a richer single BT would also reach. variance_bound, pinsker_bound, printed_bound: see
        `micro_lit.floors.groups`.
        """
        floors, weights_TK = self.floors, self.group_weights_TK
        equal_1K = np.full((1, self.num_groups), 1.0 / self.num_groups)
        # Both bounds are 2 ρ K times a variance that does not depend on the topic; with equal weights the functions
        # return twice that variance.
        scale = float(weights_TK.min()) * self.num_groups
        variance, printed = (
            bound(equal_1K, self._probability_NK, self._mass_II.ravel()).value
            for bound in (variance_bound, printed_bound)
        )
        return {
            "mutual_information": floors["marginal"] - floors["oracle"],
            "misspecification": floors["single_bt_conditional"] - floors["marginal"],
            "prompt": floors["single_bt_linear"] - floors["single_bt_conditional"],
            "variance_bound": scale * variance,
            "pinsker_bound": self._mean_over_topics(pinsker_bound),
            "printed_bound": scale * printed,
        }

    @cached_property
    def certificates(self) -> dict[str, float]:
        """Final gradient norm of the solver, for each floor that is a minimum; the largest over all topics."""
        return {
            "single_bt_conditional": max(solution.gradient_norm for solution in self._conditional_solutions),
            "single_bt_linear": self._linear_solution.gradient_norm,
        }

    def reference_log_probs(self, draw: Draw) -> NDArray[np.float64]:
        """Log-probability [N, F] of each label under the predictors that reach the floors, in order of `REFERENCES`.

        On the same rows, the loss of a model minus that of a reference is the model's excess over the floor, without
        the label noise that both share.
        """
        margin_KN = self.rewards_KI[:, draw.chosen_N] - self.rewards_KI[:, draw.rejected_N]
        log_prob_KN = WINNER.array_log_prob(margin_KN)
        with np.errstate(divide="ignore"):
            log_weights_KN = np.log(self.group_weights_TK[draw.topic_N]).T
        log_mean_weights_K1 = np.log(self._mean_weights_K)[:, None]
        conditional_N = self._conditional_TI[draw.topic_N, draw.chosen_N]
        conditional_N = conditional_N - self._conditional_TI[draw.topic_N, draw.rejected_N]
        linear_N = (self.items_IA[draw.chosen_N] - self.items_IA[draw.rejected_N]) @ self.linear_A
        return np.stack(
            [
                log_prob_KN[draw.group_N, np.arange(len(draw.group_N))],
                logsumexp(log_weights_KN + log_prob_KN, axis=0),
                logsumexp(log_mean_weights_K1 + log_prob_KN, axis=0),
                WINNER.array_log_prob(conditional_N),
                WINNER.array_log_prob(linear_N),
            ],
            axis=1,
        )

    @property
    def linear_A(self) -> NDArray[np.float64]:
        """The best single reward that is linear in the attributes and independent of the prompt."""
        return self._linear_solution.parameters

    @cached_property
    def _linear_solution(self) -> Solution:
        differences_NA = (self.items_IA[:, None] - self.items_IA[None, :]).reshape(-1, len(self.attributes))
        return linear_bt(differences_NA, self._probability_NK @ self._mean_weights_K, self._mass_II.ravel())

    @property
    def _conditional_TI(self) -> NDArray[np.float64]:
        """The best single score of each item given the topic: any function of prompt and response."""
        return np.stack([solution.parameters for solution in self._conditional_solutions])

    @cached_property
    def _conditional_solutions(self) -> list[Solution]:
        return [
            bt_projection(np.tensordot(weights_K, self._probability_KII, 1), self._mass_II)
            for weights_K in self.group_weights_TK
        ]

    def _mean_over_topics(self, quantity: Callable[..., FloorEstimate]) -> float:
        """Mean over topics of a function of (weights, probabilities, mass), without groups of weight 0 in the topic."""
        values = []
        for weights_K in self.group_weights_TK:
            known_K = weights_K > 0
            estimate = quantity(weights_K[None, known_K], self._probability_NK[:, known_K], self._mass_II.ravel())
            values.append(estimate.value)
        return float(np.mean(values))

    @property
    def _mean_weights_K(self) -> NDArray[np.float64]:
        return self.group_weights_TK.mean(axis=0)

    @property
    def _probability_NK(self) -> NDArray[np.float64]:
        """P(first wins | group) for all ordered pairs of items, as rows."""
        return self._probability_KII.reshape(self.num_groups, -1).T

    @cached_property
    def _probability_KII(self) -> NDArray[np.float64]:
        return np.exp(WINNER.array_log_prob(np.stack([_margins(reward_I) for reward_I in self.rewards_KI])))

    @cached_property
    def _mass_II(self) -> NDArray[np.float64]:
        num_items = len(self.items_IA)
        return (1.0 - np.eye(num_items)) / (num_items * (num_items - 1))


def _margins(score_I: NDArray[np.float64]) -> NDArray[np.float64]:
    return score_I[:, None] - score_I[None, :]


def plant(
    attributes: Sequence[str],
    groups: int | Mapping[str, Mapping[str, float]] = 4,
    relevant: Count = 2,
    strength: NonNegative = 3.0,
    topics: Count = 8,
    group_weights: float | Sequence[Sequence[float]] = 0.3,
    angle: Annotated[float, Ge(0.0), Le(180.0)] | None = None,
    seed: Index = 0,
) -> Population:
    """Makes a population from settings.

    Args:
        attributes: names of the attributes, at most 7.
        groups: number of groups to draw, or the rewards of each group: group -> {attribute: reward}.
        relevant: number of attributes with a nonzero reward, for each drawn group.
        strength: factor of the rewards; rewards of drawn groups are ±1 before.
        topics: number of topics.
        group_weights: concentration of the symmetric Dirichlet from which the weights of each topic are drawn (small:
            one group per topic; large: the same weights in all topics), or the weights themselves, one row per topic.
        angle: angle in degrees between the rewards of two drawn groups, of norm 1 before `strength`: 0 for equal, 180
            for opposite rewards. The groups agree on the first attribute and differ on the second.
        seed: of the draws of groups and weights; pairs are drawn with a separate seed.

    Raises:
        UserError: for settings out of range.

    Example:
        >>> sorted(plant(["concise", "formal"], groups={"ada": {"concise": 1.0}, "bob": {"formal": 1.0}}).floors)
        ['marginal', 'marginal_static', 'oracle', 'single_bt_conditional', 'single_bt_linear']
    """
    generator = np.random.default_rng(seed)
    attributes = tuple(attributes)
    if not (groups if isinstance(groups, int) else len(groups)):
        raise UserError("data.population.groups is empty; a population needs at least one group")
    if angle is not None:
        names, rewards_KA = ("group_0", "group_1"), _angled_rewards(len(attributes), groups, angle)
    elif isinstance(groups, int):
        names = tuple(f"group_{number}" for number in range(groups))
        rewards_KA = _draw_rewards(len(attributes), groups, relevant, generator)
    else:
        names = tuple(groups)
        unknown = {name for group in groups.values() for name in group} - set(attributes)
        if unknown:
            raise UserError(f"groups care about {sorted(unknown)}, which are not attributes; known: {attributes}")
        rewards_KA = np.array([[float(group.get(name, 0.0)) for name in attributes] for group in groups.values()])
    if isinstance(group_weights, int | float):
        if group_weights <= 0:
            raise UserError(f"group_weights={group_weights}: a Dirichlet concentration is greater than 0")
        group_weights_TK = generator.dirichlet([float(group_weights)] * len(rewards_KA), size=topics)
    else:
        if len({len(row) for row in group_weights}) > 1:
            raise UserError("group_weights has rows of different lengths; give one weight per group and topic")
        group_weights_TK = np.array(group_weights, dtype=np.float64)
        if group_weights_TK.shape != (topics, len(rewards_KA)):
            raise UserError(
                f"group_weights has shape {group_weights_TK.shape}; "
                f"{topics} topics and {len(rewards_KA)} groups need {(topics, len(rewards_KA))}"
            )
    return Population(attributes, names, strength * rewards_KA, group_weights_TK)


def _draw_rewards(num_attributes: int, groups: int, relevant: int, generator: np.random.Generator) -> NDArray:
    if not 1 <= relevant <= num_attributes:
        raise UserError(f"each group cares about {relevant} attributes; there are {num_attributes} to choose from")
    rewards_KA = np.zeros((groups, num_attributes))
    for reward_A in rewards_KA:
        chosen = generator.choice(num_attributes, size=relevant, replace=False)
        reward_A[chosen] = generator.choice([-1.0, 1.0], size=relevant)
    return rewards_KA


def _angled_rewards(num_attributes: int, groups: int | Mapping, angle: float) -> NDArray:
    if groups != 2:
        raise UserError(f"data.population.angle={angle} is between two drawn groups; it needs data.population.groups=2")
    if not 0 <= angle <= 180:
        raise UserError(f"data.population.angle={angle}: an angle between rewards is from 0 to 180 degrees")
    if num_attributes < 2:
        raise UserError(f"data.population.angle={angle} needs at least two attributes; there is one")
    rewards_KA = np.zeros((2, num_attributes))
    rewards_KA[:, 0], rewards_KA[:, 1] = cosdg(angle / 2), sindg(angle / 2) * np.array([1.0, -1.0])
    return rewards_KA
