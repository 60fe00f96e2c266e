"""Labels that were given with a confidence, beside the true ones: how many are right, and is the confidence honest."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from remadom.eval.labels import known_cells
from remadom.eval.transfer import confusion, transfer_scores


def label_scores(
    nearest: np.ndarray,
    confidence: np.ndarray,
    unknown: np.ndarray,
    familiar: np.ndarray,
    truth: np.ndarray,
    known: Collection[str],
) -> dict[str, Any]:
    """How many labels are right, of the cells whose true label is known.

    Parameters
    ----------
    nearest
        Label given to each cell.
    confidence
        Probability that it is right.
    unknown
        Whether the cell was called unknown: right for a cell of a type that the reference does not have.
    familiar
        The lower, the less a cell is like the reference.
    truth
        True label; ``None`` or NaN where there is none.
    known
        Labels that the reference has.

    Returns
    -------
    dict
        ``accuracy, balanced_accuracy, accuracy_of_named`` (of cells not called unknown), ``called_unknown,
        calibration_error, calibration`` and ``confusion`` of the cells of known types; ``novel_types, novel_cells,
        novel_called_unknown, novel_auroc`` of the others. Empty where no cell has a true label.
    """
    told = known_cells(truth)
    if not told.any():
        return {}
    names = np.asarray(truth, dtype=object).astype(str)
    old = told & np.isin(names, list(known))
    novel = told & ~old
    found: dict[str, Any] = {"labeled": int(told.sum())}
    if old.any():
        accuracy, balanced = transfer_scores(nearest[old], names[old])
        right, named = nearest[old] == names[old], ~unknown[old]
        found |= {
            "accuracy": accuracy,
            "balanced_accuracy": balanced,
            "accuracy_of_named": float(right[named].mean()) if named.any() else None,
            "called_unknown": float(unknown[old].mean()),
            "calibration_error": expected_calibration_error(confidence[old], right),
            "calibration": calibration_curve(confidence[old], right),
            "confusion": confusion(nearest[old].astype(str), names[old]),
        }
    if novel.any():
        found |= {
            "novel_types": np.unique(names[novel]).tolist(),
            "novel_cells": int(novel.sum()),
            "novel_called_unknown": float(unknown[novel].mean()),
        }
        if old.any():
            found["novel_auroc"] = float(roc_auc_score(novel[told], -familiar[told]))
    return found


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Mean gap between confidence and share of right answers; NaN without cells.

    Over bins of equal width, each weighed by its cells (Guo et al. 2017, arXiv:1706.04599).
    """
    curve = calibration_curve(confidence, right, bins)
    cells = sum(n for _, _, n in curve)
    return sum(n * abs(said - was) for said, was, n in curve) / cells if cells else float("nan")


def calibration_curve(
    confidence: np.ndarray, right: np.ndarray, bins: int = 10
) -> list[tuple[float, float, int]]:
    """Mean confidence, share of right answers and cells of each bin of the confidence that has cells."""
    at = np.minimum((np.asarray(confidence) * bins).astype(int), bins - 1)
    return [
        (float(confidence[at == b].mean()), float(right[at == b].mean()), int((at == b).sum()))
        for b in np.unique(at)
    ]
