"""Latent semantic indexing of peaks: TF-IDF, then a truncated singular value decomposition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.stats import rankdata

from remadom.data.normalize import tfidf
from remadom.data.sampler import Gather, blocks
from remadom.errors import InputError

DEPTH_CORRELATION = 0.5
"""|Spearman| with the depth above which the first component is left out."""

_CELLS_FOR_SVD = 50_000


@dataclass(frozen=True)
class FittedLSI:
    """Statistics of training cells that turn counts into components.

    Attributes
    ----------
    idf
        Inverse document frequency of each peak; 0 for a peak that no training cell has.
    components
        Peak x component.
    mean, scale
        Mean and standard deviation of each component over the training cells.
    center
        Mean TF-IDF value of each peak over the training cells.
    depth_correlation
        Spearman correlation with the total of the cell of every component computed, the left out one included.
    variance_ratio
        Share of the variance of the TF-IDF matrix of each component kept.
    dropped
        Number of components left out at the start (0 or 1).
    """

    idf: np.ndarray
    components: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    center: np.ndarray
    depth_correlation: np.ndarray
    variance_ratio: np.ndarray
    dropped: int

    @property
    def n_components(self) -> int:
        """Components kept."""
        return int(self.components.shape[1])

    @property
    def depth_note(self) -> str:
        """How the first component goes with the depth, in words."""
        verb = "follows" if abs(self.depth_correlation[0]) > DEPTH_CORRELATION else "does not follow"
        fate = "was left out" if self.dropped else "is kept"
        return f"component 1 {verb} depth (Spearman {self.depth_correlation[0]:.2f}) and {fate}"

    def transform(self, counts: sp.csr_matrix) -> np.ndarray:
        """Components of some cells, cell x component, float32: mean 0 and variance 1 over the training cells."""
        scores = tfidf(counts, self.idf) @ self.components
        return np.asarray((scores - self.mean) / self.scale, dtype=np.float32)

    def lacking(self, present: np.ndarray, share: float) -> FittedLSI:
        """The same for cells in which only some peaks are measured; the mean stands for the others.

        Parameters
        ----------
        present
            Whether a peak is measured.
        share
            Share of the counts of a training cell in the peaks that are.
        """
        missing = self.center[~present] @ self.components[~present]
        return replace(self, idf=self.idf * np.float32(share), mean=self.mean - missing)

    def state(self) -> dict[str, Any]:
        """Tensors and numbers only."""
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> FittedLSI:
        """The same statistics again."""
        values: dict[str, Any] = {
            name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in state.items()
        }
        values.setdefault("center", np.zeros(len(values["idf"]), np.float32))  # older models did not keep it
        return cls(**values)


def fit_lsi(
    gather: Gather, cells: np.ndarray, *, n_components: int, drop_depth: bool = True, seed: int = 0
) -> FittedLSI:
    """Fit TF-IDF and the decomposition; the width is ``n_components`` whether or not a component is left out.

    Document frequencies come from all of ``cells``; the decomposition from at most 50,000 of them,
    drawn with the seed.

    Parameters
    ----------
    gather
        Gives the counts of some cells.
    cells
        Positions of the cells to fit on.
    n_components
        Components to keep.
    drop_depth
        Leave out the first component where its Spearman correlation with the depth exceeds 0.5.
    seed
        Seed of the randomized decomposition and of the draw.

    Raises
    ------
    InputError
        Fewer cells or peaks than components; the message says the largest number possible.
    """
    totals = sum(np.asarray(rows.sum(axis=0), dtype=np.float64).ravel() for _, rows in blocks(gather, cells))
    assert isinstance(totals, np.ndarray), "no cells to fit on"
    if not totals.any():
        raise InputError(f"LSI: none of {len(totals)} peaks is open in any of {len(cells)} training cells")
    if len(cells) > _CELLS_FOR_SVD:
        drawn = np.random.default_rng(seed).choice(len(cells), _CELLS_FOR_SVD, replace=False)
        idf, cells = _idf(totals, len(cells)), cells[np.sort(drawn)]
    else:
        idf = _idf(totals, len(cells))
    counts = gather(cells)
    possible = min(counts.shape)
    _require(n_components, possible, counts.shape)

    matrix = tfidf(counts, idf)
    from sklearn.decomposition import TruncatedSVD  # takes a second to import

    svd = TruncatedSVD(min(n_components + drop_depth, possible), random_state=seed)
    scores = svd.fit_transform(matrix)
    depth = _spearman(scores, np.asarray(counts.sum(axis=1)).ravel())
    dropped = int(drop_depth and abs(depth[0]) > DEPTH_CORRELATION)
    _require(n_components, possible - dropped, counts.shape)
    kept = slice(dropped, dropped + n_components)
    scale = scores[:, kept].std(axis=0)
    return FittedLSI(
        idf=idf,
        components=np.ascontiguousarray(svd.components_[kept].T, dtype=np.float32),
        mean=scores[:, kept].mean(axis=0).astype(np.float32),
        # beyond the rank of the matrix a component is rounding noise, which must not be blown up
        center=np.asarray(matrix.mean(axis=0), dtype=np.float32).ravel(),
        scale=np.where(scale > 1e-5 * scale.max(), scale, 1.0).astype(np.float32),
        depth_correlation=depth,
        variance_ratio=svd.explained_variance_ratio_[kept],
        dropped=dropped,
    )


def _idf(totals: np.ndarray, n_cells: int) -> np.ndarray:
    idf = np.zeros(len(totals), dtype=np.float32)
    np.divide(n_cells, totals, out=idf, where=totals > 0, casting="same_kind")
    return idf


def _require(n_components: int, possible: int, shape: tuple[int, int]) -> None:
    if n_components > possible:
        raise InputError(
            f"LSI: {n_components} components asked for, at most {possible} possible with {shape[0]} training "
            f"cells and {shape[1]} peaks; set data.preprocess.atac.lsi.n_components to {possible} or less"
        )


def _spearman(scores: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Rank correlation of each column with the depth; 0 where either is constant."""
    ranks = rankdata(scores, axis=0)
    ranks = ranks - ranks.mean(axis=0)
    reference = rankdata(depth)
    reference = reference - reference.mean()
    norm = np.sqrt((ranks**2).sum(axis=0) * (reference**2).sum())
    rho = np.zeros(scores.shape[1])
    np.divide(reference @ ranks, norm, out=rho, where=norm > 0)
    return rho
