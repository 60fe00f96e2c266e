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


def _median_bandwidths(rows: Tensor, sizes: Tensor) -> Tensor:
    """:func:`median_bandwidth` of pooled samples, set x row x dimension, of which the first ``sizes`` rows count."""
    steps = torch.arange(min(MEDIAN_ROWS, rows.shape[1]), device=rows.device)
    n_rows = sizes.unsqueeze(1)
    at = torch.where(n_rows > MEDIAN_ROWS, steps * n_rows // MEDIAN_ROWS, steps)
    counts = steps < n_rows
    pairs = counts.unsqueeze(2) & counts.unsqueeze(1) & (steps.unsqueeze(1) > steps)
    pooled = rows.gather(1, at.unsqueeze(2).expand(-1, -1, rows.shape[2]))
    squared = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist").square_()
    told = squared.masked_fill_(~pairs, math.nan).flatten(1)
    return _above_zero(told.nanmedian(1).values, told.nanmean(1))


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
    for a, b in pairs:
        _need_rows(len(a), "x")
        _need_rows(len(b), "y")
    if not _fit_together(x, max(len(a) + len(b) for a, b in pairs), len(pairs)):
        return torch.stack([mmd2(x[a], x[b], bandwidths) for a, b in pairs]).mean()
    with torch.no_grad(), full_precision(x):
        at = pad_sequence([torch.cat(pair) for pair in pairs], batch_first=True)
        sizes = torch.tensor([[len(a), len(b)] for a, b in pairs], device=x.device)
        medians = [median_bandwidth(x[a], x[b]) for a, b in pairs] if x.device.type == "cpu" else None
        sigma2 = None if medians is None else torch.stack(medians)
        value, slopes = _sum_over_pairs(x.detach(), at, sizes, bandwidths, len(pairs), sigma2)
    return attach_gradient(value, (x,), (slopes,))


def mean_mmd2_of_groups(
    x: Tensor,
    codes: Tensor,
    n_groups: int,
    bandwidths: Sequence[float] = (0.5, 1.0, 2.0),
    max_pairs: int | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`mean_mmd2` over the pairs of groups, by operations that do not depend on which rows are in which.

    Nothing is looked at, so that a GPU need not wait for it, and can record it. A group with one row is in no pair.

    Parameters
    ----------
    x : Tensor
        Rows, of shape (n, d); half precision is computed in float32.
    codes : Tensor
        Group of each row, from 0; below 0: none.
    n_groups : int
        Number of groups, at least two.
    bandwidths : sequence of float
        As in :func:`mean_mmd2`.
    max_pairs : int, optional
        At most this many pairs, drawn anew each time; all by default.

    Returns
    -------
    value : Tensor
        Scalar, differentiable in ``x`` (not through the medians); 0 where no two groups have two rows.
    n_pairs : Tensor
        Number of pairs that it is the mean of.

    Raises
    ------
    InputError
        No bandwidth.
    """
    _need_bandwidths(bandwidths)
    x = as_computed(x)
    with torch.no_grad(), full_precision(x):
        counts = (codes == torch.arange(n_groups, device=x.device).unsqueeze(1)).sum(1)
        pairs = torch.triu_indices(n_groups, n_groups, 1, device=x.device)
        enough = (counts[pairs] >= 2).all(0)
        if max_pairs is not None and pairs.shape[1] > max_pairs:
            chosen = (torch.rand(len(enough), device=x.device) + enough).topk(max_pairs).indices
            pairs, enough = pairs[:, chosen], enough[chosen]
        n_pairs = enough.sum()
        first, second = (codes == one.unsqueeze(1) for one in pairs)
        at = (2 - 2 * first.int() - second.int()).argsort(
            dim=1, stable=True
        )  # one group, the other, the rest
        sizes = torch.where(enough, counts[pairs], 0).T
        together = max(1, DISTANCES_TOGETHER // len(x) ** 2)
        parts = [
            _sum_over_pairs(x.detach(), *part, bandwidths, n_pairs.clamp(min=1))
            for part in zip(torch.split(at, together), torch.split(sizes, together), strict=True)
        ]
        value, slopes = (torch.stack(values).sum(0) for values in zip(*parts, strict=True))
    return attach_gradient(value, (x,), (slopes,)), n_pairs


def _sum_over_pairs(
    x: Tensor,
    at: Tensor,
    sizes: Tensor,
    bandwidths: Sequence[float],
    divisor: Tensor | int,
    sigma2: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum of unbiased :func:`mmd2` over pairs of sets, over the divisor; and its gradient in ``x``.

    ``at`` (pair x row) are the places of the rows of the first set, then of the second, then others; ``sizes`` (pair x
    2) are how many are in each: two or more, or none.
    """
    rows = x[at]
    if sigma2 is None:
        sigma2 = _median_bandwidths(rows, sizes.sum(1))
    sigma2 = sigma2[:, None, None]
    place, ends = torch.arange(at.shape[1], device=x.device), sizes.cumsum(1)
    # share of each row in the mean of its set, below zero for the second set
    shares = 1 / sizes.clamp(min=2).to(x.dtype)
    side = torch.where(
        place < ends[:, :1], shares[:, :1], torch.where(place < ends[:, 1:], -shares[:, 1:], 0.0)
    )
    coupling = side.unsqueeze(1) * side.unsqueeze(2)
    unbiased = coupling / (1 - side.abs()).unsqueeze(2)  # 1 / n^2 becomes 1 / (n (n - 1))
    coupling = torch.where(coupling > 0, unbiased, coupling) / divisor
    coupling.diagonal(dim1=1, dim2=2).zero_()
    kernel, slope = _kernel(_sqeuclidean(rows, rows), bandwidths, sigma2)
    pulled, _ = sqeuclidean_pull(slope.mul_(coupling / sigma2), rows, rows)
    slopes = torch.zeros_like(x).index_add_(0, at.flatten(), 2 * pulled.flatten(0, 1))
    return (kernel * coupling).sum(), slopes


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
    _need_rows(n_rows, name)
    return sample.new_full((n_rows,), 1 / n_rows) if weights is None else weights / weights.sum()


def _need_rows(n_rows: int, name: str) -> None:
    if n_rows < 2:
        raise InputError(
            f"sample {name} has {n_rows} row(s) that count; MMD needs at least 2: skip groups below 2"
        )
