"""Callbacks of our own; the Trainer's stand in `conf/callbacks` beside them."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from rich.console import Console

from micro_lit.errors import UserError
from micro_lit.host import preemption
from micro_lit.ranges import Count, NonNegative
from micro_lit.run import workers


class StepLine(pl.Callback):
    """One line every few steps: how far, the loss since the last line, pairs a second, and the time that is left.

    lines: about how many lines a whole training prints. seconds: the longest silence between two of them.
    """

    def __init__(self, lines: Count = 20, seconds: NonNegative = 10.0) -> None:
        self.lines, self.seconds = lines, seconds
        self.console = Console()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.total = max(1, int(trainer.estimated_stepping_batches))
        self.interval = max(1, self.total // self.lines)
        # The first line comes soon: whoever waits wants to know that it runs, and how fast.
        self.started = time.perf_counter()
        self.last_time = self.started - self.seconds + 2.0
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
        now = time.perf_counter()
        due = step % self.interval == 0 or step == self.total or now - self.last_time > self.seconds
        if step == self.last_step or not due or not trainer.is_global_zero:
            return
        left = (now - self.started) / (step - self.first_step) * (self.total - step)
        filled = round(20 * step / self.total)
        self.console.print(
            f"step {step:>{len(str(self.total))}}/{self.total} {'━' * filled}{'╌' * (20 - filled)}"
            f"  loss {float(self.loss) / self.batches:.4f}"
            f"  {self.pairs / (now - max(self.last_time, self.started)):>9,.0f} pairs/s"
            f"  {int(left) // 60}:{int(left) % 60:02d} left",
            highlight=False,
            soft_wrap=True,
        )
        self.last_time, self.last_step, self.pairs, self.loss, self.batches = now, step, 0, 0.0, 0


class Begun(pl.Callback):
    """Notes that this process trains; until then, the failure of another process of the run ends it at once."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        workers.begin_training()


class Preemption(Checkpoint):
    """A SIGTERM in training, as a scheduler sends it before it takes a machine away, saves a checkpoint and ends it.

    All devices stop after the same step, once its gradients are spent. Whoever resumes from that checkpoint ends, to
    the bit, where the whole run would have. Outside of training nothing is left to be saved. The exit status
    (`preemption.PREEMPTED`) asks to be started again.

    dirpath: folder of the checkpoint.
    """

    # A checkpoint callback, so that it comes after those that note which weights are best.
    monitor = None

    def __init__(self, dirpath: str) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.told = False

    # Lightning's own handlers, which these replace, start a collective operation wherever they find the process.

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._on_sigterm(self._hear)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._on_sigterm(preemption.stop)

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._on_sigterm(preemption.stop)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        # Where validation follows, or the epoch ends, a checkpoint would not say whether that was done.
        loop, every = trainer.fit_loop.epoch_loop, trainer.val_check_batch
        done = 1 + (loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_index)
        follows = trainer.is_last_batch or (every is not None and done % every == 0)
        if not follows and (batch_index + 1) % trainer.accumulate_grad_batches == 0:
            self._stop_if_told(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._stop_if_told(trainer)

    def _hear(self, number: int, frame: Any) -> None:
        self.told = True

    def _on_sigterm(self, handler: Callable[[int, Any], None]) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

    def _stop_if_told(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.told, all=False):
            if not trainer.fast_dev_run:
                trainer.save_checkpoint(self.path)
            sys.exit(preemption.PREEMPTED)


class EnoughBatches(pl.Callback):
    """Ends a run before its first step where its limits leave nothing to validate or to test on."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        batches = len(trainer.datamodule.test_dataloader())
        if not _left(batches, trainer.limit_test_batches):
            raise UserError(f"trainer.limit_test_batches={trainer.limit_test_batches} leaves none of {batches} batches")
        watched = [each for each in trainer.callbacks if getattr(each, "monitor", None)]
        if not watched:
            return
        batches = len(trainer.datamodule.val_dataloader())
        without = f"; callbacks watch {watched[0].monitor}, take them out where nothing is validated (~callbacks)"
        if not _left(batches, trainer.limit_val_batches):
            raise UserError(
                f"trainer.limit_val_batches={trainer.limit_val_batches} leaves none of {batches} batches{without}"
            )
        every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
        if every is not None and epochs is not None and 0 < epochs < every:
            raise UserError(
                f"trainer.check_val_every_n_epoch={every} is more than trainer.max_epochs={epochs}: nothing would be "
                f"validated{without}"
            )


def _left(batches: int, limit: int | float) -> int:
    """How many batches a limit of the Trainer leaves: a number of them, or a share."""
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
