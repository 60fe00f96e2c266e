"""How well modalities agree on a cell: each embeds the cells that have it, alone, and the embeddings are compared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from remadom.errors import InputError
from remadom.eval.labels import Labels, known_cells
from remadom.eval.lisi import ilisi
from remadom.eval.transfer import NEIGHBORS, confusion, label_transfer, same_space, transfer_scores

BLOCK = 2**22
"""Distances held at once (float64: 32 MiB)."""


class _Side(NamedTuple):
    """A modality: its name, the embedding of its cells, their positions, and their labels with which are known."""

    name: str
    z: np.ndarray
    cells: np.ndarray
    label: np.ndarray
    labeled: np.ndarray


def modality_metrics(
    embeddings: Mapping[str, np.ndarray],
    cells: Mapping[str, np.ndarray],
    labels: Labels | None = None,
    *,
    neighbors: int = NEIGHBORS,
    max_cells: int = 5000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Scores of each pair of modalities, from embeddings of their cells by that modality alone.

    Parameters
    ----------
    embeddings
        By modality: cell x latent, all of one space.
    cells
        By modality: the positions of these cells in the data set, each once.
    labels
        One a cell of the data set, where known.
    neighbors
        Source cells that vote on a label.
    max_cells
        Most cells that a score is computed on, drawn at random; of each side for the transfer of labels.
    seed
        Seed of the draws.

    Returns
    -------
    dict
        A section ``<a>-<b>`` for each pair, with

        - ``modality_mixing``: iLISI of the two modalities, 0 (apart) to 1, on ``n_cells`` embeddings of either;
        - where cells have both, on ``n_paired`` of them: ``foscttm`` (lower is better), and ``matching_score`` beside
          ``matching_score_chance``;
        - where cells of both have labels: ``label_transfer_<a>_to_<b>``, the share of cells of b whose nearest cells
          of a give them their label, and ``label_transfer_<a>_to_<b>_balanced``, the mean of that over the labels;
          ``confusion_<a>_to_<b>``, cells of b by true label, then by predicted label; the same from b to a.

        A score that is not defined is left out.

    Raises
    ------
    InputError
        An embedding is no finite matrix, or differs from another in its dimensions or from ``cells`` in its length;
        or there are fewer labels than cells.
    """
    sides = []
    for name, z in embeddings.items():
        positions = np.asarray(cells[name], int)
        if not len(z) == len(positions) == len(np.unique(positions)):
            raise InputError(
                f"{name}: found an embedding of {len(z)} cells and {len(np.unique(positions))} different positions; "
                "expected the position of each cell, each once"
            )
        label, labeled = _labels_at(labels, positions)
        sides.append(_Side(name, z, positions, label, labeled))
    return {
        f"{a.name}-{b.name}": _pair(a, b, neighbors, max_cells, seed)
        for a, b in itertools.combinations(sides, 2)
    }


def foscttm(za: np.ndarray, zb: np.ndarray) -> float:
    """Share of cells of the other modality that are nearer than a cell's own embedding there; lower is better.

    Mean over both directions, out of n - 1; cells equally near count one half, so that no information gives 0.5.

    Parameters
    ----------
    za, zb
        Cell x latent: the same cells in the same order.

    Returns
    -------
    float
        0 to 1; NaN for fewer than two cells.

    Raises
    ------
    InputError
        One is no finite matrix, or their shapes differ.

    References
    ----------
    Liu et al., WABI 2019, doi:10.4230/LIPIcs.WABI.2019.10
    """
    shares = [(nearer + (tied - 1) / 2).mean() for nearer, tied in _ranks(za, zb)] if len(za) > 1 else []
    return float(np.mean(shares) / (len(za) - 1)) if shares else math.nan


def matching_score(za: np.ndarray, zb: np.ndarray) -> float:
    """Share of cells whose nearest in the other modality is their own embedding there; chance is 1 / n.

    Mean over both directions; among equally near cells each is as likely to be taken. Parameters and errors are
    those of :func:`foscttm`; NaN without cells.
    """
    shares = [((nearer == 0) / tied).mean() for nearer, tied in _ranks(za, zb)] if len(za) else []
    return float(np.mean(shares)) if shares else math.nan


def _ranks(za: np.ndarray, zb: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """In both directions, for each cell: how many are nearer than itself, and how many equally near with it."""
    if np.shape(za) != np.shape(zb):
        raise InputError(
            f"embeddings: found shapes {np.shape(za)} and {np.shape(zb)}; expected the same cells in both"
        )
    za, zb = same_space(za, zb)
    step = max(1, BLOCK // len(za))
    ranks = []
    for source, other in ((za, zb), (zb, za)):
        found = []
        for start in range(0, len(za), step):
            distance = cdist(source[start : start + step], other, "sqeuclidean")
            own = distance[np.arange(len(distance)), start + np.arange(len(distance))][:, None]
            found.append([(distance < own).sum(1), (distance == own).sum(1)])
        nearer, tied = np.concatenate(found, axis=1)
        ranks.append((nearer, tied))
    return ranks


def _labels_at(labels: Labels | None, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Text of the label of each cell at these positions, and which of them have one."""
    if labels is None:
        return np.zeros(len(positions), str), np.zeros(len(positions), bool)
    if len(labels) <= positions.max(initial=-1):
        raise InputError(
            f"labels: found {len(labels)}, and a cell at position {positions.max()} of the data set; give one for "
            "each cell of it"
        )
    here = np.asarray(labels, dtype=object)[positions]
    return here.astype(str), known_cells(here)


def _pair(a: _Side, b: _Side, neighbors: int, max_cells: int, seed: int) -> dict[str, Any]:
    za, zb = same_space(a.z, b.z)
    rng = np.random.default_rng(seed)

    def draw(cells: np.ndarray) -> np.ndarray:
        return np.sort(rng.permutation(cells)[:max_cells])

    union, modality = np.concatenate([za, zb]), np.repeat([0, 1], [len(za), len(zb)])
    drawn = draw(np.arange(len(union)))
    section: dict[str, Any] = {"n_cells": len(drawn), "modality_mixing": ilisi(union[drawn], modality[drawn])}
    _, in_a, in_b = np.intersect1d(a.cells, b.cells, return_indices=True)
    paired = draw(np.arange(len(in_a)))
    section["n_paired"] = len(paired)
    if len(paired) > 1:
        section["foscttm"] = foscttm(za[in_a[paired]], zb[in_b[paired]])
        section["matching_score"] = matching_score(za[in_a[paired]], zb[in_b[paired]])
        section["matching_score_chance"] = 1 / len(paired)
    if a.labeled.any() and b.labeled.any():
        from_a, from_b = draw(np.flatnonzero(a.labeled)), draw(np.flatnonzero(b.labeled))
        one = (a.name, za[from_a], a.label[from_a])
        other = (b.name, zb[from_b], b.label[from_b])
        for (source, zs, label), (target, zt, truth) in ((one, other), (other, one)):
            predicted = label_transfer(zs, label, zt, neighbors=neighbors)
            right, balanced = transfer_scores(predicted, truth)
            section[f"label_transfer_{source}_to_{target}"] = right
            section[f"label_transfer_{source}_to_{target}_balanced"] = balanced
            section[f"confusion_{source}_to_{target}"] = confusion(predicted, truth)
    return {name: score for name, score in section.items() if score == score}
