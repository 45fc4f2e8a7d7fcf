"""Tests of the evidence that an epoch keeps of its training pairs, on several devices."""

import torch
import torch.distributed
import torch.multiprocessing

from micro_lit.models.people.evidence import EpochEvidence


def keep_a_part(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        evidence = EpochEvidence(5)
        evidence.begin(0)
        row_B = torch.tensor([[4, 0], [1]][rank])
        evidence.keep(row_B, torch.stack([row_B.float(), 10.0 * row_B], dim=1))
        restored = EpochEvidence(5)
        restored.load_state_dict(evidence.state_dict(), is_first=rank == 0)
        restored.begin(0)
        restored.keep(torch.tensor([2 + rank]), torch.full((1, 2), 7.0))
        torch.save([*evidence.gathered(), *restored.gathered()], f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_devices_share_what_each_has_read_and_a_checkpoint_counts_nothing_twice(tmp_path):
    torch.multiprocessing.start_processes(keep_a_part, (str(tmp_path),), nprocs=2, start_method="fork")
    for rank in range(2):
        evidence_NE, read_N, after_NE, after_N = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert read_N.tolist() == [True, True, False, False, True]
        assert evidence_NE[:, 1].tolist() == [0.0, 10.0, 0.0, 0.0, 40.0]
        assert after_N.all()
        assert after_NE[:, 0].tolist() == [0.0, 1.0, 7.0, 7.0, 4.0]
        assert torch.equal(after_NE[read_N], evidence_NE[read_N])


def test_a_new_epoch_forgets_and_the_same_one_does_not():
    evidence = EpochEvidence(2)
    evidence.begin(3)
    evidence.keep(torch.tensor([1]), torch.ones(1, 1))
    evidence.begin(3)
    assert evidence.gathered()[1].tolist() == [False, True]
    evidence.begin(4)
    assert evidence.gathered()[0] is None
