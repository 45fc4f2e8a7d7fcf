"""The device that encodes texts and judges pairs outside of a Trainer: a GPU where there is one."""

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import nn


def device() -> torch.device:
    """The GPU of this process among those of a run, or the CPU.

    cuBLAS is asked once in a process whether equal products get equal bits, at the first product: what comes before a
    Trainer, which sets this variable for itself, would answer for it, and its training be refused.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


@contextlib.contextmanager
def judging(model: nn.Module) -> Iterator[torch.device]:
    """While inside, a model whose backbone runs a transformer is on the GPU, if there is one; others stay.

    Gives the device of the model: that of the pairs it is to judge.
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
    """While inside, sums over indices on a GPU are taken in one order, whatever a Trainer has set: equal bits."""
    enabled = torch.are_deterministic_algorithms_enabled()
    if where.type != "cuda" or enabled:
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
