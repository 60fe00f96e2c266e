"""Measured values of training cells that stand for those of cells like them, beside what the decoder expects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.decomposition import TruncatedSVD

from remadom.config.build import Assembly
from remadom.config.trained import Trained
from remadom.core.vae import MosaicVAE
from remadom.data.stored import canonical
from remadom.eval.scales import Scale, scale_of
from remadom.solvers.ann import AnnIndex
from remadom.types import Batch
from remadom.utils.outputs import DONORS, RunDir
from remadom.utils.portable import is_portable, read_portable
from remadom.utils.seed import derive

NEIGHBORS = 30
COMPONENTS = 30
MOST = 20_000
"""Most cells that give their values."""
VALUES = 8_000_000
"""Most non-zero values that they have together."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where cells lie by one modality, in two ways.

    Attributes
    ----------
    hidden
        Cell x hidden: last hidden layer of the encoder. It is learned, so of what matters it tells more than principal
        components, and it is wider than the latent.
    components
        Cell x component: principal components of what the encoder reads. They are not learned, so cells of like batches
        lie together, and their values are of like depth and background.
    """

    hidden: np.ndarray
    components: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Which cells have the modality."""
        known: np.ndarray = np.isfinite(self.hidden[:, 0])
        return known

    def among(self, cells: np.ndarray) -> Places:
        """Some of the cells."""
        return Places(self.hidden[cells], self.components[cells])


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
    """

    places: Mapping[str, Places]
    axes: Mapping[str, np.ndarray]
    values: sp.csr_matrix
    scale: Scale
    total: float | None
    weight: float = 0.5
    batch: np.ndarray | None = None

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
        values = source.rows(modality, cells)
        if total is not None:
            totals = np.maximum(np.asarray(values.sum(axis=1)).ravel(), 1)
            values = sp.csr_matrix(sp.diags(total / totals) @ values)
        values.data = scale.to(values.data).astype(np.float32)
        axes = {m: _axes(assembly, m, cells[source.has[m][cells]]) for m in others}
        places = places_of(assembly.model, assembly.loader(cells), axes)
        return cls(places, axes, values, scale, total, batch=assembly.groups["batch"][0][cells])

    def without_batch(self, code: int) -> Donors:
        """The donors of the other batches."""
        assert self.batch is not None, "donors that were read from a file have no batches"
        kept = np.flatnonzero(self.batch != code)
        places = {m: part.among(kept) for m, part in self.places.items()}
        return replace(self, places=places, values=self.values[kept], batch=self.batch[kept])

    def expected(self, places: Mapping[str, Places], library: np.ndarray | None) -> np.ndarray:
        """Values of cells, cell x feature; NaN for cells that no donor is like.

        Parameters
        ----------
        places
            Of the cells by modality.
        library
            Totals of the cells, where the decoder scales with them.
        """
        names = [m for m in places if m in self.places]
        n = len(next(iter(places.values())).hidden)
        out = np.full((n, self.values.shape[1]), np.nan, dtype=np.float32)
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
        out = self.scale.back(out)
        if self.total is not None and library is not None:
            out *= (library / self.total)[:, None].astype(np.float32)
        return out

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
        """Mean values, on the scale, of the donors nearest to cells that have these modalities."""
        key = tuple(having)
        if key not in self._having:
            self._having[key] = self._those_with(key)
        found = self._having[key]
        if found is None:
            return None
        values, by_hidden, by_components = found
        nearest = by_hidden.nearest([places[m].hidden for m in having])
        nearest += by_components.nearest([places[m].components for m in having])
        mean: np.ndarray = (nearest @ values).toarray() / 2
        return mean

    @cached_property
    def _having(self) -> dict[tuple[str, ...], tuple[sp.csr_matrix, _Space, _Space] | None]:
        """What :meth:`_those_with` found, by modalities: cells come in many blocks."""
        return {}

    def _those_with(self, modalities: tuple[str, ...]) -> tuple[sp.csr_matrix, _Space, _Space] | None:
        """Values of the donors that have these modalities, and the spaces in which they lie; ``None`` for too few."""
        donors = np.flatnonzero(np.all([self.places[m].known for m in modalities], axis=0))
        if len(donors) < NEIGHBORS:
            return None
        theirs = [self.places[m].among(donors) for m in modalities]
        spaces = _Space([place.hidden for place in theirs]), _Space([place.components for place in theirs])
        return self.values[donors], *spaces


class _Space:
    """Donors in the spaces of some modalities, each of which is scaled to one variance."""

    def __init__(self, donors: Sequence[np.ndarray]) -> None:
        self.scales = [1 / max(float(np.sqrt(part.var(0).sum())), 1e-6) for part in donors]
        self.n_donors, self.index = len(donors[0]), AnnIndex(self._scaled(donors))

    def nearest(self, cells: Sequence[np.ndarray]) -> sp.csr_matrix:
        """Cell x donor: the same weight for each of a cell's nearest donors."""
        chosen = self.index.search(self._scaled(cells), NEIGHBORS)[0].numpy().ravel()
        pointers = np.arange(0, len(chosen) + 1, NEIGHBORS)
        weights = np.full(len(chosen), 1 / NEIGHBORS, np.float32)
        return sp.csr_matrix((weights, chosen, pointers), shape=(len(cells[0]), self.n_donors))

    def _scaled(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([part * scale for part, scale in zip(parts, self.scales, strict=True)], axis=1)


def _axes(assembly: Assembly, modality: str, cells: np.ndarray) -> np.ndarray:
    """Principal axes, feature x component, of what the encoder of a modality reads of these cells."""
    encoder = assembly.model.encoder(modality)
    with torch.inference_mode():
        read = [encoder.transform(batch.encoder_rows(modality)) for batch in assembly.loader(cells)]
    blocks = [rows.scipy() for rows in read]
    matrix = sp.vstack(blocks, format="csr")
    k = min(COMPONENTS, *(size - 1 for size in matrix.shape))
    if k < 1:
        return np.ones((matrix.shape[1], 1), np.float32)
    found = TruncatedSVD(k, random_state=derive(assembly.config.optim.seed, "axes") % 2**32).fit(matrix)
    axes: np.ndarray = np.ascontiguousarray(found.components_.T, dtype=np.float32)
    return axes


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


@torch.inference_mode()
def places_of(model: MosaicVAE, loader: Iterable[Batch], axes: Mapping[str, np.ndarray]) -> dict[str, Places]:
    """Where cells lie by each modality that has axes; NaN where a cell lacks it."""
    model.eval()
    device = next(model.parameters()).device
    parts: dict[str, list[Places]] = {m: [] for m in axes}
    for batch in loader:
        moved = batch.to(device)
        for m, found in parts.items():
            encoder = model.encoder(m)
            hidden = np.full((len(batch), encoder.head.in_features), np.nan, dtype=np.float32)
            components = np.full((len(batch), axes[m].shape[1]), np.nan, dtype=np.float32)
            if m in batch.has:
                at = batch.has[m].numpy()
                hidden[at] = model.hidden(moved, m).cpu().numpy()
                onto = torch.from_numpy(axes[m]).to(device)
                read = encoder.transform(moved.encoder_rows(m)).linear(onto)
                scored = model.decoder(m).scored if m in model.decoders else None
                if (
                    scored is not None and len(onto) == model.decoder(m).out_dim
                ):  # the mean stands for what is lacking
                    lacking = torch.ones(len(onto), dtype=torch.bool)
                    lacking[scored] = False
                    read = read + encoder.transform.center[lacking] @ onto[lacking]
                components[at] = read.cpu().numpy()
            found.append(Places(hidden, components))
    return {
        m: Places(np.concatenate([p.hidden for p in found]), np.concatenate([p.components for p in found]))
        for m, found in parts.items()
    }


def arrays_of(donors: Mapping[str, Donors]) -> dict[str, np.ndarray]:
    """Arrays of ``donors.npz``, from which :func:`donors_from` makes the same donors."""
    arrays: dict[str, np.ndarray] = {}
    for modality, found in donors.items():
        values = found.values
        for m, places in found.places.items():
            arrays[f"{modality}/hidden/{m}"] = places.hidden.astype(np.float16)
            arrays[f"{modality}/components/{m}"] = places.components
            arrays[f"{modality}/axes/{m}"] = found.axes[m]
        arrays |= {
            f"{modality}/data": values.data,
            f"{modality}/indices": values.indices.astype(np.int32),
            f"{modality}/indptr": values.indptr.astype(np.int64),
            f"{modality}/shape": np.array(values.shape, dtype=np.int64),
            f"{modality}/total": np.array(np.nan if found.total is None else found.total),
            f"{modality}/weight": np.array(found.weight),
        }
    return arrays


def donors_from(arrays: Mapping[str, np.ndarray], model: MosaicVAE) -> dict[str, Donors]:
    """Donors by modality, from their arrays."""
    found = {}
    for modality in dict.fromkeys(name.split("/")[0] for name in arrays):
        part = {
            name.removeprefix(f"{modality}/"): v
            for name, v in arrays.items()
            if name.startswith(f"{modality}/")
        }
        total = float(part["total"])
        axes = {name.removeprefix("axes/"): v for name, v in part.items() if name.startswith("axes/")}
        found[modality] = Donors(
            places={m: Places(part[f"hidden/{m}"].astype(np.float32), part[f"components/{m}"]) for m in axes},
            axes=axes,
            values=canonical(_matrix(part), "donors"),
            scale=scale_of(model.decoder(modality).support),
            total=None if np.isnan(total) else total,
            weight=float(part["weight"]),
        )
    return found


def _matrix(part: Mapping[str, np.ndarray]) -> sp.csr_matrix:
    """The stored parts as a matrix, unchecked."""
    matrix = sp.csr_matrix(tuple(part["shape"].tolist()), dtype=np.float32)
    matrix.data, matrix.indices, matrix.indptr = part["data"], part["indices"], part["indptr"]
    return matrix


def load_donors(trained: Trained, modality: str) -> Donors | None:
    """Donors of a modality that were kept with a model, if any."""
    folder = Path(trained.path).parent
    if is_portable(folder):
        _, files = read_portable(folder)
        arrays = {name: tensor.numpy() for name, tensor in files.get("donors", {}).items()}
    else:
        arrays = RunDir(folder).arrays(DONORS)
    arrays = {name: values for name, values in arrays.items() if name.startswith(f"{modality}/")}
    return donors_from(arrays, trained.model).get(modality)
