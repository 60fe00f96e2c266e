"""Correction of new batches in the latent space by soft clusters of the reference, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2
from sklearn.cluster import KMeans

from remadom.errors import InputError

CELLS_A_CLUSTER = 50
"""Cells of the reference that a cluster has on average, as far as ``clusters`` allows."""

_SAMPLE = 50_000
_PASSES = 10
_FAR = 0.999
"""Quantile of the distance of a cluster's own cells beyond which a cell is of no cluster."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Soft clusters of a reference: a Gaussian mixture with one diagonal covariance.

    Attributes
    ----------
    centers
        Cluster x latent.
    variance
        Of a cell about its center, by dimension.
    weight
        Share of the cells in each cluster.
    """

    centers: np.ndarray
    variance: np.ndarray
    weight: np.ndarray

    @classmethod
    def fit(cls, z: np.ndarray, *, clusters: int = 100, seed: int = 0) -> Mixture:
        """Fit to a reference by k-means.

        Parameters
        ----------
        z
            Cell x latent.
        clusters
            Most clusters; fewer where there are fewer than ``CELLS_A_CLUSTER`` cells for each.
        seed
            Of the starting points, and of the 50,000 cells that are clustered of a larger reference.

        Raises
        ------
        InputError
            There are no cells.
        """
        if not len(z):
            raise InputError("the reference has no cells to cluster")
        rng = np.random.default_rng(seed)
        drawn = z if len(z) <= _SAMPLE else z[np.sort(rng.choice(len(z), _SAMPLE, replace=False))]
        k = max(1, min(clusters, len(drawn) // CELLS_A_CLUSTER))
        found = KMeans(k, n_init=1, random_state=seed).fit(drawn)
        apart = drawn - found.cluster_centers_[found.labels_]
        variance = np.maximum((apart**2).sum(0) / max(1, len(drawn) - k), 1e-6)
        weight = np.bincount(found.labels_, minlength=k) / len(drawn)
        return cls(found.cluster_centers_.astype(np.float64), variance, weight)

    def posterior(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probability of each cluster, cell x cluster (rows add up to 1), and squared distance to the nearest.

        The distance is in deviations of the cells of a cluster.
        """
        scale = 1 / np.sqrt(self.variance)
        a, b = z * scale, self.centers * scale
        squared = np.maximum((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1), 0)
        log = np.log(np.maximum(self.weight, 1e-12)) - squared / 2
        log -= log.max(1, keepdims=True)
        share = np.exp(log)
        return share / share.sum(1, keepdims=True), squared.min(1)


class Corrected(NamedTuple):
    """New cells, cell x latent, float32.

    ``cells`` are moved by their batch and by its clusters; ``whole`` by their batch alone: clusters draw cells of a new
    type to those that are known, and how far a cell is from these is seen before.
    """

    cells: np.ndarray
    whole: np.ndarray


def corrected(z: np.ndarray, batch: np.ndarray, mixture: Mixture, *, shrinkage: float = 20.0) -> Corrected:
    """Cells of new batches, each moved by what its batch lies apart from the clusters of a reference.

    A batch is first moved as a whole, then each cell by the mean shift of its soft clusters; a cluster in which a batch
    has few cells moves with the batch. Cells far from every cluster do not tell where a batch lies, and move with it.
    The idea is that of Symphony (Kang et al. 2021, doi:10.1038/s41467-021-25957-x); the form is derived here.

    Parameters
    ----------
    z
        Cell x latent.
    batch
        Batch of each cell; each is corrected on its own.
    mixture
        Clusters of the reference.
    shrinkage
        Cells of no shift that are added to a batch, and to each cluster of it.

    """
    start = np.asarray(z, dtype=np.float64)
    moved, whole = start.copy(), start.copy()
    for name in np.unique(batch):
        cells = np.flatnonzero(batch == name)
        moved[cells], whole[cells] = _corrected(start[cells], mixture, shrinkage)
    return Corrected(moved.astype(np.float32), whole.astype(np.float32))


def _corrected(start: np.ndarray, mixture: Mixture, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    whole = np.zeros(start.shape[1])
    apart = np.zeros((len(mixture.centers), start.shape[1]))
    z = start
    limit = chi2.ppf(_FAR, start.shape[1])
    for _ in range(_PASSES):
        share, squared = mixture.posterior(z)
        near = squared <= max(limit, float(np.median(squared)))
        share = share * near[:, None]
        mass = share.sum(0)
        if mass.sum() == 0:
            return z, start - whole
        # what is left of each cluster's shift, about the shift of the whole batch
        mean = (share.T @ start) / np.maximum(mass, 1e-12)[:, None]
        shift = np.where(mass[:, None] > 0, mean - mixture.centers, 0.0)
        told = mass / np.maximum(mass + shrinkage, 1e-12)
        whole = (told[:, None] * shift).sum(0) / told.sum() * mass.sum() / (mass.sum() + shrinkage)
        apart = told[:, None] * (shift - whole)
        everywhere, _ = mixture.posterior(z)
        z = start - whole - (everywhere * near[:, None]) @ apart
    return z, start - whole
