"""The soft minimum over the rows or columns of a cost: the one operation that Sinkhorn's iterations repeat.

For costs ``C``, log weights ``log a`` (rows) and ``log b`` (columns) and a temperature ``epsilon``::

    to_rows(g)[i]    = -epsilon log sum_j b_j exp((g_j - C_ij) / epsilon)
    to_columns(f)[j] = -epsilon log sum_i a_i exp((f_i - C_ij) / epsilon)

Three ways to compute the same numbers: from the stored matrix, from blocks of rows that are computed when
needed (memory of the samples only), and near known potentials by one product of a matrix and a vector.
Points of weight 0 (log weight -inf) add nothing; what their own potential is does not matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from remadom.solvers.kernel import LOG2_E

LOWEST = -3e38
"""Stands for the maximum of a row in which everything is forbidden, so that it can be subtracted."""


FAINT = 1e-25
"""Sum of a row of a plan below which it is not trusted: its entries underflow in float32."""


class Softmin(ABC):
    """Soft minima of one problem (or of a batch of equal shape), with the log weights of both sides."""

    def __init__(self, log_a: Tensor, log_b: Tensor) -> None:
        self.log_a, self.log_b = log_a, log_b

    @abstractmethod
    def to_rows(self, g: Tensor, epsilon: float) -> Tensor:
        """Soft minimum over the columns, of shape (..., n), for potentials ``g`` of shape (..., m)."""

    @abstractmethod
    def to_columns(self, f: Tensor, epsilon: float) -> Tensor:
        """Soft minimum over the rows, of shape (..., m), for potentials ``f`` of shape (..., n)."""


class CostSoftmin(Softmin):
    """Soft minima that know the costs themselves, and so the plan of given potentials."""

    @abstractmethod
    def largest(self) -> float:
        """Largest size of a cost that is finite."""

    @abstractmethod
    def near(self, f: Tensor, g: Tensor, shift: Tensor, epsilon: float) -> Softmin:
        """The fastest soft minima for potentials close to ``f`` and ``g`` at one temperature."""

    @abstractmethod
    def plan(self, f: Tensor, g: Tensor, epsilon: float) -> Iterator[tuple[slice, Tensor]]:
        """``a_i b_j exp((f_i + g_j - C_ij) / epsilon)`` in blocks: which rows, and their (..., rows, m)."""


def log_sum_exp2(bits: Tensor) -> Tensor:
    """``log2`` of the sum of ``2 ** bits`` over the last dimension; overwrites ``bits``."""
    most = bits.amax(-1, keepdim=True).clamp_min_(LOWEST)
    return bits.sub_(most).exp2_().sum(-1).log2_().add_(most.squeeze(-1))


def _softmin(cost: Tensor, potential: Tensor, log_weights: Tensor, epsilon: float, out: Tensor) -> Tensor:
    """Soft minimum over the last dimension of ``cost``; ``out`` is scratch space of its shape."""
    scale = LOG2_E / epsilon
    bits = (potential * scale + log_weights * LOG2_E).unsqueeze(-2)
    return log_sum_exp2(torch.add(bits, cost, alpha=-scale, out=out)).mul_(-epsilon / LOG2_E)


class DenseSoftmin(CostSoftmin):
    """From a stored cost matrix (..., n, m); ``inf`` in it forbids the pair."""

    def __init__(self, cost: Tensor, log_a: Tensor, log_b: Tensor) -> None:
        super().__init__(log_a, log_b)
        self.cost = cost
        self._scratch = torch.empty_like(cost)

    def largest(self) -> float:
        return float(self.cost.nan_to_num(posinf=0.0).abs_().amax())

    def to_rows(self, g: Tensor, epsilon: float) -> Tensor:
        return _softmin(self.cost, g, self.log_b, epsilon, self._scratch)

    def to_columns(self, f: Tensor, epsilon: float) -> Tensor:
        return _softmin(self.cost.mT, f, self.log_a, epsilon, self._scratch.mT)

    def near(self, f: Tensor, g: Tensor, shift: Tensor, epsilon: float) -> Softmin:
        plan = self._plan(f + shift, g, epsilon, self._scratch)
        faint = (plan.sum(-1) < FAINT) & (self.log_a > -torch.inf)
        faint_columns = (plan.sum(-2) < FAINT) & (self.log_b > -torch.inf)
        exact = None
        if bool(faint.any() | faint_columns.any()):
            whole = DenseSoftmin(self.cost, self.log_a, self.log_b)
            exact = whole.to_rows(g, epsilon), whole.to_columns(f, epsilon)
        return NearSoftmin(plan, f, g, shift, self.log_a, self.log_b, exact)

    def plan(self, f: Tensor, g: Tensor, epsilon: float) -> Iterator[tuple[slice, Tensor]]:
        yield slice(None), self._plan(f, g, epsilon, torch.empty_like(self.cost))

    def _plan(self, f: Tensor, g: Tensor, epsilon: float, out: Tensor) -> Tensor:
        return _plan(self.cost, f, self.log_a, g, self.log_b, epsilon, out)


def _plan(
    cost: Tensor, f: Tensor, log_a: Tensor, g: Tensor, log_b: Tensor, epsilon: float, out: Tensor
) -> Tensor:
    scale = LOG2_E / epsilon
    rows = (f * scale + log_a * LOG2_E).unsqueeze(-1)
    columns = (g * scale + log_b * LOG2_E).unsqueeze(-2)
    return torch.add(rows, columns, out=out).sub_(cost, alpha=scale).exp2_()


class NearSoftmin(Softmin):
    """Around potentials ``f0``, ``g0`` whose plan (with a ``shift`` of both) is stored: products with that plan.

    ``to_rows(g) = f0 + shift - epsilon log(plan exp((g - g0) / epsilon) / a)`` (the absorption of Schmitzer 2019,
    https://doi.org/10.1137/16M1106018); exact up to rounding while the potentials stay within a few tens of
    epsilon of those of the plan. ``exact`` are the soft minima at ``f0`` and ``g0``, for rows and columns of which
    the plan holds next to nothing.
    """

    def __init__(
        self,
        plan: Tensor,
        f0: Tensor,
        g0: Tensor,
        shift: Tensor,
        log_a: Tensor,
        log_b: Tensor,
        exact: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__(log_a, log_b)
        self._plan, self._f0, self._g0, self._shift, self._exact = plan, f0, g0, shift, exact

    def to_rows(self, g: Tensor, epsilon: float) -> Tensor:
        sums = torch.matmul(self._plan, ((g - self._g0) / epsilon).exp_().unsqueeze(-1)).squeeze(-1)
        found = self._f0 + self._shift - epsilon * (sums.log() - self.log_a)
        return found if self._exact is None else torch.where(sums < FAINT, self._exact[0], found)

    def to_columns(self, f: Tensor, epsilon: float) -> Tensor:
        sums = torch.matmul(self._plan.mT, ((f - self._f0) / epsilon).exp_().unsqueeze(-1)).squeeze(-1)
        found = self._g0 + self._shift - epsilon * (sums.log() - self.log_b)
        return found if self._exact is None else torch.where(sums < FAINT, self._exact[1], found)


class BlockSoftmin(CostSoftmin):
    """From costs that are computed block by block: memory of a block of rows, never of the matrix.

    Parameters
    ----------
    cost : callable
        ``cost(rows, columns)``: the costs of a slice of rows with a slice of columns.
    log_a, log_b : Tensor
        Log weights of shape (..., n) and (..., m).
    rows : int
        Rows (or columns) per block.
    """

    def __init__(
        self, cost: Callable[[slice, slice], Tensor], log_a: Tensor, log_b: Tensor, rows: int
    ) -> None:
        super().__init__(log_a, log_b)
        self._cost, self._rows = cost, rows

    def largest(self) -> float:
        blocks = (self._cost(rows, slice(None)) for rows in self._blocks(self.log_a))
        return max(float(block.nan_to_num_(posinf=0.0).abs_().amax()) for block in blocks)

    def to_rows(self, g: Tensor, epsilon: float) -> Tensor:
        blocks = (self._cost(rows, slice(None)) for rows in self._blocks(self.log_a))
        return torch.cat([_softmin(cost, g, self.log_b, epsilon, cost) for cost in blocks], -1)

    def to_columns(self, f: Tensor, epsilon: float) -> Tensor:
        blocks = (self._cost(slice(None), columns).mT for columns in self._blocks(self.log_b))
        return torch.cat([_softmin(cost, f, self.log_a, epsilon, cost) for cost in blocks], -1)

    def near(self, f: Tensor, g: Tensor, shift: Tensor, epsilon: float) -> Softmin:
        return self

    def plan(self, f: Tensor, g: Tensor, epsilon: float) -> Iterator[tuple[slice, Tensor]]:
        for rows in self._blocks(self.log_a):
            cost = self._cost(rows, slice(None))
            out = torch.empty_like(cost)
            yield rows, _plan(cost, f[..., rows], self.log_a[..., rows], g, self.log_b, epsilon, out)

    def _blocks(self, side: Tensor) -> Iterator[slice]:
        for start in range(0, side.shape[-1], self._rows):
            yield slice(start, start + self._rows)
