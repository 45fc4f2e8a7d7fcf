"""The record of a command: curves while it runs and one `RunRecord` in the end, for every logger of its settings.

A logger implements `Logger`, or `Recorder` beside a logger of Lightning; whatever fails in it, the run goes on.
"""

from micro_lit.host.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "contract": ["Logger", "Recorder"],
        "csv": ["CSVLogger"],
        "jsonl": ["JSONLLogger"],
        "loggers": ["Loggers", "publish"],
        "record": ["Artifact", "RunRecord"],
        "tensorboard": ["TensorBoardLogger"],
        "wandb": ["WandbLogger"],
    },
)
