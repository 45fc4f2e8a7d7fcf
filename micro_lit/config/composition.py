"""Composes a config from Hydra's tree and overrides into plain, validated settings."""

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
    """The settings with which `python -m micro_lit.<config_name> <overrides>` would run.

    Inside another command, its folders of YAML files are searched too, unless `overrides` set hydra.searchpath.

    Args:
        config_name: name of the command's YAML file, without suffix.
        overrides: overrides in Hydra's grammar.

    Raises:
        UserError: invalid settings.

    Example:

        >>> settings = compose("train", ["+experiment=mixture_k8", "seed=7", "paths.run_dir=runs/mine"])
        >>> settings["model"]["num_heads"], settings["seed"]
        (8, 7)
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
    """Folders of YAML files of the running command, from `--config-dir` and `hydra.searchpath`."""
    if not HydraConfig.initialized():
        return []
    return [
        f"{source.schema}://{source.path}"
        for source in HydraConfig.get().runtime.config_sources
        if source.provider == "command-line" or source.provider.startswith("hydra.searchpath")
    ]


def to_settings(config: DictConfig, config_name: str) -> Settings:
    """Resolves a config to plain containers and validates it. Raises `UserError` with the dotted key."""
    if gone := [key for key in _keys(config_name) if key not in list(config)]:  # keys without a value are in the list
        raise UserError(
            f"{', '.join(gone)}: cannot be removed (~{gone[0]}); choose another option of the group instead"
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
    """Replaces nodes that are one of `NOTHING` by null.

    YAML files contain such a node where no function or object is set, so that the command line can set its `_target_`
    without a plus. `_partial_` is explicit, so that a `_target_` that a user has set to null is still refused.
    """
    if isinstance(node, list):
        return [_without_nothing(child) for child in node]
    if not isinstance(node, dict):
        return node
    if node in NOTHING:
        return None
    return {name: _without_nothing(child) for name, child in node.items()}


def _keys(config_name: str) -> list[str]:
    """The required keys of a command's config: those of its file and of its groups, except loggers and callbacks."""
    file = yaml.safe_load((config_dir() / f"{config_name}.yaml").read_text(encoding="utf-8"))
    groups = [name for each in file["defaults"] if isinstance(each, dict) for name in each]
    places = [name.split("@")[-1].split(".")[0] for name in groups if not name.startswith("override ")]
    return [key for key in dict.fromkeys([*file, *places]) if key not in ("defaults", "hydra", "logger", "callbacks")]


def in_sweep() -> bool:
    """Whether this process runs a job of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def command_with(*settings: str, without: Sequence[str] = ()) -> str:
    """The running command as a user would type it, with some settings replaced.

    In a job of a sweep, it is the command of that job alone.

    Args:
        settings: overrides that replace those with the same key.
        without: keys of overrides to leave out.
    """
    if not HydraConfig.initialized():  # called from Python, or in a worker process
        return f"the same command with {shlex.join(settings)}"
    node = HydraConfig.get()
    typed = node.overrides.task if in_sweep() else sys.argv[1:]
    replaced = {*without, *(each.partition("=")[0] for each in settings)}
    kept = [each for each in typed if each.lstrip("+").partition("=")[0] not in replaced]
    return shlex.join(["python", "-m", f"micro_lit.{node.job.config_name}", *kept, *settings])


def text_setting(key: str, value: str | Path) -> str:
    """`key=value` in Hydra's grammar, quoted if the value contains special characters."""
    plain = re.fullmatch(r"[\w./:@%+-]+", text := str(value))
    return f"{key}={text}" if plain else "{}='{}'".format(key, text.replace("\\", "\\\\").replace("'", "\\'"))


def quoted(text: str) -> str:
    """Quotes any text as a value of an override."""
    # Hydra interprets backslashes only before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"


def _resumed_dir(checkpoint: str | None, new: str, *, _root_: DictConfig) -> str:
    """The folder that a run writes to: the one given, that of the run it resumes, or a new one."""
    if _root_._get_node("paths")._get_node("run_dir")._value() != "${run_dir:}":
        return _root_.paths.run_dir
    return new if checkpoint in (None, "last") else str(run_folder_of(Path(checkpoint)))


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder of a checkpoint, as an absolute path: the nearest parent folder with a config.yaml."""
    path = checkpoint.absolute()
    return next((above for above in path.parents if (above / "config.yaml").is_file()), path.parent.parent)


def _unique(pattern: str) -> str:
    """A unique name: time and random letters, so that commands started in the same second differ."""
    return f"{time.strftime(pattern)}-{secrets.token_hex(3)}"


def _run_dir() -> str:
    if HydraConfig.initialized():
        return HydraConfig.get().runtime.output_dir
    raise UserError("paths.run_dir: only a command makes a run folder by itself; set paths.run_dir")


def _sweep_name() -> str | None:
    return Path(HydraConfig.get().sweep.dir).name if in_sweep() else None


def _job_folder(overrides: str) -> str:
    """The folder name of a sweep's job, from its overrides."""
    name = redact(overrides).replace("/", "-").replace("+", "")
    if HIDDEN in name:  # a digest keeps jobs apart that differ only in a secret
        name = f"{name.replace(HIDDEN, 'hidden')}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"
    # Shortened to the length that file systems allow; the digest keeps long names apart.
    return name if len(name.encode()) <= 200 else f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _if_planted(value: int, *, _root_: DictConfig) -> int | None:
    """The value for data of a planted population; null for other data, whose default depends on their size."""
    return None if OmegaConf.select(_root_, "data.population") is None else value


OmegaConf.register_new_resolver("if_planted", _if_planted, replace=True)
OmegaConf.register_new_resolver("job_folder", _job_folder, replace=True)
OmegaConf.register_new_resolver("unique", _unique, replace=True, use_cache=True)
OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)
OmegaConf.register_new_resolver("resumed_dir", _resumed_dir, replace=True)
OmegaConf.register_new_resolver("sweep_name", _sweep_name, replace=True)
