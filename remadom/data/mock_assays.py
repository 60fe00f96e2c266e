"""How the mock assays count: from the latent position of a cell to its genes, peaks and proteins.

Every assay sees the latent axes through its own loadings, some axes better than others; a batch and a study
shift its features on the log scale; a cell has a library size and a share of ambient signal. Cells are
measured in blocks, so that no dense cell x feature matrix of the whole data set is ever made; every kind of
random number has a stream of its own that is read row by row, so that the block size changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from remadom.data.mock_cells import AXES, TYPES, Cells, Codes, Floats, place, stream

Streams = dict[str, np.random.Generator]

BLOCK_VALUES = 2**20
"""Values of a dense block of cells: it stays in the processor's cache."""


@dataclass(frozen=True)
class Regime:
    """Strength of signal and noise at a difficulty from 0 (easy) to 1 (very hard)."""

    difficulty: float

    @property
    def signal(self) -> float:
        """Factor of all biological log-effects."""
        return float(2.2 ** (1 - 2 * self.difficulty))

    @property
    def depth(self) -> float:
        """Factor of all library sizes."""
        return float(2.2 ** (1 - 2 * self.difficulty))

    @property
    def spread(self) -> float:
        """Standard deviation of the cells of a type on a latent axis (types are 2 apart)."""
        return 0.3 + 0.3 * self.difficulty

    @property
    def batch_shift(self) -> float:
        """Standard deviation of a feature's log-shift between batches."""
        return 0.1 + 0.4 * self.difficulty

    @property
    def study_shift(self) -> float:
        """Standard deviation of a feature's log-shift between studies."""
        return 1.8 * self.batch_shift

    @property
    def ambient(self) -> float:
        """Mean share of a cell's signal that is the average profile of its batch."""
        return 0.02 + 0.3 * self.difficulty

    @property
    def dropout(self) -> float:
        """Mean probability that a gene's count is lost."""
        return 0.02 + 0.2 * self.difficulty


class Assay(ABC):
    """One modality of one data set.

    Parameters
    ----------
    n_features
        Number of genes, peaks or proteins.
    studies
        Study code of each batch.
    regime
        Strength of signal and noise.
    seed
        Seed of the data set.
    """

    name: ClassVar[str]
    sees: ClassVar[dict[str, float]]
    """Strength of an axis in this assay where it is not 1."""
    loading: ClassVar[float]
    """Standard deviation of the non-zero loadings at signal 1."""

    def __init__(self, n_features: int, studies: Codes, regime: Regime, seed: int) -> None:
        self.n_features, self.regime, self.seed = n_features, regime, seed
        rng = stream(seed, self.name, "features")
        sees = np.array([[self.sees.get(axis, 1.0)] for axis in AXES])
        shape = (len(AXES), n_features)
        loadings = rng.normal(0, self.loading * regime.signal, shape) * (rng.random(shape) < 0.3)
        self.loadings = (sees * loadings).astype(np.float32)
        study = rng.normal(0, regime.study_shift, (int(studies.max()) + 1, n_features))
        batch = rng.normal(0, regime.batch_shift, (len(studies), n_features))
        self.shift = (study[studies] + batch).astype(np.float32)
        self.batch_depth = np.exp(rng.normal(0, 0.25, len(studies)))
        self.describe(rng)

    @property
    @abstractmethod
    def feature_names(self) -> npt.NDArray[np.object_]:
        """Names of the features."""

    @abstractmethod
    def describe(self, rng: np.random.Generator) -> None:
        """Draw what only this assay has."""

    @abstractmethod
    def expected(self, cells: Cells) -> Floats:
        """Mean signal of each cell (cell x feature) at library size 1, without ambient."""

    @abstractmethod
    def draw(self, mean: Floats, streams: Streams) -> Floats:
        """Counts around a mean; consecutive calls continue the streams."""

    def log_effect(self, cells: Cells) -> Floats:
        """Log-effect of biology, batch and study; summed axis by axis, so that blocks give the same bits."""
        effect = self.shift[cells.batch]
        for axis, loadings in enumerate(self.loadings):
            effect += cells.latent[:, axis, None] * loadings
        return effect

    def ambient_profiles(self, cells: Cells) -> Floats:
        """Average signal of each batch (batch x feature), from its composition."""
        kind = np.arange(len(TYPES))
        half = np.full(len(TYPES), 0.5, dtype=np.float32)
        profiles = np.empty_like(self.shift)
        for batch in range(len(profiles)):
            share = np.bincount(cells.kind[cells.batch == batch], minlength=len(TYPES)).astype(np.float32)
            typical = self.expected(Cells(kind, np.full(len(TYPES), batch), half, place(kind, half)))
            profiles[batch] = (share[:, None] * typical).sum(0) / share.sum()
        return profiles

    def measure(self, cells: Cells, block: int | None = None) -> sp.csr_matrix:
        """Counts of all cells (CSR, float32); ``block`` cells at a time, which does not change them."""
        rng = stream(self.seed, self.name, "library")
        library = self.regime.depth * self.batch_depth[cells.batch] * np.exp(rng.normal(0, 0.35, len(cells)))
        share = rng.uniform(0.5, 1.5, len(cells)) * self.regime.ambient
        own = (library * (1 - share)).astype(np.float32)[:, None]
        soup = (library * share).astype(np.float32)[:, None]
        profiles = self.ambient_profiles(cells)
        streams = {use: stream(self.seed, self.name, use) for use in ("rate", "count", "loss")}
        block = block or max(1, BLOCK_VALUES // self.n_features)
        blocks = []
        for start in range(0, len(cells), block):
            rows = slice(start, start + block)
            some = cells.take(rows)
            mean = own[rows] * self.expected(some) + soup[rows] * profiles[some.batch]
            blocks.append(sp.csr_matrix(self.draw(mean, streams), dtype=np.float32))
        return sp.csr_matrix(sp.vstack(blocks, format="csr"))


class Transcripts(Assay):
    """RNA: negative binomial counts (gamma-Poisson) with a dispersion per gene, then dropout.

    The mean number of counts grows with the square root of the number of genes.
    """

    name = "rna"
    sees: ClassVar = {"subtype_C": 0.2, "subtype_D": 1.2}
    loading = 0.45

    @property
    def feature_names(self) -> npt.NDArray[np.object_]:
        return np.array([f"gene_{i:05d}" for i in range(self.n_features)], dtype=object)

    def describe(self, rng: np.random.Generator) -> None:
        self.base = rng.normal(0, 1.0, self.n_features).astype(np.float32)
        self.theta = np.exp(rng.normal(0.7, 0.5, self.n_features)).astype(np.float32)
        self.lost = (rng.uniform(0, 2, self.n_features) * self.regime.dropout).astype(np.float32)

    def expected(self, cells: Cells) -> Floats:
        profile: Floats = np.exp(self.base + self.log_effect(cells))
        profile *= np.float32(30 * np.sqrt(self.n_features)) / profile.sum(1, keepdims=True)
        return profile

    def draw(self, mean: Floats, streams: Streams) -> Floats:
        gamma = streams["rate"].standard_gamma(np.broadcast_to(self.theta, mean.shape))
        counts = streams["count"].poisson(gamma / self.theta * mean).astype(np.float32)
        cell, gene = counts.nonzero()
        counts[cell, gene] *= streams["loss"].random(len(cell)) >= self.lost[gene]
        return counts


class Accessibility(Assay):
    """ATAC: a peak is open where at least one fragment fell: Bernoulli, ``p = 1 - exp(-mean)``.

    The mean number of fragments grows with the square root of the number of peaks.
    """

    name = "atac"
    sees: ClassVar = {"subtype_A": 0.3, "subtype_D": 0.5}
    loading = 0.6

    @property
    def feature_names(self) -> npt.NDArray[np.object_]:
        where = [(1 + i % 22, 1000 * (1 + i // 22)) for i in range(self.n_features)]
        return np.array([f"chr{c}-{start}-{start + 500}" for c, start in where], dtype=object)

    def describe(self, rng: np.random.Generator) -> None:
        self.base = rng.normal(0, 0.8, self.n_features).astype(np.float32)

    def expected(self, cells: Cells) -> Floats:
        profile: Floats = np.exp(self.base + self.log_effect(cells))
        profile *= np.float32(4 * np.sqrt(self.n_features)) / profile.sum(1, keepdims=True)
        return profile

    def draw(self, mean: Floats, streams: Streams) -> Floats:
        uniform = streams["count"].random(mean.shape, dtype=np.float32)
        return (uniform < -np.expm1(-mean)).astype(np.float32)


class Proteins(Assay):
    """ADT: Poisson; a background per protein and batch, a foreground in the types that have the protein."""

    name = "adt"
    sees: ClassVar = {"subtype_B": 0.15, "subtype_C": 0.4}
    loading = 0.25

    @property
    def feature_names(self) -> npt.NDArray[np.object_]:
        return np.array([f"protein_{i:03d}" for i in range(self.n_features)], dtype=object)

    def describe(self, rng: np.random.Generator) -> None:
        kind = np.arange(len(TYPES))
        score = place(kind, np.full(len(kind), 0.5, dtype=np.float32)) @ self.loadings
        self.on = score > rng.normal(0.1, 0.2, self.n_features)
        self.background = np.exp(rng.normal(0.8, 0.5, self.n_features)).astype(np.float32)
        fold = np.exp(rng.normal(1.2, 0.4, self.n_features) * self.regime.signal**0.5)
        self.foreground = (self.background * fold).astype(np.float32)

    def expected(self, cells: Cells) -> Floats:
        background: Floats = self.background * np.exp(self.shift[cells.batch])
        foreground: Floats = self.foreground * np.exp(self.log_effect(cells))
        return background + np.where(self.on[cells.kind], foreground, np.float32(0))

    def draw(self, mean: Floats, streams: Streams) -> Floats:
        return streams["count"].poisson(mean).astype(np.float32)


ASSAYS: dict[str, type[Assay]] = {assay.name: assay for assay in (Transcripts, Accessibility, Proteins)}
"""Assay of each modality."""
