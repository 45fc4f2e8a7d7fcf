"""What happens when the jobs of a sweep have ended."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from micro_lit.errors import UserError


class ReportSweep(Callback):
    """Writes the report of all jobs once a sweep has ended; `conf/train.yaml` names it among Hydra's callbacks."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from micro_lit.reporting import report

        sweep = Path(config.hydra.sweep.dir)
        spec = OmegaConf.to_container(config.report, resolve=True)
        folder = Path(spec["out"] or sweep / "report")
        OmegaConf.set_readonly(config, False)
        config.paths.run_dir = str(folder)
        logger = OmegaConf.to_container(config.logger, resolve=True)
        wandb = {**logger["wandb"], "group": sweep.name} if "wandb" in logger else None
        try:
            report.write([str(sweep)], spec, folder, wandb)
        except UserError as error:
            print(f"no report: {error}\nonce that is mended: python -m micro_lit.report runs={sweep}")
