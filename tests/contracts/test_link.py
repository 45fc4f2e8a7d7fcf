"""A link from outside the package: one class in one file, which training, metrics and results use."""

import json
import math
from pathlib import Path

import pytest
import torch

from micro_lit.errors import UserError
from micro_lit.models.contracts import as_link

PLUG_IN = """
import torch
from micro_lit.likelihood import Link, ProbabilityLink

class Careless(ProbabilityLink):
    \"\"\"A rater who answers at random in a share of the comparisons.\"\"\"

    def __init__(self, share: float = 0.1) -> None:
        super().__init__()
        self.share = share

    def log_prob(self, margins_BK, log_weights_BK):
        careful_B = super().log_prob(margins_BK, log_weights_BK)
        return torch.log(self.share / 2 + (1 - self.share) * careful_B.exp())

class Lies(Link):
    def log_prob(self, margins_BK, log_weights_BK):
        return margins_BK.sum(dim=-1).square()
"""
NAME = "link_of_a_user"
SMALL = ("data.train=512", "data.validation=64", "data.test=256", "trainer.max_epochs=1")
RUN = ("+experiment=planted_floors_k8", *SMALL, f"packages=[{NAME}]")


def link(of_class: str, **settings) -> str:
    own = "".join(f", {name}: {value}" for name, value in settings.items())
    return f"model.link={{_target_: {NAME}.{of_class}{own}}}"


def nll(command, folder: str, *overrides: str) -> float:
    _, err = command(*RUN, f"paths.run_dir={folder}", *overrides)
    assert err == ""
    return json.loads(Path(folder, "results.json").read_text())["test"]["nll"]["value"]


def test_all_that_is_reported_comes_from_it(command):
    never = nll(command, "never", link("Careless", share=0.0))
    always = nll(command, "always", link("Careless", share=1.0))
    assert never == pytest.approx(nll(command, "ours", "model.link=probability"), rel=1e-4)
    assert always == pytest.approx(math.log(2.0), rel=1e-6)


def test_log_probabilities_above_zero_are_one_line_with_the_name(command):
    _, err = command(*RUN, "paths.run_dir=lies", link("Lies"))
    [line] = err.splitlines()
    assert line.startswith("error: ")
    assert "Lies" in line


def test_an_object_that_is_no_link_is_named():
    with pytest.raises(UserError, match=r"the link Identity does not extend micro_lit\.likelihood\.Link"):
        as_link(torch.nn.Identity())
    assert as_link("reward").name == "reward"
