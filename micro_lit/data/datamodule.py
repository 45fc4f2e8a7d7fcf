"""The LightningDataModule and its batch samplers: batches of rows of one data set.

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

# Number of rows that an error message lists.
SHOWN = 5


class RowBatches(Sampler):
    """Batch sampler that yields tensors of row indices, in a new random order each epoch.

    The order depends only on seed and epoch. With several devices each takes its part of every global batch of
    batch_size * world_size rows. In training all parts have the same size, so that the mean of the devices' losses is
    the loss of the batch; rows left over by this are skipped in that epoch. `LengthBatches` groups rows of similar
    length, `UserBatches` rows of a user.

    Args:
        num_rows: number of rows.
        batch_size: rows of a batch on each device.
        seed: of the order; None gives every row exactly once in table order, as evaluation needs.
        rank, world_size: of this device.

    Raises:
        UserError: when there are fewer rows than devices.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int | None, rank: int = 0, world_size: int = 1) -> None:
        if num_rows < world_size:
            raise UserError(f"{num_rows} rows cannot be shared by {world_size} devices; give fewer trainer.devices")
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        # Number of batches yielded in this epoch, and of batches to skip at the next start (when a run is resumed).
        self.done = self.first = 0
        # Rows of the last batch yielded.
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
            row_N = torch.randperm(self.num_rows, generator=self._generator())
        return (row_N[start:stop] for start, stop in self._spans())

    def _spans(self) -> list[tuple[int, int]]:
        """Start and stop of each global batch. Fewer last rows than devices join the batch before, because a device
        without rows would average over nothing."""
        used = self.num_rows if self.seed is None else self.num_rows - self.num_rows % self.world_size
        starts = list(range(0, used, self.batch_size * self.world_size))
        if used - starts[-1] < self.world_size:
            starts.pop()
        return list(zip(starts, [*starts[1:], used], strict=True))

    def _generator(self) -> torch.Generator:
        """Random generator of this epoch, seeded by seed and epoch."""
        return torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self.epoch = epoch


class LengthBatches(RowBatches):
    """Length-bucketed batches: rows of similar length, as many as a token budget allows.

    Rows are sorted by length and shuffled within buckets of about `NEIGHBOURS` batches; the batches of an epoch are
    shuffled too. Every epoch has the same number of batches.

    Args:
        length_N: tokens of each row.
        token_budget: most tokens of a batch on one device, padding included; a single row may have more.
        batch_size: most rows of a batch on one device.
        seed, rank, world_size: see `RowBatches`.
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
        # Buckets of rows sorted by length: start, stop, and rows of a global batch.
        self.buckets: list[tuple[int, int, int]] = []
        start = 0
        while start < len(length_N):
            most = min(batch_size, max(1, token_budget // max(1, int(length_N[self.row_N[start]]))))
            size = most * world_size
            stop = min(len(length_N), start + self.NEIGHBOURS * size)
            if len(length_N) - stop < world_size:
                stop = len(length_N)
            self.buckets.append((start, stop, size))
            start = stop

    def __len__(self) -> int:
        shared = ((stop - start - (stop - start) % self.world_size, size) for start, stop, size in self.buckets)
        return sum(-(-rows // size) for rows, size in shared)

    def _batches(self) -> Iterator[Int64[Tensor, " B"]]:
        generator = self._generator()
        batches = []
        for start, stop, size in self.buckets:
            row_N = self.row_N[start:stop][torch.randperm(stop - start, generator=generator)]
            batches += row_N[: len(row_N) - len(row_N) % self.world_size].split(size)
        return (batches[number] for number in torch.randperm(len(batches), generator=generator).tolist())


class UserBatches(RowBatches):
    """Batches of whole users, with about batch_size rows: the rows of a user are never split over batches.

    Users are shuffled each epoch, and each batch has at least one user per device. Every epoch has the same number of
    batches.

    Args:
        user_N: user of each row; a row with -1 counts as a user of its own.
        batch_size, seed, rank, world_size: see `RowBatches`.

    Raises:
        UserError: when there are fewer users than devices.
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
            raise UserError(
                f"{len(self.count_U)} users cannot be shared by {world_size} devices; give fewer trainer.devices"
            )
        self.row_N = user_N.argsort(stable=True)
        self.first_U = self.count_U.cumsum(0) - self.count_U

    def __len__(self) -> int:
        # Any window as long as the largest user contains the first row of at least one user.
        return max(1, self.num_rows // (self.world_size * max(self.batch_size, int(self.count_U.max()))))

    def __iter__(self) -> Iterator[Int64[Tensor, " B"]]:
        user_U = torch.randperm(len(self.count_U), generator=self._generator())
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
    """The LightningDataModule of a preference data set.

    Checkpoints store the position within an epoch, so that a resumed run continues with the next batch. Models with
    `by_user=True` are trained on batches of whole users (`UserBatches`).

    Args:
        data: the data set.
        batch_size: pairs of a training step on each device.
        eval_batch_size: pairs of an evaluation step on each device.
        seed: of the order of batches and of the label budget.
        token_budget: most tokens of a training step on each device, in length-bucketed batches (`LengthBatches`) of at
            most batch_size pairs. None: batches of batch_size pairs of any length.
        budget: number of training pairs of each attribute, drawn with the seed; None: all pairs.
        unlabelled: number of additional pairs of each attribute whose labels must not be used: they are in
            `train_pairs`, but not in `labelled_pairs`.
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
        # The Trainer may end an epoch before all batches were used, so its own flag decides.
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
        model = getattr(self.trainer, "lightning_module", None)  # may be a LightningModule of another package
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
        """Describes pairs of the last training batch for an error message: training row, and start of the prompt.

        Args:
            at_B: positions in the batch.
        """
        rows = self.train_batches.row_B[at_B.cpu()][:SHOWN].tolist()
        more = f" and {len(at_B) - SHOWN} more" if len(at_B) > SHOWN else ""
        if self.data.is_vectors:
            return f"training rows {', '.join(map(str, rows))}{more}"
        texts = [self.data.texts[int(self.train_pairs.chosen_N[row])].prompt[-1].content for row in rows]
        shown = (f"{row} ({' '.join(text.split())[:40]!r})" for row, text in zip(rows, texts, strict=True))
        return f"training rows {', '.join(shown)}{more}"
