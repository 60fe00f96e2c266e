"""Fractions from 0 to 1, both ends included."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from remadom.core.likelihood.block import Family, block_nll
from remadom.shapes import Float
from remadom.types import Rows


class OrderedBeta(Family):
    """Beta with masses at 0 and 1, by one score, its log precision and two cut points.

    With score ``s``: ``P(0) = 1 - sigmoid(s - cut)``, ``P(1) = sigmoid(s - cut - gap)``, and in between the beta of
    mean ``sigmoid(s)`` and precision ``phi`` (Kubinec 2023, doi:10.1017/pan.2022.20). Exact ends need neither to be
    moved inwards nor to be explained apart from the rest. Parameters: ``s``, ``log phi``, ``cut``, ``log gap``.
    """

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        score, _, cut, _ = params
        by_score, by_precision, by_cut, by_gap = grads
        by_precision.zero_()
        by_gap.zero_()
        above = torch.sub(score, cut)
        torch.sigmoid(above, out=by_score)
        torch.neg(by_score, out=by_cut)
        return F.softplus(above)

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        # in float64: the terms of the beta function are large and cancel, and only non-zeros come here
        score, log_precision, cut, log_gap = (p.double() for p in params)
        gap = log_gap.exp()
        lower = score - cut
        upper = lower - gap
        one = x >= 1
        density, by_score, by_precision = _beta(torch.where(one, 0.5, x.double()), score, log_precision)
        inside = F.softplus(-lower) + F.softplus(upper) - torch.log(-torch.expm1(-gap))
        by_lower, by_upper = -(-lower).sigmoid(), upper.sigmoid()
        shared = by_lower + by_upper
        below = -(-upper).sigmoid()
        grads = [
            torch.where(one, below, shared + by_score),
            torch.where(one, 0.0, by_precision),
            torch.where(one, -below, -shared),
            torch.where(one, -below * gap, -by_upper * gap - gap / torch.expm1(gap)),
        ]
        value = torch.where(one, F.softplus(-upper), inside + density)
        return value.to(x.dtype), [grad.to(x.dtype) for grad in grads]


def ordered_beta_nll(
    x: Rows | Tensor,
    score: Float[Tensor, "cell feature"],
    log_precision: Tensor,
    cut: Tensor,
    log_gap: Tensor,
) -> Float[Tensor, " cell"]:
    """Beta with masses at 0 and 1; values from 1 on are 1. See :class:`OrderedBeta`."""
    return block_nll(OrderedBeta(), x, score, log_precision, cut, log_gap)


def _beta(x: Tensor, score: Tensor, log_precision: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Beta of mean ``sigmoid(score)``: the value and its derivatives by score and log precision."""
    precision, mean, rest = log_precision.exp(), score.sigmoid(), (-score).sigmoid()
    a, b = mean * precision, rest * precision
    log_x, log_rest = x.log(), (-x).log1p()
    value = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(precision) - (a - 1) * log_x - (b - 1) * log_rest
    by_a, by_b = torch.digamma(a) - log_x, torch.digamma(b) - log_rest
    by_precision = a * by_a + b * by_b - precision * torch.digamma(precision)
    return value, a * rest * (by_a - by_b), by_precision
