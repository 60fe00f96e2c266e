"""Maximum mean discrepancy between groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import PositiveFloat
from torch import Tensor

from remadom.align.base import HEADS
from remadom.align.groups import GroupHead, Inputs
from remadom.schedule import Scheduled
from remadom.shapes import Float, Int
from remadom.solvers.mmd import mean_mmd2, mean_mmd2_of_groups, mmd2
from remadom.types import Logs


@HEADS.register("mmd")
class MMDHead(GroupHead):
    """Unbiased kernel MMD^2 between groups of the fused latent (Gretton et al., JMLR 2012, lemma 6).

    It matches what two groups have in common: each cell is weighed by how much of it unbalanced transport would move
    to the other group, so that types in other shares, and types that one group alone has, stay where they are. With
    ``reach=None`` it matches whole distributions.

    Parameters
    ----------
    bandwidths
        Widths of the Gaussian kernels, in units of the median squared distance of the cells compared.
    reach
        How far the like of a cell may be, in units of the root of that median; null weighs all cells alike.
    """

    def __init__(
        self,
        *,
        weight: Scheduled = 0.5,
        bandwidths: tuple[PositiveFloat, ...] = (0.05, 0.1, 0.25, 1.0),
        reach: PositiveFloat | None = 0.35,
        **common: Any,
    ) -> None:
        super().__init__(weight=weight, **common)
        self.bandwidths, self.reach = bandwidths, reach

    @property
    def recordable(self) -> bool:
        return len(self.levels) == 1 and self.pairs == "all" and bool(self.n_groups)

    def forward(
        self, z_bio: Float[Tensor, "cell latent"], groups: Mapping[str, Int[Tensor, " cell"]]
    ) -> tuple[Tensor, Logs]:
        if z_bio.device.type == "cpu" or not self.recordable:
            return self.over_pairs(z_bio, groups, {})
        (key,) = self.levels
        loss, n_pairs, counts = mean_mmd2_of_groups(
            z_bio, groups[key], self.n_groups[key], self.bandwidths, self.reach, self.max_pairs
        )
        return loss, {"n_pairs": n_pairs.float(), "skipped_groups": (counts == 1).sum().float()}

    def mean_over(self, z_bio: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], aux: Inputs) -> Tensor:
        return mean_mmd2(z_bio, pairs, self.bandwidths, self.reach)

    def compare(self, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, aux: Inputs) -> Tensor:
        return mmd2(x, y, self.bandwidths, reach=self.reach)
