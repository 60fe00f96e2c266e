"""A matrix of cells x features, wherever it is: rows come out as CSR float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from remadom.errors import InputError

BLOCK = 2**22
"""Values handled at once where a whole matrix is passed over."""


class Stored(ABC):
    """Cells x features of one modality.

    Whatever the storage, rows have sorted, unique column indices and no stored zeros.
    """

    shape: tuple[int, int]

    @abstractmethod
    def rows(self, index: np.ndarray) -> sp.csr_matrix:
        """Rows in the order asked, ``len(index)`` x features, float32, in arrays of their own."""

    def select(self, columns: np.ndarray) -> Stored:
        """The same matrix with these columns, in this order."""
        return Columns(self, columns)

    def close(self) -> None:  # noqa: B027
        """Close the file that it is in, if any."""


class InMemory(Stored):
    """A matrix in memory.

    Parameters
    ----------
    matrix
        As :func:`canonical` returns it.
    """

    def __init__(self, matrix: sp.csr_matrix) -> None:
        self.matrix = matrix
        self.shape = matrix.shape

    def rows(self, index: np.ndarray) -> sp.csr_matrix:
        return self.matrix[index]

    def select(self, columns: np.ndarray) -> Stored:
        selected = self.matrix[:, columns]
        selected.sort_indices()
        return InMemory(selected)


class Columns(Stored):
    """Some columns of a matrix that stays where it is."""

    def __init__(self, matrix: Stored, columns: np.ndarray) -> None:
        self.matrix = matrix
        self.columns = columns
        self.shape = (matrix.shape[0], len(columns))

    def rows(self, index: np.ndarray) -> sp.csr_matrix:
        rows = self.matrix.rows(index)[:, self.columns]
        rows.sort_indices()
        return rows

    def select(self, columns: np.ndarray) -> Stored:
        return Columns(self.matrix, self.columns[columns])

    def close(self) -> None:
        self.matrix.close()


class Projected(Stored):
    """The rows of a matrix times another one, feature x new feature."""

    def __init__(self, matrix: Stored, projection: sp.csr_matrix) -> None:
        self.matrix = matrix
        self.projection = projection
        self.shape = (matrix.shape[0], projection.shape[1])

    def rows(self, index: np.ndarray) -> sp.csr_matrix:
        rows = sp.csr_matrix(self.matrix.rows(index) @ self.projection)
        rows.sort_indices()
        rows.eliminate_zeros()
        return rows

    def close(self) -> None:
        self.matrix.close()


def in_memory(values: Any, what: str) -> InMemory:
    """Any matrix that an AnnData holds in memory; CSR float32 is shared, anything else is converted once.

    Parameters
    ----------
    values
        Sparse matrix or array of any format, dense array or data frame.
    what
        Its name in messages.

    Raises
    ------
    InputError
        The values are no numbers, not two-dimensional, or a sparse matrix that is damaged.
    """
    if isinstance(values, pd.DataFrame):
        values = values.to_numpy()
    if sp.issparse(values):
        check_numbers(values.dtype, what)
        if values.ndim != 2:
            raise _not_a_matrix(f"{values.ndim} dimensions", what)
        return InMemory(canonical(values if values.format == "csr" else _by_row(values, what), what))
    if not isinstance(values, np.ndarray):
        raise _not_a_matrix(f"a {type(values).__module__}.{type(values).__qualname__}", what)
    if values.ndim != 2:
        raise _not_a_matrix(f"{values.ndim} dimensions", what)
    check_numbers(values.dtype, what)
    step = max(1, BLOCK // max(1, values.shape[1]))
    blocks = [sparse_rows(values[at : at + step]) for at in range(0, len(values), step)]
    return InMemory(sp.vstack(blocks, format="csr") if len(blocks) > 1 else sparse_rows(values))


def sparse_rows(dense: np.ndarray) -> sp.csr_matrix:
    """CSR float32 of a dense block."""
    return sp.csr_matrix(as_float32(np.asarray(dense)))


def as_float32(values: np.ndarray) -> np.ndarray:
    """The values as float32; what does not fit becomes infinite, which ``validate_values`` refuses."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def canonical(matrix: sp.csr_matrix | sp.csr_array, what: str) -> sp.csr_matrix:
    """CSR float32 with sorted, unique indices and no stored zeros; the argument is not changed.

    Raises
    ------
    InputError
        Row pointers or column indices that no matrix of this shape can have.
    """
    indptr, indices, data = matrix.indptr, matrix.indices, matrix.data
    check_pointers(indptr, min(len(indices), len(data)), what)
    check_indices(indices[: indptr[-1]], matrix.shape[1], what)
    result = sp.csr_matrix((as_float32(data), indices, indptr), shape=matrix.shape)
    if not result.has_canonical_format or not result.data.all():
        result = result.copy()
        result.sum_duplicates()
        result.eliminate_zeros()
    return result


def check_pointers(indptr: np.ndarray, n_values: int, what: str) -> None:
    """Refuse the row (or column) pointers of a sparse matrix that is damaged."""
    if len(indptr) == 0 or indptr[0] != 0 or indptr[-1] > n_values or (np.diff(indptr) < 0).any():
        raise InputError(
            f"{what}: the pointers of the sparse matrix do not ascend from 0 to its {n_values} values; "
            "the matrix is damaged: write it again"
        )


def check_indices(indices: np.ndarray, n: int, what: str) -> None:
    """Refuse indices outside ``range(n)``."""
    if len(indices) and (indices.min() < 0 or indices.max() >= n):
        wrong = indices.min() if indices.min() < 0 else indices.max()
        raise InputError(
            f"{what}: the sparse matrix has the index {wrong}, expected 0 to {n - 1}; "
            "the matrix is damaged: write it again"
        )


def _by_row(values: sp.spmatrix, what: str) -> sp.csr_matrix:
    if values.format == "csc":
        check_pointers(values.indptr, min(len(values.indices), len(values.data)), what)
        check_indices(values.indices[: values.indptr[-1]], values.shape[0], what)
    return sp.csr_matrix(values)


def check_numbers(dtype: np.dtype, what: str) -> None:
    """Refuse values that are no real numbers."""
    if dtype.kind not in "buif":
        raise InputError(f"{what} holds values of type {dtype}, expected numbers; convert it to float32")


def _not_a_matrix(found: str, what: str) -> InputError:
    return InputError(
        f"{what} has {found}, expected a cells x features matrix in memory (numpy, scipy.sparse or pandas); "
        "convert it, for example with adata.to_memory()"
    )
