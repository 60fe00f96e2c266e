"""How good an embedding is: biology kept, batches mixed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from remadom.errors import InputError
from remadom.eval.clustering import cluster_agreement
from remadom.eval.connectivity import graph_connectivity, knn_purity
from remadom.eval.kbet import kbet
from remadom.eval.labels import Labels, coded
from remadom.eval.lisi import NEIGHBORS, clisi, ilisi
from remadom.eval.neighbors import Neighbors, centered, neighborhood
from remadom.eval.regression import pcr
from remadom.eval.silhouettes import asw_batch, isolated_width, label_silhouettes, mean_width

BIO = ("nmi", "ari", "asw_label", "clisi")
"""Scores whose mean is ``bio``."""
BATCH = ("ilisi", "graph_connectivity", "asw_batch")
"""Scores whose mean is ``batch``."""
BIO_WEIGHT = 0.6
"""Weight of ``bio`` in ``total``; the rest is that of ``batch``."""


def embedding_metrics(
    z: np.ndarray,
    labels: Labels | None = None,
    batch: Labels | None = None,
    *,
    max_cells: int = 5000,
    seed: int = 0,
    before: np.ndarray | None = None,
) -> dict[str, float | int | str]:
    """Scores of an embedding, higher is better, on at most ``max_cells`` cells drawn at random.

    Parameters
    ----------
    z
        Cell x latent.
    labels, batch
        One value a cell; cells without a label count for ``ilisi`` and ``pcr`` only, cells without a batch for the
        scores of labels only.
    max_cells
        Most cells that a score is computed on.
    seed
        Seed of the draw and of the clustering.
    before
        Cell x component: the principal components of the features, before integration. A row with a NaN is a cell that
        has none.

    Returns
    -------
    dict
        With two labels or more: ``nmi``, ``ari`` and ``clustering`` (see
        :func:`~remadom.eval.clustering.cluster_agreement`), ``asw_label``, ``clisi``, ``knn_purity`` beside
        ``knn_purity_chance`` (the sum of squared label frequencies), ``graph_connectivity`` and ``bio``. With two
        batches or more: ``ilisi`` and, given ``before``, ``pcr``. With both: ``isolated_label``, ``asw_batch``,
        ``kbet``, ``batch`` and ``total``. A score that is not defined is left out. Counts: ``n_cells`` (used by any
        score), ``n_labeled`` and ``n_labels``, ``n_batches``.

        ``bio`` is the mean of ``BIO``, ``batch`` that of those of ``BATCH`` that are defined, ``total`` is 0.6
        ``bio`` + 0.4 ``batch``. Only ``ari`` can be below 0.

    Raises
    ------
    InputError
        ``z`` is no finite matrix, or ``labels``, ``batch`` or ``before`` has another length.

    References
    ----------
    Luecken et al., Nature Methods 2022, doi:10.1038/s41592-021-01336-8
    """
    z = centered(z)
    if before is not None and (np.ndim(before) != 2 or len(before) != len(z)):
        raise InputError(
            f"before: found shape {np.shape(before)}; expected a row of components for each of {len(z)} cells"
        )
    label, labeled = coded(labels, len(z), "labels")
    lot, batched = coded(batch, len(z), "batch")
    order = np.random.default_rng(seed).permutation(len(z))
    drawn: dict[bytes, _Sample] = {}

    def draw(wanted: np.ndarray) -> _Sample:
        """The first that are wanted; the same cells are the same sample, whose neighbors are searched once."""
        cells = np.sort(order[wanted[order]][:max_cells])
        return drawn.setdefault(cells.tobytes(), _Sample(cells, z[cells], label[cells], lot[cells]))

    of_labels, of_batches, of_both = draw(labeled), draw(batched), draw(labeled & batched)
    counts: dict[str, int] = {"n_cells": len(np.union1d(of_labels.cells, of_batches.cells))}
    scores: dict[str, float | str] = {}
    if labels is not None:
        counts |= {"n_labeled": len(of_labels.cells), "n_labels": len(np.unique(of_labels.label))}
        if counts["n_labels"] > 1:
            scores |= _of_labels(of_labels, batched[of_labels.cells], seed)
    if batch is not None:
        counts["n_batches"] = len(np.unique(of_batches.lot))
        if counts["n_batches"] > 1:
            scores["ilisi"] = ilisi(of_batches.near, of_batches.lot)
            if labels is not None:
                scores["asw_batch"] = asw_batch(of_both.z, of_both.lot, of_both.label)
                scores["kbet"] = kbet(of_both.near, of_both.lot, of_both.label)
            if before is not None:
                scores["pcr"] = _pcr(np.asarray(before, np.float64)[of_batches.cells], of_batches)
    defined = {name: score for name, score in scores.items() if score == score}
    return {**defined, **_composed(defined), **counts}


@dataclass(frozen=True)
class _Sample:
    """Some of the cells, in ascending order, and what is known of them."""

    cells: np.ndarray
    z: np.ndarray
    label: np.ndarray
    lot: np.ndarray

    @cached_property
    def near(self) -> Neighbors:
        return neighborhood(self.z, NEIGHBORS - 1)


def _of_labels(sample: _Sample, batched: np.ndarray, seed: int) -> dict[str, float | str]:
    """Scores of cells with labels, some of which (``batched``) have a batch."""
    share = np.bincount(sample.label) / len(sample.label)
    widths = label_silhouettes(sample.z, sample.label)
    found = cluster_agreement(sample.z, sample.label, near=sample.near, seed=seed)
    assert found is not None
    return {
        **found._asdict(),
        "asw_label": mean_width(widths),
        "clisi": clisi(sample.near, sample.label),
        "isolated_label": isolated_width(widths[batched], sample.label[batched], sample.lot[batched]),
        "graph_connectivity": graph_connectivity(sample.near, sample.label),
        "knn_purity": knn_purity(sample.near, sample.label),
        "knn_purity_chance": float((share**2).sum()),
    }


def _pcr(before: np.ndarray, sample: _Sample) -> float:
    known = ~np.isnan(before).any(axis=1)
    return pcr(before[known], sample.z[known], sample.lot[known]) if known.any() else math.nan


def _composed(scores: dict[str, float | str]) -> dict[str, float]:
    """``bio``, ``batch`` and ``total``, where they are defined."""
    composed = {}
    if all(name in scores for name in BIO):
        composed["bio"] = float(np.mean([scores[name] for name in BIO]))
    if "ilisi" in scores and "graph_connectivity" in scores:
        composed["batch"] = float(np.mean([scores[name] for name in BATCH if name in scores]))
    if len(composed) == 2:
        composed["total"] = BIO_WEIGHT * composed["bio"] + (1 - BIO_WEIGHT) * composed["batch"]
    return composed
