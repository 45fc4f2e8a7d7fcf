"""Composing a config: Hydra's tree and overrides in, plain and validated settings out."""

import hashlib
import re
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from micro_lit.config.folders import config_dir
from micro_lit.config.hydra_nodes import Refused
from micro_lit.config.redaction import HIDDEN, redact
from micro_lit.config.renamed import with_public_targets
from micro_lit.config.rules import Settings, validate
from micro_lit.errors import UserError


def compose(config_name: str, overrides: list[str]) -> Settings:
    """The settings that `python -m micro_lit.<config_name> <overrides>` would run with.

    Inside another command the folders in which that one finds YAML files count too, unless overrides name their own.
    """
    folders = _folders_of_the_command()
    if folders and not any(each.startswith("hydra.searchpath=") for each in overrides):
        overrides = [*overrides, f"hydra.searchpath=[{','.join(map(quoted, folders))}]"]
    around = GlobalHydra.instance()
    command, around.hydra = around.hydra, None
    try:
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            return to_settings(hydra.compose(config_name, overrides), config_name)
    except Refused as refused:
        raise UserError(str(refused).removeprefix("error: ")) from None
    finally:
        around.hydra = command


def _folders_of_the_command() -> list[str]:
    """Where the command that runs finds YAML files beside ours: `--config-dir` and `hydra.searchpath`."""
    if not HydraConfig.initialized():
        return []
    return [
        f"{source.schema}://{source.path}"
        for source in HydraConfig.get().runtime.config_sources
        if source.provider == "command-line" or source.provider.startswith("hydra.searchpath")
    ]


def to_settings(config: DictConfig, config_name: str) -> Settings:
    """Resolves a config to plain containers and validates it. Raises `UserError` naming the dotted key."""
    if gone := [key for key in _keys(config_name) if key not in list(config)]:  # one without a value is there
        raise UserError(
            f"{', '.join(gone)}: may not be taken out (~{gone[0]}); choose another option of the group instead"
        )
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise UserError(f"{', '.join(missing)}: no value given; set it on the command line or in your YAML")
        settings = _without_nothing(OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    settings = with_public_targets(settings)
    validate(settings)
    return settings


NOTHING = ({"_target_": None, "_partial_": True}, {"_target_": None, "_partial_": False})


def _without_nothing(node: Any) -> Any:
    """Replaces each node that is one of `NOTHING` by null.

    A YAML file holds such a node where no function or object is set, so that a command line sets its `_target_`
    without a plus. `_partial_` is said, so that a `_target_` that somebody has set to null is refused.
    """
    if isinstance(node, list):
        return [_without_nothing(child) for child in node]
    if not isinstance(node, dict):
        return node
    if node in NOTHING:
        return None
    return {name: _without_nothing(child) for name, child in node.items()}


def _keys(config_name: str) -> list[str]:
    """The keys that every config of a command has: those of its file and of its groups, but for loggers, callbacks."""
    file = yaml.safe_load((config_dir() / f"{config_name}.yaml").read_text(encoding="utf-8"))
    groups = [name for each in file["defaults"] if isinstance(each, dict) for name in each]
    places = [name.split("@")[-1].split(".")[0] for name in groups if not name.startswith("override ")]
    return [key for key in dict.fromkeys([*file, *places]) if key not in ("defaults", "hydra", "logger", "callbacks")]


def in_sweep() -> bool:
    """Whether this process runs a job of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def command_with(*settings: str, without: Sequence[str] = ()) -> str:
    """The command that runs now as somebody would type it, with these settings in the place of those of their keys.

    That of a job of a sweep is the job alone. without: keys of settings that are left out.
    """
    if not HydraConfig.initialized():  # called from Python, or in a process that a command has started
        return f"the same command with {shlex.join(settings)}"
    node = HydraConfig.get()
    typed = node.overrides.task if in_sweep() else sys.argv[1:]
    replaced = {*without, *(each.partition("=")[0] for each in settings)}
    kept = [each for each in typed if each.lstrip("+").partition("=")[0] not in replaced]
    return shlex.join(["python", "-m", f"micro_lit.{node.job.config_name}", *kept, *settings])


def text_setting(key: str, value: str | Path) -> str:
    """`key=value` as Hydra reads it back: quoted where the text holds what has a meaning there."""
    plain = re.fullmatch(r"[\w./:@%+-]+", text := str(value))
    return f"{key}={text}" if plain else "{}='{}'".format(key, text.replace("\\", "\\\\").replace("'", "\\'"))


def quoted(text: str) -> str:
    """A value that an override takes as it is, whatever its characters."""
    # Hydra reads backslashes as they are, but before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"


def _resumed_dir(checkpoint: str | None, new: str, *, _root_: DictConfig) -> str:
    """Where a run writes: a folder that was named, that of the run it resumes, or a new one."""
    if _root_._get_node("paths")._get_node("run_dir")._value() != "${run_dir:}":
        return _root_.paths.run_dir
    return new if checkpoint in (None, "last") else str(run_folder_of(Path(checkpoint)))


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in, as an absolute path: the nearest folder above with a config.yaml."""
    path = checkpoint.absolute()
    return next((above for above in path.parents if (above / "config.yaml").is_file()), path.parent.parent)


def _unique(pattern: str) -> str:
    """Time and some random letters: a name that no other command has, started in the same second or not."""
    return f"{time.strftime(pattern)}-{secrets.token_hex(3)}"


def _run_dir() -> str:
    if HydraConfig.initialized():
        return HydraConfig.get().runtime.output_dir
    raise UserError("paths.run_dir: only a command makes a run folder by itself; set paths.run_dir")


def _sweep_name() -> str | None:
    return Path(HydraConfig.get().sweep.dir).name if in_sweep() else None


def _job_folder(overrides: str) -> str:
    """What sets a job apart, as the name of its folder inside a sweep."""
    name = redact(overrides).replace("/", "-").replace("+", "")
    if HIDDEN in name:  # jobs that differ in a secret alone stay apart
        name = f"{name.replace(HIDDEN, 'hidden')}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"
    # The length that file systems allow; two long names stay two.
    return name if len(name.encode()) <= 200 else f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _if_planted(value: int, *, _root_: DictConfig) -> int | None:
    """A value for data of a planted population; null for other data, whose size says more."""
    return None if OmegaConf.select(_root_, "data.population") is None else value


OmegaConf.register_new_resolver("if_planted", _if_planted, replace=True)
OmegaConf.register_new_resolver("job_folder", _job_folder, replace=True)
OmegaConf.register_new_resolver("unique", _unique, replace=True, use_cache=True)
OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)
OmegaConf.register_new_resolver("resumed_dir", _resumed_dir, replace=True)
OmegaConf.register_new_resolver("sweep_name", _sweep_name, replace=True)
