"""What a transport plan owes to the masses of the two sides: all of them, about them, or a part of them.

Each rule is one block of the dual problem, solved exactly. With the soft minimum ``h`` over the other side, the
plan's row sums are ``a_i exp((f_i + shift - h_i) / epsilon)``; :meth:`MarginalRule.update` gives the best ``f`` and
``shift``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class MarginalRule(ABC):
    """How one side's potential follows from the soft minimum, and its part of the dual value."""

    relaxable: bool = True
    """Whether a step may go beyond the optimum of its block (successive over-relaxation)."""

    softness: float = 0.0
    """What a unit of potential takes from the log of the transported mass: ``1 / rho``, 0 where mass is fixed."""

    @abstractmethod
    def update(self, h: Tensor, log_weights: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Best potential of this side, of the shape of ``h``, and the shift of both sides, of shape (..., 1)."""

    @abstractmethod
    def sums(self, best: Tensor, shift: Tensor, h: Tensor, weights: Tensor, epsilon: float) -> Tensor:
        """Sums of the plan on this side under the best potential, also where ``h`` is infinite."""

    @abstractmethod
    def value(self, potential: Tensor, weights: Tensor) -> Tensor:
        """The part of the dual value that this side's potential makes."""

    def shift_value(self, shift: Tensor) -> Tensor:
        """Part of the dual value that belongs to the shift."""
        return torch.zeros_like(shift).squeeze(-1)


class Balanced(MarginalRule):
    """All mass is transported: the plan's sums are the weights."""

    def update(self, h: Tensor, log_weights: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        return h, h.new_zeros(())

    def sums(self, best: Tensor, shift: Tensor, h: Tensor, weights: Tensor, epsilon: float) -> Tensor:
        return weights

    def value(self, potential: Tensor, weights: Tensor) -> Tensor:
        return (weights * potential).sum(-1)


class Unbalanced(MarginalRule):
    """The plan's sums may differ from the weights, at ``rho`` times their KL divergence.

    ``KL(p | a) = sum p log(p / a) - p + a``; updates of Chizat et al. 2018, https://doi.org/10.1090/mcom/3303.
    """

    def __init__(self, rho: float) -> None:
        self.rho, self.softness = rho, 1 / rho

    def update(self, h: Tensor, log_weights: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        return h * (self.rho / (self.rho + epsilon)), h.new_zeros(())

    def sums(self, best: Tensor, shift: Tensor, h: Tensor, weights: Tensor, epsilon: float) -> Tensor:
        return weights * torch.exp(-best / self.rho)

    def value(self, potential: Tensor, weights: Tensor) -> Tensor:
        return -self.rho * (weights * torch.expm1(-potential / self.rho)).sum(-1)


class Partial(MarginalRule):
    """A given mass is transported, and nowhere more than the weights: sums at most ``a``, total ``mass``.

    Block ascent on the dual of the problem of Benamou et al. 2015, https://doi.org/10.1137/141000439 (section 5), with
    the potentials at most 0 and ``shift`` the multiplier of the total. Given the other side, a side's potential
    and the shift are found together: with ``h`` sorted, the points of smallest ``h`` are used up and the others
    share what is left.
    """

    relaxable = False

    def __init__(self, mass: Tensor) -> None:
        self.mass = mass.unsqueeze(-1)

    def update(self, h: Tensor, log_weights: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        order = torch.argsort(torch.where(log_weights > -torch.inf, h, torch.inf), dim=-1)
        h_sorted, log_sorted = h.gather(-1, order), log_weights.gather(-1, order)
        used = log_sorted.exp().cumsum(-1)
        before = torch.cat([torch.zeros_like(used[..., :1]), used[..., :-1]], -1)
        # log of the total over the points from the k-th on, were none of them used up and the shift 0
        rest = torch.flip(torch.logcumsumexp(torch.flip(log_sorted - h_sorted / epsilon, (-1,)), -1), (-1,))
        shifts = epsilon * ((self.mass - before).clamp_min(0).log() - rest)
        # the number used up is the first k whose shift leaves the k-th point below its weight
        fits = (shifts <= h_sorted) & (log_sorted > -torch.inf)
        first = fits.to(torch.int8).argmax(-1, keepdim=True)
        highest = h_sorted.masked_fill(log_sorted == -torch.inf, -torch.inf).amax(-1, keepdim=True)
        shift = torch.where(fits.any(-1, keepdim=True), shifts.gather(-1, first), highest)
        return (h - shift).clamp_max(0), shift

    def sums(self, best: Tensor, shift: Tensor, h: Tensor, weights: Tensor, epsilon: float) -> Tensor:
        return weights * ((shift - h) / epsilon).clamp_max(0).exp()

    def value(self, potential: Tensor, weights: Tensor) -> Tensor:
        return (weights * potential).sum(-1)

    def shift_value(self, shift: Tensor) -> Tensor:
        return (shift * self.mass).squeeze(-1)


def translation(
    rule_a: MarginalRule, rule_b: MarginalRule, f: Tensor, g: Tensor, log_a: Tensor, log_b: Tensor
) -> Tensor:
    """What to add to ``f`` and take from ``g``, of shape (..., 1): the best for the dual, and the plan stays.

    Séjourné et al. 2022, https://arxiv.org/abs/2201.00730; without it a large ``rho`` takes about ``rho / epsilon``
    iterations.
    """
    softness = rule_a.softness + rule_b.softness
    if softness == 0:
        return f.new_zeros(())
    of_a = torch.logsumexp(log_a - f * rule_a.softness, -1, keepdim=True)
    of_b = torch.logsumexp(log_b - g * rule_b.softness, -1, keepdim=True)
    return (of_a - of_b) / softness
