"""`python -m micro_lit.dashboard entity=me`: the panels of a W&B project, made in code."""

import json
import os
from pathlib import Path
from typing import Any

from micro_lit.config import Settings, entry_point
from micro_lit.errors import UserError
from micro_lit.host.files import write_text

FLOOR_PANELS = ("oracle", "marginal", "single_bt_conditional", "single_bt_linear")


def run(settings: Settings) -> str:
    """Saves the panels as a view of the project and returns its address; with `out`, writes them to that file instead.

    Raises `UserError` for what the user can mend.
    """
    # Of errors in W&B's own code W&B is not told: it would be another request to a server that may not be there.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        view = workspace(settings["entity"], settings["project"], settings["title"])
    except ImportError as error:
        raise UserError(f"{error}; the panels need an extra: pip install 'micro-lit[dashboard]'") from error
    if settings["out"] is not None:
        try:
            write_text(Path(settings["out"]), json.dumps(view._spec, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"out={settings['out']}: cannot be written ({error.strerror})") from error
        print(f"wrote {settings['out']}")
        return settings["out"]
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    instead = "out=<file> writes the panels to a file instead"
    try:
        if not wandb.login(prompt=False, verify=False):
            raise UserError(f"no key for W&B; set WANDB_API_KEY or run `wandb login`; {instead}")
        address = view.save().url
    except wandb.Error as error:
        raise UserError(f"the panels are not saved ({error}); {instead}") from error
    print(f"saved: {address}")
    return address


def workspace(entity: str, project: str, title: str) -> Any:
    """The view, not yet saved: runs by group and type, panels in sections. Raises `ImportError` without the extra."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def lines(title: str, *metrics: str, **more: Any) -> wr.LinePlot:
        return wr.LinePlot(title=title, x="trainer/global_step", y=list(metrics), **more)

    def bars(title: str, *metrics: str) -> wr.BarPlot:
        return wr.BarPlot(title=title, metrics=list(metrics))

    def scatter(title: str, x: str, y: str) -> wr.ScatterPlot:
        return wr.ScatterPlot(title=title, x=wr.SummaryMetric(x), y=wr.SummaryMetric(y))

    swept = [
        *map(wr.SummaryMetric, ("heads/number", "heads/effective")),
        *map(wr.Config, ("model.optimizer.lr", "loader.batch_size", "seed")),
        *map(wr.SummaryMetric, ("test/accuracy", "test/nll")),
    ]
    sections = {
        "Learning": [
            lines("Training NLL", "train/nll"),
            lines("Validation NLL", "val/nll"),
            lines("Validation accuracy", "val/accuracy"),
        ],
        "Where it stands": [
            bars(
                "Test NLL beside the floors of its population", "test/nll", *(f"floors/{name}" for name in FLOOR_PANELS)
            ),
            bars("Distance from each floor, on the same test rows", *(f"excess/{name}" for name in FLOOR_PANELS)),
            bars("Test accuracy", "test/accuracy"),
            bars("Calibration: Brier score and expected calibration error", "test/brier", "test/ece"),
        ],
        "Heads": [
            lines("Entropy of an example's weights", "val/entropy_per_example"),
            lines("Entropy of the mean weights", "val/entropy_of_mean"),
            lines("Dead heads", "val/dead_heads"),
            lines("Every term of the loss", metric_regex="^train/"),
            bars("Heads in effective use", "heads/effective", "heads/number"),
        ],
        "Sweeps": [
            wr.ParallelCoordinatesPlot(columns=[wr.ParallelCoordinatesPlotColumn(metric=each) for each in swept]),
            scatter("Test NLL over the number of heads", "heads/number", "test/nll"),
            scatter("Heads in use over the number of heads", "heads/number", "heads/effective"),
            wr.ParameterImportancePlot(with_respect_to="test/nll"),
        ],
        "Time and data": [
            bars("Seconds of a run", "seconds"),
            scatter("Test NLL over training pairs", "data/train", "test/nll"),
            bars("Rows left out, texts cut", "data/dropped", "data/ties", "data/same_tokens", "data/truncated"),
        ],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=title,
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group"), ws.Metric("JobType")]),
    )


main = entry_point("dashboard")(run)

if __name__ == "__main__":
    main()
