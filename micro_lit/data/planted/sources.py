"""Planted data sources: pairs from one population, as vectors or English texts. `load(seed)` returns `PreferenceData`.

Dimension letters: N pairs, M distinct texts, D representation width, I items, T topics, K groups.
"""

import dataclasses
import functools
import inspect
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from micro_lit.config.rules import Takes
from micro_lit.data.pairs import SPLITS, Counts, Pairs, PreferenceData, from_records
from micro_lit.data.planted import rendering
from micro_lit.data.planted.population import Draw, Population, plant
from micro_lit.data.records import LABELS, Message, Record
from micro_lit.errors import UserError
from micro_lit.ranges import Count, Index, Share

PopulationSettings = Annotated[Mapping[str, Any], Takes("micro_lit.data.planted.population.plant")]


class Planted:
    """Base class of data sets that are drawn from a planted population, anew for every seed.

    Args:
        population: settings of `micro_lit.data.planted.population.plant`.
        train, validation, test: number of pairs in each split.
        raters_per_pair: number of raters who judge each pair.
        users_per_group: number of users in each group; 0 gives no user ids.
        unseen_share: share of each group's users who occur only in test pairs.
        criteria: what contexts contain about the wishes of the rater's group. none: nothing, and no attribute names the
            group. given: everything, so that a gate can reach the oracle floor. hidden: nothing, but attributes name
            the group, and vectors keep the same width. shuffled: the wishes of the group of another row of the same
            split; the attribute names that group too.

    Raises:
        UserError: for settings out of range.
    """

    def __init__(
        self,
        population: PopulationSettings,
        train: Index,
        validation: Count,
        test: Index,
        raters_per_pair: Count = 1,
        users_per_group: Index = 0,
        unseen_share: Share = 0.0,
        criteria: Literal["none", "hidden", "given", "shuffled"] = "none",
    ) -> None:
        try:
            inspect.signature(plant).bind(**population)
        except TypeError as error:
            raise UserError(f"data.population: {error}") from error
        self.population = _shared_population(json.dumps(population))
        self.sizes = {"train": train, "validation": validation, "test": test}
        self.raters_per_pair = raters_per_pair
        self.users_per_group = users_per_group
        self.seen_per_group = users_per_group - round(unseen_share * users_per_group)
        if unseen_share and not 0 < self.seen_per_group < users_per_group:
            raise UserError(
                f"data.unseen_share={unseen_share} of data.users_per_group={users_per_group} users leaves "
                f"{self.seen_per_group} in training; each group must have at least one seen and one unseen user"
            )
        self.criteria = criteria

    def load(self, seed: int) -> PreferenceData:
        generator = np.random.default_rng(seed)
        draws = [self.population.draw(size, generator, self.raters_per_pair) for size in self.sizes.values()]
        splits = np.repeat(SPLITS, [len(draw.topic_N) for draw in draws]).tolist()
        draw = Draw(*(np.concatenate(columns) for columns in zip(*draws, strict=True)))
        draw = draw._replace(pair_N=np.arange(sum(self.sizes.values())).repeat(self.raters_per_pair))
        criterion_N = self._criteria(draw.group_N, np.array(splits), seed)
        data = self._show(draw, criterion_N, splits, generator)
        references_NF = torch.from_numpy(self.population.reference_log_probs(draw)).float()
        pairs = dataclasses.replace(data.pairs, reference_log_probs_NF=references_NF)
        bayes = "oracle" if self.criteria == "given" else "marginal"
        return dataclasses.replace(data, pairs=pairs, population=self.population, bayes=bayes)

    def _users(self, draw: Draw, splits: list[str], generator: np.random.Generator) -> np.ndarray:
        """User numbers: those of group k start at k * users_per_group, and its unseen users are the last ones."""
        if not self.users_per_group:
            return np.full(len(draw.group_N), -1)
        user_N = generator.integers(self.users_per_group, size=len(draw.group_N))
        if self.seen_per_group < self.users_per_group:
            known_N = np.array(splits) != "test"
            user_N[known_N] = generator.integers(self.seen_per_group, size=known_N.sum())
        return draw.group_N * self.users_per_group + user_N

    def _criteria(self, group_N: np.ndarray, split_N: np.ndarray, seed: int) -> np.ndarray:
        """The group whose wishes are in each row's context; -1 for none."""
        if self.criteria in ("none", "hidden"):
            return np.full(len(group_N), -1)
        criterion_N = group_N.copy()
        if self.criteria == "shuffled":
            generator = np.random.default_rng([seed, 1])  # separate, so that the rows are unchanged
            for split in SPLITS:
                criterion_N[split_N == split] = generator.permutation(criterion_N[split_N == split])
        return criterion_N

    @property
    def has_attributes(self) -> bool:
        """Whether attributes name the groups."""
        return self.criteria != "none"

    def _show(
        self, draw: Draw, criterion_N: np.ndarray, splits: list[str], generator: np.random.Generator
    ) -> PreferenceData:
        raise AssertionError("subclasses of Planted implement _show")


class PlantedFeatures(Planted):
    """Planted pairs as vectors: responses are their levels, contexts their one-hot topic.

    With criteria, a context also contains the normalised rewards of a group. Responses and contexts have the same
    width: a vector is zero in the dimensions of the other kind.

    Args:
        population: see `Planted`.
        prompt_in_response: whether responses contain the topic too, as a text that is encoded after its prompt does.
        settings: see `Planted`.
    """

    def __init__(self, population: PopulationSettings, prompt_in_response: bool = False, **settings: Any) -> None:
        super().__init__(population, **settings)
        self.prompt_in_response = prompt_in_response

    def _show(
        self, draw: Draw, criterion_N: np.ndarray, splits: list[str], generator: np.random.Generator
    ) -> PreferenceData:
        population = self.population
        num_items, num_attributes = population.items_IA.shape
        # With criteria each topic has one context per group, and a last one without criterion.
        per_topic = population.num_groups + 1 if self.has_attributes else 1
        context_N = draw.topic_N * per_topic + np.where(criterion_N < 0, per_topic - 1, criterion_N)
        contexts_MD = self._contexts(population)
        # One row per response, or one per response and topic.
        topics_ST = torch.eye(population.num_topics) if self.prompt_in_response else torch.zeros(1, 1)
        num_responses = len(topics_ST) * num_items
        vectors_MD = torch.zeros(num_responses + len(contexts_MD), num_attributes + contexts_MD.shape[1])
        responses_MD, vectors_MD[num_responses:, num_attributes:] = vectors_MD[:num_responses], contexts_MD
        responses_MD[:, :num_attributes] = torch.from_numpy(population.items_IA).repeat(len(topics_ST), 1)
        responses_MD[:, num_attributes:][:, : topics_ST.shape[1]] = topics_ST.repeat_interleave(num_items, dim=0)
        first_N = draw.topic_N * num_items if self.prompt_in_response else 0
        triplets_N3 = np.stack([num_responses + context_N, first_N + draw.chosen_N, first_N + draw.rejected_N], axis=1)
        unknown_N = np.full(len(context_N), -1)
        user_N = self._users(draw, splits, generator)
        # The same two responses under another criterion are another pair.
        asked_N = np.unique(draw.pair_N * len(contexts_MD) + context_N, return_inverse=True)[1]
        columns = {
            "source": draw.topic_N,
            "attribute": np.where(criterion_N < 0, draw.group_N, criterion_N) if self.has_attributes else unknown_N,
            "group": draw.group_N,
            "user_id": user_N,
            "pair_id": self._judged_pair(asked_N, user_N),
        }
        labels_NC = np.stack([columns[name] for name in LABELS], axis=1)
        names = {
            "source": [f"topic_{topic}" for topic in range(population.num_topics)],
            "attribute": list(population.groups) if self.has_attributes else [],
            "group": list(population.groups),
            "user_id": [f"user_{number}" for number in range(population.num_groups * self.users_per_group)],
            "pair_id": [f"pair_{number}" for number in range(asked_N.max(initial=-1) + 1)],
        }
        split_of_row = np.array(splits)
        return PreferenceData(
            texts=vectors_MD,
            pairs=Pairs(
                torch.from_numpy(triplets_N3),
                torch.from_numpy(labels_NC),
                torch.full((len(context_N),), float("nan")),
                torch.empty(len(context_N), 0),
            ),
            names=names,
            splits={name: torch.from_numpy(np.flatnonzero(split_of_row == name)) for name in SPLITS},
            counts={"planted_features": Counts(rows=len(context_N))},
            set_N=torch.zeros(len(context_N), dtype=torch.int64),
        )

    def _judged_pair(self, pair_N: np.ndarray, user_N: np.ndarray) -> np.ndarray:
        """The pair of each row; -1 if the same user has judged it in an earlier row."""
        if not self.users_per_group:
            return pair_N
        _, first = np.unique(np.stack([pair_N, user_N]), axis=1, return_index=True)
        return np.where(np.isin(np.arange(len(pair_N)), first), pair_N, -1)

    def _contexts(self, population: Population) -> Tensor:
        topics_TT = torch.eye(population.num_topics)
        if not self.has_attributes:
            return topics_TT
        wishes_KA = torch.nn.functional.normalize(torch.from_numpy(population.rewards_KA).float(), dim=1)
        criteria_CA = torch.cat([wishes_KA, torch.zeros_like(wishes_KA[:1])])
        return torch.cat(
            [topics_TT.repeat_interleave(len(criteria_CA), dim=0), criteria_CA.repeat(population.num_topics, 1)], dim=1
        )


class PlantedText(Planted):
    """Planted pairs as English texts: prompts, responses and criteria rendered from topic, levels and rewards.

    No prompt appears in two splits. The attributes must be among `micro_lit.data.planted.rendering.ATTRIBUTES`.

    Args:
        population, settings: see `Planted`.
    """

    prompts_per_topic = 600

    def __init__(self, population: Mapping[str, Any], **settings: Any) -> None:
        super().__init__(population, **settings)
        unknown = set(self.population.attributes) - set(rendering.ATTRIBUTES)
        if unknown:
            raise UserError(f"planted text has the attributes {rendering.ATTRIBUTES}; not {sorted(unknown)}")
        if self.population.num_topics > len(rendering.TOPICS):
            raise UserError(f"planted text has {len(rendering.TOPICS)} topics, not {self.population.num_topics}")

    def _show(
        self, draw: Draw, criterion_N: np.ndarray, splits: list[str], generator: np.random.Generator
    ) -> PreferenceData:
        population = self.population
        items = [
            {name: int(level) for name, level in zip(population.attributes, item_A, strict=True)}
            for item_A in population.items_IA
        ]
        rewards = [dict(zip(population.attributes, reward_A, strict=True)) for reward_A in population.rewards_KA]
        prompts = [
            _prompts_by_split(topic, self.prompts_per_topic, generator) for topic in range(population.num_topics)
        ]
        user_N = self._users(draw, splits, generator)
        rows = [column.tolist() for column in draw]
        records: list[Record] = []
        shown: dict[int, str] = {}
        # Criteria have a separate generator, so that prompts and responses are the same with and without them.
        [criterion_generator] = generator.spawn(1)
        for row, (topic, chosen, rejected, group, pair) in enumerate(zip(*rows, strict=True)):
            wanted = criterion_N[row]
            # All raters of a pair judge the same texts; only the order (chosen, rejected) differs.
            same_pair = bool(records) and records[-1].pair_id == f"pair_{pair}"
            if not same_pair:
                pool = prompts[topic][splits[row]]
                prompt = (Message("user", pool[generator.integers(len(pool))]),)
                shown = {item: rendering.render_response(topic, items[item], generator) for item in (chosen, rejected)}
            records.append(
                Record(
                    prompt,
                    shown[chosen],
                    shown[rejected],
                    criterion=None if wanted < 0 else rendering.render_criterion(rewards[wanted], criterion_generator),
                    attribute=population.groups[group if wanted < 0 else wanted] if self.has_attributes else None,
                    group=population.groups[group],
                    user_id=f"user_{user_N[row]}" if self.users_per_group else None,
                    source=rendering.TOPICS[topic],
                    pair_id=f"pair_{pair}",
                )
            )
        return from_records(records, splits, {"planted_text": Counts(rows=len(records))})


@functools.lru_cache(maxsize=8)
def _shared_population(settings: str) -> Population:
    """Makes a population, cached by its settings so that the jobs of a sweep compute its floors only once."""
    return plant(**json.loads(settings))


def _prompts_by_split(topic: int, wanted: int, generator: np.random.Generator) -> dict[str, list[str]]:
    """Distinct prompts of a topic: 70 % for training, 10 % for validation, 20 % for test."""
    prompts = list(dict.fromkeys(rendering.render_prompt(topic, generator) for _ in range(wanted)))
    first, second = int(0.7 * len(prompts)), int(0.8 * len(prompts))
    return {"train": prompts[:first], "validation": prompts[first:second], "test": prompts[second:]}
