"""Fully sharded training (FSDP2): each device holds its part of the backbone's weights, gradients and optimiser state.

Heads and gate are small, and much of what is done to them (ridges, heads made of the data, heads that are frozen) asks
for the whole of them: every device keeps a copy, and their gradients are averaged.
"""

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from micro_lit.errors import UserError
from micro_lit.features.backbones import Backbone, TrainableBackbone
from micro_lit.host import ranks


class FullySharded(ModelParallelStrategy):
    """`trainer=fsdp`: weights sharded over all devices; checkpoints are whole, in one file, as of any other run."""

    def __init__(self) -> None:
        super().__init__(
            data_parallel_size=ranks.world_size(), tensor_parallel_size=1, save_distributed_checkpoint=False
        )


def check(trainer: pl.Trainer, backbone: Backbone) -> None:
    """Raises `UserError` when a sharding strategy has nothing to shard, or cannot do what else is asked for."""
    wraps_all = isinstance(trainer.strategy, FSDPStrategy)
    sharded = wraps_all or isinstance(trainer.strategy, ModelParallelStrategy)
    if sharded and not backbone.is_trained:
        raise UserError(
            "trainer=fsdp shards a backbone in training, and this one is frozen: its features are looked up; use "
            "trainer=ddp, or train it (backbone.frozen=false)"
        )
    if wraps_all and (trainer.gradient_clip_val or str(trainer.precision) != "32-true" or backbone.untrained):
        raise UserError(
            "trainer=fsdp1 wraps heads and backbone as one: it takes trainer.precision=32-true, no clipping and no "
            "LoRA; trainer=fsdp takes all of them"
        )


def shard(backbone: TrainableBackbone, mesh: DeviceMesh, precision: str) -> None:
    """Shards a transformer over the devices of `mesh`, layer by layer; a second time does nothing.

    precision: the Trainer's. With one of bfloat16 a layer is gathered, and computes, in bfloat16; gradients are summed
    in float32.
    """
    network = backbone.transformer.network
    if any(isinstance(weight, DTensor) for weight in network.parameters()):
        return
    # Each pass gathers the weights from all devices, so that all must run as many.
    backbone.passes_alike = True
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if "bf16" in precision else MixedPrecisionPolicy()
    layers = set(network._no_split_modules or ())
    for module in reversed([module for module in network.modules() if type(module).__name__ in layers]):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)


def split(weights: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Weights that are whole and weights that are sharded, for optimisers that update many tensors at once."""
    parts = [[weight for weight in weights if isinstance(weight, DTensor) == sharded] for sharded in (False, True)]
    return [part for part in parts if part]


def average_gradients(weights: list[nn.Parameter]) -> None:
    """Averages over all devices the gradients of weights of which every device has a copy."""
    for weight in weights:
        if weight.requires_grad and not isinstance(weight, DTensor):
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            torch.distributed.all_reduce(weight.grad)
            weight.grad /= torch.distributed.get_world_size()


def clip_gradients(weights: list[nn.Parameter], most: float) -> None:
    """Scales all gradients, whole and sharded, so that their common norm is `most` or less."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    total = torch.stack([norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]).norm()
    factor = (most / (total + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        _local(gradient).mul_(factor)


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
