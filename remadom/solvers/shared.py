"""Two sets of points in one space, with the coupling that their distances give."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from remadom.shapes import Float, Int
from remadom.solvers.ann import AnnIndex
from remadom.solvers.canonical import Canonical

PAIRS = 1_000_000
"""Pairs whose coupling is held at once."""
SAMPLE = 2_000
"""Points of the other side by which the confidence of a point is judged."""


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of rows that hold at most ``PAIRS`` pairs with all columns."""
    step = max(1, PAIRS // n_columns)
    return (slice(first, first + step) for first in range(0, n_rows, step))


class Pairs(NamedTuple):
    """Chosen pairs of a first and a second point, with a weight and a confidence of 0 to 1."""

    first: Int[Tensor, " edge"]
    second: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]
    confidence: Float[Tensor, " edge"]


@dataclass(frozen=True)
class SharedSpace:
    """Two sets of points in one space and the potentials of their entropic coupling.

    Attributes
    ----------
    x, y
        Coordinates of the first and of the second points, cell x axis.
    f, g
        Potentials: ``exp((f + g - cost) / epsilon)`` is the mass of a pair relative to that of independent points,
        the cost being the squared distance over ``unit``.
    unit
        Mean squared distance between the sides.
    epsilon
        Entropy of the coupling.
    axes
        The maps into the space, with their correlations and their mutual information in nats.
    """

    x: Float[Tensor, "cell axis"]
    y: Float[Tensor, "other axis"]
    f: Float[Tensor, " cell"]
    g: Float[Tensor, " other"]
    unit: float
    epsilon: float
    axes: Canonical

    def log_density(self) -> Iterator[Float[Tensor, "block other"]]:
        """Log of the coupling relative to independence, in blocks of first points."""
        for rows in row_blocks(len(self.x), len(self.y)):
            cost = torch.cdist(self.x[rows], self.y).square() / self.unit
            yield (self.f[rows].unsqueeze(-1) + self.g - cost) / self.epsilon

    def plan(self) -> Float[Tensor, "cell other"]:
        """The whole coupling; its sum is 1 where no cell may stay without a partner."""
        return torch.cat(list(self.log_density())).exp() / (len(self.x) * len(self.y))

    def pairs(self, k: int) -> Pairs:
        """The ``k`` strongest pairs of every point of either side.

        A weight is the geometric mean of the pair's mass relative to the strongest pair of either end. A
        confidence is the geometric mean of those of its ends: the share of the uncertainty about a point's partner
        that the coupling removes (1 minus the entropy over the log of the number of others, by at most ``SAMPLE``
        of the others), times the mass that found a partner where that is below the point's own.
        """
        turned = replace(self, x=self.y, y=self.x, f=self.g, g=self.f)
        of_x, of_y = self._strongest(k), turned._strongest(k)
        n, m = len(self.x), len(self.y)
        from_x = torch.arange(n).unsqueeze(-1) * m + of_x
        from_y = of_y * m + torch.arange(m).unsqueeze(-1)
        chosen = torch.from_numpy(np.unique(torch.cat([from_x.flatten(), from_y.flatten()]).numpy()))
        first, second = chosen // m, chosen % m
        most = (
            self._density_of(torch.arange(n), of_x[:, 0])[first]
            + self._density_of(of_y[:, 0], torch.arange(m))[second]
        )
        weight = (self._density_of(first, second) - most / 2).exp().clamp(max=1)
        confidence = (self._confidence()[first] * turned._confidence()[second]).sqrt()
        return Pairs(first, second, weight, confidence)

    def _density_of(self, first: Tensor, second: Tensor) -> Tensor:
        """Log of the coupling of some pairs relative to independence."""
        cost = (self.x[first] - self.y[second]).square().sum(-1) / self.unit
        return (self.f[first] + self.g[second] - cost) / self.epsilon

    def _strongest(self, k: int) -> Int[Tensor, "cell k"]:
        """Second points of the largest density for each first point, strongest first.

        With ``sqrt(max g - g)`` as one more coordinate of the second points, they are the nearest.
        """
        lift = (self.unit * (self.g.max() - self.g)).sqrt().unsqueeze(-1)
        index = AnnIndex(torch.cat([self.y, lift], 1))
        return index.search(torch.cat([self.x, torch.zeros_like(self.x[:, :1])], 1), k)[0]

    def _confidence(self) -> Float[Tensor, " cell"]:
        """Share of the uncertainty about the partner of each first point that the coupling removes."""
        step = math.ceil(len(self.y) / SAMPLE)
        some = replace(self, y=self.y[::step], g=self.g[::step])
        found = []
        for block in some.log_density():
            total = block.logsumexp(-1)
            density = total - math.log(len(some.y))  # of all mass; 0 where every partner is found
            removed = (block.softmax(-1) * block).sum(-1) - density
            found.append(density.exp().clamp(max=1) * (removed / math.log(len(self.y))).clamp(0, 1))
        return torch.cat(found)
