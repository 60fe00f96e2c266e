"""From distances between neighbors to how much they weigh."""

from __future__ import annotations

from torch import Tensor

LOCAL_SCALE = 7
"""Neighbor whose distance is the scale of a cell."""


def local_kernel(near: Tensor, distance: Tensor) -> Tensor:
    """Gaussian weights ``exp(-d_ij^2 / (s_i s_j))`` of neighbor lists, with the scale of both cells.

    The scale of a cell is the distance to its 7th neighbor (the last one, for shorter lists), as in Zelnik-Manor
    & Perona (2004), "Self-tuning spectral clustering". A cell whose scale is 0, because it has that many copies,
    takes the smallest positive scale there is.

    Parameters
    ----------
    near, distance
        Neighbors of each cell and their distances, nearest first: cell x neighbor.
    """
    scale = distance[:, min(LOCAL_SCALE, distance.shape[1]) - 1]
    positive = scale[scale > 0]
    scale = scale.clamp(min=float(positive.min()) if len(positive) else 1.0)
    return (-(distance / scale[:, None]) * (distance / scale[near])).exp()
