"""Restores finished runs from their folders: reads and checks the settings, then builds the model.

Run folders are untrusted input. Their settings are checked before anything they name is imported. Only the current
command grants permissions; `packages` and `trust_remote_code` in the folder are ignored.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch.nn import Module

from micro_lit.config import Settings, build, command_with, validate
from micro_lit.config.redaction import HIDDEN
from micro_lit.config.renamed import as_now
from micro_lit.config.targets import ALLOWED_TARGETS, is_public, objects
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError
from micro_lit.features.backbones import NO_PAIRS, Backbone, CachedBackbone, TrainableBackbone
from micro_lit.features.live import LiveFeatures
from micro_lit.features.tokens import TextTokenizer
from micro_lit.host import devices
from micro_lit.models import MixtureBT
from micro_lit.run import checkpoints, codes
from micro_lit.run.run_folder import COSTS

TOKENIZER = "tokenizer.json"

# Settings that are built into objects.
BUILT = ("data", "backbone", "model")

# Settings that do not change the predictions of a trained model.
TRAINING_SETTINGS = (*COSTS, "backbone.trust_remote_code", "backbone.lora.dropout", "model.optimizer", "model.terms")

REMOTE = "trust_remote_code"


class Trust(NamedTuple):
    """What the settings in a run folder may execute; the current command decides.

    Args:
        packages: packages beside micro_lit whose classes the settings may name.
        remote_code: whether a backbone may run code that comes with its weights.
        setting: dotted key of the setting that allows remote code, for error messages.
    """

    packages: Sequence[str] = ()
    remote_code: bool = False
    setting: str = REMOTE

    @classmethod
    def of(cls, settings: Settings) -> "Trust":
        """The permissions that a command grants: in `backbone` for training runs, at the top level otherwise."""
        backbone = settings.get("backbone")
        place, setting = (settings, REMOTE) if backbone is None else (backbone, f"backbone.{REMOTE}")
        return cls(tuple(settings.get("packages") or ()), place.get(REMOTE) is True, setting)


# Allows only this library and its dependencies.
NO_TRUST = Trust()


def read_settings(folder: Path, trust: Trust = NO_TRUST) -> Settings:
    """Reads and checks the settings of a run. Raises `UserError` for other folders and for code not allowed."""
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
    """Raises `UserError`, with the command to type, for code that the user has not allowed."""
    allowed = (*ALLOWED_TARGETS, *(f"{package}." for package in trust.packages))
    for key, node in objects(built):
        target = node["_target_"]
        if is_public(target) and not target.startswith(allowed):
            packages = ",".join([*trust.packages, target.split(".")[0]])
            raise UserError(
                f"{key}._target_={target} is code that this command does not allow; if you trust it: "
                f"{command_with(f'packages=[{packages}]')}"
            )
    for key, value in _settings_named(built, REMOTE):
        if value not in (False, None) and not trust.remote_code:
            raise UserError(
                f"{key}={value} runs code that comes with the weights, which this command does not allow; if you trust "
                f"them: {command_with(f'{trust.setting}=true')}"
            )


def _settings_named(node: Any, name: str, key: str = "") -> Iterator[tuple[str, Any]]:
    """All settings of a given name in a tree, each with its dotted key."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for each, child in children:
        here = f"{key}.{each}" if key else str(each)
        if each == name:
            yield here, child
        yield from _settings_named(child, name, here)


def make_model(
    settings: Settings, data: PreferenceData, backbone: Module, stage1: MixtureBT | None, **known: Any
) -> MixtureBT:
    """Builds the untrained model of these settings; a router weights the heads of `stage1`."""
    known |= {"backbone": backbone, "names": data.names, "references": data.references, "bayes": data.bayes}
    if stage1 is not None:
        known["stage1"] = stage1
    return build(settings["model"], **known)


def restore(
    folder: Path, data: PreferenceData, features_dir: Path, trust: Trust = NO_TRUST, routers: tuple[Path, ...] = ()
) -> MixtureBT:
    """Restores the tested model of a finished run, frozen and in evaluation mode, to score the pairs of `data`.

    Args:
        trust: what the settings in the folder may execute.
        routers: folders of the routers above this stage 1, to detect a cycle.

    Raises:
        UserError: the folder holds no model, or its checkpoint does not fit its settings.
    """
    return _restore(folder, data, lambda source: build(source).prepare(data, features_dir), trust, routers)


def restore_for_texts(folder: Path, trust: Trust = NO_TRUST) -> MixtureBT:
    """Restores the tested model of a finished run without data, to score texts that are given later.

    Its backbone looks features up in `features_MD`, which the caller sets; `backbone.live` computes them.

    Args:
        folder: folder of the run.
        trust: the code that settings in the folder may run.

    Raises:
        UserError: as for `restore`; and if the run was trained on vectors.
    """
    opened: list[tuple[Backbone, TextTokenizer]] = []

    def prepare(source: Mapping[str, Any]) -> Backbone:
        opened.append(build(source).open())
        return opened[0][0]

    model = _restore(folder, None, prepare, trust, ())
    backbone, tokenizer = opened[0]
    if isinstance(backbone, TrainableBackbone):
        backbone.transformer.to(devices.device())
        own = CachedBackbone(torch.empty(0, backbone.width), False, NO_PAIRS)
        own.live = LiveFeatures(tokenizer, backbone.transformer, token_budget=backbone.token_budget)
        model.backbone = own
    return model.eval()


def _restore(
    folder: Path,
    data: PreferenceData | None,
    prepare: Callable[[Mapping[str, Any]], Module],
    trust: Trust,
    routers: tuple[Path, ...],
) -> MixtureBT:
    if folder.resolve() in routers:
        raise UserError(
            f"stage1={folder}: a run cannot be stage 1 of itself; name the run whose heads the router shall weight"
        )
    settings = read_settings(folder, trust)
    path = checkpoints.tested(folder)
    if path is None:
        raise UserError(f"{folder}: no checkpoint; wait until the run has written one, or train again")
    checkpoint = checkpoints.read_checkpoint(path)
    _check_same(folder, settings, checkpoint.get("settings"))
    if settings["stage1"] is None:
        stage1, source = None, settings["backbone"]
        if (folder / TOKENIZER).is_file():
            source = {**source, "tokenizer": str(folder / TOKENIZER)}
        backbone = prepare(source)
    else:
        stage1 = _restore(Path(settings["stage1"]), data, prepare, trust, (*routers, folder.resolve()))
        backbone = stage1.backbone
    # Only gates that read criteria or users store their subjects in the checkpoint.
    subjects = {"subjects": checkpoint["subjects"]} if "subjects" in checkpoint else {}
    data = _no_data(folder, checkpoint) if data is None else data
    model = make_model(settings, data, backbone, stage1, sources=checkpoint.get("sources"), **subjects)
    checkpoints.load(path, model)
    return model.requires_grad_(False).eval()


def _no_data(folder: Path, checkpoint: Mapping[str, Any]) -> PreferenceData:
    """Data without rows, with the names of attributes and users that the model of a run has numbers for."""
    pooled = checkpoint["state_dict"].get("pooled_losses_AK", ())  # checkpoints of earlier versions have no names
    names = {
        "attribute": checkpoint.get("attributes", [f"attribute {number}" for number in range(len(pooled))]),
        "user_id": list(codes.read_users(folder)),
    }
    return PreferenceData([], NO_PAIRS, names, {}, {}, torch.empty(0, dtype=torch.int64))


def _check_same(folder: Path, settings: Settings, trained: Any) -> None:
    """Raises `UserError` if the checkpoint was trained with other backbone or model settings than config.yaml holds.

    Settings that are missing or redacted in the checkpoint are not compared.
    """
    trained = as_now(trained) if isinstance(trained, Mapping) else trained
    for name in ("backbone", "model"):
        for key, here, there in _setting_differences(settings[name], _child(trained, name), name):
            if not f"{key}.".startswith(tuple(f"{each}." for each in TRAINING_SETTINGS)):
                difference = f"config.yaml says {key}={here}, the checkpoint was trained with {there}"
                raise UserError(
                    _in_one_line(f"{folder}: {difference}; put back the config.yaml of this checkpoint, or train again")
                )


def _child(node: Any, name: Any) -> Any:
    return node.get(name, HIDDEN) if isinstance(node, Mapping) else HIDDEN


def _setting_differences(here: Any, there: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Settings that are readable on both sides and differ; keys that the checkpoint's version lacked do not count."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        for name in [*there, *(name for name in here if name not in there)]:
            yield from _setting_differences(here.get(name, "nothing"), _child(there, name), f"{key}.{name}")
    elif here != there and not any(isinstance(each, str) and HIDDEN in each for each in (here, there)):
        yield key, here, there
