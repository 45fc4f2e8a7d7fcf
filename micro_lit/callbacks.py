"""Callbacks of our own; the Trainer's stand in `conf/callbacks` beside them."""

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console


class StepLine(pl.Callback):
    """One line every few steps: how far, the loss since the last line, pairs a second, and the time that is left.

    lines: about how many lines a whole training prints.
    """

    def __init__(self, lines: int = 20) -> None:
        self.lines = lines
        self.console = Console()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.total = max(1, int(trainer.estimated_stepping_batches))
        self.interval = max(1, self.total // self.lines)
        self.started = self.last_time = time.perf_counter()
        self.first_step = self.last_step = trainer.global_step
        self.pairs, self.loss = 0, 0.0
        self.batches = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        self.pairs += len(batch) * trainer.world_size
        # Lightning has divided the loss by the number of batches whose gradients it adds up.
        self.loss = self.loss + outputs["loss"].detach() * trainer.accumulate_grad_batches
        self.batches += 1
        step = trainer.global_step
        if step == self.last_step or (step % self.interval and step != self.total) or not trainer.is_global_zero:
            return
        now = time.perf_counter()
        left = (now - self.started) / (step - self.first_step) * (self.total - step)
        filled = round(20 * step / self.total)
        self.console.print(
            f"step {step:>{len(str(self.total))}}/{self.total} {'━' * filled}{'╌' * (20 - filled)}"
            f"  loss {float(self.loss) / self.batches:.4f}"
            f"  {self.pairs / (now - self.last_time):>9,.0f} pairs/s"
            f"  {int(left) // 60}:{int(left) % 60:02d} left",
            highlight=False,
            soft_wrap=True,
        )
        self.last_time, self.last_step, self.pairs, self.loss, self.batches = now, step, 0, 0.0, 0
