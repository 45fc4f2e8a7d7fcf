"""An adaptation from outside the package: one function in one file, named in the settings of two commands."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL_TEXT

from micro_lit import train
from micro_lit.adapt.profile_store import ProfileStore
from micro_lit.compare.__main__ import main as compare
from micro_lit.config import compose
from micro_lit.personalise import __main__ as personalise

OWN = "packages=[own_adaptations]"
TRAINED = ("data.users_per_group=6", "data.train=300", "data.validation=64", "data.test=200", "trainer.max_epochs=1")
CANDIDATES = "candidates={single_bt: ['model=single_bt'], mixture: []}"


def compared(subject: str, experiment: str, function: str) -> tuple[str, ...]:
    common = str([f"+experiment={experiment}", *(TRAINED if subject == "user" else ("data.train=500", *TRAINED[2:]))])
    labels = {"user": "[0,3]", "attribute": "[0,5]"}[subject]
    place = f"+subjects.{subject}.adaptation.mine"
    return (
        f"common={common}", CANDIDATES, "baseline=single_bt", f"subjects={subject}",
        f"subjects.{subject}.labels={labels}",
        f"{place}._target_=own_adaptations.{function}", f"{place}._partial_=true", "draws=2", "name=own", "out=out",
        "paths.run_dir=compared", OWN,
    )  # fmt: skip


@pytest.mark.parametrize(("subject", "experiment"), [("user", "planted_floors_k8"), ("attribute", "micro_planted")])
def test_it_is_compared_with_ours(subject, experiment, command):
    extra = ("subjects.attribute.budget=5",) if subject == "attribute" else ()
    _, err = command(*compared(subject, experiment, "adapt"), *extra, main=compare)
    assert err == ""
    results = json.loads(Path("out/compare.json").read_text())
    rows = results["tables"]["labels"] if subject == "attribute" else results["regimes"]["seen"]["systems"]
    methods = [row["method"] for row in rows if row["candidate"] == "mixture"]
    assert {"posterior", "mine"} <= set(methods)


def test_one_that_gives_no_weights_is_named_in_one_line(command):
    _, err = command(*compared("user", "planted_floors_k8", "ones"), main=compare)
    [line] = err.splitlines()
    assert line.startswith("error: adaptation mine (ones) gave weights that sum to 8")


# In personalise


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    paths = (f"paths.run_dir={folder}", f"paths.features_dir={folder / 'features'}")
    train.run(compose("train", [*paths, "+experiment=mixture_k8", *SMALL_TEXT, "trainer.max_epochs=1"]), brief=True)
    return folder


@pytest.fixture
def sit(run, command):
    """Runs the command on rows; returns what it wrote and its error."""

    def personalised(rows: list[dict], rule: str, *overrides: str) -> tuple[dict, str]:
        Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        given = (f"run={run}", "profile=me.sqlite", "pairs=pairs.jsonl", f"rule={rule}", OWN, "paths.run_dir=out")
        out, err = command(*given, f"paths.features_dir={run / 'features'}", *overrides, main=personalise.main)
        path = Path("out/personalised.json")
        return {"out": out, **(json.loads(path.read_text()) if path.is_file() else {})}, err

    return personalised


ROWS = [
    {"prompt": f"Question {row}?", "chosen": f"Yes {row}.", "rejected": f"No {row}.", "user_id": "ab"[row % 3 > 0]}
    for row in range(12)
]
MINE = "{_target_: own_adaptations.adapt, _partial_: true, sharp: 2.0}"


def test_it_is_a_rule_of_profiles(sit):
    """Each label is judged by the adaptation of all labels before it, of this sitting and of earlier ones."""
    found, err = sit(ROWS[:5], MINE)
    assert err == ""
    assert found["rule"] == "own_adaptations.adapt(sharp=2.0)"
    assert "upper bound" not in found["out"]
    found, err = sit(ROWS, MINE)
    assert err == ""
    assert found["labels"] == {"given": 12, "known": 5, "learned": 7, "changed": 0}
    assert found["stream"]["bound"] == [None] * 7
    import own_adaptations  # on the path in a test alone

    prior_J = np.repeat([1 / 2, 1 / 16], [1, 8])
    with ProfileStore(Path("me.sqlite")) as store:
        margins = {user: store._margins(user) for user in "ab"}
    assert {user: len(rows) for user, rows in margins.items()} == {"a": 4, "b": 8}

    def after(user: str, labels: int) -> np.ndarray:
        return own_adaptations.adapt(margins[user][:labels], np.zeros(labels, int), prior_J[None], sharp=2.0)[0]

    for user, labels, score in zip(*(found["stream"][key] for key in ("user", "label", "personalised")), strict=True):
        judged_J = 1 / (1 + np.exp(-margins[user][labels - 1]))
        assert score == pytest.approx(math.log(after(user, labels - 1) @ judged_J))
    for user, rows in margins.items():
        assert found["users"][user]["weights"]["after"] == pytest.approx(after(user, len(rows)).tolist())


def test_a_store_never_mixes_rules_and_no_weights_are_one_line(sit):
    assert sit(ROWS[:3], MINE)[1] == ""
    for rule in ("posterior", "{_target_: own_adaptations.adapt, _partial_: true}"):
        [line] = sit(ROWS, rule)[1].splitlines()
        assert "kept by the rule own_adaptations.adapt(sharp=2.0)" in line
    [line] = sit(ROWS, MINE, "export=all.json")[1].splitlines()
    assert "are not exported" in line
    lying = "{_target_: own_adaptations.ones, _partial_: true}"
    [line] = sit(ROWS, lying, "profile=other.sqlite")[1].splitlines()
    assert line.startswith("error: adaptation own_adaptations.ones (ones) gave weights that sum to 9")
