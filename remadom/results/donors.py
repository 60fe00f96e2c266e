"""Measured values of training cells that stand for those of cells like them, beside what the decoder expects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch

from remadom.config.build import Assembly
from remadom.core.vae import MosaicVAE
from remadom.eval.scales import Scale, scale_of
from remadom.results.places import NEIGHBORS, Places, Space, axes_of, places_of
from remadom.types import Batch
from remadom.utils.seed import derive

MOST = 20_000
"""Most cells that give their values."""
VALUES = 8_000_000
"""Most non-zero values that they have together."""


@dataclass(frozen=True, eq=False)
class Donors:
    """Training cells that have a modality, found by their others.

    A cell's values are the mean over its ``NEIGHBORS`` nearest donors by the hidden layers of the modalities that it
    has, and over those by their principal components (each modality scaled to one variance), half and half.

    Attributes
    ----------
    places
        Of the donors by modality; NaN for donors without it.
    axes
        Feature x component by modality.
    values
        Donor x feature, on the ``scale``; of counts at the depth ``total``, where that is given.
    scale
        On which they are averaged.
    total
        Depth, where the decoder scales with that of the cell.
    weight
        Share of the donors in what is expected of a cell, on the scale; the decoder has the rest.
    batch
        Code of the batch of each donor; not kept with the run.
    totals
        Total of each donor, where ``total`` is given.
    """

    places: Mapping[str, Places]
    axes: Mapping[str, np.ndarray]
    values: sp.csr_matrix
    scale: Scale
    total: float | None
    weight: float = 0.5
    batch: np.ndarray | None = None
    totals: np.ndarray | None = None

    @classmethod
    def of(cls, assembly: Assembly, modality: str) -> Donors | None:
        """Donors of a modality among the training cells that have it and another one; ``None`` with too few of them."""
        source, train = assembly.source, assembly.split.train
        others = [m for m in assembly.model.encoders if m != modality and m in source.modalities]
        linked = np.any([source.has[m] for m in others], axis=0) if others else np.zeros(source.n_cells, bool)
        cells = train[(source.has[modality] & linked)[train]]
        decoder = assembly.model.decoder(modality)
        if len(cells) < 2 * NEIGHBORS or not decoder.scores_zeros:
            return None
        rng = np.random.default_rng(derive(assembly.config.optim.seed, f"donors.{modality}"))
        cells = np.sort(rng.permutation(cells)[:MOST])
        nonzeros = source.rows(modality, cells[:1000]).nnz / len(cells[:1000])
        cells = np.sort(rng.permutation(cells)[: max(2 * NEIGHBORS, int(VALUES / max(1.0, nonzeros)))])
        scale = scale_of(decoder.support)
        scales = getattr(decoder, "library", False) and decoder.support == "counts"
        total = assembly.prepared.library[modality] if scales else None
        values, totals = source.rows(modality, cells), None
        if total is not None:
            totals = np.maximum(np.asarray(values.sum(axis=1)).ravel(), 1).astype(np.float32)
            values = sp.csr_matrix(sp.diags(total / totals) @ values)
        values.data = scale.to(values.data).astype(np.float32)
        axes = {m: axes_of(assembly, m, cells[source.has[m][cells]]) for m in others}
        places = places_of(assembly.model, assembly.loader(cells), axes)
        batch = assembly.groups["batch"][0][cells]
        return cls(places, axes, values, scale, total, batch=batch, totals=totals)

    def without_batch(self, code: int) -> Donors:
        """The donors of the other batches."""
        assert self.batch is not None, "donors that were read from a file have no batches"
        kept = np.flatnonzero(self.batch != code)
        places = {m: part.among(kept) for m, part in self.places.items()}
        totals = None if self.totals is None else self.totals[kept]
        return replace(self, places=places, values=self.values[kept], batch=self.batch[kept], totals=totals)

    def expected(self, places: Mapping[str, Places], library: np.ndarray | None) -> np.ndarray:
        """Values of cells, cell x feature; NaN for cells that no donor is like.

        Parameters
        ----------
        places
            Of the cells by modality.
        library
            Totals of the cells, where the decoder scales with them.
        """
        out = self.scale.back(self._of_alike(places)[:, : self.values.shape[1]])
        if self.total is not None and library is not None:
            out *= (library / self.total)[:, None].astype(np.float32)
        return out

    def depths(self, places: Mapping[str, Places]) -> np.ndarray:
        """Totals of cells, the geometric mean of those of their donors; NaN where nothing tells."""
        if self.totals is None:
            return np.full(len(next(iter(places.values())).hidden), np.nan, dtype=np.float32)
        found: np.ndarray = np.exp(self._of_alike(places)[:, -1])
        return found

    def _of_alike(self, places: Mapping[str, Places]) -> np.ndarray:
        """Means over the donors that cells are like, see :meth:`_alike`; NaN for cells that no donor is like."""
        names = [m for m in places if m in self.places]
        n = len(next(iter(places.values())).hidden)
        out = np.full((n, self._told.shape[1]), np.nan, dtype=np.float32)
        if not names:
            return out
        code = sum(places[m].known.astype(np.int64) << bit for bit, m in enumerate(names))
        for pattern in np.unique(code):
            having = [m for bit, m in enumerate(names) if pattern >> bit & 1]
            if not having:
                continue
            cells = np.flatnonzero(code == pattern)
            found = self._alike(having, {m: places[m].among(cells) for m in having})
            if found is not None:
                out[cells] = found
        return out

    @cached_property
    def _told(self) -> sp.csr_matrix:
        """Donor x feature on the scale, and the log of the donor's total in the last column, where it is known."""
        if self.totals is None:
            return self.values
        return sp.hstack([self.values, np.log(self.totals)[:, None]], format="csr", dtype=np.float32)

    def mixed(self, decoded: np.ndarray, donated: np.ndarray) -> np.ndarray:
        """What is expected of cells by the decoder and by the donors; by the decoder where there are none."""
        both = (1 - self.weight) * self.scale.to(decoded) + self.weight * self.scale.to(donated)
        mixed: np.ndarray = np.where(np.isnan(donated), decoded, self.scale.back(both))
        return mixed

    def weighed(self, decoded: np.ndarray, donated: np.ndarray, truth: np.ndarray) -> Donors:
        """The same with the weight, 0 to 1, that has the least squared error on cells whose values are known."""
        a, b, y = (self.scale.to(at_depth(values, truth, self.scale)) for values in (decoded, donated, truth))
        known = np.isfinite(b) & np.isfinite(y)
        apart = (b - a)[known]
        square = float((apart**2).sum())
        best = float((apart * (y - a)[known]).sum()) / square if square > 0 else 0.0
        return replace(self, weight=float(np.clip(best, 0.0, 1.0)))

    def _alike(self, having: list[str], places: Mapping[str, Places]) -> np.ndarray | None:
        """Mean of what the donors nearest to cells that have these modalities tell."""
        key = tuple(having)
        if key not in self._having:
            self._having[key] = self._those_with(key)
        found = self._having[key]
        if found is None:
            return None
        told, by_hidden, by_components = found
        nearest = by_hidden.nearest([places[m].hidden for m in having])
        nearest += by_components.nearest([places[m].components for m in having])
        mean: np.ndarray = (nearest @ told).toarray() / 2
        return mean

    @cached_property
    def _having(self) -> dict[tuple[str, ...], tuple[sp.csr_matrix, Space, Space] | None]:
        """What :meth:`_those_with` found, by modalities: cells come in many blocks."""
        return {}

    def _those_with(self, modalities: tuple[str, ...]) -> tuple[sp.csr_matrix, Space, Space] | None:
        """What donors that have these modalities tell, and the spaces in which they lie; ``None`` for too few."""
        donors = np.flatnonzero(np.all([self.places[m].known for m in modalities], axis=0))
        if len(donors) < NEIGHBORS:
            return None
        theirs = [self.places[m].among(donors) for m in modalities]
        spaces = Space([place.hidden for place in theirs]), Space([place.components for place in theirs])
        return self._told[donors], *spaces


def at_depth(values: np.ndarray, truth: np.ndarray, scale: Scale) -> np.ndarray:
    """Values at the totals of the true ones, where that is how they are compared."""
    if not scale.depth:
        return values
    totals = np.nansum(truth, axis=1, keepdims=True) / np.maximum(values.sum(1, keepdims=True), 1e-12)
    scaled: np.ndarray = values * totals
    return scaled


def donated(
    donors: Donors, model: MosaicVAE, loader: Iterable[Batch], modality: str, totals: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """What donors give to the cells of each batch, cell x feature; NaN for cells that have the modality.

    Parameters
    ----------
    donors
        Of the modality.
    model
        Trained.
    loader
        Cells.
    modality
        Which.
    totals
        One for every cell of the source, in place of the cell's own.
    """
    for batch in loader:
        library = (
            batch.library.get(modality) if totals is None else torch.from_numpy(totals[batch.index.numpy()])
        )
        places = places_of(model, [batch], donors.axes)
        found = donors.expected(places, None if library is None else library.numpy())
        if modality in batch.has:
            found[batch.has[modality].numpy()] = np.nan
        yield found


def depths(
    donors: Donors, model: MosaicVAE, loader: Iterable[Batch], modality: str, n_cells: int
) -> np.ndarray | None:
    """Total at which each of the loader's cells is predicted: its own, or what its donors have where it has none.

    One for each of the ``n_cells`` of the source, 1 for those that do not come; ``None`` where the decoder does not
    scale with it, or the donors do not tell.
    """
    if donors.totals is None or donors.total is None:
        return None
    found = np.ones(n_cells, dtype=np.float32)
    for batch in loader:
        lacking = np.ones(len(batch), dtype=bool)
        if modality in batch.has:
            lacking = ~batch.has[modality].numpy()
        own = batch.library.get(modality)
        totals = np.full(len(batch), donors.total, np.float32) if own is None else own.numpy().copy()
        if lacking.any():
            told = donors.depths(places_of(model, [batch], donors.axes))
            known = lacking & np.isfinite(told)
            totals[known] = told[known]
        found[batch.index.numpy()] = totals
    return found
