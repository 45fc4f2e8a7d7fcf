"""The folder of a run: locked by one command at a time; results of earlier commands are never lost silently.

What a command does depends on what it finds in `paths.run_dir`:

| found there | without ckpt_path | with ckpt_path |
|---|---|---|
| nothing | trains | trains, from that checkpoint if one is given |
| a finished run with equal settings and data | nothing: "finished before" | the same |
| a finished run of another training length | refuses | resumes: a warm restart |
| an unfinished run | refuses | resumes |
| other settings or data | refuses | refuses and lists the differences |

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

# Files and folders of a run that overwrite=true removes. Others stay, such as wandb/ with runs not yet uploaded.
MADE = (
    CONFIG, INPUTS, results.FILE_NAME, "results.*.json", "metrics.csv", "metrics.*.csv", "metrics.jsonl",
    "metrics.*.jsonl", "tensorboard", "tokenizer.json", "codes.safetensors", "checkpoints", "checkpoints.*", "*.ckpt",
)  # fmt: skip

# Settings of the training length. If one of them is increased, a finished run can be continued.
LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")

# Settings of a backbone that change its cost but not its features.
COSTS = tuple(
    f"backbone.{name}" for name in ("token_budget", "resident_gb", "gradient_checkpointing", "attn_implementation")
)

# Settings that a resumed run may change: they take effect at once and do not affect the weights trained so far.
CHANGEABLE = (
    *COSTS, "loader.eval_batch_size", "trainer.accelerator", "trainer.detect_anomaly", "trainer.enable_model_summary",
    "trainer.enable_progress_bar", "trainer.limit_test_batches", "trainer.log_every_n_steps",
    "trainer.num_sanity_val_steps", "trainer.profiler",
)  # fmt: skip

# Callbacks whose state, settings included, is restored from the checkpoint; other callbacks may be changed.
STATEFUL = ("callbacks.best", "callbacks.last", "callbacks.early_stopping")

# Endings of the files in a data folder whose content is compared.
DATA_ENDINGS = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".gz", ".zst", ".arrow")

# Seconds to wait for the workers of a killed command to exit.
PATIENCE = 30.0


class Plan(NamedTuple):
    """What a command will do in its run folder.

    Args:
        settings: settings with `ckpt_path` resolved to the checkpoint to resume from, or None.
        finished: results of a finished run; then nothing is left to do.
    """

    settings: Settings
    finished: dict[str, Any] | None = None


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Context manager that locks a run folder for this command. Yields the file descriptor of the lock.

    Workers inherit the descriptor and so hold the lock too. After the parent process is killed, the lock is free once
    its last worker has exited; the next command waits for that. It does not wait for a command that is still running.

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
                f"paths.run_dir={folder}: another run is writing there; wait until it ends, or give another folder"
            )
        if deadline is None:
            print(f"waiting for the workers of a killed run to exit; they still write to {folder}/", flush=True)
            deadline = time.monotonic() + PATIENCE
        if time.monotonic() > deadline:
            raise UserError(f"paths.run_dir={folder}: the workers of a killed run still write there; let them end")
        time.sleep(0.1)


def _is_running(holder: str) -> bool:
    """Whether the command that holds the lock is alive; False for another host, where it may have been killed."""
    host, _, number = holder.partition(" ")
    if host != socket.gethostname() or not number.isdecimal():
        return not holder  # an empty file: the holder has just taken the lock
    return Path(f"/proc/{number}").exists() if Path("/proc/self").exists() else True


def plan(settings: Settings) -> Plan:
    """Decides what a command does in its run folder; call it inside `alone_in`.

    Returns:
        The plan, see the table at the top of this module.

    Raises:
        UserError: existing results would be lost, or the settings do not fit the checkpoint to resume from.
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
        return Plan(settings, results.read_results(folder))
    from micro_lit.run import checkpoints  # a slow import

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
    """Makes the same decision as `plan` in the other processes of a run started by torchrun or on several machines.

    It refuses nothing, since the first process may have started already; an error there ends all processes.
    """
    from micro_lit.run import checkpoints

    folder, asked = Path(settings["paths"]["run_dir"]), settings["ckpt_path"]
    if settings["overwrite"]:
        return Plan({**settings, "ckpt_path": None})
    if (folder / results.FILE_NAME).is_file() and not differences(folder, settings, data=not settings["skip_finished"]):
        return Plan(settings, results.read_results(folder))
    path = checkpoints.last(folder) if asked == "last" else asked
    return Plan({**settings, "ckpt_path": None if path is None else str(path)})


def _check_resumable(path: Path, different: Mapping[str, tuple[Any, Any]], ways_out: str) -> None:
    """Prints that a run is resumed, and any warm restart. Raises `UserError` for settings that cannot take effect."""
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
    """Copies a checkpoint of another run, and the best checkpoints it names, into the folder of a new run."""
    from micro_lit.run import checkpoints

    found, home = checkpoints.read_checkpoint(path), run_folder_of(path)
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
    """The path in the run folder for a copied checkpoint."""
    absolute = path.absolute()
    return absolute.relative_to(home) if absolute.is_relative_to(home) else Path("checkpoints", path.name)


def differences(folder: Path, settings: Settings, data: bool = True) -> dict[str, tuple[Any, Any]]:
    """Compares the settings and data of the run in a folder with these settings.

    Settings that do not affect results are ignored. Data files are compared by content, not by path.

    Args:
        folder: an existing run folder.
        settings: settings of the current command.
        data: whether to read the data files; otherwise their paths are compared.

    Returns:
        dotted key -> (value there, value here), for each difference.

    Raises:
        UserError: the folder holds a run that cannot be read.
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
    """The heads of a finished run if a user set another number than the data suggest, and these settings are null."""
    if settings["model"].get("num_heads", 0) is not None or not (folder / results.FILE_NAME).is_file():
        return {}
    from micro_lit.models.mixture import heads_for  # a slow import

    found = results.read_results(folder)
    train = found["data"]["train"]
    by_size = {heads_for(train), heads_for(train + found["data"].get("same_tokens", 0))}
    return {} if found["num_heads"] in by_size else {"model.num_heads": (found["num_heads"], None)}


def _differences(
    before: Settings, inputs_before: Mapping[str, str], settings: Settings, inputs: Mapping[str, str]
) -> dict[str, tuple[Any, Any]]:
    then, now = map(_result_settings, redact((before, settings)))
    for key in inputs_before.keys() & inputs.keys():
        then[key], now[key] = inputs_before[key], inputs[key]
    if now.get("model.num_heads", 0) is None:  # null accepts the number chosen there
        now["model.num_heads"] = then.get("model.num_heads")
    keys = dict.fromkeys([*now, *then])
    return {key: (then.get(key), now.get(key)) for key in keys if then.get(key) != now.get(key)}


def _result_settings(settings: Settings) -> dict[str, Any]:
    """Settings that affect results, by dotted key; paths below the run folder are made relative to it."""
    own = str((settings.get("paths") or {}).get("run_dir"))
    return {
        key: f"<run_dir>{value.removeprefix(own)}" if isinstance(value, str) and value.startswith(f"{own}/") else value
        for key, value in flatten(with_public_targets(settings, warn=False)).items()
        if (key == "seed" or not is_incidental(key)) and value != {}
    }


def fingerprint(settings: Settings) -> str:
    """Eight hexadecimal digits of a SHA-256 of the result-relevant settings and data."""
    content = json.dumps([_result_settings(settings), digests(settings)], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def digests(settings: Settings) -> dict[str, str]:
    """Digests of the files and folders that the settings name as data, stage 1 or chat template, by dotted key.

    Hub data sets are not read: their `revision` identifies the content.
    """
    found, paths = {}, flatten({"data": settings["data"]})
    # A user's own reader may read files with any ending.
    data_endings = ("",) if any(key.endswith("reader._target_") for key in paths) else DATA_ENDINGS
    template = {"chat_template": (settings.get("backbone") or {}).get("chat_template")}
    for key, value in (paths | flatten({"stage1": settings["stage1"], "backbone": template})).items():
        if not isinstance(value, str) or key.split(".")[-1] not in ("train", "test", "stage1", "chat_template"):
            continue
        if key == "backbone.chat_template" and "{" in value:  # the template itself, not a path
            continue
        path = Path(value).expanduser()
        if path.exists():
            found[key] = _file_digest(path, ("results.json",) if key == "stage1" else data_endings)
    return found


def _file_digest(path: Path, endings: tuple[str, ...]) -> str:
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.name.endswith(endings))
    digest = hashlib.sha256()
    for each in files:
        if each.is_file():
            with each.open("rb") as file:
                content = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
            digest.update(f"{each.relative_to(path)} {content}\n".encode())
    return digest.hexdigest()[:32]


def begin(settings: Settings) -> None:
    """Prepares the folder for training: writes config.yaml and the data digests, moves or removes earlier files.

    With a checkpoint to resume from, earlier results are renamed to results.1.json and so on. Without one, all files
    of the earlier run are removed.
    """
    folder = Path(settings["paths"]["run_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    if settings["ckpt_path"] is None:
        for left in [path for pattern in MADE for path in folder.glob(pattern)]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    for name in (results.FILE_NAME, "metrics.csv", "metrics.jsonl"):  # loggers start new files
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
    """The commands to resume, to overwrite, or to use another folder, for error messages."""
    ways = {"to go on": "ckpt_path=last"} if going_on else {}
    ways |= {"to replace it": "overwrite=true", "to keep it": "paths.run_dir=<a new folder>"}
    ours, here = ("ckpt_path", "overwrite"), text_setting("paths.run_dir", folder)
    commands = {what: [way] if way.startswith("paths.") else [here, way] for what, way in ways.items()}
    return "; ".join(f"{what}: {command_with(*settings, without=ours)}" for what, settings in commands.items())


def write_typed(folder: Path) -> None:
    """Writes the command-line overrides and Hydra's own settings to `.hydra/`, as Hydra would."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is not None and hydra.job.config_name == "train":  # not a run inside another command
        (folder / ".hydra").mkdir(exist_ok=True)
        chosen = OmegaConf.to_container(OmegaConf.create({"hydra": hydra}), enum_to_str=True)
        write_text(folder / ".hydra" / "hydra.yaml", yaml.safe_dump(redact(chosen), sort_keys=False))
        write_text(folder / ".hydra" / "overrides.yaml", yaml.safe_dump(redact([*hydra.overrides.task])))
