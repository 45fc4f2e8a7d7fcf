"""Tests of checkpoints as files: whole or refused, and what they hold."""

import os
import re
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import SMALL_FEATURES
from small_models import save_llama

from micro_lit import checkpoints, files, train
from micro_lit.errors import UserError
from micro_lit.preemption import PREEMPTED, stoppable
from micro_lit.reporting.results import read

FEATURES = (
    "+experiment=planted_floors_k8", *SMALL_FEATURES, "data.population.attributes=[length,warmth]",
    "data.population.groups=2",
)  # fmt: skip
ONE = (*FEATURES, "trainer.max_epochs=1")


def folder_of(run: dict) -> Path:
    return Path(run["paths"]["run_dir"])


@pytest.fixture
def written(settings) -> Path:
    """A checkpoint as a run has written it."""
    run = settings(*ONE)
    train.run(run)
    return folder_of(run) / checkpoints.LAST


# Files


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "results.json"
    files.write_text(path, "old")

    def write_half(partial: Path) -> None:
        partial.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_whole(path, write_half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    files.write_text(path, "new")
    assert path.read_text() == "new"


def test_a_damaged_checkpoint_is_refused(written):
    whole = written.read_bytes()
    checkpoints.read(written)
    with zipfile.ZipFile(written) as records:
        inside = max(records.infolist(), key=lambda record: record.file_size)
    for damaged in (
        whole[: len(whole) // 2],
        whole[:-1],
        b"",
        b"no archive",
        # One bit of a weight.
        whole[: inside.header_offset + 200] + bytes([whole[inside.header_offset + 200] ^ 1])
        + whole[inside.header_offset + 201 :],
    ):  # fmt: skip
        written.write_bytes(damaged)
        with pytest.raises(UserError, match="not a checkpoint of this library, or damaged"):
            checkpoints.read(written)


def test_a_checkpoint_of_another_format_is_refused(written, settings):
    found = checkpoints.read(written)
    assert found["format"] == checkpoints.FORMAT
    torch.save(found | {"format": 99}, written)
    with pytest.raises(UserError, match=r"of format 99, this version of micro_lit reads format 1"):
        train.run(settings(*ONE, f"ckpt_path={written}"))
    # The first versions wrote none.
    torch.save({name: value for name, value in found.items() if name != "format"}, written)
    checkpoints.read(written)


def test_a_full_disk_leaves_the_checkpoint_before(settings, tmp_path):
    """A device that is always full stands where the next checkpoint would be written."""
    run = settings(*ONE)
    train.run(run)
    last = folder_of(run) / checkpoints.LAST
    before = last.read_bytes()
    for name in (checkpoints.BEST, checkpoints.LAST):
        partial = folder_of(run) / f"{name}.partial"
        partial.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); the one before is kept"):
        train.run(settings(*FEATURES, "trainer.max_epochs=2", f"ckpt_path={last}"))
    assert last.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_said_at_once(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"paths.run_dir=.* cannot be written"):
        train.run(settings(*ONE, f"paths.run_dir={tmp_path / 'file' / 'run'}"))


# Resuming


def test_the_last_checkpoint_of_the_folder_is_taken_up(settings, capsys):
    """Also when nothing is left to train, as after a kill in the test."""
    run = settings(*FEATURES, "trainer.max_epochs=3", "ckpt_path=last")
    expected = train.run(run)
    assert "going on from" not in capsys.readouterr().out
    (folder_of(run) / "results.json").unlink()
    assert train.run(run) == expected
    printed = capsys.readouterr().out
    assert f"going on from {folder_of(run) / checkpoints.LAST}" in printed
    assert "step " not in printed.replace("steps", "")


BETWEEN = ("trainer.max_epochs=3",)


@pytest.mark.parametrize(
    ("overrides", "step", "saved"),
    [
        (("trainer.max_epochs=3",), 0, 1),
        (("trainer.max_epochs=3",), 10, 11),
        (("trainer.max_epochs=3",), 15, 16),  # the last of an epoch
        # The last of all, which has the best weights.
        (("trainer.max_epochs=3",), 23, 24),
        (("trainer.max_epochs=2", "trainer.val_check_interval=3"), 5, 7),  # validation follows
        (("trainer.max_epochs=2", "trainer.check_val_every_n_epoch=2"), 7, 8),
        # Validation counts the steps of all epochs.
        (("trainer.max_epochs=2", "trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=5"), 9, 11),
        (("trainer.max_epochs=3", "trainer.limit_train_batches=5"), 7, 8),
        (("trainer.max_epochs=2", "trainer.accumulate_grad_batches=3"), 1, 2),
    ],
)
def test_a_run_that_is_told_to_stop_goes_on_to_the_bit(overrides, step, saved, settings, tmp_path, capsys):
    stop = (
        "packages=[micro_lit_testing]", "+callbacks.stop._target_=micro_lit_testing.FailOnce",
        f"+callbacks.stop.step={step}", "+callbacks.stop.name=SIGTERM", f"+callbacks.stop.marker={tmp_path / 'marker'}",
    )  # fmt: skip
    run = settings(*FEATURES, *overrides, *stop, "ckpt_path=last")
    with pytest.raises(SystemExit) as caught:
        train.run(run)
    assert caught.value.code == PREEMPTED
    last = folder_of(run) / checkpoints.LAST
    assert checkpoints.read(last)["global_step"] == saved
    assert f"ckpt_path={last}" in capsys.readouterr().out
    value = train.run(run)
    resumed = read(folder_of(run))
    assert train.run({**run, "overwrite": True}) == value
    whole = read(folder_of(run))
    assert {name: part for name, part in resumed.items() if name != "seconds"} == {
        name: part for name, part in whole.items() if name != "seconds"
    }


def test_what_dropout_drops_does_not_depend_on_a_stop(settings, tmp_path):
    """Low-rank updates of a transformer, which drop half of what they read."""
    pytest.importorskip("peft", reason="the extra peft is not installed")
    rows = [f'{{"prompt": "Question {row}?", "chosen": "Yes {row}.", "rejected": "No."}}' for row in range(48)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    run = settings(
        "data=pairs", f"data.train={tmp_path / 'pairs.jsonl'}", "data.test_fraction=0.2",
        "data.validation_fraction=0.2", "backbone=hf", f"backbone.model={save_llama(tmp_path / 'llama')}",
        "backbone.frozen=false", "ckpt_path=last",
        "backbone.max_length=64", "backbone.lora.rank=2", "backbone.lora.dropout=0.5", "backbone.dtype=float32",
        "loader.batch_size=4", "trainer.max_epochs=2", "packages=[micro_lit_testing]",
        "+callbacks.stop._target_=micro_lit_testing.FailOnce", "+callbacks.stop.step=3", "+callbacks.stop.name=SIGTERM",
        f"+callbacks.stop.marker={tmp_path / 'marker'}",
    )  # fmt: skip
    with pytest.raises(SystemExit):
        train.run(run)
    value = train.run(run)
    saved = checkpoints.read(folder_of(run) / checkpoints.LAST)["state_dict"]
    assert train.run({**run, "overwrite": True}) == value
    whole = checkpoints.read(folder_of(run) / checkpoints.LAST)["state_dict"]
    assert all(torch.equal(weight, whole[name]) for name, weight in saved.items())
    # Nothing but what was trained is in it.
    assert {name.split(".")[-2] for name in saved if name.startswith("backbone.")} == {"default"}
    assert all("lora_" in name for name in saved if name.startswith("backbone."))


def test_a_run_that_stopped_early_does_not_train_on(settings, tmp_path):
    """Killed in its test: what is resumed has no more to learn, as the whole run had not."""
    early = ("trainer.max_epochs=20", "model.optimizer.lr=0.5", "callbacks.early_stopping.patience=1", "ckpt_path=last")
    run = settings(*FEATURES, *early)
    value = train.run(run)
    last = folder_of(run) / checkpoints.LAST
    step = checkpoints.read(last)["global_step"]
    assert step < 20 * 8
    (folder_of(run) / "results.json").unlink()
    assert train.run(run) == value
    assert checkpoints.read(last)["global_step"] == step


def test_a_run_that_is_not_training_stops_at_once(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == PREEMPTED
    assert signal.getsignal(signal.SIGTERM) is before


# A loss that is no number


def test_a_loss_that_is_no_number_stops_with_its_rows(settings, tmp_path):
    """An overflow of one pair's rating gap."""
    rows = [
        f'{{"prompt": "Question {number}?", "chosen": "Yes {number}.", "rejected": "No.", '
        f'"rating_gap": {"1e29" if number == 7 else 1}}}'
        for number in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    run = settings(
        "data=pairs", f"data.train={tmp_path / 'pairs.jsonl'}", "backbone=tiny", "model.rating_gap_weight=1e10",
        "loader.batch_size=8", "data.test_fraction=0.1", "data.validation_fraction=0.1", "seed=1",
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        train.run(run)
    said = str(caught.value)
    assert re.match(r"the loss is (nan|inf) at step \d+, from 1 of the batch's 8 pairs: training rows \d+ ", said)
    assert "'Question 7?'" in said
    assert "model.optimizer.lr" in said
