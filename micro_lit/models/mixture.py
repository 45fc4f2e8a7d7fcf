"""Mixtures of Bradley-Terry rewards, and single Bradley-Terry as the mixture of one.

Dimension letters: B pairs in the batch, K heads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Lt
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torchmetrics import Metric

from micro_lit import likelihood
from micro_lit.config.redaction import redact
from micro_lit.likelihood import Link, LinkName, hedge_log_targets
from micro_lit.metrics import (
    BUILT_IN,
    ROWS,
    CategoryMetrics,
    ExcessMetrics,
    HeadMetrics,
    MixedRewardMetrics,
    PreferenceMetrics,
    RaterMetrics,
    Units,
    WeightMetrics,
)
from micro_lit.models.checks import check_log_prob, check_log_weights, check_rewards, check_term, check_weights
from micro_lit.models.contracts import COLUMNS, as_gate, as_head, as_link, gate_arguments, named_terms, training_values
from micro_lit.models.gates import StaticGate
from micro_lit.models.heads import LinearHeads
from micro_lit.models.measured import measured
from micro_lit.models.training import OptimizerFactory, TrainedModule
from micro_lit.ranges import Count, NonNegative, Share, Text

LinkOrName = Annotated[
    Link | LinkName,
    Field(description="one of probability, reward; or a link of your own, as a node with a _target_"),
]

BREAKDOWNS = ("source", "attribute", "group")

# Inputs of a gate that count as knowledge of the model, see `MixtureBT.knows`.
KNOWN = frozenset({"criterion", "user"})

# Training pairs per head, and the maximum number of heads, when the number of heads is chosen automatically.
PAIRS_A_HEAD, MOST_HEADS = 500, 8


def heads_for(num_pairs: int) -> int:
    """The default number of heads of a mixture: the largest of 2, 4 and 8 with at least 500 training pairs per head.

    A pair holds at most one bit, and a linear head on a sentence encoder has some hundreds of weights (384 on MiniLM):
    with fewer pairs than weights, a head memorises its pairs. Two is the minimum, whatever the data, since one head
    cannot disagree; set the number explicitly to study more than eight.

    Args:
        num_pairs: number of training pairs.
    """
    heads = 2
    while heads < MOST_HEADS and num_pairs >= 2 * heads * PAIRS_A_HEAD:
        heads *= 2
    return heads


class Judgment(NamedTuple):
    """Outputs of a model for a batch: reward margins (chosen minus rejected), log weights, and rewards.

    context_BD: the representation that gate or heads read; None if they read none. dense_log_weights_BK: the log
    weights before a sparse model restricts them to a few heads; for other models equal to log_weights_BK.
    """

    margins_BK: Float[Tensor, "B K"]
    log_weights_BK: Float[Tensor, "B K"]
    chosen_BK: Float[Tensor, "B K"]
    rejected_BK: Float[Tensor, "B K"]
    context_BD: Float[Tensor, "B D"] | None
    dense_log_weights_BK: Float[Tensor, "B K"]


class MixtureBT(TrainedModule):
    """p(chosen ≻ rejected | x) = Σ_k w_k(x) σ(Δ_k)  [MiCRo, arXiv 2505.24846], trained on pairs alone.

    Args:
        backbone: pairs -> representations (`micro_lit.features.backbones`).
        names: values of each label column, for the breakdowns of the test.
        num_heads: K.
        references: names of the reference predictors whose log-probabilities come with the pairs.
        bayes: the reference among these that knows everything the data contain (the Bayes predictor).
        sources: values of the column `source` in the model's training data; None: those in `names`.
        subjects: likewise, the values of criteria and users, by the keys `criterion` and `user`.
        head: built with (width, num_heads), see `micro_lit.models.contracts`.
        gate: likewise.
        link: `probability` mixes Bradley-Terry models, `reward` mixes rewards inside one; or a custom `Link`.
        entropy_weight: weight of the mean negative entropy of each example's weights. MiCRo sets 0.5, which pulls all
            weights to uniform.
        balance_weight: weight of the divergence of the batch's mean weights from uniform; single examples may still
            have sharp weights.
        label_smoothing: probability that a label is wrong.
        rating_gap_weight: the margin must exceed the rating gap times this weight, where the data have rating gaps.
        centring_weight: weight of the mean squared sum of a pair's rewards, which fixes their level.
        optimizer: parameters -> optimizer.
        warmup: fraction of all steps in which the learning rate rises to its value; then it falls to zero along a
            cosine.
        name: name of the model in results.
        terms: custom loss terms, by name: see `micro_lit.models.contracts.LossTerm`.

    Attributes:
        knows: inputs of the model beyond prompt and responses (`attribute`, `user`, ...): those of its class, and
            criterion and user if its gate reads them.
        by_user: whether the model learns codes of users.
        weighs_heads: whether such a code consists of log weights of heads, added to those of the gate.
        is_router: whether the model weights the heads of a stage 1 model, its argument `stage1`.
    """

    knows: frozenset[str] = frozenset()
    by_user = False
    weighs_heads = False
    is_router = False

    def __init__(
        self,
        backbone: nn.Module,
        names: Mapping[str, list[str]],
        num_heads: Count | None,
        references: Sequence[str] = (),
        bayes: str | None = None,
        sources: Sequence[str] | None = None,
        subjects: Mapping[str, Sequence[str]] | None = None,
        head: Callable[..., nn.Module] = LinearHeads,
        gate: Callable[..., nn.Module] = StaticGate,
        link: LinkOrName = "probability",
        entropy_weight: NonNegative = 0.0,
        balance_weight: NonNegative = 0.0,
        label_smoothing: Annotated[float, Ge(0.0), Lt(0.5)] = 0.0,
        rating_gap_weight: NonNegative = 0.0,
        centring_weight: NonNegative = 0.0,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        warmup: Share = 0.05,
        name: Text = "mixture",
        terms: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.backbone = backbone
        self.strict_loading = not backbone.untrained
        # Heads before the gate: with K = 1 their initial values then do not depend on the gate.
        self.head = as_head(head(width=backbone.width, num_heads=num_heads))
        self.gate = as_gate(gate(width=backbone.width, num_heads=num_heads))
        self.knows = type(self).knows | (KNOWN & frozenset(self.gate.reads))
        self.values = training_values(names, {"source": sources, **(subjects or {})})
        self._make_room(names)
        self.num_heads = num_heads
        self.link = as_link(link)
        self.entropy_weight, self.balance_weight = entropy_weight, balance_weight
        self.label_smoothing, self.rating_gap_weight = label_smoothing, rating_gap_weight
        self.centring_weight = centring_weight
        self.make_optimizer, self.warmup = optimizer, warmup
        self.terms = named_terms(terms)
        # Registers terms that are modules, so that their weights are moved, trained and saved with the model.
        self.term_modules = nn.ModuleList(term for term in self.terms.values() if isinstance(term, nn.Module))
        self.names = {name: list(names.get(name, [])) for name in BREAKDOWNS}
        self.settings: dict[str, Any] = {}
        self.num_pairs: int | None = None
        self.is_checked = False  # True after the first training batch
        self.last_test: dict[str, Any] | None = None  # results of the last test
        self.validation_weights = WeightMetrics(num_heads)
        self.head_metrics = HeadMetrics(num_heads, len(self.names["group"]))
        several = {name: len(values) for name, values in self.names.items() if num_heads > 1 and len(values) > 1}
        self.category_metrics = nn.ModuleDict({name: CategoryMetrics(num_heads, n) for name, n in several.items()})
        self.rater_metrics = RaterMetrics(len(names.get("pair_id", [])))
        self.references, self.bayes = tuple(references), bayes
        self.measure()
        self.baseline_metrics: Metric | None = None  # set by `Run`, which has the training pairs they need

    def measure(self, metrics: Sequence[Any] = BUILT_IN, units: Units = ROWS) -> None:
        """Sets the metrics of validation and test, and the units over which the test's intervals are computed."""
        self.validation_metrics = PreferenceMetrics(metrics=metrics)
        self.test_metrics = PreferenceMetrics(metrics=metrics, units=units)
        self.test_breakdowns = nn.ModuleDict(
            {
                name: PreferenceMetrics(len(values), metrics, units, name if name in BREAKDOWNS else None)
                for name, values in self.names.items()
                if values
            }
        )
        self.mixed_reward_metrics = MixedRewardMetrics(units) if self.num_heads > 1 else None
        if self.references:
            self.excess_metrics = ExcessMetrics(len(self.references), self.references.index(self.bayes), units)

    def forward(self, pairs: Any, evidence_BK: Float[Tensor, "B K"] | None = None) -> Judgment:
        """Scores pairs by heads and gate. evidence_BK: further evidence on the heads, added to the log weights."""
        shown = self.backbone(pairs, with_context="prompt" in self.gate.reads or self.head.reads_context)
        # Heads and gate are cheap and decide the result: float32, whatever the precision of the backbone.
        with torch.autocast(self.device.type, enabled=False):
            context_BD = None if shown.context_BD is None else shown.context_BD.float()
            if self.head.reads_context:
                chosen_BK = self.head(shown.chosen_BD.float(), context_BD)
                check_rewards(self.head, chosen_BK, len(pairs), self.num_heads)
                rejected_BK = self.head(shown.rejected_BD.float(), context_BD)
            else:
                rewards_RK = self.head(shown.responses_RD.float())
                check_rewards(self.head, rewards_RK, len(shown.responses_RD), self.num_heads)
                chosen_BK, rejected_BK = rewards_RK[shown.chosen_B], rewards_RK[shown.rejected_B]
            log_weights_BK = self.gate(*self.gate_inputs(pairs, context_BD))
        margins_BK = self.link.margin(chosen_BK, rejected_BK)
        check_log_weights(self.gate, log_weights_BK, len(pairs), self.num_heads)
        log_weights_BK = log_weights_BK.expand_as(margins_BK)
        if evidence_BK is not None:
            log_weights_BK = torch.log_softmax(log_weights_BK + evidence_BK, dim=-1)
        return Judgment(margins_BK, log_weights_BK, chosen_BK, rejected_BK, context_BD, log_weights_BK)

    def judge(self, pairs: Any) -> Judgment:
        """Scores pairs at evaluation, with all available information on the rater."""
        return self(pairs)

    def gate_inputs(self, pairs: Any, context_BD: Float[Tensor, "B D"] | None) -> Sequence[Tensor | None]:
        """The arguments of the gate for some pairs."""
        read = {name: self._codes(name, pairs) for name in COLUMNS if name in self.gate.reads}
        return gate_arguments(self.gate, {"prompt": context_BD, **read})

    def _make_room(self, names: Mapping[str, list[str]]) -> None:
        """Sizes the gate by the values of the training data."""
        self.gate.make_room({name: len(values) for name, values in self.values.items()})
        self.map_codes(names)

    def map_codes(self, names: Mapping[str, list[str]]) -> None:
        """Maps codes of the current data to the gate's. names: values of each label column of the data."""
        for name in COLUMNS.keys() & set(self.gate.reads):
            code_of = {value: code for code, value in enumerate(self.values[name])}
            codes = [code_of.get(value, -1) for value in names.get(COLUMNS[name], [])]
            self.register_buffer(f"{name}_of_code", torch.tensor(codes or [-1]), persistent=False)

    def _codes(self, name: str, pairs: Any) -> Int64[Tensor, " B"]:
        """The gate's code of the source, criterion or user of each pair; -1 for values not in training."""
        label_B = pairs.label_N(COLUMNS[name])
        return torch.where(label_B >= 0, self.get_buffer(f"{name}_of_code")[label_B.clamp(min=0)], -1)

    def log_prob(self, judgment: Judgment) -> Float[Tensor, " B"]:
        """Log-probability that the chosen response is preferred, in nats."""
        return self.link.log_prob(judgment.margins_BK, judgment.log_weights_BK)

    def _checked_log_prob(self, judgment: Judgment) -> Float[Tensor, " B"]:
        """Log-probabilities. Raises `UserError` if they are not valid; see `micro_lit.models.checks`."""
        check_weights(self.gate, judgment.log_weights_BK)
        log_prob_B = self.log_prob(judgment)
        check_log_prob(self.link, log_prob_B)
        return log_prob_B

    def losses(self, judgment: Judgment, pairs: Any) -> dict[str, Tensor]:
        """The weighted terms of the training loss; their sum is minimised. Terms of weight zero are left out."""
        judgment = self._less_rating_gaps(judgment, pairs)
        terms = {"nll": self.nll_terms(judgment, pairs).mean()}
        if self.entropy_weight:
            terms["entropy"] = self.entropy_weight * likelihood.negative_entropy(judgment.log_weights_BK)
        if self.balance_weight:
            terms["balance"] = self.balance_weight * likelihood.imbalance(judgment.dense_log_weights_BK)
        if self.centring_weight:
            level_BK = judgment.chosen_BK + judgment.rejected_BK
            terms["centring"] = self.centring_weight * level_BK.square().mean()
        penalty = self.head.penalty()
        if penalty is not None:
            terms["penalty"] = penalty / self.pairs_of_loss(pairs)
        return terms | self.own_terms(judgment, pairs)

    def own_terms(self, judgment: Judgment, pairs: Any) -> dict[str, Tensor]:
        """The custom terms from the settings, checked on the first batch."""
        found = {name: term(judgment, pairs) for name, term in self.terms.items()}
        if not self.is_checked:
            for name, value in found.items():
                check_term(name, self.terms[name], value)
        return found

    def pairs_of_loss(self, pairs: Any) -> int:
        """n: number of labelled training pairs on all devices during a fit; otherwise the number of given pairs."""
        return self.num_pairs or len(pairs)

    def _less_rating_gaps(self, judgment: Judgment, pairs: Any) -> Judgment:
        """The judgment with margins reduced by the weighted rating gaps."""
        if not self.rating_gap_weight:
            return judgment
        gap_B = pairs.rating_gap_N.nan_to_num(nan=0.0)
        return judgment._replace(margins_BK=judgment.margins_BK - self.rating_gap_weight * gap_B[:, None])

    def _terms_of_rows(self, judgment: Judgment, pairs: Any) -> Float[Tensor, " B"]:
        """The loss of each pair, to find the pairs behind a non-finite loss."""
        with torch.no_grad():
            return self.nll_terms(self._less_rating_gaps(judgment, pairs), pairs)

    def nll_terms(self, judgment: Judgment, pairs: Any) -> Float[Tensor, " B"]:
        """The training loss of each pair, in nats."""
        return self.link.loss(judgment.margins_BK, judgment.log_weights_BK, self.label_smoothing)

    def on_fit_start(self) -> None:
        """Counts the labelled pairs, and prepares heads that are computed from the training data."""
        self.num_pairs = len(self.trainer.datamodule.labelled_pairs)
        self.head.prepare(self._differences(self.trainer.datamodule))

    def _differences(self, data: pl.LightningDataModule) -> Iterator[Float[Tensor, "B D"]]:
        """φ(chosen) - φ(rejected) of all training pairs, in batches."""
        with torch.no_grad():
            for rows_B in torch.arange(len(data.train_pairs)).split(data.eval_batch_size):
                shown = self.backbone(data.train_pairs[rows_B].to(self.device), with_context=False)
                yield shown.chosen_BD.float() - shown.rejected_BD.float()

    def training_step(self, pairs: Any, batch_index: int) -> Tensor:
        if self.backbone.is_trained:
            # Seeds dropout by step and device, so that a resumed run draws the same masks as an uninterrupted one.
            step = self.trainer.fit_loop.epoch_loop.total_batch_idx * self.trainer.world_size + self.trainer.global_rank
            torch.manual_seed(1_000_003 * self.settings.get("seed", 0) + step)
        judgment = self(pairs)
        self.after_pass(judgment, pairs)
        terms = self.losses(judgment, pairs)
        loss = sum(terms.values())
        if not loss.isfinite():
            raise self.not_finite(float(loss.detach()), self._terms_of_rows(judgment, pairs), len(pairs))
        if not self.is_checked:
            self._checked_log_prob(judgment)
            self.is_checked = True
        self.log_dict(
            {f"train/{name}": term.detach() for name, term in terms.items()},
            batch_size=len(pairs),
            sync_dist=self.trainer.world_size > 1,
        )
        return loss

    def after_pass(self, judgment: Judgment, pairs: Any) -> None:
        """Hook called in training with each judgment, before its loss, for models that store it."""

    def validation_step(self, pairs: Any, batch_index: int) -> None:
        judgment = self.judge(pairs)
        self.validation_metrics.update(self._checked_log_prob(judgment), pairs)
        self.validation_weights.update(judgment.log_weights_BK)

    def on_validation_epoch_end(self) -> None:
        [result], weights = self.validation_metrics.compute(), self.validation_weights.compute()
        self.validation_metrics.reset()
        self.validation_weights.reset()
        values = {name: facts["value"] for name, facts in result.items()}
        if self.num_heads > 1:
            values |= {name: weights[name] for name in ("entropy_per_example", "entropy_of_mean")}
            values["dead_heads"] = float(len(weights["dead"]))
        self.log_dict({f"val/{name}": value for name, value in values.items()})

    def on_test_start(self) -> None:
        self.last_test = None
        for metrics in self.modules():
            if isinstance(metrics, Metric):
                metrics.reset()

    def test_step(self, pairs: Any, batch_index: int) -> None:
        judgment = self.judge(pairs)
        log_prob_B = self._checked_log_prob(judgment)
        self.test_metrics.update(log_prob_B, pairs)
        for name, metrics in self.test_breakdowns.items():
            metrics.update(log_prob_B, pairs, self.cell_of(name, pairs))
        log_posterior_BK = hedge_log_targets(self.link.head_losses(judgment.margins_BK), judgment.log_weights_BK)
        self.head_metrics.update(judgment.margins_BK, judgment.log_weights_BK, log_posterior_BK, pairs.label_N("group"))
        for name, metrics in self.category_metrics.items():
            metrics.update(judgment.margins_BK, judgment.log_weights_BK, pairs.label_N(name))
        self.rater_metrics.update(log_prob_B, pairs.label_N("pair_id"), pairs.first_wins_N)
        if self.mixed_reward_metrics is not None:
            self.mixed_reward_metrics.update(log_prob_B, judgment.margins_BK, judgment.log_weights_BK, pairs)
        if self.references:
            self.excess_metrics.update(log_prob_B, pairs.reference_log_probs_NF, pairs)
        if self.baseline_metrics is not None:
            self.baseline_metrics.update(log_prob_B, pairs)

    def cell_of(self, name: str, pairs: Any) -> Int64[Tensor, " B"]:
        """The index of each pair's value in a breakdown; -1 for none."""
        return pairs.label_N(name)

    def on_test_epoch_end(self) -> None:
        [overall] = self.test_metrics.compute()
        self.log_dict({f"test/{name}": facts["value"] for name, facts in overall.items()})
        # Computed here because the Trainer then moves the model to the CPU, where NCCL cannot reduce the sums.
        self.last_test = measured(self)

    def test_results(self) -> dict[str, Any]:
        """Results of the last test as plain JSON types: the model's parts of results.json."""
        return measured(self) if self.last_test is None else self.last_test

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"settings": redact(self.settings), "sources": self.values["source"]}
        checkpoint["attributes"] = self.names["attribute"]
        if read := [name for name in ("criterion", "user") if name in self.gate.reads]:
            checkpoint["subjects"] = {name: self.values[name] for name in read}
        for name in [name for name in checkpoint["state_dict"] if not self.saves(name)]:
            del checkpoint["state_dict"][name]


class SingleBT(MixtureBT):
    """One Bradley-Terry reward for all users: −log σ(Δ) [Bradley & Terry 1952], the standard baseline."""

    def __init__(self, backbone: nn.Module, names: Mapping[str, list[str]], **settings: Any) -> None:
        super().__init__(backbone, names, num_heads=1, **settings)
