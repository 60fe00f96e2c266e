"""Gromov-Wasserstein: couplings of two spaces that share no axis, by the distances inside each.

Problem (Memoli 2011, doi:10.1007/s10208-011-9093-5; entropic: Peyre et al. 2016, PMLR 48:2664; fused: Vayer et al.
2020, doi:10.3390/a13090212), with the square loss::

    min_P  alpha sum_ijkl (Cx_ik - Cy_jl)^2 P_ij P_kl + (1 - alpha) <M, P> + epsilon KL(P | a b^T)

The unbalanced problem (Sejourne et al. 2021, doi:10.48550/arXiv.2009.04266) frees the marginals at a quadratic KL
cost of weight ``reach`` and tends to the balanced one as ``reach`` grows. The problem is not convex: several starts
are solved together.
"""

from __future__ import annotations

from itertools import permutations, product
from typing import NamedTuple

import torch
from torch import Tensor

from remadom.errors import InputError
from remadom.shapes import Float
from remadom.solvers.scaling import scale


class Couplings(NamedTuple):
    """Solutions of one problem, from as many starts, the best first.

    Attributes
    ----------
    plans
        Couplings, start x n x m.
    values
        Transport cost without the entropy (with the price of the marginals, where they are free), ascending.
    n_iter
        Outer iterations.
    converged
        Whether every plan stood still at the end.
    """

    plans: Float[Tensor, "start n m"]
    values: Float[Tensor, " start"]
    n_iter: int
    converged: bool

    @property
    def plan(self) -> Float[Tensor, "n m"]:
        """The plan of least value."""
        return self.plans[0]


def local_cost(Cx: Tensor, Cy: Tensor, plan: Tensor) -> Tensor:
    """``sum_kl (Cx_ik - Cy_jl)^2 P_kl`` for every pair (i, j), in O(n^2 m + n m^2)."""
    first = plan.sum(-1) @ (Cx**2).mT
    second = plan.sum(-2) @ (Cy**2).mT
    return first.unsqueeze(-1) + second.unsqueeze(-2) - 2 * (Cx @ plan @ Cy.mT)


def gw_loss(Cx: Float[Tensor, "n n"], Cy: Float[Tensor, "m m"], plan: Float[Tensor, "n m"]) -> Tensor:
    """Gromov-Wasserstein cost of a coupling; its gradient goes through the costs, not through the plan.

    At a plan that solves the problem this is the gradient of the value, by the envelope theorem.
    """
    plan = plan.detach()
    return (local_cost(Cx, Cy, plan) * plan).sum((-2, -1))


def _divergence(masses: Tensor, reference: Tensor) -> Tensor:
    """``sum q log(q / r)`` per start."""
    terms = torch.special.xlogy(masses, masses) - masses * reference.log()
    total: Tensor = terms.flatten(1).sum(-1)
    return total


@torch.no_grad()
def gromov_wasserstein(
    Cx: Float[Tensor, "n n"],
    Cy: Float[Tensor, "m m"],
    a: Float[Tensor, " n"] | None = None,
    b: Float[Tensor, " m"] | None = None,
    *,
    epsilon: float,
    features: Float[Tensor, "n m"] | None = None,
    alpha: float = 1.0,
    reach: float | None = None,
    starts: Float[Tensor, "start n m"] | None = None,
    anneal: int = 3,
    max_iter: int = 100,
    inner_iter: int = 50,
    tol: float = 1e-5,
) -> Couplings:
    """Entropic Gromov-Wasserstein couplings, plain, fused or unbalanced, from one or several starts.

    Each outer iteration solves an entropic transport problem for the cost linearized at the last plan. The cost
    in time is O(n^2 m + n m^2) per iteration and start, in memory O(n m) per start.

    Parameters
    ----------
    Cx, Cy
        Distances (or any symmetric similarity) within each space.
    a, b
        Masses, positive, each summing to 1; equal where not given.
    epsilon
        Weight of the entropy, in units of the squared costs.
    features, alpha
        Cost of pairs across the spaces, and the share of the distances against it (1: distances alone).
    reach
        Weight of the KL price of the marginals; without it they are met exactly.
    starts
        Plans to start from; the product of the masses where not given.
    anneal
        Iterations at a larger epsilon first, halved each time down to ``epsilon``.
    max_iter, inner_iter
        Most outer iterations, and most scalings within each.
    tol
        Stops where no plan moves by more mass than this.

    Raises
    ------
    InputError
        Costs that are not square, or masses, features or starts of another shape than theirs.
    """
    n, m = len(Cx), len(Cy)
    a = Cx.new_full((n,), 1 / n) if a is None else a
    b = Cy.new_full((m,), 1 / m) if b is None else b
    outer = a.unsqueeze(-1) * b
    plans = outer.unsqueeze(0) if starts is None else starts
    shapes = (Cx.shape, Cy.shape, a.shape, b.shape, plans.shape[1:])
    if shapes != ((n, n), (m, m), (n,), (m,), (n, m)) or (features is not None and features.shape != (n, m)):
        raise InputError(
            f"gromov: found Cx {tuple(Cx.shape)}, Cy {tuple(Cy.shape)}, a {tuple(a.shape)}, b {tuple(b.shape)}, "
            f"starts {tuple(plans.shape)}, features {None if features is None else tuple(features.shape)}; "
            "expected n x n, m x m, n, m, start x n x m and n x m"
        )
    linear = 0.0 if features is None else (1 - alpha) * features
    converged, iteration = False, 0
    for iteration in range(1, max_iter + 1):
        now = epsilon * 2.0 ** max(0, anneal + 1 - iteration)
        cost = 2 * alpha * local_cost(Cx, Cy, plans) + linear
        mass = plans.sum((-2, -1))
        if reach is not None:
            price = reach * (_divergence(plans.sum(-1), a) + _divergence(plans.sum(-2), b))
            price = price + now * _divergence(plans, outer)
            cost = (cost + price[:, None, None]) / mass[:, None, None]
        moved = scale(cost, a, b, now, reach=reach, max_iter=inner_iter, tol=tol).plan
        if reach is not None:
            moved = moved * (mass / moved.sum((-2, -1))).sqrt()[:, None, None]
        change = float((moved - plans).abs().sum((-2, -1)).max())
        plans = moved
        converged = change < tol and iteration > anneal
        if converged:
            break
    values = alpha * gw_loss(Cx, Cy, plans) + (linear * plans).sum((-2, -1))
    if reach is not None:
        for marginal, target in ((plans.sum(-1), a), (plans.sum(-2), b)):
            mass = marginal.sum(-1)
            values = values + reach / 2 * (2 * mass * _divergence(marginal, target) - mass**2 + 1)
    order = values.argsort()
    return Couplings(plans[order], values[order], iteration, converged)


def spectral_starts(
    Cx: Float[Tensor, "n n"],
    Cy: Float[Tensor, "m m"],
    a: Float[Tensor, " n"],
    b: Float[Tensor, " m"],
    axes: int = 3,
    epsilon: float = 0.5,
) -> Float[Tensor, "start n m"]:
    """Plans that match the leading axes of two spaces in every order and orientation, and the product plan.

    The axes of a space are the leading diffusion coordinates of a Gaussian kernel of its distances, of width half
    their median (Coifman and Lafon 2006, doi:10.1016/j.acha.2006.04.006), with unit variance. A mirrored or
    permuted solution is one of the starts. ``axes! * 2^axes + 1`` plans.
    """
    axes = min(axes, len(Cx) - 1, len(Cy) - 1)
    x, y = _axes(Cx, a, axes), _axes(Cy, b, axes)
    turned = torch.stack(
        [
            y[:, list(order)] * y.new_tensor(signs)
            for order in permutations(range(axes))
            for signs in product((1.0, -1.0), repeat=axes)
        ]
    )
    cost = (
        (x.unsqueeze(1) - turned.unsqueeze(-3)).square().sum(-1) if axes else x.new_zeros(1, len(x), len(y))
    )
    plans = scale(cost, a, b, epsilon).plan
    return torch.cat([(a.unsqueeze(-1) * b).unsqueeze(0), plans])


def _axes(C: Tensor, a: Tensor, axes: int) -> Tensor:
    width = C[~torch.eye(len(C), dtype=torch.bool, device=C.device)].median().clamp(min=1e-12) / 2
    kernel = torch.exp(-((C / width) ** 2)) * a * a.unsqueeze(-1)
    degree = kernel.sum(-1).rsqrt()
    vectors = torch.linalg.eigh(degree.unsqueeze(-1) * kernel * degree)[1].flip(-1)
    coordinates = vectors[:, 1 : axes + 1] / vectors[:, :1]
    coordinates = coordinates - a @ coordinates
    scaled: Tensor = coordinates / (a @ coordinates.square()).sqrt().clamp(min=1e-12)
    return scaled
