"""Heads, gates and links from outside the package that do not keep their contract are named."""

import pytest
import torch
from conftest import SMALL_FEATURES
from micro_lit_testing import RawGate
from torch import nn

from micro_lit.data.pairs import Pairs
from micro_lit.data.records import LABELS
from micro_lit.errors import UserError
from micro_lit.features.backbones import CachedBackbone
from micro_lit.likelihood import Link
from micro_lit.models import LinearHeads, MixtureBT
from micro_lit.run.run import Run

WIDTH = 6


def make_pairs(num_pairs: int = 20) -> Pairs:
    triplets_N3 = torch.arange(3 * num_pairs).view(num_pairs, 3) % 20
    labels_NC = torch.full((num_pairs, len(LABELS)), -1)
    return Pairs(triplets_N3, labels_NC, torch.zeros(num_pairs), torch.empty(num_pairs, 0))


def make_model(**settings) -> MixtureBT:
    features_MD = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1))
    backbone = CachedBackbone(features_MD, standardise=False, train=make_pairs())
    return MixtureBT(backbone, {}, 3, **settings)


class CertainGate(nn.Module):
    """All weight on one head: the logs of the others are minus infinity."""

    needs_context = False

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, context_BD: None) -> torch.Tensor:
        return torch.tensor([[0.0, *[-torch.inf] * (self.num_heads - 1)]])


class NaNGate(CertainGate):
    def forward(self, context_BD: None) -> torch.Tensor:
        return torch.full((1, self.num_heads), torch.nan)


class WideHeads(LinearHeads):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads + 1)


class FlatHeads(LinearHeads):
    def forward(self, response_BD: torch.Tensor) -> torch.Tensor:
        return super().forward(response_BD)[:, 0]


class WholeHeads(LinearHeads):
    def forward(self, response_BD: torch.Tensor) -> torch.Tensor:
        return super().forward(response_BD).long()


class Density(Link):
    """Adds what is no probability."""

    def log_prob(self, margins_BK: torch.Tensor, log_weights_BK: torch.Tensor) -> torch.Tensor:
        return margins_BK.sum(dim=-1).abs()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gate": RawGate}, r"model\.gate: the weights of RawGate sum to .* of 20 pairs.*log_softmax"),
        ({"gate": NaNGate}, "NaNGate sum to nan for 20 of 20 pairs"),
        ({"head": WideHeads}, r"model\.head: WideHeads gives float32 rewards of shape \[20, 4\].*\[rows, 3\]"),
        ({"head": FlatHeads}, r"FlatHeads gives float32 rewards of shape \[20\]"),
        ({"head": WholeHeads}, "WholeHeads gives int64 rewards"),
        ({"link": Density()}, "Density gives the log-probability .* at most 0"),
    ],
)
@pytest.mark.parametrize("step", ["validation_step", "test_step"])
def test_what_is_no_probability_is_never_reported(step, settings, said):
    with pytest.raises(UserError, match=said):
        getattr(make_model(**settings), step)(make_pairs(), 0)


@pytest.mark.parametrize("step", ["validation_step", "test_step"])
def test_a_weight_of_zero_is_one(step):
    getattr(make_model(gate=CertainGate), step)(make_pairs(), 0)


def test_a_fit_ends_at_its_first_batch(settings):
    gate = ("packages=[micro_lit_testing]", "model.gate._target_=micro_lit_testing.RawGate", "~model.gate.hidden")
    small = ("+experiment=planted_floors_k8", *SMALL_FEATURES, "trainer.num_sanity_val_steps=0", *gate)
    with Run(settings(*small)) as run, pytest.raises(UserError, match="the weights of RawGate sum to"):
        run.fit()
    assert run.trainer.global_step == 0
