"""A run: everything settings describe, built in order, with the folder it writes to."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from torch.nn import Module

from micro_lit.config import Settings, build
from micro_lit.data.datamodule import PreferenceDataModule
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError


def quiet_libraries() -> None:
    """Silences remarks of libraries that a user of ours cannot act on."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # batches are slices of resident tensors: workers would only slow them
        ".*Experiment logs directory.*exists and is not empty.*",  # the run folder holds config.yaml already
        ".*Checkpoint directory.*exists and is not empty.*",  # so it is when a run is resumed
        ".*LeafSpec.* is deprecated.*",  # inside Lightning, of torch 2.13
        ".*number of training batches.*smaller than the logging interval.*",
    ):
        warnings.filterwarnings("ignore", message)


class Run:
    """Data, backbone, model and trainer of one run. As a context it closes loggers whatever happens."""

    def __init__(self, settings: Settings) -> None:
        self.started = time.perf_counter()
        self.settings = settings
        self.folder = Path(settings["paths"]["run_dir"])
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        pl.seed_everything(settings["seed"], verbose=False)
        self.data: PreferenceData = build(settings["data"]).load(settings["seed"])
        self._check_splits()
        features_dir = Path(settings["paths"]["features_dir"])
        self.backbone: Module = build(settings["backbone"]).prepare(self.data, features_dir)
        # Once more, so that heads start alike whatever the data and the backbone drew.
        pl.seed_everything(settings["seed"], verbose=False)
        self.model: pl.LightningModule = build(
            settings["model"], backbone=self.backbone, names=self.data.names, references=self.data.references
        )
        self.model.settings = settings
        self.datamodule = PreferenceDataModule(self.data, **settings["loader"], seed=settings["seed"])
        self.loggers = [build(node) for node in (settings["logger"] or {}).values()]
        self.trainer: pl.Trainer = build(
            settings["trainer"],
            logger=self.loggers,
            callbacks=[build(node) for node in settings["callbacks"].values()],
        )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: Any) -> None:
        for logger in self.loggers:
            logger.finalize("failed" if error[0] else "success")
            if isinstance(logger, pl.loggers.WandbLogger):
                logger.experiment.finish(exit_code=1 if error[0] else 0)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def fit(self) -> None:
        """Trains, from `ckpt_path` on if it is given."""
        for logger in self.loggers:
            if isinstance(logger, pl.loggers.WandbLogger):
                logger.log_hyperparams(self.settings)
        path = self.settings["ckpt_path"]
        if path is not None and not Path(path).is_file():
            raise UserError(f"ckpt_path={path}: no such checkpoint")
        try:
            self.trainer.fit(self.model, self.datamodule, ckpt_path=path, weights_only=True)
        except RuntimeError as error:
            if path is None or "loading state_dict" not in str(error):
                raise
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"ckpt_path={path}: made for another model ({reason})") from error

    def test(self) -> dict[str, Any]:
        """Tests the best checkpoint (the weights at hand when none was written) and returns the model's results."""
        paths = [callback.best_model_path for callback in self.trainer.checkpoint_callbacks if callback.monitor]
        best = next(filter(None, paths), None)
        self.trainer.test(self.model, self.datamodule, ckpt_path=best, weights_only=True, verbose=False)
        return self.model.test_results()

    def _check_splits(self) -> None:
        for name, rows in self.data.splits.items():
            if not len(rows):
                raise UserError(f"data: the {name} split is empty; give more rows or another fraction for it")
