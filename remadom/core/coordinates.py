"""Coordinates of the embedding in which distances are those of what the cells decode to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from remadom.core.correction import BatchCorrection
from remadom.shapes import Float, Int
from remadom.types import Support

TOTAL = 1e4
"""Total to which expected counts are normalized before the logarithm, as log-normalized expression is."""

BLOCK = 256
"""Cells decoded at a time: their profiles are held in full, all features of them."""

CENTERED: tuple[Support, ...] = ("counts", "events")
"""Support of values that are compared as logarithms of shares, less the mean of the cell."""

Profiles = Callable[[Tensor, str, float], Tensor]
"""Profile of one modality, cell x feature, of cells at these places, decoded at one total."""


class DecodedCoordinates(nn.Module):
    """Principal components of what cells decode to: a multiple factor analysis of their profiles.

    The prior gives each dimension of a latent space the same scale, be it what sets monocytes apart from T cells or
    some T cells from others. Distances among cells, and whatever is built on them (neighbors, clusters), are better
    taken between the profiles that the latent places stand for: the geometry that the decoder pulls back (Arvanitidis
    et al. 2018, arXiv:1710.11379), here in the coordinates of expected expression, free of batch and depth.
    Each modality's profiles are divided by the scale of their first component, so that none outweighs the others by
    its number of features or its units (Escofier & Pages 1994, doi:10.1016/0167-9473(94)90135-X).

    Parameters
    ----------
    total
        By modality, the total at which cells are decoded, where the decoder scales with it.
    mean
        By modality, the mean profile, one value for each feature.
    axes
        By modality, feature x latent: what a profile less the mean is multiplied with. The modalities are added up.
    correction
        Of what batches lie apart in these coordinates, where that is corrected.
    """

    def __init__(
        self,
        total: Mapping[str, Tensor],
        mean: Mapping[str, Tensor],
        axes: Mapping[str, Tensor],
        correction: BatchCorrection | None = None,
    ) -> None:
        super().__init__()
        self.modalities = tuple(sorted(axes))
        for name, values in (("total", total), ("mean", mean), ("axes", axes)):
            for modality in self.modalities:
                self.register_buffer(f"{name}_{modality}", torch.as_tensor(values[modality]).float())
        self.correction = correction

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> DecodedCoordinates:
        """From what :meth:`state_dict` holds."""
        parts: dict[str, dict[str, Tensor]] = {"total": {}, "mean": {}, "axes": {}, "correction": {}}
        for name, value in arrays.items():
            part, rest = re.split("[_.]", name, maxsplit=1)
            parts[part][rest] = value
        correction = parts.pop("correction")
        return cls(**parts, correction=BatchCorrection(**correction) if correction else None)

    def forward(
        self,
        z: Float[Tensor, "cell latent"],
        profiles: Profiles,
        batch_labels: Int[Tensor, " cell"] | None = None,
    ) -> Float[Tensor, "cell latent"]:
        """Places of the latent space in these coordinates; cells of no batch are not corrected."""
        placed = torch.cat([self._placed(block, profiles) for block in torch.split(z, BLOCK)])
        if self.correction is None or batch_labels is None:
            return placed
        corrected: Tensor = self.correction(placed, batch_labels)
        return corrected

    def _placed(self, z: Tensor, profiles: Profiles) -> Tensor:
        placed = torch.zeros_like(z)
        for modality in self.modalities:
            total, mean, axes = (self.get_buffer(f"{part}_{modality}") for part in ("total", "mean", "axes"))
            placed = placed + (profiles(z, modality, float(total)) - mean) @ axes
        return placed


def comparable(
    expected: Float[Tensor, "cell feature"], support: Support, total: float = TOTAL
) -> Float[Tensor, "cell feature"]:
    """Values on the scale on which they are compared.

    Counts and events are normalized to ``total`` a cell, ``log1p`` is taken and each cell's mean is taken off (so that
    differences of depth vanish for proteins as well: a centered log ratio); other values stay as they are.
    """
    if support not in CENTERED:
        return expected
    share = expected / expected.sum(1, keepdim=True).clamp(min=1e-12)
    values = (total * share).log1p()
    return values - values.mean(1, keepdim=True)
