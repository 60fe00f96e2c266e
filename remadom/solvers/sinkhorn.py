"""Sinkhorn's algorithm in the log domain, with annealing, over-relaxation and matrix-vector iterations.

The dual potentials of entropic optimal transport are found by turns: one side's best potential given the other's.
The first turns run at a falling temperature with full soft minima; the rest at the target temperature with
products of a matrix and a vector around the last full soft minima (:class:`~remadom.solvers.softmin.NearSoftmin`),
renewed when the potentials have moved too far. No autograd graph is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from remadom.solvers.marginals import MarginalRule, translation
from remadom.solvers.softmin import CostSoftmin, Softmin

BLOCK = 5
"""Iterations between two looks at the error."""

WARM = 32.0
"""Annealing starts where the largest cost is this many temperatures: all pairs still see each other."""

DRIFT = 20.0
"""Temperatures that the potentials may move before the stored plan is renewed (its entries span e^-87 to 1)."""

NEAR = 0.05
"""Marginal error below which over-relaxation may start."""

FASTEST = 1.95
"""Largest over-relaxation."""

WORSE = 3.0
"""Growth of the error in a block, more than its usual swing under over-relaxation, at which that is reduced."""


@dataclass(frozen=True)
class Duals:
    """Potentials of a solved problem: the plan is ``a_i b_j exp((f_i + g_j + shift - C_ij) / epsilon)``.

    Attributes
    ----------
    f, g : Tensor
        Potentials of shape (..., n) and (..., m), in units of the cost; 0 where the weight is 0.
    shift : Tensor
        Multiplier of the total mass (partial transport), of shape (..., 1) or scalar.
    value : Tensor
        Dual value, of shape (...): a lower bound of the cost, wrong by the square of the potentials' error.
    marginal_error : float
        L1 distance of the plan's row sums from what the marginal rule asks, relative to ``a``'s mass; the
        worst of the batch.
    iterations : int
        Turns of both sides.
    converged : bool
        Whether the error is at most the tolerance.
    """

    f: Tensor
    g: Tensor
    shift: Tensor
    value: Tensor
    marginal_error: float
    iterations: int
    converged: bool


class _State(NamedTuple):
    f: Tensor
    g: Tensor
    shift: Tensor


class Sinkhorn:
    """One problem, and how its potentials are found.

    Parameters
    ----------
    softmin : CostSoftmin
        Costs and weights.
    rule_a, rule_b : MarginalRule
        What the plan owes to the rows and to the columns.
    symmetric : bool
        Both samples are the same: one potential, moved half way to its update each time, which converges at a
        rate of 1/2 or better whatever epsilon is (Feydy et al. 2019, https://arxiv.org/abs/1810.08278).
    """

    def __init__(
        self, softmin: CostSoftmin, rule_a: MarginalRule, rule_b: MarginalRule, symmetric: bool = False
    ) -> None:
        self._softmin, self._rule_a, self._rule_b, self._symmetric = softmin, rule_a, rule_b, symmetric
        self._a, self._b = softmin.log_a.exp(), softmin.log_b.exp()
        self._counts_a, self._counts_b = self._a > 0, self._b > 0

    @torch.no_grad()
    def solve(self, epsilon: float, *, largest: float, scaling: float, tol: float, max_iter: int) -> Duals:
        """Potentials at temperature ``epsilon``.

        ``largest`` is the largest cost, from which the annealing starts; ``scaling ** 2`` is the ratio of successive
        temperatures.
        """
        state = _State(torch.zeros_like(self._a), torch.zeros_like(self._b), self._a.new_zeros(()))
        temperatures = [epsilon] if self._symmetric else _annealing(largest, epsilon, scaling)
        for temperature in temperatures:
            state = self._turn(self._softmin, state, temperature, 1.0)
        iterations, relaxation, last = len(temperatures), 1.0, math.inf
        reference, softmin = state, self._softmin.near(*state, epsilon)
        while True:
            error, mass = self._error(softmin, state, epsilon)
            if error <= tol or iterations >= max_iter:
                break
            relaxation = self._relaxation(relaxation, error, last)
            before, last = state, error
            for _ in range(BLOCK):
                state = self._turn(softmin, state, epsilon, relaxation)
            iterations += BLOCK
            drift = _distance(state, reference) / epsilon
            if softmin is not self._softmin and not drift <= DRIFT:
                start = state if math.isfinite(drift) else before
                state = reference = self._turn(self._softmin, start, epsilon, 1.0)
                softmin = self._softmin.near(*state, epsilon)
                relaxation, last = 1.0, math.inf
        of_mass = self._a.sum(-1) * self._b.sum(-1) - mass
        value = self._rule_a.value(state.f, self._a) + self._rule_b.value(state.g, self._b)
        value = value + self._rule_a.shift_value(state.shift) + epsilon * of_mass
        return Duals(*state, value, error, iterations, error <= tol)

    def _turn(self, softmin: Softmin, state: _State, epsilon: float, relaxation: float) -> _State:
        """Both sides once; for one and the same sample, its potential half way (more could overflow the plan)."""
        h = torch.where(self._counts_a, softmin.to_rows(state.g, epsilon), 0.0)
        f, shift = self._rule_a.update(h, softmin.log_a, epsilon)
        f = torch.lerp(state.f, f, 0.5 if self._symmetric else relaxation)
        if self._symmetric:
            return _State(f, f, shift)
        h = torch.where(self._counts_b, softmin.to_columns(f, epsilon), 0.0)
        g, shift = self._rule_b.update(h, softmin.log_b, epsilon)
        g = torch.lerp(state.g, g, relaxation)
        moved = translation(self._rule_a, self._rule_b, f, g, softmin.log_a, softmin.log_b)
        return _State(f + moved, g - moved, shift)

    def _error(self, softmin: Softmin, state: _State, epsilon: float) -> tuple[float, Tensor]:
        """How far the row sums are from the rule's, relative to the mass; and the plan's mass."""
        h = torch.where(self._counts_a, softmin.to_rows(state.g, epsilon), 0.0)
        best, shift = self._rule_a.update(h, softmin.log_a, epsilon)
        found = ((state.f + state.shift - h) / epsilon + softmin.log_a).exp()
        asked = self._rule_a.sums(best, shift, h, self._a, epsilon)
        error = (found - asked).abs().sum(-1) / self._a.sum(-1)
        return float(error.max()), found.sum(-1)

    def _relaxation(self, now: float, error: float, last: float) -> float:
        """Over-relaxation for the rate of convergence seen in the last block (Young's formula for SOR).

        Thibault et al. 2021, https://doi.org/10.3390/a14050143. None far from the solution, where it could diverge.
        """
        relaxable = self._rule_a.relaxable and self._rule_b.relaxable and not self._symmetric
        if not relaxable or error > NEAR or math.isinf(last):
            return 1.0
        if error > WORSE * last:
            return 1 + (now - 1) / 2
        rate = min((error / last) ** (1 / BLOCK), 1.0)
        if rate <= now - 1:
            return now
        plain = min((rate + now - 1) ** 2 / (rate * now**2), 1.0)
        return min(max(now, 2 / (1 + math.sqrt(1 - plain))), FASTEST)


def _distance(state: _State, reference: _State) -> float:
    moved = torch.maximum((state.f - reference.f).abs().max(), (state.g - reference.g).abs().max())
    return float(moved)


def _annealing(largest: float, epsilon: float, scaling: float) -> list[float]:
    temperatures = []
    temperature = largest / WARM
    while temperature > epsilon:
        temperatures.append(temperature)
        temperature *= scaling**2
    return [*temperatures, epsilon]
