"""The kernel two-sample statistic MMD^2, of whole samples or of what they have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from remadom.errors import InputError
from remadom.solvers.in_common import in_common
from remadom.solvers.kernel import (
    LOG2_E,
    as_computed,
    attach_gradient,
    full_precision,
    sqeuclidean,
    sqeuclidean_pull,
)

MEDIAN_ROWS = 256
"""Rows of the pooled sample that the median bandwidth looks at: 32,640 pairs."""

ROWS_TOGETHER = 128
"""Rows of a pair of samples up to which a CPU compares all pairs at once: more are as fast one after the other."""

DISTANCES_TOGETHER = 2**24
"""Distances that other devices compute at once, as each operation costs them the same however small: 64 MB."""

FEWEST_PAIRS = 1e-6
"""Where one row has all of the weight."""


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
    reach: float | None = None,
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
    reach : float, optional
        Compares what the samples have in common: each row is weighed by how much of it unbalanced transport of this
        reach, in units of ``sqrt(sigma2)``, would send to the other sample (see :func:`in_common`).

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
        if reach is not None:
            w_x, w_y = in_common(sqeuclidean(x0, y0), w_x, w_y, sigma2, reach)
        between, slope_x, slope_y = _mean_kernel(x0, y0, w_x, w_y, bandwidths, sigma2)
        value = -2 * between
        slopes = [-2 * slope_x, -2 * slope_y]
        for which, (sample, weights) in enumerate(((x0, w_x), (y0, w_y))):
            within, slope, _ = _mean_kernel(sample, sample, weights, weights, bandwidths, sigma2)
            with_itself = weights.square().sum() if unbiased else 0.0
            others = _of_others(weights) if unbiased else 1.0
            value = value + (within - with_itself) / others
            slopes[which] += 2 * slope / others
    return attach_gradient(value, (x, y), slopes)


def mean_mmd2(
    x: Tensor,
    pairs: Sequence[tuple[Tensor, Tensor]],
    bandwidths: Sequence[float] = (0.5, 1.0, 2.0),
    reach: float | None = None,
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
    reach : float, optional
        As in :func:`mmd2`.

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
        return torch.stack([mmd2(x[a], x[b], bandwidths, reach=reach) for a, b in pairs]).mean()
    with torch.no_grad(), full_precision(x):
        at = pad_sequence([torch.cat(pair) for pair in pairs], batch_first=True)
        sizes = torch.tensor([[len(a), len(b)] for a, b in pairs], device=x.device)
        medians = [median_bandwidth(x[a], x[b]) for a, b in pairs] if x.device.type == "cpu" else None
        sigma2 = None if medians is None else torch.stack(medians)
        value, slopes = _sum_over_pairs(x.detach(), at, sizes, bandwidths, len(pairs), reach, sigma2)
    return attach_gradient(value, (x,), (slopes,))


def mean_mmd2_of_groups(
    x: Tensor,
    codes: Tensor,
    n_groups: int,
    bandwidths: Sequence[float] = (0.5, 1.0, 2.0),
    reach: float | None = None,
    max_pairs: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
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
    bandwidths, reach
        As in :func:`mean_mmd2`.
    max_pairs : int, optional
        At most this many pairs, drawn anew each time; all by default.

    Returns
    -------
    value : Tensor
        Scalar, differentiable in ``x`` (not through the medians); 0 where no two groups have two rows.
    n_pairs : Tensor
        Number of pairs that it is the mean of.
    counts : Tensor
        Rows of each group, of shape (n_groups,).

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
            _sum_over_pairs(x.detach(), *part, bandwidths, n_pairs.clamp(min=1), reach)
            for part in zip(torch.split(at, together), torch.split(sizes, together), strict=True)
        ]
        value, slopes = (torch.stack(values).sum(0) for values in zip(*parts, strict=True))
    return attach_gradient(value, (x,), (slopes,)), n_pairs, counts


def _sum_over_pairs(
    x: Tensor,
    at: Tensor,
    sizes: Tensor,
    bandwidths: Sequence[float],
    divisor: Tensor | int,
    reach: float | None,
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
    first = place < ends[:, :1]
    second = (place < ends[:, 1:]) & ~first
    shares = 1 / sizes.clamp(min=2).to(x.dtype)
    of_first, of_second = first * shares[:, :1], second * shares[:, 1:]
    squared = sqeuclidean(rows, rows)
    if reach is not None:
        of_first, of_second = in_common(squared, of_first, of_second, sigma2, reach)
    side = of_first - of_second
    coupling = side.unsqueeze(1) * side.unsqueeze(2)
    others = torch.where(first, _of_others(of_first).unsqueeze(1), _of_others(of_second).unsqueeze(1))
    coupling = torch.where(coupling > 0, coupling / others.unsqueeze(2), coupling) / divisor
    coupling.diagonal(dim1=1, dim2=2).zero_()
    kernel, slope = _kernel(squared, bandwidths, sigma2)
    pulled, _ = sqeuclidean_pull(slope.mul_(coupling / sigma2), rows, rows)
    slopes = torch.zeros_like(x).index_add_(0, at.flatten(), 2 * pulled.flatten(0, 1))
    return (kernel * coupling).sum(), slopes


def _of_others(weights: Tensor) -> Tensor:
    """Share of the pairs of rows that are not pairs of a row with itself, of each set of weights of total 1."""
    return (1 - weights.square().sum(-1)).clamp(min=FEWEST_PAIRS)


def _fit_together(x: Tensor, n_rows: int, n_pairs: int) -> bool:
    """Whether the device gains from all pairs at once."""
    return n_rows <= ROWS_TOGETHER if x.device.type == "cpu" else n_pairs * n_rows**2 <= DISTANCES_TOGETHER


def _mean_kernel(
    x: Tensor, y: Tensor, w_x: Tensor, w_y: Tensor, bandwidths: Sequence[float], sigma2: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """``sum over i, j of w_x[i] w_y[j] k(x_i, y_j)`` and its gradients in ``x`` and in ``y`` (each alone)."""
    kernel, slope = _kernel(sqeuclidean(x, y), bandwidths, sigma2)
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
