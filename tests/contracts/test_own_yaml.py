"""An experiment of the user's own, in a folder of their YAML files: candidates of a comparison find it."""

from pathlib import Path

import pytest

from micro_lit.compare.__main__ import main

EXPERIMENT = """\
# @package _global_
defaults: [planted_floors_k8]
data: {users_per_group: 6, train: 300, validation: 64, test: 200}
trainer: {max_epochs: 1}
"""
COMPARED = (
    "candidates={plain: ['+experiment=mine'], two: ['+experiment=mine', 'model.num_heads=2']}",
    "baseline=plain",
)
ARGUMENTS = (*COMPARED, "subjects=user", "draws=2", "name=own", "out=out", "paths.run_dir=compared")


@pytest.mark.parametrize("folder", ["conf", "it's, {mine}"])
def test_candidates_find_what_the_config_dir_of_the_command_holds(folder, command):
    (Path(folder) / "experiment").mkdir(parents=True)
    (Path(folder) / "experiment" / "mine.yaml").write_text(EXPERIMENT)
    _, err = command("--config-dir", folder, *ARGUMENTS, main=main)
    assert err == ""
    assert Path("out/tables.md").is_file()
    assert len(list(Path("runs/candidates/own/0").glob("*/results.json"))) == 2


def test_without_the_folder_the_candidate_is_named_in_one_line(command):
    _, err = command(*ARGUMENTS, main=main)
    [line] = err.splitlines()
    assert line.startswith("error: candidates.plain=['+experiment=mine']: ")
