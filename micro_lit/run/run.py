"""One run: builds data, backbone, model and trainer from settings, trains, tests and records the results."""

import logging
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.nn import Module

from micro_lit.config import Settings, build, check_objects, command_with, find, text_setting
from micro_lit.config.redaction import redact
from micro_lit.data.datamodule import PreferenceDataModule
from micro_lit.data.pairs import PreferenceData
from micro_lit.errors import UserError
from micro_lit.features import sharding
from micro_lit.host import ranks
from micro_lit.host.files import write_text
from micro_lit.host.preemption import PREEMPTED
from micro_lit.metrics import units_of, with_built_in
from micro_lit.metrics.baselines import BaselineMetrics, Baselines
from micro_lit.models import MixtureBT
from micro_lit.models.mixture import heads_for
from micro_lit.report import results
from micro_lit.run import checkpoints, codes, run_folder, workers
from micro_lit.run.callbacks import Begun, EnoughBatches
from micro_lit.run.checkpoints import CheckpointFiles
from micro_lit.run.restored import REMOTE, TOKENIZER, Trust, make_model, read_settings, restore
from micro_lit.run.run_folder import COSTS
from micro_lit.track import Artifact, Loggers, RunRecord


def quiet_libraries() -> None:
    """Silences warnings of libraries that users of micro_lit cannot act on."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it also logs the exceptions that we raise
    for message in (
        ".*does not have many workers.*",  # batches are slices of tensors in memory: workers would only slow them
        ".*Experiment logs directory.*exists and is not empty.*",  # config.yaml is already there
        ".*Checkpoint directory.*exists and is not empty.*",  # as it is when a run is resumed
        ".*dataloader is not resumable.*",  # it is: the state of our datamodule holds the position
        ".*in eval mode at the start of training.*",  # the frozen parts of a router
        ".*LeafSpec.* is deprecated.*",  # inside Lightning, since torch 2.13
        ".*The `srun` command is available on your system but is not used.*",  # we start the workers ourselves
        ".*recommended to use .*sync_dist=True.*",  # our metrics are already summed over devices
        ".*number of training batches.*smaller than the logging interval.*",
    ):
        warnings.filterwarnings("ignore", message)


def _check_optimizer(node: Settings | None) -> None:
    """Builds the optimizer for one parameter, so that invalid settings fail before the data are read."""
    if node is None:
        return
    make = build(node)
    try:
        make([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise UserError(f"model.optimizer: {' '.join(str(error).split())}") from error


def _with_heads(settings: Settings, num_heads: int) -> Settings:
    """The settings with `num_heads` filled in where `model.num_heads=null`."""
    if settings["model"].get("num_heads", 0) is not None:
        return settings
    return {**settings, "model": {**settings["model"], "num_heads": num_heads}}


def _of_lightning(error: Exception) -> bool:
    """Whether Lightning's own code raised an exception; then its message is about our settings."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(("pytorch_lightning.", "lightning_fabric."))


class Run:
    """Data, backbone, model and trainer of one run. As a context manager it always closes the loggers."""

    def __init__(self, settings: Settings) -> None:
        self.started = time.perf_counter()
        quiet_libraries()
        self.settings = settings
        check_objects(_with_heads(settings, 2))
        _check_optimizer(settings["model"].get("optimizer"))
        own = (settings.get("metrics") or {}).values()
        self.metrics = with_built_in([build(node) for node in own if node is not None])
        self.loggers = Loggers(settings)
        # A user's package may build the model by a function, which has no `is_router`; such a model has no stage 1.
        routes = getattr(find(settings["model"]["_target_"]), "is_router", False)
        if routes != (settings["stage1"] is not None):
            raise UserError("model=router and stage1=<folder of a run> go together: a router weights its heads")
        loader = settings["loader"]
        if loader["unlabelled"] and not (routes and settings["model"].get("pooled", True) and loader["budget"]):
            raise UserError("loader.unlabelled needs model=router, model.pooled=true and a loader.budget of labels")
        self.folder = Path(settings["paths"]["run_dir"])
        pl.seed_everything(settings["seed"], verbose=False)
        self.data: PreferenceData = build(settings["data"]).load(settings["seed"])
        self._check_splits()
        if settings["model"].get("num_heads", 0) is None:
            settings = self.settings = _with_heads(settings, self._choose_heads())
        features_dir = Path(settings["paths"]["features_dir"])
        stage1 = self._restore_stage1(features_dir)
        self.backbone: Module = (
            build(settings["backbone"]).prepare(self.data, features_dir) if stage1 is None else stage1.backbone
        )
        self._note_reading()
        # Seed again, so that the heads' initial values do not depend on draws by data and backbone.
        pl.seed_everything(settings["seed"], verbose=False)
        self.model = make_model(settings, self.data, self.backbone, stage1)
        self.model.settings = settings
        if loader["token_budget"] is not None and (not self.backbone.is_trained or self.model.by_user):
            raise UserError(
                "loader.token_budget counts the tokens of a backbone in training; a frozen one has none, and a model "
                "of people takes whole users: leave it null"
            )
        if self.model.by_user and not self.data.names["user_id"]:
            print(
                "note: the data name no users, so every pair counts as a separate user; map a column "
                "(+data.columns.user_id=theirs), or for a planted population set data.users_per_group"
            )
        loader = {"_target_": "micro_lit.data.datamodule.PreferenceDataModule", **settings["loader"]}
        self.datamodule: PreferenceDataModule = build(loader, data=self.data, seed=settings["seed"])
        units = units_of(self.data, self.data.split("test"))
        self.model.measure(self.metrics, units)
        if self.data.population is None or not self.data.is_vectors:  # with few vectors the majority is the floor
            baselines = Baselines(self.data, self.datamodule.labelled_pairs)
            self.model.baseline_metrics = BaselineMetrics(baselines, units)
        self.checkpoints = CheckpointFiles(self.folder)
        self.trainer = self._make_trainer()
        if ranks.rank() == 0:
            self._begin_folder()

    def _choose_heads(self) -> int:
        """The number of heads of the checkpoint to resume from, or one chosen by the number of training pairs."""
        path = self.settings["ckpt_path"]
        trained = {} if path is None else results.flatten(checkpoints.read_checkpoint(Path(path)).get("settings") or {})
        return trained.get("model.num_heads") or heads_for(len(self.data.splits["train"]))

    def _restore_stage1(self, features_dir: Path) -> MixtureBT | None:
        """The model that `stage1` names; prints a note if the two stages use different data."""
        if self.settings["stage1"] is None:
            return None
        folder, trust = Path(self.settings["stage1"]), Trust.of(self.settings)
        then, now = (results.flatten(each) for each in redact((read_settings(folder, trust), self.settings)))
        other = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)]
        # A key missing on one side did not exist in the version that wrote it: no difference.
        known = then.keys() & now.keys()
        free = (*COSTS, f"backbone.{REMOTE}")
        if backbone := [key for key in other if key.startswith("backbone.") and key in known and key not in free]:
            raise UserError(f"stage1={folder} was trained with another backbone ({', '.join(backbone)} differ)")
        kept = ("data.criteria", "data.criterion_of")
        if data := [key for key in other if key == "seed" or (key.startswith("data.") and not key.startswith(kept))]:
            print(
                f"note: stage 1 had other data ({', '.join(data)} differ); what it was trained on may be tested on here"
            )
        return restore(folder, self.data, features_dir, trust, (self.folder.resolve(),))

    def _begin_folder(self) -> None:
        """Writes the run folder. Called last, so that invalid settings do not destroy an earlier run's results."""
        try:
            run_folder.begin(self.settings)
            if self.backbone.learned_tokenizer is not None:
                write_text(self.folder / TOKENIZER, self.backbone.learned_tokenizer)
        except OSError as error:
            raise UserError(f"paths.run_dir={self.folder}: cannot be written ({error.strerror})") from error

    def _make_trainer(self) -> pl.Trainer:
        callbacks = [build(node) for node in (self.settings.get("callbacks") or {}).values() if node is not None]
        callbacks.append(EnoughBatches())
        # The workers that we start use our rendezvous address on any cluster.
        plugins = [self.checkpoints, *([LightningEnvironment()] if workers.is_worker() else [])]
        try:
            trainer = build(
                self.settings["trainer"], logger=self.loggers.guards, callbacks=[*callbacks, Begun()], plugins=plugins
            )
        except (MisconfigurationException, ValueError, ImportError) as error:
            raise UserError(f"trainer: {str(error).strip().splitlines()[0]}") from error
        sharding.check_shardable(trainer, self.backbone)
        return trainer

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: Any) -> None:
        self.loggers.finish(failed=error[0] is not None)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def fit(self) -> None:
        """Trains; resumes from `ckpt_path` if given."""
        path = self.settings["ckpt_path"]
        self.loggers.begin(RunRecord("train", self.settings["name"], self.folder, self.settings), path is not None)
        if path is not None:
            checkpoints.check_resumable(Path(path), self.model)
        try:
            self.trainer.fit(self.model, self.datamodule, ckpt_path=path, weights_only=True)
        except (MisconfigurationException, RuntimeError, ValueError) as error:
            if isinstance(error, UserError) or not _of_lightning(error):
                raise
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        except SystemExit as stop:
            if not self.trainer.interrupted:
                raise
            print(f"interrupted at step {self.trainer.global_step}; the files so far are in {self.folder}/")
            if (last := checkpoints.last(self.folder)) is not None:
                print(f"to go on: {command_with(text_setting('ckpt_path', last), without=['overwrite'])}")
            sys.exit(stop.code if stop.code == PREEMPTED else 130)

    def test(self) -> dict[str, Any]:
        """Tests the best checkpoint (current weights if there is none) and returns the model's results."""
        kept = (callback for callback in self.trainer.checkpoint_callbacks if callback.monitor)
        best, measure, score = next(
            ((each.best_model_path, each.monitor, each.best_model_score) for each in kept if each.best_model_path),
            (None, "val/nll", self.trainer.callback_metrics.get("val/nll")),
        )
        early = " (stopped early)" if self.trainer.should_stop else ""
        tested = "the weights at hand" if best is None else f"the best checkpoint by {measure}"
        print(f"trained {self.trainer.current_epoch} of {self.trainer.max_epochs} epochs{early}; testing {tested}")
        if best is None and self.checkpoints.step not in (None, self.trainer.global_step):
            # No checkpoint holds these weights; save what is tested for those who open this run later.
            self.trainer.save_checkpoint(self.folder / checkpoints.LAST)
        self.trainer.test(self.model, self.datamodule, ckpt_path=best, weights_only=True, verbose=False)
        of = checkpoints.last(self.folder) if best is None else Path(best)
        oracle = {"criterion"} if self.data.bayes == "oracle" else set()
        return self.model.test_results() | {
            "knows": self.model.knows | oracle,
            "metrics": {each.name: {"unit": each.unit, "better": each.better} for each in self.metrics},
            "checkpoint": None if of is None else os.path.relpath(os.path.realpath(of), os.path.realpath(self.folder)),
            "validation": {} if score is None else {measure.removeprefix("val/"): float(score)},
        }

    def keep_codes(self) -> None:
        """Writes what a model of people has learned of its users, unless `share_codes` is false."""
        if self.model.by_user and self.settings["share_codes"] and self.data.names["user_id"]:
            codes.write_codes(self.folder, self.model, self.data.names["user_id"])

    def record(self, measured: dict[str, Any]) -> None:
        """Passes results, model and input artifacts to the loggers."""
        used, features, stage1 = [], self.backbone.store_folder, self.settings["stage1"]
        if features is not None:
            used.append(Artifact("features", features))
        if stage1 is not None:
            used.append(Artifact("model", Path(stage1), checkpoint=checkpoints.shareable(Path(stage1))))
        model = Artifact("model", self.folder, written=True, checkpoint=checkpoints.shareable(self.folder))
        self.loggers.record(summary=results.summary(measured), artifacts=(*used, model))

    def _check_splits(self) -> None:
        for name, rows in self.data.splits.items():
            if not len(rows):
                raise UserError(f"data: the {name} split is empty; {self._remedy()}")

    def _remedy(self) -> str:
        """The remedy in the error message for a split without rows."""
        if self.data.is_vectors:
            return "give more rows for it"
        prompts = {self.data.texts[row].prompt for row in self.data.pairs.chosen_N.unique().tolist()}
        pairs = len(self.data.names["pair_id"])
        if len(prompts) >= 3:
            return "give more rows, or a fraction above 0 for it (data.validation_fraction, data.test_fraction)"
        few = f"its {len(self.data.pairs):,} rows have {len(prompts)} prompts, and a prompt is on one side of a cut"
        if pairs >= 3:
            return f"{few}. Cut by pairs instead, with data.split_by=pair_id, or give rows of more prompts"
        return f"{few}; give rows of more prompts"

    def _note_reading(self) -> None:
        """Counts truncated texts; drops pairs whose two responses are the same tokens for the backbone."""
        reading = self.backbone.reading
        if reading is None:
            return
        self.data.count_cut(reading.cut_M2, reading.max_length)
        before = self.data.splits
        self.data = self.data.without_same(reading.digests_M)
        for name, rows in self.data.splits.items():
            if not len(rows):
                raise UserError(
                    f"data: the {name} split is empty: in all {len(before[name]):,} of its pairs both responses are "
                    f"the same tokens after template and cut (backbone.max_length={reading.max_length}); raise "
                    "backbone.max_length, or give more rows"
                )
