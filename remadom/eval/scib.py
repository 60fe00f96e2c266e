"""What the package scib-metrics says of an embedding, under its own names."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np

from remadom.errors import InputError, MissingExtra
from remadom.eval.labels import Labels, complete_codes
from remadom.eval.lisi import NEIGHBORS
from remadom.eval.neighbors import centered, nearest_cells

OURS = {
    "silhouette_label": "asw_label",
    "isolated_labels": "isolated_label",
    "clisi_knn": "clisi",
    "graph_connectivity": "graph_connectivity",
    "ilisi_knn": "ilisi",
    "silhouette_batch": "asw_batch",
    "kbet_per_label": "kbet",
    "nmi_ari_cluster_labels_leiden_nmi": "nmi",
    "nmi_ari_cluster_labels_leiden_ari": "ari",
    "pcr_comparison": "pcr",
}
"""Name here of what scib-metrics has, too.

Equal to 1e-3, but for NMI and ARI (another graph and other resolutions) and ``graph_connectivity`` (strong components
of the directed graph there, components of the symmetric graph here and in scIB).
"""


def scib_metrics_of(
    z: np.ndarray, labels: Labels, batch: Labels, before: np.ndarray | None = None
) -> dict[str, float]:
    """Scores by scib-metrics, with the neighborhoods of its benchmark (15, 50 and 90 cells).

    Neighbors are exact where scib-metrics searches them approximately; kBET searches its own. Memory and time grow with
    the square of the cells: hand in some thousands.

    Parameters
    ----------
    z
        Cell x latent.
    labels, batch
        One a cell; two or more of each.
    before
        Cell x component: the principal components of the features, before integration.

    Returns
    -------
    dict
        By the name of the function in scib-metrics; clusterings give a ``_nmi`` and an ``_ari``. ``pcr_comparison``
        only with ``before``.

    Raises
    ------
    MissingExtra
        scib-metrics is not installed.
    InputError
        A cell has no label or batch, there are fewer than two of either, or ``z`` is no finite matrix.

    References
    ----------
    Luecken et al., Nature Methods 2022, doi:10.1038/s41592-021-01336-8
    """
    if importlib.util.find_spec("scib_metrics") is None:
        raise MissingExtra("scib-metrics", "scib", "scoring by scib-metrics")
    z = centered(z)
    codes, lots = complete_codes(labels, len(z), "labels"), complete_codes(batch, len(z), "batch")
    if min(len(np.unique(codes)), len(np.unique(lots))) < 2:
        raise InputError(
            f"scib-metrics: found {len(np.unique(codes))} labels and {len(np.unique(lots))} batches among {len(z)} "
            "cells with both; expected two or more of each"
        )
    indices, distances = nearest_cells(z, NEIGHBORS - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of JAX, and of scib-metrics about its own dependencies
        import scib_metrics as scib
        from scib_metrics.nearest_neighbors import NeighborsResults

        near = NeighborsResults(
            indices=np.column_stack([np.arange(len(z)), indices]),
            distances=np.column_stack([np.zeros(len(z)), distances]),
        )
        few, some = (near.subset_neighbors(min(n, near.n_neighbors)) for n in (15, 50))
        scores = {
            "silhouette_label": scib.silhouette_label(z, codes),
            "isolated_labels": scib.isolated_labels(z, codes, lots),
            "clisi_knn": scib.clisi_knn(near, codes),
            "graph_connectivity": scib.graph_connectivity(few, codes),
            "ilisi_knn": scib.ilisi_knn(near, lots),
            "silhouette_batch": scib.silhouette_batch(z, codes, lots),
            "bras": scib.bras(z, codes, lots),
            "kbet_per_label": scib.kbet_per_label(some, lots, codes),
        }
        for clustering, found in (
            ("leiden", scib.nmi_ari_cluster_labels_leiden(few, codes)),
            ("kmeans", scib.nmi_ari_cluster_labels_kmeans(z, codes)),
        ):
            scores |= {f"nmi_ari_cluster_labels_{clustering}_{name}": found[name] for name in ("nmi", "ari")}
        if before is not None:
            scores["pcr_comparison"] = scib.pcr_comparison(before, z, lots, categorical=True)
    return {name: float(score) for name, score in scores.items()}
