"""Training from settings to results, in this process or in one worker per device."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from micro_lit.config import Settings, in_sweep
from micro_lit.errors import ImpossibleResult
from micro_lit.host import threads
from micro_lit.report import results
from micro_lit.run import run_folder, workers


def train(settings: Settings, brief: bool = False) -> float:
    """Trains, tests, writes the run folder and prints the tables.

    Args:
        settings: resolved settings of the run.
        brief: print one line instead of tables, for a run that is one of many.

    Returns:
        The test NLL in nats. With several machines, the first returns it and the others return nan.

    Raises:
        UserError: a mistake that the user can correct.
        ImpossibleResult: the results, already written, cannot be true.
    """
    folder = Path(settings["paths"]["run_dir"])
    if workers.is_worker():
        return _train(settings, folder, brief)["test"]["nll"]["value"]  # the parent process checks it
    processes, leads = workers.needed(settings), workers.leads(settings)
    with run_folder.alone_in(folder) if leads else contextlib.nullcontext() as lock:
        found = run_folder.plan(settings) if leads else run_folder.follow(settings)
        if found.finished is not None:
            print(f"finished before: {folder}/")
            return _valid_nll(found.finished, folder)
        if leads:
            run_folder.write_typed(folder)
        if not processes:
            return _valid_nll(_train(found.settings, folder, brief), folder)
        first = workers.start(found.settings, processes, brief=brief or in_sweep(), lock=lock)
        return _valid_nll(results.read_results(folder), folder) if first else math.nan


def _valid_nll(found: Mapping[str, Any], folder: Path) -> float:
    """The test NLL of valid results. Raises `ImpossibleResult` otherwise."""
    if not found.get("valid", True):
        raise ImpossibleResult(f"{folder}: {found['invalid_because']}")
    return found["test"]["nll"]["value"]


@threads.by_settings
def _train(settings: Settings, folder: Path, brief: bool) -> dict[str, Any]:
    """Trains and tests in one process of a run. Returns the content of results.json."""
    from micro_lit.report import results, terminal
    from micro_lit.run.run import Run

    with Run(settings) as this, threads.using(this.backbone):
        if not brief:
            terminal.show_data(this.data, this.backbone.example)
            if this.settings["model"] != settings["model"]:
                terminal.show_heads(this.model.num_heads, this.data)
        this.fit()
        measured = results.assemble(this.settings, this.data, this.test(), this.seconds)
        if this.trainer.is_global_zero:
            results.write_results(measured, folder)
            this.keep_codes()
            this.record(measured)
            terminal.show_results(measured, folder, brief=brief or in_sweep())
    return measured
