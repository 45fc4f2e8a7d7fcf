"""Stage 2 of MiCRo: frozen heads, and a router that learns their weights for a context.

Dimension letters: B pairs in the batch, D representation width, K heads.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from micro_lit.adapt import sharpness
from micro_lit.errors import UserError
from micro_lit.likelihood import WEIGHTS_TOLERANCE, hedge_log_targets
from micro_lit.models.contracts import COLUMNS, Gate, as_gate, gate_arguments, training_values
from micro_lit.models.gates import LinearGate
from micro_lit.models.mixture import Judgment, MixtureBT
from micro_lit.models.training import OptimizerFactory
from micro_lit.ranges import Positive, Share, Text


class RouterGate(Gate):
    """log w = log softmax(log w_1 + g), w_1 the weights of a trained gate, g the output of a new gate, initially 0.

    So any router starts from the gate of stage 1, which stays frozen. The new gate starts at equal weights
    (`Gate.zero_`). If a gate cannot, a frozen copy of its initial state is subtracted: g = change - start.

    Args:
        stage1: the trained gate, frozen here.
        change: the gate to be trained.
        counts: number of codes of the trained gate, by input; higher codes are passed to it as unknown, -1.
    """

    def __init__(self, stage1: nn.Module, change: nn.Module, counts: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.stage1, self.change = stage1.requires_grad_(False), change
        self.counts = dict(counts or {})
        self.reads = tuple(dict.fromkeys((*stage1.reads, *change.reads)))
        self._begin()

    def make_room(self, counts: Mapping[str, int]) -> None:
        self.change.make_room(counts)
        self._begin()

    def _begin(self) -> None:
        self.start = None
        if not self.change.zero_():
            self.start = copy.deepcopy(self.change).requires_grad_(False).eval()

    def forward(self, *inputs: Tensor | None) -> Float[Tensor, "B K"]:
        given = dict(zip(self.reads, inputs, strict=False))  # `inputs` is (None,) if nothing is read
        change_BK = self.change(*gate_arguments(self.change, given))
        if self.start is not None:
            change_BK = change_BK - self.start(*gate_arguments(self.change, given))
        return torch.log_softmax(self.trained(*inputs) + change_BK, dim=-1)

    def trained(self, *inputs: Tensor | None) -> Float[Tensor, "B K"]:
        """The log weights of stage 1."""
        given = dict(zip(self.reads, inputs, strict=False))
        for name in self.counts.keys() & given.keys():
            given[name] = torch.where(given[name] < self.counts[name], given[name], -1)
        return self.stage1(*gate_arguments(self.stage1, given))


class ContextRouter(MixtureBT):
    """Weights of frozen heads for a prompt and a criterion, learned from few labelled pairs  [MiCRo, 2505.24846, §3.3].

    In each epoch each pair has a target, computed by the router at the start of the epoch: w* ∝ ω exp(-ℓ / tau), which
    minimises w·ℓ + tau KL(w ‖ ω). The router is fitted to the targets by cross-entropy.

    Args:
        backbone: that of stage 1.
        names: see `MixtureBT`; likewise references, bayes, sources, subjects, optimizer, warmup, name and terms.
        stage1: the trained model whose backbone, heads and gate are reused, frozen.
        gate: the gate to be learned, of any kind: see `RouterGate`. Codes keep the numbers of the stage 1 gate; values
            that occur only in the router's data follow them.
        tau: temperature in nats. MiCRo sets 1e-3 and 1e-4, where targets are one-hot. With tau 1, not pooled, the
            rounds are those of EM. Logged as train/target_largest and train/target_effective: the mean largest weight
            of a target and its mean effective number of heads.
        pooled: whether ℓ is the mean of -log σ(Δ) over all pairs of an attribute, whose raters want the same, or, as in
            the paper, that of the single pair. One label says little about which head is right: unpooled targets follow
            it, and the router learns the proportions of heads that explain single pairs best, not the head that
            explains all pairs. Pairs without attribute are not pooled. A pooled router also learns from pairs whose
            labels it does not use (`loader.unlabelled`): their contexts teach it to read criteria.

    Raises:
        UserError: the stage 1 model has only one head.
    """

    is_router = True

    def __init__(
        self,
        backbone: nn.Module,
        names: Mapping[str, list[str]],
        stage1: MixtureBT,
        references: Sequence[str] = (),
        bayes: str | None = None,
        sources: Sequence[str] | None = None,
        subjects: Mapping[str, Sequence[str]] | None = None,
        gate: Callable[..., nn.Module] = LinearGate,
        tau: Positive = 1.0,
        pooled: bool = True,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        warmup: Share = 0.05,
        name: Text = "router",
        terms: Mapping[str, Any] | None = None,
    ) -> None:
        if stage1.num_heads == 1:
            raise UserError("stage1: a model of one head, nothing to weigh; give the run of a mixture")
        values = training_values(names, {"source": sources, **(subjects or {})})
        values = {name: list(dict.fromkeys([*stage1.values[name], *values[name]])) for name in COLUMNS}
        counts = {name: len(stage1.values[name]) for name in COLUMNS}
        super().__init__(
            backbone,
            names,
            stage1.num_heads,
            references,
            bayes,
            values.pop("source"),
            values,
            head=lambda **sizes: stage1.head,
            gate=lambda **sizes: RouterGate(stage1.gate, as_gate(gate(**sizes)), counts),
            link=stage1.link,
            optimizer=optimizer,
            warmup=warmup,
            name=name,
            terms=terms,
        )
        self.tau, self.pooled = tau, pooled
        self.register_buffer("pooled_losses_AK", torch.zeros(len(self.names["attribute"]), self.num_heads))
        self.backbone.requires_grad_(False)
        self.head.requires_grad_(False)
        # The gate at the start of the epoch, and its number: a run resumed in mid-epoch keeps the same targets.
        self.epoch_gate = copy.deepcopy(self.gate).requires_grad_(False)
        self.register_buffer("epoch", torch.tensor(-1))

    @torch.no_grad()
    def on_train_start(self) -> None:
        """Computes the mean loss of each head per attribute on labelled pairs, once, since the heads are frozen."""
        super().on_train_start()
        data = self.trainer.datamodule
        count_A1 = torch.zeros_like(self.pooled_losses_AK[:, :1])
        self.pooled_losses_AK.zero_()
        for rows_B in torch.arange(len(data.labelled_pairs)).split(data.eval_batch_size):
            pairs = data.labelled_pairs[rows_B].to(self.device)
            attribute_B = pairs.label_N("attribute")
            known_B = attribute_B >= 0
            losses_BK = self.link.head_losses(self(pairs).margins_BK)
            self.pooled_losses_AK.index_add_(0, attribute_B[known_B], losses_BK[known_B])
            count_A1.index_add_(0, attribute_B[known_B], torch.ones_like(losses_BK[known_B, :1]))
        self.pooled_losses_AK /= count_A1.clamp(min=1)
        if self.epoch < 0:
            first_B = torch.arange(min(len(data.labelled_pairs), data.eval_batch_size))
            self._check_start(data.labelled_pairs[first_B].to(self.device))

    def _check_start(self, pairs: Any) -> None:
        """Raises `UserError` if the router's initial weights differ from those of stage 1."""
        gate = copy.deepcopy(self.gate).eval()  # without dropout
        inputs = self.gate_inputs(pairs, self(pairs).context_BD)
        moved_B = (gate(*inputs).exp() - gate.trained(*inputs).exp()).abs().amax(dim=-1)
        if not (moved_B <= WEIGHTS_TOLERANCE).all():
            raise UserError(
                f"model.gate: {type(gate.change).__name__} does not start at equal weights: it moves a weight of stage "
                f"1 by {float(moved_B.max()):.3g}; let zero_() return False where it cannot make all weights equal"
            )

    def on_train_epoch_start(self) -> None:
        if int(self.epoch) != self.current_epoch:
            self.epoch_gate.load_state_dict(self.gate.state_dict())
            self.epoch.fill_(self.current_epoch)

    def losses(self, judgment: Judgment, pairs: Any) -> dict[str, Tensor]:
        """The cross-entropy of the router to the targets, in nats, and any custom terms."""
        target_BK = self.targets(judgment, pairs)
        for name, value in sharpness(target_BK.double().cpu().numpy())._asdict().items():
            self.log(f"train/target_{name}", value, on_step=False, on_epoch=True, batch_size=len(pairs))
        cross_entropy = -(target_BK * judgment.log_weights_BK).sum(dim=-1).mean()
        return {"cross_entropy": cross_entropy} | self.own_terms(judgment, pairs)

    @torch.no_grad()
    def targets(self, judgment: Judgment, pairs: Any) -> Float[Tensor, "B K"]:
        """The Hedge targets of the epoch, one per pair [B, K]."""
        attribute_B = pairs.label_N("attribute")
        losses_BK = self.link.head_losses(judgment.margins_BK)
        if self.pooled:
            known_B = attribute_B >= 0
            losses_BK[known_B] = self.pooled_losses_AK[attribute_B[known_B]]
        log_weights_BK = self.epoch_gate(*self.gate_inputs(pairs, judgment.context_BD))
        return hedge_log_targets(losses_BK, log_weights_BK, self.tau).exp()
