"""Matrices that stay in a file: the rows asked for are read, never the whole matrix."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from remadom.data.files import DataFile, Node
from remadom.data.stored import (
    BLOCK,
    InMemory,
    Stored,
    as_float32,
    canonical,
    check_indices,
    check_numbers,
    check_pointers,
    sparse_rows,
)
from remadom.errors import InputError


class OnDisk(Stored):
    """A matrix in a file.

    Parameters
    ----------
    file
        The file.
    where
        Path of the matrix in it.
    node
        The matrix itself, while the file is being read.
    """

    def __init__(self, file: DataFile, where: str, node: Node) -> None:
        self.file = file
        self.where = where
        self.what = f"{file.path}: {where}"

    def rows(self, index: np.ndarray) -> sp.csr_matrix:
        wanted, back = np.unique(index, return_inverse=True)
        with self.file.reading() as root:
            rows = self._read(root[self.where], wanted)
        return rows if np.array_equal(wanted, index) else rows[back]

    def close(self) -> None:
        self.file.close()

    def load(self) -> InMemory:
        """The whole matrix."""
        with self.file.reading() as root:
            return InMemory(self._load(root[self.where]))

    @abstractmethod
    def _read(self, node: Node, wanted: np.ndarray) -> sp.csr_matrix:
        """Rows ``wanted``, which ascend and differ."""

    @abstractmethod
    def _load(self, node: Node) -> sp.csr_matrix: ...


class DenseOnDisk(OnDisk):
    """A dense array."""

    def __init__(self, file: DataFile, where: str, node: Node) -> None:
        super().__init__(file, where, node)
        if len(node.shape) != 2:
            raise InputError(f"{self.what} has {len(node.shape)} dimensions, expected cells x features")
        check_numbers(node.dtype, self.what)
        self.shape = (int(node.shape[0]), int(node.shape[1]))

    def _read(self, node: Node, wanted: np.ndarray) -> sp.csr_matrix:
        blocks = []
        most = max(1, BLOCK // max(1, self.shape[1]))
        for first, last in _runs(wanted, wanted + 1, _chunk(node, otherwise=16), most):
            at = wanted[first:last]
            blocks.append(sparse_rows(node[int(at[0]) : int(at[-1]) + 1][at - at[0]]))
        return (
            sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix((0, self.shape[1]), dtype=np.float32)
        )

    def _load(self, node: Node) -> sp.csr_matrix:
        return self._read(node, np.arange(self.shape[0]))


class SparseOnDisk(OnDisk):
    """A compressed sparse matrix; its pointers are kept in memory, as int64."""

    major: int
    """Axis that the pointers run over."""

    def __init__(self, file: DataFile, where: str, node: Node) -> None:
        super().__init__(file, where, node)
        shape = node.attrs.get("shape", ())
        if len(shape) != 2 or not {"data", "indices", "indptr"} <= set(node):
            raise InputError(
                f"{self.what} is not a whole sparse matrix (it has {sorted(node)}); write it again"
            )
        self.shape = (int(shape[0]), int(shape[1]))
        check_numbers(node["data"].dtype, self.what)
        if node["indices"].dtype.kind not in "iu" or node["indptr"].dtype.kind not in "iu":
            raise InputError(
                f"{self.what}: the indices are no integers; the matrix is damaged: write it again"
            )
        self.indptr = node["indptr"][:].astype(np.int64)
        check_pointers(self.indptr, min(node["data"].shape[0], node["indices"].shape[0]), self.what)
        if len(self.indptr) != self.shape[self.major] + 1:
            raise InputError(
                f"{self.what} has {len(self.indptr)} pointers, expected {self.shape[self.major] + 1} for its "
                f"shape {self.shape}; the matrix is damaged: write it again"
            )

    def _indices(self, node: Node, start: int, end: int) -> np.ndarray:
        """Indices along the other axis, checked."""
        indices: np.ndarray = node["indices"][start:end]
        n = self.shape[1 - self.major]
        check_indices(indices, n, self.what)
        return indices.astype(np.int32 if n < 2**31 else np.int64, copy=False)

    def _whole(self, node: Node) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n_values = int(self.indptr[-1])
        return as_float32(node["data"][:n_values]), self._indices(node, 0, n_values), self.indptr


class RowsOnDisk(SparseOnDisk):
    """CSR."""

    major = 0

    def _read(self, node: Node, wanted: np.ndarray) -> sp.csr_matrix:
        start, end = self.indptr[wanted], self.indptr[wanted + 1]
        indptr = np.concatenate([[0], np.cumsum(end - start)])
        data = np.empty(indptr[-1], dtype=np.float32)
        indices = np.empty(indptr[-1], dtype=np.int32 if self.shape[1] < 2**31 else np.int64)
        for first, last in _runs(start, end, _chunk(node["data"], otherwise=4096), BLOCK):
            low, high = int(start[first]), int(end[last - 1])
            into = slice(indptr[first], indptr[last])
            length = np.diff(indptr[first : last + 1])
            take = np.arange(into.stop - into.start) + np.repeat(
                start[first:last] - low - (indptr[first:last] - into.start), length
            )
            data[into] = as_float32(node["data"][low:high])[take]
            indices[into] = self._indices(node, low, high)[take]
        return canonical(
            sp.csr_matrix((data, indices, indptr), shape=(len(wanted), self.shape[1])), self.what
        )

    def _load(self, node: Node) -> sp.csr_matrix:
        return canonical(sp.csr_matrix(self._whole(node), shape=self.shape), self.what)


class ColumnsOnDisk(SparseOnDisk):
    """CSC: every read passes over the whole matrix, in blocks."""

    major = 1

    def _read(self, node: Node, wanted: np.ndarray) -> sp.csr_matrix:
        place = np.full(self.shape[0], -1)
        place[wanted] = np.arange(len(wanted))
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for low in range(0, int(self.indptr[-1]), BLOCK):
            high = min(low + BLOCK, int(self.indptr[-1]))
            at = place[self._indices(node, low, high)]
            hit = np.flatnonzero(at >= 0)
            column = np.searchsorted(self.indptr, low + hit, side="right") - 1
            found.append((as_float32(node["data"][low:high])[hit], at[hit], column))
        shape = (len(wanted), self.shape[1])
        if not found:
            return sp.csr_matrix(shape, dtype=np.float32)
        values, rows, columns = (np.concatenate([part[i] for part in found]) for i in range(3))
        return canonical(sp.csr_matrix((values, (rows, columns)), shape=shape), self.what)

    def _load(self, node: Node) -> sp.csr_matrix:
        return canonical(sp.csc_matrix(self._whole(node), shape=self.shape).tocsr(), self.what)


def on_disk(file: DataFile, where: str) -> OnDisk:
    """The matrix at a path of a file, dense or sparse.

    Raises
    ------
    InputError
        There is something else, or it is damaged.
    """
    with file.reading() as root:
        node = root[where]
        if hasattr(node, "shape"):
            return DenseOnDisk(file, where, node)
        encoding = node.attrs.get("encoding-type", "")
        if encoding == "csr_matrix":
            return RowsOnDisk(file, where, node)
        if encoding == "csc_matrix":
            return ColumnsOnDisk(file, where, node)
    raise InputError(
        f"{file.path}: {where} is {encoding or 'a group of unknown kind'}, expected an array, a csr_matrix or a "
        "csc_matrix; write the file again with anndata >= 0.8"
    )


def _chunk(array: Node, *, otherwise: int) -> int:
    """Entries along the first axis that are read together anyway."""
    chunks: tuple[int, ...] | None = array.chunks
    return chunks[0] if chunks else otherwise


def _runs(start: np.ndarray, end: np.ndarray, gap: int, most: int) -> Iterator[tuple[int, int]]:
    """Split ascending ranges into runs that are each read at once.

    Parameters
    ----------
    start, end
        The ranges.
    gap
        Ranges that are at most this far apart are read together.
    most
        Length at which a run ends, unless it is one range.

    Yields
    ------
    tuple
        First range of the run and the one after its last.
    """
    starts, ends, first = start.tolist(), end.tolist(), 0
    for k in range(1, len(starts)):
        if starts[k] - ends[k - 1] > gap or ends[k] - starts[first] > max(gap, most):
            yield first, k
            first = k
    if starts:
        yield first, len(starts)
