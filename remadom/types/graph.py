"""A weighted, undirected graph over cells and its Laplacian."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from remadom.shapes import Float, Int
from remadom.types.csr import among


@dataclass(frozen=True)
class SparseGraph:
    """A symmetric graph over cells with non-negative weights and no self-loop, in CSR form.

    Attributes
    ----------
    indptr, indices, weight
        CSR structure of the adjacency; within a row the indices ascend.
    degrees
        Sum of the weights of each cell. For an induced graph the sums over the *whole* graph, so that the
        normalization of an edge does not depend on which cells are looked at.
    normalized
        Whether :attr:`L` is the symmetric normalized Laplacian ``I - D^-1/2 A D^-1/2`` (Chung 1997) or the
        plain one, ``D - A``.
    """

    indptr: Int[Tensor, " cells_and_one"]
    indices: Int[Tensor, " nonzero"]
    weight: Float[Tensor, " nonzero"]
    degrees: Float[Tensor, " cell"]
    normalized: bool = False

    def __len__(self) -> int:
        return int(self.indptr.shape[0] - 1)

    @cached_property
    def rows(self) -> Int[Tensor, " nonzero"]:
        """Row of each entry of the adjacency."""
        cells = torch.arange(len(self), device=self.indices.device)
        return torch.repeat_interleave(cells, self.indptr.diff(), output_size=self.indices.shape[0])

    @cached_property
    def A(self) -> Tensor:
        """Adjacency, cell x cell, as a sparse tensor (COO: torch still warns of its CSR)."""
        return _sparse(torch.stack([self.rows, self.indices]), self.weight, len(self))

    @cached_property
    def L(self) -> Tensor:
        """Laplacian, cell x cell, as a sparse tensor; rows of the plain one sum to 0."""
        n, device = len(self), self.indices.device
        own = torch.zeros(n, device=device, dtype=self.weight.dtype).index_add_(0, self.rows, self.weight)
        weight, diagonal = -self.weight, own
        if self.normalized:
            scale = torch.where(self.degrees > 0, self.degrees, torch.inf).rsqrt()
            weight = weight * scale[self.rows] * scale[self.indices]
            diagonal = (self.degrees > 0).to(weight.dtype)
        cells = torch.arange(n, device=device)
        where = torch.stack([torch.cat([self.rows, cells]), torch.cat([self.indices, cells])])
        values = torch.cat([weight, diagonal])
        return _sparse(where, values, n)

    def to(self, device: torch.device | str) -> SparseGraph:
        """The same graph on a device."""
        return SparseGraph(
            self.indptr.to(device),
            self.indices.to(device),
            self.weight.to(device),
            self.degrees.to(device),
            self.normalized,
        )

    def induced(self, index: Int[Tensor, " cell"]) -> SparseGraph:
        """The graph among some cells, renumbered by their place in ``index`` (each cell at most once)."""
        rows, columns, at = among(self.indptr, self.indices, index)
        sort = (rows * len(index) + columns).argsort()
        counts = torch.bincount(rows, minlength=len(index))
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return SparseGraph(indptr, columns[sort], self.weight[at[sort]], self.degrees[index], self.normalized)


def _sparse(where: Tensor, values: Tensor, n: int) -> Tensor:
    return torch.sparse_coo_tensor(where, values, (n, n), check_invariants=False).coalesce()
