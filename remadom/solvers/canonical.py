"""Canonical axes of two sets of points under a soft matching: the linear maps whose images agree most."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from remadom.shapes import Float


class Canonical(NamedTuple):
    """Linear maps of two feature spaces into one (Hotelling 1936, doi:10.1093/biomet/28.3-4.321).

    Attributes
    ----------
    x_map, y_map
        Feature x axis; each axis has variance ``correlation^4`` up to the ridge, so that what the two sides do not
        share is shrunk away.
    x_mean, y_mean
        Subtracted from the features first.
    correlations
        Canonical correlations, descending.
    """

    x_map: Float[Tensor, "feature axis"]
    y_map: Float[Tensor, "other axis"]
    x_mean: Float[Tensor, " feature"]
    y_mean: Float[Tensor, " other"]
    correlations: Float[Tensor, " axis"]

    def of_x(self, x: Tensor) -> Tensor:
        """Points of the first space, point x axis."""
        return (x - self.x_mean) @ self.x_map

    def of_y(self, y: Tensor) -> Tensor:
        """Points of the second space, point x axis."""
        return (y - self.y_mean) @ self.y_map

    @property
    def information(self) -> float:
        """Mutual information of the two sides if they were Gaussian, in nats."""
        return float(-0.5 * torch.log1p(-(self.correlations.clamp(max=1 - 1e-6) ** 2)).sum())


def canonical_axes(x: Tensor, y: Tensor, plan: Float[Tensor, "n m"], ridge: float = 0.1) -> Canonical:
    """Canonical axes of points whose pairs are weighted by a coupling.

    Parameters
    ----------
    x, y
        Points of either side, point x feature.
    plan
        Mass of each pair; its marginals are the masses of the points.
    ridge
        Added to the variance of each feature, in units of the mean variance of its side.
    """
    plan = plan / plan.sum()
    a, b = plan.sum(1), plan.sum(0)
    x_mean, y_mean = a @ x, b @ y
    x, y = x - x_mean, y - y_mean
    x_white, y_white = _whitening(x, a, ridge), _whitening(y, b, ridge)
    left, correlations, right = torch.linalg.svd(x_white @ (x.mT @ plan @ y) @ y_white, full_matrices=False)
    weight = correlations**2
    return Canonical(x_white @ left * weight, y_white @ right.mT * weight, x_mean, y_mean, correlations)


def _whitening(centered: Tensor, masses: Tensor, ridge: float) -> Tensor:
    variances, vectors = torch.linalg.eigh((centered * masses.unsqueeze(-1)).mT @ centered)
    floor = (ridge * variances.mean()).clamp(min=torch.finfo(variances.dtype).tiny)
    white: Tensor = (vectors * (variances.clamp(min=0) + floor).rsqrt()) @ vectors.mT
    return white
