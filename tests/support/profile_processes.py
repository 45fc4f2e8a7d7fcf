"""What the processes of the profile store's tests run: labels, one at a time, each acknowledged in a file."""

import itertools
import os
import signal
from pathlib import Path

import numpy as np

from micro_lit.adapt.profile_store import ProfileLabels, ProfileStore
from micro_lit.adapt.profiles import Profiles

NUM_HEADS = 4


def nobody() -> Profiles:
    return Profiles(np.full(NUM_HEADS, 1 / NUM_HEADS), "4-abc")


def label(worker: int, number: int) -> ProfileLabels:
    """A label of a user that all processes share, or of the process's own user."""
    user = "everybody" if number % 2 else f"user {worker}"
    margins_NK = np.random.default_rng([worker, number]).normal(size=(1, NUM_HEADS))
    return ProfileLabels([user], margins_NK, [f"{worker} {number}".encode()], [None])


def teach(path: Path, worker: int, count: int | None, acknowledged: Path) -> None:
    """Learns so many labels, or labels without end; what has been learned is a line of a file."""
    with ProfileStore.create(path, nobody()) as store, acknowledged.open("a", buffering=1) as lines:
        for number in itertools.count() if count is None else range(count):
            store.learn(label(worker, number))
            lines.write(f"{worker} {number}\n")


def die_learning(path: Path) -> None:
    """Ends when the label is written, and before it is committed."""
    with ProfileStore(path) as store, store.learning(label(9, 1)):
        os.kill(os.getpid(), signal.SIGKILL)
