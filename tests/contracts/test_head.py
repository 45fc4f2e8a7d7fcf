"""A head from outside the package: one class in one file."""

import pytest
import torch

from micro_lit import train
from micro_lit.errors import UserError
from micro_lit.run.run import Run

PLUG_IN = """
import torch
from torch import nn
from micro_lit.models import Head

class Cosine(Head):
    reads_context = True

    def __init__(self, width: int, num_heads: int, precision: float = 2.0) -> None:
        super().__init__()
        self.directions_KD = nn.Parameter(torch.randn(num_heads, width))
        self.precision, self.seen = precision, 0

    def forward(self, response_BD, context_BD):
        directions_KD = nn.functional.normalize(self.directions_KD, dim=-1)
        return (response_BD + 0.1 * context_BD) @ directions_KD.T

    def penalty(self):
        return self.precision / 2 * self.directions_KD.square().sum()

    def prepare(self, differences):
        self.seen += sum(len(difference_BD) for difference_BD in differences)

class Plain(nn.Linear):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads)

class Lies(Head):
    def __init__(self, width: int, num_heads: int, gives: str) -> None:
        super().__init__()
        self.num_heads, self.gives = num_heads, gives

    def forward(self, response_BD):
        rows = len(response_BD)
        return {
            "flat": torch.zeros(rows),
            "wide": torch.zeros(rows, self.num_heads + 1),
            "few": torch.zeros(1, self.num_heads),
            "text": "good",
        }[self.gives]
"""
NAME = "head_of_a_user"
SMALL = ("data.train=512", "data.validation=64", "data.test=256", "loader.batch_size=64", "trainer.max_epochs=1")
RUN = ("+experiment=planted_floors_k8", *SMALL, f"packages=[{NAME}]")


def test_a_head_reads_contexts_has_a_prior_and_is_shown_the_training_data(settings):
    run = settings(*RUN, f"model.head._target_={NAME}.Cosine")
    with Run(run) as this:
        this.fit()
        assert this.model.head.seen == 512
        pairs = this.datamodule.labelled_pairs[torch.arange(32)]
        terms = this.model.losses(this.model(pairs), pairs)
        expected = this.model.head.directions_KD.square().sum() / 512
        torch.testing.assert_close(terms["penalty"], expected)


def test_a_plain_module_of_the_earlier_protocol_is_a_head(settings):
    assert train.run(settings(*RUN, f"model.head._target_={NAME}.Plain")) < 0.7


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("flat", r"Lies gives float32 rewards of shape \[\d+\] for \d+ responses"),
        ("wide", r"Lies gives float32 rewards of shape \[\d+, 9\]"),
        ("few", r"Lies gives float32 rewards of shape \[1, 8\] for \d+ responses"),
        ("text", "Lies gives an object of str for"),
    ],
)
def test_a_head_that_lies_ends_the_run_in_one_line_with_its_name(lie, words, settings):
    with pytest.raises(UserError, match=words) as raised:
        train.run(settings(*RUN, f"model.head._target_={NAME}.Lies", f"+model.head.gives={lie}"))
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("model.head: Lies")
