"""Tracking: every configured logger receives metrics during a command, and one `RunRecord` at its end.

A logger extends `Logger`, or `Recorder` together with a logger of Lightning. An error in a logger never stops the run.
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
