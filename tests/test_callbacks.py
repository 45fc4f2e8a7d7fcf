import pytest

from micro_lit import train
from micro_lit.errors import UserError

SMALL = ("+experiment=planted_floors_k8", "data.train=64", "data.validation=16", "data.test=48", "loader.batch_size=32")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.limit_test_batches=0.5"], r"trainer.limit_test_batches=0.5 leaves none of 1 batches"),
        (
            ["trainer.limit_val_batches=0"],
            r"trainer.limit_val_batches=0 leaves none of 1 batches; callbacks watch val/nll",
        ),
        (["trainer.limit_val_batches=0.5"], r"trainer: You requested to check 0.5 of the `val_dataloader`"),
        (["trainer.check_val_every_n_epoch=3"], r"check_val_every_n_epoch=3 is more than trainer.max_epochs=2"),
        (["trainer.val_check_interval=3"], r"trainer: `val_check_interval` \(3\) must be less than or equal"),
        (["trainer.limit_train_batches=0.1"], r"trainer: .*0.1"),
        (["+trainer.overfit_batches=1.5"], r"overfit_batches"),
        (["+model.optimizer.eps=-1"], r"model.optimizer: Invalid epsilon value: -1"),
        (["callbacks.early_stopping.monitor=nix"], r"trainer: Early stopping conditioned on metric `nix`"),
    ],
)
def test_limits_that_leave_nothing_are_one_line_before_anything_is_trained(overrides, message, settings, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        train.run(settings(*SMALL, "trainer.max_epochs=2", *overrides))
    assert "\n" not in str(caught.value)
    if "monitor" not in overrides[0]:  # whether it is logged is seen only when an epoch ends
        assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_run_that_nobody_watches_need_not_be_validated(settings):
    quiet = ("callbacks.best=null", "callbacks.early_stopping=null", "trainer.limit_val_batches=0")
    assert train.run(settings(*SMALL, "trainer.max_epochs=1", *quiet)) > 0
