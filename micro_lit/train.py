"""`python -m micro_lit.train +experiment=mixture_k8`: train one reward model and say where it stands."""

import contextlib
import math
from pathlib import Path

from micro_lit import threads
from micro_lit.config import Settings, entry_point, in_sweep


def run(settings: Settings, brief: bool = False) -> float:
    """Trains, tests, writes the run folder and prints the tables. Returns the test NLL in nats.

    Of several machines the first returns it, the others nan.

    brief: one of many, of which each prints one line in the end. Raises `UserError` for what the user can mend.
    """
    # Imported here so that --help and a config error answer at once.
    from micro_lit import ranks, run_folder
    from micro_lit.reporting import results

    folder = Path(settings["paths"]["run_dir"])
    if ranks.ours():
        return _train(settings, folder, brief)
    processes, leads = ranks.needed(settings), ranks.leads(settings)
    with run_folder.alone_in(folder) if leads else contextlib.nullcontext() as lock:
        found = run_folder.plan(settings) if leads else run_folder.follow(settings)
        if found.finished is not None:
            print(f"finished before: {folder}/")
            return found.finished["test"]["nll"]["value"]
        if leads:
            run_folder.write_typed(folder)
        if not processes:
            return _train(found.settings, folder, brief)
        first = ranks.start(found.settings, processes, brief=brief or in_sweep(), lock=lock)
        return results.read(folder)["test"]["nll"]["value"] if first else math.nan


@threads.by_settings
def _train(settings: Settings, folder: Path, brief: bool) -> float:
    """One process of a run, or the only one."""
    from micro_lit import runs
    from micro_lit.reporting import results, terminal

    with runs.Run(settings) as this, threads.using(this.backbone):
        if not brief:
            terminal.show_data(this.data, this.backbone.example)
            if this.settings["model"] != settings["model"]:
                terminal.show_heads(this.model.num_heads, this.data)
        this.fit()
        measured = results.assemble(this.settings, this.data, this.test(), this.seconds)
        if this.trainer.is_global_zero:
            results.write(measured, folder)
            this.record(measured)
            terminal.show_results(measured, folder, brief=brief or in_sweep())
    return measured["test"]["nll"]["value"]


main = entry_point("train")(run)

if __name__ == "__main__":
    main()
