"""The learning rate over the steps of a fit."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def rise_and_fall(optimizer: Optimizer, steps: int, warmup: float) -> LambdaLR:
    """Rises linearly to the optimizer's own rate, and falls to zero along a cosine afterwards.

    Args:
        steps: of the whole fit.
        warmup: share of them in which the rate rises, at least one step.
    """
    total = max(1, steps)
    rising = max(1, round(warmup * total))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, total - rising)))

    return LambdaLR(optimizer, factor)
