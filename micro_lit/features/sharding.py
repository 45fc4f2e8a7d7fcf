"""Fully sharded training (FSDP2): each device holds its part of the backbone's weights, gradients and optimiser state.

Heads and gate are replicated: every device keeps a copy, and their gradients are averaged. They are small, and many
operations (ridge penalties, heads initialised from data, frozen heads) need the whole tensors.
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
    """`trainer=fsdp`: shards weights over all devices; a checkpoint is one file of full weights, as in other runs."""

    def __init__(self) -> None:
        super().__init__(
            data_parallel_size=ranks.world_size(), tensor_parallel_size=1, save_distributed_checkpoint=False
        )


def check_shardable(trainer: pl.Trainer, backbone: Backbone) -> None:
    """Raises `UserError` when a sharding strategy is used with a frozen backbone or with unsupported settings."""
    wraps_all = isinstance(trainer.strategy, FSDPStrategy)
    sharded = wraps_all or isinstance(trainer.strategy, ModelParallelStrategy)
    if sharded and not backbone.is_trained:
        raise UserError(
            "trainer=fsdp shards a backbone in training, and this one is frozen; use trainer=ddp, or train it "
            "(backbone.frozen=false)"
        )
    if wraps_all and (trainer.gradient_clip_val or str(trainer.precision) != "32-true" or backbone.untrained):
        raise UserError(
            "trainer=fsdp1 wraps heads and backbone as one: it takes trainer.precision=32-true, no clipping and no "
            "LoRA; trainer=fsdp takes all of them"
        )


def shard(backbone: TrainableBackbone, mesh: DeviceMesh, precision: str) -> None:
    """Shards a transformer over the devices of `mesh`, layer by layer; a second call does nothing.

    Args:
        backbone: the backbone of which the transformer is sharded.
        mesh: the devices.
        precision: of the Trainer. With bfloat16, layers are gathered and computed in bfloat16, and gradients are
            reduced in float32.
    """
    network = backbone.transformer.network
    if any(isinstance(weight, DTensor) for weight in network.parameters()):
        return
    # Each pass gathers weights from all devices, so all devices must run the same number of passes.
    backbone.passes_alike = True
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if "bf16" in precision else MixedPrecisionPolicy()
    layers = set(network._no_split_modules or ())
    for module in reversed([module for module in network.modules() if type(module).__name__ in layers]):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)


def shard_batch(weights: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Groups weights into replicated and sharded ones, for optimisers that update many tensors at once (foreach)."""
    parts = [[weight for weight in weights if isinstance(weight, DTensor) == sharded] for sharded in (False, True)]
    return [part for part in parts if part]


def average_gradients(weights: list[nn.Parameter]) -> None:
    """Averages the gradients of replicated weights over all devices."""
    for weight in weights:
        if weight.requires_grad and not isinstance(weight, DTensor):
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            torch.distributed.all_reduce(weight.grad)
            weight.grad /= torch.distributed.get_world_size()


def clip_gradients(weights: list[nn.Parameter], most: float) -> None:
    """Scales all gradients, replicated and sharded, so that their total norm is at most `most`."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    total = torch.stack([norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]).norm()
    factor = (most / (total + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        _local(gradient).mul_(factor)


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
