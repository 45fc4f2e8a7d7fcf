"""A model of people from outside the package: one class in one file, trained and compared as ours are."""

import json
from pathlib import Path

from micro_lit.compare.__main__ import main as compare

COMMON = [
    "+experiment=planted_floors_k8", "data/population=two_tastes", "data.population.angle=180",
    "data.population.topics=1", "data.population.group_weights=[[0.8,0.2]]", "data.users_per_group=12",
    "data.unseen_share=0.25", "data.train=600", "data.validation=64", "data.test=400", "trainer.max_epochs=4",
    "model.optimizer.lr=0.05",
]  # fmt: skip
OWN = "packages=[own_people]"
MINE = ["model=tied", "model._target_=own_people.Mine", "model.name=mine", "~model.estimation", "~model.temperature"]


def compared(of_class: str) -> tuple[str, ...]:
    model = [*MINE[:1], f"model._target_=own_people.{of_class}", *MINE[2:]]
    return (
        f"common={COMMON}", f"candidates={{single_bt: ['model=single_bt'], mine: {model}}}", "baseline=single_bt",
        "subjects=user", "subjects.user.labels=[0,8]", "draws=2", "name=own", "out=out", "paths.run_dir=compared", OWN,
    )  # fmt: skip


def test_it_is_trained_and_compared_with_ours(command):
    _, err = command(*compared("Mine"), main=compare)
    assert err == ""
    regimes = json.loads(Path("out/compare.json").read_text())["regimes"]
    assert set(regimes) == {"seen", "unseen"}
    for found in regimes.values():
        single, mine = found["systems"]
        assert (single["candidate"], mine["candidate"], mine["method"]) == ("single_bt", "mine", "its own")
        assert mine["accuracy"][0] == single["accuracy"][0]
    _, mine = regimes["seen"]["systems"]
    assert mine["accuracy"][1]["value"] > mine["accuracy"][0]["value"] + 0.05


def test_codes_of_too_few_users_are_one_line_with_the_name(command):
    _, err = command(*compared("OfTheData"), main=compare)
    [line] = err.splitlines()
    assert line.startswith("error: PeopleModel (mine) learned codes of shape (")
