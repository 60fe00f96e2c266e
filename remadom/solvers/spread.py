"""The scale of a sample, what squared distances are measured against, and those along edges."""

from __future__ import annotations

import torch
from torch import Tensor

from remadom.shapes import Float, Int

TINY = 1e-12


def mean_square(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"] | None = None) -> Float[Tensor, ""]:
    """Mean squared distance between the rows of two samples, or of one; differentiable, never 0.

    A squared distance over this is 1 for two rows drawn at random, whatever the scale of the sample: a loss of such
    ratios can't be lowered by shrinking everything.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if len(x) == 0 or (y is not None and len(y) == 0):
        return x.new_full((), TINY)
    if y is None:
        return (2 * x.var(0, unbiased=False).sum()).clamp(min=TINY)
    y = y.to(x.dtype)
    spread = x.var(0, unbiased=False).sum() + y.var(0, unbiased=False).sum()
    return (spread + (x.mean(0) - y.mean(0)).square().sum()).clamp(min=TINY)


def squared_lengths(
    x: Float[Tensor, "n d"], src: Int[Tensor, " edge"], dst: Int[Tensor, " edge"]
) -> Float[Tensor, " edge"]:
    """Squared distance between the ends of each edge.

    A row is the end of many edges: ``index_select`` adds their gradients up in one order, where ``x[src]`` adds them
    as the threads arrive, and a run would not repeat to the bit.
    """
    return (x.index_select(0, src) - x.index_select(0, dst)).square().sum(1)
