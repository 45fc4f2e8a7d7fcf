"""A user's own package, as the tests name it in `packages`."""

import pytorch_lightning as pl


class StopAfter(pl.Callback):
    """Ends training in the middle, as a kill between two epochs would, without shortening the schedule."""

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 1
