"""Planted populations: groups of raters whose rewards are known, and therefore their irreducible error.

Responses differ in a few attributes of three levels (-1, 0, +1); a group's reward is linear in the levels; how likely a
rater of each group answers depends on the topic of the prompt.

Dimension letters: N pairs, K groups, A attributes, T topics, I items (all combinations of levels), F references.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, logsumexp

from micro_lit.errors import UserError
from micro_lit.floors import exact

LEVELS = (-1, 0, 1)
MAX_ITEMS = 3**7

REFERENCES = ("oracle", "marginal", "single_bt_conditional", "single_bt_linear")


class Draw(NamedTuple):
    """N judged pairs: topic of the prompt, items in the order (chosen, rejected), and group of the rater."""

    topic_N: NDArray[np.int64]
    chosen_N: NDArray[np.int64]
    rejected_N: NDArray[np.int64]
    group_N: NDArray[np.int64]
    pair_N: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Population:
    """Known groups of raters.

    rewards_KA: a group's reward for one level of an attribute. group_weights_TK: P(group | topic); rows sum to 1.
    """

    attributes: tuple[str, ...]
    groups: tuple[str, ...]
    rewards_KA: NDArray[np.float64]
    group_weights_TK: NDArray[np.float64]

    def __post_init__(self) -> None:
        sums_T = self.group_weights_TK.sum(axis=1)
        if (self.group_weights_TK < 0).any() or not np.allclose(sums_T, 1.0):
            raise UserError(f"group weights must be at least 0 and sum to 1 for every topic; the sums are {sums_T}")
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
        """Every combination of levels, once."""
        return np.array(list(itertools.product(LEVELS, repeat=len(self.attributes))), dtype=np.float64)

    @cached_property
    def rewards_KI(self) -> NDArray[np.float64]:
        return self.rewards_KA @ self.items_IA.T

    def draw(self, num_pairs: int, generator: np.random.Generator, raters_per_pair: int = 1) -> Draw:
        """Draws topics and pairs of distinct items uniformly, raters by topic, labels by the rater's own BT model.

        The raters of one pair share its number in `pair_N`; N = num_pairs * raters_per_pair.
        """
        num_items = len(self.items_IA)
        topic_N = generator.integers(self.num_topics, size=num_pairs).repeat(raters_per_pair)
        first_N = generator.integers(num_items, size=num_pairs)
        second_N = (first_N + generator.integers(1, num_items, size=num_pairs)) % num_items
        first_N, second_N = first_N.repeat(raters_per_pair), second_N.repeat(raters_per_pair)
        cumulative_NK = self.group_weights_TK.cumsum(axis=1)[topic_N]
        group_N = (generator.random(len(topic_N))[:, None] >= cumulative_NK[:, :-1]).sum(axis=1)
        margin_N = self.rewards_KI[group_N, first_N] - self.rewards_KI[group_N, second_N]
        first_wins_N = np.log(generator.random(len(topic_N))) < log_expit(margin_N)
        return Draw(
            topic_N,
            np.where(first_wins_N, first_N, second_N),
            np.where(first_wins_N, second_N, first_N),
            group_N,
            np.arange(num_pairs).repeat(raters_per_pair),
        )

    @cached_property
    def floors(self) -> dict[str, float]:
        """The floors of `REFERENCES`, in nats, by exact summation over all pairs of distinct items and all topics."""
        probability_KII = self._probability_KII
        mass_II = self._mass_II
        flat_mass = (mass_II / self.num_topics).ravel()
        flat_probability_NK = probability_KII.reshape(self.num_groups, -1).T
        oracle, marginal, conditional, linear = 0.0, 0.0, 0.0, 0.0
        for topic, weights_K in enumerate(self.group_weights_TK):
            oracle += exact.oracle_floor(weights_K[None], flat_probability_NK, flat_mass)
            marginal += exact.marginal_floor(weights_K[None], flat_probability_NK, flat_mass)
            mixed_II = np.tensordot(weights_K, probability_KII, 1)
            conditional += (mass_II * exact.bt_cross_entropy(mixed_II, _margins(self._conditional_TI[topic]))).sum()
            linear += (mass_II * exact.bt_cross_entropy(mixed_II, _margins(self.items_IA @ self.linear_A))).sum()
        values = (oracle, marginal, conditional / self.num_topics, linear / self.num_topics)
        return {name: float(value) for name, value in zip(REFERENCES, values, strict=True)}

    def reference_log_probs(self, draw: Draw) -> NDArray[np.float64]:
        """Log-probability [N, F] of each label under the predictors that reach the floors, in order of `REFERENCES`.

        The difference between a model's and a reference's loss on the same rows is the model's excess over the floor,
        without the noise of the labels that both share.
        """
        margin_KN = self.rewards_KI[:, draw.chosen_N] - self.rewards_KI[:, draw.rejected_N]
        log_prob_KN = log_expit(margin_KN)
        with np.errstate(divide="ignore"):
            log_weights_KN = np.log(self.group_weights_TK[draw.topic_N]).T
        conditional_N = self._conditional_TI[draw.topic_N, draw.chosen_N]
        conditional_N = conditional_N - self._conditional_TI[draw.topic_N, draw.rejected_N]
        linear_N = (self.items_IA[draw.chosen_N] - self.items_IA[draw.rejected_N]) @ self.linear_A
        return np.stack(
            [
                log_prob_KN[draw.group_N, np.arange(len(draw.group_N))],
                logsumexp(log_weights_KN + log_prob_KN, axis=0),
                log_expit(conditional_N),
                log_expit(linear_N),
            ],
            axis=1,
        )

    @cached_property
    def linear_A(self) -> NDArray[np.float64]:
        """The best single reward that is linear in the attributes and does not see the prompt."""
        mixed_II = np.tensordot(self.group_weights_TK.mean(axis=0), self._probability_KII, 1)
        differences_NA = (self.items_IA[:, None] - self.items_IA[None, :]).reshape(-1, len(self.attributes))
        return exact.linear_bt(differences_NA, mixed_II.ravel(), self._mass_II.ravel())

    @cached_property
    def _conditional_TI(self) -> NDArray[np.float64]:
        """The best single score of each item for each topic: any function of prompt and response."""
        scores = []
        for weights_K in self.group_weights_TK:
            mixed_II = np.tensordot(weights_K, self._probability_KII, 1)
            scores.append(exact.bt_projection(mixed_II, self._mass_II))
        return np.stack(scores)

    @cached_property
    def _probability_KII(self) -> NDArray[np.float64]:
        return np.exp(log_expit(np.stack([_margins(reward_I) for reward_I in self.rewards_KI])))

    @cached_property
    def _mass_II(self) -> NDArray[np.float64]:
        num_items = len(self.items_IA)
        return (1.0 - np.eye(num_items)) / (num_items * (num_items - 1))


def _margins(score_I: NDArray[np.float64]) -> NDArray[np.float64]:
    return score_I[:, None] - score_I[None, :]


def plant(
    attributes: Sequence[str],
    groups: int | Mapping[str, Mapping[str, float]] = 4,
    relevant: int = 2,
    strength: float = 3.0,
    topics: int = 8,
    group_weights: float | Sequence[Sequence[float]] = 0.3,
    seed: int = 0,
) -> Population:
    """A population from a few settings.

    groups: how many groups to draw, each caring about `relevant` attributes, or the rewards of each group by name.
    strength: multiplies the rewards. A drawn group's rewards are ±1 before that.
    group_weights: concentration of a symmetric Dirichlet from which each topic's weights are drawn (small: each topic
        has its own group; large: all topics alike), or the weights themselves, a row a topic.
    seed: of the draws of groups and weights; the pairs have their own.
    """
    generator = np.random.default_rng(seed)
    attributes = tuple(attributes)
    if not (groups if isinstance(groups, int) else len(groups)):
        raise UserError("data.population.groups is empty; a population needs at least one group")
    if isinstance(groups, int):
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
