"""The cells of a study, whatever they come in: one AnnData, a ragged MuData, or several AnnData."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from remadom.data.annotated import Annotated, Content, content_of
from remadom.data.cells import cells_of
from remadom.data.files import DataFile
from remadom.data.locate import locate, matrices_of
from remadom.data.obs import column_of, group_codes, numbers
from remadom.data.stored import Projected, Stored, in_memory
from remadom.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """Cells x features by modality, with presence: immutable, every change is a new source.

    Made by :meth:`open`.

    Attributes
    ----------
    modalities
        In registry order.
    obs
        What is known about the cells; the index is their names.
    features
        Feature names by modality.
    has
        Presence by modality: explicit, never guessed from zeros.
    reps
        By modality, cell x component, float32: what an encoder reads in place of the features (LSI). The rows of
        absent cells are zero.
    ignored
        Modalities of the data that are not used.
    path
        The file, if the data is one.
    places
        Where the matrix of each modality was found, as ``data.keys`` would say it.
    """

    modalities: tuple[str, ...]
    obs: pd.DataFrame
    features: Mapping[str, pd.Index]
    has: Mapping[str, np.ndarray]
    reps: Mapping[str, np.ndarray]
    ignored: tuple[str, ...]
    path: str | None
    places: Mapping[str, str]
    _single: bool
    _file: DataFile | None
    _parts: Mapping[str, Annotated]
    _matrices: Mapping[str, Stored]
    _rows: Mapping[str, np.ndarray]
    _content: Content
    _ones: frozenset[str] = field(default=frozenset())

    @classmethod
    def open(
        cls,
        data: str | Path | AnnData | MuData | Mapping[str, AnnData],
        *,
        keys: Mapping[str, str] | None = None,
        modalities: Sequence[str] | None = None,
        backed: bool = False,
        lsi_key: str = "X_lsi",
        repeated: bool = False,
    ) -> Source:
        """Open cells.

        Parameters
        ----------
        data
            Path of an h5ad, h5mu or zarr file, or the objects themselves; their CSR float32 matrices are shared,
            not copied.
        keys
            Matrix of each modality; without it every modality of the data is found.
        modalities
            Use only these. Cells that have none of them are left out.
        backed
            Leave the matrices in the file and read rows when they are asked for; :meth:`close` closes it.
        lsi_key
            Where ``keys`` names ``obsm:<lsi_key>`` for a modality, it is its representation too: see ``reps``.
        repeated
            Let names of features occur more than once, for :func:`~remadom.data.matching.match_features`.

        Raises
        ------
        InputError
            The data cannot be used as they are; the message says what was found and what to do.
        """
        file = DataFile(data) if isinstance(data, (str, Path)) else None
        with file.reading() if file else nullcontext():
            content = content_of(file or data, backed=backed)
            places, ignored = locate(content, keys or {}, modalities)
            parts = {modality: content.parts[place.part] for modality, place in places.items()}
            cells = cells_of(content, places)
            matrices, features = matrices_of(parts, places, repeated=repeated)
            source = cls(
                modalities=tuple(places),
                obs=cells.obs,
                features=features,
                has=cells.has,
                reps={},
                ignored=ignored,
                path=str(data) if file else None,
                places={modality: str(place) for modality, place in places.items()},
                _single=content.single,
                _file=file,
                _parts=parts,
                _matrices=matrices,
                _rows=cells.rows,
                _content=content,
            )
            for modality, place in places.items():
                if place.key == f"obsm:{lsi_key}":
                    rep = source.stored_rep(lsi_key, modality)
                    assert rep is not None
                    source = source.with_rep(modality, rep)
            if file:
                file.keep_open = backed
        return source

    @property
    def obs_names(self) -> pd.Index:
        """Names of the cells: that of the AnnData or the MuData, or by first appearance."""
        return self.obs.index

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.obs)

    def __repr__(self) -> str:
        listed = "; ".join(
            f"{m}: {len(self.features[m])} features in {int(self.has[m].sum())} cells"
            for m in self.modalities
        )
        return f"Source({self.n_cells} cells; {listed})"

    def rows(self, modality: str, index: np.ndarray) -> sp.csr_matrix:
        """Measured values of some cells.

        Parameters
        ----------
        modality
            Which.
        index
            Positions of the cells, in any order and as often as wanted.

        Returns
        -------
        scipy.sparse.csr_matrix
            ``len(index)`` x features, float32, in the order asked; sorted unique indices, no stored zeros, arrays
            of its own. The rows of absent cells are empty.
        """
        index = np.asarray(index, dtype=np.int64)
        if len(index) and (index.min() < 0 or index.max() >= self.n_cells):
            raise IndexError(f"cell {index.min()} to {index.max()} of a source of {self.n_cells} cells")
        present = self.has[modality][index]
        rows = self._matrices[modality].rows(self._rows[modality][index[present]])
        if modality in self._ones:
            rows.data = (rows.data > 0).astype(np.float32)
            rows.eliminate_zeros()
        return rows if present.all() else _spread(rows, present)

    def obs_of(self, modality: str) -> pd.DataFrame | None:
        """The modality's own obs, one row for each cell; ``None`` where all are of one AnnData."""
        return None if self._single else self._parts[modality].obs.reindex(self.obs_names)

    def stored_rep(self, key: str, modality: str) -> np.ndarray | None:
        """``obsm[key]`` where the modality's data has it: cell x component, float32, zero for absent cells.

        Raises
        ------
        InputError
            It is not a matrix of numbers, or measured cells have missing or infinite values.
        """
        values = self._parts[modality].components(key)
        if values is None:
            return None
        present = self.has[modality]
        rep = np.zeros((self.n_cells, values.shape[1]), dtype=np.float32)
        rep[present] = values[self._rows[modality][present]]
        wrong = ~np.isfinite(rep).all(1)
        if wrong.any():
            raise InputError(
                f"{modality}: obsm['{key}'] is missing or infinite for {int(wrong.sum())} of "
                f"{int(present.sum())} measured cells (first: '{self.obs_names[wrong][0]}'); compute it again"
            )
        return rep

    def select(self, modality: str, features: np.ndarray) -> Source:
        """The source with only these features of a modality (positions, each once), in this order."""
        features = np.asarray(features)
        assert features.dtype.kind in "iu" or not len(features), "positions, not a mask"
        features = features.astype(np.int64)
        return replace(
            self,
            features={**self.features, modality: self.features[modality][features]},
            _matrices={**self._matrices, modality: self._matrices[modality].select(features)},
        )

    def project(self, modality: str, matrix: sp.csr_matrix, features: Sequence[str]) -> Source:
        """The source with other features of a modality: the values times a matrix, feature x new feature."""
        return replace(
            self,
            features={**self.features, modality: pd.Index(features, dtype=object)},
            _matrices={**self._matrices, modality: Projected(self._matrices[modality], matrix)},
        )

    def hide(self, modality: str, cells: np.ndarray) -> Source:
        """The source in which these cells (a mask) lack a modality; a cell may be left with none."""
        cells = np.asarray(cells)
        assert cells.dtype == bool, "a mask, not positions"
        assert cells.shape == (self.n_cells,), "one value a cell"
        hidden = replace(self, has={**self.has, modality: self.has[modality] & ~cells})
        return hidden.with_rep(modality, self.reps[modality]) if modality in self.reps else hidden

    def revealed(self, key: str) -> Source:
        """The source with what is known of cells that lack a modality, where the data says it.

        ``obsm[<key><modality>]`` (of the AnnData or the MuData) has a row for each of its cells and the columns of the
        modality's matrix, as mock data do. It stands for the measured values, and for no preprocessing or training.

        Raises
        ------
        InputError
            Such a matrix has other columns than the modality.
        """
        source, whole = self, self._content
        element = whole.parts[""].element if whole.single else whole.element
        obs = whole.parts[""].obs if whole.single else whole.obs
        for modality in self.modalities:
            with self._file.reading() if self._file else nullcontext():
                values = element(f"obsm/{key}{modality}")
            if values is None or obs is None:
                continue
            matrix = in_memory(values, f"obsm:{key}{modality}")
            if matrix.shape[1] != len(self.features[modality]):
                raise InputError(
                    f"obsm['{key}{modality}'] has {matrix.shape[1]} columns, {modality} has "
                    f"{len(self.features[modality])} features; give one for each, or rename it if it holds something "
                    "else than true values"
                )
            rows = obs.index.get_indexer(self.obs_names)
            source = replace(
                source,
                has={**source.has, modality: rows >= 0},
                _matrices={**source._matrices, modality: matrix},
                _rows={**source._rows, modality: rows},
            )
        return source

    def with_rep(self, modality: str, rep: np.ndarray) -> Source:
        """The source in which the encoder of a modality reads this, cell x component."""
        assert len(rep) == self.n_cells, "one row a cell"
        shown = np.where(self.has[modality][:, None], rep, 0).astype(np.float32)
        return replace(self, reps={**self.reps, modality: shown})

    def binarize(self, modality: str) -> Source:
        """The source that has one where this one is above zero."""
        return replace(self, _ones=self._ones | {modality})

    def codes(self, key: str, *, required: bool) -> tuple[np.ndarray, tuple[str, ...]]:
        """Groups of the cells by a column of obs: the code of each cell, int64, and the names of the codes.

        A column that does not exist is one group, ``all``, unless it is required.

        Raises
        ------
        InputError
            A required column does not exist, or a cell has no value.
        """
        if not required and key not in self.obs.columns:
            return np.zeros(self.n_cells, dtype=np.int64), ("all",)
        return group_codes(column_of(self.obs, key))

    def patterns(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Which modalities the cells have: the code of each cell, int64, and the names, such as ``rna+adt``."""
        bits = sum(self.has[m].astype(np.int64) << i for i, m in enumerate(self.modalities))
        found, codes = np.unique(bits, return_inverse=True)
        names = [
            "+".join(m for i, m in enumerate(self.modalities) if bit >> i & 1) or "none" for bit in found
        ]
        return codes.astype(np.int64), tuple(names)

    def by_sources(self, others: Sequence[str], cells: np.ndarray) -> Iterator[tuple[list[str], np.ndarray]]:
        """Those of the others that cells have, and so can be predicted from, with the places of such cells.

        Parameters
        ----------
        others
            Modalities.
        cells
            Positions of cells; the places are among them. Cells with none of the others are left out.
        """
        if not others:
            return
        has = np.stack([self.has[m][cells] for m in others], axis=1)
        for pattern in np.unique(has, axis=0):
            sources = [m for m, present in zip(others, pattern, strict=True) if present]
            if sources:
                yield sources, np.flatnonzero((has == pattern).all(axis=1))

    def values(self, key: str, *, required: bool) -> np.ndarray | None:
        """Numbers of the cells by a column of obs, float32: NaN for a cell without a value.

        ``None`` for a column that does not exist and is not required, or that has no value at all.

        Raises
        ------
        InputError
            A required column does not exist or is empty, or a value is not a finite number.
        """
        if not required and (key not in self.obs.columns or self.obs[key].isna().all()):
            return None
        return numbers(column_of(self.obs, key)).astype(np.float32)

    def close(self) -> None:
        """Close the file of a backed source; reading from it opens it again."""
        for matrix in self._matrices.values():
            matrix.close()
        if self._file is not None:
            self._file.close()


def _spread(rows: sp.csr_matrix, present: np.ndarray) -> sp.csr_matrix:
    """The rows at the places where ``present`` is true, and empty rows elsewhere."""
    length = np.zeros(len(present) + 1, dtype=np.int64)
    length[1:][present] = np.diff(rows.indptr)
    return sp.csr_matrix((rows.data, rows.indices, np.cumsum(length)), shape=(len(present), rows.shape[1]))
