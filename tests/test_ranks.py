"""Tests of the processes of a run: which devices are refused, and how a run ends whose processes fail."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, SMALL_FEATURES

from micro_lit.config import compose
from micro_lit.errors import UserError
from micro_lit.run import workers

SMALL = ("+experiment=planted_floors_k8", *SMALL_FEATURES, "trainer.accelerator=cpu", "trainer.precision=32-true")
# Far above what a command needs, far below the half hour for which a process waits for one that never comes.
LONG = 300


@pytest.fixture
def command(tmp_path):
    """Runs a training command in the test's own folder; it finds the tests' package."""

    def run(*overrides: str) -> subprocess.CompletedProcess:
        line = [sys.executable, "-m", "micro_lit.train", *SMALL, f"paths.run_dir={tmp_path / 'run'}", *overrides]
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests' / 'support'}"}
        return subprocess.run(
            line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=LONG
        )

    return run


@pytest.mark.parametrize(
    "devices", ["abc", "0", "-2", "''", "','", "[]", "[1,1]", "[a]", "[true]", "2.5", "true", "null", "'0,0'", "{a: 1}"]
)
def test_devices_that_no_machine_has_are_refused(devices):
    with pytest.raises(UserError, match=r"^trainer\.devices=.* is not allowed; give a number of devices"):
        compose("train", [*SMALL, "paths.run_dir=unused", f"trainer.devices={devices}"])


@pytest.mark.parametrize("devices", ["1", "2", "'3'", "auto", "-1", "'-1'", "[0]", "[0,3]", "'0,'", "'0, 1'"])
def test_devices_that_some_machine_has_are_allowed(devices):
    compose("train", [*SMALL, "paths.run_dir=unused", f"trainer.devices={devices}"])


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
@pytest.mark.parametrize("devices", ["[1,2]", "[0]", "'0,1'", "-1", "'0,'"])
def test_gpus_are_refused_on_a_cpu_before_any_process_starts(settings, devices, accelerator, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"trainer\.devices=.* is for GPUs, and trainer\.accelerator=.*give a number"):
        workers.needed(settings(*SMALL, f"trainer.devices={devices}", f"trainer.accelerator={accelerator}"))


def test_a_list_of_devices_on_a_cpu_ends_in_one_line(command):
    ended = command("trainer.devices=[1,2]")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: trainer.devices=[1, 2] is for GPUs")
    assert ended.stderr.count("\n") == 1


@pytest.mark.full
@pytest.mark.parametrize(
    ("who", "how", "line"),
    [
        ([0, 1], "error", r"error: rank [01] cannot"),
        ([1], "error", r"error: rank 1 cannot"),
        ([0, 1], "status", r"error: process [01] of 2 of the run ended with status 3"),
        ([1], "status", r"error: process 1 of 2 of the run ended with status 3; see .*rank1\.txt"),
        ([0], "sigkill", r"error: process 0 of 2 of the run was killed by SIGKILL"),
    ],
)
def test_processes_that_fail_before_the_first_step_end_the_run(command, who, how, line):
    """The others may be waiting for them at the meeting point, where they hear no signal."""
    kill = f"+callbacks.kill={{_target_: micro_lit_testing.DieBeforeTraining, ranks: {who}, how: {how}}}"
    ended = command("trainer.devices=2", "trainer.strategy=ddp", "packages=[micro_lit_testing]", kill)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert re.match(line, last), ended.stderr
    assert "Traceback" not in ended.stderr


WAITS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


@pytest.mark.parametrize("training", [False, True])
def test_nobody_waits_for_those_that_have_not_begun(tmp_path, monkeypatch, training):
    """A process that hears no signal is killed: soon where there was no step yet, else after the time to end well."""
    waited = []
    monkeypatch.setattr(time, "monotonic", lambda: 0.0 if not waited else waited[-1])
    monkeypatch.setattr(time, "sleep", lambda seconds: waited.append((waited[-1] if waited else 0.0) + 0.5))
    monkeypatch.setenv(workers.WORKER_FOLDER, str(tmp_path))
    if training:
        workers.begin_training()
    children = [subprocess.Popen([sys.executable, "-c", code]) for code in ("raise SystemExit(3)", WAITS)]
    children[0].wait(LONG)
    assert workers._wait(children, tmp_path) == [0]
    assert children[1].returncode < 0
    least, most = (workers.GRACE, workers.GRACE + 600) if training else (0.0, workers.GRACE)
    assert least <= waited[-1]
    assert training or waited[0] <= most


def test_the_reason_is_that_of_the_first_to_fail(tmp_path):
    """Of those that fail because it did, a word may come too, and even earlier."""
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    ended.wait(LONG)
    for number, word in enumerate(["internal error: RuntimeError: connection closed", "the disk is full", "late"]):
        path = workers.error_file(tmp_path, number)
        path.write_text(word)
        os.utime(path, ns=(number, number))
    found = workers._failure([ended] * 3, [0], tmp_path, Path("logs"), 0, 3)
    assert str(found) == "the disk is full"
