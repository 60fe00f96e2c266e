"""Correspondences where nothing links two modalities but the shape of their cells: Gromov-Wasserstein."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from remadom.bridges.base import BRIDGES, Bridge
from remadom.errors import InputError
from remadom.shapes import Float
from remadom.solvers.alignment import Refined, Structures, anchors, refine
from remadom.solvers.scaling import soft_min
from remadom.solvers.shared import SharedSpace, row_blocks
from remadom.types import BridgeEdges, View


@BRIDGES.register("gw")
class GWBridge(Bridge):
    """Soft correspondences of two modalities with no shared cell, feature or label.

    The distances along the neighbor graph of each modality are matched by entropic Gromov-Wasserstein
    (SCOT: Demetci et al. 2022, doi:10.1089/cmb.2021.0446), and the match is refined:

    1. Features that are all positive are parts of a whole (topics, proportions) and become centered log-ratios
       (Aitchison 1982, doi:10.1111/j.2517-6161.1982.tb01195.x); every feature is centered.
    2. ``anchors`` k-means groups stand for the cells of a view, with their masses; graph distances between them are
       matched for every graph (``neighbors``, by length and by hops) and from every order and orientation of three
       spectral axes. Different solutions are kept as candidates: the problem has mirror solutions, and its own
       value hardly tells them apart.
    3. Each candidate is refined in turns: canonical axes of the two views under the coupling, and the coupling
       under the distances in those axes. Kept is the candidate with the largest product of the information that
       the axes share and the share of neighborhoods that it keeps; no label and no pair is looked at.
    4. The turns are repeated on the cells, and the coupling's ``edges_per_cell`` strongest pairs of every cell
       of either view become edges.

    Weight and confidence of an edge: :meth:`~remadom.solvers.shared.SharedSpace.pairs`.

    Above ``max_cells`` cells a side, steps 2 to 4 run on that many cells drawn at random; maps and potentials extend
    to the others as they hold for the drawn ones, and edges are nearest neighbors in the shared space. With c
    drawn cells the cost is O(c^2) memory and some O(c^2) products, a few seconds at 2,000, and O(n c) time
    and a search among neighbors for the rest. A graph that falls apart is joined by its shortest links.

    Parameters
    ----------
    neighbors
        Neighbors of the graphs; one set of candidates for each.
    anchors
        k-means groups that stand for the cells of a view while candidates are sought.
    metric
        ``"cosine"`` scales each cell's centered features to unit length, which takes out depth and quality;
        ``"euclidean"`` leaves them, for features whose length means something.
    epsilon
        Entropy of the coupling of cells, in units of the mean squared distance: larger is softer.
    ridge
        Ridge of the canonical axes, in units of the mean variance of the features of a view.
    reach
        Price of cells without a partner, in the units of ``epsilon``: for views whose cell types are not in the same
        proportions; without it every cell of either view is matched with equal mass.
    edges_per_cell
        Strongest pairs of each cell that become edges.
    max_cells
        Cells a side from which the coupling is found.
    seed
        Of the k-means groups and of the drawn cells.
    """

    def __init__(
        self,
        *,
        neighbors: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (15, 50),
        anchors: Annotated[int, Field(ge=3)] = 64,
        metric: Literal["cosine", "euclidean"] = "cosine",
        epsilon: PositiveFloat = 0.1,
        ridge: PositiveFloat = 0.1,
        reach: PositiveFloat | None = None,
        edges_per_cell: PositiveInt = 5,
        max_cells: Annotated[int, Field(ge=3)] = 2000,
        seed: NonNegativeInt = 0,
    ) -> None:
        self.neighbors, self.anchors, self.metric = neighbors, anchors, metric
        self.epsilon, self.ridge, self.reach = epsilon, ridge, reach
        self.edges_per_cell, self.max_cells, self.seed = edges_per_cell, max_cells, seed

    def build(self, views: dict[str, View], n_cells: int) -> BridgeEdges:
        """Edges from the cells of the first view (by name) to those of the second.

        Raises
        ------
        InputError
            Fewer than two views, or a view that :meth:`align` refuses.
        """
        if len(views) < 2:
            raise InputError(
                f"bridge 'gw': found {len(views)} modality ({', '.join(views) or 'none'}), expected two; it couples "
                "the cells of two modalities"
            )
        first, second = (views[name] for name in sorted(views)[:2])
        pairs = self.align(first.scores, second.scores).pairs(self.edges_per_cell)
        src, dst = torch.as_tensor(first.cells)[pairs.first], torch.as_tensor(second.cells)[pairs.second]
        return BridgeEdges.of(src, dst, pairs.weight, n_cells, pairs.confidence)

    def couple(self, x: np.ndarray, y: np.ndarray) -> Float[Tensor, "cell other"]:
        """Coupling of all cells of two feature matrices, cell x feature; the whole matrix of pairs, summing to 1."""
        return self.align(x, y).plan()

    def align(self, x: np.ndarray, y: np.ndarray) -> SharedSpace:
        """Both sets of cells in one space, from their features alone, cell x feature.

        Raises
        ------
        InputError
            Fewer than 3 cells on a side, features that are not finite, or the same for all cells.
        """
        x_all, y_all = (self.prepared(np.asarray(side, dtype=np.float64)) for side in (x, y))
        rng = np.random.default_rng(self.seed)
        x_part, y_part = self._drawn(x_all, rng), self._drawn(y_all, rng)
        a, b = (part.new_full((len(part),), 1 / len(part)) for part in (x_part, y_part))
        axes, coupling, unit = self._refined(x_part, y_part, a, b)
        placed_x, placed_y = axes.of_x(x_all), axes.of_y(y_all)
        f, g = coupling.f, coupling.g
        if len(x_part) < len(x_all) or len(y_part) < len(y_all):
            f = self._extended(placed_x, axes.of_y(y_part), coupling.g, b, unit)
            g = self._extended(placed_y, axes.of_x(x_part), coupling.f, a, unit)
        return SharedSpace(placed_x, placed_y, f, g, unit, self.epsilon, axes)

    def prepared(self, features: np.ndarray) -> Float[Tensor, "cell feature"]:
        """Features as they are compared: ratios where they are parts, centered, of unit length if so asked."""
        if len(features) < 3 or not np.isfinite(features).all():
            raise InputError(
                f"bridge 'gw': found {len(features)} cells{'' if len(features) < 3 else ', some features not finite'} "
                "in a modality; expected 3 or more cells with finite features"
            )
        if (features > 0).all():
            features = np.log(features)
            features = features - features.mean(1, keepdims=True)
        features = features - features.mean(0)
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        if not lengths.any():
            raise InputError(
                "bridge 'gw': found the same features in all cells of a modality; nothing to match"
            )
        if self.metric == "cosine":
            features = features / np.where(lengths > 0, lengths, 1)
        return torch.from_numpy(features)

    def _drawn(self, features: Tensor, rng: np.random.Generator) -> Tensor:
        if len(features) <= self.max_cells:
            return features
        return features[np.sort(rng.choice(len(features), self.max_cells, replace=False))]

    def _refined(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Refined:
        """The most informative of the candidates, refined on the cells."""
        refined = partial(refine, epsilon=self.epsilon, ridge=self.ridge, reach=self.reach)
        of_x, of_y = anchors(x, self.anchors, self.seed), anchors(y, self.anchors, self.seed)
        structures = Structures.of(x, y, of_x, of_y, self.neighbors)
        best = max(
            (
                refined(of_x.features, of_y.features, plan, of_x.masses, of_y.masses)
                for plan in structures.candidates(self.reach)
            ),
            key=lambda found: found.axes.information * structures.neighborhoods_kept(found.coupling.plan),
        )
        density = best.coupling.plan / of_x.masses.unsqueeze(-1) / of_y.masses
        return refined(x, y, density[of_x.member][:, of_y.member] * a.unsqueeze(-1) * b, a, b)

    def _extended(
        self, points: Tensor, others: Tensor, potential: Tensor, masses: Tensor, unit: float
    ) -> Tensor:
        """Potentials of points from those of the drawn cells of the other side."""
        kappa = 1.0 if self.reach is None else self.reach / (self.reach + self.epsilon)
        costs = (
            torch.cdist(points[rows], others).square() / unit for rows in row_blocks(len(points), len(others))
        )
        return torch.cat([kappa * soft_min(cost, potential, masses.log(), self.epsilon) for cost in costs])
