"""A user's own package, as the tests name it in `packages`."""

import json
import os
import signal
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.distributed.tensor import DTensor

from micro_lit.errors import UserError


class Killed(Exception):
    """Stands for the end of a process in the middle of its work."""


class KillAt(pl.Callback):
    """Ends the run before the batch of a given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch, batch_index: int) -> None:
        if trainer.global_step == self.step:
            raise Killed


class InterruptAt(KillAt):
    """The user's Ctrl-C before the batch of a given step."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch, batch_index: int) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


class FailOnce(KillAt):
    """Befalls a run before the batch of a given step, the first time that it comes there: an exception, or a signal.

    marker: a file that says that it has been there.
    """

    def __init__(self, step: int, marker: str, name: str | None = None) -> None:
        super().__init__(step)
        self.marker, self.signal = Path(marker), None if name is None else signal.Signals[name]

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch, batch_index: int) -> None:
        if trainer.global_step != self.step or self.marker.exists():
            return
        self.marker.touch()
        if self.signal is None:
            raise Killed("half way")
        os.kill(os.getpid(), self.signal)


class Keeps(pl.Callback):
    """Is given secrets, and says one of them in an error when it is to fail."""

    def __init__(self, api_key: str, address: str, fails: bool = False) -> None:
        assert api_key == "value-of-a-setting"  # as it was typed
        self.api_key, self.address, self.fails = api_key, address, fails

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.fails:
            raise Killed(f"no answer from {self.address}")


class RawGate(torch.nn.Linear):
    """A gate that forgets its softmax: logits, whose exponentials sum to anything."""

    needs_context = True

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads)


class Witness(pl.Callback):
    """Writes down what the process of a rank holds when training ends: the shapes of its weights, part and whole."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        found = {}
        for name, weight in module.named_parameters():
            part = weight.to_local() if isinstance(weight, DTensor) else weight
            found[name] = {"part": list(part.shape), "whole": list(weight.shape)}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(found))


class DieBeforeTraining(pl.Callback):
    """Ends the processes of some ranks before they meet the others.

    how: "status" exits at once, "error" is a mistake of the user, "sigkill" is what the kernel does out of memory.
    """

    def __init__(self, ranks: list[int], how: str) -> None:
        if int(os.environ["RANK"]) in ranks:
            if how == "status":
                os._exit(3)
            if how == "sigkill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise UserError(f"rank {os.environ['RANK']} cannot")
