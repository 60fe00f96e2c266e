"""Gromov-Wasserstein: one group's own distances carried over to another group's latent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from remadom.align.base import HEADS
from remadom.align.groups import GroupHead, Inputs
from remadom.schedule import Scheduled, schedule_of
from remadom.shapes import Float, Int
from remadom.solvers.gromov import gromov_wasserstein, gw_loss
from remadom.types import Logs


@HEADS.register("gw")
class GWHead(GroupHead):
    """Structure of one group's own features against the structure of the other's latent.

    For two groups the distances among the cells of one in the features of a modality that they have (principal
    components, fixed) are matched with the distances among the cells of the other in the latent, in both
    directions: no feature need be shared (Peyre et al., ICML 2016, proceedings.mlr.press/v48/peyre16.html). The
    coupling is kept fixed, and the gradient flows through the latent's distances. Distances are scaled to a mean
    of 1, so that the loss is 0 for the same shape and of the order of 0.3 for unrelated ones.

    Parameters
    ----------
    epsilon
        Entropy of the plan in units of the mean squared cost: a number or a schedule.
    reach
        Price of the marginals, in units of the mean squared cost: groups may then differ in composition. Null
        keeps them.
    max_cells
        At most this many cells of a group in a step: the cost grows with their cube.
    """

    def __init__(
        self,
        *,
        weight: Scheduled = 0.5,
        group_key: str | tuple[str, ...] = "modality",
        max_pairs: PositiveInt = 2,
        epsilon: Scheduled = 0.01,
        reach: PositiveFloat | None = None,
        max_cells: PositiveInt = 128,
        **common: Any,
    ) -> None:
        super().__init__(weight=weight, group_key=group_key, max_pairs=max_pairs, **common)
        self.epsilon, self.reach, self.max_cells = schedule_of(epsilon, "epsilon"), reach, max_cells

    def forward(
        self,
        z_bio: Float[Tensor, "cell latent"],
        groups: Mapping[str, Int[Tensor, " cell"]],
        features: Mapping[str, Float[Tensor, "cell component"]],
        epoch: float = float("inf"),
    ) -> tuple[Tensor, Logs]:
        epsilon = self.epsilon.at(epoch)
        loss, logs = self.over_pairs(z_bio, groups, {"features": features, "epsilon": epsilon})
        return loss, {**logs, "epsilon": torch.tensor(epsilon)}

    def compare(self, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, aux: Inputs) -> Tensor:
        x, at_x = x[: self.max_cells], at_x[: self.max_cells]
        y, at_y = y[: self.max_cells], at_y[: self.max_cells]
        epsilon = aux.get("epsilon", self.epsilon.final)
        values = []
        for own, other in ((at_x, y), (at_y, x)):
            fixed = [
                scaled(table[own])
                for table in aux["features"].values()
                if bool((table[own] != 0).any(1).all())
            ]
            values += [self._structure(distances, scaled(other), epsilon) for distances in fixed]
        return torch.stack(values).mean() if values else 0.0 * (x.sum() + y.sum())

    def _structure(self, fixed: Tensor, latent: Tensor, epsilon: float) -> Tensor:
        found = gromov_wasserstein(
            fixed, latent.detach(), epsilon=epsilon, reach=self.reach, max_iter=20, inner_iter=30, tol=1e-4
        )
        return gw_loss(fixed, latent, found.plan)


def scaled(points: Tensor) -> Float[Tensor, "cell cell"]:
    """Distances between rows over their mean; the gradient of a distance of 0 is 0."""
    square = (points.unsqueeze(1) - points.unsqueeze(0)).float().square().sum(2)
    distance = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
    return distance / distance.detach().mean().clamp(min=1e-12)
