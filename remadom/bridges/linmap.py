"""A linear map between two modalities, fitted on cells that have both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from remadom.bridges.base import BRIDGES, Bridge
from remadom.bridges.linear import Sides, correlations, overlapping, partner_rank, ridge, scores
from remadom.bridges.neighbors import Part, joined, no_edges
from remadom.errors import InputError
from remadom.solvers.ann import Backend, Metric
from remadom.solvers.mutual import mutual_pairs
from remadom.types import BridgeEdges, View

FOLDS = 5
LEAST_PAIRS = 4 * FOLDS
"""Paired cells below which nothing is fitted."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Shared(NamedTuple):
    """A space that the scores of both views are brought into: ``(scores - mean) @ axes``."""

    mean_a: np.ndarray
    mean_b: np.ndarray
    axes_a: np.ndarray
    axes_b: np.ndarray

    def of(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of cells of each view in the shared space."""
        return (a - self.mean_a) @ self.axes_a, (b - self.mean_b) @ self.axes_b


def by_ridge(a: np.ndarray, b: np.ndarray, strength: float) -> Shared:
    """The scores of b, predicted from a; each axis is weighed by what its held-out correlation r is worth.

    Axes have unit variance times ``r / sqrt(1 - r^2)``: none where nothing can be predicted.
    """
    spread = b.std(0)
    y = np.divide(b - b.mean(0), spread, out=np.zeros_like(b), where=spread > 0)
    slopes, held = ridge(a - a.mean(0), y, strength)
    r = correlations(held, y)
    weight = r / np.sqrt(1 - np.minimum(r, 0.99) ** 2)
    axes_a = slopes * np.divide(weight, held.std(0), out=np.zeros_like(weight), where=weight > 0)
    return Shared(
        a.mean(0),
        b.mean(0),
        axes_a,
        np.diag(np.divide(weight, spread, out=np.zeros_like(weight), where=spread > 0)),
    )


def by_rotation(a: np.ndarray, b: np.ndarray) -> Shared:
    """Both standardized and turned onto each other (Schonemann 1966, doi:10.1007/BF02289451).

    The axes of the rotation are those of the cross-covariance; each is weighed by its covariance.
    """
    scale = [np.where(x.std(0) > 0, x.std(0), np.inf) for x in (a, b)]
    cross = ((a - a.mean(0)) / scale[0]).T @ ((b - b.mean(0)) / scale[1]) / len(a)
    left, covariance, right = np.linalg.svd(cross, full_matrices=False)
    return Shared(
        a.mean(0), b.mean(0), left * covariance / scale[0][:, None], right.T * covariance / scale[1][:, None]
    )


def held_out_rank(
    a: np.ndarray, b: np.ndarray, fit: Callable[[np.ndarray, np.ndarray], Shared], metric: Metric
) -> float:
    """Mean :func:`partner_rank` of cells that the fit did not see, over folds spread along the first axis of a."""
    fold = np.argsort(np.argsort(a[:, 0], kind="stable")) % FOLDS
    ranks = []
    for held in range(FOLDS):
        out = np.flatnonzero(fold == held)
        shared = fit(a[fold != held], b[fold != held])
        ranks.append(partner_rank(*shared.of(a[out], b[out]), metric))
    return float(np.mean(ranks))


@BRIDGES.register("linmap")
class LinearMapBridge(Bridge):
    """A linear map between the scores of two modalities, then mutual nearest neighbors of the mapped cells.

    It is fitted on cells that have both modalities, for every two views that share cells, and links the cells
    that have only one of them with those that have only the other. Direction and ridge strength are those with
    the best rank of held-out partners in five folds; that rank (1: a cell's partner is always the nearest, 0: no
    better than chance) is the confidence of the edges. The weight falls with the places at which two cells list
    each other.

    Parameters
    ----------
    k
        Neighbors searched among the mapped cells of the other side.
    fit
        ``"ridge"``: one side is predicted from the other, by ridge regression. ``"procrustes"``: both are turned
        onto each other, the axes weighed by their covariance; it has fewer freedoms, for few or noisy pairs.
    strengths
        Ridge strengths to choose from, relative to the mean variance of the scores.
    metric
        Distance in the shared space: ``"cosine"`` or ``"euclidean"``.
    ann_backend
        Search back end; faiss where it is installed if not given. The edges are the same for all.
    """

    def __init__(
        self,
        *,
        k: PositiveInt = 10,
        fit: Literal["ridge", "procrustes"] = "ridge",
        strengths: tuple[PositiveFloat, ...] = STRENGTHS,
        metric: Metric = "cosine",
        ann_backend: Backend | None = None,
    ) -> None:
        if not strengths:
            raise InputError("bridge 'linmap': found no ridge strength, expected at least one in strengths")
        self.k, self.fit, self.strengths = k, fit, strengths
        self.metric, self.ann_backend = metric, ann_backend

    def build(self, views: Mapping[str, View], n_cells: int) -> BridgeEdges:
        """Edges between cells with one modality and cells with another.

        Parameters
        ----------
        views
            Features of the modalities.
        n_cells
            Cells of the data set.

        Raises
        ------
        InputError
            No two views share ``LEAST_PAIRS`` cells and have cells of their own on both sides, no map does
            better than chance, or no neighbors are mutual.
        """
        fitting = [
            sides
            for sides in overlapping(views)
            if len(sides.paired) >= LEAST_PAIRS and len(sides.only_a) and len(sides.only_b)
        ]
        if not fitting:
            raise InputError(
                f"bridge 'linmap': found no two modalities with {LEAST_PAIRS} shared cells and cells of their own on "
                f"both sides, expected at least one such pair among {list(views)}; without shared cells use the "
                "bridge.provider 'linked_features' or 'gw'"
            )
        edges = joined([self._between(sides) for sides in fitting], n_cells)
        if not len(edges):
            raise InputError(
                "bridge 'linmap': no map does better than chance on held-out pairs, or no neighbors are mutual; "
                "raise bridge.linmap.k, check that the shared cells are truly the same cells, or choose another "
                "bridge.provider"
            )
        return edges

    def _between(self, sides: Sides) -> Part:
        a, b = scores(sides.a, sides.paired), scores(sides.b, sides.paired)
        ranked = [(held_out_rank(a, b, fit, self.metric), fit) for fit in self._fits()]
        rank, fit = max(ranked, key=lambda one: one[0])
        if rank <= 0:
            return no_edges()
        u, v = fit(a, b).of(scores(sides.a, sides.only_a), scores(sides.b, sides.only_b))
        i, j, weight = mutual_pairs(u, v, self.k, self.metric, self.ann_backend)
        return sides.only_a[i], sides.only_b[j], weight, np.full(len(i), min(1.0, rank))

    def _fits(self) -> list[Callable[[np.ndarray, np.ndarray], Shared]]:
        """What is compared on held-out pairs."""
        if self.fit == "procrustes":
            return [by_rotation]

        def forward(strength: float) -> Callable[[np.ndarray, np.ndarray], Shared]:
            return lambda a, b: by_ridge(a, b, strength)

        def backward(strength: float) -> Callable[[np.ndarray, np.ndarray], Shared]:
            def fit(a: np.ndarray, b: np.ndarray) -> Shared:
                mean_b, mean_a, axes_b, axes_a = by_ridge(b, a, strength)
                return Shared(mean_a, mean_b, axes_a, axes_b)

            return fit

        return [way(strength) for way in (forward, backward) for strength in self.strengths]
