"""One space for two sets of points that share neither axes nor pairs, from the shape of each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from remadom.shapes import Float, Int
from remadom.solvers.canonical import Canonical, canonical_axes
from remadom.solvers.geodesic import geodesics, neighbor_graph
from remadom.solvers.gromov import gromov_wasserstein, spectral_starts
from remadom.solvers.scaling import Scaling, scale

GW_EPSILON = 0.05
"""Entropy of the couplings of the anchors, in units of the mean squared distance within a side."""
CANDIDATES = 4
"""Different solutions kept per graph, the best by value."""
DIFFERENT = 0.3
"""Mass (of 2) that two plans must place differently to count as two solutions."""
WIDTHS = (0.3, 0.5)
"""Widths of the kernels that say what a neighborhood is, in units of the root mean squared distance."""
ROUNDS = 8
"""Turns of coupling and canonical axes."""


class Anchors(NamedTuple):
    """Few groups of points that stand for all.

    Attributes
    ----------
    features
        Mean of each group.
    masses
        Share of the points in each group.
    member
        Group of each point.
    centers
        The point nearest to the mean of each group.
    """

    features: Float[Tensor, "group feature"]
    masses: Float[Tensor, " group"]
    member: Int[Tensor, " cell"]
    centers: np.ndarray


def anchors(points: Float[Tensor, "cell feature"], n_groups: int, seed: int) -> Anchors:
    """At most ``n_groups`` k-means groups of points."""
    from sklearn.cluster import KMeans  # takes a second and 80 MB, and most runs group no anchors

    values = points.numpy()
    n_groups = min(n_groups, len(np.unique(values, axis=0)))
    labels = KMeans(n_groups, n_init=1, random_state=seed).fit_predict(values)
    labels = np.unique(labels, return_inverse=True)[1]
    shares = np.eye(labels.max() + 1)[labels]
    means = shares.T @ values / shares.sum(0)[:, None]
    order = np.lexsort((((values - means[labels]) ** 2).sum(1), labels))
    centers = order[np.unique(labels[order], return_index=True)[1]]
    return Anchors(
        torch.from_numpy(means), torch.from_numpy(shares.mean(0)), torch.from_numpy(labels), centers
    )


def between(graph: sp.csr_matrix, groups: Anchors, *, hops: bool) -> Float[Tensor, "group group"]:
    """Graph distances between anchors, with a root mean square of 1: each center to the members of each group."""
    reached = torch.from_numpy(geodesics(graph, groups.centers, hops=hops))
    size = len(groups.masses)
    totals = torch.zeros(size, size, dtype=reached.dtype).index_add_(1, groups.member, reached)
    means = totals / (groups.masses * len(groups.member))
    means = ((means + means.mT) / 2).fill_diagonal_(0)
    rms = (groups.masses @ means.square() @ groups.masses).sqrt()
    return means / torch.where(rms > 0, rms, 1)


class Refined(NamedTuple):
    """Canonical axes and the coupling under the distances in them.

    Attributes
    ----------
    axes
        The maps of the two sides into one space.
    coupling
        Plan and potentials, for costs in units of ``unit``.
    unit
        Mean squared distance between the sides in the space.
    """

    axes: Canonical
    coupling: Scaling
    unit: float


def refine(
    x: Float[Tensor, "cell feature"],
    y: Float[Tensor, "other feature2"],
    plan: Float[Tensor, "cell other"],
    a: Float[Tensor, " cell"],
    b: Float[Tensor, " other"],
    *,
    epsilon: float,
    ridge: float,
    reach: float | None = None,
) -> Refined:
    """Turns of canonical axes under the plan and of the plan under the distances in those axes.

    Parameters
    ----------
    x, y
        Points of either side.
    plan
        Where to start.
    a, b
        Masses of the points.
    epsilon, reach
        Of the plan (:func:`~remadom.solvers.scaling.scale`), in units of the mean squared distance.
    ridge
        Of the axes (:func:`~remadom.solvers.canonical.canonical_axes`).
    """
    for _ in range(ROUNDS):
        axes = canonical_axes(x, y, plan, ridge)
        cost = torch.cdist(axes.of_x(x), axes.of_y(y), compute_mode="use_mm_for_euclid_dist").square_()
        unit = float(a @ cost @ b) or 1.0
        coupling = scale(cost / unit, a, b, epsilon, reach=reach, max_iter=50, tol=1e-4)
        plan = coupling.plan
    return Refined(axes, coupling, unit)


class Structures(NamedTuple):
    """Distances within either side's anchors along several graphs, and the masses of the anchors."""

    pairs: list[tuple[Float[Tensor, "group group"], Float[Tensor, "group2 group2"]]]
    a: Float[Tensor, " group"]
    b: Float[Tensor, " group2"]

    @classmethod
    def of(
        cls, x: Tensor, y: Tensor, x_anchors: Anchors, y_anchors: Anchors, neighbors: Sequence[int]
    ) -> Structures:
        """By length and by hops, along the graphs of every number of ``neighbors``."""
        pairs = []
        for k in neighbors:
            graphs = neighbor_graph(x.numpy(), k), neighbor_graph(y.numpy(), k)
            pairs += [
                (between(graphs[0], x_anchors, hops=hops), between(graphs[1], y_anchors, hops=hops))
                for hops in (False, True)
            ]
        return cls(pairs, x_anchors.masses, y_anchors.masses)

    def candidates(self, reach: float | None = None) -> Iterator[Float[Tensor, "group group2"]]:
        """Different Gromov-Wasserstein couplings of the anchors.

        Those of least value for each of the graphs, from every order and orientation of the spectral axes.
        """
        for Cx, Cy in self.pairs:
            starts = spectral_starts(Cx, Cy, self.a, self.b)
            found = gromov_wasserstein(
                Cx,
                Cy,
                self.a,
                self.b,
                epsilon=GW_EPSILON,
                reach=reach,
                starts=starts,
                max_iter=25,
                inner_iter=20,
            )
            kept: list[Tensor] = []
            for plan in found.plans:
                if all((plan - other).abs().sum() > DIFFERENT for other in kept):
                    kept.append(plan)
            yield from kept[:CANDIDATES]

    def neighborhoods_kept(self, plan: Float[Tensor, "group group2"]) -> float:
        """How far neighbors go to neighbors under a coupling, at most about 1: agreement of Gaussian kernels.

        Mean over the graphs and ``WIDTHS`` of ``<Kx P Ky, P>``, divided by the root mean squares of both kernels.
        The distances of the far, which dominate the value of Gromov-Wasserstein, do not count here: a group that
        is cut in two does.
        """
        agreement = []
        for Cx, Cy in self.pairs:
            for width in WIDTHS:
                Kx, Ky = torch.exp(-((Cx / width) ** 2)), torch.exp(-((Cy / width) ** 2))
                rms = (self.a @ Kx.square() @ self.a * (self.b @ Ky.square() @ self.b)).sqrt()
                agreement.append(float((Kx @ plan @ Ky * plan).sum() / rms))
        return sum(agreement) / len(agreement)
