"""A plane to draw an embedding in: UMAP where it is installed, PCA otherwise, and the name of which."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import NamedTuple

import numpy as np

from remadom.eval.neighbors import centered

logger = logging.getLogger(__name__)

UMAP_CELLS = (50, 50_000)
"""Fewest and most cells that are laid out by UMAP: it takes some milliseconds of one core a cell."""


class Layout(NamedTuple):
    """Cell x 2 (float32) and the name of the method, for the axes of a figure."""

    xy: np.ndarray
    name: str


def plane(z: np.ndarray, *, seed: int = 0) -> Layout:
    """Lay an embedding out in a plane, the same for the same seed.

    Parameters
    ----------
    z
        Cell x latent.
    seed
        Seed of UMAP; PCA has no chance in it.

    Returns
    -------
    Layout
        UMAP (15 neighbors, started from the principal components) if the package umap-learn is installed, the
        number of cells is within ``UMAP_CELLS`` and they do not lie on a line; else the first two principal
        components.

    Raises
    ------
    InputError
        ``z`` is not a matrix of finite numbers.

    References
    ----------
    McInnes et al., Journal of Open Source Software 2018, doi:10.21105/joss.00861
    """
    z = centered(z)
    components = _principal(z)
    fewest, most = UMAP_CELLS
    if not fewest <= len(z) <= most or not components.any(axis=0).all():
        return Layout(components, "PCA")
    if importlib.util.find_spec("umap") is None:
        logger.info("the figure is drawn by PCA; for UMAP: pip install 'remadom[eval]'")
        return Layout(components, "PCA")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # it misses TensorFlow, for a class not used here
        from umap import UMAP
    start = 10 * components / np.abs(components).max()
    return Layout(UMAP(init=start, n_epochs=200, random_state=seed, n_jobs=1).fit_transform(z), "UMAP")


def _principal(z: np.ndarray) -> np.ndarray:
    """The first two principal components; the second is 0 where there is but one."""
    if not len(z):
        return np.zeros((0, 2), np.float32)
    deviation = z - z.mean(0)
    axes = np.linalg.eigh(deviation.T @ deviation).eigenvectors[:, :-3:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    xy = np.zeros((len(z), 2), np.float32)
    xy[:, : axes.shape[1]] = deviation @ axes
    return xy
