"""Preprocessing: of an AnnData in place, as scanpy does it, and of a source as the configuration says."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from remadom.data.annotated import Annotated, content_of
from remadom.data.fit import fit_preprocess
from remadom.data.hvg import select_genes
from remadom.data.locate import MAIN
from remadom.data.lsi import FittedLSI, fit_lsi
from remadom.data.modality import modality_named
from remadom.data.normalize import clr, lognorm
from remadom.data.obs import column_of, group_codes, presence
from remadom.data.peaks import open_cells, select_peaks
from remadom.data.prepared import Prepared
from remadom.data.split import cell_positions
from remadom.data.stored import InMemory
from remadom.errors import InputError, nearest

__all__ = [
    "Prepared",
    "fit_preprocess",
    "preprocess_adt",
    "preprocess_atac",
    "preprocess_atac_tfidf_lsi",
    "preprocess_rna",
]

logger = logging.getLogger(__name__)


def preprocess_rna(
    adata: AnnData,
    *,
    layer: str | None = None,
    hvg: int | None = None,
    flavor: Literal["seurat_v3", "variance"] = "seurat_v3",
    batch_key: str | None = None,
    target_sum: float = 1e4,
    train: np.ndarray | None = None,
) -> pd.DataFrame:
    """Normalize RNA beside its raw counts and keep its highly variable genes, in place.

    Counts stay in ``layers["counts"]`` (copied there where it does not exist); ``layers["lognorm"]`` is
    log1p of the counts scaled to ``target_sum`` over all genes; ``var`` and ``X`` keep the chosen genes, with
    ``highly_variable``, ``highly_variable_rank``, ``highly_variable_nbatches`` and ``highly_variable_score``
    in ``var``.

    Parameters
    ----------
    adata
        Cells x genes.
    layer
        Layer with the raw counts; by default ``counts`` where it exists, else ``X``.
    hvg
        Number of genes to keep; ``None`` keeps all, and so does a number larger than there are.
    flavor
        ``seurat_v3`` (scanpy's, where scanpy and scikit-misc are installed) or ``variance`` of Pearson residuals.
    batch_key
        Column of obs with the batch; genes are ranked in each.
    target_sum
        Total of a cell after scaling.
    train
        Positions or mask of the cells that choose the genes; all by default.

    Returns
    -------
    pd.DataFrame
        The columns above for every gene that was there.

    Raises
    ------
    InputError
        No such layer or column, values that are no counts, several modalities in one matrix, or a backed AnnData.
    """
    part, key = _matrix_of(adata, "rna", None if layer is None else f"layers:{layer}")
    counts, cells = _counts(part, "rna", key, train)
    genes = pd.DataFrame({"highly_variable": np.ones(adata.n_vars, dtype=bool)}, index=adata.var_names)
    if hvg is not None and hvg >= adata.n_vars:
        logger.info("rna: all %d genes are kept (hvg asks for %d)", adata.n_vars, hvg)
    elif hvg is not None:
        codes = np.zeros(adata.n_obs, dtype=np.int64)
        if batch_key is not None:
            codes = group_codes(column_of(adata.obs, batch_key))[0]
        chosen = select_genes(counts.__getitem__, cells, codes[cells], n_top=hvg, flavor=flavor)
        logger.info("rna: %d of %d genes by %s", hvg, adata.n_vars, chosen.how)
        genes["highly_variable"] = chosen.selected
        genes["highly_variable_rank"] = chosen.rank
        genes["highly_variable_nbatches"] = chosen.n_batches
        genes["highly_variable_score"] = chosen.score
        adata.var[genes.columns] = genes
    totals = np.asarray(counts.sum(axis=1)).ravel()
    kept = genes["highly_variable"].to_numpy()
    if not kept.all():
        counts = counts[:, kept]
        adata._inplace_subset_var(kept)
    if "counts" not in adata.layers:
        adata.layers["counts"] = (adata.X if key == "X" else adata.layers[key.removeprefix("layers:")]).copy()
    adata.layers["lognorm"] = lognorm(counts, totals, target_sum)
    return genes


def preprocess_atac(
    adata: AnnData,
    *,
    key: str | None = None,
    binarize: bool = True,
    min_cells: float = 0.0,
    n_top: int | None = None,
    train: np.ndarray | None = None,
) -> pd.DataFrame:
    """Keep the open peaks and read them as zeros and ones, in place.

    Parameters
    ----------
    adata
        Cells x peaks.
    key
        The matrix: ``X``, ``layers:<name>`` or ``obsm:<name>``; by default the first that exists of
        ``obsm:X_atac``, ``layers:atac``, ``layers:counts`` and ``X``. A matrix over ``var`` is subset with ``var``,
        one in ``obsm`` with its names in ``uns["<name>_names"]``.
    binarize
        Write one for every count above zero.
    min_cells
        Keep the peaks that are open in at least this many cells (under 1: this fraction of them).
    n_top
        Keep the most open peaks.
    train
        Positions or mask of the cells that choose the peaks; all by default.

    Returns
    -------
    pd.DataFrame
        For every peak that was there: ``n_cells`` that have it open, and whether it was ``kept``.

    Raises
    ------
    InputError
        No such matrix, values that are no counts, no peak left, or a backed AnnData.
    """
    part, key = _matrix_of(adata, "atac", key)
    counts, cells = _counts(part, "atac", key, train)
    names = part.feature_names(key, "atac", counts.shape[1])
    n_open = open_cells(counts.__getitem__, cells)
    kept = select_peaks(n_open, len(cells), min_cells=min_cells, n_top=n_top)
    counts = counts[:, kept]
    if binarize:
        counts.data[:] = 1.0
    place, _, name = key.partition(":")
    if place == "obsm":
        adata.obsm[name] = counts
        adata.uns[f"{name}_names"] = names[kept].to_numpy()
    else:
        if len(kept) < adata.n_vars:
            adata._inplace_subset_var(kept)
        if place == "X":
            adata.X = counts
        else:
            adata.layers[name] = counts
    return pd.DataFrame({"n_cells": n_open, "kept": np.isin(np.arange(len(names)), kept)}, index=names)


def preprocess_atac_tfidf_lsi(
    adata: AnnData,
    *,
    key: str | None = None,
    n_components: int = 50,
    obsm_key: str = "X_lsi",
    drop_depth: bool = True,
    train: np.ndarray | None = None,
    seed: int = 0,
) -> FittedLSI:
    """Write latent semantic components of the peaks to ``obsm``: TF-IDF, then a truncated decomposition.

    TF-IDF is log1p(TF x IDF x 1e4), see :func:`remadom.data.lsi.tfidf`. Every component has mean 0 and variance 1
    over the training cells. ``uns[obsm_key]`` holds ``n_components``, ``dims`` (the components kept, counted
    from 0), ``depth_correlation`` (Spearman correlation of each component computed with the total of the cell),
    ``dropped`` (how many were left out at the start) and ``variance_ratio``.

    Parameters
    ----------
    adata
        Cells x peaks; counts or zeros and ones.
    key
        The matrix, as in :func:`preprocess_atac`.
    n_components
        Components to write, whether or not the first is left out.
    obsm_key
        Where to.
    drop_depth
        Leave out the first component where its correlation with the depth exceeds 0.5 in size.
    train
        Positions or mask of the cells to fit on; all by default.
    seed
        Seed of the randomized decomposition.

    Returns
    -------
    FittedLSI
        For other cells: ``transform``.

    Raises
    ------
    InputError
        Fewer cells or peaks than components, no such matrix, values that are no counts, or a backed AnnData.
    """
    part, key = _matrix_of(adata, "atac", key)
    counts, cells = _counts(part, "atac", key, train)
    lsi = fit_lsi(counts.__getitem__, cells, n_components=n_components, drop_depth=drop_depth, seed=seed)
    logger.info("atac: LSI %s", lsi.depth_note)
    adata.obsm[obsm_key] = np.where(
        _present(adata.obs, "atac")[:, None], lsi.transform(counts), np.float32(0)
    )
    adata.uns[obsm_key] = {
        "n_components": n_components,
        "dims": np.arange(lsi.dropped, lsi.dropped + n_components),
        "depth_correlation": lsi.depth_correlation,
        "dropped": lsi.dropped,
        "variance_ratio": lsi.variance_ratio,
    }
    return lsi


def preprocess_adt(adata: AnnData, *, key: str | None = None) -> None:
    """Write the centered log ratio of the proteins (see :func:`clr`) beside the raw counts.

    Parameters
    ----------
    adata
        Cells x proteins.
    key
        The matrix: ``X``, ``layers:<name>`` or ``obsm:<name>``; by default the first that exists of ``obsm:X_adt``,
        ``obsm:protein_expression``, ``layers:adt``, ``layers:counts`` and ``X``. The result is
        in ``layers["clr"]``, or in ``obsm["<name>_clr"]`` for a matrix in ``obsm``.

    Raises
    ------
    InputError
        No such matrix, values that are no counts, or a backed AnnData.
    """
    part, key = _matrix_of(adata, "adt", key)
    counts, _ = _counts(part, "adt", key, None)
    place, _, name = key.partition(":")
    values = clr(counts.toarray())
    if place == "obsm":
        adata.obsm[f"{name}_clr"] = values
    else:
        adata.layers["clr"] = values


def _matrix_of(adata: AnnData, modality: str, key: str | None) -> tuple[Annotated, str]:
    """The AnnData as remadom reads it, and the key of the modality's matrix."""
    if adata.isbacked:
        raise InputError(
            "adata is backed, expected in memory to change it in place; call adata.to_memory() first"
        )
    part = content_of(adata, backed=False).parts[""]
    if key is None:
        key = next((known for known in (*modality_named(modality).keys, *MAIN) if known in part.keys), "X")
    if key not in part.keys:
        raise InputError(f"{modality}: adata has no matrix '{key}': {nearest(key, part.keys)}")
    if not key.startswith("obsm:") and adata.var.get("feature_types", pd.Series([])).nunique() > 1:
        found = ", ".join(map(str, adata.var["feature_types"].unique()))
        raise InputError(
            f"{modality}: the features of adata are of several types ({found}); take one type first: "
            "adata[:, adata.var['feature_types'] == ...].copy()"
        )
    return part, key


def _counts(
    part: Annotated, modality: str, key: str, train: np.ndarray | None
) -> tuple[sp.csr_matrix, np.ndarray]:
    """The matrix, CSR float32, and the positions of the cells to fit on, which have the modality."""
    n_cells = len(part.obs)
    stored = part.stored(key)
    assert isinstance(stored, InMemory)
    counts = stored.matrix
    if counts.nnz and not (counts.data.min() >= 0 and np.isfinite(counts.data).all()):
        raise InputError(
            f"{modality}: {key} holds values from {counts.data.min():g} to {counts.data.max():g}, expected raw "
            "counts; name the matrix that holds them"
        )
    cells = cell_positions(train, n_cells)
    cells = cells[_present(part.obs, modality)[cells]]
    if not len(cells):
        raise InputError(f"{modality}: no cell to fit on; see obs['has_{modality}'] and train")
    return counts, cells


def _present(obs: pd.DataFrame, modality: str) -> np.ndarray:
    key = f"has_{modality}"
    return presence(obs[key]) if key in obs.columns else np.ones(len(obs), dtype=bool)
