"""Agreement of what the modalities say of the same cell, each on its own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import cross_entropy

from remadom.align.base import HEADS, AlignmentHead
from remadom.align.groups import levels_of
from remadom.schedule import Scheduled
from remadom.shapes import Float, Int
from remadom.types import Logs, Posterior


@HEADS.register("posterior")
class PosteriorHead(AlignmentHead):
    """Pulls together the posteriors that the modalities of one cell give on their own.

    Over every pair of modalities and the cells that have both: the symmetric Kullback-Leibler divergence of the
    two Gaussians, nats per latent dimension, and a contrastive term (InfoNCE, van den Oord et al. 2018,
    arXiv:1807.03748) that asks that a cell's other modality is nearer than those of other cells. Only cells of one
    group are contrasted: what both modalities have of the batch would tell the others apart.

    Parameters
    ----------
    contrast
        Weight of the contrastive term beside the divergence; it is scaled to 1 for a guess.
    temperature
        Temperature of the contrastive term, in units of the mean squared distance between cells.
    group_key
        Grouping within which cells are contrasted; a list contrasts within the groups of each, and takes the mean.
    """

    def __init__(
        self,
        *,
        weight: Scheduled = 0.1,
        contrast: NonNegativeFloat = 1.0,
        temperature: PositiveFloat = 0.2,
        group_key: str | tuple[str, ...] = "batch",
    ) -> None:
        super().__init__(weight=weight)
        self.contrast, self.temperature, self.levels = contrast, temperature, levels_of(group_key)

    @property
    def group_keys(self) -> tuple[str, ...]:
        return self.levels

    def forward(
        self, posteriors: Mapping[str, Posterior], groups: Mapping[str, Int[Tensor, " cell"]]
    ) -> tuple[Tensor, Logs]:
        known = {name: posterior.logvar[:, 0].isfinite() for name, posterior in posteriors.items()}
        total = torch.stack([posterior.mu.sum() for posterior in posteriors.values()]).sum() * 0.0
        n_pairs, kl, contrast = 0, torch.zeros(()), torch.zeros(())
        for one, other in combinations(posteriors, 2):
            both = (known[one] & known[other]).nonzero().squeeze(1)
            if len(both) < 2:
                continue
            n_pairs += 1
            p, q = (Posterior(x.mu[both], x.logvar[both]) for x in (posteriors[one], posteriors[other]))
            divergence = symmetric_kl(p, q).mean() / p.mu.shape[1]
            guesses = [info_nce(p.mu, q.mu, self.temperature, groups[key][both]) for key in self.levels]
            guess = torch.stack(guesses).mean()
            kl, contrast = kl + divergence.detach(), contrast + guess.detach()
            total = total + divergence + self.contrast * guess
        some = max(1, n_pairs)
        return total / some, {
            "kl": kl / some,
            "contrast": contrast / some,
            "n_pairs": torch.tensor(float(n_pairs)),
        }


def symmetric_kl(p: Posterior, q: Posterior) -> Float[Tensor, " cell"]:
    """``(KL(p|q) + KL(q|p)) / 2`` of diagonal Gaussians, nats per cell."""
    square = (p.mu - q.mu).square()
    ratio = p.logvar - q.logvar
    each = ratio.exp() + (-ratio).exp() - 2 + square * ((-p.logvar).exp() + (-q.logvar).exp())
    return 0.25 * each.sum(1)


def info_nce(
    x: Float[Tensor, "cell latent"],
    y: Float[Tensor, "cell latent"],
    temperature: float,
    groups: Int[Tensor, " cell"],
) -> Float[Tensor, ""]:
    """Cross-entropy of finding a cell's partner by distance among those of its group, over that of a guess.

    Mean over both directions and over the cells that have company; 1 is chance.
    """
    cost = torch.cdist(x, y).square()
    scale = cost.detach().mean().clamp(min=1e-12) * temperature
    company = groups[:, None] == groups[None, :]
    size = company.sum(1)
    logits = (-cost / scale).masked_fill(~company, -torch.inf)
    truth = torch.arange(len(x), device=x.device)
    both = cross_entropy(logits, truth, reduction="none") + cross_entropy(logits.T, truth, reduction="none")
    relative = 0.5 * both / torch.log(size.clamp(min=2).to(both.dtype))
    alone = size < 2
    return torch.where(alone, 0.0, relative).sum() / (~alone).sum().clamp(min=1)
