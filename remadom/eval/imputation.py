"""How good imputed values are: counts on the log scale at the true depth, others as they are, open peaks by rank."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from remadom.errors import InputError
from remadom.eval.scales import COUNTS, Scale

FEWEST_OPEN = 10
"""Open cells from which a peak is scored."""


def imputation_metrics(predicted: np.ndarray, truth: np.ndarray, scale: Scale = COUNTS) -> dict[str, float]:
    """Scores of imputed values against measured ones, by default of counts on log1p.

    Parameters
    ----------
    predicted, truth
        Cell x feature; predictions out of the scale's bounds (negative counts) are taken for the bound. Where the
        truth is NaN nothing was measured and nothing is scored.
    scale
        On which the values are compared.

    Returns
    -------
    dict
        ``pearson`` and ``spearman``: correlation over the cells, mean over the features that vary (0 where the
        prediction is constant); ``pearson_cell`` and ``spearman_cell``: correlation over the features, mean over the
        cells that vary. ``rmse``: over all values, of counts each cell's prediction scaled to its true
        total; ``nrmse``: that of each feature over its standard deviation, mean over the features that vary. What is
        not defined is left out.

    Raises
    ------
    InputError
        Shapes differ, there is no cell, or a value is infinite, missing in the prediction, or out of bounds in the
        truth (a negative count).
    """
    predicted, truth = _checked(predicted, truth, scale)
    guess, known = scale.to(np.where(np.isnan(truth), np.nan, predicted)), scale.to(truth)
    varies = _spread(truth) > 0
    scores: dict[str, float] = {}
    if varies.any():
        scores |= _correlations(guess[:, varies], known[:, varies], "")
    uneven = _spread(truth.T) > 0
    if uneven.any():
        scores |= _correlations(guess[uneven].T, known[uneven].T, "_cell")
    if scale.depth:
        measured = np.where(np.isnan(truth), 0.0, predicted)
        guess = scale.to(at_depth(measured, np.nansum(truth, axis=1)))
    squares = (guess - known) ** 2
    scores["rmse"] = float(np.sqrt(np.nanmean(squares)))
    if varies.any():
        errors = np.sqrt(np.nanmean(squares[:, varies], axis=0))
        scores["nrmse"] = float((errors / np.nanstd(known[:, varies], axis=0)).mean())
    return scores


def binary_metrics(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Scores of predicted openness against what was open (counts above 0).

    Parameters
    ----------
    predicted, truth
        Cell x feature; only the order of the predictions matters.

    Returns
    -------
    dict
        ``auroc_cell`` and ``auprc_cell``: over the peaks of a cell, mean over the cells that have open and closed
        ones; ``auroc_feature`` and ``auprc_feature``: over the cells, mean over the peaks that are open in at least
        ``FEWEST_OPEN`` of them; ``prevalence``: share of open values, the AUPRC of a guess.

    Raises
    ------
    InputError
        As :func:`imputation_metrics`.
    """
    predicted, truth = _checked(predicted, truth, COUNTS)
    opened = truth > 0
    scores = {"prevalence": float(opened.mean())}
    for suffix, guess, known, fewest in (
        ("cell", predicted, opened, 1),
        ("feature", predicted.T, opened.T, FEWEST_OPEN),
    ):
        ones = known.sum(1)
        scored = np.flatnonzero((ones >= fewest) & (ones < known.shape[1]))
        if len(scored):
            scores[f"auroc_{suffix}"] = float(_auroc(guess[scored], known[scored]).mean())
            scores[f"auprc_{suffix}"] = float(_average_precision(guess[scored], known[scored]).mean())
    return scores


def at_depth(predicted: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Predictions, cell x feature, with each row scaled to a total; rows of zeros stay."""
    sums = predicted.sum(1, keepdims=True)
    scaled: np.ndarray = predicted / np.where(sums > 0, sums, 1) * np.asarray(totals)[:, None]
    return scaled


def _checked(predicted: np.ndarray, truth: np.ndarray, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if truth.ndim != 2 or not truth.size or predicted.shape != truth.shape:
        raise InputError(
            f"imputation: predicted {predicted.shape} and truth {truth.shape}; expected one shape, cells x features"
        )
    known = truth[~np.isnan(truth)]
    if not np.isfinite(predicted).all() or not len(known) or np.isinf(known).any():
        raise InputError(
            "imputation: found missing or infinite values; expected numbers, of which some are known"
        )
    if known.min() < scale.least or known.max() > scale.most:
        raise InputError(
            f"imputation: found values from {known.min():g} to {known.max():g}; expected {scale.words} "
            f"of values from {scale.least:g} to {scale.most:g}"
        )
    return predicted.clip(scale.least, scale.most), truth


def _spread(values: np.ndarray) -> np.ndarray:
    """Greatest less least of the known values of each column; negative where there are none."""
    seen = ~np.isnan(values)
    spread: np.ndarray = np.max(values, axis=0, where=seen, initial=-np.inf) - np.min(
        values, axis=0, where=seen, initial=np.inf
    )
    return spread


def _correlations(guess: np.ndarray, known: np.ndarray, suffix: str) -> dict[str, float]:
    """Means over the columns."""
    ranks = rankdata(guess, axis=0, nan_policy="omit"), rankdata(known, axis=0, nan_policy="omit")
    return {
        f"pearson{suffix}": float(_correlation(guess, known).mean()),
        f"spearman{suffix}": float(_correlation(*ranks).mean()),
    }


def _correlation(guess: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Pearson correlation over the known rows of each column; 0 where the guess is constant."""
    varies = _spread(guess) > 0
    guess, known = guess - np.nanmean(guess, axis=0), known - np.nanmean(known, axis=0)
    norms = np.sqrt(np.nansum(guess**2, axis=0) * np.nansum(known**2, axis=0))
    defined = varies & (norms > 0)
    return np.where(defined, np.nansum(guess * known, axis=0) / np.where(defined, norms, 1), 0.0)


def _auroc(guess: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each row, ties counted one half (Mann and Whitney 1947,
    doi:10.1214/aoms/1177730491).
    """
    ones = known.sum(1)
    zeros = known.shape[1] - ones
    area: np.ndarray = ((rankdata(guess, axis=1) * known).sum(1) - ones * (ones + 1) / 2) / (ones * zeros)
    return area


def _average_precision(guess: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Average precision of each row: the precision at each distinct value, weighed by the recall that it adds."""
    order = np.argsort(-guess, axis=1, kind="stable")
    values, hits = np.take_along_axis(guess, order, axis=1), np.take_along_axis(known, order, axis=1)
    n = values.shape[1]
    last = np.full(values.shape, n - 1)
    last[:, :-1] = np.where(values[:, 1:] != values[:, :-1], np.arange(n - 1), n - 1)
    ends = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]  # of the equal values that each is among
    precision = np.take_along_axis(hits.cumsum(1), ends, axis=1) / (ends + 1)
    average: np.ndarray = (precision * hits).sum(1) / hits.sum(1)
    return average
