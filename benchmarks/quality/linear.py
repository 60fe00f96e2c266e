"""Embeddings in closed form, of the same cells and features that remadom is given: what a deep model has to beat.

Each modality has its principal components (30 of log-normalized genes, 20 of centered log ratios of proteins, 30 of
TF-IDF of peaks), of the cells that have it. Nothing corrects batches but Harmony.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import Ridge

from remadom.data.source import Source

Views = Mapping[str, np.ndarray]
"""By modality, cell x component; NaN where a cell lacks it."""

RIDGE = 10.0
TARGET = 20
"""Components of the space that all modalities are mapped into."""


def embeddings(source: Source, batch: np.ndarray) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Name of each method that these cells allow, and what computes its embedding."""
    names = [m for m in ("rna", "atac", "adt") if m in source.modalities]
    for modality, word in (("rna", "PCA"), ("atac", "LSI")):
        if modality in names and source.has[modality].all():
            yield word, lambda m=modality: views(source, [m])[m]
            if modality == "rna" and find_spec("harmonypy") is not None:
                yield "harmonypy", lambda: harmony(views(source, ["rna"])["rna"], batch)
    if "rna" in names and len(names) == 2 and (source.has["rna"] & source.has[names[1]]).any():
        yield "ridge", lambda: ridge_bridge(views(source, names), names[1])
        yield "linear", lambda: linear_mosaic(views(source, names))


def views(source: Source, modalities: list[str]) -> dict[str, np.ndarray]:
    """Components of each modality."""
    found = {}
    for modality in modalities:
        cells = np.flatnonzero(source.has[modality])
        x = SCALES[modality](source.rows(modality, cells))
        scores = _components(x, min(SIZES[modality], *(size - 1 for size in x.shape)))
        found[modality] = np.full((source.n_cells, scores.shape[1]), np.nan)
        found[modality][cells] = scores
    return found


def ridge_bridge(of: Views, second: str) -> np.ndarray:
    """The second modality's own components, or what a ridge regression makes of the genes'."""
    seen, there = ~np.isnan(of["rna"][:, 0]), ~np.isnan(of[second][:, 0])
    fit = Ridge(RIDGE).fit(of["rna"][seen & there], of[second][seen & there])
    z = of[second].copy()
    z[~there] = fit.predict(of["rna"][~there])
    return z


def linear_mosaic(of: Views) -> np.ndarray:
    """Principal components of cells that have all, into which a ridge regression maps what each cell has."""
    has = {m: ~np.isnan(x[:, 0]) for m, x in of.items()}
    whole = np.logical_and.reduce(list(has.values()))
    joint = np.hstack([x[whole] / x[whole].std(0).max() for x in of.values()])
    target = _components(sp.csr_matrix(joint), min(TARGET, joint.shape[1] - 1))
    total, count = np.zeros((len(whole), target.shape[1])), np.zeros(len(whole))
    for m, x in of.items():
        total[has[m]] += Ridge(RIDGE).fit(x[whole], target).predict(x[has[m]])
        count[has[m]] += 1
    return total / count[:, None]


def harmony(z: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Harmony of harmonypy, with its defaults."""
    import harmonypy
    import pandas as pd

    corrected = np.asarray(harmonypy.run_harmony(z, pd.DataFrame({"batch": batch}), "batch").Z_corr)
    return corrected if corrected.shape == z.shape else corrected.T


def _components(x: sp.csr_matrix, k: int) -> np.ndarray:
    """Principal components; the mean is taken off the scores, as is done for sparse matrices."""
    centered = x.toarray() - np.asarray(x.mean(0)) if x.shape[1] <= 6000 else x
    scores = TruncatedSVD(k, random_state=0).fit_transform(centered)
    return np.asarray(scores - scores.mean(0))


def _log_normalized(x: sp.csr_matrix) -> sp.csr_matrix:
    totals = np.maximum(np.asarray(x.sum(1)).ravel(), 1)
    return sp.csr_matrix(sp.diags(1e4 / totals) @ x).log1p()


def _ratios(x: sp.csr_matrix) -> sp.csr_matrix:
    values = np.log1p(x.toarray())
    return sp.csr_matrix(values - values.mean(1, keepdims=True))


def _tfidf(x: sp.csr_matrix) -> sp.csr_matrix:
    open_ = (x > 0).astype(float)
    frequency = sp.diags(1 / np.maximum(np.asarray(open_.sum(1)).ravel(), 1)) @ open_
    inverse = np.log1p(x.shape[0] / np.maximum(np.asarray(open_.sum(0)).ravel(), 1))
    return sp.csr_matrix(1e4 * frequency @ sp.diags(inverse)).log1p()


SCALES = {"rna": _log_normalized, "adt": _ratios, "atac": _tfidf}
SIZES = {"rna": 30, "adt": 20, "atac": 30}
