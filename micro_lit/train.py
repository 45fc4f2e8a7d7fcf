"""`python -m micro_lit.train +experiment=mixture_k8`: train one reward model and say where it stands."""

import contextlib
import math
from pathlib import Path

from micro_lit.config import Settings, entry_point, in_sweep


def run(settings: Settings, brief: bool = False) -> float:
    """Trains, tests, writes the run folder and prints the tables. Returns the test NLL in nats.

    Of several machines the first returns it, the others nan.

    brief: one of many, of which each prints one line in the end. Raises `UserError` for what the user can mend.
    """
    # Imported here so that --help and a config error answer at once.
    from micro_lit import ranks
    from micro_lit.reporting import results

    folder = Path(settings["paths"]["run_dir"])
    if settings["skip_finished"] and (finished := results.finished(settings)) is not None:
        print(f"finished before: {folder}/")
        return finished["test"]["nll"]["value"]
    if settings["ckpt_path"] == "last":
        settings = {**settings, "ckpt_path": _last(settings, folder)}
    if processes := ranks.needed(settings):
        first = ranks.start(settings, processes, brief=brief or in_sweep())
        return results.read(folder)["test"]["nll"]["value"] if first else math.nan

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


def _last(settings: Settings, folder: Path) -> str | None:
    """What `ckpt_path=last` stands for: the last checkpoint in the run folder, if it is of the same settings."""
    from micro_lit import checkpoints
    from micro_lit.reporting import results

    path = folder / checkpoints.LAST
    if not path.is_file():
        return None
    if not results.same_settings(folder, settings):
        aside = folder / f"checkpoints.{len(list(folder.glob('checkpoints*')))}"
        path.parent.rename(aside)
        print(f"note: {path} is of other settings; set aside in {aside}/, training from the start")
        return None
    print(f"going on from {path}")
    return str(path)


main = entry_point("train")(run)

if __name__ == "__main__":
    main()
