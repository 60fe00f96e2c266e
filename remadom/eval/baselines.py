"""What simple methods predict of a modality for the same cells, fitted on the same training cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

from remadom.data.source import Source
from remadom.data.views import views_of
from remadom.eval.scales import COUNTS, Scale
from remadom.types.view import COMPONENTS

NEIGHBORS = 15
PENALTY = 10.0
MOST_FITTED = 5000
"""Most training cells that a baseline is fitted on, drawn with the seed."""


def baselines(
    source: Source,
    modality: str,
    cells: np.ndarray,
    train: np.ndarray,
    *,
    features: np.ndarray | None = None,
    scale: Scale = COUNTS,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Predictions by the mean of the training cells, by nearest neighbors and by ridge regression.

    Neighbors and regression see the principal components (``COMPONENTS`` of each modality, over the training cells and
    the predicted ones) of the other modalities that a cell has, each modality scaled to one variance, and are fitted
    on the training cells that have these and the target. Both predict on the scale (log1p counts). A cell for which no
    such training cell exists gets the mean.

    Parameters
    ----------
    source
        The cells with features selected, held-out values hidden.
    modality
        The target.
    cells, train
        Positions of the cells to predict and of the training cells.
    features
        Positions of the features to predict; all by default.
    scale
        On which neighbors are averaged and the regression is linear.
    seed
        Of the draw of training cells, where there are many.

    Returns
    -------
    dict
        Values, cell x feature, of ``mean``, and of ``knn`` and ``ridge`` where a cell could be predicted by them.
    """
    train = train[source.has[modality][train]]
    train = np.sort(np.random.default_rng(seed).permutation(train)[:MOST_FITTED])
    known = source.rows(modality, train)
    known = known if features is None else known[:, features]
    mean = np.asarray(known.mean(axis=0), dtype=np.float32)
    guesses = {"mean": np.repeat(mean.reshape(1, -1), len(cells), axis=0)}
    values = scale.to(known.toarray())
    others = [m for m in source.modalities if m != modality]
    for sources, at in source.by_sources(others, cells):
        taught = np.flatnonzero(np.all([source.has[m][train] for m in sources], axis=0))
        if len(taught) <= 2:
            continue
        seen, asked = _components(source, sources, train[taught], cells[at])
        for name, guess in (
            ("knn", _neighbors(seen, values[taught], asked)),
            ("ridge", _ridge(seen, values[taught], asked)),
        ):
            bounded = scale.back(guess).clip(scale.least, scale.most)
            guesses.setdefault(name, guesses["mean"].copy())[at] = bounded
    return guesses


def _components(
    source: Source, sources: Sequence[str], train: np.ndarray, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Components of the training cells and of the others."""
    both = np.union1d(train, cells)
    blocks = []
    for name in sources:
        view = views_of(source, both, [name])[name]
        scores = view.scores.astype(np.float64)
        blocks.append(scores / max(1e-12, np.sqrt(scores.var(0).sum())))
    joined = np.concatenate(blocks, axis=1)
    return joined[np.searchsorted(both, train)], joined[np.searchsorted(both, cells)]


def _neighbors(seen: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Mean of the nearest training cells."""
    search = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(seen))).fit(seen)
    nearest = search.kneighbors(asked, return_distance=False)
    mean: np.ndarray = sum(values[column] for column in nearest.T) / nearest.shape[1]
    return mean


def _ridge(seen: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Linear in the components, onto the components of the target where it has more features than these."""
    scale = np.sqrt(
        len(seen) / max(1e-12, (seen**2).sum() / seen.shape[1])
    )  # the penalty is on unit variances
    if min(values.shape) <= COMPONENTS + 1:
        guess: np.ndarray = Ridge(PENALTY).fit(seen * scale, values).predict(asked * scale)
        return guess
    target = PCA(COMPONENTS, svd_solver="randomized", random_state=0).fit(values)
    fitted = Ridge(PENALTY).fit(seen * scale, target.transform(values))
    guess = target.inverse_transform(fitted.predict(asked * scale))
    return guess
