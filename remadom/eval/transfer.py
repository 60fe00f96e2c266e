"""Labels carried from some cells to others by their nearest neighbors, and how many arrive right."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from remadom.errors import InputError
from remadom.eval.labels import Labels, complete_texts
from remadom.eval.neighbors import centered

NEIGHBORS = 10
"""Source cells that vote on the label of a target."""


def label_transfer(
    source: np.ndarray, source_labels: Labels, target: np.ndarray, *, neighbors: int = NEIGHBORS
) -> np.ndarray:
    """Label of each target: that of most of its nearest source cells.

    Among labels with as many votes the nearer wins: the one with the lower mean rank of its voters, then the one
    that comes first in the alphabet.

    Parameters
    ----------
    source, target
        Cell x latent, of one space.
    source_labels
        One a source cell.
    neighbors
        Source cells that vote.

    Returns
    -------
    array of str
        One label a target.

    Raises
    ------
    InputError
        There is no source cell, a source cell has no label, or the spaces differ.
    """
    source, target = same_space(source, target)
    names = complete_texts(source_labels, len(source), "source labels")
    if not len(source):
        raise InputError("label transfer: found no source cell with a label; expected one or more")
    known, codes = np.unique(names, return_inverse=True)
    if not len(target):
        return known[:0]
    k = min(neighbors, len(source))
    nearest = NearestNeighbors(n_neighbors=k).fit(source).kneighbors(target, return_distance=False)
    votes = np.zeros((len(target), len(known)), int)
    weight = k * k + 1 + np.arange(k, 0, -1)  # all ranks together weigh less than one vote
    np.add.at(votes, (np.arange(len(target))[:, None], codes[nearest]), weight)
    won: np.ndarray = known[votes.argmax(1)]
    return won


def transfer_scores(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Share of right labels, over the cells and as a mean over the true labels (balanced)."""
    right = predicted == truth
    return float(right.mean()), float(np.mean([right[truth == name].mean() for name in np.unique(truth)]))


def confusion(predicted: np.ndarray, truth: np.ndarray) -> dict[str, dict[str, int]]:
    """Cells by true label and by predicted label, without those that there are none of."""
    table: dict[str, dict[str, int]] = {}
    pairs, counts = np.unique(np.stack([truth, predicted]), axis=1, return_counts=True)
    for (true, guess), count in zip(pairs.T, counts, strict=True):
        table.setdefault(str(true), {})[str(guess)] = int(count)
    return table


def same_space(za: np.ndarray, zb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two embeddings as float64, moved alike such that large offsets do not cost precision.

    Raises
    ------
    InputError
        One is no matrix of finite numbers, or they have different dimensions.
    """
    for z in (za, zb):
        centered(z)
    if np.shape(za)[1] != np.shape(zb)[1]:
        raise InputError(
            f"embeddings: found {np.shape(za)[1]} and {np.shape(zb)[1]} dimensions; expected one space"
        )
    both = centered(np.concatenate([np.asarray(za, np.float64), np.asarray(zb, np.float64)]))
    return both[: len(za)], both[len(za) :]
