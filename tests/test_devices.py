"""Tests of runs on several devices: two processes on the CPU, which talk through gloo."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, SMALL_FEATURES
from processes import LAST_RESORT, wait_until
from torchmetrics import Metric

from micro_lit import train
from micro_lit.config import build
from micro_lit.errors import UserError
from micro_lit.host import ranks
from micro_lit.host.preemption import PREEMPTED
from micro_lit.report.results import read_results
from micro_lit.run import checkpoints, workers
from micro_lit.run.run import Run, restore

# An odd number of test rows, which two devices cannot share evenly.
VECTORS = (
    "+experiment=planted_floors_k8", *SMALL_FEATURES, "data.test=257", "trainer.max_epochs=2",
    "data.population.attributes=[length,warmth]", "data.population.groups=2", "trainer.log_every_n_steps=1",
)  # fmt: skip
TEXT = (
    "+experiment=mixture_k8", "data.train=96", "data.validation=31", "data.test=33", "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
)  # fmt: skip
TWO = ("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.devices=2")


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """Processes that a run starts find the tests' own package too."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests" / "support"))


LEFT = {
    "checkpoints", "checkpoints.json", "config.yaml", "inputs.json", "logs", "metrics.csv", "results.json",
}  # fmt: skip


def losses(folder: Path) -> list[float]:
    """The training loss of each step."""
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/nll"]) for row in csv.DictReader(file) if row["train/nll"]]


def folder_of(run: dict) -> Path:
    return Path(run["paths"]["run_dir"])


def compare(one: Path, two: Path, tolerance: float) -> None:
    """Two runs lost the same at every step, and measured the same on the same test rows."""
    assert losses(two) == pytest.approx(losses(one), abs=tolerance)
    mine, theirs = read_results(two), read_results(one)
    assert mine["data"] == theirs["data"]
    for name, facts in theirs["test"].items():
        assert mine["test"][name]["n"] == facts["n"]
        assert mine["test"][name]["value"] == pytest.approx(facts["value"], abs=tolerance)
    assert mine["baselines"].keys() == theirs["baselines"].keys()
    for name, facts in theirs["baselines"].items():
        assert mine["baselines"][name]["difference"] == pytest.approx(facts["difference"])
    assert mine["heads"]["mean_weight"] == pytest.approx(theirs["heads"]["mean_weight"], abs=tolerance)
    assert mine["validation"]["nll"] == pytest.approx(theirs["validation"]["nll"], abs=tolerance)


def test_two_processes_learn_and_measure_what_one_does(settings, tmp_path):
    train.run(settings(*VECTORS, "loader.batch_size=64", f"paths.run_dir={tmp_path / 'one'}"))
    two = settings(*VECTORS, "loader.batch_size=32", "trainer=ddp", *TWO, f"paths.run_dir={tmp_path / 'two'}")
    assert train.run(two) == read_results(tmp_path / "two")["test"]["nll"]["value"]
    compare(tmp_path / "one", tmp_path / "two", 1e-6)
    # Two processes wrote one folder, and the second one said its part in a file.
    found = {path.name for path in (tmp_path / "two").iterdir()}
    assert found - {".lock"} == LEFT
    assert [path.name for path in (tmp_path / "two" / "logs").iterdir()] == ["rank1.txt"]


@pytest.mark.full
def test_weights_are_sharded_and_a_checkpoint_is_whole(settings, tmp_path):
    one = settings(*TEXT, "loader.batch_size=32", f"paths.run_dir={tmp_path / 'one'}")
    train.run(one)
    witness = ("packages=[micro_lit_testing]", "+callbacks.witness._target_=micro_lit_testing.Witness")
    where = (f"+callbacks.witness.folder={tmp_path / 'witness'}", f"paths.run_dir={tmp_path / 'two'}")
    # So small a budget that one device needs more passes than the other.
    passes = ("loader.batch_size=16", "backbone.token_budget=200")
    train.run(settings(*TEXT, *passes, "trainer=fsdp", *TWO, *witness, *where))
    compare(tmp_path / "one", tmp_path / "two", 1e-5)
    held = [json.loads((tmp_path / "witness" / f"{rank}.json").read_text()) for rank in (0, 1)]
    for name, first in held[0].items():
        second = held[1][name]
        assert first["whole"] == second["whole"]
        if name.startswith("backbone."):
            assert first["part"][0] + second["part"][0] == first["whole"][0]
            assert max(first["part"][0], second["part"][0]) <= (first["whole"][0] + 1) // 2
        else:
            assert first["part"] == second["part"] == first["whole"]
    # One device reads what two have written, and judges as they did.
    data = build(one["data"]).load(one["seed"])
    model = restore(tmp_path / "two", data, tmp_path / "features")
    saved = checkpoints.read_checkpoint(tmp_path / "two" / checkpoints.BEST)["state_dict"]
    assert (
        saved.keys()
        == model.state_dict().keys()
        == checkpoints.read_checkpoint(tmp_path / "one" / checkpoints.BEST)["state_dict"].keys()
    )
    assert all(torch.equal(weight, saved[name]) for name, weight in model.state_dict().items())
    test = data.split("test")
    with torch.no_grad():
        nll = -model.log_prob(model.judge(test)).mean().item()
    assert nll == pytest.approx(read_results(tmp_path / "two")["test"]["nll"]["value"], abs=1e-6)


@pytest.mark.full
def test_a_run_on_two_devices_that_is_told_to_stop_goes_on_where_it_was(settings, tmp_path, capsys, start_process):
    """SIGTERM to the command reaches both processes; they save after the same step and ask to be started again."""
    command = [
        sys.executable, "-m", "micro_lit.train", *VECTORS, "loader.batch_size=16", "trainer.max_epochs=6", *TWO,
        "trainer=ddp", "ckpt_path=last", "callbacks.early_stopping=null",
        f"paths.features_dir={tmp_path / 'features'}",
    ]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train.run(settings(*command[3:], f"paths.run_dir={whole}"))
    stopped = start_process(
        [*command, f"paths.run_dir={cut}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )
    wait_until((cut / checkpoints.LAST).is_file, stopped)
    stopped.send_signal(signal.SIGTERM)
    printed, _ = stopped.communicate(timeout=LAST_RESORT)
    assert stopped.returncode == PREEMPTED, printed
    assert f"ckpt_path={cut / checkpoints.LAST}" in printed
    capsys.readouterr()
    train.run(settings(*command[3:], f"paths.run_dir={cut}"))
    assert f"going on from {cut / checkpoints.LAST}" in capsys.readouterr().out
    assert read_results(cut)["test"] == read_results(whole)["test"]
    assert not (tmp_path / "runs").exists()


def test_a_process_that_fails_ends_the_others(settings, tmp_path, capfd):
    kill = ("packages=[micro_lit_testing]", "+callbacks.kill._target_=micro_lit_testing.FailOnce")
    how = ("+callbacks.kill.step=3", "+callbacks.kill.name=SIGKILL", f"+callbacks.kill.marker={tmp_path / 'marker'}")
    with pytest.raises(UserError, match=r"process [01] of 2 of the run was killed by SIGKILL"):
        train.run(settings(*VECTORS, "loader.batch_size=32", "trainer=ddp", *TWO, *kill, *how))


def test_a_frozen_backbone_is_not_sharded(settings):
    with pytest.raises(UserError, match="trainer=fsdp shards a backbone in training, and this one is frozen"):
        train.run(settings(*VECTORS, "trainer=fsdp", *TWO, "trainer.devices=1"))


# How many processes a run needs


@pytest.mark.parametrize(
    ("overrides", "processes"),
    [
        ((), 0),
        (("trainer.devices=1",), 0),
        (("trainer.devices=auto",), 0),
        (("trainer.devices=2",), 2),
        (("trainer.devices='3'",), 3),
        (("trainer.accelerator=gpu", "trainer.devices=[0,3]"), 2),
        (("trainer.accelerator=gpu", "trainer.devices='0,1,2'"), 3),
        (("trainer.accelerator=gpu", "trainer.devices='0,'"), 0),
        (("trainer.devices=1", "trainer.num_nodes=2"), 1),
        (("own_process=true",), 0),  # which is about sweeps
    ],
)
def test_a_process_for_each_device(overrides, processes, settings):
    assert workers.needed(settings(*VECTORS, *overrides)) == processes


def test_processes_that_are_there_are_taken_as_they_are(settings, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert (ranks.rank(), ranks.world_size()) == (1, 2)
    assert workers.needed(settings(*VECTORS, "trainer.devices=2")) == 0
    with pytest.raises(UserError, match="2 processes were started"):
        workers.needed(settings(*VECTORS, "trainer.devices=4"))
    monkeypatch.setenv(workers.WORKER_FOLDER, "1")
    assert workers.needed(settings(*VECTORS, "trainer.devices=2")) == 0


def test_slurm_runs_one_task_a_machine(settings, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(UserError, match="--ntasks-per-node=1"):
        workers.needed(settings(*VECTORS, "trainer.devices=4"))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert workers.needed(settings(*VECTORS, "trainer.devices=4", "trainer.num_nodes=2")) == 4


@pytest.mark.full
def test_two_machines_learn_what_one_does(settings, tmp_path, start_process):
    """Two commands, one for each machine, that meet at an address; both are here, and share their folder."""
    train.run(settings(*VECTORS, "loader.batch_size=64", f"paths.run_dir={tmp_path / 'one'}"))
    command = [
        sys.executable, "-m", "micro_lit.train", *VECTORS, "loader.batch_size=32", "trainer=ddp", *TWO,
        "trainer.devices=1", "trainer.num_nodes=2", f"paths.run_dir={tmp_path / 'two'}",
        f"paths.features_dir={tmp_path / 'features'}",
    ]  # fmt: skip
    [_, port] = workers._meeting_point(1)
    machines = [
        start_process(
            command, env=os.environ | {"NODE_RANK": str(node), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in (0, 1)
    ]  # fmt: skip
    printed = [machine.communicate(timeout=LAST_RESORT)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], printed
    compare(tmp_path / "one", tmp_path / "two", 1e-6)


def test_machines_share_a_folder_that_was_named(tmp_path):
    command = [sys.executable, "-m", "micro_lit.train", *VECTORS, "trainer.num_nodes=2", "trainer.accelerator=cpu"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: trainer.num_nodes=2: all machines write to one folder; name it")


def test_machines_need_to_know_where_to_meet(settings, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="start the command on each machine with NODE_RANK"):
        train.run(settings(*VECTORS, "trainer.num_nodes=2", "trainer.accelerator=cpu"))


def test_what_a_test_measured_is_added_up_before_the_trainer_lets_go_of_the_devices(settings):
    """Afterwards the sums are on the CPU, where processes that talk through NCCL cannot add them up."""
    with Run(settings(*VECTORS)) as run:
        run.fit()
        found = run.test()
        for metrics in run.model.modules():
            if isinstance(metrics, Metric):
                metrics.reset()
        assert run.model.test_results().items() <= found.items()
    assert found["test"]["nll"]["n"] == 257
