"""TensorBoard logger: metrics, and the results of a command as scalars, tables and images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning.loggers as loggers
import yaml

from micro_lit.errors import UserError
from micro_lit.track.contract import Recorder
from micro_lit.track.record import RunRecord


class TensorBoardLogger(loggers.TensorBoardLogger, Recorder):
    """Lightning's TensorBoard logger, writing to `tensorboard/` in `save_dir`; view with `tensorboard --logdir runs`.

    Settings and tables are logged as text, figures as images, the summary as scalars named `summary/...`.

    Raises:
        UserError: neither tensorboard nor tensorboardX is installed.
    """

    def __init__(self, save_dir: str) -> None:
        try:
            super().__init__(save_dir, name="tensorboard", version="", default_hp_metric=False)
        except ModuleNotFoundError as error:
            raise UserError("logger.tensorboard: needs `pip install 'micro-lit[tensorboard]'`") from error

    def log_hyperparams(self, params: Mapping[str, Any], *arguments: Any, **named: Any) -> None:
        self.hparams = dict(params)  # Lightning's `save` writes them to hparams.yaml
        settings = yaml.safe_dump(dict(params), sort_keys=False)
        self.experiment.add_text("settings", "".join(f"    {line}\n" for line in settings.splitlines()))

    def record(self, record: RunRecord) -> None:
        for name, value in record.summary.items():
            self.experiment.add_scalar(f"summary/{name}", value)
        for name, frame in record.tables.items():
            self.experiment.add_text(f"{record.command}/{name}", _markdown(frame))
        for name, path in record.figures.items():
            self.experiment.add_image(f"{record.command}/{name}", _pixels(str(path)), dataformats="HWC")
        self.save()


def _markdown(frame: pd.DataFrame) -> str:
    cells = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy(dtype=object).tolist()]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |\n" for row in cells)


def _pixels(path: str) -> np.ndarray:
    from PIL import Image  # installed with TensorBoard and with matplotlib

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
