"""Cache of evidence: the numbers of each training pair from which the codes of users are learned.

A trained backbone encodes every training text once per epoch. The evidence of those forward passes is cached here, so
that validation learns codes from it and encodes only the pairs that the epoch has not reached yet.

Dimension letters: N training pairs, B pairs of a batch, E numbers of evidence of a pair.
"""

from typing import Any

import torch
import torch.distributed
from jaxtyping import Bool, Float, Int64
from torch import Tensor


class EpochEvidence:
    """Evidence of the training pairs that this process has read so far in an epoch.

    Devices read different pairs; `gathered` returns those of all devices.

    Args:
        num_pairs: number of training pairs, N.
    """

    def __init__(self, num_pairs: int) -> None:
        self.epoch = -1
        self.evidence_NE: Tensor | None = None
        self.read_N = torch.zeros(num_pairs, dtype=torch.bool)

    def begin(self, epoch: int) -> None:
        """Clears the evidence at the start of a new epoch; an epoch that is resumed keeps its evidence."""
        if epoch != self.epoch:
            self.epoch, self.read_N = epoch, torch.zeros_like(self.read_N)
            self.evidence_NE = None

    def keep(self, row_B: Int64[Tensor, " B"], evidence_BE: Float[Tensor, "B E"]) -> None:
        """Stores the evidence of a batch. row_B: indices among the training pairs."""
        if self.evidence_NE is None:
            self.evidence_NE = evidence_BE.new_zeros(len(self.read_N), evidence_BE.shape[1])
        # Tensors loaded from a checkpoint are on the CPU.
        self.evidence_NE, self.read_N = self.evidence_NE.to(evidence_BE.device), self.read_N.to(evidence_BE.device)
        row_B = row_B.to(evidence_BE.device)
        self.evidence_NE[row_B], self.read_N[row_B] = evidence_BE, True

    def gathered(self) -> tuple[Float[Tensor, "N E"] | None, Bool[Tensor, " N"]]:
        """The evidence read by all devices, 0 where `read_N` is false, and `read_N`; None before the first batch."""
        if self.evidence_NE is None or not torch.distributed.is_initialized():
            return self.evidence_NE, self.read_N
        evidence_NE, read_N = self.evidence_NE.clone(), self.read_N.int()
        for each in (evidence_NE, read_N):
            torch.distributed.all_reduce(each)
        return evidence_NE, read_N.bool()

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint, so that a run resumed in mid-epoch validates like an uninterrupted one."""
        evidence_NE, read_N = self.gathered()
        return {"epoch": self.epoch, "evidence": evidence_NE, "read": read_N}

    def load_state_dict(self, state: dict[str, Any], is_first: bool) -> None:
        """Restores the state on the first device only, so that `gathered` counts no pair twice."""
        self.epoch, evidence_NE, read_N = state["epoch"], state["evidence"], state["read"]
        if evidence_NE is not None:
            self.evidence_NE = evidence_NE if is_first else torch.zeros_like(evidence_NE)
            self.read_N = read_N if is_first else torch.zeros_like(read_N)
