"""The processes of one run: one for each device, started together, on one machine or on several.

Whoever asks for `trainer.devices=4` gets four processes that run the same settings, and the command itself only waits
for them. It does so inside a sweep too: each job is a group of processes of its own that know nothing of the sweep.
Processes that torchrun has started already, one for each device, are taken as they are.
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

# Seconds that the other processes of a run have to end once one has failed, or once the run was told to stop; and how
# many where one has failed before the first step: they may wait for it where no signal reaches them.
GRACE, GRACE_BEFORE_TRAINING = 30.0, 3.0

# Set for every process that `start` has started, so that it starts none itself: the folder of what they leave for it.
OURS = "MICRO_LIT_RANK"

# In that folder, one of each process that trains.
TRAINING = "training"


def ours() -> bool:
    """Whether `start` has started this process."""
    return OURS in os.environ


def needed(settings: Settings) -> int:
    """How many processes this command has to start for a run on this machine; 0 when the run goes on in this process.

    Raises `UserError` when the processes that there are do not fit the devices that are asked for.
    """
    trainer = settings["trainer"]
    devices, nodes = _count(trainer), trainer["num_nodes"]
    if ours():
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
    """Devices of one machine that a Trainer uses. Raises `UserError` for GPUs by number where it trains on the CPU."""
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
        devices = [each for each in devices.split(",") if each.strip()]  # "0," is device 0 alone
    if isinstance(devices, list):
        return len(devices)
    import torch

    return max(1, torch.cuda.device_count())


def _node(settings: Settings) -> int:
    """Which of the machines of a run this is, from 0."""
    if settings["trainer"]["num_nodes"] == 1:
        return 0
    return int(next((os.environ[name] for name in ("NODE_RANK", "SLURM_NODEID") if name in os.environ), 0))


def leads(settings: Settings) -> bool:
    """Whether this process, or the first that it starts, writes to the run folder."""
    return ranks.rank() == 0 and _node(settings) == 0


def start(settings: Settings, processes: int, brief: bool = False, lock: int | None = None) -> bool:
    """Runs `micro_lit.train` with these settings in a group of processes of its own, and waits for its end.

    Whether the first process of the run, which writes its results, was one of them.

    lock: descriptor of the lock on the run folder, which the processes hold for as long as they live.

    The first process of the run writes to this terminal, each other to logs/rank<number>.txt in the run folder. What
    stops this process stops them. Raises `SystemExit` with `PREEMPTED` when they were told to stop, and `UserError`
    when one fails; the others are stopped then.
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
        children: list[subprocess.Popen] = []
        with _stopping_them(children) as heard:
            for local in range(processes):
                number = node * processes + local
                own = environment | {OURS: folder, "RANK": str(number), "LOCAL_RANK": str(local)}
                command = [
                    sys.executable,
                    "-m",
                    "micro_lit.run.worker",
                    str(path),
                    str(os.getpid()),
                    *["brief"] * brief,
                ]
                group = children[0].pid if children else 0
                if heard:
                    break
                with _output(logs / f"rank{number}.txt" if number else None) as output:
                    streams: dict[str, Any] = {
                        "stdout": output,
                        "stderr": output,
                        "pass_fds": () if lock is None else (lock,),
                    }
                    children.append(subprocess.Popen(command, env=own, process_group=group, **streams))
            failed = _wait(children, Path(folder))
        codes = {child.returncode for child in children}
        if signal.SIGINT in heard and codes != {0}:
            sys.exit(130)
        # One that had not begun to listen was ended by the signal itself, and had nothing to save.
        if signal.SIGTERM in heard and codes != {0} and codes <= {0, PREEMPTED, -signal.SIGTERM, -signal.SIGKILL}:
            sys.exit(PREEMPTED)
        if failed:
            raise _failure(children, failed, Path(folder), logs, node * processes, processes * nodes)
    if PREEMPTED in codes:
        sys.exit(PREEMPTED)
    return node == 0


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[IO[str] | None]:
    """A file to write to, or None, which is where this process writes."""
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        yield file


def _failure(
    children: list[subprocess.Popen], failed: list[int], folder: Path, logs: Path, first: int, processes: int
) -> UserError:
    """Why a run failed. Only one process may know: the others fail because it did, with a connection that is closed.

    Args:
        failed: which of the children were seen to fail first. first: number of the first child among all `processes`.
    """
    local = next((local for local in failed if children[local].returncode < 0), failed[0])
    number, code = first + local, children[local].returncode
    words = sorted(folder.glob(word_of(folder, "*").name), key=lambda word: word.stat().st_mtime_ns)
    if words and code > 0:
        said = [word.read_text() for word in words]
        return UserError(min(said, key=lambda reason: reason.startswith("internal error")))
    end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    where = f"; see {logs / f'rank{number}.txt'}" if number else ""
    return UserError(f"process {number} of {processes} of the run {end}{where}")


def _wait(children: list[subprocess.Popen], folder: Path) -> list[int]:
    """Waits for the end of all; once one has ended badly, for as long as others may need to end as well.

    Returns:
        Which of them were the first to fail, none where all went well: the others may fail only because they did.
    """
    failed, deadline = [], None
    while True:
        codes = [child.poll() for child in children]
        failed = failed or [local for local, code in enumerate(codes) if code not in (None, 0, PREEMPTED)]
        if None not in codes:
            return failed
        if deadline is None and any(codes):
            begun = not failed or any(folder.glob(f"{TRAINING}*"))
            deadline = time.monotonic() + (GRACE if begun else GRACE_BEFORE_TRAINING)
            if not begun:
                for child in children:
                    child.terminate()
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                child.kill()
        time.sleep(0.05)


@contextlib.contextmanager
def _stopping_them(children: list[subprocess.Popen]) -> Iterator[set[int]]:
    """While inside, what would stop this process is passed on to the children; leaving it, none is left running.

    Gives the signals that were heard so far.
    """
    heard: set[int] = set()

    def pass_on(number: int, frame: Any) -> None:
        heard.add(number)
        for child in children:
            child.send_signal(number)

    try:
        before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # only the main thread hears signals
        before = {}
    try:
        yield heard
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _meeting_point(nodes: int) -> tuple[str, int]:
    """Address and port at which the processes find each other: of this machine alone, or of the first of several."""
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
    """Notes for the parent process that the processes of the run have met, and train."""
    if ours():
        with contextlib.suppress(OSError):  # the parent process was killed
            Path(os.environ[OURS], f"{TRAINING}{ranks.rank()}").touch()


def word_of(folder: Path, number: int | str) -> Path:
    """Where a process leaves what a user did wrong, for the one that waits to say."""
    return folder / f"error{number}.txt"
