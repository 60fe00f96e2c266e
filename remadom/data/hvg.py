"""Highly variable genes: which genes vary more between cells than counting alone makes them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
import scipy.sparse as sp
from scipy.interpolate import CubicSpline

from remadom.data.sampler import CELLS_AT_ONCE, Gather, blocks
from remadom.errors import InputError
from remadom.utils.threads import threads_kept

logger = logging.getLogger(__name__)

THETA = 100.0
"""Dispersion of the null model of :func:`residual_variance`."""

_SMALLEST_BATCH = 20
_NODES = 512
_FEWEST_GENES = 20  # below, skmisc's loess fails or crashes the interpreter


@dataclass(frozen=True)
class VariableGenes:
    """Outcome of a selection, one value per gene.

    Attributes
    ----------
    selected
        Whether the gene is kept.
    rank
        Median rank over the batches in which the gene is among the first (0 is the most variable); NaN: in none.
    n_batches
        Number of batches in which the gene is among the first.
    score
        Variance over what the method expects, mean over batches.
    how
        The method in words.
    """

    selected: np.ndarray
    rank: np.ndarray
    n_batches: np.ndarray
    score: np.ndarray
    how: str


def select_genes(
    gather: Gather,
    cells: np.ndarray,
    batches: np.ndarray,
    *,
    n_top: int,
    flavor: Literal["seurat_v3", "variance"] = "seurat_v3",
) -> VariableGenes:
    """Genes that vary most within batches.

    Genes are ranked in each batch and ordered by their median rank, ties by the number of batches that
    have them among the first ``n_top`` (Stuart et al., Cell 2019, doi:10.1016/j.cell.2019.05.031).
    Batches under 20 cells are not ranked, unless there is no larger one: then all cells are one batch.

    Parameters
    ----------
    gather
        Gives the raw counts of some cells.
    cells
        Positions of the cells to fit on.
    batches
        Batch code of each of ``cells``.
    n_top
        Number of genes to keep.
    flavor
        ``seurat_v3`` where scanpy and scikit-misc are installed, else the ``variance`` of Pearson residuals.

    Raises
    ------
    InputError
        Negative values.
    """
    codes, sizes = np.unique(batches, return_counts=True)
    large = codes[sizes >= _SMALLEST_BATCH]
    if len(large):
        ranked = np.isin(batches, large)
        cells, batches = cells[ranked], np.searchsorted(large, batches[ranked])
    else:
        batches = np.zeros(len(cells), dtype=np.int64)
    over = f" over {len(large)} batches" if len(large) > 1 else ""
    if flavor == "seurat_v3":
        chosen, reason = _seurat_v3(gather, cells, batches, n_top)
        if chosen is not None:
            return VariableGenes(*chosen, how=f"seurat_v3{over}")
        logger.warning("seurat_v3 %s; genes are chosen by the variance of their Pearson residuals", reason)
    scores = residual_variance(gather, cells, batches)
    return VariableGenes(*_first_by_rank(scores, n_top), how=f"variance of Pearson residuals{over}")


def residual_variance(gather: Gather, cells: np.ndarray, batches: np.ndarray) -> np.ndarray:
    r"""Variance of each gene's analytic Pearson residuals within each batch, streamed over the non-zeros.

    With mu = (total of the cell) x (share of the gene), the residual is
    (x - mu) / sqrt(mu + mu^2 / theta), theta = 100, clipped at the square root of the number of cells
    (Lause, Berens & Kobak, Genome Biology 2021, doi:10.1186/s13059-021-02451-7).
    The residual of a zero depends on mu alone, so its sum over the cells is a smooth function of the share:
    it is tabulated and interpolated, and only the non-zeros are visited. The relative error is under 1e-9, or
    1e-4 in batches of less than 100 cells, where zeros are clipped too.

    Returns
    -------
    np.ndarray
        batch x gene, float64; a gene with no count in a batch has 0 there.
    """
    n_batches = int(batches.max()) + 1
    totals = np.zeros(len(cells))
    sums: np.ndarray | None = None
    for at, rows in blocks(gather, cells):
        _require_counts(rows)
        rows = rows.astype(np.float64)
        totals[at] = np.asarray(rows.sum(axis=1)).ravel()
        found = (_members(batches[at], n_batches) @ rows).toarray()
        sums = found if sums is None else sums + found
    assert sums is not None, "no cells to fit on"
    share: np.ndarray = sums / np.maximum(sums.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    size = np.bincount(batches, minlength=n_batches)
    clip = np.sqrt(size)

    first, second = np.zeros_like(share), np.zeros_like(share)
    for b in range(n_batches):
        expressed = share[b] > 0
        if expressed.any():
            sums_of_zeros = _zeros(totals[batches == b], share[b, expressed], clip[b])
            first[b, expressed], second[b, expressed] = sums_of_zeros
    for at, rows in blocks(gather, cells):
        batch = np.repeat(batches[at], np.diff(rows.indptr))
        mu = np.repeat(totals[at], np.diff(rows.indptr)) * share[batch, rows.indices]
        zero = _residual(0.0, mu, clip[batch])
        value = _residual(rows.data.astype(np.float64), mu, clip[batch])
        for sum_of, gain in ((first, value - zero), (second, value**2 - zero**2)):
            gains = sp.csr_matrix((gain, rows.indices, rows.indptr), shape=rows.shape)
            sum_of += (_members(batches[at], n_batches) @ gains).toarray()
    variance: np.ndarray = second / size[:, None] - (first / size[:, None]) ** 2
    return variance.clip(0.0)


def _require_counts(rows: sp.csr_matrix) -> None:
    if rows.nnz and not (rows.data.min() >= 0 and np.isfinite(rows.data).all()):
        raise InputError(
            f"gene selection: found values from {rows.data.min():g} to {rows.data.max():g}, expected raw counts; "
            "name the matrix that holds them in data.keys"
        )


def _members(batches: np.ndarray, n_batches: int) -> sp.csr_matrix:
    """Batch x cell indicator."""
    ones = np.ones(len(batches))
    return sp.csr_matrix((ones, (batches, np.arange(len(batches)))), shape=(n_batches, len(batches)))


def _residual(x: np.ndarray | float, mu: np.ndarray, clip: np.ndarray | float) -> np.ndarray:
    deviation = np.sqrt(np.maximum(mu + mu**2 / THETA, np.finfo(float).tiny))
    residual: np.ndarray = (x - mu) / deviation
    return residual.clip(-clip, clip)


def _zeros(totals: np.ndarray, share: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the cells of the residual of a zero and of its square, for each share of a gene."""
    log_share = np.log(share)
    nodes = np.linspace(log_share.min() - 0.1, log_share.max() + 0.1, _NODES)
    first, second = np.zeros(_NODES), np.zeros(_NODES)
    for start in range(0, len(totals), CELLS_AT_ONCE):
        residual = _residual(0.0, np.outer(totals[start : start + CELLS_AT_ONCE], np.exp(nodes)), clip)
        first += residual.sum(axis=0)
        second += (residual**2).sum(axis=0)
    return CubicSpline(nodes, first)(log_share), CubicSpline(nodes, second)(log_share)


def _first_by_rank(scores: np.ndarray, n_top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Selected, median rank, number of batches and mean score of each gene; scores are batch x gene."""
    rank = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    among = rank < n_top
    n_batches = among.sum(axis=0)
    median = np.full(scores.shape[1], np.nan)
    some = n_batches > 0
    median[some] = np.nanmedian(np.where(among, rank, np.nan)[:, some], axis=0)
    order = np.lexsort((-n_batches, np.where(some, median, np.inf)))
    selected = np.zeros(scores.shape[1], dtype=bool)
    selected[order[:n_top]] = True
    return selected, median, n_batches, scores.mean(axis=0)


def _seurat_v3(
    gather: Gather, cells: np.ndarray, batches: np.ndarray, n_top: int
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None, str]:
    """Scanpy's selection, or ``None`` and the reason why there is none."""
    missing = [name for name in ("scanpy", "skmisc") if find_spec(name) is None]
    if missing:
        return None, f"needs {' and '.join(missing)} (pip install 'remadom[scanpy]')"
    from sklearn.utils.sparsefuncs import mean_variance_axis

    rows = gather(cells)
    _require_counts(rows)
    for batch in range(int(batches.max()) + 1):
        varying = int((mean_variance_axis(rows[batches == batch], axis=0)[1] > 0).sum())
        if varying < _FEWEST_GENES:
            return None, f"needs {_FEWEST_GENES} genes that vary in every batch and found {varying} in one"
    import anndata as ad
    import pandas as pd
    import scanpy as sc

    counts = ad.AnnData(rows, obs=pd.DataFrame({"batch": batches}, index=cells.astype(str)))
    try:
        with threads_kept():
            found = sc.pp.highly_variable_genes(
                counts,
                n_top_genes=n_top,
                flavor="seurat_v3",
                batch_key="batch",
                check_values=False,
                inplace=False,
            )
    except ValueError as error:  # its curve cannot be fitted where too few genes differ in mean
        return None, f"failed ({str(error).strip()})"
    columns = ("highly_variable", "highly_variable_rank", "highly_variable_nbatches", "variances_norm")
    selected, rank, n_batches, score = (found[column].to_numpy() for column in columns)
    return (selected, rank, n_batches, score), ""
