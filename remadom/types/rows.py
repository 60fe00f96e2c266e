"""Cells x features of one modality for one batch, sparse or dense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from remadom.shapes import Float, Int

DENSE_FROM = 0.25
"""Density from which a block of rows is cheaper dense than sparse (first layer, forward and backward)."""


@dataclass(frozen=True)
class Rows:
    """Cells x features of one modality for one batch: CSR or dense, with the same methods either way.

    Parameters
    ----------
    values
        The non-zeros in CSR order (sparse), or the cell x feature matrix (dense).
    n_features
        Number of columns.
    indptr, indices
        CSR structure (int64); both ``None`` for a dense block. Within a row the indices are unique.
    columns
        The same structure by column, ``(indptr, cells, order)``: ``values[order]`` are the non-zeros in CSC
        order. Needed for the gradient of :meth:`linear`; :meth:`from_scipy` makes it off the hot path.
    """

    values: Tensor
    n_features: int
    indptr: Int[Tensor, " cells_and_one"] | None = None
    indices: Int[Tensor, " nonzero"] | None = None
    columns: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def from_scipy(cls, matrix: sp.csr_matrix | sp.csr_array) -> Rows:
        """CSR block, float32; what steps need of its structure is computed here, once."""
        matrix = sp.csr_matrix(matrix)
        position = sp.csr_matrix(
            (np.arange(1, matrix.nnz + 1, dtype=np.int64), matrix.indices, matrix.indptr), shape=matrix.shape
        ).tocsc()
        columns = (
            torch.from_numpy(position.indptr.astype(np.int64)),
            torch.from_numpy(position.indices.astype(np.int64)),
            torch.from_numpy(position.data - 1),
        )
        rows = cls(
            values=torch.from_numpy(np.ascontiguousarray(matrix.data, dtype=np.float32)),
            n_features=int(matrix.shape[1]),
            indptr=torch.from_numpy(matrix.indptr.astype(np.int64)),
            indices=torch.from_numpy(matrix.indices.astype(np.int64)),
            columns=columns,
        )
        cells = np.repeat(np.arange(len(rows)), np.diff(matrix.indptr))
        sums = np.asarray(matrix.sum(axis=1), dtype=np.float32).ravel()
        rows.__dict__.update(cells=torch.from_numpy(cells), sums=torch.from_numpy(sums))
        return rows

    @classmethod
    def from_dense(cls, matrix: np.ndarray | Tensor) -> Rows:
        """Dense block, float32 (a tensor keeps its dtype)."""
        if not isinstance(matrix, Tensor):
            matrix = torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))
        return cls(values=matrix, n_features=int(matrix.shape[1]))

    @classmethod
    def of(cls, matrix: Any) -> Rows:
        """Sparse or dense, whichever is cheaper at this density (``DENSE_FROM``)."""
        if sp.issparse(matrix):
            full = max(1, matrix.shape[0] * matrix.shape[1])
            return (
                cls.from_dense(matrix.toarray())
                if matrix.nnz / full >= DENSE_FROM
                else cls.from_scipy(matrix)
            )
        return cls.from_dense(matrix)

    def __len__(self) -> int:
        return int(self.values.shape[0] if self.indptr is None else self.indptr.shape[0] - 1)

    @property
    def is_sparse(self) -> bool:
        """Whether the block is CSR."""
        return self.indptr is not None

    @cached_property
    def cells(self) -> Int[Tensor, " nonzero"]:
        """Cell of each non-zero (sparse blocks only)."""
        assert self.indptr is not None
        cells = torch.arange(len(self), device=self.values.device)
        return torch.repeat_interleave(cells, self.indptr.diff(), output_size=self.values.shape[0])

    @cached_property
    def sums(self) -> Float[Tensor, " cell"]:
        """Sum of each cell over the features (sparse blocks only)."""
        return self.values.new_zeros(len(self)).index_add_(0, self.cells, self.values)

    @cached_property
    def flat(self) -> Int[Tensor, " nonzero"]:
        """Position of each non-zero in the flattened dense block (sparse blocks only)."""
        assert self.indices is not None
        return self.cells * self.n_features + self.indices

    def dense(self) -> Float[Tensor, "cell feature"]:
        """The block as a dense matrix."""
        if self.indptr is None:
            return self.values
        return self.dense_into(self.values.new_empty(len(self), self.n_features))

    def dense_into(self, out: Float[Tensor, "cell feature"]) -> Float[Tensor, "cell feature"]:
        """Write the block into a dense matrix, which is returned."""
        if self.indptr is None:
            return out.copy_(self.values)
        out.zero_().view(-1).index_copy_(0, self.flat, self.values)
        return out

    def scipy(self) -> sp.csr_matrix:
        """The block as a CSR matrix of SciPy, on the CPU."""
        if self.indptr is None:
            return sp.csr_matrix(self.values.cpu().numpy())
        assert self.indices is not None
        parts = (self.values, self.indices, self.indptr)
        return sp.csr_matrix(tuple(part.cpu().numpy() for part in parts), shape=(len(self), self.n_features))

    def linear(self, weight: Float[Tensor, "feature hidden"]) -> Float[Tensor, "cell hidden"]:
        """``rows @ weight``; a sparse block is not densified, and the gradient reaches ``weight``."""
        if self.indptr is None:
            return self.values.to(weight.dtype) @ weight
        out: Tensor = _SparseLinear.apply(weight, self)  # type: ignore[no-untyped-call]
        return out

    def totals(self) -> Float[Tensor, " cell"]:
        """Sum of each cell over the features."""
        return self.values.sum(1) if self.indptr is None else self.sums

    def feature_means(self) -> Float[Tensor, " feature"]:
        """Mean of each feature over the cells."""
        if self.indices is None:
            return self.values.mean(0)
        sums = self.values.new_zeros(self.n_features).index_add_(0, self.indices, self.values)
        return sums / max(1, len(self))

    def map(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """Apply an elementwise function with ``function(0) == 0``, so that sparsity survives."""
        return self._with(function(self.values))

    def scale(
        self, cells: Float[Tensor, " cell"] | None = None, features: Float[Tensor, " feature"] | None = None
    ) -> Rows:
        """Multiply by a factor per cell and / or per feature."""
        values = self.values
        if cells is not None:
            values = values * (
                cells.unsqueeze(1) if self.indptr is None else cells.index_select(0, self.cells)
            )
        if features is not None:
            values = values * (features if self.indices is None else features.index_select(0, self.indices))
        return self._with(values)

    def _with(self, values: Tensor) -> Rows:
        """The same structure with other values; what was derived from the structure is kept."""
        rows = replace(self, values=values)
        rows.__dict__.update(
            {name: self.__dict__[name] for name in ("cells", "flat") if name in self.__dict__}
        )
        return rows

    def first(self, n: int) -> Rows:
        """The first ``n`` rows, for reading: without the structure by column that a gradient needs."""
        if n == len(self):
            return self
        if self.indptr is None:
            return replace(self, values=self.values[:n])
        end = int(self.indptr[n])
        assert self.indices is not None
        return Rows(self.values[:end], self.n_features, self.indptr[: n + 1], self.indices[:end])

    def take_present(self, at: Int[Tensor, " present"]) -> Rows:
        """Rows of the cells ``at`` (ascending); every other row must be empty, as in absent cells."""
        if self.indptr is None:
            return replace(self, values=self.values[at])
        indptr = torch.cat([self.indptr[at], self.indptr[-1:]])
        renumber = self.indptr.new_zeros(len(self)).index_copy_(
            0, at, torch.arange(at.shape[0], device=at.device)
        )
        columns = self.columns
        if columns is not None:
            columns = (columns[0], renumber.index_select(0, columns[1]), columns[2])
        rows = replace(self, indptr=indptr, columns=columns)
        rows.__dict__.update(cells=renumber.index_select(0, self.cells), sums=self.sums.index_select(0, at))
        return rows

    def at_columns(self, columns: Int[Tensor, " column"]) -> Rows:
        """The block of these columns (ascending), for reading; every other column must be empty."""
        if self.indices is None:
            return Rows(self.values[:, columns], columns.shape[0])
        renumber = self.indices.new_zeros(self.n_features).index_copy_(
            0, columns, torch.arange(columns.shape[0], device=columns.device)
        )
        return Rows(self.values, columns.shape[0], self.indptr, renumber[self.indices])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Rows:
        """The same block on a device; itself if it is there."""
        if self.values.device == torch.device(device):
            return self

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        columns = (
            None
            if self.columns is None
            else tuple(c.to(device, non_blocking=non_blocking) for c in self.columns)
        )
        values = self.values.to(device, non_blocking=non_blocking)
        return Rows(values, self.n_features, move(self.indptr), move(self.indices), columns)  # type: ignore[arg-type]


def _weighted_sums(indptr: Tensor, indices: Tensor, values: Tensor, table: Tensor) -> Tensor:
    """CSR times dense: for each row the sum of ``values * table[indices]``."""
    return torch.nn.functional.embedding_bag(
        indices,
        table,
        indptr,
        mode="sum",
        per_sample_weights=values.to(table.dtype),
        include_last_offset=True,
    )


class _SparseLinear(torch.autograd.Function):
    """CSR rows times a dense weight; only the weight has a gradient (the rows are data)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Rows) -> Tensor:
        assert rows.indptr is not None
        assert rows.indices is not None
        ctx.rows = rows
        return _weighted_sums(rows.indptr, rows.indices, rows.values, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows: Rows = ctx.rows
        assert rows.columns is not None, "a sparse block needs its column structure for a gradient"
        indptr, cells, order = rows.columns
        return _weighted_sums(indptr, cells, rows.values.index_select(0, order), grad.contiguous()), None
