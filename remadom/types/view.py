"""What a bridge sees of one modality: the cells that have it and their features, made comparable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

COMPONENTS = 30
"""Principal components of a view."""


@dataclass(frozen=True, eq=False)
class View:
    """Features of one modality for the cells that have it.

    Attributes
    ----------
    name
        Name of the modality.
    cells
        Positions of its cells in the whole data set, ascending.
    features
        Cell x feature, CSR or dense, float32: counts that were made comparable between cells
        (log-normalized, TF-IDF, CLR), or features that came ready.
    names
        Name of each feature.
    ready
        Whether the features came ready: low-dimensional scores to use as they are, without selection.
    """

    name: str
    cells: np.ndarray
    features: np.ndarray | sp.csr_matrix
    names: tuple[str, ...]
    ready: bool = False

    def __len__(self) -> int:
        return len(self.cells)

    def at(self, cells: np.ndarray) -> View:
        """The same features for cells numbered otherwise; the numbers must ascend."""
        return View(self.name, cells, self.features, self.names, self.ready)

    @property
    def dense(self) -> np.ndarray:
        """Features as a dense matrix, cell x feature, float32."""
        return dense(self.features)

    @cached_property
    def scores(self) -> np.ndarray:
        """Leading principal components, cell x component, float32; ready features as they are.

        At most ``COMPONENTS``, centered; by randomized SVD with a fixed seed.
        """
        if self.ready or min(self.features.shape) <= 2:
            return self.dense
        from sklearn.decomposition import PCA

        n = min(COMPONENTS, min(self.features.shape) - 1)
        solver = "arpack" if sp.issparse(self.features) else "randomized"
        scores: np.ndarray = PCA(n, svd_solver=solver, random_state=0).fit_transform(self.features)
        return scores.astype(np.float32)


def dense(values: np.ndarray | sp.csr_matrix) -> np.ndarray:
    """The values as a dense matrix, float32."""
    return np.asarray(values if isinstance(values, np.ndarray) else values.toarray(), dtype=np.float32)
