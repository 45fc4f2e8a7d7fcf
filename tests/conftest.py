"""Fixtures shared by all tests. Nothing here reaches the network."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import processes
import pytest

REPOSITORY = Path(__file__).parent.parent

# What tools may leave in the repository.
CACHES = {".coverage", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__"}

# No example is judged by the time it takes, which depends on what else the machine does. `make test` tries the same
# examples each time, fewer of them; `make test-full` draws others: --hypothesis-profile=random.
UNTIMED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("random", **UNTIMED)
hypothesis.settings.register_profile("repeatable", **UNTIMED, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("repeatable")

processes.adopt_orphans()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what runs in the background; the commands that tests start would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tensors of tests are tiny: a second thread would only spin while it waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what slow.txt and full.txt name: files, tests, or tests with some parameters."""
    for mark in ("slow", "full"):
        named = set((Path(__file__).parent / f"{mark}.txt").read_text().splitlines())
        for item in items:
            test = item.nodeid.split("[")[0]
            names = {item.nodeid, test, test.split("::")[0]}
            if named & names and not (mark == "slow" and item.get_closest_marker("quick")):
                item.add_marker(mark)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails a test that leaves a process, or a file in the repository."""
    before, names = list(processes.running()), set(os.listdir(REPOSITORY))
    yield
    if "wandb" in sys.modules:
        from micro_lit.track import wandb

        wandb._forget_service()  # wandb-core serves all runs of a process, and would end with it
    left = processes.left_behind(before)
    assert not left, f"processes are left running: {left}"
    new = set(os.listdir(REPOSITORY)) - names - CACHES
    assert not new, f"left in the repository: {sorted(new)}"


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a process as `subprocess.Popen` does; when the test ends, none of them runs, nor what they started."""
    with processes.starting() as start:
        yield start


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
