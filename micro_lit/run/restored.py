"""Finished runs, as their folders describe them: settings that are checked like those of a command, and the model.

A folder may come from anybody. What its settings name is checked before anything of it is imported, against what the
command allows: `packages` and `trust_remote_code` of the folder itself do not count.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch.nn import Module

from micro_lit.config import Settings, build, command_with, validate
from micro_lit.config.redaction import HIDDEN
from micro_lit.config.renamed import as_now
from micro_lit.config.targets import ALLOWED_TARGETS, is_public, objects
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError
from micro_lit.models import MixtureBT
from micro_lit.run import checkpoints
from micro_lit.run.run_folder import COSTS

TOKENIZER = "tokenizer.json"

# What objects are built of.
BUILT = ("data", "backbone", "model")

# Settings that change no judgment of a trained model.
TRAINING = (*COSTS, "backbone.trust_remote_code", "backbone.lora.dropout", "model.optimizer", "model.terms")

REMOTE = "trust_remote_code"


class Trust(NamedTuple):
    """What a command allows the settings in a folder to run.

    packages: whose classes they may name beside ours. remote_code: whether a backbone may run the code that comes with
    its weights. setting: with which setting the command would allow that.
    """

    packages: Sequence[str] = ()
    remote_code: bool = False
    setting: str = REMOTE

    @classmethod
    def of(cls, settings: Settings) -> "Trust":
        """That of a command with these settings: a training run's backbone says it, other commands at the top."""
        backbone = settings.get("backbone")
        place, setting = (settings, REMOTE) if backbone is None else (backbone, f"backbone.{REMOTE}")
        return cls(tuple(settings.get("packages") or ()), place.get(REMOTE) is True, setting)


# Nothing but this library and its dependencies.
ALONE = Trust()


def read_settings(folder: Path, trust: Trust = ALONE) -> Settings:
    """What a run was set to. Raises `UserError` when the folder is none of a run, or names what is not allowed."""
    none = f"{folder}: not the folder of a run; its config.yaml"
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(_in_one_line(f"{none} cannot be read ({error})")) from error
    wanted: dict[str, Any] = {"seed": int, "stage1": str | None, "loader": Mapping} | dict.fromkeys(BUILT, Mapping)
    for name, kind in wanted.items():
        if not isinstance(settings, Mapping) or not isinstance(settings.get(name, ...), kind):
            raise UserError(f"{none} has no {name}, or one of another kind")
    if not (settings["stage1"] or "").isprintable() or not isinstance(settings["loader"].get("eval_batch_size"), int):
        raise UserError(f"{none} has no loader.eval_batch_size, or no path as stage1")
    try:
        settings = as_now(settings)
        built = {name: settings[name] for name in BUILT}
        _check_trust(built, trust)
        validate({"seed": settings["seed"], "loader": settings["loader"], **built, "packages": list(trust.packages)})
    except (UserError, RecursionError) as error:  # YAML may hold a node that contains itself
        raise UserError(_in_one_line(f"{folder}: config.yaml: {error}")) from error
    return settings


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _check_trust(built: Mapping[str, Any], trust: Trust) -> None:
    """Raises `UserError`, with the command to type, for what the user has not named."""
    allowed = (*ALLOWED_TARGETS, *(f"{package}." for package in trust.packages))
    for key, node in objects(built):
        target = node["_target_"]
        if is_public(target) and not target.startswith(allowed):
            packages = ",".join([*trust.packages, target.split(".")[0]])
            raise UserError(
                f"{key}._target_={target} is code that this command does not name; if you trust it: "
                f"{command_with(f'packages=[{packages}]')}"
            )
    for key, value in _named(built, REMOTE):
        if value not in (False, None) and not trust.remote_code:
            raise UserError(
                f"{key}={value} runs code that comes with the weights, and this command does not say so; if you trust "
                f"them: {command_with(f'{trust.setting}=true')}"
            )


def _named(node: Any, name: str, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of some name in a tree, with its dotted key."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for each, child in children:
        here = f"{key}.{each}" if key else str(each)
        if each == name:
            yield here, child
        yield from _named(child, name, here)


def make_model(
    settings: Settings, data: PreferenceData, backbone: Module, stage1: MixtureBT | None, **known: Any
) -> MixtureBT:
    """The model that settings describe, untrained; a router weighs the heads of `stage1`."""
    known |= {"backbone": backbone, "names": data.names, "references": data.references, "bayes": data.bayes}
    if stage1 is not None:
        known["stage1"] = stage1
    return build(settings["model"], **known)


def restore(
    folder: Path, data: PreferenceData, features_dir: Path, trust: Trust = ALONE, routers: tuple[Path, ...] = ()
) -> MixtureBT:
    """The model of a finished run as it was tested, frozen, ready to judge the pairs of `data`.

    trust: what the settings in the folder may run. routers: folders of which this one is stage 1.

    Raises `UserError` when the folder holds no such model, or one of other weights or judgments than its settings say.
    """
    if folder.resolve() in routers:
        raise UserError(
            f"stage1={folder}: a run cannot be stage 1 of itself; name the run whose heads are to be weighed"
        )
    settings = read_settings(folder, trust)
    path = checkpoints.tested(folder)
    if path is None:
        raise UserError(f"{folder}: no checkpoint; wait until the run has written one, or train again")
    checkpoint = checkpoints.read(path)
    _check_same(folder, settings, checkpoint.get("settings"))
    if settings["stage1"] is None:
        stage1, source = None, settings["backbone"]
        if (folder / TOKENIZER).is_file():
            source = {**source, "tokenizer": str(folder / TOKENIZER)}
        backbone = build(source).prepare(data, features_dir)
    else:
        stage1 = restore(Path(settings["stage1"]), data, features_dir, trust, (*routers, folder.resolve()))
        backbone = stage1.backbone
    # What a gate that reads criteria or users counts: only such a gate has it in its checkpoint.
    subjects = {"subjects": checkpoint["subjects"]} if "subjects" in checkpoint else {}
    model = make_model(settings, data, backbone, stage1, sources=checkpoint.get("sources"), **subjects)
    checkpoints.load(path, model)
    return model.requires_grad_(False).eval()


def _check_same(folder: Path, settings: Settings, trained: Any) -> None:
    """Raises `UserError` when a checkpoint was trained with settings that judge otherwise than those in config.yaml.

    Checkpoints may hold no settings, or no settings in clear.
    """
    trained = as_now(trained) if isinstance(trained, Mapping) else trained
    for name in ("backbone", "model"):
        for key, here, there in _differences(settings[name], _child(trained, name), name):
            if not f"{key}.".startswith(tuple(f"{each}." for each in TRAINING)):
                difference = f"config.yaml says {key}={here}, the checkpoint was trained with {there}"
                raise UserError(
                    _in_one_line(f"{folder}: {difference}; put back the config.yaml of this checkpoint, or train again")
                )


def _child(node: Any, name: Any) -> Any:
    return node.get(name, HIDDEN) if isinstance(node, Mapping) else HIDDEN


def _differences(here: Any, there: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Every setting that both show in clear and differently. One that the checkpoint's version did not have is none."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        for name in [*there, *(name for name in here if name not in there)]:
            yield from _differences(here.get(name, "nothing"), _child(there, name), f"{key}.{name}")
    elif here != there and not any(isinstance(each, str) and HIDDEN in each for each in (here, there)):
        yield key, here, there
