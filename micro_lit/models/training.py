"""Training independent of the loss: optimizer, schedule, sharding, checkpoint content and non-finite losses.

Dimension letters: B pairs in the batch.
"""

from collections.abc import Callable
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from micro_lit.config.rules import Takes
from micro_lit.errors import UserError
from micro_lit.features import sharding
from micro_lit.models.schedules import rise_and_fall

OptimizerFactory = Annotated[
    Callable[..., torch.optim.Optimizer], Takes("micro_lit.config.settings.Optimizer", more=True)
]


class TrainedModule(pl.LightningModule):
    """A LightningModule whose subclass defines the loss.

    Attributes:
        backbone: module whose weights may be trained.
        make_optimizer: parameters -> optimizer.
        warmup: fraction of all steps in which the learning rate rises.
    """

    backbone: nn.Module
    make_optimizer: Callable[..., torch.optim.Optimizer]
    warmup: float

    def on_train_start(self) -> None:
        # Checkpoints do not record an early stop, so a resumed run would train on.
        self.trainer.should_stop = any(
            callback.wait_count >= callback.patience for callback in self.trainer.early_stopping_callbacks
        )

    def not_finite(self, loss: float, terms_B: Float[Tensor, " B"], num_pairs: int) -> UserError:
        """The error for a non-finite loss: lists the rows it comes from, and remedies.

        Args:
            loss: value of the loss.
            terms_B: loss of each pair of the batch.
            num_pairs: number of pairs in the batch.
        """
        bad_B = ~terms_B.isfinite().flatten()
        rows = bad_B.nonzero()[:, 0] if len(bad_B) == num_pairs else bad_B.new_empty(0)
        where = self.trainer.datamodule.describe(rows if len(rows) else torch.arange(num_pairs))
        return UserError(
            f"the loss is {loss} at step {self.global_step}, from {len(rows) or num_pairs} of the batch's "
            f"{num_pairs} pairs: {where}. A lower model.optimizer.lr, or correcting these rows, may help; "
            "+debug=anomaly names the operation it comes from"
        )

    def configure_model(self) -> None:
        """Shards the backbone if the strategy shards."""
        if self.device_mesh is not None:
            sharding.shard(self.backbone, self.device_mesh["data_parallel"], str(self.trainer.precision))

    def on_after_backward(self) -> None:
        if self.device_mesh is not None:
            sharding.average_gradients(list(self.parameters()))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if self.device_mesh is not None and gradient_clip_val:
            if gradient_clip_algorithm not in (None, "norm"):
                raise UserError("trainer=fsdp clips by norm; leave trainer.gradient_clip_algorithm out")
            sharding.clip_gradients(list(self.parameters()), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def saves(self, name: str) -> bool:
        """Whether checkpoints store the weight of this name; untrained weights of a pretrained backbone are omitted."""
        return name.removeprefix("backbone.") not in self.backbone.untrained

    def configure_optimizers(self) -> torch.optim.Optimizer | dict[str, Any]:
        trained = sharding.shard_batch([weight for weight in self.parameters() if weight.requires_grad])
        optimizer = self.make_optimizer(trained[0] if len(trained) == 1 else [{"params": part} for part in trained])
        if isinstance(optimizer, torch.optim.LBFGS):
            # Its line search sets the steps, and evaluates one loss and its exact gradient repeatedly.
            if self.trainer.gradient_clip_val or self.trainer.accumulate_grad_batches > 1:
                raise UserError(
                    "model/optimizer=lbfgs needs the gradient as it is; give trainer.gradient_clip_val=null "
                    "trainer.accumulate_grad_batches=1"
                )
            return optimizer
        schedule = rise_and_fall(optimizer, int(self.trainer.estimated_stepping_batches), self.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
