"""Soft clusters of an embedding, and what each batch lies apart in them."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from remadom.core.correction import BatchCorrection

CELLS_A_CLUSTER = 100
MOST_CLUSTERS = 100
SHRINKAGE = 20.0
"""Cells of no offset that are added to those of a batch in a cluster."""
PASSES = 5
SAMPLE = 20_000
"""Most cells that are clustered."""
BLOCK = 50_000


def fit_correction(z: np.ndarray, batch: np.ndarray, n_batches: int, seed: int) -> BatchCorrection | None:
    """Correction of an embedding; ``None`` where there is one batch, or too few cells for two clusters.

    In each cluster the batches are moved onto their common center, in which a batch counts by how many cells it has
    there (a batch alone in a cluster stays where it is). Clusters and offsets are found in turn, ``PASSES`` times; the
    offsets are always those of the embedding as it was.

    Parameters
    ----------
    z
        Cell x latent.
    batch
        Code of the batch of each cell; below 0: none.
    n_batches
        Number of batches.
    seed
        Of the cells that are clustered, and of the clusters.
    """
    k = min(MOST_CLUSTERS, len(z) // CELLS_A_CLUSTER)
    if n_batches < 2 or k < 2:
        return None
    start, codes = torch.from_numpy(np.asarray(z, dtype=np.float32)), torch.from_numpy(batch)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(z))[:SAMPLE])
    moved, found = start, None
    for _ in range(PASSES):
        sample = moved[drawn].numpy()
        clusters = KMeans(k, n_init=1, random_state=seed % 2**32).fit(sample)
        apart = sample - clusters.cluster_centers_[clusters.labels_]
        variance = np.maximum((apart**2).mean(0), 1e-6)
        weight = np.bincount(clusters.labels_, minlength=k) / len(sample)
        centers, spread, share = map(torch.from_numpy, (clusters.cluster_centers_, variance, weight))
        found = BatchCorrection(centers, spread, share, torch.zeros(k, n_batches, start.shape[1]))
        found.offset.copy_(_offsets(found, start, moved, codes))
        moved = found(start, codes)
    return found


def _offsets(found: BatchCorrection, start: Tensor, moved: Tensor, codes: Tensor) -> Tensor:
    """How far the cells of each batch lie, as they were, from the common center of each cluster, shrunken."""
    k, n_batches, d = found.offset.shape
    mass, sums = torch.zeros(k, n_batches), torch.zeros(k, n_batches, d)
    for code in range(n_batches):
        for cells in torch.split((codes == code).nonzero().squeeze(1), BLOCK):
            share = found.responsibilities(moved[cells])
            mass[:, code] += share.sum(0)
            sums[:, code] += share.T @ start[cells]
    mean = sums / mass.clamp(min=1e-6).unsqueeze(2)
    told = (mass / (mass + SHRINKAGE)).unsqueeze(2)
    center = (told * mean).sum(1, keepdim=True) / told.sum(1, keepdim=True).clamp(min=1e-6)
    return told * (mean - center)
