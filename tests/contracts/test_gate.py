"""A gate from outside the package: one class in one file, which reads what it asks for."""

from pathlib import Path

import pytest
import torch

from micro_lit import train
from micro_lit.config import build
from micro_lit.errors import UserError
from micro_lit.run.restored import Trust, restore

PLUG_IN = """
import torch
from torch import nn
from micro_lit.models import Gate

class Told(Gate):
    reads = ("user", "criterion")

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def make_room(self, counts):
        self.user = nn.Parameter(torch.zeros(counts["user"] + 1, self.num_heads))
        self.criterion = nn.Parameter(torch.zeros(counts["criterion"] + 1, self.num_heads))

    def forward(self, user_B, criterion_B):
        return torch.log_softmax(self.user[user_B] + self.criterion[criterion_B], dim=-1)

class Plain(nn.Linear):
    needs_context = True

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads)

    def forward(self, context_BD):
        return torch.log_softmax(super().forward(context_BD), dim=-1)

class Lies(Gate):
    def __init__(self, width: int, num_heads: int, gives: str, reads: str = "prompt") -> None:
        super().__init__()
        self.num_heads, self.gives, self.reads = num_heads, gives, (reads,)

    def forward(self, context_BD):
        rows = len(context_BD)
        return {
            "logits": torch.zeros(rows, self.num_heads),
            "wide": torch.full((rows, self.num_heads + 1), -1.0),
            "text": "equal",
            "whole": torch.zeros(rows, self.num_heads, dtype=torch.int64),
        }[self.gives]
"""
NAME = "gate_of_a_user"
SMALL = ("data.train=512", "data.validation=64", "data.test=256", "loader.batch_size=64", "trainer.max_epochs=1")
RUN = ("+experiment=planted_floors_k8", *SMALL, "data.users_per_group=5", f"packages=[{NAME}]", "~model.gate.hidden")


def gate(of_class: str, **settings: str) -> list[str]:
    return [
        f"model.gate._target_={NAME}.{of_class}",
        *(f"+model.gate.{key}={value}" for key, value in settings.items()),
    ]


def test_a_gate_reads_users_and_criteria_and_its_model_knows_them(settings):
    run = settings(*RUN, *gate("Told"), "data.criteria=hidden")
    nll = train.run(run)
    folder = Path(run["paths"]["run_dir"])
    data = build(run["data"]).load(run["seed"])
    restored = restore(folder, data, folder, Trust((NAME,)))
    assert restored.knows == {"criterion", "user"}
    weights_UK = restored.gate.user
    assert len(weights_UK) == len(data.names["user_id"]) + 1
    assert (weights_UK != 0).any()
    pairs = data.split("test")
    with torch.no_grad():
        assert float(-restored.log_prob(restored(pairs)).mean()) == pytest.approx(nll, abs=1e-6)

    # Other data name their users in another order, and one that training has not seen.
    order = torch.arange(len(data.names["user_id"])).flip(0)
    data.names["user_id"] = [data.names["user_id"][code] for code in order.tolist()]
    data.names["user_id"][0] = "a stranger"
    other = restore(folder, data, folder, Trust((NAME,)))
    codes = other.user_of_code
    assert codes[0] == -1
    assert torch.equal(codes[1:], order[1:])


def test_a_plain_module_of_the_earlier_protocol_is_a_gate(settings):
    assert train.run(settings(*RUN, *gate("Plain"))) < 0.7


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({"gives": "logits"}, "the weights of Lies sum to 8 for"),
        ({"gives": "wide"}, r"Lies gives float32 log weights of shape \[64, 9\]"),
        ({"gives": "text"}, "Lies gives an object of str"),
        ({"gives": "whole"}, "Lies gives int64 log weights"),
        ({"gives": "text", "reads": "labels"}, r"Lies reads \('labels',\); give a tuple of some of prompt, source"),
    ],
)
def test_a_gate_that_lies_ends_the_run_in_one_line_with_its_name(lie, words, settings):
    with pytest.raises(UserError, match=f"model.gate: .*{words}") as raised:
        train.run(settings(*RUN, *gate("Lies", **lie)))
    assert "\n" not in str(raised.value)
