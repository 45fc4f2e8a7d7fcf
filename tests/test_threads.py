"""Tests of the number of threads: what a process may use, what others leave, who decides, and what commands set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, SMALL_FEATURES, SMALL_TEXT
from torch import nn

from micro_lit import train
from micro_lit.config import compose
from micro_lit.errors import UserError
from micro_lit.host import threads
from micro_lit.report.results import is_incidental
from micro_lit.run import workers

VARIABLES = (threads.BY_RULE, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", *threads.PASSIVE)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    """An environment in which nobody has asked for anything, on a machine of eight CPUs."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


@pytest.fixture
def machine(tmp_path):
    """A folder with files as `proc` and `sys` have them."""

    def write(files: dict[str, str]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return write


# What the process may use


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "250000 100000\n"}, 2),  # a third thread would be throttled
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "9900000 100000\n"}, 8),
        # The least of a job's own group and of those that hold it.
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/cpu.max": "max 100000\n", f"{V2}/a/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/cpu.max": "400000 100000", f"{V2}/a/cpu.max": "max 100000"}, 4),
        # In a container the group is named as on the host, but what is mounted is the group itself.
        ({"proc/self/cgroup": "0::/docker/123\n", f"{V2}/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "0::/../other\n", f"{V2}/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "4:memory:/x\n2:cpu,cpuacct:/a\n", f"{V1}/a/cpu.cfs_quota_us": "-1\n"}, 8),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n2:cpu,cpuacct:/a\n0::/\n",
                f"{V1}/a/cpu.cfs_quota_us": "400000\n",
                f"{V1}/a/cpu.cfs_period_us": "100000\n",
                f"{V1}/cpu.cfs_quota_us": "-1\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
    ],
)
def test_affinity_and_quota_bound_what_a_process_may_use(machine, files, cpus):
    assert threads.most(machine(files)) == cpus


def test_affinity_is_that_of_the_process(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert threads.most(machine({})) == 2


# What others leave


def stat(*idle_of_100: int, ticks: int) -> str:
    """/proc/stat after so many ticks of each CPU, of each hundred of which some were idle or waited for a disk."""
    lines = ["cpu  1 2 3 4 5 6 7 8 0 0"]
    for number, idle in enumerate(idle_of_100):
        idle_ticks = ticks * idle // 100
        busy = ticks - idle_ticks
        lines.append(f"cpu{number} {busy} 0 0 {idle_ticks // 2} {idle_ticks - idle_ticks // 2} 0 0 0 0 0")
    return "\n".join([*lines, "intr 123 4", "ctxt 5"])


@pytest.mark.parametrize(
    ("idle", "affinity", "free"),
    [
        ((100, 100, 100, 100), range(4), 4),
        ((0, 100, 100, 100), range(4), 3),
        ((0, 0, 0, 0), range(4), 1),
        ((60, 60, 60, 60), range(4), 2),
        ((98, 97, 99, 96), range(4), 4),
        ((0, 0, 100, 100), (2, 3), 2),  # what others do on CPUs that are not ours is no matter
        ((0, 100, 100, 100), (0, 1), 1),
    ],
)
def test_cpus_that_no_other_process_uses(machine, monkeypatch, idle, affinity, free):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(affinity))
    root = machine({"proc/stat": stat(50, 50, 50, 50, ticks=1000)})

    def wait() -> None:
        before = [line.split() for line in stat(50, 50, 50, 50, ticks=1000).splitlines()[1:5]]
        passed = [line.split() for line in stat(*idle, ticks=100).splitlines()[1:5]]
        now = [
            " ".join([name, *(str(int(a) + int(b)) for a, b in zip(then, more, strict=True))])
            for (name, *then), (_, *more) in zip(before, passed, strict=True)
        ]
        machine({"proc/stat": "\n".join(now)})

    assert threads.free(root, wait) == free


def test_a_kernel_that_shows_no_load_has_none(machine):
    assert threads.free(machine({}), lambda: None) == 8
    assert threads.free(machine({"proc/stat": stat(0, 0, ticks=0)}), lambda: None) == 8


def test_a_quota_bounds_what_is_free(machine):
    root = machine({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "200000 100000\n"})
    assert threads.free(root, lambda: None) == 2


# Who decides


TRANSFORMER, VECTORS = nn.Linear(1, 1), nn.Identity()


def used(setting: int | None, backbone: nn.Module) -> int:
    with threads.running(setting), threads.using(backbone):
        return torch.get_num_threads()


@pytest.mark.parametrize(
    ("setting", "environment", "transformer", "vectors"),
    [
        (None, {}, 8, 1),
        (3, {}, 3, 3),
        (None, {"OMP_NUM_THREADS": "5"}, 5, 5),
        (None, {"OMP_NUM_THREADS": "5,2"}, 5, 5),
        (None, {"MKL_NUM_THREADS": "6"}, 6, 6),
        (None, {"OMP_NUM_THREADS": "5", "MKL_NUM_THREADS": "6"}, 5, 5),
        (None, {"OMP_NUM_THREADS": "many"}, 8, 1),
        (3, {"OMP_NUM_THREADS": "5"}, 3, 3),
        (None, {"OMP_NUM_THREADS": "4", threads.BY_RULE: "1"}, 4, 1),  # a share, which nobody has asked for
        (3, {"OMP_NUM_THREADS": "4", threads.BY_RULE: "1"}, 3, 3),
        (None, {"OMP_NUM_THREADS": "99", threads.BY_RULE: "1"}, 8, 1),
    ],
)
def test_the_setting_comes_before_the_environment_and_that_before_the_rule(
    monkeypatch, setting, environment, transformer, vectors
):
    monkeypatch.setattr(threads, "_quota", lambda machine: None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = torch.get_num_threads()
    assert (used(setting, TRANSFORMER), used(setting, VECTORS)) == (transformer, vectors)
    assert torch.get_num_threads() == before


def test_what_is_free_counts_for_the_store_alone(monkeypatch):
    monkeypatch.setattr(threads, "_quota", lambda machine: None)
    monkeypatch.setattr(threads, "free", lambda: 2)
    with threads.running(None):
        with threads.encoding():
            assert torch.get_num_threads() == 2
        with threads.using(TRANSFORMER):
            assert torch.get_num_threads() == 8
        # Beside the others of a run it would be they who leave nothing.
        monkeypatch.setenv(threads.BY_RULE, "1")
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        with threads.encoding():
            assert torch.get_num_threads() == 4


def test_a_command_inside_another_takes_its_threads():
    with threads.running(3), threads.running(None):
        assert torch.get_num_threads() == 3
    with threads.running(3), threads.running(2):
        assert torch.get_num_threads() == 2


def test_without_a_command_threads_are_those_of_the_host():
    before = torch.get_num_threads()
    with threads.using(TRANSFORMER), threads.encoding():
        assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("+experiment=planted_floors_k8", *SMALL_FEATURES), 1),
        (("+experiment=planted_floors_k8", *SMALL_FEATURES, "threads=2"), 2),
        (("+experiment=mixture_k8", *SMALL_TEXT), 4),
        (("+experiment=mixture_k8", *SMALL_TEXT, "threads=3"), 3),
    ],
)
def test_a_run_has_the_threads_of_its_backbone(settings, monkeypatch, overrides, expected):
    monkeypatch.setattr(threads, "_quota", lambda machine: 4.0)
    found = []
    monkeypatch.setattr(
        "pytorch_lightning.Trainer.fit", lambda *_, **__: found.append(torch.get_num_threads()) or sys.exit(0)
    )
    before = torch.get_num_threads()
    with pytest.raises((SystemExit, AttributeError)):
        train.run(settings(*overrides))
    assert found == [expected]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", ["0", "-1", "1.5", "true", "many", "100000"])
def test_a_number_of_threads_is_a_whole_number(settings, wrong):
    with pytest.raises(UserError, match=r"^threads=.* is not allowed; give a whole number of at least 1"):
        settings(f"threads={wrong}")


def test_every_command_that_computes_has_the_setting():
    for name, given in {
        "train": [],
        "encode": ["data.train=x"],
        "compare": ["candidates={a: b}", "baseline=a"],
        "evaluate": ["candidates={a: b}", "baseline=a"],
        "people": ["candidates={a: b}", "baseline=a"],
        "personalise": ["run=x", "profile=y"],
    }.items():
        assert compose(name, ["paths.run_dir=unused", *given])["threads"] is None
    assert is_incidental("threads")


# Processes that share


def test_processes_share_what_there_is(monkeypatch):
    monkeypatch.setattr(threads, "_quota", lambda machine: 6.0)
    expected = {"OMP_NUM_THREADS": "3", "RAYON_NUM_THREADS": "3", threads.BY_RULE: "1"}
    assert threads.share(2) == expected
    assert threads.share(7)["OMP_NUM_THREADS"] == "1"
    with threads.shared(2):
        assert {name: os.environ[name] for name in expected} == expected
        assert threads.share(3)["OMP_NUM_THREADS"] == "1"  # a job that starts processes shares its share
    assert not set(expected) & set(os.environ)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads.share(2) == {}


def test_processes_of_a_run_share(settings, monkeypatch):
    monkeypatch.setattr(threads, "_quota", lambda machine: None)
    started = []

    class Stop(Exception):
        pass

    def popen(command, env, **_):
        started.append(env)
        raise Stop

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(Stop):
        workers.start(settings("trainer.devices=4"), 4)
    assert started[0]["OMP_NUM_THREADS"] == "2"
    assert started[0][threads.BY_RULE] == "1"


# The environment


# Found by Python before anything else: notes the environment when NumPy is looked for, and at the end.
SITE = """
import atexit, json, os, sys

class Note:
    def find_spec(self, name, *_):
        if name == "numpy":
            write("numpy")

def write(name):
    with open(os.path.join(os.environ["NOTES"], name), "w") as file:
        json.dump(dict(os.environ), file)

sys.meta_path.insert(0, Note())
atexit.register(write, "end")
"""


@pytest.fixture
def environment(tmp_path):
    """The environment of a Python process, when it imports NumPy and at its end."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "host.py").write_text("import micro_lit.floors, micro_lit.train")

    def run(*arguments: str, **variables: str) -> dict[str, dict[str, str]]:
        paths = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "NOTES": str(tmp_path)}
        kept = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "OPENBLAS_NUM_THREADS")}
        subprocess.run(
            [sys.executable, *arguments],
            env={**kept, **paths, **variables},
            check=True,
            capture_output=True,
            timeout=300,
        )
        return {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir() if path.name in ("numpy", "end")}

    return run


SET = {**threads.PASSIVE, "OPENBLAS_NUM_THREADS": "1", threads.BY_RULE: "1"}


@pytest.mark.parametrize("name", ["floors", "train"])
def test_a_command_has_openmp_wait_passively_before_numpy_is_loaded(environment, name):
    found = environment("-m", f"micro_lit.{name}", "--help")
    assert found["numpy" if name == "floors" else "end"].items() >= SET.items()
    assert "OMP_NUM_THREADS" not in found["end"]


def test_what_the_user_has_set_stays(environment):
    own = {"OMP_WAIT_POLICY": "ACTIVE", "KMP_BLOCKTIME": "7", "OMP_NUM_THREADS": "2"}
    found = environment("-m", "micro_lit.train", "--help", **own)["end"]
    assert found.items() >= own.items()
    assert not {threads.BY_RULE, "OPENBLAS_NUM_THREADS"} & set(found)


@pytest.mark.parametrize("arguments", [("-c", "import micro_lit.floors, micro_lit.train"), ("-m", "host")])
def test_a_program_that_imports_the_package_keeps_its_environment(environment, arguments):
    assert not set(SET) & set(environment(*arguments)["end"])
