"""Number of threads of torch and of numerical libraries.

| work | threads |
|---|---|
| cached vectors: heads, gates, adaptations, floors | one: on small tensors, more threads only add barrier waits |
| a transformer that is trained or scores pairs | all CPUs that the process may use |
| a frozen transformer that fills the feature store | those CPUs that are idle at the moment |

Training ignores the load of other processes: the rounding of summed gradients depends on the number of threads, and
equal settings must give bit-equal results on a busy machine too. Passive waiting bounds the slow-down by other
processes. Feature rounding already depends on the other texts in the batch.

Precedence: the setting `threads`, then OMP_NUM_THREADS and MKL_NUM_THREADS set by the user, then the table above.
Processes started together (workers of a run, joblib or submitit jobs on one machine) receive their share of the CPUs in
OMP_NUM_THREADS. The variable `BY_RULE` beside it marks that value as a limit not set by the user.

Inter-op threads (`torch.set_num_interop_threads`) are unchanged: nothing runs operations in parallel. The threads of
tokenizers wait passively, and respect affinity and quota.
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

# Passive waiting at barriers, read when a library is loaded: libgomp (comes with torch on Linux) or Intel's OpenMP.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}

# Seconds over which the CPU load is measured. The kernel's load average lags by a minute.
WINDOW = 0.25

MACHINE = Path("/")

# The setting `threads` of the running command; None: use the rule. Unset while no command runs.
_setting: ContextVar[int | None] = ContextVar("threads")


def set_defaults(environment: MutableMapping[str, str]) -> None:
    """Sets environment variables that libraries read on import; call it before importing numpy or torch.

    Variables set by the user are kept. NumPy's OpenBLAS gets one thread: on the matrices of floors a second one doubles
    the CPU time and saves none.
    """
    for name, value in PASSIVE.items():
        environment.setdefault(name, value)
    if _asked(environment) is None:
        environment[BY_RULE] = "1"
        environment.setdefault("OPENBLAS_NUM_THREADS", "1")


def share(processes: int, machine: Path = MACHINE) -> dict[str, str]:
    """Environment variables that give each of `processes` processes on this machine its share of the CPUs.

    Args:
        processes: number of processes started together.
        machine: root folder that holds `proc` and `sys`.

    Returns:
        name -> value; empty if the user has set a number of threads.
    """
    if _asked(os.environ) is not None:
        return {}
    each = str(max(1, most(machine) // processes))
    return {"OMP_NUM_THREADS": each, "RAYON_NUM_THREADS": os.environ.get("RAYON_NUM_THREADS", each), BY_RULE: "1"}


@contextlib.contextmanager
def shared(processes: int) -> Iterator[None]:
    """Context manager: each process started inside gets a 1/`processes` share of the CPUs."""
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
    """Context manager for a command: sets the number of torch threads, at first that for cached vectors.

    Args:
        setting: number of threads for all work; None: use the rule, or the setting of an enclosing command.
    """
    token = _setting.set(_setting.get(None) if setting is None else setting)
    try:
        with _torch_threads(lambda: 1):
            yield
    finally:
        _setting.reset(token)


def by_settings(run: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: runs a function of settings inside `running(settings["threads"])`."""

    @functools.wraps(run)
    def inside(settings: Mapping[str, Any], *arguments: Any, **named: Any) -> Any:
        with running(settings["threads"]):
            return run(settings, *arguments, **named)

    return inside


@contextlib.contextmanager
def using(backbone: Any) -> Iterator[None]:
    """Context manager: torch threads for a backbone; all CPUs if it has weights (a transformer), else one."""
    transformer = next(backbone.parameters(), None) is not None
    with _torch_threads(most if transformer else lambda: 1):
        yield


@contextlib.contextmanager
def encoding() -> Iterator[None]:
    """Context manager: torch threads for filling the feature store."""
    # A process started beside others uses its whole share, without measuring the load.
    with _torch_threads(free if _limit(os.environ) is None else most):
        yield


@contextlib.contextmanager
def _torch_threads(rule: Callable[[], int]) -> Iterator[None]:
    """Sets torch's threads by the setting, the environment or the rule; does nothing while no command runs."""
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


def _quota_number(environment: Mapping[str, str], name: str) -> int | None:
    """A thread count in the environment; of a comma-separated list the first, as OpenMP uses for nested regions."""
    first = environment.get(name, "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def _asked(environment: Mapping[str, str]) -> int | None:
    """The number of threads that the user has set in the environment."""
    if BY_RULE in environment:
        return None
    return _quota_number(environment, "OMP_NUM_THREADS") or _quota_number(environment, "MKL_NUM_THREADS")


def _limit(environment: Mapping[str, str]) -> int | None:
    """The CPU share of a process started beside others."""
    return _quota_number(environment, "OMP_NUM_THREADS") if BY_RULE in environment else None


def most(machine: Path = MACHINE) -> int:
    """CPUs that this process may use: limited by affinity, cgroup quota and its share among processes.

    Args:
        machine: root folder that holds `proc` and `sys`.
    """
    bounds = (len(_affinity()), int(_quota(machine) or len(_affinity())), _limit(os.environ))
    return max(1, min(bound for bound in bounds if bound is not None))


def free(machine: Path = MACHINE, wait: Callable[[], None] = lambda: time.sleep(WINDOW)) -> int:
    """Idle CPUs that this process may use: idle fractions over `WINDOW` seconds, summed and rounded.

    CPUs for which the kernel reports no load, as in some sandboxes, count as idle.

    Args:
        machine: root folder that holds `proc` and `sys`.
        wait: sleeps during the measurement.
    """
    before = _times(machine)
    wait()
    after, idle = _times(machine), 0.0
    for cpu in _affinity():
        (idle_then, all_then), (idle_now, all_now) = before.get(cpu, (0, 0)), after.get(cpu, (0, 0))
        idle += (idle_now - idle_then) / (all_now - all_then) if all_now > all_then else 1.0
    return max(1, min(most(machine), int(idle + 0.5)))


def _affinity() -> Set[int]:
    """Indices of the CPUs on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quota(machine: Path) -> float | None:
    """CPU quota of this process's cgroups: the minimum over its own and all parents; None: no quota."""
    found, mounts = [], machine / "sys" / "fs" / "cgroup"
    for line in _read_quota(machine / "proc" / "self" / "cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        # A path with ".." lies outside of the container's tree, where the root is the container's own cgroup.
        path = PurePosixPath(place if ".." not in place else "/")
        for parent in (path, *path.parents):
            inside = parent.relative_to("/")
            if not controllers:
                found += [_read_quota(mount / inside / "cpu.max") for mount in (mounts, mounts / "unified")]
            elif "cpu" in controllers.split(","):
                for folder in (mounts / name / inside for name in {controllers, "cpu"}):
                    found.append(
                        f"{_read_quota(folder / 'cpu.cfs_quota_us')} {_read_quota(folder / 'cpu.cfs_period_us')}"
                    )
    pairs = [text.split() for text in found]
    return min((int(pair[0]) / int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0].isdecimal()), default=None)


def _times(machine: Path) -> dict[int, tuple[int, int]]:
    """(idle ticks, all ticks) of each CPU since boot."""
    found = {}
    for line in _read_quota(machine / "proc" / "stat").splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            # user, nice, system, idle, iowait, irq, softirq, steal; guest times are included in the first two.
            ticks = [int(field) for field in fields[:8]]
            found[int(name[3:])] = (sum(ticks[3:5]), sum(ticks))
    return found


def _read_quota(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
