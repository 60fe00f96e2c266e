"""Silhouettes: how much nearer a cell is to its own group than to the next."""

from __future__ import annotations

import math

import numpy as np
from sklearn.metrics import silhouette_samples

from remadom.eval.labels import Labels, complete_codes
from remadom.eval.neighbors import centered


def asw_label(z: np.ndarray, labels: Labels) -> float:
    """Silhouette of the labels, (mean + 1) / 2, as in scIB.

    Labels of one cell have no silhouette and are left out; NaN where fewer than two labels remain.

    References
    ----------
    Luecken et al., Nature Methods 2022, doi:10.1038/s41592-021-01336-8
    """
    return mean_width(label_silhouettes(z, labels))


def isolated_label(z: np.ndarray, labels: Labels, batch: Labels) -> float:
    """Silhouette of the labels that are in the fewest batches: mean over them of (mean + 1) / 2.

    The silhouette form of scIB's isolated label score, as in scib-metrics (scIB's other form is the F1 of a
    clustering). Where every label is in every batch all are isolated alike and all count. Labels of one cell are
    left out; NaN for one batch, and where fewer than two labels remain.

    References
    ----------
    Luecken et al., Nature Methods 2022, doi:10.1038/s41592-021-01336-8
    """
    lots = complete_codes(batch, len(z), "batch")
    return isolated_width(label_silhouettes(z, labels), complete_codes(labels, len(z), "labels"), lots)


def asw_batch(z: np.ndarray, batch: Labels, labels: Labels) -> float:
    """Silhouette of the batches within each label: mean over labels of mean(1 - abs(s)), as in scIB.

    Labels with cells of one batch, or with one cell a batch, are left out; NaN where none remains.

    References
    ----------
    Luecken et al., Nature Methods 2022, doi:10.1038/s41592-021-01336-8
    """
    z = centered(z)
    codes = complete_codes(labels, len(z), "labels")
    lots = complete_codes(batch, len(z), "batch")
    scores = []
    for code in np.unique(codes):
        here = codes == code
        if 1 < len(np.unique(lots[here])) < here.sum():
            scores.append(1 - np.abs(silhouette_samples(z[here], lots[here])).mean())
    return float(np.mean(scores)) if scores else math.nan


def label_silhouettes(z: np.ndarray, labels: Labels) -> np.ndarray:
    """Silhouette of each cell among the labels of two cells or more; NaN for the others, and for one label."""
    z = centered(z)
    codes = complete_codes(labels, len(z), "labels")
    widths = np.full(len(z), math.nan)
    shared = np.bincount(codes)[codes] > 1
    if len(np.unique(codes[shared])) > 1:
        widths[shared] = silhouette_samples(z[shared], codes[shared])
    return widths


def mean_width(widths: np.ndarray) -> float:
    """(Mean + 1) / 2 of the silhouettes that there are; NaN where there are none."""
    defined = widths[~np.isnan(widths)]
    return float((defined.mean() + 1) / 2) if len(defined) else math.nan


def isolated_width(widths: np.ndarray, codes: np.ndarray, lots: np.ndarray) -> float:
    """:func:`isolated_label` of the silhouettes ``widths``; NaN where fewer than two batches are among them."""
    defined = ~np.isnan(widths)
    pairs = np.unique(np.stack([codes[defined], lots[defined]]), axis=1)
    if len(np.unique(pairs[1])) < 2:
        return math.nan
    label, in_batches = np.unique(pairs[0], return_counts=True)
    rarest = label[in_batches == in_batches.min()]
    return float(np.mean([mean_width(widths[codes == code]) for code in rarest]))
