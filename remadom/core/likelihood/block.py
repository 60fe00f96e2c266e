"""Sums of a likelihood over a block of cells x features, exact and sparse.

A block of counts is mostly zeros, and at zero every likelihood here has a cheap closed form. So the value at
zero is computed for the whole block and only the non-zeros pay for ``lgamma``::

    sum_j f(x_j) = sum_j f(0) + sum_{x_j != 0} (f(x_j) - f(0))

which is exact. Value and gradient come out of one pass (closed forms, in log space); half-precision
parameters are computed in float32. Results are nats per cell, summed over the features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from remadom.types import Rows

AT_ONCE = 2**20
"""Values of a block that a CPU works on at once: more would leave its caches."""


class Family(ABC):
    """A likelihood in unconstrained parameters: the negative log-likelihood and its gradient, elementwise."""

    regular: bool = False
    """Whether ``nonzero`` also holds at zero, so that a dense block needs one evaluation only."""

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        """Value at zero; its derivative by each parameter is written into ``grads``."""
        assert self.regular, "a likelihood of which zero is no case like others says what it is"
        like = grads[0]
        value, exact = self.nonzero(torch.empty(0), torch.zeros_like(like), *params)
        for grad, found in zip(grads, exact, strict=True):
            grad.copy_(found)
        return value

    @abstractmethod
    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Value at other values than zero (at any, if regular), and its derivative by each parameter."""

    def finish(self, grads: Sequence[Tensor]) -> None:  # noqa: B027
        """What is left to do to the gradients when all counts are in."""


def block_nll(family: Family, x: Rows | Tensor, *params: Tensor) -> Tensor:
    """Negative log-likelihood of each cell, with gradients; parameters are matrices or one number a feature."""
    rows = x if isinstance(x, Rows) else Rows.from_dense(x)
    full = [p.float() if p.dtype in (torch.float16, torch.bfloat16) else p for p in params]
    out: Tensor = _BlockNLL.apply(family, rows, *full)  # type: ignore[no-untyped-call]
    return out


class _BlockNLL(torch.autograd.Function):
    """Sum of a family's negative log-likelihood over the features of each cell.

    A parameter is a matrix (cell x feature) or a vector (feature) shared by the cells. On a CPU the cells are
    taken in parts that fit into its caches.
    """

    @staticmethod
    def forward(ctx: Any, family: Family, rows: Rows, *params: Tensor) -> Tensor:
        n_cells, like = len(rows), params[0]
        nll = like.new_empty(n_cells)
        grads = [like.new_empty(n_cells, rows.n_features) for _ in params]
        step = max(1, AT_ONCE // max(1, rows.n_features)) if like.device.type == "cpu" else max(1, n_cells)
        score = _sparse_part if rows.is_sparse else _dense_part
        for start in range(0, n_cells, step):
            cells = slice(start, min(start + step, n_cells))
            part = [p if p.dim() == 1 else p[cells] for p in params]
            nll[cells] = score(family, rows, cells, [g[cells] for g in grads], part)
        family.finish(grads)
        ctx.save_for_backward(*grads)
        ctx.shared = [p.dim() == 1 for p in params]
        return nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        each = zip(ctx.saved_tensors, ctx.shared, strict=True)
        return None, None, *(grad @ g if shared else g * grad.unsqueeze(1) for g, shared in each)


def _sparse_part(
    family: Family, rows: Rows, cells: slice, grads: Sequence[Tensor], params: Sequence[Tensor]
) -> Tensor:
    """Value of some cells of a sparse block: everything at zero, then the non-zeros in their places."""
    assert rows.indptr is not None
    assert rows.indices is not None
    whole = cells.stop - cells.start == len(rows)
    at = slice(None) if whole else slice(int(rows.indptr[cells.start]), int(rows.indptr[cells.stop]))
    of, features, flat = rows.cells[at], rows.indices[at], rows.flat[at] - cells.start * rows.n_features
    value = family.zero(cells, grads, *params)
    picked = [
        p.index_select(0, features) if p.dim() == 1 else p.reshape(-1).index_select(0, flat) for p in params
    ]
    exact, exact_grads = family.nonzero(of, rows.values[at].to(value.dtype), *picked)
    for block, at_nonzeros in zip([value, *grads], [exact, *exact_grads], strict=True):
        block.view(-1).index_copy_(0, flat, at_nonzeros)
    return value.sum(1)


def _dense_part(
    family: Family, rows: Rows, cells: slice, grads: Sequence[Tensor], params: Sequence[Tensor]
) -> Tensor:
    """Value of some cells of a dense block."""
    x = rows.values[cells].to(params[0].dtype)
    zero = None if family.regular else family.zero(cells, grads, *params)
    of = torch.arange(cells.start, cells.stop, device=x.device).unsqueeze(1)
    value, exact_grads = family.nonzero(of, x, *params)
    for grad, exact in zip(grads, exact_grads, strict=True):
        grad.copy_(exact if zero is None else torch.where(x > 0, exact, grad))
    return (value if zero is None else torch.where(x > 0, value, zero)).sum(1)
