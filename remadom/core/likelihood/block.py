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
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from remadom.shapes import Float
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
        """What is left to do to the gradients of some cells when their counts are in."""


class Affine(NamedTuple):
    """A parameter ``inputs @ weight.T + bias + shift``; its values stand where its gradient will, never beside it."""

    inputs: Float[Tensor, "cell input"]
    weight: Float[Tensor, "feature input"]
    bias: Float[Tensor, " feature"]
    shift: Float[Tensor, " cell"] | None = None
    """A constant of each cell: it gets no gradient."""


def whole(param: Tensor | Affine) -> Tensor:
    """The values of a parameter."""
    if not isinstance(param, Affine):
        return param
    values = F.linear(param.inputs, param.weight, param.bias).float()
    return values if param.shift is None else values + param.shift.unsqueeze(1)


def block_nll(family: Family, x: Rows | Tensor, *params: Tensor | Affine) -> Tensor:
    """Negative log-likelihood of each cell, with gradients.

    Parameters are matrices (cell x feature), one number a feature, or an affine map of something narrower.
    """
    rows = x if isinstance(x, Rows) else Rows.from_dense(x)
    if torch.is_autocast_enabled(rows.values.device.type):  # which lowers the precision of whole layers
        params = tuple(map(whole, params))
    shifts = [p.shift if isinstance(p, Affine) else None for p in params]
    parts = [list(p[:3]) if isinstance(p, Affine) else [p] for p in params]
    full = [p.float() if p.dtype in (torch.float16, torch.bfloat16) else p for part in parts for p in part]
    form = _Form([len(part) == 3 for part in parts], shifts)
    out: Tensor = _BlockNLL.apply(family, rows, form, *full)  # type: ignore[no-untyped-call]
    return out


class _Form(NamedTuple):
    """Which of a likelihood's parameters are affine, and the shift of each."""

    affine: list[bool]
    shifts: list[Tensor | None]

    def split(self, flat: Sequence[Any]) -> list[Sequence[Any]]:
        """What belongs to each parameter: one of ``flat``, or three."""
        rest = iter(flat)
        return [[next(rest) for _ in range(3 if affine else 1)] for affine in self.affine]


class _BlockNLL(torch.autograd.Function):
    """Sum of a family's negative log-likelihood over the features of each cell.

    On a CPU the cells are taken in parts that fit into its caches.
    """

    @staticmethod
    def forward(ctx: Any, family: Family, rows: Rows, form: _Form, *flat: Tensor) -> Tensor:
        n_cells, like, params = len(rows), flat[0], form.split(flat)
        nll = like.new_empty(n_cells)
        grads = [_room(n_cells, rows.n_features, *p) for p in params]
        step = max(1, AT_ONCE // max(1, rows.n_features)) if like.device.type == "cpu" else max(1, n_cells)
        score = _sparse_part if rows.is_sparse else _dense_part
        for start in range(0, n_cells, step):
            cells = slice(start, min(start + step, n_cells))
            there = [g[cells] for g in grads]
            each = zip(there, form.shifts, params, strict=True)
            here = [_values(cells, room, shift, *p) for room, shift, p in each]
            nll[cells] = score(family, rows, cells, there, here)
            family.finish(there)
        ctx.form, ctx.shared = form, [p[0].dim() == 1 for p in params]
        ctx.save_for_backward(*grads, *(part for p in params if len(p) == 3 for part in p[:2]))
        return nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_nll: Tensor) -> tuple[Tensor | None, ...]:
        n, found = len(ctx.shared), []
        grads, layers = ctx.saved_tensors[:n], iter(ctx.saved_tensors[n:])
        needed = ctx.form.split(ctx.needs_input_grad[3:])
        for grad, shared, needs in zip(grads, ctx.shared, needed, strict=True):
            if len(needs) == 3:
                found += _of_layer(by_nll, grad, needs, next(layers), next(layers))
            else:
                found.append(by_nll @ grad if shared else grad * by_nll.unsqueeze(1))
        return None, None, None, *found


def _room(n_cells: int, n_features: int, param: Tensor, *affine: Tensor) -> Tensor:
    """Where the gradient of a parameter will stand; the values of an affine one stand there until then."""
    if not affine:
        return param.new_empty(n_cells, n_features)
    weight, bias = affine
    return torch.addmm(bias, param, weight.t())


def _values(cells: slice, room: Tensor, shift: Tensor | None, param: Tensor, *affine: Tensor) -> Tensor:
    """Values of a parameter in some cells; a vector is that of all cells."""
    if not affine:
        return param if param.dim() == 1 else param[cells]
    return room.clone() if shift is None else room + shift[cells].unsqueeze(1)


def _of_layer(
    by_nll: Tensor, grad: Tensor, needed: Sequence[bool], inputs: Tensor, weight: Tensor
) -> list[Tensor | None]:
    """Gradients of the inputs, weight and bias of an affine parameter, from its own and that of the cells' values."""
    each = by_nll.unsqueeze(1)
    return [
        (grad @ weight).mul_(each) if needed[0] else None,
        ((inputs * each).t() @ grad).t() if needed[1] else None,
        by_nll @ grad if needed[2] else None,
    ]


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
