"""The metrics beside those of the package scib-metrics, where it is installed (``pip install 'remadom[scib]'``)."""

from __future__ import annotations

import importlib.util
import logging

import numpy as np
import pytest
from scipy import sparse

from remadom.errors import InputError, MissingExtra
from remadom.eval.connectivity import graph_connectivity
from remadom.eval.metrics import embedding_metrics
from remadom.eval.neighbors import neighborhood
from remadom.eval.scib import OURS, scib_metrics_of

ABSENT = importlib.util.find_spec("scib_metrics") is None
needs_scib = pytest.mark.skipif(ABSENT, reason="scib-metrics is not installed")

EQUAL = set(OURS) - {
    "nmi_ari_cluster_labels_leiden_nmi",  # there on the graph of UMAP weights, ten resolutions
    "nmi_ari_cluster_labels_leiden_ari",
    "graph_connectivity",  # strong components of the directed graph there
}


def cells(n_cells, noise, seed):
    rng = np.random.default_rng(seed)
    labels, batch = rng.integers(5, size=n_cells), rng.integers(3, size=n_cells)
    batch[labels == 0] = np.minimum(batch[labels == 0], 1)  # the isolated label
    shift = rng.normal(size=(3, 10))[batch]
    z = rng.normal(size=(n_cells, 10)) + 1.2 * rng.normal(size=(5, 10))[labels] + noise * shift
    return z, labels, batch, z + shift


def in_pieces(seed):
    """One label has a small piece (9 cells), one is in halves that are too small for a test."""
    z, labels, batch, before = cells(1500, 0.2, seed)
    z[np.flatnonzero(labels == 1)[:9]] += 60
    far = np.flatnonzero(labels == 2)
    z[far] += 40 * np.eye(10)[np.arange(len(far)) % 10]
    return z, labels, batch, before


@needs_scib
@pytest.mark.parametrize(
    "data",
    [cells(1500, 0.3, 0), cells(1200, 1.0, 1), in_pieces(2)],
    ids=["mixed", "batches apart", "in pieces"],
)
def test_scores_equal_those_of_scib_metrics(data):
    logging.getLogger("scib_metrics").setLevel(logging.WARNING)
    z, labels, batch, before = data
    theirs = scib_metrics_of(z, labels, batch, before)
    ours = embedding_metrics(z, labels, batch, before=before)
    assert {name: ours[OURS[name]] for name in EQUAL} == pytest.approx(
        {name: theirs[name] for name in EQUAL}, abs=1e-3
    )
    for name in ("nmi", "ari"):
        assert ours[name] == pytest.approx(theirs[f"nmi_ari_cluster_labels_leiden_{name}"], abs=0.05)
    assert theirs["graph_connectivity"] <= ours["graph_connectivity"]
    assert all(0 <= score <= 1 for score in theirs.values())


@needs_scib
@pytest.mark.filterwarnings("ignore")  # of what it imports
def test_connectivity_is_theirs_on_the_symmetric_graph():
    import scib_metrics

    z, labels, _, _ = in_pieces(0)

    class Symmetric:
        knn_graph_distances = sparse.csr_matrix(neighborhood(z, 15).graph(15))

    expected = scib_metrics.graph_connectivity(Symmetric(), labels)
    assert expected < 1
    assert graph_connectivity(z, labels) == pytest.approx(expected, abs=1e-12)


@needs_scib
def test_one_batch_is_refused_in_words():
    with pytest.raises(InputError, match="found 2 labels and 1 batches among 4 cells"):
        scib_metrics_of(np.zeros((4, 2)), [0, 0, 1, 1], [0, 0, 0, 0])


@pytest.mark.skipif(not ABSENT, reason="scib-metrics is installed")
def test_without_the_package_the_extra_is_named():
    with pytest.raises(MissingExtra, match=r"needs the package scib-metrics.*pip install 'remadom\[scib\]'"):
        scib_metrics_of(np.zeros((4, 2)), [0, 0, 1, 1], [0, 1, 0, 1])
