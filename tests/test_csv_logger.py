"""Tests of `micro_lit.track.csv`: the same file as Lightning's, and whole."""

from pathlib import Path

import pytest
import pytorch_lightning.loggers as loggers
from full_disk import full_disk

from micro_lit.track.csv import CSVLogger

ROWS = (
    {"train/nll": 0.5},
    {"train/nll": 0.4, "train/entropy": 1e-7},
    {"val/nll": 0.3, "val, odd": 1.0},
    {"train/nll": 0.2},
)


def logged(kind: type, folder: Path) -> bytes:
    logger = kind(save_dir=str(folder), name="", version="")
    for step, row in enumerate(ROWS):
        logger.log_metrics(row, step)
        logger.save()
    logger.finalize("success")
    return (folder / "metrics.csv").read_bytes()


def test_the_file_is_that_of_lightning(tmp_path):
    assert logged(CSVLogger, tmp_path / "ours") == logged(loggers.CSVLogger, tmp_path / "theirs")


def test_a_new_column_on_a_full_disk_keeps_the_rows_before(tmp_path):
    logger = CSVLogger(save_dir=str(tmp_path), name="", version="")
    logger.log_metrics({"train/nll": 0.5}, 0)
    logger.save()
    before = (tmp_path / "metrics.csv").read_bytes()
    logger.log_metrics({"val/nll": 0.25}, 1)
    with full_disk("metrics.csv"), pytest.raises(OSError, match="No space left"):
        logger.save()
    assert (tmp_path / "metrics.csv").read_bytes() == before
    logger.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,train/nll,val/nll", "0,0.5,", "1,,0.25"]


def test_the_logger_of_a_run_is_this_one(settings):
    assert settings()["logger"]["csv"]["_target_"] == "micro_lit.track.CSVLogger"
