"""The library's own solver of transport problems: potentials by Sinkhorn, derivatives by the envelope theorem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from remadom.errors import InputError
from remadom.solvers.kernel import cost_pull
from remadom.solvers.marginals import Balanced, MarginalRule, Partial, Unbalanced
from remadom.solvers.sinkhorn import Sinkhorn
from remadom.solvers.softmin import BlockSoftmin, CostSoftmin, DenseSoftmin
from remadom.solvers.transport import Backend, Problem, Transport, TransportInfo

DENSE_PAIRS = 2**24
"""Pairs up to which the cost matrix is stored (64 MiB in float32, three of that size at a time)."""

BLOCK_PAIRS = 2**21
"""Pairs per block beyond that."""

RESOLUTION = 16.0
"""Roundings of the largest cost that epsilon must exceed, or the potentials could not express the plan."""


class NativeBackend(Backend):
    """Solves everything; see :class:`~remadom.solvers.ot.OtSolver` for the parameters."""

    def __init__(self, *, max_iter: int, tol: float, scaling: float, chunk_size: int | None) -> None:
        self.max_iter, self.tol, self.scaling, self.chunk_size = max_iter, tol, scaling, chunk_size

    @torch.no_grad()
    def transport(self, problem: Problem, *, slopes: bool, plan: bool) -> Transport:
        solved, lost = _without_unreachable(problem)
        log_a, log_b = solved.a.log(), solved.b.log()
        softmin = self._softmin(solved, log_a, log_b)
        symmetric = problem.x is problem.y and problem.a is problem.b
        sinkhorn = Sinkhorn(softmin, *_rules(problem), symmetric)
        largest = softmin.largest()
        epsilon = max(problem.epsilon, RESOLUTION * torch.finfo(log_a.dtype).eps * largest)
        duals = sinkhorn.solve(
            epsilon, largest=largest, scaling=self.scaling, tol=self.tol, max_iter=self.max_iter
        )

        def blocks() -> Iterator[tuple[slice, Tensor]]:
            return softmin.plan(duals.f + duals.shift, duals.g, epsilon)

        coupling = torch.cat([block for _, block in blocks()], -2) if plan else None
        slope_x, slope_y = torch.zeros_like(solved.x), torch.zeros_like(solved.y)
        if slopes:
            whole = iter([(slice(None), coupling)]) if coupling is not None else blocks()
            for rows, block in whole:
                of_rows, of_columns = cost_pull(block, solved.x[..., rows, :], solved.y, solved.metric)
                slope_x[..., rows, :] = of_rows
                slope_y += of_columns
        info = TransportInfo(duals.converged, duals.iterations, duals.marginal_error, coupling)
        return Transport(duals.value + lost, slope_x, slope_y, info)

    def _softmin(self, problem: Problem, log_a: Tensor, log_b: Tensor) -> CostSoftmin:
        n, m = log_a.shape[-1], log_b.shape[-1]
        rows = self.chunk_size
        if rows is None:
            side, batch = max(n, m), log_a.numel() // n
            rows = side if batch * n * m <= DENSE_PAIRS else max(1, BLOCK_PAIRS // (batch * side))
        if rows >= max(n, m):
            return DenseSoftmin(problem.cost(), log_a, log_b)
        return BlockSoftmin(problem.cost, log_a, log_b, rows)


def _rules(problem: Problem) -> tuple[MarginalRule, MarginalRule]:
    if problem.share is not None:
        return Partial(problem.mass()), Partial(problem.mass())
    rule_a, rule_b = (Balanced() if rho is None else Unbalanced(rho) for rho in problem.rho)
    return rule_a, rule_b


def _without_unreachable(problem: Problem) -> tuple[Problem, Tensor]:
    """The problem without the points that the mask cuts off, and what leaving them out costs.

    Points with mass and no allowed partner have no finite potential. Where their mass must be transported that
    is an error; else it stays where it is.
    """
    none = problem.a.new_zeros(())
    if problem.mask is None:
        return problem, none
    allowed = (problem.mask > 0) & (problem.a > 0).unsqueeze(-1) & (problem.b > 0).unsqueeze(-2)
    a = torch.where(allowed.any(-1), problem.a, 0.0)
    b = torch.where(allowed.any(-2), problem.b, 0.0)
    cut_a, cut_b = (problem.a - a).sum(-1), (problem.b - b).sum(-1)
    if problem.share is not None:
        reachable, mass = torch.minimum(a.sum(-1), b.sum(-1)), problem.mass()
        if bool((mass > reachable * (1 + 1e-6)).any()):
            raise InputError(
                f"the mask leaves partners to {float(reachable.min()):.3g} of the mass, and mass asks for "
                f"{float(mass.max()):.3g}; lower mass, use reach, or allow more pairs"
            )
    lost = none
    for cut, rho, name in ((cut_a, problem.rho[0], "rows"), (cut_b, problem.rho[1], "columns")):
        if rho is not None:
            lost = lost + rho * cut
        elif problem.share is None and bool((cut > 0).any()):
            raise InputError(
                f"the mask forbids every partner of some {name} whose mass must be transported; give reach or "
                "mass so that mass may stay, or a small positive value instead of 0"
            )
    before, after = problem.a.sum(-1) * problem.b.sum(-1), a.sum(-1) * b.sum(-1)
    return replace(problem, a=a, b=b), lost + problem.epsilon * (before - after)
