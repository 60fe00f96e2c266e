"""Entropic couplings for a given cost: Sinkhorn's scaling, in blocks between exact steps in the log domain.

Problem (Cuturi 2013, doi:10.48550/arXiv.1306.0895; unbalanced: Chizat et al. 2018, doi:10.1090/mcom/3303)::

    min_P  <C, P> + epsilon KL(P | a b^T) [+ reach (KL(P 1 | a) + KL(P^T 1 | b))]

with marginals ``a`` and ``b`` kept exactly where ``reach`` is not given. A block of plain scalings is a chain of
matrix-vector products, many times cheaper than soft-minima; the potentials are absorbed after each block
(Schmitzer 2019, doi:10.1137/16M1106018), so that nothing overflows at a small ``epsilon``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from remadom.shapes import Float

BLOCK = 10
"""Plain scalings between two exact steps."""


class Scaling(NamedTuple):
    """A coupling ``P = a b^T exp((f + g - C) / epsilon)`` and the potentials that give it."""

    plan: Float[Tensor, "... n m"]
    f: Float[Tensor, "... n"]
    g: Float[Tensor, "... m"]


def soft_min(cost: Tensor, potential: Tensor, log_mass: Tensor, epsilon: float) -> Tensor:
    """``-epsilon log sum_j mass_j exp((potential_j - cost_ij) / epsilon)`` over the last axis.

    For new rows of a cost this extends a potential to points that took no part in the problem
    (Pooladian and Niles-Weed 2021, doi:10.48550/arXiv.2109.12004).
    """
    return -epsilon * torch.logsumexp((potential.unsqueeze(-2) - cost) / epsilon + log_mass, -1)


@torch.no_grad()
def scale(
    cost: Float[Tensor, "... n m"],
    a: Float[Tensor, " n"],
    b: Float[Tensor, " m"],
    epsilon: float,
    *,
    reach: float | None = None,
    max_iter: int = 100,
    tol: float = 1e-6,
) -> Scaling:
    """Coupling of least cost under an entropic penalty; one problem, or many of the same marginals at once.

    Parameters
    ----------
    cost
        Cost of each pair; leading axes are separate problems.
    a, b
        Positive masses.
    epsilon
        Weight of the entropy, in units of the cost.
    reach
        Weight of the KL penalty of the marginals; without it they are met exactly.
    max_iter
        Most scalings of both sides.
    tol
        Stops where the last scaling changed no mass by more than this share.
    """
    kappa = 1.0 if reach is None else reach / (reach + epsilon)
    log_a, log_b = a.log(), b.log()
    transposed = cost.mT
    tiny = torch.finfo(cost.dtype).tiny
    g = torch.zeros_like(cost[..., 0, :])
    for _ in range(max(1, max_iter // BLOCK)):
        f = kappa * soft_min(cost, g, log_b, epsilon)
        g = kappa * soft_min(transposed, f, log_a, epsilon)
        log_kernel = (f.unsqueeze(-1) + g.unsqueeze(-2) - cost) / epsilon
        kernel = torch.exp(log_kernel + log_a.unsqueeze(-1) + log_b)
        damp_f, damp_g = ((kappa - 1) * f / epsilon).exp(), ((kappa - 1) * g / epsilon).exp()
        u, v = torch.ones_like(f), torch.ones_like(g)
        for _ in range(BLOCK):
            before = u
            u = damp_f * (a / (v.unsqueeze(-2) @ kernel.mT).squeeze(-2).clamp(min=tiny)) ** kappa
            v = damp_g * (b / (u.unsqueeze(-2) @ kernel).squeeze(-2).clamp(min=tiny)) ** kappa
        f, g = f + epsilon * u.log(), g + epsilon * v.log()
        if bool(((u / before - 1).abs() < tol).all()):
            break
    return Scaling(u.unsqueeze(-1) * kernel * v.unsqueeze(-2), f, g)
