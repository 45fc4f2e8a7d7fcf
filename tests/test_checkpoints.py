"""Tests of checkpoints as files: whole or refused, and what they hold."""

import io
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from conftest import SMALL_FEATURES
from full_disk import full_disk
from small_models import save_llama

from micro_lit import train
from micro_lit.errors import UserError
from micro_lit.host.preemption import PREEMPTED, stoppable
from micro_lit.report.results import read_results
from micro_lit.run import checkpoints

FEATURES = (
    "+experiment=planted_floors_k8", *SMALL_FEATURES, "data.population.attributes=[length,warmth]",
    "data.population.groups=2",
)  # fmt: skip
ONE = (*FEATURES, "trainer.max_epochs=1")


def folder_of(run: dict) -> Path:
    return Path(run["paths"]["run_dir"])


# Files


class Small(torch.nn.Module):
    """Two weights, of which a checkpoint holds the first."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.trained = torch.nn.Parameter(torch.linspace(-1, 1, width))
        self.given = torch.nn.Parameter(torch.ones(3))

    def saves(self, name: str) -> bool:
        return name == "trained"


def save(checkpoint: dict, path: Path) -> None:
    """As the Trainer of a run in the folder above has it written."""
    checkpoints.CheckpointFiles(path.parents[1]).save_checkpoint(checkpoint, path)


def load(path: Path) -> dict:
    return checkpoints.CheckpointFiles(path.parents[1]).load_checkpoint(path)


@pytest.fixture
def small(tmp_path) -> Path:
    """A checkpoint as a Trainer writes it, in a folder that was not there."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    save({"state_dict": {"trained": Small().trained.data}, "epoch": 3}, path)
    return path


def test_what_was_saved_is_read(small):
    for found in (checkpoints.read_checkpoint(small), load(small)):
        assert found.keys() - {"callbacks"} == {"state_dict", "epoch", "format", "folder"}
        assert found["epoch"] == 3
        assert torch.equal(found["state_dict"]["trained"], Small().trained)


@pytest.mark.parametrize("damaged", ["half", "short", "empty", "text"])
def test_a_damaged_checkpoint_is_refused(damaged, small):
    whole = small.read_bytes()
    small.write_bytes({"half": whole[: len(whole) // 2], "short": whole[:-1], "empty": b"", "text": b"none"}[damaged])
    with pytest.raises(UserError, match="not a checkpoint of this library, or damaged"):
        checkpoints.read_checkpoint(small)


def test_no_changed_bit_gives_other_weights(small):
    """Of each byte of the file one bit: it is refused, or it was no part of what is read."""
    whole, expected = small.read_bytes(), Small().trained
    refused = []
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        small.write_bytes(changed)
        try:
            found = load(small)
        except UserError:
            refused.append(at)
        else:
            assert torch.equal(found["state_dict"]["trained"], expected), f"byte {at}"
            assert found["epoch"] == 3, f"byte {at}"
    weights = whole.index(expected.detach().numpy().tobytes())
    assert set(range(weights, weights + 4 * len(expected))) <= set(refused)


class Payload:
    """Touches a file when it is read by an unpickler that calls what it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_checkpoint_runs_code(small, tmp_path):
    torch.save({"state_dict": {}, "more": Payload(tmp_path / "touched")}, small)
    with pytest.raises(UserError, match="not a checkpoint of this library, or damaged"):
        checkpoints.read_checkpoint(small)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [{"weights": {}}, [], 7], ids=str)
def test_what_holds_no_weights_is_no_checkpoint(content, small):
    torch.save(content, small)
    with pytest.raises(UserError, match="not a checkpoint of this library, or damaged"):
        checkpoints.read_checkpoint(small)


class Interrupted:
    def __reduce__(self):
        raise KeyboardInterrupt


def test_ctrl_c_while_it_is_written_is_ctrl_c_and_leaves_the_one_before(small):
    before = small.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        save({"state_dict": {}, "more": Interrupted()}, small)
    assert small.read_bytes() == before
    assert list(small.parent.iterdir()) == [small]


def test_ctrl_c_between_two_bytes_is_ctrl_c(small, monkeypatch):
    """PyTorch's writer then raises an error of its own, which hides it."""

    class Stopping(io.FileIO):
        writes = 0

        def write(self, data) -> int:
            self.writes += 1
            if self.writes == 3:
                raise KeyboardInterrupt
            return super().write(data)

    def write(checkpoint: dict, path: Path) -> None:
        with Stopping(path, "w") as file:
            torch.save(checkpoint, file)

    before = small.read_bytes()
    monkeypatch.setattr(checkpoints, "_save", write)
    with pytest.raises(KeyboardInterrupt):
        save({"state_dict": Small().state_dict()}, small)
    assert small.read_bytes() == before
    assert list(small.parent.iterdir()) == [small]


def test_a_disk_that_is_full_leaves_the_one_before(small):
    before = small.read_bytes()
    with (
        full_disk(small.name),
        pytest.raises(UserError, match=r"cannot be written \(No space left on device\); the previous one is kept"),
    ):
        save({"state_dict": Small().state_dict()}, small)
    assert small.read_bytes() == before
    assert list(small.parent.iterdir()) == [small]


def test_a_checkpoint_that_cannot_be_written_is_said_with_what_is_left(small, tmp_path):
    """No name of a file may have more than 255 bytes, and a file is no folder."""
    with pytest.raises(UserError, match=r"cannot be written \(File name too long\); there is none yet"):
        save({"state_dict": {}}, small.with_name("a" * 250))
    with pytest.raises(UserError, match=r"cannot be written \(File exists\); there is none yet"):
        save({"state_dict": {}}, small / "last.ckpt")
    taken = small.with_name("b" * 250)
    taken.touch()
    with pytest.raises(UserError, match=r"cannot be written \(File name too long\); the previous one is kept"):
        save({"state_dict": {}}, taken)


def test_weights_are_given_to_the_model_that_saves_them(small):
    model = Small()
    torch.nn.init.zeros_(model.trained)
    torch.nn.init.zeros_(model.given)
    checkpoints.load(small, model)
    assert torch.equal(model.trained, Small().trained)
    assert torch.equal(model.given, torch.zeros(3))


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({"trained": torch.zeros(7)}, r"trained has shape \(7,\) there, \(40,\) here"),
        ({}, r"trained has shape None there, \(40,\) here"),
        ({"trained": torch.zeros(40), "zeal": torch.zeros(2)}, r"zeal has shape \(2,\) there, None here"),
    ],
)
def test_weights_of_another_model_are_refused(saved, said, small):
    torch.save({"state_dict": saved}, small)
    model = Small()
    with pytest.raises(UserError, match=rf"made for another model; {said}"):
        checkpoints.load(small, model)
    assert torch.equal(model.trained, Small().trained)


def test_results_are_of_the_best_checkpoint_or_of_the_last(tmp_path):
    assert checkpoints.tested(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    for name in (checkpoints.LAST, checkpoints.BEST):
        (tmp_path / name).touch()
        assert checkpoints.tested(tmp_path) == tmp_path / name


def test_a_checkpoint_of_another_format_is_refused(small):
    found = checkpoints.read_checkpoint(small)
    assert found["format"] == checkpoints.FORMAT
    for other in (0, 99):
        torch.save(found | {"format": other}, small)
        with pytest.raises(UserError, match=rf"of format {other}, this version of micro_lit reads format 1"):
            load(small)
    # The first versions wrote none.
    torch.save({name: value for name, value in found.items() if name != "format"}, small)
    checkpoints.read_checkpoint(small)


def test_a_full_disk_leaves_the_checkpoint_before(settings):
    """A device that is always full stands where the next checkpoint would be written."""
    run = settings(*ONE)
    train.run(run)
    last = folder_of(run) / checkpoints.LAST
    before = last.read_bytes()
    said = r"cannot be written \(No space left on device\); the previous one is kept"
    with full_disk(".ckpt"), pytest.raises(UserError, match=said):
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
        (("trainer.max_epochs=3", "trainer.limit_train_batches=5"), 4, 5),  # the last of an epoch, not of the data
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
    assert checkpoints.read_checkpoint(last)["global_step"] == saved
    assert f"ckpt_path={last}" in capsys.readouterr().out
    value = train.run(run)
    resumed = read_results(folder_of(run))
    assert train.run({**run, "overwrite": True}) == value
    whole = read_results(folder_of(run))
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
    saved = checkpoints.read_checkpoint(folder_of(run) / checkpoints.LAST)["state_dict"]
    assert train.run({**run, "overwrite": True}) == value
    whole = checkpoints.read_checkpoint(folder_of(run) / checkpoints.LAST)["state_dict"]
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
    step = checkpoints.read_checkpoint(last)["global_step"]
    assert step < 20 * 8
    (folder_of(run) / "results.json").unlink()
    assert train.run(run) == value
    assert checkpoints.read_checkpoint(last)["global_step"] == step


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


def test_a_checkpoint_with_secrets_among_its_settings_is_told(tmp_path):
    """One that is to be sent; an earlier version wrote them in clear."""
    path = tmp_path / checkpoints.BEST
    path.parent.mkdir(exist_ok=True)
    for settings, expected in (({"a": {"api_key": "abc"}}, False), ({"a": {"api_key": "***"}}, True)):
        torch.save({"state_dict": {"w": torch.ones(3)}, "settings": settings}, path)
        assert (checkpoints.shareable(tmp_path) is not None) is expected
