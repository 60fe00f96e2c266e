"""kBET: whether the batches around a cell are those of its label, by a chi-squared test for each cell."""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.stats import chi2

from remadom.eval.diffusion import affinities, diffusion_map
from remadom.eval.labels import Labels, complete_codes
from remadom.eval.neighbors import Neighbors, nearest_cells, neighborhood

NEIGHBORS = 50
"""Cells in a neighborhood of the graph, the cell itself included."""
FEWEST = 10
"""Cells from which a label is tested; also the fewest neighbors of a test."""
MOST = 70
"""Most neighbors of a test."""
PIECE = 3
"""Neighborhoods that a piece of a label must hold to be tested."""
TESTED = 0.75
"""Share of a label's cells that must be in such pieces."""


def kbet(z: np.ndarray | Neighbors, batch: Labels, labels: Labels, *, alpha: float = 0.05) -> float:
    """Share of neighborhoods whose batches are a fair draw from those of their label, as in scIB.

    Within each label, neighbors are the nearest in a diffusion map of the label's part of the neighbor graph, a
    quarter of the mean cells of a batch many, 10 to 70. A cell passes where the chi-squared test of their batches
    against those of the label has p >= ``alpha``. A label in pieces counts as 0, except where those of 3 neighborhoods
    or more hold 75 % of its cells: then these are tested.

    Parameters
    ----------
    z
        Cell x latent, or what a search in it has found.
    batch, labels
        One a cell.
    alpha
        Level of the test.

    Returns
    -------
    float
        Mean over the labels, 0 to 1: at best 1 - ``alpha``, or so. Labels of fewer than 10 cells or of one batch are
        left out; NaN where none remains.

    References
    ----------
    Büttner et al., Nature Methods 2019, doi:10.1038/s41592-018-0254-1; Luecken et al., Nature Methods 2022,
    doi:10.1038/s41592-021-01336-8
    """
    near = neighborhood(z, NEIGHBORS - 1)
    codes = complete_codes(labels, len(near), "labels")
    lots = complete_codes(batch, len(near), "batch")
    graph = affinities(near)
    scores = []
    for code in np.unique(codes):
        here = np.flatnonzero(codes == code)
        if len(here) >= FEWEST and len(np.unique(lots[here])) > 1:
            scores.append(_of_label(graph[here][:, here], lots[here], alpha))
    return float(np.mean(scores)) if scores else math.nan


def _of_label(graph: sparse.csr_matrix, lots: np.ndarray, alpha: float) -> float:
    quarter = len(lots) // (4 * len(np.unique(lots)))
    k = min(MOST, max(FEWEST, quarter))
    pieces, piece = connected_components(graph, directed=False)
    if pieces > 1:
        large = np.flatnonzero((np.bincount(piece) >= PIECE * k)[piece])
        if len(large) < TESTED * len(lots):
            return 0.0
        graph, lots = graph[large][:, large], lots[large]
    nearest, _ = nearest_cells(diffusion_map(graph), k)
    return accepted(np.column_stack([np.arange(len(lots)), nearest]), lots, alpha)


def accepted(neighborhoods: np.ndarray, lots: np.ndarray, alpha: float) -> float:
    """Share of the neighborhoods (rows of cells) whose batches pass the test against those of all cells."""
    _, lots, size = np.unique(lots, return_inverse=True, return_counts=True)
    cells = np.arange(len(neighborhoods))[:, None]
    found = np.zeros((len(neighborhoods), len(size)))
    np.add.at(found, (cells, lots[neighborhoods]), 1)
    expected = size / size.sum() * neighborhoods.shape[1]
    statistic = ((found - expected) ** 2 / expected).sum(1)
    return float((chi2.sf(statistic, max(1, len(size) - 1)) >= alpha).mean())
