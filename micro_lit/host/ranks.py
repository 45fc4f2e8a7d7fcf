"""Rank and world size of this process, from the environment variables that launchers set."""

import os


def rank() -> int:
    """The rank of this process in its run, from 0."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def world_size() -> int:
    """Number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", 1))
