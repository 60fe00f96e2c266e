"""How good an embedding is (biology kept, batches mixed) and how good imputed values are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import silhouette_samples

from remadom.errors import InputError
from remadom.eval.neighbors import centered, nearest_cells, perplexity_weights

Labels = Sequence[Any] | np.ndarray
"""One value a cell; values are told apart by their text."""


def embedding_metrics(
    z: np.ndarray,
    labels: Labels | None = None,
    batch: Labels | None = None,
    *,
    max_cells: int = 5000,
    seed: int = 0,
) -> dict[str, float | int]:
    """Scores of an embedding, higher is better, on at most ``max_cells`` cells drawn at random.

    Parameters
    ----------
    z
        Cell x latent.
    labels, batch
        One value a cell; cells without a label count for ``ilisi`` only, cells without a batch for the label
        scores only.
    max_cells
        Most cells that a score is computed on.
    seed
        Seed of the draw.

    Returns
    -------
    dict
        ``knn_purity`` beside ``knn_purity_chance`` (the sum of squared label frequencies), ``asw_label`` and
        ``clisi`` where there are two labels or more; ``ilisi`` where there are two batches or more; ``asw_batch``
        where a label has two batches or more. A score that is not defined is left out. Counts: ``n_cells``
        (used by any score), ``n_labeled`` and ``n_labels``, ``n_batches``.

    Raises
    ------
    InputError
        ``z`` is no finite matrix, or ``labels`` or ``batch`` has another length.
    """
    z = centered(z)
    order = np.random.default_rng(seed).permutation(len(z))
    label, labeled = _codes(labels, len(z), "labels")
    lot, batched = _codes(batch, len(z), "batch")

    def draw(wanted: np.ndarray) -> np.ndarray:
        return np.sort(order[wanted[order]][:max_cells])

    of_labels, of_batches, of_both = draw(labeled), draw(batched), draw(labeled & batched)
    counts = {"n_cells": len(np.union1d(of_labels, of_batches))}
    scores = {}
    if labels is not None:
        here, code = z[of_labels], label[of_labels]
        share = np.bincount(code) / max(1, len(code))
        counts |= {"n_labeled": len(code), "n_labels": int(np.count_nonzero(share))}
        if counts["n_labels"] > 1:
            scores["knn_purity"] = knn_purity(here, code)
            scores["knn_purity_chance"] = float((share**2).sum())
            scores["asw_label"] = asw_label(here, code)
            scores["clisi"] = clisi(here, code)
    if batch is not None:
        counts["n_batches"] = len(np.unique(lot[of_batches]))
        scores["ilisi"] = ilisi(z[of_batches], lot[of_batches])
        if labels is not None:
            scores["asw_batch"] = asw_batch(z[of_both], lot[of_both], label[of_both])
    return {**{name: score for name, score in scores.items() if not math.isnan(score)}, **counts}


def knn_purity(z: np.ndarray, labels: Labels, k: int = 15) -> float:
    """Mean share of a cell's ``k`` nearest other cells that have its label; NaN for fewer than two cells."""
    z = centered(z)
    codes = _complete_codes(labels, len(z), "labels")
    nearest, _ = nearest_cells(z, k)
    return float((codes[nearest] == codes[:, None]).mean()) if nearest.size else math.nan


def asw_label(z: np.ndarray, labels: Labels) -> float:
    """Silhouette of the labels, (mean + 1) / 2, as in scIB.

    Labels of one cell have no silhouette and are left out; NaN where fewer than two labels remain.

    References
    ----------
    Luecken et al., Nature Methods 2022, doi:10.1038/s41592-021-01336-8
    """
    z = centered(z)
    codes = _complete_codes(labels, len(z), "labels")
    shared = np.bincount(codes)[codes] > 1
    if len(np.unique(codes[shared])) < 2:
        return math.nan
    return float((silhouette_samples(z[shared], codes[shared]).mean() + 1) / 2)


def asw_batch(z: np.ndarray, batch: Labels, labels: Labels) -> float:
    """Silhouette of the batches within each label: mean over labels of mean(1 - abs(s)), as in scIB.

    Labels with cells of one batch, or with one cell a batch, are left out; NaN where none remains.

    References
    ----------
    Luecken et al., Nature Methods 2022, doi:10.1038/s41592-021-01336-8
    """
    z = centered(z)
    codes = _complete_codes(labels, len(z), "labels")
    lots = _complete_codes(batch, len(z), "batch")
    scores = []
    for code in np.unique(codes):
        here = codes == code
        if 1 < len(np.unique(lots[here])) < here.sum():
            scores.append(1 - np.abs(silhouette_samples(z[here], lots[here])).mean())
    return float(np.mean(scores)) if scores else math.nan


def ilisi(z: np.ndarray, batch: Labels, *, neighbors: int = 90, perplexity: float = 30) -> float:
    """Mixing of batches: median of :func:`lisi`, 0 for one batch a neighborhood, 1 for equal shares of all."""
    n_batches = len(np.unique(_complete_codes(batch, len(z), "batch")))
    if n_batches < 2:
        return math.nan
    index = lisi(z, batch, neighbors=neighbors, perplexity=perplexity)
    return float((np.median(index) - 1) / (n_batches - 1))


def clisi(z: np.ndarray, labels: Labels, *, neighbors: int = 90, perplexity: float = 30) -> float:
    """Purity of labels: median of :func:`lisi`, 1 for one label a neighborhood, 0 for equal shares of all."""
    n_labels = len(np.unique(_complete_codes(labels, len(z), "labels")))
    if n_labels < 2:
        return math.nan
    index = lisi(z, labels, neighbors=neighbors, perplexity=perplexity)
    return float((n_labels - np.median(index)) / (n_labels - 1))


def lisi(z: np.ndarray, codes: Labels, *, neighbors: int = 90, perplexity: float = 30) -> np.ndarray:
    """Effective number of categories around each cell: the inverse Simpson index of its neighborhood.

    Neighbors weigh ``exp(-beta * distance)``, with ``beta`` per cell such that the weights have the wanted
    perplexity.

    Parameters
    ----------
    z
        Cell x latent.
    codes
        One category a cell.
    neighbors
        Size of a neighborhood. The cell itself is one of them, as in the published code, and has no weight.
    perplexity
        Effective number of neighbors; at most a third of those that have weight.

    Returns
    -------
    array
        One value a cell, from 1 to the number of categories; NaN for a cell that is alone.

    References
    ----------
    Korsunsky et al., Nature Methods 2019, doi:10.1038/s41592-019-0619-0
    """
    z = centered(z)
    categories = _complete_codes(codes, len(z), "codes")
    nearest, distance = nearest_cells(z, neighbors - 1)
    if not nearest.size:
        return np.full(len(z), math.nan)
    weight = perplexity_weights(distance, min(perplexity, nearest.shape[1] / 3))
    shares = np.zeros((len(z), categories.max() + 1))
    np.add.at(shares, (np.arange(len(z))[:, None], categories[nearest]), weight)
    index: np.ndarray = (1 / (shares**2).sum(1)).clip(1, shares.shape[1])  # but for rounding, it is there
    return index


def imputation_metrics(
    predicted: np.ndarray, truth: np.ndarray, baseline: np.ndarray | None = None
) -> dict[str, float]:
    """Scores of imputed counts against measured ones, on log1p.

    Parameters
    ----------
    predicted, truth
        Cell x feature; negative predictions count as 0.
    baseline
        Mean of each feature over the training cells, the prediction that knows nothing of the cell.

    Returns
    -------
    dict
        ``pearson`` and ``spearman``: mean over the features that vary of the correlation over cells (0 where the
        prediction is constant); left out where no feature varies. ``rmse``: over all values, each cell's
        prediction scaled to its true total; ``rmse_mean_baseline``: the same of ``baseline``. The baseline is the
        same in every cell and correlates with nothing.

    Raises
    ------
    InputError
        Shapes differ, there is no cell, or a value is missing, infinite or a negative count.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if truth.ndim != 2 or not truth.size or predicted.shape != truth.shape:
        raise InputError(
            f"imputation: predicted {predicted.shape} and truth {truth.shape}; expected one shape, cells x features"
        )
    if not (np.isfinite(predicted).all() and np.isfinite(truth).all()) or truth.min() < 0:
        raise InputError(
            "imputation: found missing, infinite or negative values; expected counts for every cell"
        )
    predicted = predicted.clip(0)
    varies = np.ptp(truth, axis=0) > 0
    guess, known = np.log1p(predicted[:, varies]), np.log1p(truth[:, varies])
    scores = {}
    if varies.any():
        scores["pearson"] = float(_correlation(guess, known).mean())
        scores["spearman"] = float(_correlation(rankdata(guess, axis=0), rankdata(known, axis=0)).mean())
    scores["rmse"] = _rmse(predicted, truth)
    if baseline is not None:
        baseline = np.asarray(baseline, np.float64)
        if baseline.shape != truth.shape[1:]:
            raise InputError(
                f"imputation: baseline {baseline.shape}, expected {truth.shape[1:]}, a mean for each feature"
            )
        scores["rmse_mean_baseline"] = _rmse(np.broadcast_to(baseline, truth.shape), truth)
    return scores


def _codes(values: Labels | None, n_cells: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Category of each cell as 0, 1, ... by text, and which cells have one."""
    if values is None:
        return np.zeros(n_cells, int), np.zeros(n_cells, bool)
    column = pd.Series(np.asarray(values, dtype=object))
    if len(column) != n_cells:
        raise InputError(f"{name}: found {len(column)} values for {n_cells} cells; give one for each")
    known = column.notna().to_numpy()
    return pd.factorize(column.astype(str))[0], known


def _complete_codes(values: Labels, n_cells: int, name: str) -> np.ndarray:
    codes, known = _codes(values, n_cells, name)
    if not known.all():
        raise InputError(f"{name}: {(~known).sum()} of {n_cells} cells have no value; leave these cells out")
    return codes


def _correlation(guess: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Pearson correlation over the rows of each column; 0 where the guess is constant."""
    varies = np.ptp(guess, axis=0) > 0
    guess, known = guess - guess.mean(0), known - known.mean(0)
    norms = np.sqrt((guess**2).sum(0) * (known**2).sum(0))
    defined = varies & (norms > 0)
    return np.where(defined, (guess * known).sum(0) / np.where(defined, norms, 1), 0.0)


def _rmse(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Root mean squared difference on log1p, with each row of the prediction scaled to the true total."""
    totals = predicted.sum(1, keepdims=True)
    scaled = predicted / np.where(totals > 0, totals, 1) * truth.sum(1, keepdims=True)
    return float(np.sqrt(((np.log1p(scaled) - np.log1p(truth)) ** 2).mean()))
