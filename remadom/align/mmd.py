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
from remadom.solvers.kernel import mean_mmd2, mmd2
from remadom.types import Logs


@HEADS.register("mmd")
class MMDHead(GroupHead):
    """Unbiased kernel MMD^2 between groups of the fused latent (Gretton et al., JMLR 2012, lemma 6).

    It matches whole distributions: a cell type that one group alone has is pulled onto others, the more the larger
    the weight. Where groups differ much in composition, take ``sinkhorn`` or ``ot`` with ``reach``.

    Parameters
    ----------
    bandwidths
        Widths of the Gaussian kernels, in units of the median squared distance of the cells compared.
    """

    def __init__(
        self,
        *,
        weight: Scheduled = 0.3,
        bandwidths: tuple[PositiveFloat, ...] = (0.05, 0.1, 0.25, 1.0),
        **common: Any,
    ) -> None:
        super().__init__(weight=weight, **common)
        self.bandwidths = bandwidths

    def forward(
        self, z_bio: Float[Tensor, "cell latent"], groups: Mapping[str, Int[Tensor, " cell"]]
    ) -> tuple[Tensor, Logs]:
        return self.over_pairs(z_bio, groups, {})

    def mean_over(self, z_bio: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], aux: Inputs) -> Tensor:
        return mean_mmd2(z_bio, pairs, self.bandwidths)

    def compare(self, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, aux: Inputs) -> Tensor:
        return mmd2(x, y, bandwidths=self.bandwidths)
