"""Distances between the rows of two samples, and the kernel two-sample statistic MMD^2 that rests on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from remadom.errors import InputError, nearest

LOG2_E = math.log2(math.e)
"""Matrices go through ``exp2``, which in torch is four times as fast as ``exp`` on a CPU, fifty where it underflows."""

MEDIAN_ROWS = 256
"""Rows of the pooled sample that the median bandwidth looks at: 32,640 pairs."""

ROWS_TOGETHER = 128
"""Rows of a pair of samples up to which a CPU compares all pairs at once: more are as fast one after the other."""

DISTANCES_TOGETHER = 2**24
"""Distances that other devices compute at once, as each operation costs them the same however small: 64 MB."""


def as_computed(x: Tensor) -> Tensor:
    """``x`` in the precision of the solvers: float64 stays, everything else becomes float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def full_precision(x: Tensor) -> torch.autocast:
    """Context in which autocast does not lower the matrix products on ``x``'s device."""
    return torch.autocast(device_type=x.device.type, enabled=False)


def _sqeuclidean(x: Tensor, y: Tensor) -> Tensor:
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
    "sqeuclidean": _sqeuclidean,
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


def median_bandwidth(x: Tensor, y: Tensor) -> Tensor:
    """Median of the squared distances between the rows of the pooled sample: the sigma^2 of an RBF kernel.

    Parameters
    ----------
    x, y : Tensor
        Samples of shape (n, d) and (m, d). Of more than 256 rows together, 256 at even steps are read.

    Returns
    -------
    Tensor
        A detached scalar above 0: the mean where the median is 0 (more than half of the pairs are copies),
        1 where all rows are equal.
    """
    pooled = torch.cat([as_computed(x.detach()), as_computed(y.detach())])
    n_rows = len(pooled)
    if n_rows > MEDIAN_ROWS:
        pooled = pooled[torch.arange(MEDIAN_ROWS, device=pooled.device) * n_rows // MEDIAN_ROWS]
    squared = torch.pdist(pooled).square()
    return _above_zero(squared.median(), squared.mean())


def _median_bandwidths(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """:func:`median_bandwidth` of pooled samples, set x row x dimension, of which the first ``sizes`` rows count."""
    looked_at = min(MEDIAN_ROWS, rows.shape[1])
    steps = torch.arange(looked_at).expand(len(sizes), -1)
    n_rows = torch.tensor(sizes).unsqueeze(1)
    at = torch.where(n_rows > MEDIAN_ROWS, steps * n_rows // MEDIAN_ROWS, steps)
    counts = (steps < n_rows).unsqueeze(1) & torch.ones(looked_at, looked_at, dtype=torch.bool).tril(-1)
    counts &= (steps < n_rows).unsqueeze(2)
    pooled = rows.gather(1, at.to(rows.device).unsqueeze(2).expand(-1, -1, rows.shape[2]))
    squared = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist").square_()
    pairs = squared.masked_fill_(~counts.to(rows.device), math.nan).flatten(1)
    return _above_zero(pairs.nanmedian(1).values, pairs.nanmean(1))


def _above_zero(median: Tensor, mean: Tensor) -> Tensor:
    """The median; the mean where it is 0, and 1 where that is 0 too."""
    return torch.where(median > 0, median, torch.where(mean > 0, mean, torch.ones_like(mean)))


def mmd2(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] = (0.5, 1.0, 2.0),
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    unbiased: bool = True,
    sigma2: Tensor | float | None = None,
) -> Tensor:
    """Squared maximum mean discrepancy of two samples under a mixture of RBF kernels.

    ``k(x, y) = mean over s of exp(-|x - y|^2 / (2 s sigma2))`` for the multipliers ``s`` in ``bandwidths``. The
    unbiased U-statistic leaves out the pairs of a row with itself, so that it is 0 on average (and often a
    little negative) for two samples of one distribution; Gretton et al. 2012,
    https://jmlr.org/papers/v13/gretton12a.html, lemma 6.

    Parameters
    ----------
    x, y : Tensor
        Samples of shape (n, d) and (m, d), at least two rows each; half precision is computed in float32.
    bandwidths : sequence of float
        Multipliers of ``sigma2``, above 0.
    weights_x, weights_y : Tensor, optional
        Non-negative weight per row (any total), of shape (n,) and (m,); uniform by default. Pairs of a row
        with itself are left out of weighted samples likewise.
    unbiased : bool
        False: the V-statistic, never negative (twice the Gaussian loss of geomloss for one bandwidth).
    sigma2 : Tensor or float, optional
        Squared bandwidth that the multipliers refer to; :func:`median_bandwidth` by default.

    Returns
    -------
    Tensor
        Scalar, differentiable in ``x`` and ``y`` (not through the median).

    Raises
    ------
    InputError
        A sample with fewer than two rows of positive weight, rows of different lengths, or no bandwidth.
    """
    _need_bandwidths(bandwidths)
    x, y = as_computed(x), as_computed(y)
    w_x, w_y = _normalized(x, weights_x, "x"), _normalized(y, weights_y, "y")
    with torch.no_grad(), full_precision(x):
        sigma2 = median_bandwidth(x, y) if sigma2 is None else sigma2
        center = y.mean(-2, keepdim=True)
        x0, y0 = x - center, y - center
        between, slope_x, slope_y = _mean_kernel(x0, y0, w_x, w_y, bandwidths, sigma2)
        value = -2 * between
        slopes = [-2 * slope_x, -2 * slope_y]
        for which, (sample, weights) in enumerate(((x0, w_x), (y0, w_y))):
            within, slope, _ = _mean_kernel(sample, sample, weights, weights, bandwidths, sigma2)
            with_itself = weights.square().sum() if unbiased else 0.0
            value = value + (within - with_itself) / (1 - with_itself)
            slopes[which] += 2 * slope / (1 - with_itself)
    return attach_gradient(value, (x, y), slopes)


def mean_mmd2(
    x: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], bandwidths: Sequence[float] = (0.5, 1.0, 2.0)
) -> Tensor:
    """Mean of the unbiased :func:`mmd2` over pairs of sets of rows, in one pass: small sets cost what one of them does.

    Parameters
    ----------
    x : Tensor
        Rows, of shape (n, d); half precision is computed in float32.
    pairs : sequence of pairs of Tensor
        Places of the rows of the two sets of each pair, which have no row in common: at least one pair, and two rows a
        set.
    bandwidths : sequence of float
        Multipliers of the median of the squared distances within each pair, above 0.

    Returns
    -------
    Tensor
        Scalar, differentiable in ``x`` (not through the medians).

    Raises
    ------
    InputError
        A set with fewer than two rows, or no bandwidth.
    """
    _need_bandwidths(bandwidths)
    x = as_computed(x)
    sizes = [len(a) + len(b) for a, b in pairs]
    if not _fit_together(x, max(sizes), len(pairs)):
        return torch.stack([mmd2(x[a], x[b], bandwidths) for a, b in pairs]).mean()
    with torch.no_grad(), full_precision(x):
        at = pad_sequence([torch.cat(pair) for pair in pairs], batch_first=True)
        rows = x.detach()[at]
        if x.device.type == "cpu":
            sigma2 = torch.stack([median_bandwidth(x[a], x[b]) for a, b in pairs])
        else:
            sigma2 = _median_bandwidths(rows, sizes)
        sigma2 = sigma2[:, None, None]
        # share of each row in the mean of its set, below zero for the second set
        sides = [torch.cat([_equal_shares(len(a), "x"), -_equal_shares(len(b), "y")]) for a, b in pairs]
        side = pad_sequence(sides, batch_first=True).to(x)
        coupling = side.unsqueeze(1) * side.unsqueeze(2)
        unbiased = coupling / (1 - side.abs()).unsqueeze(2)  # 1 / n^2 becomes 1 / (n (n - 1))
        coupling = torch.where(coupling > 0, unbiased, coupling) / len(pairs)
        coupling.diagonal(dim1=1, dim2=2).zero_()
        kernel, slope = _kernel(_sqeuclidean(rows, rows), bandwidths, sigma2)
        pulled, _ = sqeuclidean_pull(slope.mul_(coupling / sigma2), rows, rows)
        slopes = torch.zeros_like(x).index_add_(0, at.flatten(), 2 * pulled.flatten(0, 1))
        value = (kernel * coupling).sum()
    return attach_gradient(value, (x,), (slopes,))


def _fit_together(x: Tensor, n_rows: int, n_pairs: int) -> bool:
    """Whether the device gains from all pairs at once."""
    return n_rows <= ROWS_TOGETHER if x.device.type == "cpu" else n_pairs * n_rows**2 <= DISTANCES_TOGETHER


def _mean_kernel(
    x: Tensor, y: Tensor, w_x: Tensor, w_y: Tensor, bandwidths: Sequence[float], sigma2: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """``sum over i, j of w_x[i] w_y[j] k(x_i, y_j)`` and its gradients in ``x`` and in ``y`` (each alone)."""
    kernel, slope = _kernel(_sqeuclidean(x, y), bandwidths, sigma2)
    pull_x, pull_y = sqeuclidean_pull(slope.mul_(w_x.unsqueeze(-1)).mul_(w_y), x, y)
    return w_x @ kernel @ w_y, pull_x / sigma2, pull_y / sigma2


def _kernel(squared: Tensor, bandwidths: Sequence[float], sigma2: Tensor | float) -> tuple[Tensor, Tensor]:
    """The mixture of RBF kernels at squared distances, and its derivative by ``squared / sigma2``."""
    kernel, slope = torch.zeros_like(squared), torch.zeros_like(squared)
    part, previous = squared, 0.0
    for s in sorted(bandwidths, reverse=True):
        # halving the bandwidth squares the kernel, at a tenth of the cost of another exponential
        part = part * part if 2 * s == previous else (squared * (-LOG2_E / (2 * s * sigma2))).exp2_()
        kernel.add_(part, alpha=1 / len(bandwidths))
        slope.add_(part, alpha=-1 / (2 * s * len(bandwidths)))
        previous = s
    return kernel, slope


def _need_bandwidths(bandwidths: Sequence[float]) -> None:
    if not bandwidths or min(bandwidths) <= 0:
        raise InputError(f"bandwidths {tuple(bandwidths)} must be one or more numbers above 0")


def _normalized(sample: Tensor, weights: Tensor | None, name: str) -> Tensor:
    """Weights of total 1, refused where fewer than two rows count."""
    n_rows = len(sample)
    if weights is not None:
        if weights.shape != (n_rows,):
            raise InputError(
                f"weights_{name} has shape {tuple(weights.shape)}, expected ({n_rows},): one per row"
            )
        weights = weights.to(sample)
        n_rows = int((weights > 0).sum())
    equal = _equal_shares(n_rows, name)
    return weights / weights.sum() if weights is not None else equal.to(sample)


def _equal_shares(n_rows: int, name: str) -> Tensor:
    """Weights of total 1 of so many rows, refused where they are fewer than two."""
    if n_rows < 2:
        raise InputError(
            f"sample {name} has {n_rows} row(s) that count; MMD needs at least 2: skip groups below 2"
        )
    return torch.full((n_rows,), 1 / n_rows, dtype=torch.float64)
