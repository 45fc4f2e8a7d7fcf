"""A router and its gate from outside the package: both in one file, over a first stage with a gate of the user."""

from pathlib import Path

import pytest
import torch

from micro_lit import train
from micro_lit.errors import UserError
from micro_lit.run.restored import Trust, restore
from micro_lit.run.run import Run

PLUG_IN = """
import torch
from torch import nn
from micro_lit.models import ContextRouter, Gate, LinearGate

class MyRouter(ContextRouter):
    def losses(self, judgment, pairs):
        return super().losses(judgment, pairs)

class BySource(Gate):
    reads = ("source", "prompt")

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.prompt = nn.Linear(width, num_heads)
        self.num_heads = num_heads

    def make_room(self, counts):
        self.source = nn.Parameter(torch.randn(counts["source"] + 1, self.num_heads))

    def forward(self, source_B, context_BD):
        return torch.log_softmax(self.source[source_B] + self.prompt(context_BD), dim=-1)

class Lies(LinearGate):
    def forward(self, context_BD):
        return torch.log_softmax(self.logits(context_BD) + torch.arange(8.0), dim=-1)
"""
NAME = "router_of_a_user"
SMALL = ("data.train=512", "data.validation=64", "data.test=256", "trainer.max_epochs=1")
STAGE1 = (
    "+experiment=micro_planted",
    *SMALL,
    f"packages=[{NAME}]",
    f"model.gate._target_={NAME}.BySource",
    "~model.gate.hidden",
)
STAGE2 = (
    "+experiment=router_planted",
    *SMALL,
    "loader.budget=10",
    f"packages=[{NAME}]",
    f"model._target_={NAME}.MyRouter",
    "~model.gate.hidden",
)


@pytest.fixture
def stage1(settings, tmp_path) -> Path:
    folder = tmp_path / "stage1"
    train.run(settings(*STAGE1, f"paths.run_dir={folder}"))
    return folder


def test_a_router_of_a_user_weighs_any_gate_and_starts_at_stage_1(settings, stage1):
    run = settings(*STAGE2, f"stage1={stage1}", f"model.gate._target_={NAME}.BySource")
    with Run(run) as this:
        first = restore(stage1, this.data, stage1, Trust((NAME,)))
        pairs = this.data.split("test")
        with torch.no_grad():
            start_BK = this.model(pairs).log_weights_BK
            torch.testing.assert_close(start_BK, first(pairs).log_weights_BK)
            assert (start_BK.std(dim=0) > 0).all()
        this.fit()
        with torch.no_grad():
            assert not torch.allclose(this.model(pairs).log_weights_BK, start_BK)
    train.run({**run, "overwrite": True})


def test_a_router_of_a_user_needs_a_first_stage(settings):
    with pytest.raises(UserError, match="go together"):
        train.run(settings(*STAGE2, f"model.gate._target_={NAME}.BySource"))


def test_a_gate_that_lies_about_its_start_ends_the_run_in_one_line_with_its_name(settings, stage1):
    with pytest.raises(UserError, match="Lies does not start at equal weights") as raised:
        train.run(settings(*STAGE2, f"stage1={stage1}", f"model.gate._target_={NAME}.Lies"))
    assert "\n" not in str(raised.value)
