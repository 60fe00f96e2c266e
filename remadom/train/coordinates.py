"""The coordinates in which distances are those of what the cells of a data set decode to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from remadom.core.coordinates import BLOCK, DecodedCoordinates
from remadom.core.vae import MosaicVAE

SAMPLE = 4000
"""Most cells whose profiles are compared."""
FEATURES = 5000
"""Most features of a modality that are compared: those that vary most."""
FLAT = 1e-4
"""Difference from the mean below which all cells decode to the same."""


@torch.no_grad()
def fit_coordinates(
    model: MosaicVAE, z: Tensor, totals: Mapping[str, float], seed: int
) -> DecodedCoordinates | None:
    """Coordinates for cells at these places; ``None`` where nothing is decoded, or all cells decode to the same.

    The embedding keeps its overall scale: the sum of the variances of the coordinates is that of ``z``.

    Parameters
    ----------
    model
        Trained; its decoders are read.
    z
        Cell x latent.
    totals
        By modality, the total of a typical cell, where the decoder scales with it.
    seed
        Of the cells that are compared, and of the axes found.
    """
    training = model.training
    model.eval()
    drawn = np.random.default_rng(seed).permutation(len(z))[:SAMPLE]
    sample = z[drawn].to(next(model.parameters()).device)
    means, axes, scores = {}, {}, []
    for modality in model.decoders:
        kept, mean, x = _compared(model, sample, modality, totals.get(modality, 1.0))
        if np.abs(x).max() < FLAT:
            continue
        found = PCA(min(z.shape[1], *x.shape), random_state=seed % 2**32).fit(x)
        weights = np.zeros((len(mean), found.n_components_), dtype=np.float32)
        weights[kept] = found.components_.T / np.sqrt(found.explained_variance_[0])
        means[modality], axes[modality] = mean, weights
        scores.append(x @ weights[kept])
    model.train(training)
    if not scores:
        return None
    together = np.concatenate(scores, axis=1)
    whole = PCA(min(z.shape[1], *together.shape), svd_solver="full").fit(together)
    grow = (float(sample.var(0).sum()) / float(whole.explained_variance_.sum())) ** 0.5
    turn = np.zeros((together.shape[1], z.shape[1]), dtype=np.float32)
    turn[:, : whole.n_components_] = grow * whole.components_.T
    parts = np.split(turn, np.cumsum([w.shape[1] for w in axes.values()])[:-1])
    return DecodedCoordinates(
        {m: torch.tensor(totals.get(m, 1.0)) for m in axes},
        {m: torch.from_numpy(mean) for m, mean in means.items()},
        {m: torch.from_numpy(w @ part) for (m, w), part in zip(axes.items(), parts, strict=True)},
    )


@torch.no_grad()
def in_coordinates(model: MosaicVAE, z: Tensor) -> Tensor:
    """Places of the latent space in the coordinates of the model, on the CPU; of no batch, so not corrected."""
    if model.coordinates is None:
        return z
    training, device = model.training, next(model.parameters()).device
    model.eval()
    placed: Tensor = model.coordinates(z.to(device), model.profile)
    model.train(training)
    return placed.cpu()


def _compared(
    model: MosaicVAE, sample: Tensor, modality: str, total: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that vary most, means of all features (0 for the others), profiles of the cells less these means."""
    start, *others = torch.split(sample, BLOCK)
    first = model.profile(start, modality, total)
    kept = torch.topk(first.var(0), min(FEATURES, first.shape[1])).indices.sort().values
    x = torch.cat([first[:, kept], *(model.profile(block, modality, total)[:, kept] for block in others)])
    mean = x.mean(0)
    x -= mean  # here, as a PCA by the covariance subtracts large numbers
    means = torch.zeros_like(first[0]).index_copy(0, kept, mean)
    return kept.cpu().numpy(), means.cpu().numpy(), x.cpu().numpy()
