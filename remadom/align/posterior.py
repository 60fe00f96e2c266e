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
from remadom.shapes import Bool, Float, Int
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

    @property
    def recordable(self) -> bool:
        return True

    def forward(
        self, posteriors: Mapping[str, Posterior], groups: Mapping[str, Int[Tensor, " cell"]]
    ) -> tuple[Tensor, Logs]:
        known = {name: posterior.logvar[:, 0].isfinite() for name, posterior in posteriors.items()}
        total = torch.stack([posterior.mu.sum() for posterior in posteriors.values()]).sum() * 0.0
        n_pairs, kl, contrast = (total.new_zeros(()) for _ in range(3))
        for one, other in combinations(posteriors, 2):
            both = known[one] & known[other]
            if both.device.type == "cpu":  # elsewhere it is quicker to compute what is left out than to look
                at = both.nonzero().squeeze(1)
                if len(at) < 2:
                    continue
                p, q = (Posterior(x.mu[at], x.logvar[at]) for x in (posteriors[one], posteriors[other]))
                company, both = {key: groups[key][at] for key in self.levels}, both[at]
            else:
                p, q = (_where(both, x) for x in (posteriors[one], posteriors[other]))
                company = {key: groups[key] for key in self.levels}
            count = both.sum()
            enough = count >= 2
            divergence = torch.where(both, symmetric_kl(p, q), 0.0).sum() / count.clamp(min=1) / p.mu.shape[1]
            guesses = [info_nce(p.mu, q.mu, self.temperature, codes, both) for codes in company.values()]
            guess = torch.stack(guesses).mean()
            n_pairs, kl, contrast = n_pairs + enough, kl + divergence.detach(), contrast + guess.detach()
            total = total + torch.where(enough, divergence + self.contrast * guess, 0.0)
        some = n_pairs.clamp(min=1)
        return total / some, {"kl": kl / some, "contrast": contrast / some, "n_pairs": n_pairs}


def _where(some: Tensor, posterior: Posterior) -> Posterior:
    """The posterior of some cells, and a standard normal one of the others."""
    kept = some.unsqueeze(1)
    return Posterior(*(torch.where(kept, value, 0.0) for value in posterior))


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
    some: Bool[Tensor, " cell"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of finding a cell's partner by distance among those of its group, over that of a guess.

    Mean over both directions and over the cells (all, or ``some``) that have company; 1 is chance.
    """
    some = torch.ones_like(groups, dtype=torch.bool) if some is None else some
    among = some[:, None] & some[None, :]
    cost = torch.cdist(x, y).square()
    mean = torch.where(among, cost.detach(), 0.0).sum() / among.sum().clamp(min=1)
    company = (groups[:, None] == groups[None, :]) & among
    size = company.sum(1)
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    logits = (-cost / (mean.clamp(min=1e-12) * temperature)).masked_fill(~(company | itself), -torch.inf)
    truth = torch.arange(len(x), device=x.device)
    both = cross_entropy(logits, truth, reduction="none") + cross_entropy(logits.T, truth, reduction="none")
    relative = 0.5 * both / torch.log(size.clamp(min=2).to(both.dtype))
    alone = size < 2
    return torch.where(alone, 0.0, relative).sum() / (~alone).sum().clamp(min=1)
