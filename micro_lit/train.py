"""`python -m micro_lit.train +experiment=mixture_k8`: train one reward model and say where it stands."""

import contextlib
from pathlib import Path

from micro_lit.config import Settings, entry_point, in_sweep


def run(settings: Settings, brief: bool = False) -> float:
    """Trains, tests, writes the run folder and prints the tables. Returns the test NLL in nats, for sweepers.

    brief: one of many, of which each prints one line in the end. Raises `UserError` for what the user can mend.
    """
    # Imported here so that --help and a config error answer at once.
    from micro_lit import ranks

    with ranks.stoppable():
        return _run(settings, brief)


def _run(settings: Settings, brief: bool) -> float:
    from micro_lit import checkpoints, ranks
    from micro_lit.reporting import results

    folder = Path(settings["paths"]["run_dir"])
    if settings["skip_finished"] and (finished := results.finished(settings)) is not None:
        print(f"finished before: {folder}/")
        return finished["test"]["nll"]["value"]
    if settings["ckpt_path"] == "last":
        settings = {**settings, "ckpt_path": checkpoints.last(settings)}
    if processes := ranks.needed(settings):
        ranks.start(settings, processes, brief=brief or in_sweep())
        return results.read(folder)["test"]["nll"]["value"]

    from micro_lit import runs, tracking
    from micro_lit.reporting import terminal

    # One process of a run writes, and the others beside it.
    alone = runs.alone_in(folder) if ranks.rank() == 0 else contextlib.nullcontext()
    with alone, runs.Run(settings) as this:
        if not brief:
            terminal.show_data(this.data, this.backbone.example)
        this.fit()
        measured = results.assemble(settings, this.data, this.test(), this.seconds)
        if this.trainer.is_global_zero:
            results.write(measured, folder)
            tracking.log_outcome(this.loggers, folder, getattr(this.backbone, "store_folder", None))
            terminal.show_results(measured, folder, brief=brief or in_sweep())
    return measured["test"]["nll"]["value"]


main = entry_point("train")(run)

if __name__ == "__main__":
    main()
