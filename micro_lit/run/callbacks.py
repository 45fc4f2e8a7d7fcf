"""Lightning callbacks of this library. `conf/callbacks` lists them beside Lightning's own."""

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
    """Prints a progress line every few steps: step, mean loss since the last line, pairs per second, time left.

    Args:
        lines: approximate number of lines printed in the whole training.
        seconds: longest time between two lines.
    """

    def __init__(self, lines: Count = 20, seconds: NonNegative = 10.0) -> None:
        self.lines, self.seconds = lines, seconds
        self.console = Console()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.total = max(1, int(trainer.estimated_stepping_batches))
        self.interval = max(1, self.total // self.lines)
        # The first line is printed early, so that the user sees the speed.
        self.started = time.perf_counter()
        self.last_time = self.started - self.seconds + 2.0
        self.first_step = self.last_step = trainer.global_step
        self.pairs, self.loss = 0, 0.0
        self.batches = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        self.pairs += len(batch) * trainer.world_size
        # Lightning has divided the loss by accumulate_grad_batches.
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
    """Records that this process has started training; before that, a failed worker ends the run at once."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        workers.begin_training()


class Preemption(Checkpoint):
    """On SIGTERM during training, saves a checkpoint and exits with status `preemption.PREEMPTED`.

    Schedulers send SIGTERM before they take a machine away; the exit status asks them to start the run again. All
    devices stop after the same optimiser step. A run resumed from this checkpoint ends with bit-identical weights to
    an uninterrupted run. Outside of training there is nothing to save.

    Args:
        dirpath: folder of the checkpoint.
    """

    # Subclasses Checkpoint so that it runs after the callbacks that record the best weights.
    monitor = None

    def __init__(self, dirpath: str) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.signalled = False

    # These replace Lightning's own handlers, which start a collective operation at any point of the program.

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._on_sigterm(self._handle)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._on_sigterm(preemption.stop)

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._on_sigterm(preemption.stop)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        # No checkpoint before validation or at the end of an epoch: it would not record whether those were done.
        loop, every = trainer.fit_loop.epoch_loop, trainer.val_check_batch
        done = 1 + (loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_index)
        follows = trainer.is_last_batch or (every is not None and done % every == 0)
        if not follows and (batch_index + 1) % trainer.accumulate_grad_batches == 0:
            self._stop_if_signalled(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._stop_if_signalled(trainer)

    def _handle(self, number: int, frame: Any) -> None:
        self.signalled = True

    def _on_sigterm(self, handler: Callable[[int, Any], None]) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

    def _stop_if_signalled(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.signalled, all=False):
            if not trainer.fast_dev_run:
                trainer.save_checkpoint(self.path)
            sys.exit(preemption.PREEMPTED)


class EnoughBatches(pl.Callback):
    """Raises `UserError` before the first step if the Trainer's limits leave no validation or test batches."""

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
    """Number of batches that a limit of the Trainer leaves. limit: a number of batches or a fraction."""
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
