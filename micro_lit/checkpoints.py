"""Checkpoints: what was trained, in files that are whole or refused."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor
from torch.nn import Module

from micro_lit.errors import UserError
from micro_lit.files import write_whole
from micro_lit.redaction import redact

# Of what a checkpoint holds; one without it is of the first.
FORMAT = 1

BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"


class CheckpointFiles(TorchCheckpointIO):
    """How the Trainer writes and reads checkpoints: each appears in one step, and is verified when it is opened."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda partial: _save({**checkpoint, "format": FORMAT}, partial))
        except (OSError, RuntimeError) as error:
            if isinstance(error.__context__, KeyboardInterrupt | SystemExit):  # which the writer has hidden
                raise error.__context__ from None
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            kept = "the one before is kept" if path.is_file() else "there is none yet"
            raise UserError(f"{path}: the checkpoint cannot be written ({reason}); {kept}") from error

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return read(Path(path))


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)


def read(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, every record of it checked against its CRC-32.

    Raises `UserError` when the file is damaged, none of this library, or of a format it does not know.
    """
    try:
        with zipfile.ZipFile(path) as records:
            damaged = records.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        found = torch.load(path, map_location="cpu", weights_only=True)
        found["state_dict"]
    except Exception as error:  # whatever a file that is no checkpoint makes of the readers
        raise UserError(f"{path}: not a checkpoint of this library, or damaged ({error!r:.80})") from error
    if found.get("format", 1) != FORMAT:
        raise UserError(
            f"{path}: of format {found['format']}, this version of micro_lit reads format {FORMAT}; use the version "
            "that wrote it, or train again"
        )
    return found


def is_redacted(path: Path) -> bool:
    """Whether the settings in a checkpoint are without secrets. Its weights are not read."""
    settings = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("settings")
    return redact(settings) == settings


def read_weights(path: Path, model: Module) -> dict[str, Tensor]:
    """The weights in a checkpoint. Raises `UserError` unless they are, name by name, those that this model saves."""
    found = read(path)["state_dict"]
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items() if model.saves(name)}
    for name in sorted(shapes.keys() | found.keys()):
        theirs = tuple(found[name].shape) if name in found else None
        if shapes.get(name) != theirs:
            raise UserError(f"{path}: made for another model; {name} has shape {theirs} there, {shapes.get(name)} here")
    return found


def load(path: Path, model: Module) -> None:
    """Gives a model the weights in a checkpoint; those that no checkpoint holds stay as they were built."""
    model.load_state_dict(read_weights(path, model), strict=False)


def tested(folder: Path) -> Path | None:
    """The checkpoint of a run that its results are of, if the run has written one."""
    return next((folder / name for name in (BEST, LAST) if (folder / name).is_file()), None)
