"""Checks the parts of a config that Hydra itself executes, as soon as a config is composed.

Hydra instantiates `hydra.callbacks`, `hydra.launcher` and `hydra.sweeper`, passes `hydra.job_logging` and
`hydra.hydra_logging` to `logging.config.dictConfig`, imports `pkg://` search paths and sets environment variables.
All this happens before any function of this library runs. Every config, of a command and of each job of a sweep, also
in workers, comes from one method of Hydra, which is wrapped here. Importing a module runs its code, so names are
checked before anything is imported.

The checks apply to the YAML text before interpolation: the result of an interpolation may change, and Hydra
interpolates some results again.

`packages` of the composed config are allowed here as for all other objects, whether they come from the command line or
from a YAML file. Search YAML files of other people for the word `packages` before running them.
"""

import functools
import inspect
import logging
import logging.handlers
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from micro_lit.config.names import NAME_RULE, check_name, is_inside
from micro_lit.config.renamed import with_new_groups, with_public_targets
from micro_lit.config.targets import check_target, find, import_target, is_public, objects
from micro_lit.errors import UserError

BASES = {"callbacks": Callback, "launcher": Launcher, "sweeper": Sweeper}
ROOTS = ("hydra.experimental", "hydra_plugins", "micro_lit")
CORE = "hydra._internal.core_plugins."  # Hydra's own launchers, sweepers and sources

LOGGING = re.compile(r"(logging(\.handlers)?|colorlog(\.[a-z]\w*)*)\.[A-Za-z]\w*")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
LOG_FOLDERS = ("${hydra.runtime.output_dir}/", "${hydra.run.dir}/", "${hydra.sweep.dir}/")
LOG_NAME = "${hydra.job.name}"
DEBUG_LOG = f"hydra-{LOG_NAME}.log"  # file name in Hydra's own hydra_logging=hydra_debug

# Resolvers that always return text.
TEXT_RESOLVERS = ("now", "unique", "oc.env", "job_folder", "run_dir", "resumed_dir", "sweep_name", "python_version")
INTERPOLATION = re.compile(r"\$\{([^${}:]*)(:?)")


class Refused(SystemExit):
    """Exits with a one-line message; Hydra would print a traceback for any other exception."""


def install() -> None:
    """Wraps the method from which Hydra gets every config. Raises `ImportError` if Hydra no longer has it."""
    load = getattr(ConfigLoaderImpl, "load_configuration", None)
    if load is None or not {"config_name", "overrides"} <= inspect.signature(load).parameters.keys():
        raise ImportError("hydra-core has no ConfigLoaderImpl.load_configuration; this version of it is not supported")

    @functools.wraps(load)
    def checked(self: ConfigLoaderImpl, *arguments: Any, **named: Any) -> DictConfig:
        given = inspect.signature(load).bind(self, *arguments, **named).arguments
        given["overrides"] = with_new_groups(given["overrides"])
        try:
            _check_search_path(self, given["config_name"], given["overrides"])
            config = load(**given)
            _rename(config)
            check_config(config)
        except UserError as error:
            raise Refused(f"error: {error}") from None
        return config

    ConfigLoaderImpl.load_configuration = checked

    list_options = ConfigLoaderImpl.get_group_options

    @functools.wraps(list_options)
    def listed(self: ConfigLoaderImpl, group_name: str, *arguments: Any, **named: Any) -> list[str]:
        # Faster `--help`: it lists each group several times, and Hydra copies all loaded configs each time.
        if len(arguments) > 1 or named.keys() - {"results_filter"}:
            return list_options(self, group_name, *arguments, **named)
        return self.repository.get_group_options(group_name, *arguments, **named)

    ConfigLoaderImpl.get_group_options = listed


def _rename(config: DictConfig) -> None:
    """Replaces former names of moved classes by their current names."""
    with flag_override(config, ["struct", "readonly"], False):
        for key, node in objects(OmegaConf.to_container(config.hydra, resolve=False), "hydra"):
            new = with_public_targets({"_target_": node["_target_"]})["_target_"]
            if new != node["_target_"]:
                OmegaConf.update(config, f"{key}._target_", new)


def check_config(config: DictConfig) -> None:
    """Raises `UserError` for the first part of a composed config that could run code or write outside its folder."""
    tree = OmegaConf.to_container(config, resolve=False)
    hydra = tree.get("hydra")
    if not isinstance(hydra, Mapping):
        raise UserError("hydra is not a mapping of settings")
    packages = _packages(config)
    for kind, base in BASES.items():
        nodes = hydra.get(kind)
        nodes = nodes if kind == "callbacks" else {"": nodes}
        if not isinstance(nodes, Mapping):
            raise UserError(f"hydra.{kind}={nodes!r} is not allowed; give a mapping from names to objects")
        for name, node in nodes.items():
            _check_object(f"hydra.{kind}.{name}".rstrip("."), node, base, packages, tree)
    for kind in ("job_logging", "hydra_logging"):
        check_logging(f"hydra.{kind}", hydra.get(kind))
    _check_environment(hydra)
    _check_path_names(config, tree)


def _packages(config: DictConfig) -> list[str]:
    try:
        packages = OmegaConf.select(config, "packages")
    except OmegaConfBaseException:
        packages = None
    packages = OmegaConf.to_container(packages) if OmegaConf.is_list(packages) else []
    return [package for package in packages if is_public(package)]


def _check_object(key: str, node: Any, base: type, packages: Sequence[str], tree: Mapping[str, Any]) -> None:
    if node in (None, "???"):
        return
    if not isinstance(node, Mapping):
        raise UserError(f"{key}={node!r} is not allowed; write the object with its _target_ here")
    for inner_key, inner in objects(node, key):
        inner_key, target = f"{inner_key}._target_", inner["_target_"]
        if inner is not node:
            check_target(inner_key, target, [*packages, "hydra_plugins"])
            find(target)
            continue
        roots = tuple(f"{root}." for root in (*ROOTS, *packages))
        core = isinstance(target, str) and target.startswith(CORE) and is_public(target.removeprefix(CORE))
        if not core and not (is_public(target) and target.startswith(roots)):
            raise UserError(
                f"{inner_key}={target!r} is not allowed; give a {base.__name__} of {', '.join(ROOTS)}, or of a package "
                "that packages=[yours] names"
            )
        found = import_target(target)
        root = target.split(".")[0]
        if not (inspect.isclass(found) and issubclass(found, base) and f"{found.__module__}.".startswith(f"{root}.")):
            raise UserError(f"{inner_key}={target!r} is not allowed: it is no {base.__name__} of {root}")
    for inner_key, value in _text_settings(node, key):
        if not _stays_text(value, tree, ()):
            raise UserError(f"{inner_key}={value!r} is not allowed; give a literal value, or ${{key}} of one")


def _text_settings(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """All texts in a tree, each with its dotted key."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        if isinstance(child, str):
            yield f"{key}.{name}", child
        yield from _text_settings(child, f"{key}.{name}")


def _stays_text(text: str, tree: Mapping[str, Any], seen: tuple[str, ...]) -> bool:
    """Whether a text, interpolated once or twice, stays text or a number, and never becomes a node with a `_target_`.

    Allows only `${a.b.c}` of values that satisfy this themselves, and resolvers that return text.
    """
    if text.count("$") != text.count("${") or ("$" in text and "\\" in text):
        return False
    for reference, colon in INTERPOLATION.findall(text):
        if colon:
            if reference not in TEXT_RESOLVERS:
                return False
            continue
        if reference in seen or not re.fullmatch(r"\w+(\.\w+)*", reference):
            return False
        value: Any = tree
        for part in reference.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping | list) or not _stays_text(str(value), tree, (*seen, reference)):
            return False
    return True


def check_logging(key: str, node: Any) -> None:
    """Raises `UserError` for a part of a logging config that may run code or write outside the run folder."""
    if node in (None, "???"):
        return
    if not isinstance(node, Mapping | list):
        raise UserError(f"{key}={node!r} is not allowed; give a mapping, as logging.config.dictConfig takes it")
    for name, child in node.items() if isinstance(node, Mapping) else enumerate(node):
        here = f"{key}.{name}"
        if name in ("class", "()"):
            _check_logging_class(here, child)
        elif name in (".", "queue", "listener"):
            raise UserError(f"{here} is not allowed in a logging config")
        elif isinstance(child, Mapping | list):
            check_logging(here, child)
        elif name in ("filename", "baseFilename"):
            _check_log_file(here, child)
        elif isinstance(child, str) and ("${" in child or (re.match(r"[a-z]+://", child) and child not in STREAMS)):
            raise UserError(
                f"{here}={child!r} is not allowed; a logging config may name {' and '.join(STREAMS)}, and "
                "interpolates only a filename"
            )


def _check_logging_class(key: str, target: Any) -> None:
    if isinstance(target, str) and LOGGING.fullmatch(target):
        found = import_target(target)
        kinds = (logging.Handler, logging.Filter, logging.Formatter)
        # A QueueHandler imports and calls a queue and a listener given by dotted names.
        if (
            inspect.isclass(found)
            and issubclass(found, kinds)
            and not issubclass(found, logging.handlers.QueueHandler)
            and found.__module__.split(".")[0] in ("logging", "colorlog")
        ):
            return
    raise UserError(
        f"{key}={target!r} is not allowed; give a handler, filter or formatter class of logging or colorlog"
    )


def _check_log_file(key: str, name: Any) -> None:
    """Restricts log files to the run folder: their format controls the text written, so no other file may be named."""
    if name == DEBUG_LOG:
        return
    folder = next((each for each in LOG_FOLDERS if isinstance(name, str) and name.startswith(each)), None)
    rest = "" if folder is None else name.removeprefix(folder).replace(LOG_NAME, "job")
    if "$" in rest or not is_inside(rest):
        raise UserError(f"{key}={name!r} is not allowed; give {LOG_FOLDERS[0]}<name>, which may hold {LOG_NAME}")


def _check_environment(hydra: Mapping[str, Any]) -> None:
    """Allows only variables copied by `env_copy` from the command's environment: PYTHONPATH and others can run code."""
    job = hydra.get("job")
    wanted = job.get("env_set") if isinstance(job, Mapping) else None
    if not isinstance(wanted, Mapping):
        raise UserError("hydra.job.env_set is not a mapping")
    for name, value in wanted.items():
        if name not in job["env_copy"] or value != os.environ.get(name):
            raise UserError(
                f"hydra.job.env_set.{name} is not allowed; set {name} in the environment of the command, and for jobs "
                "elsewhere name it in hydra.job.env_copy"
            )


def _check_path_names(config: DictConfig, tree: Mapping[str, Any]) -> None:
    """Checks names that Hydra joins to folders, which it creates before our function runs."""
    if "name" in tree:
        check_name("name", _now(config, "name"))
    for key in ("hydra.job.name", "hydra.output_subdir", "hydra.sweep.subdir"):
        value = _now(config, key)
        # A single job without overrides uses the folder of its sweep.
        if value is not None and not is_inside(value, empty=key == "hydra.sweep.subdir"):
            raise UserError(f"{key}={value!r} is not allowed; give {NAME_RULE}")


def _now(config: DictConfig, key: str) -> Any:
    """The value of a key after Hydra's interpolation; before a job has a number, only its literal parts."""
    command = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = config
    try:
        return OmegaConf.select(config, key)
    except (OmegaConfBaseException, UserError):
        value: Any = OmegaConf.to_container(config, resolve=False)
        for part in key.split("."):
            value = value[part]
        while value != (literal := re.sub(r"\$\{[^${}]*\}", "value", value)):
            value = literal
        return value
    finally:
        HydraConfig.instance().cfg = command


def _check_search_path(loader: ConfigLoaderImpl, config_name: str | None, overrides: Sequence[str]) -> None:
    """Refuses modules as search paths before Hydra imports them, whoever names them; folders are allowed."""
    primary = None if config_name is None else _primary(loader, config_name)
    hydra = {} if primary is None else primary.get("hydra") or {}
    found = [hydra.get("searchpath") if isinstance(hydra, Mapping) else hydra]
    try:
        parsed = OverridesParser.create().parse_overrides([each for each in overrides if "searchpath" in each])
    except HydraException:
        return  # Hydra itself reports this error next
    found += [each.value() for each in parsed if each.key_or_group == "hydra.searchpath"]
    for path in (path for paths in found for path in (paths if isinstance(paths, list) else [paths])):
        scheme, _, place = str(path).rpartition("://")
        ours = re.split(r"[./]", place)[0] in ("hydra", "hydra_plugins", "micro_lit")
        if path is not None and scheme != "file" and ("${" in str(path) or (scheme and not ours)):
            raise UserError(f"hydra.searchpath={path} is not allowed, it may import a module; give file://<its folder>")


def _primary(loader: ConfigLoaderImpl, config_name: str) -> Mapping[str, Any] | None:
    """The primary YAML file of a command, before interpolation."""
    try:
        found = loader.repository.load_config(config_path=config_name)
    except Exception:  # an invalid file can raise anything; Hydra itself reports it next
        return None
    plain = None if found is None else OmegaConf.to_container(found.config, resolve=False)
    return plain if isinstance(plain, Mapping) else None
