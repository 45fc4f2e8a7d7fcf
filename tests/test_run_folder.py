"""Tests of run folders: one command at a time, nothing lost, and what a command does with what it finds."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import micro_lit_testing
import pytest
import yaml
from conftest import SMALL_FEATURES
from omegaconf import OmegaConf

from micro_lit import train
from micro_lit.errors import UserError
from micro_lit.report import results
from micro_lit.run import checkpoints, run_folder
from micro_lit.run.restored import restore

POPULATION = ("data.population.attributes=[length,warmth]", "data.population.groups=2")
FEATURES = ("+experiment=planted_floors_k8", *SMALL_FEATURES, *POPULATION, "trainer.max_epochs=3")
ONE = (*FEATURES, "trainer.max_epochs=1")
KILL = ("packages=[micro_lit_testing]", "+callbacks.kill._target_=micro_lit_testing.KillAt")

OLD_RUNS = Path(__file__).parent / "old_runs"


def folder_of(run: dict) -> Path:
    return Path(run["paths"]["run_dir"])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kill_at(step: int, settings: Callable[..., dict], *overrides: str) -> Path:
    """Runs until a step, as if the process had been killed there; returns the run folder."""
    run = settings(*overrides, *KILL, f"+callbacks.kill.step={step}")
    with pytest.raises(micro_lit_testing.Killed):
        train.run(run)
    return folder_of(run)


# Folders that nobody named


def test_a_new_folder_has_a_name_of_its_own_within_the_second():
    """The same in all of one config, another in the next."""
    first, second = (OmegaConf.create({"a": "${unique:%Y}", "b": "${unique:%Y}"}) for _ in range(2))
    assert first.a == first.b
    assert first.a != second.a
    assert first.a[:5] == second.a[:5]


@pytest.mark.parametrize(
    "name", ["train", "encode", "compare", "evaluate", "people", "floors", "personalise", "report"]
)
def test_every_command_writes_to_such_a_folder(name):
    from micro_lit.config import config_dir

    hydra = yaml.safe_load((config_dir() / f"{name}.yaml").read_text())["hydra"]
    folders = [hydra["run"]["dir"], *([hydra["sweep"]["dir"]] if "sweep" in hydra else [])]
    assert all("${unique:" in folder and "${now:" not in folder for folder in folders)


def test_two_commands_at_once_keep_both_their_results(tmp_path):
    command = [sys.executable, "-m", "micro_lit.train", *ONE]
    both = [subprocess.Popen([*command, f"seed={seed}"], cwd=tmp_path, stdout=subprocess.DEVNULL) for seed in (0, 1)]
    assert [process.wait() for process in both] == [0, 0]
    found = [json.loads(path.read_text())["seed"] for path in tmp_path.glob("runs/planted_floors_k8/*/results.json")]
    assert sorted(found) == [0, 1]
    typed = [yaml.safe_load(path.read_text()) for path in tmp_path.glob("runs/*/*/.hydra/overrides.yaml")]
    assert sorted(typed) == [[*ONE, "seed=0"], [*ONE, "seed=1"]]


# One command at a time

HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from micro_lit.run.run_folder import alone_in
with alone_in(Path(sys.argv[1])) as lock:
    child = None
    if sys.argv[2] == "child":
        wait = "import sys; sys.stdin.read()"
        child = subprocess.Popen([sys.executable, "-c", wait], pass_fds=[lock], stdout=subprocess.DEVNULL)
    print("held", flush=True)
    if child is None:
        sys.stdin.read()
    else:
        os._exit(0)  # as a kill would, and its child lives on until its input ends
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds the lock of tmp_path/run; its child holds it on when it has ended."""
    started = []

    def start(kind: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), kind]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.stdin.close()
        process.stdout.read()
        process.wait()
        process.stdout.close()


def test_a_command_that_is_running_is_not_waited_for(hold, tmp_path, settings, capsys):
    hold("alone")
    with pytest.raises(UserError, match="another run is writing there; wait until it ends, or give another folder"):
        train.run(settings(*ONE))
    assert "waiting" not in capsys.readouterr().out
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_processes_of_a_killed_command_are_waited_for(hold, tmp_path, capsys, monkeypatch):
    process = hold("child")
    process.wait()
    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "PATIENCE", 0.0)
        with (
            pytest.raises(UserError, match="the workers of a killed run still write there"),
            run_folder.alone_in(tmp_path / "run"),
        ):
            pass
    assert "waiting for the workers of a killed run" in capsys.readouterr().out
    # While this one waits, the child ends.
    monkeypatch.setattr(run_folder.time, "sleep", lambda seconds: process.stdin.close())
    with run_folder.alone_in(tmp_path / "run"):
        pass


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    half = tmp_path / "checkpoints" / "last.ckpt.0123456789ab.partial"
    half.write_text("half")
    with run_folder.alone_in(tmp_path):
        assert not half.exists()


# What is there already


def test_a_finished_run_is_not_run_again(settings, capsys):
    run = settings(*ONE)
    value = train.run(run)
    before = contents(folder_of(run))
    capsys.readouterr()
    for again in ("report.title=Another", "ckpt_path=last", "skip_finished=true"):
        assert train.run(settings(*ONE, again)) == value
        assert capsys.readouterr().out == f"finished before: {folder_of(run)}/\n"
    assert contents(folder_of(run)) == before


@pytest.mark.parametrize("change", ["seed=1", "model.optimizer.lr=0.02", "+trainer.enable_autolog_hparams=false"])
def test_a_run_of_other_settings_is_kept(change, settings):
    folder = folder_of(settings(*ONE))
    train.run(settings(*ONE))
    before = contents(folder)
    for more in ((), ("skip_finished=true",), ("ckpt_path=last",)):
        with pytest.raises(UserError, match=change.split("=")[0].lstrip("+")):
            train.run(settings(*ONE, change, *more))
    assert contents(folder) == before


def test_a_finished_run_without_checkpoints_is_kept_too(settings):
    """There is nothing to go on from, and that is no reason to begin anew in its place."""
    none = ("callbacks.best=null", "callbacks.last=null", "callbacks.preemption=null", "callbacks.early_stopping=null")
    alone = (*ONE, *none, "+trainer.enable_checkpointing=false")
    train.run(settings(*alone))
    folder = folder_of(settings(*alone))
    before = contents(folder)
    with pytest.raises(UserError, match=r"holds a finished run with other settings \(model.warmup"):
        train.run(settings(*alone, "model.warmup=0.2", "ckpt_path=last"))
    assert contents(folder) == before


def test_an_unfinished_run_is_kept_and_the_ways_out_are_said(settings, capsys):
    folder = kill_at(10, settings, *FEATURES)
    before = contents(folder)
    with pytest.raises(UserError, match="holds an unfinished run") as caught:
        train.run(settings(*FEATURES))
    for way in ("to go on: ", "ckpt_path=last", "to replace it: ", "overwrite=true", "to keep it: ", "paths.run_dir="):
        assert way in str(caught.value)
    with pytest.raises(UserError, match="seed") as caught:
        train.run(settings(*FEATURES, "seed=1"))
    assert "to go on" not in str(caught.value)
    assert contents(folder) == before


def test_a_refused_command_changes_nothing_but_says_the_whole_command(tmp_path):
    """Its options too, each setting once, and the name of a folder quoted where Hydra would read it otherwise."""
    folder, options = tmp_path / "model=mixture,k=2", ["--config-dir", str(tmp_path)]
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 1\n")
    typed = [*options, f"paths.run_dir='{folder}'", "trainer.max_epochs=2"]
    line = [sys.executable, "-m", "micro_lit.train", *typed]
    refused = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    replace = refused.stderr.partition("to replace it: ")[2].partition("; to keep it")[0]
    whole = [*options, "trainer.max_epochs=2", f"paths.run_dir='{folder}'", "overwrite=true"]
    assert shlex.split(replace) == ["python", "-m", "micro_lit.train", *whole]
    assert refused.stderr.count("\n") == 1
    assert contents(folder) == {"config.yaml": b"seed: 1\n"}


def test_overwrite_begins_anew_and_leaves_what_is_not_of_the_run(settings):
    whole = train.run(settings(*ONE, "seed=1"))
    shutil.rmtree(folder_of(settings(*ONE)))
    folder = kill_at(10, settings, *FEATURES)
    (folder / "wandb").mkdir()
    (folder / "wandb" / "unsent").touch()
    assert train.run(settings(*ONE, "seed=1", "overwrite=true", "ckpt_path=last")) == whole
    assert (folder / "wandb" / "unsent").exists()
    assert not list(folder.glob("*.1.*"))
    assert checkpoints.read_checkpoint(folder / checkpoints.LAST)["global_step"] == 8
    with pytest.raises(UserError, match="give one of the two"):
        train.run(settings(*ONE, "overwrite=true", f"ckpt_path={folder / checkpoints.LAST}"))


def test_settings_that_lead_nowhere_leave_what_is_there(settings):
    train.run(settings(*ONE))
    folder = folder_of(settings(*ONE))
    before = contents(folder)
    for wrong, said in (("backbone=tiny", "use backbone=identity"), ("trainer=gpu", "[Nn]o supported gpu")):
        with pytest.raises(UserError, match=said):
            train.run(settings(*ONE, wrong, "overwrite=true"))
    assert contents(folder) == before


def test_settings_that_lead_nowhere_leave_no_run(settings):
    """A command that comes to no first step does not stand in the way of the next one."""
    with pytest.raises(UserError, match=r"[Nn]o supported gpu"):
        train.run(settings(*ONE, "trainer=gpu"))
    assert train.run(settings(*ONE)) > 0


def write_pairs(path: Path, word: str) -> None:
    rows = [{"prompt": f"Question {row}?", "chosen": f"{word} {row}.", "rejected": "No."} for row in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))


def test_data_count_by_their_content(settings, tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, "Yes")
    model = ("data=pairs", "backbone=tiny", "trainer.max_epochs=1", "data.test_fraction=0.3")
    train.run(settings(*model, f"data.train={path}"))
    moved = path.rename(tmp_path / "moved.jsonl")
    capsys.readouterr()
    train.run(settings(*model, f"data.train={moved}"))
    assert capsys.readouterr().out.startswith("finished before")
    write_pairs(moved, "Maybe")
    with pytest.raises(UserError, match=r"holds a finished run with other settings \(data\.train"):
        train.run(settings(*model, f"data.train={moved}"))
    train.run(settings(*model, f"data.train={path}", "skip_finished=true"))  # it looks at no data
    assert capsys.readouterr().out.startswith("finished before")


@pytest.mark.parametrize("name", ["single_bt", "tied", "mixture", "router"])
def test_runs_of_earlier_versions_are_finished(name, settings, tmp_path, monkeypatch, capsys):
    shutil.copytree(OLD_RUNS, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    typed = yaml.safe_load((tmp_path / "runs" / name / ".hydra" / "overrides.yaml").read_text())
    before = contents(tmp_path / "runs" / name)
    value = train.run(settings(*typed))
    assert value == json.loads(before["results.json"])["test"]["nll"]["value"]
    assert capsys.readouterr().out == f"finished before: runs/{name}/\n"
    assert contents(tmp_path / "runs" / name) == before


# Going on


@pytest.mark.parametrize("how", ["last", "file"])
def test_a_longer_training_goes_on(how, settings, capsys):
    """The same whichever way the checkpoint is named: it was thrown away by one, and taken up by the other."""
    train.run(settings(*ONE))
    folder = folder_of(settings(*ONE))
    first = results.read_results(folder)
    path = "last" if how == "last" else folder / checkpoints.LAST
    train.run(settings(*FEATURES, f"ckpt_path={path}"))
    printed = capsys.readouterr().out
    assert "note: a warm restart (trainer.max_epochs was 1, now 3)" in printed
    assert "step 8/24" not in printed
    assert checkpoints.read_checkpoint(folder / checkpoints.LAST)["global_step"] == 24
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    assert json.loads((folder / "results.1.json").read_text()) == first
    assert (folder / "metrics.1.csv").exists()


FIXED = (
    "model.optimizer.lr=0.02", "model.warmup=0.2", "loader.batch_size=32", "model.entropy_weight=0.5", "seed=1",
    "data.population.strength=1.0", "callbacks.early_stopping.patience=1", "callbacks.best.filename=other",
)  # fmt: skip


@pytest.mark.parametrize("how", ["last", "file"])
def test_a_setting_that_cannot_take_effect_is_refused_by_name(how, settings):
    folder = kill_at(10, settings, *FEATURES)
    before = contents(folder)
    path = "last" if how == "last" else folder / checkpoints.LAST
    for change in FIXED:
        key, value = change.split("=")
        with pytest.raises(UserError, match=rf"^{key}='?{value}'? cannot take effect on resuming"):
            train.run(settings(*FEATURES, change, f"ckpt_path={path}"))
    assert contents(folder) == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run measures when nothing befalls it, by its overrides."""
    from micro_lit.config import compose

    known: dict[tuple[str, ...], float] = {}

    def run(*overrides: str) -> float:
        if overrides not in known:
            folder = tmp_path_factory.mktemp("whole")
            known[overrides] = train.run(compose("train", [f"paths.run_dir={folder}", *overrides]))
        return known[overrides]

    return run


# So high a learning rate that the best checkpoint lies before the kill.
EARLY_BEST = (*FEATURES, "model.optimizer.lr=3.0")


@pytest.mark.parametrize(
    "named",
    [
        ("callbacks.best.filename='{epoch}-{val/nll:.3f}'", "callbacks.last.filename=newest"),
        ("callbacks.best.dirpath=${paths.run_dir}/kept/best", "callbacks.last.dirpath=${paths.run_dir}/kept"),
        ("+callbacks.best.save_top_k=2", "callbacks.best.filename='{step}'"),
        ("callbacks.last=null", "callbacks.best.filename='{step}'", "+callbacks.best.save_top_k=-1"),
        ("+callbacks.best.save_weights_only=true",),
    ],
)
def test_checkpoints_of_other_names_are_found(named, settings, whole):
    expected = whole(*EARLY_BEST, *named)
    folder = kill_at(18, settings, *EARLY_BEST, *named)
    run = settings(*EARLY_BEST, *named, "ckpt_path=last")
    assert train.run(run) == expected
    assert checkpoints.read_checkpoint(checkpoints.last(folder))["global_step"] == 24
    assert measured(folder) == pytest.approx(expected)


def measured(folder: Path) -> float:
    """The test NLL of the model that a run folder gives when it is opened."""
    run = yaml.safe_load((folder / "config.yaml").read_text())
    from micro_lit.config import build

    data = build(run["data"]).load(run["seed"])
    model = restore(folder, data, folder / "features")
    return -model.log_prob(model.judge(data.split("test"))).mean().item()


def test_a_folder_that_has_moved_goes_on_and_knows_its_best(settings, whole, tmp_path):
    expected = whole(*EARLY_BEST)
    folder = kill_at(18, settings, *EARLY_BEST).rename(tmp_path / "moved")
    assert train.run(settings(*EARLY_BEST, f"paths.run_dir={folder}", "ckpt_path=last")) == expected
    assert measured(folder) == pytest.approx(expected)
    assert not (tmp_path / "run").exists()


def test_a_new_folder_goes_on_from_the_checkpoint_of_another(settings, whole, tmp_path):
    """It takes copies of what it needs, and the other run stays as it is."""
    expected = whole(*EARLY_BEST)
    folder = kill_at(18, settings, *EARLY_BEST)
    before = contents(folder)
    fork = (f"paths.run_dir={tmp_path / 'fork'}", f"ckpt_path={folder / checkpoints.LAST}")
    with pytest.raises(UserError, match=r"model.warmup=0.2 cannot take effect .* train from the start"):
        train.run(settings(*EARLY_BEST, *fork, "model.warmup=0.2"))
    assert train.run(settings(*EARLY_BEST, *fork)) == expected
    assert contents(folder) == before
    assert measured(tmp_path / "fork") == pytest.approx(expected)
    with pytest.raises(UserError, match="lies in another run folder"):
        train.run(settings(*EARLY_BEST, *fork, "trainer.max_epochs=4"))


def test_weights_alone_are_not_gone_on_from(settings):
    only = (*ONE, "+callbacks.best.save_weights_only=true")
    train.run(settings(*only))
    best = folder_of(settings(*only)) / checkpoints.BEST
    with pytest.raises(UserError, match="holds only weights"):
        train.run(settings(*only, "trainer.max_epochs=2", f"ckpt_path={best}"))


def test_what_was_tested_is_what_is_opened(settings):
    """Also when no checkpoint was written after the last step: the weights at hand are tested then."""
    run = settings(*ONE, "callbacks.best=null", "callbacks.early_stopping=null", "trainer.val_check_interval=3")
    value = train.run(run)
    assert results.read_results(folder_of(run))["checkpoint"] == checkpoints.LAST
    assert measured(folder_of(run)) == pytest.approx(value)


def test_another_monitor_is_named_as_what_it_is(settings):
    """It was written down as the validation NLL, by which a search chooses."""
    run = settings(*ONE, "callbacks.best.monitor=val/accuracy", "callbacks.best.mode=max")
    train.run(run)
    assert list(results.read_results(folder_of(run))["validation"]) == ["accuracy"]


def test_a_deleted_working_folder_is_no_traceback(tmp_path, settings):
    os.symlink(tmp_path / "nowhere", tmp_path / "run")
    with pytest.raises(UserError, match=r"paths\.run_dir=.*run: cannot be written"):
        train.run(settings(*ONE))
