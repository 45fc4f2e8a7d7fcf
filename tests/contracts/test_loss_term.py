"""A term of the loss from outside the package: one class in one file, named in the settings."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from micro_lit import train
from micro_lit.config import build
from micro_lit.errors import UserError
from micro_lit.run.restored import Trust, restore
from micro_lit.run.run import Run

PLUG_IN = """
import torch
from torch import nn

class Small:
    def __init__(self, weight: float = 0.5) -> None:
        self.weight = weight

    def __call__(self, judgment, pairs):
        return self.weight * judgment.margins_BK.square().mean()

class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, judgment, pairs):
        return (self.scale - judgment.margins_BK.mean()).square()

class Mute:
    pass

class Lies:
    def __init__(self, gives: str) -> None:
        self.gives = gives

    def __call__(self, judgment, pairs):
        return {
            "row": judgment.margins_BK.square().mean(dim=-1),
            "broken": judgment.margins_BK.mean() * torch.nan,
            "number": 0.5,
            "whole": torch.tensor(1),
        }[self.gives]
"""
NAME = "term_of_a_user"
SMALL = (
    "data.train=512",
    "data.validation=64",
    "data.test=256",
    "loader.batch_size=64",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1",
)
RUN = ("+experiment=planted_floors_k8", *SMALL, f"packages=[{NAME}]")


def term(of_class: str, name: str = "mine", **settings) -> list[str]:
    return [
        f"+model.terms.{name}._target_={NAME}.{of_class}",
        *(f"+model.terms.{name}.{key}={value}" for key, value in settings.items()),
    ]


def test_a_term_is_added_to_the_loss_and_logged(settings):
    run = settings(*RUN, *term("Small", weight=100.0), *term("Small", "other", weight=0.0))
    with Run(run) as this:
        this.fit()
        pairs = this.datamodule.labelled_pairs
        with torch.no_grad():
            judgment = this.model(pairs)
            terms = this.model.losses(judgment, pairs)
        torch.testing.assert_close(terms["mine"], 100.0 * judgment.margins_BK.square().mean())
    strong = float(judgment.margins_BK.square().mean())
    columns = pd.read_csv(Path(run["paths"]["run_dir"]) / "metrics.csv").columns
    assert {"train/mine", "train/other", "train/nll"} <= set(columns)
    with Run(settings(*RUN, "overwrite=true")) as this:
        this.fit()
        with torch.no_grad():
            assert float(this.model(pairs).margins_BK.square().mean()) > 2 * strong


def test_the_weights_of_a_term_are_trained_and_restored(settings):
    run = settings(*RUN, *term("Learned"))
    train.run(run)
    data = build(run["data"]).load(run["seed"])
    folder = Path(run["paths"]["run_dir"])
    restored = restore(folder, data, folder, Trust((NAME,)))
    assert float(restored.terms["mine"].scale) != 1.0


@pytest.mark.parametrize("model", ["tied", "vpl", "sparse_moe", "ensemble"])
def test_every_model_takes_terms(model, settings):
    users = ("data.users_per_group=5", f"model={model}")
    run = settings(*RUN, *users, *term("Small"))
    train.run(run)
    assert "train/mine" in pd.read_csv(Path(run["paths"]["run_dir"]) / "metrics.csv").columns


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (term("Lies", gives="row"), r"mine: Lies gives float32 numbers of shape \[64\]; give one finite number"),
        (term("Lies", gives="broken"), "mine: Lies gives nan"),
        (term("Lies", gives="number"), "mine: Lies gives an object of float"),
        (term("Lies", gives="whole"), "mine: Lies gives int64 numbers"),
        (term("Mute"), r"mine: Mute has no __call__"),
        (term("Small", "nll"), "nll: give Small another name"),
    ],
)
def test_a_term_that_lies_ends_the_run_in_one_line_with_its_name(arguments, words, settings):
    with pytest.raises(UserError, match=rf"model\.terms\.{words}") as raised:
        train.run(settings(*RUN, *arguments))
    assert "\n" not in str(raised.value)
