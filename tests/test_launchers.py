"""Tests of sweeps whose jobs run elsewhere than in the command's own process, and of the script for SLURM."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from hydra.core.hydra_config import HydraConfig

from micro_lit import config, train
from micro_lit.host.preemption import PREEMPTED

SMALL = (
    "+experiment=planted_floors_k8", "data.train=64", "data.validation=16", "data.test=64", "trainer.max_epochs=3",
    "loader.batch_size=16", "data.population.attributes=[length,warmth,humour]", "data.population.groups=2",
)  # fmt: skip
# Four steps an epoch: at the sixth there is the checkpoint of the first epoch.
FAIL = (
    "packages=[micro_lit_testing]", "+callbacks.fail._target_=micro_lit_testing.FailOnce", "+callbacks.fail.step=6",
    "+callbacks.fail.marker=${paths.run_dir}/told",
)  # fmt: skip
SUPPORT = str(Path(__file__).parent / "support")


# In a process of its own: what a launcher hands to its processes is then the command's own, not that of the tests. That
# submitit waits for slow network disks is of no use here.
COMMAND = """
import submitit
from micro_lit import train

submitit.core.core.Job._results_timeout_s = 1
train.main()
"""


@pytest.fixture
def launch(tmp_path):
    """Runs a sweep of small runs below the test's own folder; its jobs find the tests' package."""
    pytest.importorskip("submitit", reason="the extra sweeps is not installed")

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", COMMAND, "-m", *SMALL, "hydra.sweep.dir=runs/sweep", *arguments]
        environment = {**os.environ, "PYTHONPATH": SUPPORT, "OMP_NUM_THREADS": "1", **variables}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def measured(folder: Path) -> dict:
    """The results of a run, without the time that it took."""
    found = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in found.items() if name != "seconds"}


def alone(folder: Path, *overrides: str) -> dict:
    """The results of a run by itself, in this process."""
    settings = config.compose("train", [*SMALL, *overrides, f"paths.run_dir={folder}"])
    train.run(settings)
    return measured(folder)


@pytest.mark.full
def test_jobs_of_joblib_fail_one_by_one(tmp_path, launch):
    ended = launch("seed=-1,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert ended.returncode == 1, ended.stderr
    sweep = tmp_path / "runs" / "sweep"
    assert (sweep / "0" / "error.txt").read_text().startswith("seed=-1 is not allowed")
    assert measured(sweep / "1") == alone(tmp_path / "alone", "seed=1")
    assert ended.stdout.splitlines()[-1].startswith("failed: runs/sweep/0/ (seed=-1): seed=-1 is not allowed")


@pytest.mark.full
def test_jobs_of_submitit_are_killed_and_preempted_one_by_one(tmp_path, launch):
    """One is gone; the other is told that others go first, is queued again, and ends as if it had not been."""
    names = "+callbacks.fail.name=SIGKILL,SIGUSR2"
    ended = launch(*FAIL, names, "overwrite=true", "hydra/launcher=local")
    assert ended.returncode == 1, ended.stderr
    sweep = tmp_path / "runs" / "sweep"
    assert "ended without a result, probably killed" in (sweep / "0" / "error.txt").read_text()
    assert not (sweep / "1" / "error.txt").exists()
    said = "".join(path.read_text() for path in sweep.glob(".submitit/*/*.out"))
    assert "Requeued job" in said
    assert (sweep / "1" / "metrics.1.csv").is_file()
    assert measured(sweep / "1")["test"] == alone(tmp_path / "alone")["test"]
    last = ended.stdout.splitlines()[-1]
    assert last.startswith("failed: runs/sweep/0/ (+callbacks.fail.name=SIGKILL): ")


@pytest.mark.full
def test_each_job_of_a_sweep_may_be_a_group_of_processes(tmp_path, monkeypatch):
    """Of one, which is killed, and of two, a device each; the results are those of the job alone, its folders all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", SUPPORT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kill = (*FAIL[:-1], "+callbacks.fail.name=SIGKILL", f"+callbacks.fail.marker={tmp_path / 'told'}")
    own = (*kill, "own_process=true", "trainer.strategy=ddp", "trainer.accelerator=cpu")
    monkeypatch.setattr(
        "sys.argv", ["train.py", "-m", *SMALL, *own, "trainer.devices=1,2", "hydra.sweep.dir=runs/sweep"]
    )
    with pytest.raises(SystemExit) as caught:
        train.main()
    HydraConfig.instance().cfg = None
    assert caught.value.code == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["sweep"]
    sweep = tmp_path / "runs" / "sweep"
    assert {path.name for path in sweep.iterdir()} == {"0", "1", "multirun.yaml", "report"}
    assert "was killed by SIGKILL" in (sweep / "0" / "error.txt").read_text()
    assert not (sweep / "0" / "results.json").exists()
    assert measured(sweep / "1") == alone(tmp_path / "alone", *own, "trainer.devices=2")


STUBS = {
    "sbatch": """
cp "$1" {seen}/script.called; echo "Submitted batch job 7"
""",
    "sacct": """
echo "JobID|State|NodeList"; echo "7_0|FAILED|a"; echo "7_1|FAILED|a"
""",
    "srun": """
echo "$@" >> {seen}/srun.called
while [[ "$1" == --* ]]; do shift; done
exec "$@"
""",
    "scontrol": """
echo "$@" >> {seen}/scontrol.called
""",
}


@pytest.fixture
def slurm(tmp_path) -> Path:
    """A folder of programs that stand for those of SLURM, and say there what they were called with."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, body in STUBS.items():
        (folder / name).write_text("#!/bin/bash" + body.replace("{seen}", str(folder)))
        (folder / name).chmod(0o755)
    return folder


def with_programs(folder: Path) -> str:
    """PATH with those of a folder first."""
    return os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])


def test_slurm_is_given_one_array_of_jobs_that_come_back(tmp_path, launch, slurm):
    """As far as that goes without a cluster: what is submitted, and that jobs it has lost are failed ones."""
    ended = launch(
        "hydra/launcher=slurm", "hydra.launcher.slurm_partition=gpu", "hydra.launcher.gpus_per_node=8",
        "trainer=ddp", "trainer.devices=8", "trainer.num_nodes=2", "seed=0,1", PATH=with_programs(slurm),
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    asked = {line.removeprefix("#SBATCH --") for line in (slurm / "script.called").read_text().splitlines()}
    assert {
        "array=0-1%2", "requeue", "signal=USR2@120", "nodes=2", "ntasks-per-node=1", "gpus-per-node=8", "partition=gpu",
        "time=240", "open-mode=append",
    } <= asked  # fmt: skip
    assert {path.parent.name for path in (tmp_path / "runs" / "sweep").rglob("error.txt")} == {"0", "1"}


# What SLURM tells the one task of a job.
TASK = {
    "SLURM_JOB_ID": "9", "SLURM_JOB_NAME": "micro_lit", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_NODELIST": "localhost",
    "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1",
}  # fmt: skip
SCRIPT = REPOSITORY / "experiments" / "cluster" / "train.sbatch"


@pytest.mark.full
def test_the_script_for_slurm_goes_on_where_it_was_stopped(tmp_path, slurm):
    """Its run is told to stop in the second epoch, is queued again with status 75, and then ends as the whole one."""
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    environment = {**os.environ, **TASK, "PYTHONPATH": SUPPORT, "PATH": with_programs(slurm)}
    command = ["bash", SCRIPT, "mine", *SMALL, *FAIL, "+callbacks.fail.name=SIGTERM"]
    queued, ended = (
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        for _ in range(2)
    )
    assert queued.returncode == PREEMPTED, queued.stderr
    assert ended.returncode == 0, ended.stderr
    assert (slurm / "scontrol.called").read_text() == "requeue 9\n"
    assert (slurm / "srun.called").read_text().count("--ntasks-per-node=1 python -m micro_lit.train") == 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["cluster"]
    assert (
        measured(tmp_path / "runs" / "cluster" / "mine" / "seed1")["test"]
        == alone(tmp_path / "alone", "seed=1")["test"]
    )
