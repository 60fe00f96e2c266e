"""The scale of a sample: what squared distances are measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from remadom.shapes import Float

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
