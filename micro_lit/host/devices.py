"""The device that encodes texts and scores pairs outside of a Trainer: the GPU if there is one."""

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import nn


def device() -> torch.device:
    """The GPU of this process by its local rank, or the CPU.

    Sets CUBLAS_WORKSPACE_CONFIG, which cuBLAS reads once per process, at its first product. A Trainer sets it too, but
    a product computed earlier would fix the non-deterministic mode, and deterministic training would then fail.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


@contextlib.contextmanager
def judging(model: nn.Module) -> Iterator[torch.device]:
    """Context manager: moves a model whose backbone runs a transformer to the GPU, if there is one; others stay.

    Yields the device of the model, to which the pairs to be scored must be moved.
    """
    before = model.device
    if model.backbone.is_trained and before.type == "cpu":
        model.to(device())
    try:
        yield model.device
    finally:
        model.to(before)


@contextlib.contextmanager
def repeatable(where: torch.device) -> Iterator[None]:
    """Context manager: makes sums over indices on a GPU deterministic (bit-equal), whatever a Trainer has set."""
    enabled = torch.are_deterministic_algorithms_enabled()
    if where.type != "cuda" or enabled:
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
