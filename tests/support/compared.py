"""Candidates of a comparison whose judgments are said outright."""

from pathlib import Path

import numpy as np
import torch

from micro_lit.compare.candidates import Candidate
from micro_lit.data.pairs import from_records
from micro_lit.features.backbones import CachedBackbone
from micro_lit.models import MixtureBT


def made(margins_NK, log_weights_NK=None, link="probability", data=None) -> Candidate:
    """What a model would judge of the rows: margins of K heads, and log weights, by default equal ones."""
    empty = from_records([], [], {})
    backbone = CachedBackbone(torch.zeros(1, 2), standardise=False, train=empty.pairs)
    num_heads = margins_NK.shape[1]
    found = Candidate("made", Path(), MixtureBT(backbone, {}, num_heads, link=link), data or empty, 64)
    log_weights_NK = np.full(margins_NK.shape, -np.log(num_heads)) if log_weights_NK is None else log_weights_NK
    found.__dict__["_judged"] = {
        "margins_BK": margins_NK, "log_weights_BK": log_weights_NK, "dense_log_weights_BK": log_weights_NK,
    }  # fmt: skip
    return found
