"""A user's own package, as the tests name it in `packages`."""

import pytorch_lightning as pl


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
