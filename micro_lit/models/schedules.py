"""Learning rate schedule."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def rise_and_fall(optimizer: Optimizer, steps: int, warmup: float) -> LambdaLR:
    """Linear warm-up to the optimizer's learning rate, then cosine decay to zero.

    Args:
        optimizer: optimizer whose rate is scheduled.
        steps: total number of optimiser steps.
        warmup: fraction of steps in the warm-up, from 0 to 1; at least one step.
    """
    total = max(1, steps)
    rising = max(1, round(warmup * total))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, total - rising)))

    return LambdaLR(optimizer, factor)
