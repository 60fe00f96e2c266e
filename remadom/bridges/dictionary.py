"""Multi-omic cells as a dictionary that translates between modalities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from remadom.bridges.base import BRIDGES, Bridge
from remadom.bridges.linear import (
    Sides,
    correlations,
    overlapping,
    partner_rank,
    ridge,
    scores,
    standardized,
)
from remadom.bridges.neighbors import Part, affinity, joined, no_edges
from remadom.errors import InputError
from remadom.solvers.ann import AnnIndex, Backend
from remadom.solvers.mutual import mutual_pairs
from remadom.types import BridgeEdges, View

DENSE_BELOW = 500
"""Atoms below which all eigenvectors are computed."""


@BRIDGES.register("dictionary")
class DictionaryBridge(Bridge):
    """Cells of one modality as combinations of multi-omic cells, which are the atoms of a dictionary.

    As in bridge integration (Hao et al. 2023, doi:10.1038/s41587-023-01767-y): a cell with one modality gets
    coefficients over the atoms, by ridge regression in that modality's scores; the coefficients are multiplied by
    the leading eigenvectors of the atoms' graph, which joins the neighbors in both modalities; there, cells of
    different modalities are compared. Each eigenvector is weighed by the correlation of the atoms' own
    leave-one-out reconstructions from the two modalities, so that what only one of them tells does not count.
    Mutual nearest neighbors by cosine are linked; the weight falls with the places at which they list each
    other, and the confidence is the cosine times the rank of an atom's two reconstructions as partners (1: always
    each other's nearest, 0: as by chance). Each cell is also linked to its nearest atoms. Every two views that
    share cells are treated in this way.

    Parameters
    ----------
    k
        Neighbors searched on the other side; also the fewest multi-omic cells that make a dictionary.
    atom_links
        Links of each cell with one modality to its nearest atoms in that modality; 0 for none.
    neighbors
        Neighbors in the graph of the atoms.
    axes
        Eigenvectors of that graph.
    strength
        Ridge strength, relative to the mean variance of the scores.
    max_atoms
        With more multi-omic cells, so many of them are taken, evenly spaced.
    ann_backend
        Search back end; faiss where it is installed if not given. The edges are the same for all.
    """

    def __init__(
        self,
        *,
        k: PositiveInt = 10,
        atom_links: NonNegativeInt = 3,
        neighbors: PositiveInt = 20,
        axes: PositiveInt = 30,
        strength: PositiveFloat = 0.1,
        max_atoms: PositiveInt = 10_000,
        ann_backend: Backend | None = None,
    ) -> None:
        self.k, self.atom_links, self.neighbors, self.axes = k, atom_links, neighbors, axes
        self.strength, self.max_atoms, self.ann_backend = strength, max_atoms, ann_backend

    def build(self, views: Mapping[str, View], n_cells: int) -> BridgeEdges:
        """Edges of the cells that lack one of two modalities.

        Parameters
        ----------
        views
            Features of the modalities.
        n_cells
            Cells of the data set.

        Raises
        ------
        InputError
            No two views share ``max(k, 3)`` cells, or there is no cell to link.
        """
        least = max(self.k, 3)
        large = [sides for sides in overlapping(views) if len(sides.paired) >= least]
        if not large:
            raise InputError(
                f"bridge 'dictionary': found no two modalities that share {least} cells, expected at least one such "
                f"pair among {list(views)}; lower bridge.dictionary.k, or, where no cell has both, use the "
                "bridge.provider 'linked_features' or 'gw'"
            )
        edges = joined([part for sides in large for part in self._translated(sides)], n_cells)
        if not len(edges):
            raise InputError(
                "bridge 'dictionary': found multi-omic cells, but no cell to link with them or through them; set "
                "bridge.dictionary.atom_links above 0, raise bridge.dictionary.k, or leave the bridge out where "
                "every cell has every modality"
            )
        return edges

    def _translated(self, sides: Sides) -> list[Part]:
        """Edges between two views, and of both with their atoms."""
        atoms = sides.paired[:: -(-len(sides.paired) // self.max_atoms)]
        eigenvectors = self._eigenvectors(scores(sides.a, atoms), scores(sides.b, atoms))
        a, atoms_by_a = self._placed(sides.a, sides.only_a, atoms, eigenvectors)
        b, atoms_by_b = self._placed(sides.b, sides.only_b, atoms, eigenvectors)
        shared = correlations(atoms_by_a, atoms_by_b)
        parts = [self._to_atoms(sides.a, sides.only_a, atoms), self._to_atoms(sides.b, sides.only_b, atoms)]
        rank = partner_rank(atoms_by_a * shared, atoms_by_b * shared, "cosine")
        if rank > 0 and len(a) and len(b):
            parts.append(self._across(sides, a * shared, b * shared, rank))
        return parts

    def _placed(
        self, view: View, cells: np.ndarray, atoms: np.ndarray, eigenvectors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cells along the eigenvectors by their coefficients; the atoms, each by those of the others."""
        own = scores(view, atoms)
        slopes, held = ridge(own - own.mean(0), eigenvectors, self.strength)
        spread = held.std(0)
        unit = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-9)
        return (scores(view, cells) - own.mean(0)) @ slopes * unit, held * unit

    def _across(self, sides: Sides, a: np.ndarray, b: np.ndarray, rank: float) -> Part:
        """Mutual nearest neighbors among the cells that have only one of the modalities."""
        i, j, weight = mutual_pairs(a, b, self.k, "cosine", self.ann_backend)
        length = np.linalg.norm(a[i], axis=1) * np.linalg.norm(b[j], axis=1)
        cosine = np.divide((a[i] * b[j]).sum(1), length, out=np.zeros(len(i)), where=length > 0)
        alike = cosine > 0
        confidence = rank * np.minimum(cosine[alike], 1)
        return sides.only_a[i[alike]], sides.only_b[j[alike]], weight[alike], confidence

    def _eigenvectors(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Leading non-constant eigenvectors of the random walk on the atoms' joint graph, standardized."""
        graph = sum(
            (affinity(x, self.neighbors, "euclidean", self.ann_backend) for x in (a, b)), sp.eye(len(a))
        )
        scale = 1 / np.sqrt(np.asarray(graph.sum(1)).ravel())
        walk = sp.csr_matrix(sp.diags(scale) @ graph @ sp.diags(scale))
        n = min(self.axes + 1, len(a) - 1)
        if len(a) < DENSE_BELOW:
            vectors = np.linalg.eigh(walk.toarray())[1][:, -n:]
        else:
            vectors = sp.linalg.eigsh(walk, n, v0=np.random.default_rng(0).normal(size=len(a)))[1]
        return standardized(vectors * scale[:, None])

    def _to_atoms(self, view: View, cells: np.ndarray, atoms: np.ndarray) -> Part:
        """Each cell with its nearest atoms; the weight falls with their order."""
        if not self.atom_links or not len(cells):
            return no_edges()
        index = AnnIndex(scores(view, atoms), backend=self.ann_backend)
        nearest = index.search(scores(view, cells), self.atom_links)[0].numpy()
        weight = np.broadcast_to(1 - np.arange(nearest.shape[1]) / self.atom_links, nearest.shape).reshape(-1)
        src = np.repeat(cells, nearest.shape[1])
        return src, atoms[nearest.reshape(-1)], weight, np.ones(len(src))
