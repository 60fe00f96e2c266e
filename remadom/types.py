"""The values that flow through remadom: rows of counts, batches of cells, posteriors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from remadom.shapes import Bool, Float, Int

DENSE_FROM = 0.25
"""Density from which a block of rows is cheaper dense than sparse (first layer, forward and backward)."""

Logs = dict[str, Tensor]
"""Detached scalars by name, as heads and the objective report them."""


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
        """CSR block, float32; the structure by column is computed here, once."""
        matrix = sp.csr_matrix(matrix)
        position = sp.csr_matrix(
            (np.arange(1, matrix.nnz + 1, dtype=np.int64), matrix.indices, matrix.indptr), shape=matrix.shape
        ).tocsc()
        columns = (
            torch.from_numpy(position.indptr.astype(np.int64)),
            torch.from_numpy(position.indices.astype(np.int64)),
            torch.from_numpy(position.data - 1),
        )
        return cls(
            values=torch.from_numpy(np.ascontiguousarray(matrix.data, dtype=np.float32)),
            n_features=int(matrix.shape[1]),
            indptr=torch.from_numpy(matrix.indptr.astype(np.int64)),
            indices=torch.from_numpy(matrix.indices.astype(np.int64)),
            columns=columns,
        )

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
    def flat(self) -> Int[Tensor, " nonzero"]:
        """Position of each non-zero in the flattened dense block (sparse blocks only)."""
        assert self.indices is not None
        return self.cells * self.n_features + self.indices

    def dense(self) -> Float[Tensor, "cell feature"]:
        """The block as a dense matrix."""
        if self.indptr is None:
            return self.values
        out = self.values.new_zeros(len(self) * self.n_features)
        return out.index_copy_(0, self.flat, self.values).view(len(self), self.n_features)

    def linear(self, weight: Float[Tensor, "feature hidden"]) -> Float[Tensor, "cell hidden"]:
        """``rows @ weight``; a sparse block is not densified, and the gradient reaches ``weight``."""
        if self.indptr is None:
            return self.values.to(weight.dtype) @ weight
        out: Tensor = _SparseLinear.apply(weight, self)  # type: ignore[no-untyped-call]
        return out

    def totals(self) -> Float[Tensor, " cell"]:
        """Sum of each cell over the features."""
        if self.indptr is None:
            return self.values.sum(1)
        return self.values.new_zeros(len(self)).index_add_(0, self.cells, self.values)

    def feature_means(self) -> Float[Tensor, " feature"]:
        """Mean of each feature over the cells."""
        if self.indices is None:
            return self.values.mean(0)
        sums = self.values.new_zeros(self.n_features).index_add_(0, self.indices, self.values)
        return sums / max(1, len(self))

    def map(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """Apply an elementwise function with ``function(0) == 0``, so that sparsity survives."""
        return replace(self, values=function(self.values))

    def scale(
        self, cells: Float[Tensor, " cell"] | None = None, features: Float[Tensor, " feature"] | None = None
    ) -> Rows:
        """Multiply by a factor per cell and / or per feature."""
        values = self.values
        if cells is not None:
            values = values * (cells.unsqueeze(1) if self.indptr is None else cells[self.cells])
        if features is not None:
            values = values * (features if self.indices is None else features[self.indices])
        return replace(self, values=values)

    def take_present(self, at: Int[Tensor, " present"]) -> Rows:
        """Rows of the cells ``at`` (ascending); every other row must be empty, as in absent cells."""
        if self.indptr is None:
            return replace(self, values=self.values[at])
        indptr = torch.cat([self.indptr[at], self.indptr[-1:]])
        columns = None
        if self.columns is not None:
            renumber = self.indptr.new_zeros(len(self)).index_copy_(
                0, at, torch.arange(at.shape[0], device=at.device)
            )
            columns = (self.columns[0], renumber[self.columns[1]], self.columns[2])
        return replace(self, indptr=indptr, columns=columns)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Rows:
        """The same block on a device."""

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
        return _weighted_sums(indptr, cells, rows.values[order], grad.contiguous()), None


@dataclass(frozen=True)
class Batch:
    """Some cells with everything that was measured of them; a modality is a key, never a field.

    Attributes
    ----------
    x
        Measured values by modality: what the decoder is scored on. Rows of absent cells are empty.
    has
        Presence by modality: explicit, never guessed from zeros.
    library
        Size factor by modality (total of the cell; the median of the training cells where it is absent).
    groups
        Codes by obs key (``batch``, ``dataset``); -1 is no group.
    index
        Row of each cell in the whole data set.
    seed
        False for a partner drawn along an edge: encoded for the alignment terms, not scored.
    time
        Measured time, or ``None`` where the data has none.
    rep
        What the encoder reads in place of ``x`` where a modality has a representation (LSI).
    at
        Positions of the cells that have a modality, for the modalities that some cells lack.
    """

    x: Mapping[str, Rows]
    has: Mapping[str, Bool[Tensor, " cell"]]
    library: Mapping[str, Float[Tensor, " cell"]]
    groups: Mapping[str, Int[Tensor, " cell"]]
    index: Int[Tensor, " cell"]
    seed: Bool[Tensor, " cell"]
    time: Float[Tensor, " cell"] | None = None
    rep: Mapping[str, Rows] = field(default_factory=dict)
    at: Mapping[str, Int[Tensor, " present"]] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.at is None:
            partly = {m: mask.nonzero().squeeze(1) for m, mask in self.has.items() if not bool(mask.all())}
            object.__setattr__(self, "at", partly)

    def __len__(self) -> int:
        return int(self.index.shape[0])

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the data set has, whether or not a cell of this batch was measured in them."""
        return tuple(self.has)

    def encoder_rows(self, modality: str) -> Rows:
        """What the encoder of a modality reads, for the cells that have it."""
        rows = self.rep.get(modality)
        chosen: Rows = self.of_present(modality, self.x[modality] if rows is None else rows)
        return chosen

    def decoder_rows(self, modality: str) -> Rows:
        """What the decoder of a modality is scored on, for the cells that have it."""
        chosen: Rows = self.of_present(modality, self.x[modality])
        return chosen

    def of_present(self, modality: str, value: Any) -> Any:
        """Those rows of a per-cell tensor or block that belong to cells that have the modality."""
        at = self.at.get(modality)
        if at is None:
            return value
        return value.take_present(at) if isinstance(value, Rows) else value[at]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on a device."""

        def move(values: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value.to(device, non_blocking=non_blocking) for key, value in values.items()}

        time = None if self.time is None else self.time.to(device, non_blocking=non_blocking)
        moved = Batch(
            x=move(self.x),
            has=move(self.has),
            library=move(self.library),
            groups=move(self.groups),
            index=self.index.to(device, non_blocking=non_blocking),
            seed=self.seed.to(device, non_blocking=non_blocking),
            time=time,
            rep=move(self.rep),
            at=move(self.at),
        )
        return moved


class Posterior(NamedTuple):
    """Diagonal Gaussian q(z|x) per cell; a cell without the modality has ``mu = 0`` and ``logvar = inf``."""

    mu: Float[Tensor, "cell latent"]
    logvar: Float[Tensor, "cell latent"]


class Latent(NamedTuple):
    """Fused posterior and a point of it, as ``fuse()`` and ``embed()`` return them."""

    z_bio: Float[Tensor, "cell latent"]
    mu: Float[Tensor, "cell latent"]
    logvar: Float[Tensor, "cell latent"]
