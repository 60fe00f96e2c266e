"""Counts made comparable between cells: log-normalization, centered log ratio, TF-IDF."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def lognorm(counts: sp.csr_matrix, totals: np.ndarray, target_sum: float = 1e4) -> sp.csr_matrix:
    """log1p(count / total of the cell x ``target_sum``), float32; a cell without counts stays zero."""
    return _log1p(counts, np.repeat(_per_total(totals, target_sum), np.diff(counts.indptr)))


def tfidf(counts: sp.csr_matrix, idf: np.ndarray) -> sp.csr_matrix:
    """log1p(TF x IDF x 1e4) with TF = count / total of the cell, float32; sparsity survives.

    Method 1 of Signac (Stuart et al., Nat Methods 2021, doi:10.1038/s41592-021-01282-5), where
    IDF = number of cells / total of the peak over the cells.
    """
    per_total = _per_total(np.asarray(counts.sum(axis=1)).ravel(), 1e4)
    return _log1p(counts, np.repeat(per_total, np.diff(counts.indptr)) * idf[counts.indices])


def clr(counts: np.ndarray) -> np.ndarray:
    """Centered log ratio of each cell: log(1 + x) less its mean over the proteins, float32.

    The log ratio to the geometric mean of Aitchison (J R Stat Soc B 1982), within a cell and with a count of
    one added, as CITE-seq introduced it (Stoeckius et al., Nat Methods 2017, doi:10.1038/nmeth.4380).
    Seurat's variant differs: it leaves zeros out of the mean and keeps them zero.
    """
    logs = np.log1p(counts.astype(np.float32, copy=False))
    centered: np.ndarray = logs - logs.mean(axis=1, keepdims=True)
    return centered


def _per_total(totals: np.ndarray, target: float) -> np.ndarray:
    factor: np.ndarray = target / np.where(totals > 0, totals, 1.0)
    return factor


def _log1p(counts: sp.csr_matrix, factor: np.ndarray) -> sp.csr_matrix:
    """log1p(count x factor) in arrays of its own."""
    values = np.log1p(counts.data * factor).astype(np.float32)
    return sp.csr_matrix((values, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape)
