"""Threads of torch and of the numerical libraries: as many as the work can use and the process may use.

| work | threads |
|---|---|
| cached vectors: heads, gates, adaptations, floors | one: on tensors so small more threads only meet at barriers |
| a transformer that is trained, or judges pairs | all CPUs that the process may use |
| a frozen transformer that fills the feature store | those of them that no other process uses at the moment |

The load of neighbours does not count in training: sums of gradients depend on the number of threads by their rounding,
and equal settings give equal results, to the bit, on a busy machine too. What a neighbour costs there is bounded by
passive waiting. A feature depends on the texts encoded beside it by its rounding already.

The setting `threads` comes before OMP_NUM_THREADS and MKL_NUM_THREADS of the user, and these before the rule. Processes
that are started together (devices of a run, jobs of joblib or submitit on one machine) find their share of the CPUs in
OMP_NUM_THREADS; `BY_RULE` beside it marks it as a limit that nobody asked for.

Threads between operations (`torch.set_num_interop_threads`) stay as they are: nothing runs operations side by side. The
threads of tokenizers wait passively, and respect affinity and quota.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Set
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any

BY_RULE = "MICRO_LIT_THREADS_BY_RULE"

# How threads wait at barriers, read when a library is loaded: libgomp, which torch brings on Linux, or Intel's OpenMP.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}

# Seconds over which the load of the CPUs is measured. The load average of the kernel lags by a minute.
WINDOW = 0.25

MACHINE = Path("/")

# The setting `threads` of the command that runs; None: the rule decides. It has no value while no command runs.
_setting: ContextVar[int | None] = ContextVar("threads")


def set_defaults(environment: MutableMapping[str, str]) -> None:
    """Sets what libraries read when they are loaded, so that numpy and torch must not be yet; the user's values stay.

    NumPy's OpenBLAS gets one thread: on the matrices of floors a second one doubles the CPU time and saves none.
    """
    for name, value in PASSIVE.items():
        environment.setdefault(name, value)
    if _asked(environment) is None:
        environment[BY_RULE] = "1"
        environment.setdefault("OPENBLAS_NUM_THREADS", "1")


def share(processes: int, machine: Path = MACHINE) -> dict[str, str]:
    """Variables for the environment of processes that start together on this machine: each gets its share of the CPUs.

    None for those of a user who has set a number of threads.
    """
    if _asked(os.environ) is not None:
        return {}
    each = str(max(1, most(machine) // processes))
    return {"OMP_NUM_THREADS": each, "RAYON_NUM_THREADS": os.environ.get("RAYON_NUM_THREADS", each), BY_RULE: "1"}


@contextlib.contextmanager
def shared(processes: int) -> Iterator[None]:
    """While inside, processes that this one starts get the share of one of so many."""
    variables = share(processes)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def running(setting: int | None) -> Iterator[None]:
    """While inside, torch has the threads that the work takes: at first, those for cached vectors.

    Args:
        setting: threads for all work; None: by the rule, or as set for the command around this one.
    """
    token = _setting.set(_setting.get(None) if setting is None else setting)
    try:
        with _torch_threads(lambda: 1):
            yield
    finally:
        _setting.reset(token)


def by_settings(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function of settings that runs inside of `running`, with their `threads`."""

    @functools.wraps(run)
    def inside(settings: Mapping[str, Any], *arguments: Any, **named: Any) -> Any:
        with running(settings["threads"]):
            return run(settings, *arguments, **named)

    return inside


@contextlib.contextmanager
def using(backbone: Any) -> Iterator[None]:
    """While inside, torch has the threads for a backbone: a transformer where it has weights, else cached vectors."""
    transformer = next(backbone.parameters(), None) is not None
    with _torch_threads(most if transformer else lambda: 1):
        yield


@contextlib.contextmanager
def encoding() -> Iterator[None]:
    """While inside, torch has the threads for filling the feature store."""
    # Beside the other processes of a run or a sweep, a share is all that is free.
    with _torch_threads(free if _limit(os.environ) is None else most):
        yield


@contextlib.contextmanager
def _torch_threads(rule: Callable[[], int]) -> Iterator[None]:
    """While inside, torch has the threads that were asked for, or those of a rule; its host's while no command runs."""
    try:
        setting = _setting.get()
    except LookupError:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(setting or _asked(os.environ) or rule())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """A number of threads in the environment; the first one of a list, as OpenMP takes for nested regions."""
    first = environment.get(name, "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def _asked(environment: Mapping[str, str]) -> int | None:
    """What the user has set in the environment."""
    if BY_RULE in environment:
        return None
    return _number(environment, "OMP_NUM_THREADS") or _number(environment, "MKL_NUM_THREADS")


def _limit(environment: Mapping[str, str]) -> int | None:
    """The share of one of several processes that were started together."""
    return _number(environment, "OMP_NUM_THREADS") if BY_RULE in environment else None


def most(machine: Path = MACHINE) -> int:
    """CPUs that this process may use: its affinity, its cgroup's quota, its share among processes started together.

    Args:
        machine: folder that holds `proc` and `sys`.
    """
    bounds = (len(_affinity()), int(_quota(machine) or len(_affinity())), _limit(os.environ))
    return max(1, min(bound for bound in bounds if bound is not None))


def free(machine: Path = MACHINE, wait: Callable[[], None] = lambda: time.sleep(WINDOW)) -> int:
    """CPUs that this process may use and no other uses: their idle shares over a moment, added up and rounded.

    A kernel that shows no load, as some sandboxes do, has none.

    Args:
        machine: folder that holds `proc` and `sys`.
        wait: passes the moment, in which this process does nothing.
    """
    before = _times(machine)
    wait()
    after, idle = _times(machine), 0.0
    for cpu in _affinity():
        (idle_then, all_then), (idle_now, all_now) = before.get(cpu, (0, 0)), after.get(cpu, (0, 0))
        idle += (idle_now - idle_then) / (all_now - all_then) if all_now > all_then else 1.0
    return max(1, min(most(machine), int(idle + 0.5)))


def _affinity() -> Set[int]:
    """Numbers of the CPUs on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quota(machine: Path) -> float | None:
    """CPUs that the cgroups of this process grant it, the least of its own and all parents; None: all there are."""
    found, mounts = [], machine / "sys" / "fs" / "cgroup"
    for line in _read(machine / "proc" / "self" / "cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        # A place outside of the container's own tree is not mounted, whose root is then the container's.
        path = PurePosixPath(place if ".." not in place else "/")
        for parent in (path, *path.parents):
            inside = parent.relative_to("/")
            if not controllers:
                found += [_read(mount / inside / "cpu.max") for mount in (mounts, mounts / "unified")]
            elif "cpu" in controllers.split(","):
                for folder in (mounts / name / inside for name in {controllers, "cpu"}):
                    found.append(f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}")
    pairs = [text.split() for text in found]
    return min((int(pair[0]) / int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0].isdecimal()), default=None)


def _times(machine: Path) -> dict[int, tuple[int, int]]:
    """Ticks that each CPU was idle, and all its ticks, since the machine was started."""
    found = {}
    for line in _read(machine / "proc" / "stat").splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            # user, nice, system, idle, iowait, irq, softirq, steal; those of guests are in the first two already.
            ticks = [int(field) for field in fields[:8]]
            found[int(name[3:])] = (sum(ticks[3:5]), sum(ticks))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
