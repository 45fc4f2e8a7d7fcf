"""Tests of `micro_lit.data.datamodule`."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from micro_lit.data.budgets import draw_budget
from micro_lit.data.datamodule import LengthBatches, PreferenceDataModule, RowBatches, UserBatches
from micro_lit.data.pairs import PreferenceData, from_records
from micro_lit.data.records import Message, Record
from micro_lit.errors import UserError

numbers_of_rows = st.integers(1, 60)
batch_sizes = st.integers(1, 20)
seeds = st.integers(0, 2**40)


def batches(*arguments, epoch=0, **settings):
    sampler = RowBatches(*arguments, **settings)
    sampler.set_epoch(epoch)
    found = [rows.tolist() for rows in sampler]
    assert len(found) == len(sampler)
    return found


@given(numbers_of_rows, batch_sizes, seeds, st.integers(0, 5))
def test_an_epoch_has_every_row_once_in_full_batches_but_the_last(num_rows, batch_size, seed, epoch):
    found = batches(num_rows, batch_size, seed, epoch=epoch)
    assert sorted(row for rows in found for row in rows) == list(range(num_rows))
    assert all(len(rows) == batch_size for rows in found[:-1])
    assert 1 <= len(found[-1]) <= batch_size


@given(numbers_of_rows, batch_sizes)
def test_without_a_seed_rows_come_in_order(num_rows, batch_size):
    assert [row for rows in batches(num_rows, batch_size, None, epoch=3) for row in rows] == list(range(num_rows))


def test_seed_and_epoch_settle_the_order():
    orders = {(seed, epoch): batches(50, 8, seed, epoch=epoch) for seed in range(4) for epoch in range(4)}
    for (seed, epoch), order in orders.items():
        assert batches(50, 8, seed, epoch=epoch) == order
    assert len({str(order) for order in orders.values()}) == 16


def test_the_order_does_not_depend_on_the_global_generator():
    torch.manual_seed(0)
    first = batches(50, 8, 0)
    torch.manual_seed(1)
    assert batches(50, 8, 0) == first


@given(numbers_of_rows, batch_sizes, st.none() | seeds, st.integers(2, 4))
def test_devices_share_the_batches_of_one_process(num_rows, batch_size, seed, world_size):
    if num_rows < world_size:
        with pytest.raises(UserError, match="cannot be shared"):
            batches(num_rows, batch_size, seed, world_size=world_size)
        return
    whole = joined(batches(num_rows, num_rows, seed, epoch=1))
    parts = [
        batches(num_rows, batch_size, seed, rank=rank, world_size=world_size, epoch=1) for rank in range(world_size)
    ]
    assert len({len(part) for part in parts}) == 1
    steps = [[row for rows in zip(*shares, strict=False) for row in rows] for shares in zip(*parts, strict=True)]
    sizes = [[len(share) for share in shares] for shares in zip(*parts, strict=True)]
    assert min(map(min, sizes)) > 0
    assert sum(map(sum, sizes[:-1])) == (len(sizes) - 1) * batch_size * world_size
    if seed is None:
        # A test sees every row once.
        assert sorted(joined(joined(parts))) == list(range(num_rows))
        assert max(max(each) - min(each) for each in sizes) <= 1
    else:
        # The mean of the devices' means is the mean of the batch.
        assert joined(steps) == whole[: num_rows - num_rows % world_size]
        assert all(len(set(each)) == 1 for each in sizes)


lengths = st.lists(st.integers(1, 300), min_size=4, max_size=120).map(torch.tensor)


@example(torch.ones(40, dtype=torch.long), 900, 5, 0, 1)  # the budget would take all
@example(torch.full((33,), 300), 1, 5, 0, 2)  # of two buckets one would be of a single row
@given(lengths, st.integers(1, 900), batch_sizes, st.integers(0, 2**40), st.integers(1, 4))
def test_batches_of_a_token_budget(length_N, budget, batch_size, seed, world_size):
    whole = []
    for epoch in (0, 1):
        parts = []
        for rank in range(world_size):
            sampler = LengthBatches(length_N, budget, batch_size, seed, rank, world_size)
            sampler.set_epoch(epoch)
            parts.append([rows.tolist() for rows in sampler])
            assert len(parts[-1]) == len(sampler)
        for shares in zip(*parts, strict=True):
            assert len({len(share) for share in shares}) == 1
            assert 1 <= len(shares[0]) <= batch_size
            longest = int(length_N[joined(shares)].max())
            assert len(shares[0]) * longest <= max(budget, longest)
        rows = joined(joined(parts))
        assert len(rows) == len(set(rows)) >= len(length_N) - len(sampler.buckets) * (world_size - 1)
        assert len(length_N) - len(rows) < world_size or world_size > 1
        whole.append(rows)
    assert set(whole[0]) == set(whole[1]) or world_size > 1


def test_batches_of_a_token_budget_are_of_like_length_and_in_another_order_every_epoch():
    length_N = torch.randint(10, 1000, (5000,), generator=torch.Generator().manual_seed(0))
    sampler = LengthBatches(length_N, 8000, 64, seed=0)
    padded, orders = 0, []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        padded = sum(len(rows) * int(length_N[rows].max()) for rows in orders[-1])
        assert padded < 1.15 * int(length_N.sum())
    assert len(orders[0]) == len(orders[1])
    assert not any(torch.equal(first, second) for first, second in zip(*orders, strict=True))
    longest = [int(length_N[rows].max()) for rows in orders[0]]
    quarter = len(longest) // 4
    assert 0.5 < sum(longest[:quarter]) / sum(longest[-quarter:]) < 2  # long ones come at any time
    # Half an epoch can be taken up where it was left.
    again = LengthBatches(length_N, 8000, 64, seed=0)
    again.set_epoch(1)
    again.first = 7
    assert all(torch.equal(rows, other) for rows, other in zip(again, orders[1][7:], strict=True))


@pytest.fixture(scope="module")
def data() -> PreferenceData:
    """Pairs 0 to 19 for training, 20 to 29 for validation, 30 to 44 for the test; the rating gap is the number."""
    prompt = (Message("user", "Question?"),)
    records = [Record(prompt, f"Yes {number}.", "No.", rating_gap=float(number)) for number in range(45)]
    return from_records(records, ["train"] * 20 + ["validation"] * 10 + ["test"] * 15, {})


def numbers(loader):
    return [batch.rating_gap_N.tolist() for batch in loader]


def joined(batches):
    return [number for batch in batches for number in batch]


def test_loaders_give_the_pairs_of_their_split(data):
    module = PreferenceDataModule(data, batch_size=8, eval_batch_size=6, seed=0)
    train = numbers(module.train_dataloader())
    assert [len(batch) for batch in train] == [8, 8, 4]
    assert sorted(joined(train)) == list(range(20))
    assert joined(train) != list(range(20))
    assert numbers(module.val_dataloader()) == [list(range(20, 26)), list(range(26, 30))]
    assert joined(numbers(module.test_dataloader())) == list(range(30, 45))


def test_a_batch_holds_all_columns_of_its_rows(data):
    batch = next(iter(PreferenceDataModule(data, 8, 6, seed=0).train_dataloader()))
    rows = batch.rating_gap_N.long()
    assert torch.equal(batch.triplets_N3, data.pairs.triplets_N3[rows])
    assert torch.equal(batch.labels_NC, data.pairs.labels_NC[rows])


def test_a_place_within_an_epoch_is_taken_up_once(data):
    module = PreferenceDataModule(data, batch_size=8, eval_batch_size=6, seed=0)
    whole = numbers(module.train_dataloader())
    module.load_state_dict({"done": 2})
    assert numbers(module.train_dataloader()) == whole[2:]
    assert numbers(module.train_dataloader()) == whole


@pytest.mark.parametrize("sampler", [RowBatches(20, 8, seed=0), UserBatches(torch.arange(20) % 5, 4, seed=0)])
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_place_at_the_end_of_an_epoch_is_the_beginning_of_the_next(sampler, beyond):
    """Old checkpoints count the last batch of an epoch too; and one that is taken up is followed by whole epochs."""
    whole = joined(map(torch.Tensor.tolist, sampler))
    sampler.first = len(sampler) + beyond
    assert sum(1 for _ in sampler) == len(sampler) - beyond
    assert sampler.done == len(sampler)
    assert joined(map(torch.Tensor.tolist, sampler)) == whole


def test_devices_of_a_trainer_take_their_own_rows(data):
    shares = []
    for rank in range(2):
        module = PreferenceDataModule(data, batch_size=4, eval_batch_size=4, seed=0)
        module.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        loaders = (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
        shares.append([joined(numbers(loader)) for loader in loaders])
    for first, second, rows in zip(*shares, (range(20), range(20, 30), range(30, 45)), strict=True):
        assert sorted(first + second) == list(rows)
        assert abs(len(first) - len(second)) <= 1


def trained_by(module: PreferenceDataModule, **model) -> PreferenceDataModule:
    """The module as a Trainer has it that trains a model with these attributes."""
    module.trainer = SimpleNamespace(global_rank=0, world_size=1, lightning_module=SimpleNamespace(**model))
    return module


def test_a_model_by_users_is_shown_whole_users():
    prompt = (Message("user", "Question?"),)
    records = [Record(prompt, f"Yes {n}.", "No.", user_id=f"{n % 5}", rating_gap=float(n)) for n in range(20)]
    data = from_records(records, ["train"] * 20, {})
    batches = numbers(trained_by(PreferenceDataModule(data, 4, 6, seed=0), by_user=True).train_dataloader())
    assert sorted(joined(batches)) == list(range(20))
    assert sorted(user for batch in batches for user in {row % 5 for row in batch}) == list(range(5))


def test_a_token_budget_bounds_the_batches(data):
    length_N = torch.arange(1, 21)
    module = PreferenceDataModule(data, 20, 6, seed=0, token_budget=30)
    backbone = SimpleNamespace(lengths=lambda pairs: length_N[pairs.rating_gap_N.long()])
    batches = numbers(trained_by(module, backbone=backbone, by_user=False).train_dataloader())
    assert sorted(joined(batches)) == list(range(20))
    assert all(len(batch) * (max(batch) + 1) <= 30 for batch in batches)


@pytest.mark.parametrize("by_user", [False, True])
def test_rows_of_the_batch_given_out_last_are_named_by_how_they_begin(by_user, named):
    module = trained_by(PreferenceDataModule(named, 8, 6, seed=0), by_user=by_user)
    for batch in module.train_dataloader():
        rows = [int(row) for row in batch.rating_gap_N.tolist()]
        assert module.describe(torch.tensor([0])) == f"training rows {rows[0]} ('Question?')"
    everything = module.describe(torch.arange(len(rows)))
    assert everything.startswith(f"training rows {rows[0]} ('Question?'), {rows[1]} ('Question?'), ")
    assert everything.count("Question?") == min(5, len(rows))
    assert (" more" in everything) == (len(rows) > 5)


@pytest.fixture(scope="module")
def named() -> PreferenceData:
    """Pairs 0 to 29 for training, of two attributes in turn; 30 to 39 for validation, 40 to 49 for the test."""
    prompt = (Message("user", "Question?"),)
    records = [
        Record(prompt, f"Yes {number}.", "No.", attribute=("brief", "warm")[number % 2], rating_gap=float(number))
        for number in range(50)
    ]
    return from_records(records, ["train"] * 30 + ["validation"] * 10 + ["test"] * 10, {})


def test_without_a_budget_all_training_pairs_are_labelled(named):
    module = PreferenceDataModule(named, 8, 6, seed=0)
    assert module.labelled_pairs is module.train_pairs
    assert len(module.train_pairs) == 30


@pytest.mark.parametrize("unlabelled", [0, 3, 1000])
def test_a_budget_is_labelled_and_what_is_read_beside_it_is_not(unlabelled, named):
    module = PreferenceDataModule(named, 8, 6, seed=2, budget=4, unlabelled=unlabelled)
    labelled, read = (pairs.rating_gap_N.tolist() for pairs in (module.labelled_pairs, module.train_pairs))
    assert labelled == [float(row) for row in draw_budget(named, 4, seed=2)]
    assert len(set(read)) == len(read) == min(30, 8 + 2 * unlabelled)
    assert set(labelled) <= set(read) <= set(range(30))
    assert sorted(joined(numbers(module.train_dataloader()))) == sorted(read)
    # What is validated and tested on is not of the budget's making.
    assert joined(numbers(module.val_dataloader())) == list(range(30, 40))
    assert joined(numbers(module.test_dataloader())) == list(range(40, 50))


def test_a_seed_draws_the_budget(named):
    first, again, other = (
        PreferenceDataModule(named, 8, 6, seed=seed, budget=4).labelled_pairs.rating_gap_N.tolist()
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


class Recorder(pl.LightningModule):
    """Trains nothing and writes down what it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.shown = []

    def training_step(self, batch, _):
        self.shown.append(batch.rating_gap_N.tolist())
        return 0.0 * self.weight

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


QUIET = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)


def shown(data: PreferenceData, folder: Path, limit: int = 3, after: int | None = None) -> list[list[float]]:
    """The batches that a Trainer shows in three epochs of `limit` batches; after: going on from that step's checkpoint.

    A checkpoint is written after every step.
    """
    saving = pl.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = pl.Trainer(
        max_epochs=3, limit_train_batches=limit, accelerator="cpu", use_distributed_sampler=False, callbacks=[saving],
        **QUIET,
    )  # fmt: skip
    model = Recorder()
    path = None if after is None else folder / f"step={after}.ckpt"
    trainer.fit(model, datamodule=PreferenceDataModule(data, 8, 8, seed=0), ckpt_path=path, weights_only=True)
    return model.shown


FAMILIAR = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",  # batches are slices of resident tensors
    "ignore:.*smaller than the logging interval",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning 2.6.6 under torch 2.13
    "ignore:.*your dataloader is not resumable",  # it does not see that the data module knows its place
    "ignore:Checkpoint directory .* exists",
)


@FAMILIAR
def test_a_trainer_shuffles_anew_every_epoch_and_alike_in_every_run(data, tmp_path):
    first, again = shown(data, tmp_path / "first"), shown(data, tmp_path / "again")
    assert first == again
    epochs = [joined(first[start : start + 3]) for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3


@FAMILIAR
@pytest.mark.parametrize("limit", [2, 3])
def test_a_resumed_trainer_shows_the_batches_that_were_to_come(limit, data, tmp_path):
    """Of three batches an epoch has all or two: the last one shown need not be the last that there is."""
    whole = shown(data, tmp_path, limit)
    assert len(whole) == 3 * limit
    for step in range(1, 3 * limit):
        assert shown(data, tmp_path, limit, after=step) == whole[step:]


@given(
    user_N=st.lists(st.integers(-1, 12), min_size=1, max_size=80),
    batch_size=st.integers(1, 40),
    world_size=st.integers(1, 3),
    seed=st.integers(0, 3),
)
def test_batches_of_users_cut_nobody_and_leave_no_device_without_rows(user_N, batch_size, world_size, seed):
    user_N = torch.tensor(user_N)
    num_users = int((user_N < 0).sum()) + len(set(user_N.tolist()) - {-1})
    if num_users < world_size:
        with pytest.raises(UserError, match=f"(users|rows) cannot be shared by {world_size} devices"):
            UserBatches(user_N, batch_size, seed, 0, world_size)
        return
    ranks = [UserBatches(user_N, batch_size, seed, rank, world_size) for rank in range(world_size)]
    for epoch in range(2):
        for batches in ranks:
            batches.set_epoch(epoch)
        shown = [list(batches) for batches in ranks]
        assert {len(rows) for rows in shown} == {len(ranks[0])}
        everything = torch.cat([batch for rows in shown for batch in rows])
        assert sorted(everything.tolist()) == list(range(len(user_N)))
        named = [set(user_N[batch].tolist()) - {-1} for rows in shown for batch in rows]
        assert sum(map(len, named)) == len(set(user_N.tolist()) - {-1})
        assert all(len(batch) for rows in shown for batch in rows)


def test_batches_of_users_are_about_as_large_as_asked_and_new_every_epoch():
    user_N = torch.arange(1000) % 125
    batches = UserBatches(user_N, 64, seed=0)
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == len(batches) == 1000 // 64
    assert max(sizes) <= 64 + 2 * 8
    first = torch.cat(list(batches))
    assert torch.equal(first, torch.cat(list(batches)))
    batches.set_epoch(1)
    assert not torch.equal(first, torch.cat(list(batches)))


def test_a_row_of_nobody_is_a_user_of_its_own():
    batches = list(UserBatches(torch.full((20,), -1), 4, seed=0))
    assert [len(batch) for batch in batches] == [4] * 5
    assert sorted(torch.cat(batches).tolist()) == list(range(20))


def test_batches_of_users_go_on_where_they_stopped():
    batches, again = (UserBatches(torch.arange(200) % 40, 20, seed=3) for _ in range(2))
    whole = list(batches)
    again.first = 4
    for left, right in zip(whole[4:], again, strict=True):
        assert torch.equal(left, right)
