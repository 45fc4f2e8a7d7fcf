"""Worker processes of one run: one per device, on one or several machines.

With `trainer.devices=4` the command starts four workers with the same settings and waits for them. In a sweep, each job
starts its own group of workers, which do not depend on the sweep. Processes already started by torchrun, one per
device, are used as they are.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import yaml
from hydra.core.hydra_config import HydraConfig

from micro_lit.config import Settings, in_sweep
from micro_lit.errors import UserError
from micro_lit.host import ranks, threads
from micro_lit.host.preemption import PREEMPTED

# Seconds before the other workers are killed after one has failed or a stop was requested. The second value applies
# if one fails before the first step: the others may then block in a collective where no signal handler runs.
GRACE, GRACE_BEFORE_TRAINING = 30.0, 3.0

# Environment variable that marks a worker, so that it starts no workers itself; its value is the folder shared with the
# parent process.
WORKER_FOLDER = "MICRO_LIT_RANK"

# Prefix of the files in that folder that mark the workers in training.
TRAINING_FILE = "training"


def is_worker() -> bool:
    """Whether this process is a worker of `start`."""
    return WORKER_FOLDER in os.environ


def needed(settings: Settings) -> int:
    """Number of workers that this command must start on this machine; 0 to train in this process.

    Raises:
        UserError: the processes already started do not match the requested devices.
    """
    trainer = settings["trainer"]
    devices, nodes = _count(trainer), trainer["num_nodes"]
    if is_worker():
        return 0
    if ranks.world_size() > 1:
        if ranks.world_size() != devices * nodes:
            raise UserError(
                f"{ranks.world_size()} processes were started for trainer.devices={trainer['devices']} on "
                f"trainer.num_nodes={nodes}; start the command once on each machine, it starts one for each device"
            )
        return 0
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > nodes:
        raise UserError(
            "SLURM runs several tasks of this command on a machine; start one on each (srun --ntasks-per-node=1), it "
            "starts a process for each device"
        )
    if nodes > 1 and HydraConfig.initialized() and not in_sweep():
        typed = HydraConfig.get().overrides.task
        named = any(each.startswith(("paths.run_dir=", "ckpt_path=")) and each != "ckpt_path=last" for each in typed)
        if not named:
            raise UserError(
                f"trainer.num_nodes={nodes}: all machines write to one folder; name it, the same on each of them, with "
                "paths.run_dir"
            )
    own = settings["own_process"] and in_sweep()
    return devices if devices * nodes > 1 or own else 0


def _count(trainer: Mapping[str, Any]) -> int:
    """Number of devices per machine that the Trainer uses. Raises `UserError` for GPU indices on the CPU."""
    devices, accelerator = trainer["devices"], trainer["accelerator"]
    if str(devices).isdecimal():
        return int(devices)
    if accelerator == "cpu" and devices == "auto":
        return 1
    if accelerator != "gpu":
        import torch

        if accelerator == "cpu" or not (torch.cuda.is_available() or devices == "auto"):
            raise UserError(
                f"trainer.devices={devices} is for GPUs, and trainer.accelerator={accelerator} trains on the CPU here; "
                "give a number of processes, as in trainer.devices=2, or trainer.accelerator=gpu"
            )
    if isinstance(devices, str) and "," in devices:
        devices = [each for each in devices.split(",") if each.strip()]  # "0," means only device 0
    if isinstance(devices, list):
        return len(devices)
    import torch

    return max(1, torch.cuda.device_count())


def _node(settings: Settings) -> int:
    """Index of this machine in the run, from 0."""
    if settings["trainer"]["num_nodes"] == 1:
        return 0
    return int(next((os.environ[name] for name in ("NODE_RANK", "SLURM_NODEID") if name in os.environ), 0))


def leads(settings: Settings) -> bool:
    """Whether this process, or its first worker, writes the run folder."""
    return ranks.rank() == 0 and _node(settings) == 0


def start(settings: Settings, processes: int, brief: bool = False, lock: int | None = None) -> bool:
    """Runs `micro_lit.train` in a group of worker processes and waits until all have exited.

    The first worker of the run prints to this terminal; the others write to logs/rank<number>.txt in the run folder.
    Signals that stop this process are forwarded to the workers. If one worker fails, the others are stopped.

    Args:
        settings: settings of the run.
        processes: number of workers on this machine.
        brief: see `training.train`.
        lock: file descriptor of the lock on the run folder, inherited by the workers.

    Returns:
        Whether rank 0, which writes the results, was among the workers.

    Raises:
        SystemExit: with status `PREEMPTED` after SIGTERM, 130 after SIGINT.
        UserError: a worker failed.
    """
    nodes, node = settings["trainer"]["num_nodes"], _node(settings)
    address, port = _meeting_point(nodes)
    logs = Path(settings["paths"]["run_dir"]) / "logs"
    environment = os.environ | {
        "NODE_RANK": str(node),
        "WORLD_SIZE": str(processes * nodes),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        **threads.share(processes),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.yaml"
        path.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "micro_lit.run.worker", str(path), str(os.getpid()), *["brief"] * brief]
        children: list[subprocess.Popen] = []
        with _forwarding_signals(children) as received:
            for local in range(processes):
                number = node * processes + local
                own = environment | {WORKER_FOLDER: folder, "RANK": str(number), "LOCAL_RANK": str(local)}
                if received:
                    break
                with _output(logs / f"rank{number}.txt" if number else None) as output:
                    group = children[0].pid if children else 0
                    kept: dict[str, Any] = {"pass_fds": () if lock is None else (lock,), "process_group": group}
                    children.append(subprocess.Popen(command, env=own, stdout=output, stderr=output, **kept))
            failed = _wait(children, Path(folder))
        codes = {child.returncode for child in children}
        if signal.SIGINT in received and codes != {0}:
            sys.exit(130)
        # A worker killed before it installed its signal handler had nothing to save.
        if signal.SIGTERM in received and codes != {0} and codes <= {0, PREEMPTED, -signal.SIGTERM, -signal.SIGKILL}:
            sys.exit(PREEMPTED)
        if failed:
            raise _failure(children, failed, Path(folder), logs, node * processes, processes * nodes)
    if PREEMPTED in codes:
        sys.exit(PREEMPTED)
    return node == 0


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[IO[str] | None]:
    """An open file for the output of a worker, or None to inherit this process's output."""
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        yield file


def _failure(
    children: list[subprocess.Popen], failed: list[int], folder: Path, logs: Path, first: int, processes: int
) -> UserError:
    """The cause of a failed run. The other workers often fail only because their connection to the first was closed.

    Args:
        failed: indices of the children that failed first.
        first: rank of children[0] among all `processes`.
    """
    local = next((local for local in failed if children[local].returncode < 0), failed[0])
    number, code = first + local, children[local].returncode
    messages = sorted(folder.glob(error_file(folder, "*").name), key=lambda path: path.stat().st_mtime_ns)
    if messages and code > 0:
        texts = [path.read_text() for path in messages]
        return UserError(min(texts, key=lambda reason: reason.startswith("internal error")))
    end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    where = f"; see {logs / f'rank{number}.txt'}" if number else ""
    return UserError(f"process {number} of {processes} of the run {end}{where}")


def _wait(children: list[subprocess.Popen], folder: Path) -> list[int]:
    """Waits for all children; after a failure, only as long as GRACE or GRACE_BEFORE_TRAINING allows.

    Returns:
        Indices of the children that failed first; empty if all succeeded. The others may fail only as a consequence.
    """
    failed, deadline = [], None
    while True:
        codes = [child.poll() for child in children]
        failed = failed or [local for local, code in enumerate(codes) if code not in (None, 0, PREEMPTED)]
        if None not in codes:
            return failed
        if deadline is None and any(codes):
            begun = not failed or any(folder.glob(f"{TRAINING_FILE}*"))
            deadline = time.monotonic() + (GRACE if begun else GRACE_BEFORE_TRAINING)
            if not begun:
                for child in children:
                    child.terminate()
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                child.kill()
        time.sleep(0.05)


@contextlib.contextmanager
def _forwarding_signals(children: list[subprocess.Popen]) -> Iterator[set[int]]:
    """Context manager: forwards SIGTERM and SIGINT to the children, and kills any that are left on exit.

    Yields the set of signals received so far.
    """
    received: set[int] = set()

    def pass_on(number: int, frame: Any) -> None:
        received.add(number)
        for child in children:
            child.send_signal(number)

    try:
        before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # only the main thread can install signal handlers
        before = {}
    try:
        yield received
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _meeting_point(nodes: int) -> tuple[str, int]:
    """MASTER_ADDR and MASTER_PORT of the run: localhost with a free port, or the first of several machines."""
    if nodes == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", free.getsockname()[1]
    if "SLURM_JOB_ID" in os.environ and "MASTER_ADDR" not in os.environ:
        from lightning_fabric.plugins.environments import SLURMEnvironment

        address = SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_JOB_NODELIST"])
        return address, 20_000 + int(os.environ["SLURM_JOB_ID"]) % 20_000
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except KeyError as error:
        raise UserError(
            f"trainer.num_nodes={nodes}: start the command on each machine with NODE_RANK (0, 1, ...), MASTER_ADDR and "
            "MASTER_PORT (of the first machine) in the environment, or under SLURM with one task a machine"
        ) from error


def begin_training() -> None:
    """Marks in the shared folder that this worker has started training."""
    if is_worker():
        with contextlib.suppress(OSError):  # the parent process was killed and the folder removed
            Path(os.environ[WORKER_FOLDER], f"{TRAINING_FILE}{ranks.rank()}").touch()


def error_file(folder: Path, number: int | str) -> Path:
    """File in which a worker writes its error message so that the parent process can raise it."""
    return folder / f"error{number}.txt"
