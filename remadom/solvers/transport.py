"""An optimal transport problem between two samples, checked; and what a back end answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from remadom.errors import InputError, nearest
from remadom.solvers.kernel import METRICS, as_computed, pairwise_cost

SAME_MASS = 1e-3
"""Relative difference of the two total masses up to which balanced transport takes them as equal."""

Reach = float | tuple[float | None, float | None] | None


@dataclass(frozen=True)
class TransportInfo:
    """How a problem was solved.

    Attributes
    ----------
    converged : bool or None
        Whether the marginal error (of all problems solved) is at most the tolerance; None where the back end
        has no such measure (geomloss).
    iterations : int or None
        Iterations of the problem between the two samples.
    marginal_error : float or None
        Largest L1 distance of a plan's row sums from what the marginal rule asks, relative to the mass.
    plan : Tensor or None
        Detached coupling of shape (..., n, m), on request.
    """

    converged: bool | None
    iterations: int | None
    marginal_error: float | None
    plan: Tensor | None = None


@dataclass(frozen=True)
class Transport:
    """A solved problem: its value (...) and the value's derivatives in the points, where asked for."""

    value: Tensor
    slope_x: Tensor
    slope_y: Tensor
    info: TransportInfo


@dataclass(frozen=True)
class Problem:
    """Samples, weights and options after :func:`problem_of_points` or :func:`problem_of_costs` checked them.

    ``x`` (..., n, d) and ``y`` (..., m, d) are detached, in float32 or float64, without offset for the metrics
    that do not see it, and points of weight 0 lie at the mean; ``a`` (..., n) and ``b`` (..., m) are the weights.
    ``matrix`` (..., n, m) are given costs, instead of points.
    """

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    epsilon: float
    metric: str
    rho: tuple[float | None, float | None] = (None, None)
    share: float | None = None
    mask: Tensor | None = None
    matrix: Tensor | None = None

    def cost(self, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """Costs of a slice of rows with a slice of columns, a new tensor; ``inf`` where the mask forbids."""
        if self.matrix is None:
            cost = pairwise_cost(self.x[..., rows, :], self.y[..., columns, :], self.metric)
        else:
            cost = self.matrix[..., rows, columns].clone()
        if self.mask is None:
            return cost
        return cost.sub_(self.mask[..., rows, columns].log(), alpha=self.epsilon)

    def mass(self) -> Tensor:
        """Mass to be transported in the partial problem, of shape (...)."""
        assert self.share is not None
        return self.share * torch.minimum(self.a.sum(-1), self.b.sum(-1))

    def of_x(self) -> Problem:
        """The problem between ``x`` and itself, without mask."""
        return replace(self, y=self.x, b=self.a, mask=None)

    def of_y(self) -> Problem:
        """The problem between ``y`` and itself, without mask."""
        return replace(self, x=self.y, a=self.b, mask=None)


class Backend(ABC):
    """Solves problems; what it cannot do is refused with the name of the option."""

    @abstractmethod
    def transport(self, problem: Problem, *, slopes: bool, plan: bool) -> Transport:
        """Value of one problem, with its derivatives and its plan where asked for."""

    def divergence(self, problem: Problem, *, slopes: bool, plan: bool) -> Transport:
        """Value of the problem less half of each sample's own, with derivatives (and plan) where asked for."""
        cross = self.transport(problem, slopes=slopes, plan=plan)
        x = self.transport(problem.of_x(), slopes=slopes, plan=False)
        y = self.transport(problem.of_y(), slopes=slopes, plan=False)
        apart = problem.a.sum(-1) - problem.b.sum(-1)
        infos = [part.info for part in (cross, x, y)]
        return Transport(
            cross.value - (x.value + y.value) / 2 + problem.epsilon / 2 * apart.square(),
            cross.slope_x - (x.slope_x + x.slope_y) / 2,
            cross.slope_y - (y.slope_x + y.slope_y) / 2,
            replace(
                cross.info,
                converged=all(info.converged for info in infos),
                marginal_error=max(info.marginal_error or 0.0 for info in infos),
            ),
        )


def problem_of_points(
    x: Tensor,
    y: Tensor,
    epsilon: float,
    metric: str,
    reach: Reach,
    a: Tensor | None,
    b: Tensor | None,
    mass: float | None,
    mask: Tensor | None,
) -> Problem:
    """Checked problem between two samples of points; raises :class:`InputError` (see :class:`OtSolver`)."""
    if x.ndim < 2 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise InputError(
            f"samples of shapes {tuple(x.shape)} and {tuple(y.shape)} cannot be compared; expected (..., n, d) and "
            "(..., m, d) with the same d and leading dimensions (pad with points of weight 0)"
        )
    if metric not in METRICS:
        raise InputError(f"unknown metric '{metric}': {nearest(metric, METRICS)}")
    x, y = as_computed(x.detach()), as_computed(y.detach())
    dtype = torch.promote_types(x.dtype, y.dtype)
    x, y = x.to(dtype), y.to(dtype)
    given_a, given_b = a is not None, b is not None
    a, b = _weights(a, x[..., 0], "a"), _weights(b, y[..., 0], "b")
    if given_a:
        x = _without_idle(x, a)
    if given_b:
        y = _without_idle(y, b)
    if metric != "cosine":
        center = (a.unsqueeze(-1) * x).sum(-2, keepdim=True) / a.sum(-1)[..., None, None]
        x, y = x - center, y - center
    problem = Problem(x, y, a, b, epsilon, metric, mask=_mask(mask, a, b))
    return _with_marginals(problem, reach, mass, given_a or given_b)


def problem_of_costs(
    cost: Tensor,
    epsilon: float,
    reach: Reach,
    a: Tensor | None,
    b: Tensor | None,
    mass: float | None,
    mask: Tensor | None,
) -> Problem:
    """Checked problem with given costs (..., n, m); raises :class:`InputError` (see :class:`OtSolver`)."""
    if cost.ndim < 2:
        raise InputError(f"costs have shape {tuple(cost.shape)}, expected (..., n, m)")
    cost = as_computed(cost.detach())
    given = a is not None or b is not None
    a, b = _weights(a, cost[..., 0], "a"), _weights(b, cost[..., 0, :], "b")
    if given:
        cost = torch.where((a > 0).unsqueeze(-1) & (b > 0).unsqueeze(-2), cost, 0.0)
    points = (a.unsqueeze(-1), b.unsqueeze(-1))
    problem = Problem(*points, a, b, epsilon, "sqeuclidean", mask=_mask(mask, a, b), matrix=cost)
    return _with_marginals(problem, reach, mass, given)


def _weights(weights: Tensor | None, like: Tensor, name: str) -> Tensor:
    n_points = like.shape[-1]
    if n_points == 0:
        raise InputError(f"sample {name} has no points; expected at least one: skip empty groups")
    if weights is None:
        return torch.full_like(like, 1 / n_points)
    if weights.requires_grad:
        raise InputError(
            f"{name} asks for a gradient, which is given for the points only; detach the weights"
        )
    if weights.shape[-1:] != (n_points,):
        raise InputError(
            f"{name} has shape {tuple(weights.shape)}, expected (..., {n_points}): one per point"
        )
    weights = weights.to(like).expand_as(like)
    if not bool((weights >= 0).all() & (weights.sum(-1) > 0).all()):
        raise InputError(f"{name} holds negative weights, NaN or only zeros; expected weights of at least 0")
    return weights


def _without_idle(points: Tensor, weights: Tensor) -> Tensor:
    """Points of weight 0, which may hold anything, at the mean of the others."""
    counts = (weights > 0).unsqueeze(-1)
    points = torch.where(counts, points, 0.0)
    mean = (weights.unsqueeze(-1) * points).sum(-2, keepdim=True) / weights.sum(-1)[..., None, None]
    return torch.where(counts, points, mean)


def _mask(mask: Tensor | None, a: Tensor, b: Tensor) -> Tensor | None:
    if mask is None:
        return None
    shape = (a.shape[-1], b.shape[-1])
    if mask.shape[-2:] != shape:
        raise InputError(f"mask has shape {tuple(mask.shape)}, expected (..., {shape[0]}, {shape[1]})")
    mask = mask.detach().to(a)
    if not bool((mask >= 0).all() & mask.isfinite().all()):
        raise InputError("mask holds negative values, NaN or infinities; expected 0 (forbidden) or above")
    return mask


def _with_marginals(problem: Problem, reach: Reach, mass: float | None, weighted: bool) -> Problem:
    reaches = reach if isinstance(reach, tuple) else (reach, reach)
    if problem.epsilon <= 0:
        raise InputError(f"epsilon is {problem.epsilon}, expected a number above 0, in units of the cost")
    if any(one is not None and one <= 0 for one in reaches):
        raise InputError(f"reach is {reach}, expected distances above 0, or None for all mass")
    if mass is not None and not 0 < mass <= 1:
        raise InputError(f"mass is {mass}, expected a share above 0 and at most 1")
    if mass is not None and reaches != (None, None):
        raise InputError("mass and reach are both given; choose one: a share of the mass, or a soft limit")
    balanced = mass is None and reaches == (None, None)
    if balanced and weighted:
        of_a, of_b = problem.a.sum(-1), problem.b.sum(-1)
        if not bool(((of_a - of_b).abs() <= SAME_MASS * of_a).all()):
            raise InputError(
                f"the weights add up to {of_a.flatten()[0]:.6g} and {of_b.flatten()[0]:.6g} (first problem); make them "
                "equal, or allow a difference by reach or mass"
            )
    power = 2 if problem.metric == "sqeuclidean" and problem.matrix is None else 1
    rho_a, rho_b = (None if one is None else one**power for one in reaches)
    return replace(problem, rho=(rho_a, rho_b), share=mass)
