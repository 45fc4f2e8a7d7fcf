"""Tests of the two commands that `micro_lit.compare` has replaced: what to type instead means the same."""

import shlex

import pytest

from micro_lit.compare import aliases


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("evaluate", "+experiment=micro budgets=[0,5] budget=9", "+experiment=micro {}.labels=[0,5] {}.budget=9"),
        ("evaluate", "budget_from=test seed=3", "{}.labels_from=test seed=3"),
        ("evaluate", "~adaptation.hyre adaptation.hedge.tau=.2", "~{}.adaptation.hyre {}.adaptation.hedge.tau=.2"),
        ("evaluate", "+adaptation@adaptation.mine=mine", "+adaptation@{}.adaptation.mine=mine"),
        ("evaluate", "--config-dir conf budget=2 resamples=50", "--config-dir conf {}.budget=2"),
        ("people", "+experiment=people_planted labels=[0,null]", "+experiment=people_planted {}.labels=[0,null]"),
        ("people", "rows_left=2 common=[seed=1]", "{}.rows_left=2 common=[seed=1]"),
    ],
)
def test_what_to_type_instead_names_each_setting_where_it_stands_now(command, arguments, expected):
    kind = aliases.SUBJECTS_OF[command]
    found = shlex.join(aliases.typed(command, shlex.split(arguments)))
    wanted = expected.replace("{}", f"subjects.{kind}")
    assert found == shlex.join([*shlex.split(wanted), f"subjects={kind}"])


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("evaluate", ["+experiment=micro", "budgets=[0,5]", "budget=7", "adaptation.hedge.tau=0.5", "resamples=300"]),
        (
            "people",
            ["+experiment=people_planted", "labels=[0,3,null]", "rows_left=4", "adaptation.posterior.temperature=2.0"],
        ),
    ],
)
def test_an_old_command_and_the_new_one_have_the_same_settings(command, given, settings):
    old = aliases.translated(command, settings(*given, config=command))
    new = settings(*aliases.typed(command, given), config="compare")
    assert {**old, "subjects": None} == {**new, "subjects": None}
    assert old["subjects"] == new["subjects"]
