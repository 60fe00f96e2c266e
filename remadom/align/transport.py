"""Optimal transport between groups: the Sinkhorn divergence, and a pull along an entropic plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Le
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from remadom.align.base import HEADS
from remadom.align.groups import GroupHead, Inputs
from remadom.errors import InputError
from remadom.schedule import Scheduled, schedule_of
from remadom.shapes import Float, Int
from remadom.solvers.ot import OtSolver
from remadom.solvers.spread import TINY, mean_square
from remadom.types import BridgeEdges, Logs

Share = Annotated[float, Gt(0.0), Le(1.0)]


class TransportHead(GroupHead):
    """Compares groups by optimal transport; all scales follow the cells that are compared.

    Parameters
    ----------
    epsilon
        Entropy of the plan in units of the mean squared distance between the groups: a number or a schedule.
    reach
        How far mass is moved rather than left alone, in units of the root mean squared distance: groups may
        then differ in composition (unbalanced transport). Null moves all mass.
    mass
        Share of the mass that is moved, the cheapest part (partial transport); null moves all. One of ``reach``
        and ``mass`` at most.
    backend
        Solver: ``native``, ``geomloss`` or ``pot``.
    bridge
        Where a bridge has edges in the batch, plans of the cells that have one are kept to its edges.
    """

    def __init__(
        self,
        *,
        weight: Scheduled = 0.5,
        max_pairs: PositiveInt = 3,
        epsilon: Scheduled = 0.05,
        reach: PositiveFloat | None = None,
        mass: Share | None = None,
        backend: Literal["native", "geomloss", "pot"] = "native",
        bridge: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(weight=weight, max_pairs=max_pairs, **common)
        if reach is not None and mass is not None:
            raise InputError(
                "reach and mass are both given; choose one: a soft limit, or a share of the mass"
            )
        self.epsilon, self.reach, self.mass = schedule_of(epsilon, "epsilon"), reach, mass
        self.bridge = bridge
        self.solver = OtSolver(backend=backend)

    def forward(
        self,
        z_bio: Float[Tensor, "cell latent"],
        groups: Mapping[str, Int[Tensor, " cell"]],
        epoch: float = float("inf"),
        edges: BridgeEdges | None = None,
    ) -> tuple[Tensor, Logs]:
        epsilon = self.epsilon.at(epoch)
        loss, logs = self.over_pairs(z_bio, groups, {"epsilon": epsilon, "edges": edges})
        return loss, {**logs, "epsilon": torch.tensor(epsilon)}

    def limits(self, x: Tensor, y: Tensor, epsilon: float) -> dict[str, Any]:
        """Epsilon, reach and mass of a problem, in the units of the solver."""
        scale = float(mean_square(x.detach(), y.detach()))
        reach = None if self.reach is None else self.reach * scale**0.5
        return {"epsilon": max(epsilon * scale, TINY), "reach": reach, "mass": self.mass}

    def mask(self, at_x: Tensor, at_y: Tensor, aux: Inputs) -> Tensor | None:
        """1 where a pair may meet: along its edges for a cell that has any to the other group, anywhere else."""
        edges: BridgeEdges | None = aux.get("edges")
        if not self.bridge or edges is None or len(edges) == 0:
            return None
        place_x, place_y = (torch.full((edges.n_cells,), -1, device=at_x.device) for _ in range(2))
        place_x[at_x] = torch.arange(len(at_x), device=at_x.device)
        place_y[at_y] = torch.arange(len(at_y), device=at_x.device)
        tied = torch.zeros(len(at_x), len(at_y), device=at_x.device)
        for one, other in ((edges.src, edges.dst), (edges.dst, edges.src)):
            inside = (place_x[one] >= 0) & (place_y[other] >= 0)
            tied[place_x[one][inside], place_y[other][inside]] = 1.0
        free = (tied.sum(1, keepdim=True) == 0) & (tied.sum(0, keepdim=True) == 0)
        return torch.where(free, torch.ones_like(tied), tied)


@HEADS.register("sinkhorn")
class SinkhornHead(TransportHead):
    """Sinkhorn divergence between groups of the fused latent (Feydy et al. 2019, arXiv:1810.08278).

    The debiased entropic transport cost over the mean squared distance between the groups (so that shrinking
    everything is no way out): it is zero only where two groups are distributed alike, and its gradient moves every
    cell towards where the other group has too few. With ``reach`` or ``mass`` a cell type of one group alone is left
    where it is.
    """

    def compare(self, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, aux: Inputs) -> Tensor:
        limits = self.limits(x, y, aux.get("epsilon", self.epsilon.final))
        loss, _ = self.solver.sinkhorn_divergence(x, y, mask=self.mask(at_x, at_y, aux), **limits)
        return loss / mean_square(x, y)


@HEADS.register("ot")
class OTHead(TransportHead):
    """Pulls every cell towards the barycenter of its partners under an entropic plan (Courty et al. 2017).

    The plan is solved on the latent and kept fixed; the loss is the squared distance to the barycenter of the
    partners (doi:10.1109/TPAMI.2016.2615921), weighted by the mass that a cell sends, over the mean squared
    distance between the groups. By default the plan is unbalanced: a cell whose like the other group lacks sends
    little mass and is left alone.
    """

    def __init__(self, *, reach: PositiveFloat | None = 0.2, **common: Any) -> None:
        super().__init__(reach=reach, **common)

    def compare(self, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, aux: Inputs) -> Tensor:
        plan = self.plan(x, y, aux.get("epsilon", self.epsilon.final), self.mask(at_x, at_y, aux))
        pull = 0.5 * (_pull(x, y.detach(), plan) + _pull(y, x.detach(), plan.mT))
        return pull / mean_square(x, y)

    @torch.no_grad()
    def plan(
        self, x: Tensor, y: Tensor, epsilon: float | None = None, mask: Tensor | None = None
    ) -> Float[Tensor, "cell other"]:
        """Coupling of two groups of cells."""
        limits = self.limits(x, y, self.epsilon.final if epsilon is None else epsilon)
        return self.solver.plan(x, y, mask=mask, **limits)[0]


def _pull(x: Tensor, y: Tensor, plan: Tensor) -> Tensor:
    """Mean squared distance of ``x`` to the barycenters of its partners, weighted by the mass sent."""
    sent = plan.sum(1)
    barycenter = (plan @ y.to(plan.dtype)) / sent.clamp(min=TINY)[:, None]
    return (sent * (x - barycenter).square().sum(1)).sum() / sent.sum().clamp(min=TINY)
