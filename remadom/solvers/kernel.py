"""Distances between the rows of two samples, and values whose gradient was computed along with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from remadom.errors import InputError, nearest

LOG2_E = math.log2(math.e)
"""Matrices go through ``exp2``, which in torch is four times as fast as ``exp`` on a CPU, fifty where it underflows."""


def as_computed(x: Tensor) -> Tensor:
    """``x`` in the precision of the solvers: float64 stays, everything else becomes float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def full_precision(x: Tensor) -> torch.autocast:
    """Context in which autocast does not lower the matrix products on ``x``'s device."""
    return torch.autocast(device_type=x.device.type, enabled=False)


def sqeuclidean(x: Tensor, y: Tensor) -> Tensor:
    """``|x - y|^2`` between the rows of two samples in float32 or float64, by one matrix product."""
    center = y.detach().mean(-2, keepdim=True)  # far from the origin, the expanded square would cancel
    x, y = x - center, y - center
    x2, y2 = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    # one matrix product gives |x|^2 + |y|^2 - 2 x.y
    left = torch.cat([x, x2, torch.ones_like(x2)], -1)
    right = torch.cat([-2 * y, torch.ones_like(y2), y2], -1)
    return (left @ right.mT).clamp_min(0)


def _euclidean(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    def unit(z: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        return z / torch.where(length > 0, length, 1.0)

    return 1 - unit(x) @ unit(y).mT


class _KnownGradient(torch.autograd.Function):
    """A value whose gradients in some tensors were computed along with it: the tensors, then the gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *samples_and_slopes: Tensor) -> Tensor:
        ctx.save_for_backward(*samples_and_slopes[len(samples_and_slopes) // 2 :])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "a second derivative was asked for (create_graph=True), and MMD and transport give the first only; "
                "leave their loss out of what is differentiated twice"
            )
        grad = grad[..., None, None]
        slopes = [slope * grad for slope in ctx.saved_tensors]
        return None, *slopes, *(None for _ in slopes)


def attach_gradient(value: Tensor, samples: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    """``value`` (...), detached, as a function of the ``samples`` with the known first derivatives ``slopes``.

    A second derivative is refused instead of being zero.
    """
    known: Tensor = _KnownGradient.apply(value.detach(), *samples, *slopes)  # type: ignore[no-untyped-call]
    return known


def sqeuclidean_pull(coupling: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients in ``x`` and ``y`` of ``sum over i, j of coupling[i, j] |x_i - y_j|^2``, without the costs."""
    slope_x = x * coupling.sum(-1, keepdim=True) - coupling @ y
    slope_y = y * coupling.sum(-2).unsqueeze(-1) - coupling.mT @ x
    return 2 * slope_x, 2 * slope_y


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "euclidean": _euclidean,
    "sqeuclidean": sqeuclidean,
    "cosine": _cosine,
}


def pairwise_cost(x: Tensor, y: Tensor, metric: str = "sqeuclidean") -> Tensor:
    """Cost between every row of ``x`` and every row of ``y``.

    Parameters
    ----------
    x, y : Tensor
        Rows, of shape (..., n, d) and (..., m, d); half precision is computed in float32.
    metric : str
        ``sqeuclidean``: ``|x - y|^2`` (not halved); ``euclidean``: ``|x - y|``, whose gradient is 0 where the
        rows are equal; ``cosine``: ``1 - cos(x, y)``, 1 where a row is zero.

    Returns
    -------
    Tensor
        Costs of shape (..., n, m), differentiable in both samples.

    Raises
    ------
    InputError
        An unknown metric, or rows of different lengths.
    """
    if metric not in METRICS:
        raise InputError(f"unknown metric '{metric}': {nearest(metric, METRICS)}")
    if x.shape[-1] != y.shape[-1]:
        raise InputError(
            f"the rows of the two samples have {x.shape[-1]} and {y.shape[-1]} dimensions; give both the same"
        )
    with full_precision(x):
        return METRICS[metric](as_computed(x), as_computed(y))


def cost_pull(coupling: Tensor, x: Tensor, y: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Gradients in ``x`` and ``y`` of ``sum over i, j of coupling[i, j] cost(x_i, y_j)``, for a fixed coupling."""
    if metric == "sqeuclidean":
        return sqeuclidean_pull(coupling, x, y)
    with torch.enable_grad():
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        total = (coupling * pairwise_cost(x, y, metric)).sum()
        of_x, of_y = torch.autograd.grad(total, (x, y))
    return of_x, of_y
