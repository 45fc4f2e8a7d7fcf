"""The LightningDataModule: batches of rows of one data set.

Dimension letters: N pairs, U users, u users of a batch.
"""

from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from micro_lit.data.budgets import draw_budget
from micro_lit.data.pairs import Pairs, PreferenceData
from micro_lit.errors import UserError
from micro_lit.ranges import Count, Index

# Rows that an error names.
SHOWN = 5


class RowBatches(Sampler):
    """Batches of row numbers, as tensors; a fresh permutation an epoch that depends on seed and epoch alone.

    With several devices each takes its part of every global batch of batch_size * world_size rows. In training all
    parts of a batch are equally large, so that the mean of the devices' losses is the loss of the batch; rows that this
    leaves over wait for another epoch. Without a seed the order is that of the table and every row is there once, as a
    test needs. `LengthBatches` groups rows of like length, `UserBatches` those of a user.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int | None, rank: int = 0, world_size: int = 1) -> None:
        if num_rows < world_size:
            raise UserError(f"{num_rows} rows cannot be shared by {world_size} devices; give fewer trainer.devices")
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        # Batches of this epoch that were given out, and after how many of them the next epoch to come begins.
        self.done = self.first = 0
        # The rows that were given out last.
        self.row_B = torch.arange(0)

    def __len__(self) -> int:
        return len(self._spans())

    def __iter__(self) -> Iterator[Int64[Tensor, " B"]]:
        batches = self._batches()
        self.done = first = self.first % max(1, len(self))
        self.first = 0
        for number, row_B in enumerate(batches):
            if number >= first:
                self.done = number + 1
                self.row_B = row_B[self.rank :: self.world_size]
                yield self.row_B

    def _batches(self) -> Iterator[Int64[Tensor, " B"]]:
        """The global batches of this epoch, in order."""
        if self.seed is None:
            row_N = torch.arange(self.num_rows)
        else:
            row_N = torch.randperm(self.num_rows, generator=self._chance())
        return (row_N[start:stop] for start, stop in self._spans())

    def _spans(self) -> list[tuple[int, int]]:
        """Where each global batch begins and ends; a device without rows would average over nothing, so the last rows
        join the batch before when they are fewer than devices."""
        used = self.num_rows if self.seed is None else self.num_rows - self.num_rows % self.world_size
        starts = list(range(0, used, self.batch_size * self.world_size))
        if used - starts[-1] < self.world_size:
            starts.pop()
        return list(zip(starts, [*starts[1:], used], strict=True))

    def _chance(self) -> torch.Generator:
        """What draws the order of this epoch: seed and epoch determine it."""
        return torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self.epoch = epoch


class LengthBatches(RowBatches):
    """Batches of rows of like length, each as large as a budget of tokens allows: long rows come few at a time.

    length_N: tokens of each row. token_budget: tokens of a batch on one device, every row counted as long as the
    longest; a single row may have more. batch_size: rows of a batch on one device, at most. Rows are drawn among
    those of about `NEIGHBOURS` batches of their length, and the batches of an epoch come in any order. An epoch has as
    many batches as any other.
    """

    NEIGHBOURS = 16

    def __init__(
        self,
        length_N: Int64[Tensor, " N"],
        token_budget: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(length_N), batch_size, seed, rank, world_size)
        self.row_N = length_N.argsort(descending=True, stable=True)
        # Stretches of rows sorted by length, and how many rows of each make a global batch.
        self.stretches: list[tuple[int, int, int]] = []
        start = 0
        while start < len(length_N):
            most = min(batch_size, max(1, token_budget // max(1, int(length_N[self.row_N[start]]))))
            size = most * world_size
            stop = min(len(length_N), start + self.NEIGHBOURS * size)
            if len(length_N) - stop < world_size:
                stop = len(length_N)
            self.stretches.append((start, stop, size))
            start = stop

    def __len__(self) -> int:
        shared = ((stop - start - (stop - start) % self.world_size, size) for start, stop, size in self.stretches)
        return sum(-(-rows // size) for rows, size in shared)

    def _batches(self) -> Iterator[Int64[Tensor, " B"]]:
        chance = self._chance()
        batches = []
        for start, stop, size in self.stretches:
            row_N = self.row_N[start:stop][torch.randperm(stop - start, generator=chance)]
            batches += row_N[: len(row_N) - len(row_N) % self.world_size].split(size)
        return (batches[number] for number in torch.randperm(len(batches), generator=chance).tolist())


class UserBatches(RowBatches):
    """Batches that hold all rows of their users, and of about batch_size rows: no user is cut, no row is padding.

    user_N: whose each row is; a row of -1 has a user of its own. Users come in a fresh order every epoch, and each
    batch has one or more for every device. An epoch has as many batches as any other.
    """

    def __init__(
        self, user_N: Int64[Tensor, " N"], batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(len(user_N), batch_size, seed, rank, world_size)
        alone_N = -1 - torch.arange(len(user_N))
        _, user_N, self.count_U = torch.where(user_N >= 0, user_N, alone_N).unique(
            return_inverse=True, return_counts=True
        )
        if len(self.count_U) < world_size:
            raise UserError(f"{len(self.count_U)} users cannot be shared by {world_size} devices; give trainer.devices")
        self.row_N = user_N.argsort(stable=True)
        self.first_U = self.count_U.cumsum(0) - self.count_U

    def __len__(self) -> int:
        # A stretch as long as the largest user's rows holds the beginning of one user or more.
        return max(1, self.num_rows // (self.world_size * max(self.batch_size, int(self.count_U.max()))))

    def __iter__(self) -> Iterator[Int64[Tensor, " B"]]:
        user_U = torch.randperm(len(self.count_U), generator=self._chance())
        begin_U = self.count_U[user_U].cumsum(0) - self.count_U[user_U]
        batch_U = begin_U * len(self) // self.num_rows
        self.done = first = self.first % len(self)
        self.first = 0
        for batch in range(first, len(self)):
            self.done = batch + 1
            users_u = user_U[batch_U == batch][self.rank :: self.world_size]
            spans = zip(self.first_U[users_u].tolist(), self.count_U[users_u].tolist(), strict=True)
            self.row_B = torch.cat([self.row_N[start : start + count] for start, count in spans])
            yield self.row_B


class PreferenceDataModule(pl.LightningDataModule):
    """batch_size: pairs in a training step, on each device. eval_batch_size: pairs at once without gradients.

    token_budget: tokens of a training step on each device; pairs then come in batches of like length (`LengthBatches`),
        with at most batch_size pairs. None: in batches of batch_size, whatever their length.
    budget: train on so many pairs of each attribute only, drawn with the seed; None: on all.
    unlabelled: so many more of each, whose labels nobody may look at: in `train_pairs`, but not in `labelled_pairs`.

    A model that asks for it (`by_user`) is trained on batches that hold all training pairs of their users.

    Its place within an epoch goes into checkpoints, so that a resumed run sees the batches that were still to come.
    """

    def __init__(
        self,
        data: PreferenceData,
        batch_size: Count,
        eval_batch_size: Count,
        seed: int,
        token_budget: Count | None = None,
        budget: Count | None = None,
        unlabelled: Index = 0,
    ) -> None:
        super().__init__()
        self.data = data
        self.token_budget = token_budget
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed = seed
        self.train_pairs = self.labelled_pairs = data.split("train")
        if budget is not None:
            self.labelled_pairs = data.pairs[draw_budget(data, budget, seed)]
            self.train_pairs = data.pairs[draw_budget(data, budget, seed, further=unlabelled)]
        self.done = 0

    def state_dict(self) -> dict[str, int]:
        # The last batch of an epoch need not be the last that there is.
        return {"done": 0 if self.trainer.is_last_batch else self.train_batches.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]

    def train_dataloader(self) -> DataLoader:
        self.train_batches = self._train_batches()
        self.train_batches.first, self.done = self.done, 0
        return DataLoader(self.train_pairs, batch_size=None, sampler=self.train_batches)

    def val_dataloader(self) -> DataLoader:
        return self._in_order("validation")

    def test_dataloader(self) -> DataLoader:
        return self._in_order("test")

    def transfer_batch_to_device(self, batch: Pairs, device: torch.device, dataloader_idx: int) -> Pairs:
        return batch.pinned().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)

    def _train_batches(self) -> RowBatches:
        model = getattr(self.trainer, "lightning_module", None)  # any LightningModule, not only one of ours
        common = {"batch_size": self.batch_size, "seed": self.seed, **self._place()}
        if getattr(model, "by_user", False):
            return UserBatches(self.train_pairs.label_N("user_id"), **common)
        if self.token_budget is not None:
            return LengthBatches(model.backbone.lengths(self.train_pairs), self.token_budget, **common)
        return RowBatches(len(self.train_pairs), **common)

    def _in_order(self, split: str) -> DataLoader:
        pairs = self.data.split(split)
        batches = RowBatches(len(pairs), self.eval_batch_size, seed=None, **self._place())
        return DataLoader(pairs, batch_size=None, sampler=batches)

    def _place(self) -> dict[str, int]:
        if self.trainer is None:
            return {}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def describe(self, at_B: Int64[Tensor, " B"]) -> str:
        """Some pairs of the training batch given out last, by their row among the training pairs and how they begin.

        at_B: where they stand in the batch.
        """
        rows = self.train_batches.row_B[at_B.cpu()][:SHOWN].tolist()
        more = f" and {len(at_B) - SHOWN} more" if len(at_B) > SHOWN else ""
        if self.data.is_vectors:
            return f"training rows {', '.join(map(str, rows))}{more}"
        texts = [self.data.texts[int(self.train_pairs.chosen_N[row])].prompt[-1].content for row in rows]
        shown = (f"{row} ({' '.join(text.split())[:40]!r})" for row, text in zip(rows, texts, strict=True))
        return f"training rows {', '.join(shown)}{more}"
