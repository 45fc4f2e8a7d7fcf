"""Tests of suggestions: misspelt keys of the real configs, and keys that mean nothing."""

import pytest

from micro_lit.config import config_dir
from micro_lit.config.spelling import keys_of, suggestion

KNOWN = keys_of(config_dir())


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("sed", "seed"), ("sede", "seed"), ("trainr.max_epochs", "trainer.max_epochs"), ("threds", "threads"),
        ("trainer.max_epoch", "trainer.max_epochs"), ("trainer.maxepochs", "trainer.max_epochs"),
        ("trainer.device", "trainer.devices"), ("trainer.precison", "trainer.precision"),
        ("trainer.gradient_clip", "trainer.gradient_clip_val"), ("model.num_head", "model.num_heads"),
        ("model.numheads", "model.num_heads"), ("model.n_heads", "model.num_heads"), ("num_heads", "model.num_heads"),
        ("modle.num_heads", "model.num_heads"), ("model.optimizer.rl", "model.optimizer.lr"),
        ("model.optimiser.lr", "model.optimizer.lr"), ("model.optim.lr", "model.optimizer.lr"),
        ("model.optimizer.weightdecay", "model.optimizer.weight_decay"), ("model.warm_up", "model.warmup"),
        ("model.label_smothing", "model.label_smoothing"), ("model.entropy_wieght", "model.entropy_weight"),
        ("model.balance_wt", "model.balance_weight"), ("model.temprature", "model.temperature"),
        ("model.kl_wieght", "model.kl_weight"), ("model.head.base_precison", "model.head.base_precision"),
        ("loader.batchsize", "loader.batch_size"), ("loader.batch-size", "loader.batch_size"),
        ("loader.token_buget", "loader.token_budget"), ("batch_size", "loader.batch_size"),
        ("loader.eval_batchsize", "loader.eval_batch_size"), ("data.user_per_group", "data.users_per_group"),
        ("data.unseen_shares", "data.unseen_share"), ("data.split-by", "data.split_by"),
        ("data.validation_frac", "data.validation_fraction"), ("paths.rundir", "paths.run_dir"),
        ("path.run_dir", "paths.run_dir"), ("run_dir", "paths.run_dir"), ("paths.datadir", "paths.data_dir"),
        ("backbone.frozn", "backbone.frozen"), ("backbone.lora.rnk", "backbone.lora.rank"),
        ("backbone.maxlength", "backbone.max_length"), ("backbone.pool", "backbone.pooling"),
        ("candidats", "candidates"), ("report.titel", "report.title"), ("skip_finish", "skip_finished"),
        ("overwite", "overwrite"), ("ckpt_pth", "ckpt_path"), ("trust_remotecode", "trust_remote_code"),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_recognised(key, meant):
    assert key not in KNOWN
    assert suggestion(key, KNOWN) == meant


@pytest.mark.parametrize("key", ["zebra", "model.zebra.crossing", "q"])
def test_nothing_is_made_up(key):
    assert suggestion(key, KNOWN) is None
