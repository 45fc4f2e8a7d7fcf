"""Checkpoints: written atomically, verified when they are read."""

import contextlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor
from torch.nn import Module

from micro_lit.config.redaction import redact
from micro_lit.config.renamed import check_renamed
from micro_lit.errors import UserError
from micro_lit.host.files import write_text, write_whole

# Format version of checkpoints; files without the key `format` are version 1.
FORMAT = 1

BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"

# File in a run folder that names the checkpoint written last, whatever its name.
POINTER = "checkpoints.json"


class CheckpointFiles(TorchCheckpointIO):
    """Lightning plug-in that writes checkpoints atomically and verifies them when they are read.

    Args:
        folder: run folder. Paths inside a checkpoint that is read are changed to this folder if the run has moved.

    Attributes:
        step: training step of the checkpoint written last.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.step: int | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            known = {"format": FORMAT, "folder": os.path.realpath(self.folder)}
            write_whole(path, lambda partial: _save({**checkpoint, **known}, partial))
            if "optimizer_states" in checkpoint:  # others hold only weights and cannot be resumed from
                point_at(self.folder, path)
                self.step = checkpoint["global_step"]
        except (OSError, RuntimeError) as error:
            if isinstance(error.__context__, KeyboardInterrupt | SystemExit):  # torch's writer hides it
                raise error.__context__ from None
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            kept = "the previous one is kept" if path.is_file() else "there is none yet"
            raise UserError(f"{path}: the checkpoint cannot be written ({reason}); {kept}") from error

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        found = read_checkpoint(Path(path))
        if "callbacks" in found:
            found["callbacks"] = _moved(found["callbacks"], _home(found), os.path.realpath(self.folder))
        return found


def _home(checkpoint: dict[str, Any]) -> str | None:
    """Absolute path of the run folder in which a checkpoint was written; None if unknown."""
    written = (state["dirpath"] for state in checkpoint.get("callbacks", {}).values() if "dirpath" in state)
    return checkpoint.get("folder") or next((os.path.dirname(folder) for folder in written), None)


def _moved(node: Any, old: str | None, new: str) -> Any:
    """States of callbacks, with paths below the run folder `old` changed to the folder `new`."""
    if isinstance(node, dict):
        return {_moved(key, old, new): _moved(value, old, new) for key, value in node.items()}
    if old is not None and isinstance(node, str) and (node == old or node.startswith(f"{old}/")):
        return new + node.removeprefix(old)
    return node


def named_in(checkpoint: dict[str, Any], home: Path) -> list[Path]:
    """Existing files that a checkpoint names as best or last. home: current path of its run folder."""
    states = _moved(checkpoint.get("callbacks", {}), _home(checkpoint), str(home)).values()
    named = [state.get(key) for state in states for key in ("best_model_path", "last_model_path")]
    named += [path for state in states for path in state.get("best_k_models", {})]
    return [path for path in dict.fromkeys(map(Path, filter(None, named))) if path.is_file()]


def point_at(folder: Path, path: Path) -> None:
    """Records a checkpoint of a run folder as its last one, for `last`. Raises `OSError`."""
    write_text(folder / POINTER, json.dumps({"last": os.path.relpath(path, folder)}) + "\n")


def last(folder: Path) -> Path | None:
    """The checkpoint that a run wrote last, whatever its name; None if there is none."""
    pointed = folder / LAST  # for runs of versions without the pointer file
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        pointed = folder / json.loads((folder / POINTER).read_text())["last"]
    return pointed if pointed.is_file() else None


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint and verifies the CRC-32 of each record.

    Raises:
        UserError: the file is damaged, not a checkpoint of this library, or of an unknown format version.
    """
    try:
        with zipfile.ZipFile(path) as records:
            damaged = records.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        found = torch.load(path, map_location="cpu", weights_only=True)
        found["state_dict"]
    except Exception as error:  # a foreign file can raise anything
        raise UserError(f"{path}: not a checkpoint of this library, or damaged ({error!r:.80})") from error
    if found.get("format", 1) != FORMAT:
        raise UserError(
            f"{path}: of format {found['format']}, this version of micro_lit reads format {FORMAT}; use the version "
            "that wrote it, or train again"
        )
    return found


def shareable(folder: Path) -> Path | None:
    """The tested checkpoint of a run; None, with a printed reason, if its settings contain secrets."""
    path = tested(folder)
    if path is not None:
        settings = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("settings")
        if redact(settings) != settings:
            print(f"W&B: {path} is not sent: it was written before secrets were left out of its settings", flush=True)
            return None
    return path


def read_weights(path: Path, model: Module) -> dict[str, Tensor]:
    """The weights in a checkpoint. Raises `UserError` unless names and shapes equal those that the model saves."""
    found = read_checkpoint(path)["state_dict"]
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items() if model.saves(name)}
    for name in sorted(shapes.keys() | found.keys()):
        theirs = tuple(found[name].shape) if name in found else None
        if shapes.get(name) != theirs:
            raise UserError(f"{path}: made for another model; {name} has shape {theirs} there, {shapes.get(name)} here")
    return found


def check_resumable(path: Path, model: Module) -> None:
    """Raises `UserError` unless training of this model can resume from the checkpoint."""
    checkpoint = read_checkpoint(path)
    if "optimizer_states" not in checkpoint:
        raise UserError(f"{path}: holds only weights (save_weights_only=true), so training cannot resume from it")
    try:
        check_renamed(checkpoint.get("settings") or {})
    except UserError as error:
        raise UserError(f"{path}: of an earlier version, so training cannot resume from it ({error})") from error
    read_weights(path, model)


def load(path: Path, model: Module) -> None:
    """Loads the weights of a checkpoint into a model; weights that checkpoints omit keep their initial values."""
    model.load_state_dict(read_weights(path, model), strict=False)


def tested(folder: Path) -> Path | None:
    """The checkpoint that results.json refers to, else the best so far, else the last; None if there is none."""
    names: list[str] = [BEST, LAST]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        names.insert(0, json.loads((folder / "results.json").read_text())["checkpoint"])
    return next((folder / name for name in filter(None, names) if (folder / name).is_file()), last(folder))
