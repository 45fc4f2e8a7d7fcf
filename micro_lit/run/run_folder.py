"""The folder of a run: one command at a time writes there, and nothing that an earlier one has made is lost.

What a command does depends on what it finds in `paths.run_dir`:

| found there | without ckpt_path | with ckpt_path |
|---|---|---|
| nothing | trains | trains, from that checkpoint if it names one |
| a finished run of equal settings and data | nothing: "finished before" | the same |
| that of another length of training | refuses | goes on: a warm restart |
| an unfinished run | refuses | goes on |
| other settings or data | refuses | refuses, and names them |

`overwrite=true` trains from the start whatever is there.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from micro_lit.config import Settings, command_with, run_folder_of, text_setting
from micro_lit.config.redaction import redact
from micro_lit.config.renamed import with_public_targets
from micro_lit.errors import UserError
from micro_lit.host.files import cut_torn_line, remove_partials, write_text, write_whole
from micro_lit.report import results
from micro_lit.report.results import flatten, is_incidental

CONFIG, INPUTS = "config.yaml", "inputs.json"

# Files and folders of a run, which overwrite=true removes. Others, such as wandb/ with what is not yet sent, stay.
MADE = (
    CONFIG, INPUTS, results.FILE_NAME, "results.*.json", "metrics.csv", "metrics.*.csv", "metrics.jsonl",
    "metrics.*.jsonl", "tensorboard", "tokenizer.json", "checkpoints", "checkpoints.*", "*.ckpt",
)  # fmt: skip

# Settings that say how long training takes: with another value a run goes on where it had ended.
LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")

# Settings of a backbone that say what it costs, and not what it makes of a text.
COSTS = tuple(
    f"backbone.{name}" for name in ("token_budget", "resident_gb", "gradient_checkpointing", "attn_implementation")
)

# Settings that a resumed run may change: they take effect at once, and the weights so far do not depend on them.
CHANGEABLE = (
    *COSTS, "loader.eval_batch_size", "trainer.accelerator", "trainer.detect_anomaly", "trainer.enable_model_summary",
    "trainer.enable_progress_bar", "trainer.limit_test_batches", "trainer.log_every_n_steps",
    "trainer.num_sanity_val_steps", "trainer.profiler",
)  # fmt: skip

# Callbacks whose state is in the checkpoint, and their settings with it; others act from now on.
STATEFUL = ("callbacks.best", "callbacks.last", "callbacks.early_stopping")

# Of data files whose content is compared; other endings in a folder are not read.
DATA_ENDINGS = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".gz", ".zst", ".arrow")

# Seconds that the processes of a command that was killed have to end.
PATIENCE = 30.0


class Plan(NamedTuple):
    """What a command does in its run folder.

    settings: with `ckpt_path` resolved to the checkpoint to go on from, or None. finished: the results that are there
    already; then there is nothing to do.
    """

    settings: Settings
    finished: dict[str, Any] | None = None


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """While inside, no other command writes to a run folder. Gives the descriptor of its lock.

    Processes that are given the descriptor hold the lock too: when their parent process is killed, it is free once
    the last of them has ended, and the next command waits for that. A command that is running is not waited for.

    Raises:
        UserError: another command is running there, or the folder cannot be written.
    """
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with _writable(folder):
            _lock(descriptor, folder)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}".encode(), 0)
            for inside in {left.parent for left in folder.rglob("*.partial")}:
                remove_partials(inside)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"paths.run_dir={folder}: cannot be written ({error.strerror})") from error


def _lock(descriptor: int, folder: Path) -> None:
    deadline = None
    while True:
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_running(os.pread(descriptor, 300, 0).decode(errors="replace")):
            raise UserError(
                f"paths.run_dir={folder}: a run is writing there at this moment; let it end, or give another folder"
            )
        if deadline is None:
            print(f"waiting for the processes of a killed run to leave {folder}/", flush=True)
            deadline = time.monotonic() + PATIENCE
        if time.monotonic() > deadline:
            raise UserError(f"paths.run_dir={folder}: the processes of a killed run still write there; let them end")
        time.sleep(0.1)


def _is_running(holder: str) -> bool:
    """Whether the command that took the lock is alive; one on another machine may have been killed there."""
    host, _, number = holder.partition(" ")
    if host != socket.gethostname() or not number.isdecimal():
        return not holder  # it has just taken the lock
    return Path(f"/proc/{number}").exists() if Path("/proc/self").exists() else True


def plan(settings: Settings) -> Plan:
    """Decides what a command does in its run folder; call it inside `alone_in`.

    Raises:
        UserError: what is there would be lost, or the settings do not fit the checkpoint to go on from.
    """
    folder, asked = Path(settings["paths"]["run_dir"]), settings["ckpt_path"]
    if asked not in (None, "last") and not Path(asked).is_file():
        raise UserError(f"ckpt_path={asked}: no such checkpoint")
    if settings["overwrite"]:
        if asked not in (None, "last"):
            raise UserError("overwrite=true trains from the start, and ckpt_path goes on: give one of the two")
        return Plan({**settings, "ckpt_path": None})
    if not any((folder / name).exists() for name in (CONFIG, results.FILE_NAME)):
        return Plan({**settings, "ckpt_path": None if asked in (None, "last") else _adopt(Path(asked), settings)})
    different = differences(folder, settings, data=not settings["skip_finished"])
    finished = (folder / results.FILE_NAME).is_file()
    if finished and not different:
        return Plan(settings, results.read(folder))
    from micro_lit.run import checkpoints  # it takes seconds to import

    path = None if asked is None else checkpoints.last(folder) if asked == "last" else Path(asked)
    if asked is None or (finished and path is None):
        fixed = [key for key, values in different.items() if not _may_change(key, values)]
        state = "a finished run" if finished else "an unfinished run"
        reason = f" with other settings ({_named(different)})" if different else ""
        going_on = not fixed and asked is None
        raise UserError(f"paths.run_dir={folder}: holds {state}{reason}; {_ways_out(folder, going_on)}")
    if path is not None:
        if run_folder_of(path) != folder.absolute():
            raise UserError(
                f"ckpt_path={path} lies in another run folder, and paths.run_dir={folder} holds a run already: give a "
                "new paths.run_dir"
            )
        _check_resumable(path, different, _ways_out(folder, going_on=False))
    return Plan({**settings, "ckpt_path": None if path is None else str(path)})


def follow(settings: Settings) -> Plan:
    """What `plan` decides, for the other processes of a run that torchrun or several machines have started.

    The first process may have begun by now, so that nothing is refused here: what it refuses ends all of them.
    """
    from micro_lit.run import checkpoints

    folder, asked = Path(settings["paths"]["run_dir"]), settings["ckpt_path"]
    if settings["overwrite"]:
        return Plan({**settings, "ckpt_path": None})
    if (folder / results.FILE_NAME).is_file() and not differences(folder, settings, data=not settings["skip_finished"]):
        return Plan(settings, results.read(folder))
    path = checkpoints.last(folder) if asked == "last" else asked
    return Plan({**settings, "ckpt_path": None if path is None else str(path)})


def _check_resumable(path: Path, different: Mapping[str, tuple[Any, Any]], ways_out: str) -> None:
    """Says what it means to go on from a checkpoint. Raises `UserError` for settings that could not take effect."""
    fixed = {key: values for key, values in different.items() if not _may_change(key, values)}
    if fixed:
        key, (then, now) = next(iter(fixed.items()))
        more = f" (nor can {', '.join(list(fixed)[1:4])})" if len(fixed) > 1 else ""
        raise UserError(
            f"{key}={now!r} cannot take effect on resuming: {path} was trained with {then!r}{more}. Leave it as it "
            f"was; or {ways_out}"
        )
    print(f"going on from {path}")
    if longer := [f"{key} was {then}, now {now}" for key, (then, now) in different.items() if key in LENGTH]:
        print(
            f"note: a warm restart ({'; '.join(longer)}). The learning rate had fallen to 0 by the end of the first "
            "length and now follows the schedule of the new one: up to the first length the weights are those of an "
            "uninterrupted run, beyond it they are not"
        )


def _may_change(key: str, values: tuple[Any, Any]) -> bool:
    if key in (*LENGTH, *CHANGEABLE):
        return True
    kind, name = key.split(".")[0], ".".join(key.split(".")[:2])
    if kind == "metrics":
        return True
    return kind == "callbacks" and (name not in STATEFUL or None in values)


def _adopt(path: Path, settings: Settings) -> str:
    """Copies a checkpoint of another run, and those that it names as best, into the folder of a new run."""
    from micro_lit.run import checkpoints

    found, home = checkpoints.read(path), run_folder_of(path)
    if found.get("settings"):
        different = _differences(found["settings"], {}, settings, {})
        _check_resumable(path, different, "train from the start, without ckpt_path")
    folder = Path(settings["paths"]["run_dir"])
    copies = {each: folder / _place(each, home) for each in [*checkpoints.named_in(found, home), path]}
    for source, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, functools.partial(shutil.copyfile, source))
    checkpoints.point_at(folder, copies[path])
    return str(copies[path])


def _place(path: Path, home: Path) -> Path:
    """Where in a run folder a checkpoint belongs."""
    absolute = path.absolute()
    return absolute.relative_to(home) if absolute.is_relative_to(home) else Path("checkpoints", path.name)


def differences(folder: Path, settings: Settings, data: bool = True) -> dict[str, tuple[Any, Any]]:
    """What sets a run in a folder apart from these settings: dotted key -> (value there, value here).

    Settings that change no result do not count. A data file counts by its content, wherever it lies.

    Args:
        data: whether to read the data files; otherwise their paths are compared.
    """
    try:
        before = yaml.safe_load((folder / CONFIG).read_text())
        inputs = json.loads((folder / INPUTS).read_text()) if (folder / INPUTS).is_file() else {}
        if not isinstance(before, dict) or not isinstance(inputs, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"paths.run_dir={folder}: holds a run that cannot be read ({reason:.200})") from error
    different = _differences(before, inputs, settings, digests(settings) if data and inputs else {})
    return different or _other_heads(folder, settings)


def _other_heads(folder: Path, settings: Settings) -> dict[str, tuple[Any, Any]]:
    """The number of heads of a finished run, where somebody set it and these settings leave it to the data."""
    if settings["model"].get("num_heads", 0) is not None or not (folder / results.FILE_NAME).is_file():
        return {}
    from micro_lit.models.mixture import heads_for  # it takes seconds to import

    found = results.read(folder)
    train = found["data"]["train"]
    by_size = {heads_for(train), heads_for(train + found["data"].get("same_tokens", 0))}
    return {} if found["num_heads"] in by_size else {"model.num_heads": (found["num_heads"], None)}


def _differences(
    before: Settings, inputs_before: Mapping[str, str], settings: Settings, inputs: Mapping[str, str]
) -> dict[str, tuple[Any, Any]]:
    then, now = map(_telling, redact((before, settings)))
    for key in inputs_before.keys() & inputs.keys():
        then[key], now[key] = inputs_before[key], inputs[key]
    if now.get("model.num_heads", 0) is None:  # asks for no number: that which was chosen there will do
        now["model.num_heads"] = then.get("model.num_heads")
    keys = dict.fromkeys([*now, *then])
    return {key: (then.get(key), now.get(key)) for key in keys if then.get(key) != now.get(key)}


def _telling(settings: Settings) -> dict[str, Any]:
    """The settings that results depend on, by dotted key; paths in the run folder without that folder."""
    own = str((settings.get("paths") or {}).get("run_dir"))
    return {
        key: f"<run_dir>{value.removeprefix(own)}" if isinstance(value, str) and value.startswith(f"{own}/") else value
        for key, value in flatten(with_public_targets(settings, warn=False)).items()
        if (key == "seed" or not is_incidental(key)) and value != {}
    }


def fingerprint(settings: Settings) -> str:
    """Eight letters that settings and data of another result do not share."""
    told = json.dumps([_telling(settings), digests(settings)], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def digests(settings: Settings) -> dict[str, str]:
    """Of every file or folder that settings name as data, stage 1 or chat template, by dotted key, its digest.

    Sets of a hub are not read: their `revision` names their content.
    """
    found, told = {}, flatten({"data": settings["data"]})
    # A reader of the user's own may read any file.
    data_endings = ("",) if any(key.endswith("reader._target_") for key in told) else DATA_ENDINGS
    template = {"chat_template": (settings.get("backbone") or {}).get("chat_template")}
    for key, value in (told | flatten({"stage1": settings["stage1"], "backbone": template})).items():
        if not isinstance(value, str) or key.split(".")[-1] not in ("train", "test", "stage1", "chat_template"):
            continue
        if key == "backbone.chat_template" and "{" in value:  # the text itself
            continue
        path = Path(value).expanduser()
        if path.exists():
            found[key] = _digest(path, ("results.json",) if key == "stage1" else data_endings)
    return found


def _digest(path: Path, endings: tuple[str, ...]) -> str:
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.name.endswith(endings))
    digest = hashlib.sha256()
    for each in files:
        if each.is_file():
            with each.open("rb") as file:
                content = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
            digest.update(f"{each.relative_to(path)} {content}\n".encode())
    return digest.hexdigest()[:32]


def begin(settings: Settings) -> None:
    """Makes the folder that of a run about to train: what it was set to, and what its data are.

    With a checkpoint to go on from, the results of before are set aside as results.1.json and so on; without one,
    everything that a run has left there is removed.
    """
    folder = Path(settings["paths"]["run_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    if settings["ckpt_path"] is None:
        for left in [path for pattern in MADE for path in folder.glob(pattern)]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    for name in (results.FILE_NAME, "metrics.csv", "metrics.jsonl"):  # loggers begin their files anew
        path = folder / name
        if path.exists():
            if path.suffix != ".json":
                cut_torn_line(path)
            earlier = len(list(folder.glob(f"{path.stem}*{path.suffix}")))
            path.rename(path.with_suffix(f".{earlier}{path.suffix}"))
    write_text(folder / INPUTS, json.dumps(digests(settings), indent=2) + "\n")
    write_text(folder / CONFIG, yaml.safe_dump(redact(settings), sort_keys=False))


def _named(different: Mapping[str, tuple[Any, Any]]) -> str:
    shown = [f"{key} {then!r} there, {now!r} here" for key, (then, now) in list(different.items())[:3]]
    return "; ".join(shown) + (f"; and {len(different) - 3} more" if len(different) > 3 else "")


def _ways_out(folder: Path, going_on: bool = True) -> str:
    """The commands that go on, repeat, or leave what is there."""
    ways = {"to go on": "ckpt_path=last"} if going_on else {}
    ways |= {"to replace it": "overwrite=true", "to keep it": "paths.run_dir=<a new folder>"}
    ours, here = ("ckpt_path", "overwrite"), text_setting("paths.run_dir", folder)
    commands = {what: [way] if way.startswith("paths.") else [here, way] for what, way in ways.items()}
    return "; ".join(f"{what}: {command_with(*settings, without=ours)}" for what, settings in commands.items())


def write_typed(folder: Path) -> None:
    """Writes what was typed on the command line, and which options it chose, as Hydra itself would in `.hydra/`."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is not None and hydra.job.config_name == "train":  # not a run inside another command
        (folder / ".hydra").mkdir(exist_ok=True)
        chosen = OmegaConf.to_container(OmegaConf.create({"hydra": hydra}), enum_to_str=True)
        write_text(folder / ".hydra" / "hydra.yaml", yaml.safe_dump(redact(chosen), sort_keys=False))
        write_text(folder / ".hydra" / "overrides.yaml", yaml.safe_dump(redact([*hydra.overrides.task])))
