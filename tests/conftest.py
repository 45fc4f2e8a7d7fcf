"""Fixtures shared by all tests. Nothing here reaches the network."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:
    # One worker a core: more threads would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real preference sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("MICRO_LIT_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "polis" / "train.parquet").is_file():
        pytest.skip("the real preference sets are not here; set MICRO_LIT_DATA to their folder")
    return folder


SMALL_TEXT = ("data.train=96", "data.validation=32", "data.test=48", "loader.batch_size=32", "trainer.max_epochs=2")
SMALL_FEATURES = ("data.train=512", "data.validation=64", "data.test=256", "loader.batch_size=64")


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., dict]:
    """Settings of a run, composed as the command line would, that writes below the test's own folder."""
    from micro_lit.config import compose

    def make(*overrides: str, config: str = "train") -> dict:
        paths = [f"paths.run_dir={tmp_path / 'run'}", f"paths.features_dir={tmp_path / 'features'}"]
        return compose(config, [*paths, *overrides])

    return make
