"""A plane to draw an embedding in: UMAP where it is installed, PCA otherwise, t-SNE on request."""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from remadom.errors import InputError, MissingExtra, nearest
from remadom.eval.neighbors import centered, neighborhood
from remadom.utils.threads import threads_kept

logger = logging.getLogger(__name__)

Method = Literal["auto", "umap", "pca", "tsne"]

UMAP_CELLS = (50, 50_000)
"""Fewest and most cells that are laid out by UMAP without being asked to: it takes some milliseconds a cell."""
FEWEST_NEIGHBORS = 16
"""Fewest cells that have neighborhoods, for UMAP or t-SNE."""


class Layout(NamedTuple):
    """Cell x 2 (float32) and the name of the method, for the axes of a figure."""

    xy: np.ndarray
    name: str


def plane(z: np.ndarray, method: Method = "auto", *, seed: int = 0) -> Layout:
    """Lay an embedding out in a plane, the same for the same seed.

    Parameters
    ----------
    z
        Cell x latent.
    method
        ``"auto"``: UMAP if the package umap-learn is installed and the number of cells is within ``UMAP_CELLS``,
        else PCA. ``"umap"`` (15 neighbors) and ``"tsne"`` (perplexity 30, or a third of the cells) whatever the
        number of cells: both start from the principal components, and t-SNE takes minutes for 50,000. Fewer than
        ``FEWEST_NEIGHBORS`` cells, and cells on a line, are always laid out by PCA.
    seed
        Seed of UMAP and t-SNE; PCA has no chance in it.

    Raises
    ------
    InputError
        ``z`` is not a matrix of finite numbers, there is no such method, or UMAP is asked for and not installed.

    References
    ----------
    McInnes et al., Journal of Open Source Software 2018, doi:10.21105/joss.00861
    van der Maaten, JMLR 2014, 15(93):3221-3245
    """
    if method not in get_args(Method):
        raise InputError(f"layout '{method}' does not exist: {nearest(method, get_args(Method))}")
    z = centered(z)
    components = _principal(z)
    if not components.any(axis=0).all() or len(z) < FEWEST_NEIGHBORS:
        method = "pca"
    elif method == "auto":
        method = _chosen(len(z))
    if method == "umap":
        return Layout(_umap(z, components, seed), "UMAP")
    if method == "tsne":
        return Layout(_tsne(z, components, seed), "t-SNE")
    return Layout(components, "PCA")


def _chosen(n_cells: int) -> Method:
    fewest, most = UMAP_CELLS
    if not fewest <= n_cells <= most:
        return "pca"
    if importlib.util.find_spec("umap") is None:
        logger.info("the figure is drawn by PCA; for UMAP: pip install 'remadom[eval]'")
        return "pca"
    try:
        _umap_class()
    except RuntimeError as error:  # numba, where no folder can be written in which it keeps what it compiles
        logger.warning("the figure is drawn by PCA; umap-learn cannot be imported: %s", error)
        return "pca"
    return "umap"


def _umap_class() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # it misses TensorFlow, for a class not used here
        from umap import UMAP
    return UMAP


def _umap(z: np.ndarray, components: np.ndarray, seed: int) -> np.ndarray:
    if importlib.util.find_spec("umap") is None:
        raise MissingExtra("umap-learn", "eval", "the layout umap")
    UMAP = _umap_class()
    _keep_compiled()
    start = 10 * components / np.abs(components).max()
    neighbors = min(15, len(z) - 1)
    near, itself = neighborhood(z, neighbors - 1), np.arange(len(z))[:, None]
    known = (
        np.hstack([itself, near.indices]),
        np.hstack([0.0 * itself, near.distances]).astype(np.float32),
    )  # its own search takes a minute, most of it to be compiled
    found = UMAP(
        n_neighbors=neighbors, init=start, n_epochs=200, random_state=seed, n_jobs=1, precomputed_knn=known
    )
    with threads_kept(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"precomputed_knn\[2\]", UserWarning)  # nothing new is placed
        xy: np.ndarray = found.fit_transform(z)
    return xy


def _keep_compiled() -> None:
    """Let numba keep the machine code of umap-learn as it keeps that of pynndescent: beside it, or in the user's cache.

    To compile it takes each process seven seconds, ten times what laying out two thousand cells does.
    """
    dispatcher = sys.modules.get("numba.core.dispatcher")
    if dispatcher is None:
        return
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "umap":
            for found in vars(module).values():
                if isinstance(found, dispatcher.Dispatcher) and not found.signatures:
                    found.enable_caching()


def _tsne(z: np.ndarray, components: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE  # takes a second to import, and is rarely asked for

    start = 1e-4 * components / components[:, 0].std()
    found = TSNE(perplexity=min(30.0, (len(z) - 1) / 3), init=start, random_state=seed)
    xy: np.ndarray = found.fit_transform(z)
    return xy


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
