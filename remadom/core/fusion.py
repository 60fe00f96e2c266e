"""Product of experts: one posterior from those of the modalities that a cell has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from remadom.errors import InputError, nearest
from remadom.shapes import Float
from remadom.types import Posterior

ABSENT = math.inf
"""Log variance of the expert of a modality that a cell lacks."""


class ProductOfExperts(nn.Module):
    """Product of Gaussian experts and the standard normal prior, in log space.

    With precisions ``tau_m = exp(-logvar_m) / T_m`` and the prior's 1: ``tau = 1 + sum_m tau_m`` and
    ``mu = sum_m tau_m mu_m / tau`` (Wu and Goodman 2018, arXiv:1802.05335; a temperature ``T`` is the power
    ``q**(1/T)``). An absent modality has ``logvar = inf``: it drops out exactly, and a cell with no modality is
    the prior.

    Parameters
    ----------
    temperatures
        Per modality, above 0: a higher one trusts the modality less. A mapping by name, or a sequence in the
        order of ``modality_names``; ``None`` is 1 for all.
    modality_names
        Order of a sequence of temperatures, and the names that a mapping may use.

    Raises
    ------
    InputError
        A temperature that is not positive, an unknown name, or a sequence of the wrong length.
    """

    def __init__(
        self,
        temperatures: Mapping[str, float] | Sequence[float] | None = None,
        modality_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if temperatures is None:
            temperatures = {}
        elif not isinstance(temperatures, Mapping):
            if len(temperatures) != len(modality_names):
                raise InputError(
                    f"model.fusion_temps has {len(temperatures)} values for {len(modality_names)} modalities "
                    f"({', '.join(modality_names)}); give one for each, or a mapping by name"
                )
            temperatures = dict(zip(modality_names, temperatures, strict=True))
        for name, value in temperatures.items():
            if modality_names and name not in modality_names:
                raise InputError(
                    f"model.fusion_temps: unknown modality '{name}': {nearest(name, modality_names)}"
                )
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"model.fusion_temps.{name} is {value}; a temperature must be above 0")
        self.temperatures = dict(temperatures)

    def forward(
        self,
        mus: Sequence[Float[Tensor, "cell latent"]],
        logvars: Sequence[Float[Tensor, "cell latent"]],
        modality_names: Sequence[str] | None = None,
        prior: Posterior | None = None,
    ) -> tuple[Float[Tensor, "cell latent"], Float[Tensor, "cell latent"]]:
        """Fused ``mu, logvar``; ``modality_names`` says which temperature belongs to which expert.

        ``prior`` stands in place of the standard normal.
        """
        names = modality_names if modality_names is not None else [""] * len(mus)
        log_precisions = [
            -logvar - math.log(self.temperatures.get(name, 1.0))
            for name, logvar in zip(names, logvars, strict=True)
        ]
        standard = torch.zeros_like(mus[0])
        stacked = torch.stack([standard if prior is None else -prior.logvar, *log_precisions])
        share = torch.softmax(stacked, dim=0)
        mu = (share[1:] * torch.stack(list(mus))).sum(0)
        return mu if prior is None else mu + share[0] * prior.mu, -torch.logsumexp(stacked, dim=0)


def drop_modalities(enc_outs: Mapping[str, Posterior], probability: float) -> dict[str, Posterior]:
    """With a probability per cell, keep only a random non-empty subset of the cell's experts.

    Every subset of the present modalities other than the empty one is equally likely.
    """
    names = list(enc_outs)
    has = torch.stack([enc_outs[m].logvar[:, 0] < ABSENT for m in names], dim=1)
    rank = has.cumsum(1) - has.int()  # number of each present expert among those of its cell
    subsets = (1 << has.sum(1, keepdim=True)) - 1
    drawn = 1 + (torch.rand(has.shape[0], 1, device=has.device) * subsets).long()  # a subset as bits
    dropped = torch.rand(has.shape[0], 1, device=has.device) < probability
    kept = has & (~dropped | (drawn >> rank & 1 > 0))
    out = {}
    for j, m in enumerate(names):
        keep = kept[:, j : j + 1]
        out[m] = Posterior(
            torch.where(keep, enc_outs[m].mu, 0.0), torch.where(keep, enc_outs[m].logvar, ABSENT)
        )
    return out
